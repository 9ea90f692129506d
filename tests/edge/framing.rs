//! Every framing × size × retry × Expect of a model call: the body reaches the backend byte for byte but for the
//! documented splice, or is refused with nothing upstream; nothing hangs (pingora.md §14.8, the regression matrix).

use super::backend::{Act, Backends, Script, Seen};
use super::cases::Cases;
use super::client::{Answer, Ask, Framing, Wire};
use super::proxy::{Proxy, Setup};
use super::say;
use std::sync::Arc;
use std::time::Duration;

/// 64 KiB is Pingora's own retry buffer.
const EDGE: usize = 64 << 10;
const SIZES: [usize; 7] = [0, 1, EDGE - 1, EDGE, EDGE + 1, 200_000, 5_000_000];

/// A chat request of exactly `size` bytes, whose content never repeats at a buffer's distance.
pub fn chat_body(size: usize) -> Vec<u8> {
    let (head, tail) = (r#"{"model":"m","messages":[{"role":"user","content":""#, r#""}]}"#);
    if size < head.len() + tail.len() {
        return vec![b'{'; size];
    }
    let mut body = head.as_bytes().to_vec();
    let mut number = 0;
    while body.len() + tail.len() < size {
        body.extend_from_slice(format!("{number} ").as_bytes());
        number += 1;
    }
    body.truncate(size - tail.len());
    body.extend_from_slice(tail.as_bytes());
    assert_eq!(body.len(), size, "the body has the asked size");
    body
}

/// The client's body back from what the backend got: Weir sets a `cache_salt` of its own as the first member.
fn unspliced(sent: &[u8]) -> Vec<u8> {
    let salted = sent.strip_prefix(b"{\"cache_salt\":\"").expect("a cache salt in front");
    let end = memchr::memchr(b'"', salted).expect("the end of the salt");
    let rest = salted[end..].strip_prefix(b"\",").expect("a comma behind the salt");
    [b"{", rest].concat()
}

fn assert_framed(seen: &Seen, body: &[u8]) {
    assert!(
        unspliced(&seen.body) == body,
        "the backend got another body ({} bytes, sent {})",
        seen.body.len(),
        body.len()
    );
    assert_eq!(seen.header("content-length"), seen.body.len().to_string(), "the length is the body's: {}", seen.head);
    assert_eq!(seen.headers("transfer-encoding"), Vec::<String>::new(), "one framing upstream: {}", seen.head);
    assert_eq!(seen.headers("expect"), Vec::<String>::new(), "Expect is Weir's to answer: {}", seen.head);
}

fn assert_answered(answer: &Answer) {
    assert_eq!((answer.status, answer.text().as_str()), (200, say::OK), "the backend's answer: {}", answer.head);
    assert!(answer.complete, "the answer is whole");
    answer.request_id();
}

/// How the first attempt fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Good,
    /// Reset once the body was read.
    Reset,
    /// Reset with the body unread: the upload breaks.
    ResetEarly,
}

impl First {
    fn scripts(self) -> Vec<Script> {
        match self {
            Self::Good => vec![say::good()],
            Self::Reset => vec![vec![Act::Reset], say::good()],
            Self::ResetEarly => vec![vec![Act::BodyUnread, Act::Reset], say::good()],
        }
    }
}

async fn one_case(proxy: Arc<Proxy>, backends: Backends, (ask, body, first): (Ask, Vec<u8>, First), case: String) {
    backends.script(&case, first.scripts());
    let answer = ask.case(&case).send(proxy.address).await;
    let seen = backends.seen(&case);
    if body.len() < 2 {
        answer.assert_error(400, "invalid_request_error", "invalid_json", None);
        assert!(seen.is_empty(), "a body that is no JSON leaves nothing upstream");
        return;
    }
    assert_answered(&answer);
    assert_eq!(seen.len(), if first == First::Good { 1 } else { 2 }, "attempts");
    for attempt in &seen {
        if attempt.body.is_empty() && first == First::ResetEarly {
            continue;
        }
        assert_framed(attempt, &body);
    }
    if let [one, two] = &seen[..] {
        assert_ne!(one.backend, two.backend, "the retry goes to another backend");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_framing_size_and_retry_brings_the_body_whole() {
    let backends = Backends::start(2).await;
    let proxy = Arc::new(Proxy::start(&Setup::of(&backends)));
    let mut cases = Cases::new();
    for size in SIZES {
        let body = chat_body(size);
        for framing in Framing::ALL {
            for first in [First::Good, First::Reset, First::ResetEarly] {
                for expect in [false, true] {
                    let name = format!("{framing:?} {size} {first:?} expect={expect}");
                    let ask = Ask::chat(&proxy.key, body.clone()).framing(framing).expecting(expect);
                    let parts = (ask, body.clone(), first);
                    cases.add(name.clone(), one_case(Arc::clone(&proxy), backends.clone(), parts, name));
                }
            }
        }
    }
    cases.finish().await;
}

/// curl waits a second for `100 Continue` and then sends all the same; a proxy that leaves it waiting costs every
/// large upload that second. "Far less" is half of it here, for two busy cores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expectation_is_answered_at_once_and_only_where_the_body_is_wanted() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup { limits: "{ body_bytes: 1KiB }", ..Setup::of(&backends) });
    for framing in [Framing::Length, Framing::Chunked] {
        let answer = Ask::chat(&proxy.key, chat_body(500)).framing(framing).expecting(true).send(proxy.address).await;
        assert_answered(&answer);
        let continued = answer.continued.expect("100 Continue before the body was sent");
        assert!(continued < Duration::from_millis(500), "{framing:?}: 100 Continue took {continued:?}");
    }
    let total = backends.total();
    let large = Ask::chat(&proxy.key, chat_body(2000)).expecting(true).send(proxy.address).await;
    large.assert_error(413, "invalid_request_error", "request_too_large", None);
    assert_eq!(large.continued, None, "nobody is asked to send what is refused by its length");
    let stranger = Ask::chat("", chat_body(500)).expecting(true).send(proxy.address).await;
    stranger.assert_error(401, "invalid_request_error", "invalid_api_key", None);
    assert_eq!(stranger.continued, None, "nobody is asked to send before the head is accepted");
    assert_eq!(backends.total(), total, "neither reached the backend");
}

/// One connection, many requests: what is left of one body must never become the next head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_serves_one_framing_after_the_other() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let mut wire = Wire::open(proxy.address).await;
    for (number, size) in [EDGE + 1, 100, 200_000, EDGE].into_iter().enumerate() {
        for framing in [Framing::Chunked, Framing::Length] {
            let (case, body) = (format!("{number} {framing:?}"), chat_body(size));
            wire.send(&Ask::chat(&proxy.key, body.clone()).framing(framing).case(&case).bytes()).await;
            assert_answered(&wire.answer().await);
            assert_framed(&backends.seen(&case)[0], &body);
        }
    }
    let connections: std::collections::BTreeSet<_> =
        (0..4).map(|number| backends.seen(&format!("{number} Length"))[0].connection).collect();
    assert_eq!(connections.len(), 1, "one upstream connection serves requests that follow each other");
}

/// A pooled connection of the stock path must never serve a model call: Pingora would wait there for a body that the
/// connector alone can send, and the backend with it, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_call_never_takes_a_plain_requests_connection() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    for round in ["one", "two"] {
        let plain = Ask::new("GET", "/x", &proxy.key).case(round).send(proxy.address).await;
        assert_eq!(plain.status, 200, "{round}: a plain request leaves a connection behind: {}", plain.text());
        assert_answered(&Ask::chat(&proxy.key, chat_body(500)).send(proxy.address).await);
    }
}
