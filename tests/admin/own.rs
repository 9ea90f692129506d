//! What callers are told about themselves on the public listener.

use super::api::Api;
use serde_json::{Value, json};

#[test]
fn a_caller_is_told_who_they_are_and_what_they_may() {
    let api = Api::start();
    let body =
        json!({"team_id": "core", "user_id": "ann", "models": ["llama-3*"], "expires_at": "2099-01-01T00:00:00Z"});
    let made = api.good("acme", "POST", "/keys", Some(&body));
    let me = api.public(made["key"].as_str().expect("a key"), "/v1/me");
    assert_eq!(me.status, 200, "{}", me.json);
    for name in ["key_id", "team_id", "user_id", "models", "expires_at", "secret_gen"] {
        assert_eq!(me.json[name], made[name], "{name}");
    }
    assert_eq!((&me.json["tenant_id"], &me.json["auth_method"]), (&json!("acme"), &json!("api_key")), "whose");
    assert_eq!(me.json["roles"], json!(["member"]), "who says nothing of roles is a member");
    assert_eq!(me.json["scopes"], json!(["inference", "models:list", "usage:read"]), "what a member may");
    let limits = me.json["limits"].as_array().expect("a list");
    assert!(limits.iter().any(|one| one["dimension"] == "requests" && one["limit"] == 600), "the tenant's: {limits:?}");
    assert_eq!(api.public("", "/v1/me").status, 401, "nobody is told nothing");
    assert_eq!(api.public(api.proxy.key_of("member"), "/v1/me?x=1").status, 400, "it takes no parameter");
}

#[test]
fn own_usage_needs_its_scope_and_is_empty_before_any() {
    let api = Api::start();
    let member = api.proxy.key_of("member");
    let usage = api.public(member, "/v1/me/usage?by=day,model");
    assert_eq!((usage.status, &usage.json), (200, &json!({"usage": []})), "nothing yet");
    assert_eq!(api.public(member, "/v1/me/usage?by=tenant").status, 400, "only one's own");
    let long = api.public(member, "/v1/me/usage?from=2026-01-01T00:00:00Z&to=2026-11-01T00:00:00Z");
    assert_eq!((long.status, &long.json["error"]["param"]), (400, &json!("from")), "a quarter at most");
    let issuer = api.public(api.proxy.key_of("issuer"), "/v1/me/usage");
    assert_eq!((issuer.status, issuer.code()), (403, "insufficient_permissions"), "needs usage:read");
    for path in ["/usage/records", "/usage/summary?by=key"] {
        let page = api.good("operator", "GET", path, None);
        assert_eq!(page["next_cursor"], Value::Null, "no file yet: {page}");
    }
}

#[test]
fn a_question_about_ones_usage_counts_as_a_request_and_who_one_is_does_not() {
    let api = Api::start();
    api.good("operator", "PUT", "/plans/once", Some(&json!({"limits": {"requests": "1/h"}})));
    let made = api.good("operator", "POST", "/keys", Some(&json!({"tenant_id": "acme", "plan": "once"})));
    let key = made["key"].as_str().expect("a key");
    for path in ["/v1/me", "/v1/me"] {
        assert_eq!(api.public(key, path).status, 200, "counts for nothing");
    }
    assert_eq!(api.public(key, "/v1/me/usage").status, 200, "the only request of the hour");
    let second = api.public(key, "/v1/me/usage");
    assert_eq!((second.status, second.code()), (429, "rate_limit_exceeded"), "{}", second.json);
}
