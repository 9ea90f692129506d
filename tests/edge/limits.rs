//! What callers and operators are told of limits, over real sockets: the headers of each dialect, and why a request was
//! refused.

use super::backend::{Act, Backends};
use super::client::{Answer, Ask};
use super::proxy::{Proxy, Setup};
use super::say::{self, ROLE, delta};
use super::usage;
use std::process::{Command, Output};

const PLANS: &str = "plans: { gold: { limits: { requests: 2/h, tokens: 100k/h, concurrency: 8 } } }";
const TENANTS: &str = "tenants: { acme: { plan: gold }, globex: {} }";
const KEYS: &[(&str, &str)] = &[
    ("acme", "--tenant acme"),
    ("acme-admin", "--tenant acme --role tenant-admin"),
    ("globex-admin", "--tenant globex --role tenant-admin"),
    ("operator", "--role operator"),
];
const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#;
const MESSAGES: &str = r#"{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"Hello"}]}"#;

fn proxy(backends: &Backends, limits: &[&str]) -> Proxy {
    let rest = [&[PLANS, TENANTS], limits].concat();
    Proxy::start(&Setup { rest: &rest, keys: KEYS, ..Setup::of(backends) })
}

/// `GET /admin/v1/limits/{id}`
async fn why(proxy: &Proxy, who: &str, id: &str) -> Answer {
    Ask::new("GET", &format!("/admin/v1/limits/{id}"), proxy.key_of(who)).send(proxy.admin).await
}

/// `weir explain`, with a key for the admin API.
fn explain(proxy: &Proxy, key: &str, args: &[&str]) -> Output {
    let config = proxy.config();
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("explain").args(args).arg("-c").arg(config).env("WEIR_ADMIN_KEY", key);
    command.output().expect("weir runs")
}

