//! Tenants cannot reach each other: not their models, nor their cached prompts, nor their usage, nor their keys.

use super::fleet::{CHAT, accepted};
use super::stack::{Recipe, Weir, beside};
use crate::backend::Backends;
use crate::client::{Answer, Ask};
use serde_json::Value;
use std::time::Duration;

const TENANTS: &str = "tenants:\n  acme: { models: [m, \"llama-*\"] }\n  globex: { models: [m, \"gpt-*\"], teams: { planted-team: {} } }\n";

async fn stand() -> (Weir, Backends) {
    let backends = Backends::start(1).await;
    let recipe = Recipe {
        models: ", llama-3, gpt-4o".to_owned(),
        rest: TENANTS.to_owned(),
        server: String::new(),
        ..Recipe::to(backends.addresses[0])
    };
    (Weir::start(&recipe), backends)
}

async fn key(proxy: &Weir, flags: &[&str]) -> String {
    let key = proxy.create(flags).text;
    assert!(accepted(proxy.address, &key, Duration::from_secs(5)).await.is_some(), "a new key is taken");
    key
}

fn names(answer: &Answer) -> Vec<String> {
    let list = answer.json();
    let models = list["data"].as_array().unwrap_or_else(|| panic!("a list of models: {list}"));
    let mut names: Vec<String> =
        models.iter().map(|model| model["id"].as_str().unwrap_or_default().to_owned()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tenant_sees_and_calls_its_own_models_only() {
    let _machine = beside().await;
    let (proxy, backends) = stand().await;
    let rows = [("acme", "llama-3", "gpt-4o"), ("globex", "gpt-4o", "llama-3")];
    for (tenant, own, foreign) in rows {
        let key = key(&proxy, &["--tenant", tenant]).await;
        let list = Ask::new("GET", "/v1/models", &key).send(proxy.address).await;
        assert_eq!(
            names(&list),
            {
                let mut both = vec![own, "m"];
                both.sort_unstable();
                both
            },
            "the models of {tenant}"
        );
        let call = |model: &str| Ask::chat(&key, CHAT.replace("\"m\"", &format!("\"{model}\""))).case(tenant);
        assert_eq!(call(own).send(proxy.address).await.status, 200, "{tenant} may call {own}");
        let refused = call(foreign).send(proxy.address).await;
        let unknown = call("nobody-has-it").send(proxy.address).await;
        refused.assert_error(404, "invalid_request_error", "model_not_found", Some("model"));
        let text = |answer: &Answer, model: &str| answer.text().replace(model, "MODEL");
        assert_eq!(
            text(&refused, foreign),
            text(&unknown, "nobody-has-it"),
            "another's model is told like one that is not there"
        );
        assert_eq!(backends.seen(tenant).len(), 1, "only its own model was called");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cached_prompts_are_salted_by_tenant_whatever_the_client_says() {
    let _machine = beside().await;
    let (proxy, backends) = stand().await;
    let acme = key(&proxy, &["--tenant", "acme"]).await;
    let colleague = key(&proxy, &["--tenant", "acme", "--user", "bob"]).await;
    let globex = key(&proxy, &["--tenant", "globex"]).await;
    let mut salts = Vec::new();
    let mut salt = async |case: &str, key: &str, body: String| {
        let answer = Ask::chat(key, body).case(case).send(proxy.address).await;
        assert_eq!(answer.status, 200, "{case}: {}", answer.text());
        let seen = backends.seen(case);
        let body: Value = serde_json::from_slice(&seen[0].body).expect("JSON");
        let text = String::from_utf8_lossy(&seen[0].body).into_owned();
        assert_eq!(text.matches("cache_salt").count(), 1, "{case}: one salt: {text}");
        let salt = body["cache_salt"].as_str().unwrap_or_default().to_owned();
        assert!(salt.len() >= 16, "{case}: a salt is there: {text}");
        salts.push(salt.clone());
        salt
    };
    let first = salt("acme", &acme, CHAT.to_owned()).await;
    let same = salt("acme again", &colleague, CHAT.to_owned()).await;
    let other = salt("globex", &globex, CHAT.to_owned()).await;
    assert_eq!(first, same, "one tenant shares its cache");
    assert_ne!(first, other, "another tenant does not");
    let forged = CHAT.replacen('{', &format!("{{\"cache_salt\":\"{first}\","), 1);
    assert_eq!(salt("forged", &globex, forged).await, other, "a client cannot name another's salt");
}

/// A call of the admin API.
async fn admin(proxy: &Weir, key: &str, method: &str, path: &str, body: &str) -> Answer {
    let ask = Ask::new(method, &format!("/admin/v1{path}"), key);
    let ask = if body.is_empty() { ask } else { ask.field("content-type", "application/json").body(body) };
    ask.send(proxy.admin).await
}

/// An answer's body without what was asked for and the ids that every answer has of its own.
fn anonymous(answer: &Answer, id: &str) -> String {
    answer.text().replace(id, "ID").replace(&answer.request_id(), "REQUEST")
}

/// Another tenant's key is told like one that is not there.
async fn keys_are_out_of_reach(proxy: &Weir, administrator: &str, foreign: &str) {
    let unknown = "0000000000zz";
    for (method, action, body) in [
        ("GET", "", ""),
        ("PATCH", "", "{\"name\":\"mine\"}"),
        ("POST", "/rotate", "{}"),
        ("POST", "/end-grace", ""),
        ("POST", "/revoke", "{}"),
    ] {
        let refused = admin(proxy, administrator, method, &format!("/keys/{}{action}", foreign), body).await;
        let nobody = admin(proxy, administrator, method, &format!("/keys/{unknown}{action}"), body).await;
        assert_eq!(refused.status, 404, "{method} {action}: {}", refused.text());
        assert_eq!(
            anonymous(&refused, foreign),
            anonymous(&nobody, unknown),
            "{method} {action}: told like one that is not there"
        );
    }
}

/// What an administrator of `acme` may not change.
async fn changes_are_refused(proxy: &Weir, administrator: &str) {
    for (method, path, body) in [
        ("GET", "/tenants/globex", ""),
        ("GET", "/tenants/globex/teams", ""),
        ("GET", "/tenants/globex/users", ""),
        ("PUT", "/tenants/globex/teams/mine", "{}"),
        ("PUT", "/tenants/globex/users/me", "{}"),
        ("PUT", "/tenants/mine", "{}"),
        ("DELETE", "/tenants/globex", ""),
        ("PUT", "/plans/mine", "{\"limits\":{\"requests\":\"1/min\"}}"),
        ("POST", "/keys", "{\"tenant_id\":\"globex\"}"),
        ("POST", "/keys", "{\"tenant_id\":\"acme\",\"roles\":[\"operator\"]}"),
    ] {
        let answer = admin(proxy, administrator, method, path, body).await;
        let refused = matches!(answer.status, 400 | 403 | 404 | 422);
        assert!(refused, "{method} {path} {body}: {} {}", answer.status, answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tenants_administrator_reaches_nothing_of_another_tenant() {
    let _machine = beside().await;
    let (proxy, _backends) = stand().await;
    let own = proxy.create(&["--tenant", "acme", "--name", "own"]);
    let foreign = proxy.create(&["--tenant", "globex", "--name", "planted-foreign-name", "--team", "planted-team"]);
    let administrator = proxy.create(&["--tenant", "acme", "--role", "tenant-admin"]).text;
    let operator = proxy.create(&["--role", "operator"]).text;
    for key in [&own.text, &foreign.text, &foreign.text] {
        let answer = Ask::chat(key, CHAT).send(proxy.address).await;
        assert_eq!(answer.status, 200, "a call to be counted: {}", answer.text());
    }
    assert_eq!(proxy.usage(3).len(), 3, "the rows are there");
    let lists = ["/tenants", "/keys", "/audit", "/budgets", "/plans", "/usage/records", "/usage/summary?by=tenant"];
    for path in lists {
        let seen = admin(&proxy, &administrator, "GET", path, "").await;
        assert_eq!(seen.status, 200, "{path}: {}", seen.text());
        for word in ["globex", "planted", foreign.id.as_str()] {
            assert!(!seen.text().contains(word), "{path} tells of {word}: {}", seen.text());
        }
    }
    let whole = admin(&proxy, &operator, "GET", "/keys", "").await.text();
    assert!(whole.contains(&own.id) && whole.contains(&foreign.id), "an operator sees both: {whole}");
    for path in
        ["/keys?tenant=globex", "/audit?tenant=globex", "/usage/records?tenant=globex", "/usage/summary?tenant=globex"]
    {
        let seen = admin(&proxy, &administrator, "GET", path, "").await;
        let told = seen.text().contains("planted") || seen.text().contains(&foreign.id);
        assert!(!told && matches!(seen.status, 200 | 403 | 404), "{path}: {} {}", seen.status, seen.text());
    }
    keys_are_out_of_reach(&proxy, &administrator, &foreign.id).await;
    changes_are_refused(&proxy, &administrator).await;
    for (key, status) in [("", 401), (own.text.as_str(), 403), ("sk-weir-junk", 401)] {
        let answer = admin(&proxy, key, "GET", "/keys", "").await;
        assert_eq!(answer.status, status, "who is no administrator: {}", answer.text());
    }
    let still = Ask::chat(&foreign.text, CHAT).send(proxy.address).await;
    assert_eq!(still.status, 200, "the other's key is as it was: {}", still.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_caller_sees_its_own_usage_only() {
    let _machine = beside().await;
    let (proxy, _backends) = stand().await;
    let keys: Vec<_> = ["acme", "acme", "globex"].map(|tenant| proxy.create(&["--tenant", tenant])).into();
    for (calls, key) in [2, 1, 3].into_iter().zip(&keys) {
        for _ in 0..calls {
            assert_eq!(Ask::chat(&key.text, CHAT).send(proxy.address).await.status, 200, "a call to be counted");
        }
    }
    assert_eq!(proxy.usage(6).len(), 6, "the rows are there");
    for (calls, key) in [2, 1, 3].into_iter().zip(&keys) {
        let me = Ask::new("GET", "/v1/me", &key.text).send(proxy.address).await;
        assert_eq!((me.status, me.json()["key_id"].as_str()), (200, Some(key.id.as_str())), "who I am: {}", me.text());
        let usage = Ask::new("GET", "/v1/me/usage", &key.text).send(proxy.address).await;
        assert_eq!(usage.status, 200, "what I used: {}", usage.text());
        let rows = usage.json()["usage"].as_array().cloned().unwrap_or_default();
        let sum: i64 = rows.iter().filter_map(|row| row["requests"].as_i64()).sum();
        assert_eq!(sum, calls, "my calls and nobody else's: {}", usage.text());
        for other in keys.iter().filter(|other| other.id != key.id) {
            assert!(!usage.text().contains(&other.id), "another's key is not named: {}", usage.text());
        }
    }
}
