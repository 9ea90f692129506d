//! The raw head corpus (reliability.md, HTTP/1 strictness): a head that could be read in two ways is refused and its
//! connection closed, with not one byte of it upstream.

use super::backend::Backends;
use super::cases::Cases;
use super::client::{Ask, Wire};
use super::framing::chat_body;
use super::proxy::{Proxy, Setup};
use std::sync::Arc;
use std::time::Duration;

const BAD: &[u16] = &[400];
const CODING: &[u16] = &[400, 501];
const VERSION: &[u16] = &[400, 505];
const LARGE: &[u16] = &[400, 431];
const METHOD: &[u16] = &[400, 405];

/// Another request behind the bad one, as a smuggler would send it.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// Fields behind a good request line, `Host` and a good key; each ends the head and may go on with a body.
const FIELDS: &[(&str, &str, &[u16])] = &[
    ("S01 length and chunks", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    ("S02 chunks and length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", BAD),
    ("S03 two lengths", "Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde", BAD),
    ("S04 one length twice", "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", BAD),
    ("S05 length list", "Content-Length: 3, 3\r\n\r\nabc", BAD),
    ("S06 length with a sign", "Content-Length: +3\r\n\r\nabc", BAD),
    ("S07 length in hex", "Content-Length: 0x3\r\n\r\nabc", BAD),
    ("S08 negative length", "Content-Length: -3\r\n\r\nabc", BAD),
    ("S09 empty length", "Content-Length:\r\n\r\n", BAD),
    ("S10 length over 64 bits", "Content-Length: 18446744073709551619\r\n\r\nabc", BAD),
    ("S11 blank in the length", "Content-Length: 3 3\r\n\r\nabc", BAD),
    ("S12 blank before the colon", "Content-Length : 3\r\n\r\nabc", BAD),
    ("S13 tab before the colon", "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", BAD),
    ("S14 unknown coding and length", "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n\r\nabcde", CODING),
    ("S15 unknown coding", "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", CODING),
    ("S16 identity, chunked", "Transfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n", CODING),
    ("S17 identity", "Transfer-Encoding: identity\r\n\r\n", CODING),
    ("S18 leading comma", "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", CODING),
    ("S19 trailing comma", "Transfer-Encoding: chunked,\r\n\r\n0\r\n\r\n", CODING),
    ("S20 folded coding", "Transfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\nabcde", BAD),
    ("S21 folded field", "X-A: b\r\n c\r\n\r\n", BAD),
    ("S22 chunked twice", "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", CODING),
    ("S23 two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", CODING),
    ("S25 control in the coding", "Transfer-Encoding: \u{b}chunked\r\n\r\n0\r\n\r\n", CODING),
    ("S37 one bare LF", "X-A: b\nX-C: d\r\n\r\n", BAD),
    ("S38 NUL in a value", "X-A: b\0c\r\n\r\n", BAD),
    ("S39 CR in a value", "X-A: b\rX-C: d\r\n\r\n", BAD),
    ("S40 two hosts", "Host: b\r\n\r\n", BAD),
    ("S48 no colon", "X-A\r\n\r\n", BAD),
    ("S49 no name", ": x\r\n\r\n", BAD),
    ("S53 name of two words", "X A: b\r\n\r\n", BAD),
    ("S54 name beyond ASCII", "X-\u{e4}: b\r\n\r\n", BAD),
];

/// Whole heads.
const HEADS: &[(&str, &str, &[u16])] = &[
    ("S36 lines in bare LF", "POST /x HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc", BAD),
    ("S41 no host", "GET /x HTTP/1.1\r\nX-A: b\r\n\r\n", BAD),
    ("S47 blank before the first field", "GET /x HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n", BAD),
    ("S50 version 1.2", "GET /x HTTP/1.2\r\nHost: a\r\n\r\n", VERSION),
    ("S50 no version", "GET /x\r\n\r\n", VERSION),
    ("S50 version 2.0", "GET /x HTTP/2.0\r\nHost: a\r\n\r\n", VERSION),
    ("S50 small version", "GET /x http/1.1\r\nHost: a\r\n\r\n", VERSION),
    ("S51 no method", " /x HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    ("S51 odd method", "G(T /x HTTP/1.1\r\nHost: a\r\n\r\n", METHOD),
    ("S52 blank in the target", "GET /x y HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    ("S52 NUL in the target", "GET /x\0y HTTP/1.1\r\nHost: a\r\n\r\n", BAD),
    ("S56 chunks in 1.0", "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", CODING),
    ("S57 CONNECT", "CONNECT internal:22 HTTP/1.1\r\nHost: internal:22\r\n\r\n", METHOD),
    ("S65 empty host", "GET /x HTTP/1.1\r\nHost:\r\n\r\n", BAD),
    ("S65 blank in the host", "GET /x HTTP/1.1\r\nHost: a b\r\n\r\n", BAD),
];

/// Targets that another reader could take for another path.
const TARGETS: &[&str] = &["/v1/../admin", "/v1/%2e%2e/admin", "/v1/%2E./admin", "//admin", "/v1;x/../y", "/./x"];

async fn refused(proxy: Arc<Proxy>, bytes: Vec<u8>, statuses: &'static [u16]) {
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&bytes).await;
    let answer = wire.answer().await;
    assert!(statuses.contains(&answer.status), "{statuses:?} was due: {} {}", answer.head, answer.text());
    answer.assert_error(answer.status, "invalid_request_error", "malformed_request", None);
    assert_eq!(answer.header("connection"), "close", "it says that it closes: {}", answer.head);
    assert_eq!(wire.rest().await, b"", "nothing follows, and the connection is closed");
}

fn corpus(key: &str) -> Vec<(String, Vec<u8>, &'static [u16])> {
    let auth = format!("Authorization: Bearer {key}\r\n");
    let mut all = Vec::new();
    for (name, fields, statuses) in FIELDS {
        for path in ["/v1/chat/completions", "/x"] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\n{auth}{fields}{SMUGGLED}");
            all.push((format!("{name} at {path}"), head.into_bytes(), *statuses));
        }
    }
    for (name, head, statuses) in HEADS {
        let (line, rest) = head.split_at(head.find('\n').map_or(0, |at| at + 1));
        let with_key = if head.contains("\r\n") { format!("{line}{rest}") } else { (*head).to_owned() };
        all.push(((*name).to_owned(), [with_key.as_bytes(), SMUGGLED.as_bytes()].concat(), *statuses));
    }
    for target in TARGETS {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{auth}\r\n");
        all.push((format!("S64 {target}"), head.into_bytes(), BAD));
    }
    let large = format!("GET /x HTTP/1.1\r\nHost: a\r\n{auth}X-Big: {}\r\n\r\n", "a".repeat(70 << 10));
    all.push(("S62 a head of 70 KiB".to_owned(), large.into_bytes(), LARGE));
    let endless = format!("GET /x HTTP/1.1\r\nHost: a\r\n{auth}X-Big: {}", "a".repeat(200 << 10));
    all.push(("S62 a head without end".to_owned(), endless.into_bytes(), LARGE));
    let many = "X-A: b\r\n".repeat(400);
    all.push(("400 fields".to_owned(), format!("GET /x HTTP/1.1\r\nHost: a\r\n{auth}{many}\r\n").into_bytes(), LARGE));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_breaks_http_is_refused_and_leaves_no_byte_upstream() {
    let backends = Backends::start(1).await;
    let proxy = Arc::new(Proxy::start(&Setup::of(&backends)));
    let mut cases = Cases::new();
    for (name, bytes, statuses) in corpus(&proxy.key) {
        cases.add(name, refused(Arc::clone(&proxy), bytes, statuses));
    }
    cases.finish().await;
    assert_eq!(backends.bytes(), 0, "not one byte went upstream");
}

/// Chunks that two readers could end in different places. A model call's body is read before anything goes upstream;
/// on the stock path the head is out already, so the upstream connection must not be used again.
const CHUNKS: &[(&str, &str)] = &[
    ("S24 size line in bare LF", "3\nabc\r\n0\r\n\r\n"),
    ("S26 lone CR in an extension", "3;a\rb\r\nabc\r\n0\r\n\r\n"),
    ("S28 data ends in bare LF", "3\r\nabc\n0\r\n\r\n"),
    ("S29 data too long", "3\r\nabcd\r\n0\r\n\r\n"),
    ("S31 size of letters", "xyz\r\nabc\r\n0\r\n\r\n"),
    ("S33 size over 64 bits", "FFFFFFFFFFFFFFFF1\r\nabc\r\n0\r\n\r\n"),
];

async fn broken_chunks(
    proxy: Arc<Proxy>,
    backends: Backends,
    path: &'static str,
    (name, body): (&'static str, &'static str),
) {
    let case = format!("{name} at {path}");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: a\r\nx-case: {case}\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        proxy.key
    );
    let mut wire = Wire::open(proxy.address).await;
    wire.send(format!("{head}{body}{SMUGGLED}").as_bytes()).await;
    let answer = wire.answer().await;
    answer.assert_error(400, "invalid_request_error", "malformed_request", None);
    assert_eq!(wire.rest().await, b"", "nothing follows, and the connection is closed");
    assert!(backends.seen(&case).is_empty(), "no backend took it for a request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_break_http_are_refused_and_never_become_a_request() {
    let backends = Backends::start(1).await;
    let proxy = Arc::new(Proxy::start(&Setup::of(&backends)));
    let table = |path: &'static str| {
        let mut cases = Cases::new();
        for row in CHUNKS {
            cases.add(format!("{} at {path}", row.0), broken_chunks(Arc::clone(&proxy), backends.clone(), path, *row));
        }
        cases.finish()
    };
    table("/v1/chat/completions").await;
    assert_eq!(backends.bytes(), 0, "of a model call not one byte went upstream");
    table("/x").await;
    let good = Ask::new("GET", "/x", &proxy.key).case("good").send(proxy.address).await;
    assert_eq!(good.status, 200, "a good request afterwards: {}", good.text());
    assert_eq!(backends.total(), 1, "and it is the only one that a backend understood");
}

/// Heads that are unusual and good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_requests_pass_whatever_stands_around_them() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let good = |case: &str| Ask::new("GET", "/x", &proxy.key).case(case).bytes();

    let mut wire = Wire::open(proxy.address).await;
    for round in ["one", "two", "three"] {
        wire.send(&good(round)).await;
        assert_eq!(wire.answer().await.status, 200, "{round}: good requests share a connection");
    }
    wire.send(b"GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na").await;
    wire.answer().await.assert_error(400, "invalid_request_error", "malformed_request", None);
    assert_eq!(wire.rest().await, b"", "a bad one ends it");

    let body = chat_body(3000);
    let bytes = Ask::chat(&proxy.key, body).case("in pieces").bytes();
    let mut wire = Wire::open(proxy.address).await;
    for piece in [&bytes[..7], &bytes[7..60], &bytes[60..300], &bytes[300..]] {
        wire.send(piece).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(wire.answer().await.status, 200, "a head and a body in four pieces");

    let mut wire = Wire::open(proxy.address).await;
    let stranger = b"GET /x HTTP/1.1\r\nhost: a\r\nx-case: pipelined stranger\r\n\r\n";
    wire.send(&[good("pipelined"), stranger.to_vec()].concat()).await;
    assert_eq!(wire.answer().await.status, 200, "the first of two pipelined requests");
    wire.stream.set_nodelay(true).expect("still open");
    let second = tokio::time::timeout(Duration::from_secs(2), wire.answer()).await;
    assert!(
        second.is_err() || second.is_ok_and(|answer| matches!(answer.status, 0 | 401)),
        "the second stands for itself"
    );
    assert!(backends.seen("pipelined stranger").is_empty(), "it has no key of its own");

    // Pipelining is off: a second request that comes while the first still runs is refused, and never without a word.
    for path in ["/x", "/v1/chat/completions"] {
        let case = format!("late at {path}");
        backends.script(&case, vec![[vec![super::say::pause(300)], super::say::good()].concat()]);
        let ask = Ask::new("POST", path, &proxy.key).body(r#"{"model":"m","messages":[]}"#).case(&case);
        let mut wire = Wire::open(proxy.address).await;
        wire.send(&ask.bytes()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        wire.send(stranger).await;
        wire.answer().await.assert_error(400, "invalid_request_error", "malformed_request", None);
        assert_eq!(wire.rest().await, b"", "{case}: and the connection is closed");
    }

    // S59: an encoded break is refused in a path and stays encoded in a query.
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&Ask::new("GET", "/x%0d%0aX:%20y", &proxy.key).bytes()).await;
    wire.answer().await.assert_error(400, "invalid_request_error", "malformed_request", None);
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&Ask::new("GET", "/x?a=%0d%0aX:%20y", &proxy.key).case("S59").bytes()).await;
    assert_eq!(wire.answer().await.status, 200, "S59: encoded breaks in a query");
    let line = backends.seen("S59")[0].head.lines().next().map(str::to_owned);
    assert_eq!(line.as_deref(), Some("GET /x?a=%0d%0aX:%20y HTTP/1.1"), "they stay encoded");
}

/// S42, S45, S55, S67, S68: bytes behind a request are never a request that nobody authenticated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_request_is_never_smuggled_in() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let auth = format!("Host: a\r\nAuthorization: Bearer {}\r\n", proxy.key);
    let upgrade =
        format!("GET /up HTTP/1.1\r\n{auth}x-case: S42\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n{SMUGGLED}");
    let expect = format!(
        "POST /ex HTTP/1.1\r\n{auth}x-case: S45\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n{SMUGGLED}",
        SMUGGLED.len()
    );
    let hops =
        format!("GET /hop HTTP/1.1\r\n{auth}x-case: S55\r\nConnection: close, authorization, x-request-id\r\n\r\n");
    let longer = format!("POST /long HTTP/1.1\r\n{auth}x-case: S67\r\nContent-Length: 3\r\n\r\nabc{SMUGGLED}");
    for bytes in [upgrade, expect, hops, longer] {
        let mut wire = Wire::open(proxy.address).await;
        wire.send(bytes.as_bytes()).await;
        let answer = wire.answer().await;
        assert!(matches!(answer.status, 200 | 400), "answered or refused: {} {}", answer.head, answer.text());
    }
    for case in ["S42", "S45", "S55", "S67"] {
        for seen in backends.seen(case) {
            assert_eq!(seen.headers("upgrade"), Vec::<String>::new(), "{case}: no upgrade: {}", seen.head);
            assert_eq!(seen.headers("authorization"), Vec::<String>::new(), "{case}: no key: {}", seen.head);
            assert!(!seen.header("x-request-id").is_empty(), "{case}: Weir's own fields stay: {}", seen.head);
        }
    }
    // S30: Pingora's parser (httparse) takes an empty size for 0, so the body ends here for Weir and nowhere for others.
    let empty = format!(
        "POST /v1/chat/completions HTTP/1.1\r\n{auth}Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n{SMUGGLED}"
    );
    let mut wire = Wire::open(proxy.address).await;
    wire.send(empty.as_bytes()).await;
    assert_eq!(wire.answer().await.status, 400, "S30: no body");
    let nominated = format!("POST /x HTTP/1.1\r\n{auth}Content-Length: 0\r\nConnection: close, host\r\n\r\n");
    let mut wire = Wire::open(proxy.address).await;
    wire.send(nominated.as_bytes()).await;
    wire.answer().await.assert_error(400, "invalid_request_error", "malformed_request", None);
    let unread = format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nabc{SMUGGLED}");
    let mut wire = Wire::open(proxy.address).await;
    wire.send(unread.as_bytes()).await;
    wire.answer().await.assert_error(401, "invalid_request_error", "invalid_api_key", None);
    drop(wire);
    assert!(backends.total() <= 4, "at most one request for each that had a key: {}", backends.total());
}

/// One deadline for the whole head, whatever trickles in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_head_is_ended_by_one_deadline() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup { limits: "{ header_timeout: 1s, idle_timeout: 2s }", ..Setup::of(&backends) });
    let bytes = Ask::new("GET", "/x", &proxy.key).bytes();
    let mut wire = Wire::open(proxy.address).await;
    let trickle = async {
        for byte in &bytes {
            wire.send(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // It would take ten times the limit.
    assert!(tokio::time::timeout(Duration::from_secs(3), trickle).await.is_err(), "the head is still incomplete");
    let answer = wire.answer().await;
    answer.assert_error(408, "invalid_request_error", "request_timeout", None);
    assert_eq!(wire.rest().await, b"", "and the connection is closed");
    let mut idle = Wire::open(proxy.address).await;
    assert_eq!(idle.rest().await, b"", "a connection that says nothing is closed without a word");
    assert_eq!(backends.bytes(), 0, "nothing of it went upstream");
}
