//! Keys from creation to their end, repetitions, and the log of changes.

use super::api::Api;
use super::proxy::DEADLINE;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} in {value}"))
}

/// Waits until a key is answered with `status` on the public listener.
fn until(api: &Api, key: &str, status: u16) {
    let end = Instant::now() + DEADLINE;
    loop {
        let now = api.public(key, "/v1/models").status;
        if now == status {
            return;
        }
        assert!(Instant::now() < end, "still {now} and not {status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_repeated_rotation_is_done_once_and_tells_the_secret_once() {
    let api = Api::start();
    let first = api.good("acme", "POST", "/keys", Some(&json!({"name": "ci"})));
    let path = format!("/keys/{}/rotate", text(&first, "key_id"));
    let rotate = |body: Value, repetition: &str| {
        api.call_with("acme", ("POST", &path), Some(&body.to_string()), &[("idempotency-key", repetition)])
    };
    let done = rotate(json!({"grace": "1h"}), "a");
    assert_eq!((done.status, &done.json["secret_gen"]), (200, &json!(2)), "a second secret: {}", done.json);
    let again = rotate(json!({"grace": "1h"}), "a");
    assert_eq!((again.status, &again.json["key"]), (200, &Value::Null), "the same without the secret");
    let mut same = done.json.clone();
    same["key"] = Value::Null;
    assert_eq!(again.json, same, "and all the rest as it was");
    assert_eq!(rotate(json!({"grace": "2h"}), "a").status, 409, "another request under the same name");
    assert_eq!(rotate(json!({"grace": "1h"}), "b").status, 409, "two secrets are good already");
    assert_eq!(rotate(json!({"grace": "31d"}), "c").status, 422, "too long a grace");
    let generations = &done.json["generations"];
    assert!(generations[0]["valid_until"].is_string() && generations[1]["valid_until"].is_null(), "{generations}");
    // Both secrets call; the end of the grace leaves the new one.
    until(&api, text(&done.json, "key"), 200);
    assert_eq!(api.public(text(&first, "key"), "/v1/models").status, 200, "the old one in its grace");
    api.good("acme", "POST", &path.replace("rotate", "end-grace"), None);
    until(&api, text(&first, "key"), 401);
    assert_eq!(api.public(text(&done.json, "key"), "/v1/models").status, 200, "the new one goes on");
    let forced = rotate(json!({"grace": "0s", "force": true}), "d");
    assert_eq!(forced.json["generations"].as_array().map(Vec::len), Some(1), "no grace: one secret");
    let revoked =
        api.good("acme", "POST", &path.replace("rotate", "revoke"), Some(&json!({"terminate_streams": true})));
    assert_eq!((text(&revoked, "status"), &revoked["generations"]), ("revoked", &json!([])), "over");
    until(&api, text(&forced.json, "key"), 401);
    assert_eq!(rotate(json!({}), "e").status, 409, "a revoked key never comes back");
}

#[test]
fn a_repeated_creation_makes_one_key() {
    let api = Api::start();
    let create =
        |who: &str| api.call_with(who, ("POST", "/keys"), Some(r#"{"name":"once"}"#), &[("idempotency-key", "k")]).json;
    let (first, again, other) = (create("acme"), create("acme"), create("globex"));
    assert_eq!(text(&first, "key_id"), text(&again, "key_id"), "one key");
    assert_eq!(again["key"], Value::Null, "its secret is told once");
    assert_ne!(text(&first, "key_id"), text(&other, "key_id"), "another caller's repetitions are their own");
    let two = [("idempotency-key", "a"), ("idempotency-key", "b")];
    assert_eq!(api.call_with("acme", ("POST", "/keys"), Some("{}"), &two).status, 400, "two names for one request");
}

#[test]
fn restrictions_are_kept_changed_and_taken_away() {
    let api = Api::start();
    let body = json!({
        "team_id": "core", "user_id": "ann@example.com", "name": "ci", "models": ["llama-3*"], "endpoints": ["/v1/*"],
        "addresses": ["10.1.2.3", "10.1.2.3/8"], "plan": "gold", "roles": ["member"],
        "expires_at": "2099-01-01T00:00:00Z",
    });
    let made = api.good("acme", "POST", "/keys", Some(&body));
    assert_eq!(made["addresses"], json!(["10.1.2.3/32", "10.0.0.0/8"]), "as networks count");
    for name in ["team_id", "user_id", "name", "models", "endpoints", "plan", "roles", "expires_at"] {
        assert_eq!(made[name], body[name], "{name} as it was given");
    }
    let path = format!("/keys/{}", text(&made, "key_id"));
    let edit = json!({"models": null, "name": "build", "disabled": true, "expires_at": null});
    let edited = api.good("acme", "PATCH", &path, Some(&edit));
    assert_eq!(
        (&edited["models"], text(&edited, "name"), text(&edited, "status")),
        (&Value::Null, "build", "disabled"),
        ""
    );
    assert_eq!((&edited["endpoints"], &edited["expires_at"]), (&json!(["/v1/*"]), &Value::Null), "the rest stays");
    let listed = api.good("acme", "GET", "/keys?status=disabled&team=core", None);
    assert_eq!(listed["keys"], json!([edited]), "found by its state and team");
    assert!(!listed.to_string().contains("sk-weir"), "a list has no secret");
}

#[test]
fn imported_hashes_let_their_keys_in() {
    let api = Api::start();
    let other = Api::start();
    let made = other.good("operator", "POST", "/keys", Some(&json!({})));
    let key = text(&made, "key");
    let hash =
        format!("sha256:{}", weir::logic::access::digest::hex(&weir::logic::access::digest::plain(key.as_bytes())));
    let one = json!({"key_id": text(&made, "key_id"), "hash": hash, "name": "moved"});
    // As LiteLLM makes them; the hash and the id are from Python.
    let foreign = "sk-4Hs8_kQz-1aBcDeFgHiJkLm";
    let hash = "sha256:9d70d26dc47ef2cf707d6e5dcdd4aca9947254986390d56950aa59e54af0c91f";
    let body = json!({"keys": [one, {"hash": hash}]});
    let imported = api.good("operator", "POST", "/keys/import", Some(&body));
    assert_eq!(imported["keys"].as_array().map(Vec::len), Some(2), "{imported}");
    assert_eq!(text(&imported["keys"][1], "key_id"), "mGSRYZVR0p9V", "the id of its hash");
    until(&api, key, 200);
    until(&api, foreign, 200);
    let reply = api.call("operator", "POST", "/keys/import", Some(&json!({"keys": [{"name": "x"}]})));
    assert_eq!((reply.status, reply.param()), (422, "/keys/0/hash"), "a hash is needed");
    let again = json!({"keys": [{"hash": format!("sha256:{}", "1".repeat(64))}, one]});
    assert_eq!(api.status("operator", "POST", "/keys/import", Some(&again)), 409, "it is there already");
    let count = api.good("operator", "GET", "/keys", None)["keys"].as_array().map(Vec::len);
    let reply = api.call("operator", "POST", "/keys/import", Some(&again));
    let after = api.good("operator", "GET", "/keys", None)["keys"].as_array().map(Vec::len);
    assert_eq!((reply.status, count), (409, after), "all or none");
}

#[test]
fn every_change_is_in_the_log_with_who_and_before_and_after_and_no_secret() {
    let api = Api::start();
    let made = api.good("acme", "POST", "/keys", Some(&json!({"name": "ci"})));
    let id = text(&made, "key_id");
    api.good("acme", "PATCH", &format!("/keys/{id}"), Some(&json!({"name": "build"})));
    let reply = api.call("acme", "POST", &format!("/keys/{id}/rotate"), Some(&json!({})));
    let log = api.good("acme", "GET", &format!("/audit?target={id}"), None);
    let entries = log["entries"].as_array().expect("a list");
    let actions: Vec<&str> = entries.iter().map(|entry| text(entry, "action")).collect();
    assert_eq!(actions, ["key.rotate", "key.update", "key.create"], "newest first");
    let update = &entries[1];
    assert_eq!((&update["before"]["name"], &update["after"]["name"]), (&json!("ci"), &json!("build")), "{update}");
    let actor = &entries[0]["actor"];
    let own = api.proxy.key_of("acme").split('-').nth(2).expect("an id");
    assert_eq!((text(actor, "kind"), text(actor, "id"), text(actor, "tenant_id")), ("api_key", own, "acme"), "who");
    assert!(reply.head.contains(text(actor, "request_id")), "the request that did it: {}", reply.head);
    assert!(entries[2]["before"].is_null(), "it was not there before");
    let whole = api.good("operator", "GET", "/audit?limit=1000", None).to_string();
    let plaintext = text(&made, "key");
    assert!(!whole.contains(plaintext) && !whole.contains("sha256:"), "no secret and no hash");
    let before = api.good("operator", "GET", "/audit", None)["entries"][0]["id"].clone();
    api.call("globex", "PATCH", &format!("/keys/{id}"), Some(&json!({"name": "x"})));
    api.good("operator", "GET", "/keys", None);
    assert_eq!(
        api.good("operator", "GET", "/audit", None)["entries"][0]["id"],
        before,
        "what changed nothing is not in it"
    );
}

#[test]
fn a_store_that_is_down_is_503_and_comes_back() {
    let api = Api::start();
    let ends = ["", "-wal", "-shm"];
    let file = |end: &str| api.proxy.state(&format!("weir.db{end}"));
    let away = |end: &str| api.proxy.state(&format!("away{end}"));
    assert_eq!(api.status("operator", "GET", "/keys", None), 200, "while it is there");
    for end in ends {
        // The two beside it are there only while somebody has it open.
        let _absent = std::fs::rename(file(end), away(end));
    }
    // Another file in its place, which is no database.
    let draft = api.proxy.state("draft");
    std::fs::write(&draft, b"no database at all, and long enough to be looked at as one".repeat(100)).expect("writes");
    std::fs::rename(&draft, file("")).expect("replaces");
    for (method, path) in [("GET", "/keys"), ("GET", "/tenants"), ("POST", "/keys"), ("GET", "/audit")] {
        let body = (method == "POST").then(|| json!({}));
        let reply = api.call("operator", method, path, body.as_ref());
        assert_eq!((reply.status, reply.code()), (503, "dependency_unavailable"), "{method} {path}: {}", reply.json);
    }
    assert_eq!(api.status("operator", "GET", "/roles", None), 200, "what needs no store goes on");
    for end in ends {
        let _absent = std::fs::rename(away(end), file(end));
    }
    let end = Instant::now() + DEADLINE;
    while api.status("operator", "GET", "/keys", None) != 200 {
        assert!(Instant::now() < end, "it is back, and nobody looks");
        std::thread::sleep(Duration::from_millis(20));
    }
}
