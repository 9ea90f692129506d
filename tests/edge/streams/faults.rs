//! How the first attempt may fail, before and after the commit point.

use super::super::backend::{Act, Script};
use super::super::cases::Cases;
use super::super::client::{Ask, Framing};
use super::super::say::{self, DONE, ERROR, OK, ROLE, USAGE, VALID_4XX, delta};
use super::{Expect, Row, Stage, chat, interruption};

/// The head and the role preamble, then these acts.
fn preamble_then(acts: impl IntoIterator<Item = Act>) -> Script {
    let mut script = say::open_stream(&[ROLE]);
    script.extend(acts);
    script
}

fn chunked(status: u16, body: &str) -> Script {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
    vec![Act::Say(head.into_bytes()), Act::Say(say::chunk(body)), Act::Say(say::last_chunk())]
}

/// A whole stream in one Content-Length body.
fn with_length() -> Script {
    let body = say::events().concat();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n", body.len());
    vec![Act::Say(head.into_bytes()), Act::Say(body.into_bytes())]
}

/// A whole stream in chunks of seven bytes, each its own write.
fn crumbs() -> Script {
    let body = say::events().concat();
    let mut script = vec![Act::Say(say::sse_head())];
    for piece in body.as_bytes().chunks(7) {
        script.push(Act::Say(say::chunk(std::str::from_utf8(piece).expect("ASCII"))));
    }
    script.push(Act::Say(say::last_chunk()));
    script
}

fn interim_first() -> Script {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n";
    [vec![Act::Say(interim.to_vec()), say::pause(50)], say::good_stream()].concat()
}

fn rows() -> Vec<Row> {
    let last = Act::Say(say::last_chunk());
    let error = Act::Say(say::chunk(ERROR));
    vec![
        Row::showing("good", say::good_stream(), say::shown()),
        Row::showing("good", say::good_stream(), say::shown()).h2(),
        Row::failing("preamble, reset", preamble_then([Act::Reset])),
        Row::failing("preamble, reset", preamble_then([Act::Reset])).h2(),
        Row::failing("preamble, close", preamble_then([Act::Close])),
        Row::failing("preamble, clean end", preamble_then([last.clone()])),
        Row::failing("preamble, error event", preamble_then([error.clone(), Act::Hold])),
        Row::failing("head, error event", vec![Act::Say(say::sse_head()), error, last.clone()]),
        Row::failing("head, reset", vec![Act::Say(say::sse_head()), Act::Reset]),
        Row::failing("reset before the head", vec![Act::Reset]),
        Row::failing("close before the head", vec![Act::Close]),
        Row::failing("silent after the preamble", preamble_then([Act::Hold])).model("hasty"),
        Row::failing("silent before the head", vec![Act::Hold]).model("hasty"),
        Row::failing("silent before the head", vec![Act::Hold]).model("hasty").h2(),
        Row::failing("503 with a length", say::answer(503, "{\"busy\":true}")),
        Row::failing("503 with a length", say::answer(503, "{\"busy\":true}")).h2(),
        Row::failing("500 of a megabyte", say::answer(500, &"x".repeat(1 << 20))),
        Row::failing("429 chunked", chunked(429, "{\"slow\":true}")),
        Row::showing("100 and 103 first", interim_first(), say::shown()),
        Row::showing("a length", with_length(), say::shown()),
        Row::showing("crumbs", crumbs(), say::shown()),
        Row::showing("crumbs", crumbs(), say::shown()).h2(),
        Row::showing(
            "end without last chunk",
            [say::open_stream(&[ROLE, &delta("He"), &delta("llo"), USAGE, DONE]), vec![Act::Close]].concat(),
            say::shown(),
        ),
    ]
}

/// After the commit point: what the upstream does there, and what stays of it.
fn breaks() -> Vec<(&'static str, Vec<Act>)> {
    let torn = delta("llo");
    let half = Act::Say(say::chunk(&torn[..torn.len() / 2]));
    vec![
        ("cut inside an event", vec![half.clone(), Act::Reset]),
        ("closed inside an event", vec![half.clone(), Act::Close]),
        ("ended inside an event", vec![half, Act::Say(say::last_chunk())]),
        ("reset between events", vec![Act::Reset]),
        ("ended without [DONE]", vec![Act::Say(say::last_chunk())]),
        ("an error event", vec![Act::Say(say::chunk(ERROR)), Act::Hold]),
        ("broken chunks", vec![Act::Say(b"zz\r\n".to_vec()), Act::Hold]),
    ]
}

