//! A path that is no LLM surface is plain HTTP on Pingora's stock path: forwarded as it came, with authentication and
//! limits. Its body streams; an idempotent request is sent again while Pingora's 64 KiB buffer holds all of it.

use super::backend::{Act, Backends};
use super::cases::Cases;
use super::client::{Ask, Framing};
use super::proxy::{Pool, Proxy, Setup};
use super::{say, usage};
use std::sync::Arc;

/// What Pingora keeps of a body for another attempt.
const BUFFER: usize = 64 << 10;
const SIZES: [usize; 7] = [0, 1, BUFFER - 1, BUFFER, BUFFER + 1, 200_000, 5_000_000];
/// What the backend answers.
const TEXT: &str = r#"{"stored":true}"#;

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| u8::try_from((at * 31 + at / 251) % 256).expect("a byte")).collect()
}

/// A request and what must become of it.
struct Upload {
    method: &'static str,
    framing: Framing,
    size: usize,
    /// The first attempt is reset.
    fails: bool,
    expect: bool,
}

impl Upload {
    fn name(&self) -> String {
        let Self { method, framing, size, fails, expect } = self;
        format!("{method} {framing:?} {size} fails={fails} expect={expect}")
    }

    async fn run(self, proxy: Arc<Proxy>, backends: Backends) {
        let (case, body) = (self.name(), bytes(self.size));
        let good = say::answer(201, TEXT);
        backends.script(&case, if self.fails { vec![vec![Act::Reset], good] } else { vec![good] });
        let ask = Ask::new(self.method, "/files/a?b=c", &proxy.key).case(&case).body(body.clone());
        let answer = ask.framing(self.framing).expecting(self.expect).send(proxy.address).await;
        let seen = backends.seen(&case);
        let replayed = self.method == "PUT" && self.size <= BUFFER;
        assert!(!seen.is_empty(), "it went upstream");
        for attempt in &seen {
            assert!(attempt.body == body, "the body passes untouched: {} of {} bytes", attempt.body.len(), body.len());
            let line = format!("{} /files/a?b=c HTTP/1.1", self.method);
            assert_eq!(attempt.head.lines().next(), Some(line.as_str()), "the target passes untouched");
        }
        if self.fails && !replayed {
            assert_eq!(seen.len(), 1, "what cannot be sent twice safely is sent once");
            answer.assert_error(502, "server_error", "upstream_error", None);
            return;
        }
        assert_eq!(seen.len(), if self.fails { 2 } else { 1 }, "attempts");
        assert_eq!((answer.status, answer.text().as_str()), (201, TEXT), "the backend's answer: {}", answer.head);
        answer.request_id();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_framing_and_size_passes_and_only_what_is_safe_is_sent_again() {
    let backends = Backends::start(2).await;
    let proxy = Arc::new(Proxy::start(&Setup::of(&backends)));
    let mut cases = Cases::new();
    for size in SIZES {
        for framing in Framing::ALL {
            for (method, fails) in [("PUT", false), ("PUT", true), ("POST", false), ("POST", true)] {
                for expect in [false, true] {
                    let upload = Upload { method, framing, size, fails, expect };
                    cases.add(upload.name(), upload.run(Arc::clone(&proxy), backends.clone()));
                }
            }
        }
    }
    cases.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_paths_have_authentication_limits_and_metering_by_route() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup {
        routes: &[
            "{ name: health, auth: none, match: { path: /healthz }, respond: { status: 200, body: \"fine\\n\" } }",
            "{ name: metered, match: { path: { prefix: /metered } }, meter: true, to: [{ pool: p }] }",
        ],
        rest: &[
            "plans: { tight: { limits: { requests: 2/min } }, one: { limits: { concurrency: 1 } } }",
            "tenants: { tight: { plan: tight }, one: { plan: one } }",
        ],
        keys: &[("tight", "--tenant tight"), ("one", "--tenant one")],
        ..Setup::of(&backends)
    });
    let get = |path: &str, key: &str| Ask::new("GET", path, key);

    let open = get("/healthz", "").send(proxy.address).await;
    assert_eq!((open.status, open.text().as_str()), (200, "fine\n"), "a route that answers by itself");
    assert!(open.header("content-type").starts_with("text/plain"), "its type: {}", open.head);
    open.request_id();

    get("/a", "").send(proxy.address).await.assert_error(401, "invalid_request_error", "invalid_api_key", None);
    assert_eq!(backends.bytes(), 0, "nothing went upstream so far");

    let tight = proxy.key_of("tight");
    for left in ["1", "0"] {
        let answer = get("/a", tight).send(proxy.address).await;
        assert_eq!(answer.status, 200, "within the limit: {}", answer.text());
        assert_eq!(answer.header("x-ratelimit-remaining-requests"), left, "what is left: {}", answer.head);
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), "", "no tokens are counted: {}", answer.head);
    }
    let refused = get("/a", tight).send(proxy.address).await;
    refused.assert_error(429, "requests", "rate_limit_exceeded", None);
    assert_eq!(refused.header("x-limit-rule"), "tight.requests", "which rule");
    assert_eq!(backends.total(), 2, "the third did not go upstream");

    concurrency(&proxy, &backends).await;

    let metered = get("/metered/x", &proxy.key).case("metered").body("abc").send(proxy.address).await;
    assert_eq!(metered.status, 200, "metered: {}", metered.text());
    // Its head is upstream when its body turns out to be broken: admitted, and refused all the same.
    let broken = format!(
        "POST /metered/y HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        proxy.key
    );
    let mut wire = super::client::Wire::open(proxy.address).await;
    wire.send(broken.as_bytes()).await;
    let broken = wire.answer().await;
    broken.assert_error(400, "invalid_request_error", "malformed_request", None);
    let rows = usage::rows(&proxy, 2);
    let row = rows.get(&broken.request_id()).expect("the broken request's row");
    assert_eq!((row.status.as_str(), row.http_status), ("rejected", Some(400)), "the client's own fault: {row:?}");
    let row = rows.get(&metered.request_id()).expect("the metered request's row");
    assert_eq!((row.surface.as_str(), row.status.as_str()), ("http", "completed"), "surface and status: {row:?}");
    assert_eq!((row.http_status, row.input_total), (Some(200), None), "a status, and no tokens: {row:?}");
    assert_eq!((row.bytes_in, row.bytes_out), (3, say::OK.len() as i64), "bytes both ways: {row:?}");
}

