//! Backends that break HTTP (reliability.md, "Upstream side"): nothing of one answer ever reaches another request, and
//! what has no proper end is never told as one that has.

use super::backend::{Act, Backends, Script};
use super::cases::Cases;
use super::client::{Answer, Ask, Framing};
use super::proxy::{Proxy, Setup};
use super::say::{self, DONE, OK, ROLE, USAGE, delta};
use std::sync::Arc;

/// What the second request of a connection must never see.
const FOREIGN: &str = "FOREIGN";

fn said(text: String) -> Script {
    vec![Act::Say(text.into_bytes())]
}

fn answer(fields: &str, body: &str) -> Script {
    said(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{fields}\r\n{body}"))
}

fn length(text: &str) -> String {
    format!("content-length: {}\r\n", text.len())
}

/// Answers that can be read in two ways, or go on behind their end.
fn rows() -> Vec<(&'static str, Script)> {
    let second = String::from_utf8_lossy(&say::json(200, FOREIGN)).into_owned();
    let two = answer(&length(OK), &format!("{OK}{second}"));
    let longer = answer(&length(OK), &format!("{OK}{FOREIGN}"));
    let chunks = format!("{:x}\r\n{OK}\r\n0\r\n\r\n", OK.len());
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nupgrade: foo\r\nconnection: upgrade\r\n\r\n".to_owned();
    let flood = "HTTP/1.1 100 Continue\r\n\r\n".repeat(200);
    let good = String::from_utf8_lossy(&say::json(200, OK)).into_owned();
    vec![
        ("R1 two lengths", answer(&format!("{}content-length: 5\r\n", length(OK)), OK)),
        ("R2 length and chunks", answer("content-length: 5\r\ntransfer-encoding: chunked\r\n", &chunks)),
        ("R3 a second answer", two),
        ("R3 more than its length", longer),
        ("R3 behind the chunks", answer("transfer-encoding: chunked\r\n", &format!("{chunks}{second}"))),
        ("R4 a flood of 100", said(format!("{flood}{good}"))),
        ("R4 101 unasked", said(format!("{upgrade}{FOREIGN}"))),
        ("R5 204 with a body", said(format!("HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n{FOREIGN}"))),
        ("R7 a head of 2 MiB", answer(&format!("x-big: {}\r\n{}", "a".repeat(2 << 20), length(OK)), OK)),
        ("R8 NUL in a field", answer(&format!("x-a: b\0c\r\n{}", length(OK)), OK)),
        ("R8 CR in a field", answer(&format!("x-a: b\rc\r\n{}", length(OK)), OK)),
    ]
}

fn assert_own(case: &str, answer: &Answer) {
    let known = matches!(answer.status, 200 | 204 | 502 | 0);
    assert!(known, "{case}: an answer of its own or none: {} {}", answer.head, answer.text());
    assert!(!answer.text().contains(FOREIGN), "{case}: nothing foreign: {}", answer.text());
    let whole = answer.status == 200 && answer.complete;
    assert!(!whole || answer.text() == OK, "{case}: a whole answer is the right one: {}", answer.text());
}

async fn one_case(proxy: Arc<Proxy>, backends: Backends, path: &'static str, (name, script): (&'static str, Script)) {
    let case = format!("{name} at {path}");
    // The second attempt, where there is one, is as bad.
    backends.script(&case, vec![script.clone(), script.clone(), script]);
    let body = r#"{"model":"m","messages":[]}"#;
    let ask = |case: &str| Ask::new("POST", path, &proxy.key).body(body).case(case);
    assert_own(&case, &ask(&case).send(proxy.address).await);
    for round in 0..3 {
        let after = ask(&format!("{case} after {round}")).send(proxy.address).await;
        assert_eq!((after.status, after.text().as_str()), (200, OK), "{case}: the next requests get their own");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_breaks_http_never_reaches_another_request() {
    let backends = Backends::start(1).await;
    let proxy = Arc::new(Proxy::start(&Setup::of(&backends)));
    for path in ["/v1/chat/completions", "/x"] {
        // One after the other: the next request must have the chance to get the same connection.
        for row in rows() {
            let mut cases = Cases::new();
            cases.add(format!("{} at {path}", row.0), one_case(Arc::clone(&proxy), backends.clone(), path, row));
            cases.finish().await;
        }
    }
}

/// R9: an event without end is bounded, before the commit point and after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_without_end_ends_the_stream_and_not_the_memory() {
    let backends = Backends::start(2).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let ask = |case: &str| {
        let body = r#"{"model":"m","stream":true,"messages":[]}"#;
        Ask::chat(&proxy.key, body).case(case)
    };
    let endless = |start: &[&str]| {
        let mut script = say::open_stream(start);
        script.push(Act::Say(say::chunk("data: ")));
        script.extend((0..64).map(|_| Act::Say(say::chunk(&"x".repeat(64 << 10)))));
        script.extend([USAGE, DONE].map(|event| Act::Say(say::chunk(event))));
        script.push(Act::Say(say::last_chunk()));
        script
    };
    backends.script("at once", vec![endless(&[ROLE]), say::good_stream()]);
    let answer = ask("at once").send(proxy.address).await;
    assert!(answer.complete, "an end: {} {}", answer.status, answer.text().len());
    backends.script("later", vec![endless(&[ROLE, &delta("He")])]);
    let answer = ask("later").send(proxy.address).await;
    assert!(answer.complete && answer.text().starts_with(&[ROLE, &delta("He")].concat()), "what was whole stays");
}

/// HTTP/1.0 closes behind its answer, and HEAD has no body, whoever answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_client_and_a_head_request_get_an_answer_with_its_end() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let body = r#"{"model":"m","messages":[]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        proxy.key,
        body.len()
    );
    let mut wire = super::client::Wire::open(proxy.address).await;
    wire.send(request.as_bytes()).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, OK), "an answer: {}", answer.head);
    assert_eq!(wire.rest().await, b"", "and the end of the connection");

    let body = r#"{"model":"m","stream":true,"messages":[]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.0\r\nhost: a\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        proxy.key,
        body.len()
    );
    let mut wire = super::client::Wire::open(proxy.address).await;
    wire.send(request.as_bytes()).await;
    let answer = wire.answer().await;
    answer.assert_error(505, "invalid_request_error", "malformed_request", None);

    for (path, key, status) in [("/x", "", "401"), ("/v1/models", proxy.key.as_str(), "200"), ("/x", &proxy.key, "200")]
    {
        let mut wire = super::client::Wire::open(proxy.address).await;
        wire.send(&Ask::new("HEAD", path, key).field("connection", "close").bytes()).await;
        let raw = String::from_utf8_lossy(&wire.rest().await).into_owned();
        assert!(raw.starts_with(&format!("HTTP/1.1 {status}")), "HEAD {path}: {raw}");
        assert!(raw.ends_with("\r\n\r\n"), "no body behind HEAD {path}: {raw}");
    }
}