async fn one_break(stage: Stage, case: String, framing: Framing, then: Vec<Act>) {
    let script = [say::open_stream(&[ROLE, &delta("He")]), vec![say::pause(50)], then].concat();
    stage.backends.script(&case, vec![script, say::good_stream()]);
    let answer = stage.ask("m", &case).framing(framing).send(stage.proxy.address).await;
    let (before, event) = interruption(&answer);
    assert_eq!(before, [ROLE, &delta("He")].concat(), "whole events stay, the torn one goes");
    assert_eq!(event["error"]["code"], "upstream_stream_interrupted", "what happened: {event}");
    assert_eq!(stage.backends.seen(&case).len(), 1, "no second attempt after the commit point");
    stage.expect(&case, Expect { status: "upstream_error_mid", tries: 1, tokens: None });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_before_the_first_output_is_invisible_and_one_after_it_is_one_error_event() {
    let stage = Stage::open().await;
    let mut cases = Cases::new();
    for row in rows() {
        cases.add(row.case.clone(), row.run(stage.clone()));
    }
    for (name, then) in breaks() {
        for framing in [Framing::Length, Framing::H2Length] {
            let case = format!("{name} {framing:?}");
            cases.add(case.clone(), one_break(stage.clone(), case, framing, then.clone()));
        }
    }
    cases.finish().await;
    stage.settle();
}

/// A JSON answer is held to the same: nothing is shown before its first byte.
async fn documents(stage: Stage) {
    let ask = |case: &str| Ask::chat(&stage.proxy.key, r#"{"model":"m","messages":[]}"#).case(case);
    for (case, first) in [("json, reset", vec![Act::Reset]), ("json, 502", say::answer(502, "bad gateway"))] {
        stage.backends.script(case, vec![first, say::good()]);
        let answer = ask(case).send(stage.proxy.address).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, OK), "{case}: the second backend's answer");
        stage.expect(case, Expect { status: "completed", tries: 2, tokens: Some((7, 2)) });
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    for (case, cut) in [
        ("json with a length, cut", format!("{head}content-length: 1000\r\n\r\n{{\"id\":")),
        ("json in chunks, cut", format!("{head}transfer-encoding: chunked\r\n\r\n6\r\n{{\"id\":\r\n")),
    ] {
        stage.backends.script(case, vec![vec![Act::Say(cut.into_bytes()), say::pause(50), Act::Reset], say::good()]);
        let answer = ask(case).send(stage.proxy.address).await;
        let whole = answer.complete && answer.text() == OK;
        assert!(!answer.complete || whole, "{case}: a broken body never ends cleanly: {answer:?}");
        let tries = stage.backends.seen(case).len();
        let status = if whole { "completed" } else { "upstream_error_mid" };
        stage.expect(case, Expect { status, tries, tokens: None });
    }
}

/// Upstream answers that are no answers: what the client is told, in OpenAI's shape.
async fn errors(stage: Stage) {
    let busy = || say::answer(503, "{\"busy\":true}");
    stage.backends.script("all 503", vec![busy(), busy(), busy(), say::good_stream()]);
    let answer = stage.ask("m", "all 503").send(stage.proxy.address).await;
    answer.assert_error(502, "server_error", "upstream_error", None);
    assert_eq!(stage.backends.seen("all 503").len(), 3, "at most two more attempts");
    stage.expect("all 503", Expect { status: "upstream_error_pre", tries: 3, tokens: None });

    let noise = vec![Act::Say(b"SSH-2.0-OpenSSH\r\n\r\n".to_vec()), Act::Hold];
    stage.backends.script("no HTTP", vec![noise, say::good_stream()]);
    let answer = stage.ask("m", "no HTTP").send(stage.proxy.address).await;
    answer.assert_error(502, "server_error", "upstream_error", None);
    stage.expect("no HTTP", Expect { status: "upstream_error_pre", tries: 1, tokens: None });

    let limited = || {
        let head = "HTTP/1.1 429 X\r\ncontent-type: application/json\r\nretry-after: 7\r\ncontent-length: ";
        vec![Act::Say(format!("{head}{}\r\n\r\n{VALID_4XX}", VALID_4XX.len()).into_bytes())]
    };
    stage.backends.script("all 429", vec![limited(), limited(), limited(), say::good_stream()]);
    let answer = stage.ask("m", "all 429").send(stage.proxy.address).await;
    assert_eq!((answer.status, answer.text().as_str()), (429, VALID_4XX), "the last one's own words");
    assert_eq!(answer.header("retry-after"), "7", "and when to come back: {}", answer.head);
    stage.expect("all 429", Expect { status: "upstream_error_pre", tries: 3, tokens: None });

    for status in [401, 403] {
        let case = format!("upstream {status}");
        stage.backends.script(&case, vec![say::answer(status, VALID_4XX), say::good_stream()]);
        let answer = stage.ask("m", &case).send(stage.proxy.address).await;
        answer.assert_error(502, "server_error", "upstream_auth_error", None);
        assert_eq!(stage.backends.seen(&case).len(), 1, "our credential is as wrong at the next one");
        stage.expect(&case, Expect { status: "upstream_error_pre", tries: 1, tokens: None });
    }

    let head = "HTTP/1.1 422 X\r\ncontent-type: application/json\r\nx-ratelimit-remaining-requests: 7\r\nserver: uvicorn\r\n\
        set-cookie: a=b\r\nopenai-organization: o\r\ncontent-length: ";
    let said = format!("{head}{}\r\n\r\n{VALID_4XX}", VALID_4XX.len());
    stage.backends.script("valid 4xx", vec![vec![Act::Say(said.into_bytes())]]);
    let answer = stage.ask("m", "valid 4xx").send(stage.proxy.address).await;
    assert_eq!((answer.status, answer.text().as_str()), (422, VALID_4XX), "a good error passes verbatim");
    for withheld in ["x-ratelimit-remaining-requests", "server", "set-cookie", "openai-organization"] {
        assert_eq!(answer.header(withheld), "", "{withheld} is the upstream's own: {}", answer.head);
    }
    answer.request_id();
    stage.expect("valid 4xx", Expect { status: "upstream_error_pre", tries: 1, tokens: None });

    stage.backends.script("odd 4xx", vec![say::answer(400, r#"{"detail":"prompt too long"}"#)]);
    let answer = stage.ask("m", "odd 4xx").send(stage.proxy.address).await;
    let value = answer.json();
    assert_eq!(answer.status, 400, "the status stays: {value}");
    let mut keys: Vec<&String> = value["error"].as_object().expect("wrapped once").keys().collect();
    keys.sort();
    assert_eq!(keys, ["code", "message", "param", "type"], "OpenAI's shape: {value}");
    stage.expect("odd 4xx", Expect { status: "upstream_error_pre", tries: 1, tokens: None });
}

/// The other dialects end in their own way.
async fn dialects(stage: Stage) {
    let start = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m1\",\"model\":\"m\",\"usage\":{\"input_tokens\":7,\"output_tokens\":1}}}\n\n";
    let text = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"He\"}}\n\n";
    let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r1\"}}\n\n";
    let output =
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"He\"}\n\n";
    let kinds = [
        (
            "/v1/messages",
            r#"{"model":"m","max_tokens":9,"stream":true,"messages":[]}"#,
            [start, text],
            "event: error\n",
        ),
        ("/v1/responses", r#"{"model":"m","stream":true,"input":"x"}"#, [created, output], "event: response.failed\n"),
    ];
    for (path, body, events, last) in kinds {
        let script = [say::open_stream(&events), vec![say::pause(50), Act::Reset]].concat();
        stage.backends.script(path, vec![vec![Act::Reset], script]);
        let ask = Ask::new("POST", path, &stage.proxy.key).body(body).case(path);
        let answer = ask.send(stage.proxy.address).await;
        let told = answer.text();
        assert_eq!(answer.status, 200, "{path}: {told}");
        let tail = told.strip_prefix(&events.concat()).unwrap_or_else(|| panic!("{path}: the events first: {told}"));
        assert!(tail.starts_with(last), "{path}: then {last:?}: {tail}");
        assert!(answer.complete && tail.ends_with("\n\n"), "{path}: and a clean end: {tail}");
        assert_eq!(tail.matches("data: ").count(), 1, "{path}: one event: {tail}");
        stage.expect(path, Expect { status: "upstream_error_mid", tries: 2, tokens: None });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_and_documents_are_told_in_the_clients_dialect() {
    let stage = Stage::open().await;
    // One after the other: two retries of one request are more than the budget allows it while others retry too.
    documents(stage.clone()).await;
    errors(stage.clone()).await;
    dialects(stage.clone()).await;
    stage.settle();
}

/// Requests, one after the other, of which at least two must share a connection.
const ROUNDS: usize = 24;

/// An error answer that was read whole leaves its connection usable (pingora.md §14.4). Not each time: Pingora gives
/// a pooled connection up where the task that watches it has not let go yet ("failed to acquire reusable stream",
/// 3 % of requests in a release build, more in debug), and no answer of a connection that is closed would share one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retried_status_keeps_its_upstream_connection() {
    let backends = super::super::backend::Backends::start(1).await;
    let proxy = super::super::proxy::Proxy::start(&super::super::proxy::Setup::of(&backends));
    let mut connections = Vec::new();
    for round in 0..ROUNDS {
        let case = format!("round {round}");
        backends.script(&case, vec![say::answer(503, "{}"), say::answer(503, "{}"), say::answer(503, "{}")]);
        let answer = Ask::chat(&proxy.key, chat("m")).case(&case).send(proxy.address).await;
        answer.assert_error(502, "server_error", "upstream_error", None);
        connections.extend(backends.seen(&case).iter().map(|seen| seen.connection));
    }
    connections.dedup();
    assert!(connections.len() < ROUNDS, "some 503s shared a connection: {connections:?}");
}

/// A server that closes an idle connection just when it is used again (uvicorn after 5 s) has not failed: with no other
/// backend at hand the same one is asked once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_pooled_connection_is_not_its_backends_fault() {
    let backends = super::super::backend::Backends::start(1).await;
    let proxy = super::super::proxy::Proxy::start(&super::super::proxy::Setup::of(&backends));
    for (path, method) in [("/v1/chat/completions", "POST"), ("/x", "PUT")] {
        for (name, end) in [("close", Act::Close), ("reset", Act::Reset)] {
            let ask = |case: &str| Ask::new(method, path, &proxy.key).body(r#"{"model":"m","messages":[]}"#).case(case);
            // The first answer's connection is back in the pool a moment after the client has it; once it is, the case
            // is the one that is meant.
            let mut stale = false;
            for round in 0..20 {
                let (before, case) = (format!("before {name} at {path} {round}"), format!("{name} at {path} {round}"));
                assert_eq!(ask(&before).send(proxy.address).await.status, 200, "{case}: a connection for the pool");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                backends.script(&case, vec![vec![end.clone()]]);
                let answer = ask(&case).send(proxy.address).await;
                let seen = backends.seen(&case);
                stale = seen[0].connection == backends.seen(&before)[0].connection;
                if stale {
                    assert_eq!((answer.status, answer.text().as_str()), (200, OK), "{case}: asked again");
                    assert_ne!(seen[0].connection, seen[1].connection, "{case}: on a new connection");
                    break;
                }
            }
            assert!(stale, "{name} at {path}: a pooled connection was used");
        }
    }
}

/// What a client is told on one connection never depends on how the request before it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_outlives_good_and_broken_streams() {
    let backends = super::super::backend::Backends::start(1).await;
    let proxy = super::super::proxy::Proxy::start(&super::super::proxy::Setup::of(&backends));
    let broken = [say::open_stream(&[ROLE, &delta("He")]), vec![say::pause(20), Act::Reset]].concat();
    let mut wire = super::super::client::Wire::open(proxy.address).await;
    for round in 0..3 {
        for (name, script) in
            [("good", say::good_stream()), ("broken", broken.clone()), ("503", say::answer(503, "{}"))]
        {
            let case = format!("{name} {round}");
            backends.script(&case, vec![script.clone(), script.clone(), script]);
            wire.send(&Ask::chat(&proxy.key, chat("m")).case(&case).bytes()).await;
            let answer = wire.answer().await;
            match name {
                "good" => assert_eq!(answer.text(), say::shown(), "{case}"),
                "broken" => assert_eq!(interruption(&answer).0, [ROLE, &delta("He")].concat(), "{case}"),
                _ => {
                    answer.assert_error(502, "server_error", "upstream_error", None);
                    assert_eq!(answer.header("connection"), "close", "Pingora closes behind a failure, and says so");
                    wire = super::super::client::Wire::open(proxy.address).await;
                }
            }
        }
    }
}
