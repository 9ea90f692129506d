//! The OpenAPI document and the dispatcher are made of one table.

use super::api::Api;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use weir::admin::operation::Needs;
use weir::admin::operations::{DOCUMENT, OPERATIONS};
use weir::admin::schema::KEYWORDS;

/// A path of an operation with something in place of its parameters.
fn filled(path: &str) -> String {
    path.replace("{tenant}", "acme")
        .replace("{team}", "nobody")
        .replace("{user}", "nobody")
        .replace("{key_id}", "000000000000")
        .replace("{plan}", "none")
        .replace("{budget}", "none")
        .replace("{request_id}", "00000000-0000-7000-8000-000000000000")
}

#[test]
fn every_operation_of_the_table_answers_as_the_document_says_and_needs_its_credential() {
    let api = Api::start();
    for operation in OPERATIONS {
        let path = filled(operation.path);
        let body = operation.request.map(|_| json!({}));
        let call = |who: &str| api.call(who, operation.method, &path, body.as_ref());
        let open = operation.needs == Needs::Nobody;
        assert_eq!(call("").status, if open { 200 } else { 401 }, "{} without a key", operation.id);
        assert_eq!(call("member").status, if open { 200 } else { 403 }, "{} as a member", operation.id);
        let status = call("operator").status;
        assert!(operation.statuses().contains(&status), "{} as an operator: {status}", operation.id);
        assert!(![401, 403, 405, 500, 503].contains(&status), "{} as an operator: {status}", operation.id);
    }
    let reply = api.call("", "GET", "/openapi.json", None);
    assert_eq!(reply.json, DOCUMENT.whole, "the document that is served is the one that is checked by");
    assert_eq!(api.status("operator", "GET", "/nothing", None), 404, "an unknown path");
    let reply = api.call("operator", "POST", "/roles", Some(&json!({})));
    assert!(reply.status == 405 && reply.head.contains("allow: get"), "an unknown method: {reply:?}");
    let head = api.call("operator", "HEAD", "/roles", None);
    assert_eq!((head.status, head.json), (200, Value::Null), "HEAD is GET without its body");
}

#[test]
fn ids_are_told_apart_and_every_name_in_the_document_is_there() {
    let ids: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.id).collect();
    assert_eq!(ids.len(), OPERATIONS.len(), "one id each");
    let mut names = Vec::new();
    refs(&DOCUMENT.whole, &mut names);
    for name in names {
        let name = name.trim_start_matches("#/components/schemas/");
        assert!(DOCUMENT.definitions.contains_key(name), "{name} is referred to and not there");
    }
    for (id, schema) in &DOCUMENT.requests {
        let mut used = BTreeSet::new();
        keywords(schema, &mut used);
        for definition in DOCUMENT.definitions.values() {
            keywords(definition, &mut used);
        }
        let unknown: Vec<&String> = used.iter().filter(|word| !KEYWORDS.contains(&word.as_str())).collect();
        assert!(unknown.is_empty(), "{id}: the check would not heed {unknown:?}");
    }
}

fn refs(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| refs(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| refs(value, found)),
        _ => {}
    }
}

/// The keywords of a schema and of those in it.
fn keywords(schema: &Value, found: &mut BTreeSet<String>) {
    let Value::Object(members) = schema else { return };
    for (name, value) in members {
        found.insert(name.clone());
        match (name.as_str(), value) {
            ("properties", Value::Object(properties)) => properties.values().for_each(|one| keywords(one, found)),
            ("anyOf" | "oneOf", Value::Array(ways)) => ways.iter().for_each(|one| keywords(one, found)),
            ("items" | "additionalProperties", one) => keywords(one, found),
            _ => {}
        }
    }
}

#[test]
fn a_body_that_is_wrong_is_refused_and_the_place_is_named() {
    let api = Api::start();
    let send = |body: &str, headers: &[(&str, &str)]| api.call_with("operator", ("POST", "/keys"), Some(body), headers);
    for (body, status, code, param) in [
        ("{", 400, "invalid_json", ""),
        ("", 415, "unsupported_media_type", ""),
        ("[]", 422, "invalid_parameter", ""),
        (r#"{"name":"a","name":"b"}"#, 400, "duplicate_parameter", "/name"),
        (r#"{"nmae":"a"}"#, 422, "invalid_parameter", "/nmae"),
        (r#"{"name":7}"#, 422, "invalid_parameter", "/name"),
        (r#"{"models":["a b"]}"#, 422, "invalid_parameter", "/models"),
        (r#"{"models":["ok",7]}"#, 422, "invalid_parameter", "/models/1"),
        (r#"{"roles":["member","mmeber"]}"#, 422, "invalid_parameter", "/roles/1"),
        (r#"{"addresses":["10.0.0.0/8","10.0.0.0/99"]}"#, 422, "invalid_parameter", "/addresses/1"),
        (r#"{"plan":"none"}"#, 422, "invalid_parameter", "/plan"),
        (r#"{"tenant_id":"none"}"#, 422, "invalid_parameter", "/tenant_id"),
        (r#"{"expires_at":"2001-01-01T00:00:00Z"}"#, 422, "invalid_parameter", "/expires_at"),
        (r#"{"key_id":"000000000000"}"#, 422, "invalid_parameter", "/key_id"),
    ] {
        let reply = if body.is_empty() { send("{}", &[("content-type", "text/plain")]) } else { send(body, &[]) };
        assert_eq!((reply.status, reply.code(), reply.param()), (status, code, param), "{body}: {}", reply.json);
    }
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20));
    assert_eq!(send(&large, &[]).code(), "request_too_large", "a body is bounded");
    for (path, param) in [
        ("/keys?limit=0", "limit"),
        ("/keys?cursor=AAAA", "cursor"),
        ("/keys?teem=a", "teem"),
        ("/keys/short", "key_id"),
        ("/usage/summary?by=hour", "by"),
        ("/usage/records?from=now", "from"),
    ] {
        let reply = api.call("operator", "GET", path, None);
        assert_eq!((reply.status, reply.param()), (400, param), "{path}: {}", reply.json);
    }
    let reply = api.call_with("operator", ("DELETE", "/budgets/none"), Some("{}"), &[]);
    assert_eq!((reply.status, reply.param()), (400, "body"), "a body where none is taken: {}", reply.json);
}

#[test]
fn a_head_that_cannot_be_read_is_not_logged_with_its_credential() {
    use std::io::{Read, Write};
    let api = Api::start();
    let key = api.proxy.key_of("operator").to_owned();
    let mut stream = std::net::TcpStream::connect(api.proxy.admin).expect("connects");
    stream.set_read_timeout(Some(super::proxy::DEADLINE)).expect("a deadline");
    let head = format!("GET /admin/v1/keys HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\nbro ken\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("writes");
    let mut answer = Vec::new();
    // It is closed or answered; what matters is what is in the log then.
    let _closed = stream.read_to_end(&mut answer);
    api.good("operator", "GET", "/roles", None);
    assert!(!api.proxy.log().contains(&key), "the log has the key: {}", api.proxy.log());
}
