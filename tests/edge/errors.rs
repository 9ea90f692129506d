//! Every refusal of semantics.md §1 over the wire: status, exact body, headers; and where the head or the body already
//! decides, not one byte upstream.

use super::backend::Backends;
use super::cases::{Cases, eventually};
use super::client::{Answer, Ask, Framing, Wire};
use super::framing::chat_body;
use super::proxy::{Pool, Proxy, Setup, free_port};
use super::{say, usage};
use std::sync::Arc;
use std::time::Duration;

/// What a request must be told.
#[derive(Clone, Copy)]
struct Told {
    status: u16,
    kind: &'static str,
    code: &'static str,
    param: Option<&'static str>,
}

const fn told(status: u16, kind: &'static str, code: &'static str, param: Option<&'static str>) -> Told {
    Told { status, kind, code, param }
}

const INVALID: &str = "invalid_request_error";
const UNKNOWN_KEY: Told = told(401, INVALID, "invalid_api_key", None);
const NO_MODEL: Told = told(404, INVALID, "model_not_found", Some("model"));
const NO_JSON: Told = told(400, INVALID, "invalid_json", None);

/// A key of the right form that nobody has.
fn stranger(key: &str) -> String {
    let body = &key[..key.len() - 6];
    let mut letters: Vec<char> = body.chars().collect();
    let last = letters.len() - 1;
    letters[last] = if letters[last] == 'a' { 'b' } else { 'a' };
    let body: String = letters.into_iter().collect();
    let mut crc = crc32fast::hash(body.as_bytes());
    let alphabet = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut digits = [b'0'; 6];
    for digit in digits.iter_mut().rev() {
        *digit = alphabet[(crc % 62) as usize];
        crc /= 62;
    }
    format!("{body}{}", String::from_utf8_lossy(&digits))
}

fn credentials(key: &str, other: &str) -> Vec<(&'static str, Ask, Told)> {
    let chat = |key: &str| Ask::chat(key, chat_body(200));
    let odd = |value: &str| chat("").field("authorization", value);
    vec![
        ("no key", chat(""), UNKNOWN_KEY),
        ("no key, plain path", Ask::new("GET", "/x", ""), UNKNOWN_KEY),
        ("no key, models", Ask::new("GET", "/v1/models", ""), UNKNOWN_KEY),
        ("unknown key", chat(&stranger(key)), UNKNOWN_KEY),
        ("mangled key", chat(&format!("{key}x")), UNKNOWN_KEY),
        ("no key at all", odd("Bearer "), UNKNOWN_KEY),
        ("another scheme", odd(&format!("Basic {key}")), UNKNOWN_KEY),
        ("S71 a list", odd(&format!("Bearer {key}, Bearer {other}")), UNKNOWN_KEY),
        ("a key of 10 kB", chat(&"k".repeat(10_000)), UNKNOWN_KEY),
        ("S70 two keys in one field", chat(key).field("authorization", &format!("Bearer {other}")), AMBIGUOUS),
        ("S72 two keys in two fields", chat(key).field("x-api-key", other), AMBIGUOUS),
    ]
}

const AMBIGUOUS: Told = told(400, INVALID, "ambiguous_credentials", None);

