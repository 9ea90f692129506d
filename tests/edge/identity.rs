//! Credentials that others are asked about, from end to end: whom the provider and the service vouch for is who pays,
//! and without their answer nobody comes in.

use super::backend::{Act, Backends, Script};
use super::client::{Answer, Ask};
use super::proxy::{Proxy, Setup, free_port};
use super::say;
use super::usage;
use std::net::SocketAddr;

const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#;
const TENANTS: &[&str] = &["tenants: { acme: {} }"];

fn introspection(provider: SocketAddr) -> String {
    format!(
        "opaque: {{ introspection: {{ url: \"http://{provider}/introspect\", client_id: weir, \
         client_secret: {{ command: [printf, s3cret] }}, \
         tenant: claims.org }} }}"
    )
}

fn ext_authz(service: SocketAddr) -> String {
    format!("gate: {{ ext_authz: {{ url: \"http://{service}/check\", send: [cookie] }} }}")
}

/// One answer after the other, whatever is asked: what is asked has no case.
fn answers(service: &Backends, all: &[&str]) {
    let script = |answer: &&str| -> Script { vec![Act::Say(answer.as_bytes().to_vec())] };
    service.script("", all.iter().map(script).collect());
}

fn json(status: u16, body: &str) -> String {
    String::from_utf8(say::json(status, body)).expect("text")
}

async fn with_token(proxy: &Proxy, token: &str) -> Answer {
    Ask::chat(token, CHAT).case("call").send(proxy.address).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opaque_token_is_whom_its_provider_says() {
    let (backends, provider) = (Backends::start(1).await, Backends::start(1).await);
    answers(
        &provider,
        &[
            &json(200, r#"{"active":true,"sub":"ann","org":"acme"}"#),
            &json(200, r#"{"active":false}"#),
            &json(503, "{}"),
        ],
    );
    let opaque = introspection(provider.addresses[0]);
    let proxy = Proxy::start(&Setup { auth: &[&opaque], rest: TENANTS, ..Setup::of(&backends) });
    for _ in 0..3 {
        assert_eq!(with_token(&proxy, "2YotnFZFEjr1zCsicMWpAA").await.status, 200, "the token holds");
    }
    assert_eq!(provider.total(), 1, "asked once");
    let asked = provider.seen("").remove(0);
    assert!(asked.head.starts_with("POST /introspect HTTP/1.1"), "{}", asked.head);
    assert_eq!(asked.body, b"token=2YotnFZFEjr1zCsicMWpAA&token_type_hint=access_token");
    for seen in backends.seen("call") {
        assert!(!seen.head.contains("2YotnFZFEjr1zCsicMWpAA"), "the backend does not see it: {}", seen.head);
    }
    for _ in 0..2 {
        with_token(&proxy, "ended").await.assert_error(401, "invalid_request_error", "invalid_token", None);
    }
    assert_eq!(provider.total(), 2, "a no is kept for a moment");
    let down = with_token(&proxy, "unknown").await;
    down.assert_error(503, "server_error", "dependency_unavailable", None);
    assert_eq!(with_token(&proxy, "2YotnFZFEjr1zCsicMWpAA").await.status, 200, "what is known goes on");
    let known = with_token(&proxy, &proxy.key).await;
    assert_eq!((known.status, provider.total()), (200, 3), "a key is not shown to the provider");
    let rows = usage::rows(&proxy, 5);
    let by_token = rows.values().filter(|row| row.auth_method == "introspection");
    let who: Vec<_> = by_token.map(|row| (row.tenant.as_str(), row.user.as_deref())).collect();
    assert_eq!(who, [("acme", Some("ann")); 4], "who pays: {rows:?}");
    assert!(!proxy.log().contains("2YotnFZFEjr1zCsicMWpAA") && !proxy.log().contains("s3cret"), "{}", proxy.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_external_service_decides_each_request() {
    let (backends, service) = (Backends::start(1).await, Backends::start(1).await);
    let plain = |status: u16, fields: &str| format!("HTTP/1.1 {status} X\r\n{fields}content-length: 0\r\n\r\n");
    let named = plain(204, "x-auth-tenant: acme\r\nx-auth-user: ann\r\n").replace("content-length: 0\r\n", "");
    answers(
        &service,
        &[&named, &plain(401, ""), &plain(403, ""), &plain(500, ""), &plain(200, "x-auth-tenant: a\tb\r\n")],
    );
    let gate = ext_authz(service.addresses[0]);
    let proxy = Proxy::start(&Setup { auth: &[&gate], rest: TENANTS, ..Setup::of(&backends) });
    let ask = || Ask::chat("", CHAT).case("call").field("cookie", "session=1");
    assert_eq!(ask().send(proxy.address).await.status, 200, "allowed");
    let asked = service.seen("").remove(0);
    assert!(asked.head.starts_with("GET /check HTTP/1.1"), "{}", asked.head);
    for (name, value) in [
        ("cookie", "session=1"),
        ("x-original-method", "POST"),
        ("x-original-uri", "/v1/chat/completions"),
        ("x-forwarded-for", "127.0.0.1"),
        ("content-type", ""),
    ] {
        assert_eq!(asked.header(name), value, "{name}");
    }
    ask().send(proxy.address).await.assert_error(401, "invalid_request_error", "invalid_token", None);
    ask().send(proxy.address).await.assert_error(403, "permission_error", "insufficient_permissions", None);
    for what in ["broken", "not understood"] {
        let answer = ask().send(proxy.address).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "dependency_unavailable"), "{what}");
    }
    assert_eq!(with_token(&proxy, &proxy.key).await.status, 200, "a key speaks for itself");
    assert_eq!((service.total(), backends.total()), (5, 2), "asked for each, but not about the key");
    let rows = usage::rows(&proxy, 2);
    let allowed = rows.values().find(|row| row.auth_method == "ext_authz").expect("its row");
    assert_eq!((allowed.tenant.as_str(), allowed.user.as_deref()), ("acme", Some("ann")), "who pays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_can_be_asked_nobody_comes_in() {
    let backends = Backends::start(1).await;
    let (opaque, gate) = (introspection(free_port()), ext_authz(free_port()));
    let proxy = Proxy::start(&Setup { auth: &[&opaque, &gate], rest: TENANTS, ..Setup::of(&backends) });
    let answer = with_token(&proxy, "2YotnFZFEjr1zCsicMWpAA").await;
    answer.assert_error(503, "server_error", "dependency_unavailable", None);
    assert_eq!(backends.total(), 0, "nothing came through");
    assert_eq!(with_token(&proxy, &proxy.key).await.status, 200, "keys go on");
}
