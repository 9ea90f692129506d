//! Callers that somebody else vouches for: opaque tokens by introspection, and external authorisation.

use super::fleet::CHAT;
use super::stack::{Recipe, Weir, beside};
use crate::backend::Backends;
use crate::client::{Answer, Ask};
use crate::oidc::{Mood, Provider, now};
use serde_json::json;
use std::time::Duration;

const SECRET: &str = "client-secret: with/odd letters";

async fn stand(auth: impl Fn(&Provider) -> String) -> (Weir, Backends, Provider) {
    let backends = Backends::start(1).await;
    let provider = Provider::start(Vec::new(), SECRET).await;
    let recipe = Recipe {
        auth: auth(&provider),
        rest: "tenants: { acme: {} }\n".to_owned(),
        env: vec![("CLIENT".to_owned(), SECRET.to_owned())],
        ..Recipe::to(backends.addresses[0])
    };
    (Weir::start(&recipe), backends, provider)
}

async fn asked(proxy: &Weir, token: &str) -> Answer {
    Ask::new("GET", "/light", token).send(proxy.address).await
}

fn assert_told(answer: &Answer, status: u16, code: &str, what: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (status, code), "{what}: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_opaque_token_is_asked_for_once_and_outlives_the_providers_outage() {
    let _machine = beside().await;
    let (proxy, _backends, provider) = stand(|provider| {
        format!(
            "opaque: {{ introspection: {{ url: \"{}\", client_id: weir, client_secret: {{ env: CLIENT }}, ttl: 60s, \
             timeout: 1s, audiences: [llm-api], tenant: claims.org, user: claims.sub }} }}",
            provider.url("/introspect")
        )
    })
    .await;
    let good = json!({"active": true, "org": "acme", "sub": "ann", "aud": "llm-api", "exp": now() + 300});
    let with = |name: &str, value: serde_json::Value| {
        let mut answer = good.clone();
        answer[name] = value;
        answer
    };
    provider.opaque("good-token", good.clone());
    for (token, answer) in [
        ("inactive-token", with("active", json!(false))),
        ("text-token", with("active", json!("true"))),
        ("old-token", with("exp", json!(now() - 300))),
        ("early-token", with("nbf", json!(now() + 300))),
        ("foreign-token", with("aud", json!("another"))),
        ("nobodys-token", with("org", json!(null))),
    ] {
        provider.opaque(token, answer);
        assert_told(&asked(&proxy, token).await, 401, "invalid_token", token);
    }
    assert_told(&asked(&proxy, "unknown-token").await, 401, "invalid_token", "an unknown token");
    let before = provider.asked().introspection;
    let mut many = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let address = proxy.address;
        many.spawn(async move { Ask::chat("good-token", CHAT).send(address).await });
    }
    while let Some(answer) = many.join_next().await {
        let answer = answer.expect("no panic");
        assert_eq!(answer.status, 200, "a good token: {}", answer.text());
    }
    assert_eq!(provider.asked().introspection - before, 1, "fifty calls at once are one question");
    provider.mood(Mood::Broken);
    assert_eq!(asked(&proxy, "good-token").await.status, 200, "a remembered token goes on");
    assert_told(&asked(&proxy, "new-token").await, 503, "dependency_unavailable", "a new token meanwhile");
    provider.mood(Mood::Slow(Duration::from_secs(5)));
    assert_told(&asked(&proxy, "newer-token").await, 503, "dependency_unavailable", "a provider that hangs");
    let before = provider.asked().introspection;
    let shaped = "sk-weir-0123456789AB-0123456789012345678901234567890123456789012000000";
    assert_eq!(asked(&proxy, shaped).await.status, 401, "what looks like a key of ours");
    assert_eq!(provider.asked().introspection, before, "is never sent there");
    provider.mood(Mood::Good);
    let rows = proxy.usage(50);
    let row = &rows[0];
    let who = [&row["tenant_id"], &row["user_id"], &row["auth_method"]];
    assert_eq!(who, [&json!("acme"), &json!("ann"), &json!("introspection")], "who: {row:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_external_service_says_who_it_is_and_silence_is_no_consent() {
    let _machine = beside().await;
    let (proxy, backends, provider) = stand(|provider| {
        format!(
            "gate: {{ ext_authz: {{ url: \"{}\", timeout: 500ms, send: [authorization, cookie], tenant: x-auth-tenant, \
             user: x-auth-user, roles: x-auth-roles }} }}",
            provider.url("/check")
        )
    })
    .await;
    provider.check("Bearer good", 200, &[("x-auth-tenant", "acme"), ("x-auth-user", "ann")]);
    provider.check("Bearer lister", 200, &[("x-auth-tenant", "acme"), ("x-auth-roles", "nothing-known")]);
    provider.check("Bearer nameless", 200, &[]);
    provider.check("Bearer odd", 200, &[("x-auth-tenant", "a/../b")]);
    provider.check("Bearer torn", 200, &[("x-auth-tenant", "acme"), ("x-auth-tenant", "globex")]);
    provider.check("Bearer forbidden", 403, &[("x-auth-tenant", "acme")]);
    provider.check("Bearer moved", 302, &[("location", "http://127.0.0.1:1/"), ("x-auth-tenant", "acme")]);
    provider.check("Bearer broken", 500, &[("x-auth-tenant", "acme")]);
    let call = |token: &str| Ask::chat(token, CHAT).field("x-api-key-of-mine", "private").field("cookie", "a=b");
    let answer = call("good").case("good").send(proxy.address).await;
    assert_eq!(answer.status, 200, "vouched for: {}", answer.text());
    let head = provider.check_heads().pop().expect("it was asked");
    let told = |name: &str| head.get(name).cloned().unwrap_or_default();
    assert_eq!(told("x-original-method"), "POST", "what is asked: {head:?}");
    assert_eq!(told("x-original-uri"), "/v1/chat/completions", "what is asked: {head:?}");
    assert_eq!(
        (told("authorization").as_str(), told("cookie").as_str()),
        ("Bearer good", "a=b"),
        "what it is sent: {head:?}"
    );
    assert!(!head.contains_key("x-api-key-of-mine"), "and nothing else: {head:?}");
    assert_told(&call("stranger").send(proxy.address).await, 401, "invalid_token", "a stranger");
    assert_told(&call("forbidden").send(proxy.address).await, 403, "insufficient_permissions", "its no");
    assert_told(&call("lister").send(proxy.address).await, 403, "insufficient_permissions", "a role that nobody knows");
    for token in ["broken", "moved"] {
        assert_told(&call(token).send(proxy.address).await, 503, "dependency_unavailable", token);
    }
    assert_told(&call("odd").send(proxy.address).await, 401, "invalid_token", "a tenant that is not there");
    assert_told(&call("torn").send(proxy.address).await, 503, "dependency_unavailable", "an answer that is none");
    provider.mood(Mood::Slow(Duration::from_secs(3)));
    let answer = call("good").send(proxy.address).await;
    assert_told(&answer, 503, "dependency_unavailable", "a service that hangs");
    assert!(answer.whole < Duration::from_secs(2), "it is not waited for: {:?}", answer.whole);
    provider.mood(Mood::Good);
    assert_eq!(call("nameless").send(proxy.address).await.status, 200, "vouched for, of no tenant of its own");
    assert_eq!(backends.total(), 2, "only who was vouched for reached the backend");
    let rows = proxy.usage(2);
    assert_eq!(rows[1]["tenant_id"], "default", "who is of no tenant is the default's");
    let row = &rows[0];
    let who = [&row["tenant_id"], &row["user_id"], &row["auth_method"]];
    assert_eq!(who, [&json!("acme"), &json!("ann"), &json!("ext_authz")], "who: {row:?}");
}