fn bodies(key: &str) -> Vec<(&'static str, Ask, Told)> {
    let chat = |body: &str| Ask::chat(key, body);
    let twice = |param| told(400, INVALID, "duplicate_parameter", Some(param));
    vec![
        ("unknown model", chat(r#"{"model":"nobody","messages":[]}"#), NO_MODEL),
        ("no JSON", chat("hello"), NO_JSON),
        ("half JSON", chat(r#"{"model":"m","messages":["#), NO_JSON),
        ("JSON and more", chat(r#"{"model":"m","messages":[]}{}"#), NO_JSON),
        ("a list", chat("[1]"), NO_JSON),
        ("no UTF-8", Ask::chat(key, b"{\"model\":\"m\",\"messages\":[\"\xff\"]}".to_vec()), NO_JSON),
        ("no model", chat(r#"{"messages":[]}"#), told(400, INVALID, "missing_required_parameter", Some("model"))),
        ("model twice", chat(r#"{"model":"m","model":"nobody","messages":[]}"#), twice("model")),
        ("stream twice", chat(r#"{"model":"m","stream":true,"messages":[],"stream":false}"#), twice("stream")),
        ("cap twice", chat(r#"{"model":"m","max_tokens":1,"messages":[],"max_tokens":9}"#), twice("max_tokens")),
        ("escaped twice", chat(r#"{"model":"m","m\u006fdel":"m","messages":[]}"#), twice("model")),
    ]
}

async fn one_case(proxy: Arc<Proxy>, ask: Ask, told: Told) {
    for framing in [Framing::Length, Framing::H2Length] {
        let answer = ask.clone().framing(framing).send(proxy.address).await;
        let message = answer.assert_error(told.status, told.kind, told.code, told.param);
        assert!(!message.contains("sk-weir"), "no key in {message:?}");
        let challenge = if told.status == 401 { "Bearer" } else { "" };
        assert_eq!(answer.header("www-authenticate"), challenge, "{framing:?}: challenge: {}", answer.head);
        let figures = answer.head.contains("x-ratelimit-");
        assert!(told.status != 401 || !figures, "no figures for a stranger: {}", answer.head);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_head_or_the_body_decides_is_refused_with_nothing_upstream() {
    let backends = Backends::start(1).await;
    let proxy = Arc::new(Proxy::start(&Setup {
        limits: "{ body_bytes: 100KiB }",
        keys: &[("other", ""), ("narrow", "--models z*"), ("brief", "--expires 1s")],
        ..Setup::of(&backends)
    }));
    let mut cases = Cases::new();
    let rows = credentials(&proxy.key, proxy.key_of("other")).into_iter().chain(bodies(&proxy.key));
    for (name, ask, told) in rows {
        cases.add(name, one_case(Arc::clone(&proxy), ask, told));
    }
    let narrow = Ask::chat(proxy.key_of("narrow"), chat_body(100));
    cases.add("a model that the key may not use", one_case(Arc::clone(&proxy), narrow, NO_MODEL));
    let large = told(413, INVALID, "request_too_large", None);
    for framing in Framing::ALL {
        let (ask, proxy) = (Ask::chat(&proxy.key, chat_body(150_000)).framing(framing), Arc::clone(&proxy));
        cases.add(format!("a body over the limit, {framing:?}"), async move {
            let answer = ask.send(proxy.address).await;
            answer.assert_error(large.status, large.kind, large.code, large.param);
        });
    }
    cases.finish().await;
    half_sent(&proxy).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let expired = Ask::chat(proxy.key_of("brief"), chat_body(100)).send(proxy.address).await;
    expired.assert_error(401, INVALID, "api_key_expired", None);
    assert_eq!(backends.bytes(), 0, "not one byte went upstream");

    // One answer for every model that a caller may not have: no catalogue to read.
    let ask = |key: &str| Ask::chat(key, r#"{"model":"m","messages":[]}"#);
    let forbidden = ask(proxy.key_of("narrow")).send(proxy.address).await.json();
    let unknown = Ask::chat(&proxy.key, r#"{"model":"q","messages":[]}"#).send(proxy.address).await.json();
    let text = |value: &serde_json::Value, model: &str| value.to_string().replace(&format!("`{model}`"), "`?`");
    assert_eq!(text(&forbidden, "m"), text(&unknown, "q"), "forbidden and unknown look alike");
    assert!(usage::rows(&proxy, 0).is_empty(), "a refused request has no usage row");
}

/// Half a body, then nothing more: nobody hears an answer, nothing goes upstream, nothing is left behind.
async fn half_sent(proxy: &Proxy) {
    for framing in [Framing::Length, Framing::Chunked] {
        let bytes = Ask::chat(&proxy.key, chat_body(60_000)).framing(framing).bytes();
        let mut wire = Wire::open(proxy.address).await;
        wire.send(&bytes[..bytes.len() / 2]).await;
        tokio::io::AsyncWriteExt::shutdown(&mut wire.stream).await.expect("half closed");
        let answer = wire.answer().await;
        assert!(matches!(answer.status, 0 | 400 | 408), "{framing:?}: {} {}", answer.head, answer.text());
    }
    let idle = || proxy.admin("/pools").contains("\"inflight\":0");
    assert!(eventually(idle).await, "nothing is in flight: {}", proxy.admin("/pools"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_no_route_takes_is_not_found() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup {
        routes: &["{ name: teapot, match: { path: /tea }, auth: none, respond: { status: 418, body: short } }"],
        prefix: "/v1/",
        ..Setup::of(&backends)
    });
    for path in ["/x", "/tea/x", "/v10/models", "/"] {
        let nowhere = Ask::new("POST", path, &proxy.key).body("x").send(proxy.address).await;
        nowhere.assert_error(404, INVALID, "route_not_found", None);
    }
    let tea = Ask::new("GET", "/tea", "").send(proxy.address).await;
    assert_eq!((tea.status, tea.text().as_str()), (418, "short"), "an open route: {}", tea.head);
    let models = Ask::new("GET", "/v1/models", &proxy.key).send(proxy.address).await;
    assert_eq!((models.status, models.json()["data"][0]["id"].as_str()), (200, Some("m")), "{}", models.text());
    let none = Ask::new("POST", "/v1/messages", &proxy.key).body(r#"{"model":"q","max_tokens":1,"messages":[]}"#);
    anthropic(&none.send(proxy.address).await, 404, "not_found_error");
    anthropic(&Ask::new("POST", "/v1/messages", "").body("{}").send(proxy.address).await, 401, "authentication_error");
    assert_eq!(backends.bytes(), 0, "Weir answered all of it");
}

/// Anthropic's shape, exactly.
fn anthropic(answer: &Answer, status: u16, kind: &str) {
    let value = answer.json();
    assert_eq!(answer.status, status, "status: {value}");
    let message = value["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "an error says what is wrong: {value}");
    let wanted = serde_json::json!({
        "type": "error", "error": {"type": kind, "message": message}, "request_id": answer.request_id()
    });
    assert_eq!(value, wanted, "exactly Anthropic's shape");
}

const PLANS: &[&str] = &[
    "plans:",
    "  rpm: { limits: { requests: 2/min } }",
    "  tpm: { limits: { tokens: 300/min } }",
    "  conc: { limits: { concurrency: 1 } }",
    "  size: { limits: { max_tokens_per_request: 500 } }",
    "tenants: { rpm: { plan: rpm }, tpm: { plan: tpm }, conc: { plan: conc }, size: { plan: size } }",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_refuse_with_their_headers_and_burn_nothing() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup {
        rest: PLANS,
        keys: &[("rpm", "--tenant rpm"), ("tpm", "--tenant tpm"), ("conc", "--tenant conc"), ("size", "--tenant size")],
        ..Setup::of(&backends)
    });
    let chat =
        |key: &str| Ask::chat(proxy.key_of(key), r#"{"model":"m","max_tokens":10,"messages":[{"content":"x"}]}"#);
    for left in ["1", "0"] {
        let answer = chat("rpm").send(proxy.address).await;
        assert_eq!(answer.status, 200, "within the limit: {}", answer.text());
        assert_eq!(answer.header("x-ratelimit-limit-requests"), "2", "the limit: {}", answer.head);
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), left, "what is left: {}", answer.head);
    }
    let refused = chat("rpm").send(proxy.address).await;
    refused.assert_error(429, "requests", "rate_limit_exceeded", None);
    assert_waits(&refused);
    assert_eq!(refused.header("x-limit-rule"), "rpm.requests", "the rule: {}", refused.head);
    assert_eq!(refused.header("x-limit-scope"), "tenant", "its scope: {}", refused.head);
    assert_eq!(refused.header("x-ratelimit-remaining-requests"), "0", "the figures: {}", refused.head);
    let dialect =
        Ask::new("POST", "/v1/messages", proxy.key_of("rpm")).body(r#"{"model":"m","max_tokens":1,"messages":[]}"#);
    anthropic(&dialect.send(proxy.address).await, 429, "rate_limit_error");

    let hungry = Ask::chat(proxy.key_of("tpm"), chat_body(1000));
    assert_eq!(hungry.send(proxy.address).await.status, 200, "the first fits");
    let mut refused = hungry.send(proxy.address).await;
    for _ in 0..40 {
        if refused.status == 429 {
            break;
        }
        refused = hungry.send(proxy.address).await;
    }
    refused.assert_error(429, "tokens", "rate_limit_exceeded", None);
    assert_waits(&refused);
    assert_eq!(refused.header("x-limit-rule"), "tpm.tokens", "the rule: {}", refused.head);

    let total = backends.total();
    let never = Ask::chat(proxy.key_of("tpm"), chat_body(40_000)).send(proxy.address).await;
    never.assert_error(400, INVALID, "tokens_exceed_limit", None);
    let size = Ask::chat(proxy.key_of("size"), r#"{"model":"m","max_tokens":501,"messages":[]}"#);
    size.send(proxy.address).await.assert_error(400, INVALID, "tokens_exceed_limit", None);
    assert_eq!(backends.total(), total, "what never fits goes nowhere");

    one_at_a_time(&proxy, &backends).await;
}

fn assert_waits(answer: &Answer) {
    let seconds: u64 = answer.header("retry-after").parse().unwrap_or(0);
    let millis: u64 = answer.header("retry-after-ms").parse().unwrap_or(0);
    assert!(seconds >= 1 && millis >= 1, "when to come back: {}", answer.head);
    assert_eq!(seconds, millis.div_ceil(1000), "both say the same: {}", answer.head);
}

/// Concurrency is given back by every ending.
async fn one_at_a_time(proxy: &Proxy, backends: &Backends) {
    let chat = || Ask::chat(proxy.key_of("conc"), r#"{"model":"m","messages":[]}"#);
    let slow = [vec![say::pause(400)], say::good()].concat();
    backends.script("slow", vec![slow]);
    let address = proxy.address;
    let first = chat().case("slow");
    let first = tokio::spawn(async move { first.send(address).await });
    assert!(eventually(|| backends.seen("slow").len() == 1).await, "the first is upstream");
    let second = chat().send(address).await;
    second.assert_error(429, "requests", "concurrency_limit_exceeded", None);
    assert_eq!(second.header("retry-after"), "1", "when to come back: {}", second.head);
    assert_eq!(first.await.expect("no panic").status, 200, "the first is not disturbed");
    assert_eq!(chat().send(address).await.status, 200, "its place is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_a_backend_is_told_apart_from_one_that_fails() {
    let backends = Backends::start(1).await;
    let nobody = [free_port()];
    let proxy = Proxy::start(&Setup {
        pools: vec![
            Pool { name: "p", model: "m", backends: &backends.addresses, yaml: &[] },
            Pool { name: "dead", model: "dead", backends: &nobody, yaml: &[] },
            Pool {
                name: "sick",
                model: "sick",
                backends: &nobody,
                yaml: &["health: { path: /health, every: 100ms, timeout: 500ms, fall: 1 }"],
            },
            Pool { name: "full", model: "full", backends: &backends.addresses, yaml: &["queue: { max_inflight: 1 }"] },
        ],
        ..Setup::default()
    });
    let chat = |model: &str| Ask::chat(&proxy.key, format!(r#"{{"model":"{model}","messages":[]}}"#));
    let refused = chat("dead").send(proxy.address).await;
    refused.assert_error(502, "server_error", "upstream_error", None);

    assert!(eventually(|| proxy.admin("/pools").contains("\"healthy\":false")).await, "the probe found it out");
    let sick = chat("sick").send(proxy.address).await;
    sick.assert_error(503, "server_error", "no_healthy_upstream", None);
    assert_waits(&sick);
    let body = r#"{"model":"sick","max_tokens":1,"messages":[]}"#;
    let dialect = Ask::new("POST", "/v1/messages", &proxy.key).body(body).send(proxy.address).await;
    anthropic(&dialect, 529, "overloaded_error");

    backends.script("fills", vec![[vec![say::pause(400)], say::good()].concat()]);
    let (first, address) = (chat("full").case("fills"), proxy.address);
    let first = tokio::spawn(async move { first.send(address).await });
    assert!(eventually(|| backends.seen("fills").len() == 1).await, "the pool is full");
    let second = chat("full").send(address).await;
    second.assert_error(503, "server_error", "overloaded", None);
    assert_waits(&second);
    assert_eq!(first.await.expect("no panic").status, 200, "the first is not disturbed");

    let good = chat("m").send(proxy.address).await;
    assert_eq!(good.status, 200, "and a good pool is not touched by it: {}", good.text());
    // The three that were admitted and failed have rows, the one that was refused for want of room has none.
    let rows = usage::rows(&proxy, 5);
    assert_eq!(rows[&refused.request_id()].status, "upstream_error_pre", "the dead backend's: {rows:#?}");
    assert!(!rows.contains_key(&second.request_id()), "a refused one has none");
}

/// Several refusals on one connection: a refusal of a whole request does not cost the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_refusals_of_whole_requests() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let mut wire = Wire::open(proxy.address).await;
    for _ in 0..3 {
        wire.send(&Ask::chat(&proxy.key, "hello").bytes()).await;
        wire.answer().await.assert_error(NO_JSON.status, NO_JSON.kind, NO_JSON.code, NO_JSON.param);
        wire.send(&Ask::new("GET", "/x", &stranger(&proxy.key)).bytes()).await;
        wire.answer().await.assert_error(401, INVALID, "invalid_api_key", None);
    }
    wire.send(&Ask::chat(&proxy.key, chat_body(100)).bytes()).await;
    assert_eq!(wire.answer().await.status, 200, "and a good one is served");
}