/// A 429 of the key `acme`, whose plan takes two an hour.
async fn refused(proxy: &Proxy) -> Answer {
    for _ in 0..2 {
        let answer = Ask::chat(proxy.key_of("acme"), CHAT).send(proxy.address).await;
        assert_eq!(answer.status, 200, "two an hour: {}", answer.text());
    }
    Ask::chat(proxy.key_of("acme"), CHAT).send(proxy.address).await
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_request_was_refused_is_told_to_its_tenant_and_to_operators() {
    let backends = Backends::start(1).await;
    let proxy = proxy(&backends, &[]);
    let refused = refused(&proxy).await;
    refused.assert_error(429, "requests", "rate_limit_exceeded", None);
    let id = refused.request_id();
    for who in ["acme-admin", "operator"] {
        let told = why(&proxy, who, &id).await;
        assert_eq!(told.status, 200, "{who}: {}", told.text());
        let told = told.json();
        let rule = (&told["rule"], &told["scope"], &told["dimension"]);
        assert_eq!(rule, (&"gold.requests".into(), &"tenant".into(), &"requests".into()), "{who}: which rule");
        let stood = (&told["limit"], &told["remaining"], &told["needed"], &told["mode"]);
        assert_eq!(stood, (&2.into(), &0.into(), &1.into(), &"enforce".into()), "{who}: how it stood");
        let figures = told["figures"].as_array().map(Vec::len);
        assert_eq!(figures, Some(3), "{who}: how all stood: {told}");
        assert_eq!(told["tenant_id"], "acme", "{who}: whose");
        assert_eq!(told["model"], "m", "{who}: for what");
        let header: u64 = refused.header("retry-after-ms").parse().expect("a number");
        assert_eq!(told["retry_after_ms"], header, "{who}: when, as the caller was told");
    }
    let unknown = why(&proxy, "operator", "00000000-0000-7000-8000-000000000000").await;
    let message = unknown.assert_error(404, "invalid_request_error", "not_found", None);
    assert!(message.contains("16384") && message.contains("replica"), "what is remembered, and where: {message}");
    let other = why(&proxy, "globex-admin", &id).await;
    assert_eq!((other.status, other.text()), (404, unknown.text()), "another tenant's is not there");
    assert_eq!(why(&proxy, "acme", &id).await.status, 403, "a member administers nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn weir_explain_asks_the_proxy_why() {
    let backends = Backends::start(1).await;
    let proxy = proxy(&backends, &[]);
    let id = refused(&proxy).await.request_id();
    let told = explain(&proxy, proxy.key_of("operator"), &[&id]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    for part in [id.as_str(), "tenant acme", "rule gold.requests (of the tenant, requests)"] {
        assert!(text.contains(part), "`{part}` in: {text}");
    }
    for (key, id, why) in [
        (proxy.key_of("operator"), "00000000-0000-7000-8000-000000000000", "404"),
        ("", id.as_str(), "401"),
        (proxy.key_of("operator"), "POST", "no request id"),
    ] {
        let told = explain(&proxy, key, &[id]);
        let text = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(!told.status.success() && text.contains(why), "{id}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn weir_explain_lists_the_limits_that_would_count_a_request() {
    let backends = Backends::start(1).await;
    let proxy = proxy(&backends, &[]);
    let told = explain(&proxy, "", &["POST", "/v1/chat/completions", "--model", "m", "--tenant", "acme"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    for line in [
        "limit gold.requests (of the tenant): 2 requests per hour: counts it\n",
        "limit gold.concurrency (of the tenant): 8 concurrency: counts it\n",
    ] {
        assert!(text.contains(line), "`{line}` in: {text}");
    }
    let told = explain(&proxy, "", &["GET", "/v1/me/usage", "--tenant", "globex", "--key-plan", "gold"]);
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    for line in [
        "limit gold.requests (of the key): 2 requests per hour: counts it\n",
        "limit gold.tokens (of the key): 100000 tokens per hour: does not count it: Weir answers this itself\n",
    ] {
        assert!(text.contains(line), "`{line}` in: {text}");
    }
    for path in ["/v1/models", "/v1/me"] {
        let told = explain(&proxy, "", &["GET", path, "--tenant", "globex", "--key-plan", "gold"]);
        let text = String::from_utf8_lossy(&told.stdout).into_owned();
        assert_eq!(text.matches(": does not count it: Weir answers this itself\n").count(), 3, "{path}: {text}");
    }
    let told = explain(&proxy, "", &["GET", "/x", "--key-plan", "gone"]);
    assert!(String::from_utf8_lossy(&told.stderr).contains("`gone`"), "a plan that does not exist is said");
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_clients_find_the_headers_that_they_know_and_never_the_providers() {
    let backends = Backends::start(1).await;
    let proxy = proxy(&backends, &[]);
    let theirs = "HTTP/1.1 200 X\r\ncontent-type: application/json\r\nanthropic-ratelimit-requests-limit: 4000\r\n\
                  anthropic-ratelimit-unified-status: allowed\r\ncontent-length: 2\r\n\r\n{}";
    backends.script("theirs", vec![vec![Act::Say(theirs.as_bytes().to_vec())]]);
    let key = proxy.key_of("acme");
    let messages = || Ask::new("POST", "/v1/messages", key).field("content-type", "application/json").body(MESSAGES);
    let answer = messages().case("theirs").send(proxy.address).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    for (name, value) in [
        ("anthropic-ratelimit-requests-limit", "2"),
        ("anthropic-ratelimit-requests-remaining", "1"),
        ("x-ratelimit-limit-requests", "2"),
        ("anthropic-ratelimit-tokens-limit", "100000"),
        ("anthropic-ratelimit-unified-status", ""),
    ] {
        assert_eq!(answer.header(name), value, "{name}: {}", answer.head);
    }
    let reset: jiff::Timestamp = answer.header("anthropic-ratelimit-requests-reset").parse().expect("RFC 3339");
    let wait = reset.as_second() - jiff::Timestamp::now().as_second();
    assert!((1_700..=1_801).contains(&wait), "one of two an hour is back in half an hour, not in {wait} s");
    messages().send(proxy.address).await;
    let refused = messages().send(proxy.address).await;
    let kind = refused.json()["error"]["type"].clone();
    assert_eq!((refused.status, kind), (429, "rate_limit_error".into()), "{}", refused.text());
    assert_eq!(refused.header("anthropic-ratelimit-requests-remaining"), "0", "{}", refused.head);
    assert_eq!(refused.header("x-limit-rule"), "gold.requests", "{}", refused.head);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_can_be_kept_from_callers_and_when_to_come_back_is_told_all_the_same() {
    let backends = Backends::start(1).await;
    let proxy = proxy(&backends, &["limits: { headers: false }"]);
    let refused = refused(&proxy).await;
    assert!(!refused.head.contains("ratelimit"), "no figures: {}", refused.head);
    assert!(!refused.header("retry-after").is_empty(), "when: {}", refused.head);
    assert_eq!(refused.header("x-limit-rule"), "gold.requests", "why: {}", refused.head);
}

/// A dollar a token of output; input is free.
const PRICES: &str = "version: v9\nmodels: { m: { input: 0, output: 1000000 } }\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_when_its_budget_is_used_up_and_pays_for_what_it_gave() {
    let folder = tempfile::tempdir().expect("a folder");
    let prices = folder.path().join("prices.yaml");
    std::fs::write(&prices, PRICES).expect("the prices");
    let prices = format!("usage: {{ prices: {} }}", prices.display());
    let backends = Backends::start(1).await;
    let rest = [
        "plans: { poor: { budget: { usd: 3/day, stop_streams: true } } }",
        "tenants: { acme: { plan: poor } }",
        &prices,
    ];
    let proxy = Proxy::start(&Setup { rest: &rest, keys: &KEYS[..1], ..Setup::of(&backends) });
    let words = std::iter::repeat_n([say::pause(250), Act::Say(say::chunk(&delta("He")))], 80).flatten();
    let script = say::open_stream(&[ROLE]).into_iter().chain(words).collect();
    backends.script("spends", vec![script]);
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Hello"}]}"#;
    let ask = || Ask::chat(proxy.key_of("acme"), body);
    let answer = ask().case("spends").send(proxy.address).await;
    let text = answer.text();
    assert!(answer.complete && !text.contains("[DONE]"), "ended by us, and cleanly: {text}");
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    assert!(
        last.contains("\"type\":\"insufficient_quota\"") && last.contains("\"code\":\"insufficient_quota\""),
        "{last}"
    );
    assert!(answer.whole.as_secs() < 15, "at the first look after five seconds, not after {:?}", answer.whole);
    assert!(super::cases::eventually(|| backends.gone("spends").is_some()).await, "the upstream is cancelled");
    let rows = usage::rows(&proxy, 1);
    let row = &rows[&answer.request_id()];
    let told = (row.status.as_str(), row.http_status, row.error_code.as_deref());
    assert_eq!(told, ("rejected", Some(200), Some("insufficient_quota")), "our own no, in the output");
    let generated = text.matches("\"He\"").count() as i64;
    assert_eq!(row.billable, Some(generated * 1_000_000_000), "what was given is paid for");
    assert_eq!(row.price_version.as_deref(), Some("v9"), "by these prices");
    let refused = ask().send(proxy.address).await;
    refused.assert_error(429, "insufficient_quota", "insufficient_quota", None);
    assert_eq!(refused.header("x-should-retry"), "false", "{}", refused.head);
    assert_eq!(
        (refused.header("x-limit-rule"), refused.header("x-limit-scope")),
        ("poor.budget".into(), "tenant".into())
    );
    let wait: u64 = refused.header("retry-after").parse().expect("the day's end");
    assert!((1..=86_400).contains(&wait), "tomorrow there is more, in {wait} s");
}
