//! Who calls, and what becomes of it, over real sockets: revoked keys lose their open answers, replaced secrets are
//! told of, denials name nothing, and backends hear of callers only from Weir.

use super::backend::{Act, Backends};
use super::cases::{Cases, eventually};
use super::client::{Ask, Wire};
use super::proxy::{DEADLINE, Pool, Proxy, Setup, weir};
use super::say::{self, ROLE, delta};
use super::usage;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A chat body, streamed or not.
fn chat(stream: bool) -> String {
    format!(r#"{{"model":"m","stream":{stream},"messages":[{{"role":"user","content":"Hello"}}]}}"#)
}

/// A key's id: the third of its parts.
fn id_of(key: &str) -> &str {
    key.split('-').nth(2).expect("a key has four parts")
}

fn keys(proxy: &Proxy, line: &[&str]) -> String {
    weir(&[&["keys"], line, &["-c", &proxy.config().to_string_lossy()]].concat())
}

/// An answer that is open when its key is revoked.
struct Open {
    /// Also the case and the key's name.
    name: &'static str,
    ask: fn(&str) -> Ask,
    script: Vec<Act>,
    /// What the client has before the revocation; empty: nothing.
    before: &'static str,
    /// What is in its last bytes.
    last: &'static str,
}

fn open_answers() -> Vec<Open> {
    let hold = |mut acts: Vec<Act>| {
        acts.push(Act::Hold);
        acts
    };
    let dripping = std::iter::repeat_n([say::pause(20), Act::Say(say::chunk("x"))], 500).flatten();
    // Pingora keeps what is short of Content-Length to itself for a while: the client may have seen nothing.
    let document = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"id\":".to_vec();
    let document = vec![Act::Say(document), say::pause(100), Act::Say(b"\"c1\",".to_vec())];
    vec![
        Open {
            name: "committed",
            ask: |key| Ask::chat(key, chat(true)),
            script: hold(say::open_stream(&[ROLE, &delta("He")])),
            before: "\"He\"",
            last: "\"code\":\"key_revoked\"",
        },
        Open {
            name: "never-pausing",
            ask: |key| Ask::chat(key, chat(true)),
            script: std::iter::once(Act::Say(say::sse_head()))
                .chain(std::iter::repeat_n(Act::Say(say::chunk(&delta("He").repeat(200))), 20_000))
                .collect(),
            before: "\"He\"",
            last: "\"code\":\"key_revoked\"",
        },
        Open {
            name: "preamble",
            ask: |key| Ask::chat(key, chat(true)),
            script: hold(say::open_stream(&[ROLE])),
            before: "",
            last: "\"code\":\"invalid_api_key\"",
        },
        Open { name: "document", ask: |key| Ask::chat(key, chat(false)), script: hold(document), before: "", last: "" },
        Open {
            name: "plain",
            ask: |key| Ask::new("GET", "/files/a", key),
            script: std::iter::once(Act::Say(say::sse_head())).chain(dripping).collect(),
            before: "x",
            last: "",
        },
    ]
}

/// Waits for a whole answer in pieces, as long as the deadline; gives all that came.
async fn rest(wire: &mut Wire) -> String {
    let mut all = Vec::new();
    let read = async {
        loop {
            match tokio::io::AsyncReadExt::read_buf(&mut wire.stream, &mut all).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
    };
    assert!(tokio::time::timeout(DEADLINE, read).await.is_ok(), "the connection ends");
    // The last part is enough, and a part may be many megabytes.
    String::from_utf8_lossy(&all[all.len().saturating_sub(4_096)..]).into_owned()
}

async fn revoked_while_open(open: Open, proxy: Arc<Proxy>, backends: Backends) {
    let key = proxy.key_of(open.name).to_owned();
    backends.script(open.name, vec![open.script]);
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&(open.ask)(&key).field("connection", "close").case(open.name).bytes()).await;
    assert!(eventually(|| backends.seen(open.name).len() == 1).await, "the backend has the request");
    if !open.before.is_empty() {
        assert!(wire.until(open.before).await, "the answer has begun");
    }
    let asked = Instant::now();
    tokio::task::block_in_place(|| keys(&proxy, &["revoke", id_of(&key), "--terminate-streams"]));
    let last = rest(&mut wire).await;
    assert!(last.contains(open.last), "the last bytes say why: {last}");
    assert!(!last.contains("[DONE]"), "it is not done");
    assert!(asked.elapsed() < Duration::from_secs(10), "soon: {:?}", asked.elapsed());
    assert!(eventually(|| backends.gone(open.name).is_some()).await, "the backend is let go");
    let again = Ask::chat(&key, chat(false)).send(proxy.address).await;
    again.assert_error(401, "invalid_request_error", "invalid_api_key", None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_with_its_streams_loses_every_open_answer() {
    let backends = Backends::start(1).await;
    let names: Vec<&'static str> = open_answers().iter().map(|open| open.name).collect();
    let keys: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    let proxy = Arc::new(Proxy::start(&Setup { keys: &keys, ..Setup::of(&backends) }));
    // Another key's stream goes on.
    backends.script("other", vec![say::open_stream(&[ROLE, &delta("He")]).into_iter().chain([Act::Hold]).collect()]);
    let mut other = Wire::open(proxy.address).await;
    other.send(&Ask::chat(&proxy.key, chat(true)).case("other").bytes()).await;
    assert!(other.until("\"He\"").await, "it has begun");
    let mut cases = Cases::new();
    for open in open_answers() {
        cases.add(open.name, revoked_while_open(open, Arc::clone(&proxy), backends.clone()));
    }
    cases.finish().await;
    assert!(backends.gone("other").is_none(), "the stream of a key that is good goes on");
    drop(other);
    assert!(eventually(|| backends.gone("other").is_some()).await, "until its client leaves");
    // Plain HTTP leaves no record.
    let rows = usage::rows(&proxy, names.len());
    for name in names.iter().filter(|name| **name != "plain") {
        let row = &rows[&backends.seen(name)[0].header("x-request-id")];
        assert_eq!(row.status, "rejected", "{name}: our own no: {row:?}");
        let delivered = row.delivered_output.unwrap_or_default();
        assert_eq!(delivered > 0, ["committed", "never-pausing"].contains(name), "{name}: what was delivered: {row:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_to_a_replaced_secret_says_until_when_it_works() {
    const FIELD: &str = "x-key-deprecated-until";
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let old = proxy.key.clone();
    let new = keys(&proxy, &["rotate", id_of(&old), "--grace", "1h"]).trim().to_owned();
    let until = Instant::now() + DEADLINE;
    while Ask::new("GET", "/v1/models", &old).send(proxy.address).await.header(FIELD).is_empty() {
        assert!(Instant::now() < until, "the proxy never heard of the rotation");
    }
    let asks = |key: &str| {
        [
            (200, Ask::chat(key, chat(false))),
            (200, Ask::chat(key, chat(true))),
            (200, Ask::new("GET", "/v1/models", key)),
            (200, Ask::new("GET", "/files/a", key)),
            (404, Ask::chat(key, r#"{"model":"other","messages":[]}"#)),
        ]
    };
    for (index, (status, ask)) in asks(&old).into_iter().enumerate() {
        if index == 1 {
            backends.script("stream", vec![say::good_stream()]);
        }
        let answer = ask.case(if index == 1 { "stream" } else { "" }).send(proxy.address).await;
        let end: jiff::Timestamp = answer.header(FIELD).parse().expect("RFC 3339");
        let left = end.duration_since(jiff::Timestamp::now()).as_secs();
        assert_eq!(answer.status, status, "it still works: {}", answer.head);
        assert!((3_000..=3_600).contains(&left), "an hour at most: {}", answer.head);
    }
    for (status, ask) in asks(&new).into_iter().take(1) {
        let answer = ask.send(proxy.address).await;
        assert_eq!((answer.status, answer.header(FIELD).as_str()), (status, ""), "the new one is not deprecated");
    }
    let metrics = proxy.admin("/metrics");
    let count = metrics.lines().find_map(|line| line.strip_prefix("weir_key_deprecated_uses_total "));
    assert!(count.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count >= 6), "counted: {count:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_names_its_rule_in_the_log_and_never_to_the_client() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup {
        rest: &[
            "roles: { lister: { scopes: [\"models:list\"] } }",
            "authorization: [{ name: no-deletes, when: \"request.method == 'DELETE'\", effect: deny }]",
        ],
        routes: &["{ name: vip, match: { path: { prefix: /vip }, when: \"auth.user == 'ann'\" }, to: [{ pool: p }] }"],
        prefix: "/v1/",
        keys: &[
            ("lister", "--role lister"),
            ("ann", "--user ann --endpoint /vip/*"),
            ("far", "--address 192.0.2.0/24"),
        ],
        ..Setup::of(&backends)
    });
    let forbidden = |key: &str, method: &str, path: &str| {
        let ask = Ask::new(method, path, proxy.key_of(key)).body(chat(false));
        let address = proxy.address;
        async move { ask.send(address).await }
    };
    for (key, method, path, rule) in [
        ("test", "DELETE", "/v1/files", "no-deletes"),
        ("lister", "POST", "/v1/chat/completions", "scope inference"),
        ("ann", "POST", "/v1/chat/completions", "endpoints of the key"),
        ("far", "POST", "/v1/chat/completions", "addresses of the key"),
    ] {
        let answer = forbidden(key, method, path).await;
        let message = answer.assert_error(403, "permission_error", "insufficient_permissions", None);
        assert!(!message.contains(rule), "the client is not told which: {message}");
        let line = format!("\"rule\":\"{rule}\"");
        assert!(eventually(|| proxy.log().contains(&line)).await, "the log is: {line}");
        let counted = format!("weir_access_denied_total{{rule=\"{rule}\"}} 1");
        assert!(proxy.admin("/metrics").contains(&counted), "{counted}");
    }
    assert_eq!(backends.total(), 0, "nothing of it went upstream");
    assert_eq!(forbidden("ann", "GET", "/vip/x").await.status, 200, "a route whose condition holds");
    assert_eq!(forbidden("test", "GET", "/vip/x").await.status, 404, "and one whose condition does not");
    assert_eq!(forbidden("lister", "GET", "/v1/models").await.status, 200, "what the role allows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_hears_of_the_caller_from_weir_alone() {
    let backends = Backends::start(1).await;
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), "0123456789abcdef0123456789abcdef").expect("written");
    let path = secret.path().to_string_lossy().into_owned();
    let credentials = format!("credentials: {{ header: {{ name: x-engine-key, value: {{ file: {path} }} }} }}");
    let identity = format!("identity: {{ signed: {{ key: {{ file: {path} }} }} }}");
    let yaml = [credentials.as_str(), identity.as_str()];
    let pool = Pool { name: "p", model: "m", backends: &backends.addresses, yaml: &yaml };
    let proxy = Proxy::start(&Setup { pools: vec![pool], keys: &[("ann", "--user ann")], ..Setup::default() });
    let key = proxy.key_of("ann");
    for (case, ask) in [("call", Ask::chat(key, chat(false))), ("plain", Ask::new("GET", "/files/a", key))] {
        let forged =
            ask.field("x-weir-tenant", "forged").field("x_weir_user", "forged").field("x-engine-key", "forged");
        assert_eq!(forged.case(case).send(proxy.address).await.status, 200, "{case}");
        let seen = &backends.seen(case)[0];
        assert!(!seen.head.contains("forged") && !seen.head.contains(key), "{case}: {}", seen.head);
        assert_eq!(seen.header("x-engine-key"), "0123456789abcdef0123456789abcdef", "{case}: our credential");
        assert_eq!(
            (seen.header("x-weir-tenant"), seen.header("x-weir-user")),
            ("default".into(), "ann".into()),
            "{case}"
        );
        assert_eq!(seen.header("x-weir-key"), id_of(key), "{case}: the id, never the secret");
        assert!(seen.header("x-weir-signature").starts_with("t="), "{case}: signed");
    }
}