/// One HTTP/2 connection, many streams: one that its client resets frees its backend, the others go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_one_h2_connection_live_and_die_alone() {
    let backends = Backends::start(1).await;
    let proxy = Proxy::start(&Setup::of(&backends));
    let body = r#"{"model":"m","stream":true,"messages":[]}"#;
    let stream = tokio::net::TcpStream::connect(proxy.address).await.expect("the proxy accepts");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let mut open = Vec::new();
    for number in 0..10 {
        let case = format!("stream {number}");
        let script =
            [say::open_stream(&[ROLE, &delta("He")]), vec![say::pause(if number == 0 { 60_000 } else { 500 })]];
        let rest = [delta("llo"), DONE.to_owned()].map(|event| Act::Say(say::chunk(&event))).to_vec();
        backends.script(&case, vec![[script.concat(), rest, vec![Act::Say(say::last_chunk())]].concat()]);
        let request = http::Request::post("http://test/v1/chat/completions")
            .header("authorization", format!("Bearer {}", proxy.key))
            .header("x-case", &case)
            .body(())
            .expect("a request");
        let (response, mut out) = client.send_request(request, false).expect("a stream");
        out.send_data(bytes::Bytes::from_static(body.as_bytes()), true).expect("a body");
        open.push((response, out));
        client = client.ready().await.expect("ready");
    }
    let mut bodies = Vec::new();
    for (response, out) in open {
        bodies.push((response.await.expect("a head").into_body(), out));
    }
    let (first, mut out) = bodies.remove(0);
    out.send_reset(h2::Reason::CANCEL);
    drop(first);
    let gone = super::cases::eventually(|| backends.gone("stream 0").is_some()).await;
    assert!(gone, "the backend of the reset stream is let go");
    for (mut incoming, _) in bodies {
        let mut text = Vec::new();
        while let Some(piece) = incoming.data().await {
            let piece = piece.expect("a whole body");
            incoming.flow_control().release_capacity(piece.len()).expect("room");
            text.extend_from_slice(&piece);
        }
        assert!(String::from_utf8_lossy(&text).ends_with(DONE), "the others go on to their end");
    }
    // And a client of HTTP/2 is served as well as ever.
    let good = Ask::chat(&proxy.key, body).framing(Framing::H2Open).send(proxy.address).await;
    assert_eq!(good.status, 200, "afterwards: {}", good.text());
}
