//! What a backend is told: the pool's own credential and, when asked for, who calls; never what the client presented
//! and never what it made up.

use super::fleet::CHAT;
use super::stack::{Recipe, Weir, beside};
use crate::backend::{Backends, Seen};
use crate::client::Ask;
use aws_lc_rs::hmac;

const POOL_SECRET: &str = "sk-upstream-9a8b7c6d5e4f";
const SIGNING_KEY: &str = "f3a1c9e07b2d4856a1b2c3d4e5f60718";

async fn stand(identity: &str, credentials: &str) -> (Weir, Backends) {
    let backends = Backends::start(1).await;
    let recipe = Recipe {
        pool: format!("credentials: {credentials}\nidentity: {identity}\n"),
        routes: "- { name: plain, match: { path: { prefix: /files/ } }, to: [{ pool: p }] }\n\
                 - { name: open, auth: none, match: { path: { prefix: /open/ } }, to: [{ pool: p }] }\n"
            .to_owned(),
        rest: "tenants: { acme: { teams: { core: {} } } }\n".to_owned(),
        env: vec![
            ("POOL_SECRET".to_owned(), POOL_SECRET.to_owned()),
            ("SIGNING_KEY".to_owned(), SIGNING_KEY.to_owned()),
        ],
        ..Recipe::to(backends.addresses[0])
    };
    (Weir::start(&recipe), backends)
}

/// The headers that name the caller, as the backend saw them.
fn who(seen: &Seen) -> [String; 4] {
    ["x-weir-tenant", "x-weir-team", "x-weir-user", "x-weir-key"].map(|name| seen.header(name))
}

/// A request that tries to bring everything along.
fn greedy(key: &str, ask: Ask) -> Ask {
    let forged = ["x-weir-tenant", "X-Weir-User", "x_weir_tenant", "x-weir_key", "X-WEIR-SIGNATURE", "x-weir-anything"];
    let mut ask = ask.field("x-api-key", key).field("connection", "keep-alive, authorization, x-weir-tenant");
    for name in forged.into_iter().chain(["x-tenant-id", "X_Tenant_Id", "x-user-name", "x-quota-left", "x-envoy-x"]) {
        ask = ask.field(name, "forged");
    }
    ask
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backend_sees_the_pools_credential_and_who_calls_and_nothing_of_the_clients() {
    let _machine = beside().await;
    let (proxy, backends) = stand("plain", "{ bearer: { env: POOL_SECRET } }").await;
    let key = proxy.create(&["--tenant", "acme", "--team", "core", "--user", "ann"]);
    let asks = [
        ("call", greedy(&key.text, Ask::chat(&key.text, CHAT))),
        ("plain", greedy(&key.text, Ask::new("GET", "/files/x", &key.text))),
    ];
    for (case, ask) in asks {
        let answer = ask.case(case).send(proxy.address).await;
        assert_eq!(answer.status, 200, "{case}: {}", answer.text());
        let seen = &backends.seen(case)[0];
        assert_eq!(seen.headers("authorization"), [format!("Bearer {POOL_SECRET}")], "{case}: {}", seen.head);
        assert_eq!(who(seen), ["acme", "core", "ann", key.id.as_str()].map(str::to_owned), "{case}: {}", seen.head);
        assert!(!seen.head.contains("forged"), "{case}: what the client made up: {}", seen.head);
        assert!(!seen.head.contains(&key.text), "{case}: the client's key: {}", seen.head);
        assert!(!answer.head.contains(POOL_SECRET), "{case}: our credential is not told to the client");
    }
    let open = Ask::new("GET", "/open/x", "").field("x-weir-tenant", "forged").case("open").send(proxy.address).await;
    assert_eq!(open.status, 200, "an open route: {}", open.text());
    let seen = &backends.seen("open")[0];
    assert!(!seen.head.contains("forged"), "an open route: what the client made up: {}", seen.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_identity_is_signed_over_the_request_that_it_belongs_to() {
    let _machine = beside().await;
    let credentials = "{ header: { name: x-engine-key, value: { env: POOL_SECRET } } }";
    let (proxy, backends) = stand("{ signed: { key: { env: SIGNING_KEY } } }", credentials).await;
    let key = proxy.create(&["--tenant", "acme", "--user", "ann"]);
    let answer = greedy(&key.text, Ask::chat(&key.text, CHAT)).field("x-engine-key", "forged").case("signed");
    let answer = answer.send(proxy.address).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let seen = &backends.seen("signed")[0];
    assert_eq!(seen.headers("x-engine-key"), [POOL_SECRET], "the credential in its header: {}", seen.head);
    assert!(seen.headers("authorization").is_empty(), "and in no other: {}", seen.head);
    assert!(!seen.head.contains("forged"), "what the client made up: {}", seen.head);
    assert_eq!(who(seen), ["acme", "", "ann", key.id.as_str()].map(str::to_owned), "who: {}", seen.head);
    let signature = seen.header("x-weir-signature");
    let (time, mac) = signature.split_once(",v1=").unwrap_or_else(|| panic!("t=UNIX,v1=HEX: {signature:?}"));
    let time = time.strip_prefix("t=").unwrap_or_default();
    let told = time.parse::<i64>().unwrap_or_default();
    assert!((crate::oidc::now() - told).abs() < 30, "the time of signing: {signature}");
    let signed = [time, &answer.request_id(), "acme", "", "ann", &key.id, "POST", "/v1/chat/completions"].join("\n");
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SIGNING_KEY.as_bytes()), signed.as_bytes());
    let wanted: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(mac, wanted, "the signature is over the request's own words");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_pools_credential_may_come_from_a_command_and_a_backend_that_rejects_it_is_our_fault() {
    let _machine = beside().await;
    let (proxy, backends) =
        stand("plain", &format!("{{ bearer: {{ command: [printf, {POOL_SECRET}], timeout: 5s }} }}")).await;
    let key = proxy.create(&["--tenant", "acme"]);
    let refusal =
        r#"{"error":{"message":"bad key sk-upstream-9a8b7c6d5e4f","type":"x","param":null,"code":"invalid_api_key"}}"#;
    backends.script("rejected", vec![crate::say::answer(401, refusal); 4]);
    let answer = Ask::chat(&key.text, CHAT).case("rejected").send(proxy.address).await;
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream_auth_error"), "{}", answer.text());
    assert!(!answer.text().contains(POOL_SECRET), "what the backend said of our credential stays here");
    let seen = &backends.seen("rejected")[0];
    assert_eq!(seen.headers("authorization"), [format!("Bearer {POOL_SECRET}")], "the command's word: {}", seen.head);
    let dump = proxy.output(&["dump"]);
    let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
    assert!(dump.contains("printf"), "the dump shows how the secret is come by");
}