/// While one request of a tenant runs that may have one, the next is refused; afterwards it may.
async fn concurrency(proxy: &Proxy, backends: &Backends) {
    backends.script("slow", vec![vec![say::pause(60_000)]]);
    let mut first = super::client::Wire::open(proxy.address).await;
    first.send(&Ask::new("GET", "/slow", proxy.key_of("one")).case("slow").bytes()).await;
    assert!(super::cases::eventually(|| backends.seen("slow").len() == 1).await, "the first runs");
    let second = Ask::new("GET", "/second", proxy.key_of("one")).send(proxy.address).await;
    second.assert_error(429, "requests", "concurrency_limit_exceeded", None);
    assert_eq!(second.header("retry-after"), "1", "when to come back: {}", second.head);
    drop(first);
    let free = || async { Ask::new("GET", "/third", proxy.key_of("one")).send(proxy.address).await.status == 200 };
    let mut again = false;
    for _ in 0..200 {
        again = free().await;
        if again {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(again, "a client that left gives its place back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_pass_as_they_came() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let chunked = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\nx-ratelimit-limit: 5\r\ntransfer-encoding: chunked\r\n\r\n\
        3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    backends.script("chunked", vec![vec![Act::Say(chunked.to_vec())]]);
    let answer = Ask::new("GET", "/x", &proxy.key).case("chunked").send(proxy.address).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "abcde"), "a chunked body: {}", answer.head);
    assert_eq!(answer.header("set-cookie"), "a=b", "plain HTTP keeps its cookies");
    assert_eq!(answer.header("x-ratelimit-limit"), "", "limits are told by Weir alone: {}", answer.head);

    backends.script("busy", vec![say::answer(503, "{\"busy\":1}")]);
    let busy = Ask::new("GET", "/x", &proxy.key).case("busy").send(proxy.address).await;
    assert_eq!(
        (busy.status, busy.text().as_str()),
        (503, "{\"busy\":1}"),
        "an error of the backend's own is the answer"
    );

    backends.script("head", vec![vec![Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n".to_vec())]]);
    let mut wire = super::client::Wire::open(proxy.address).await;
    wire.send(&Ask::new("HEAD", "/x", &proxy.key).field("connection", "close").case("head").bytes()).await;
    let raw = String::from_utf8_lossy(&wire.rest().await).to_ascii_lowercase();
    assert!(raw.contains("content-length: 1234") && raw.ends_with("\r\n\r\n"), "HEAD has a length and no body: {raw}");

    backends
        .script("cut", vec![vec![Act::Say(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc".to_vec()), Act::Reset]]);
    let cut = Ask::new("GET", "/x", &proxy.key).case("cut").send(proxy.address).await;
    assert!(!cut.complete, "a body that breaks off never ends cleanly: {cut:?}");
}

/// A request that fails while its body still comes: what is left of the body is never the next request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rest_of_a_failed_upload_is_no_request() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    for (case, fails) in [("reset", vec![Act::BodyUnread, Act::Reset]), ("early answer", early_answer())] {
        backends.script(case, vec![fails]);
        let mut wire = super::client::Wire::open(proxy.address).await;
        let smuggled = Ask::new("GET", "/smuggled", &proxy.key).case("smuggled").bytes();
        let body = [bytes(60_000), smuggled.repeat(50)].concat();
        let upload = Ask::new("POST", "/x", &proxy.key).case(case).body(body).bytes();
        wire.send(&upload[..30_000]).await;
        let answer = wire.answer().await;
        assert!(matches!(answer.status, 413 | 502), "{case}: {} {}", answer.head, answer.text());
        wire.send(&upload[30_000..]).await;
        let _ = wire.rest().await;
        assert!(backends.seen("smuggled").is_empty(), "{case}: a body is a body");
    }
}

/// A declared length is refused with the head; an undeclared one when it has come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_over_the_limit_is_refused_whenever_it_shows() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup { limits: "{ body_bytes: 100KiB }", ..Setup::of(&backends) });
    for framing in Framing::ALL {
        let case = format!("{framing:?}");
        let ask = Ask::new("PUT", "/x", &proxy.key).body(bytes(150_000)).framing(framing).case(&case);
        let answer = ask.send(proxy.address).await;
        answer.assert_error(413, "invalid_request_error", "request_too_large", None);
        assert!(backends.seen(&case).is_empty(), "{case}: no backend took it for a request");
    }
}

/// A backend that says no before it has read the body.
fn early_answer() -> super::backend::Script {
    let head = b"HTTP/1.1 413 X\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno";
    vec![Act::BodyUnread, Act::Say(head.to_vec()), say::pause(200), Act::Close]
}

/// A dead backend is not sent to; one that comes back by a probe would be another test (the probe's own).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_tried_elsewhere_whatever_the_method() {
    let backends = Backends::start(1).await;
    let dead = super::proxy::free_port();
    let addresses = [dead, backends.addresses[0]];
    let pool = Pool { name: "p", model: "m", backends: &addresses, yaml: &[] };
    let proxy = Proxy::start(&Setup { pools: vec![pool], ..Setup::default() });
    for method in ["POST", "PUT", "POST", "PUT"] {
        let body = bytes(200_000);
        let answer = Ask::new(method, "/x", &proxy.key).body(body).send(proxy.address).await;
        assert_eq!(answer.status, 200, "{method}: nothing was sent, so it is safe: {}", answer.text());
    }
    assert_eq!(backends.total(), 4, "all arrived, once each");
}
