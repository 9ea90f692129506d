//! A client that leaves frees its backend at once, in every phase (pingora.md §14.6).

use super::super::backend::{Act, Script};
use super::super::cases::{Cases, eventually};
use super::super::client::{Framing, Wire};
use super::super::say::{self, ROLE, delta};
use super::{Ask, Expect, Stage, chat};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// The promise is 100 ms (semantics.md §7). Ten times that here: the tests of other modules share two cores.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How a client leaves.
#[derive(Clone, Copy, Debug)]
enum Leave {
    Close,
    Reset,
    HalfClose,
}

/// How far the answer has come.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    BeforeHead,
    Preamble,
    Committed,
    Document,
}

impl Phase {
    fn script(self) -> Script {
        let mut script = match self {
            Self::BeforeHead => Vec::new(),
            Self::Preamble => say::open_stream(&[ROLE]),
            Self::Committed => say::open_stream(&[ROLE, &delta("He")]),
            Self::Document => vec![Act::Say(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"id\":".to_vec(),
            )],
        };
        script.push(Act::Hold);
        script
    }
}

async fn one_case(stage: Stage, phase: Phase, leave: Leave) {
    let case = format!("{phase:?} {leave:?}");
    stage.backends.script(&case, vec![phase.script()]);
    let mut wire = Wire::open(stage.proxy.address).await;
    let body = if phase == Phase::Document { r#"{"model":"m","messages":[]}"#.to_owned() } else { chat("m") };
    wire.send(&Ask::chat(&stage.proxy.key, body).case(&case).bytes()).await;
    assert!(eventually(|| stage.backends.seen(&case).len() == 1).await, "the backend has the request");
    if phase == Phase::Committed {
        assert!(wire.until("\"He\"").await, "an event is there while the next is still awaited");
    } else {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = Instant::now();
    match leave {
        Leave::Close => drop(wire),
        Leave::Reset => wire.reset(),
        Leave::HalfClose => wire.stream.shutdown().await.expect("half closed"),
    }
    assert!(eventually(|| stage.backends.gone(&case).is_some()).await, "the backend is let go");
    let took = stage.backends.gone(&case).expect("just seen").saturating_duration_since(left);
    assert!(took < AT_ONCE, "let go after {took:?}");
    stage.expect(&case, Expect { status: "client_disconnect", tries: 1, tokens: None });
}

/// A body that the backend does not take is no reason to wait with it (pingora.md §14.1, trap 2).
async fn in_a_stalled_upload(stage: Stage, leave: Leave) {
    const STALL: Duration = Duration::from_millis(400);
    let case = format!("upload {leave:?}");
    stage.backends.script(&case, vec![vec![Act::BodyUnread, Act::Stall(STALL), Act::Hold]]);
    let mut wire = Wire::open(stage.proxy.address).await;
    let body = super::super::framing::chat_body(16_000_000);
    wire.send(&Ask::chat(&stage.proxy.key, body).case(&case).bytes()).await;
    assert!(eventually(|| stage.backends.seen(&case).len() == 1).await, "the backend has the head");
    tokio::time::sleep(Duration::from_millis(100)).await;
    match leave {
        Leave::Close => drop(wire),
        Leave::Reset => wire.reset(),
        Leave::HalfClose => wire.stream.shutdown().await.expect("half closed"),
    }
    assert!(eventually(|| stage.backends.gone(&case).is_some()).await, "the backend is let go");
    stage.expect(&case, Expect { status: "client_disconnect", tries: 1, tokens: None });
}

/// The same over HTTP/2: the client's connection goes away.
async fn over_h2(stage: Stage) {
    stage.backends.script("h2", vec![Phase::Committed.script()]);
    let ask = stage.ask("m", "h2").framing(Framing::H2Length);
    let address = stage.proxy.address;
    let client = tokio::spawn(async move { ask.send(address).await });
    assert!(eventually(|| stage.backends.seen("h2").len() == 1).await, "the backend has the request");
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.abort();
    let left = Instant::now();
    assert!(eventually(|| stage.backends.gone("h2").is_some()).await, "the backend is let go");
    let took = stage.backends.gone("h2").expect("just seen").saturating_duration_since(left);
    assert!(took < AT_ONCE, "let go after {took:?}");
    stage.expect("h2", Expect { status: "client_disconnect", tries: 1, tokens: None });
}

/// A client that leaves once it has seen `[DONE]` had all of its answer.
async fn after_done(stage: Stage) {
    let script = [say::open_stream(&[ROLE, &delta("He"), say::USAGE, say::DONE]), vec![say::pause(100)]].concat();
    stage.backends.script("after done", vec![script]);
    let mut wire = Wire::open(stage.proxy.address).await;
    wire.send(&stage.ask("m", "after done").bytes()).await;
    assert!(wire.until("[DONE]").await, "the end of the stream, though its body is still open");
    wire.reset();
    stage.expect("after done", Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_its_backend_at_once() {
    let stage = Stage::open().await;
    let mut cases = Cases::new();
    for phase in [Phase::BeforeHead, Phase::Preamble, Phase::Committed, Phase::Document] {
        for leave in [Leave::Close, Leave::Reset, Leave::HalfClose] {
            cases.add(format!("{phase:?} {leave:?}"), one_case(stage.clone(), phase, leave));
        }
    }
    for leave in [Leave::Close, Leave::Reset, Leave::HalfClose] {
        cases.add(format!("upload {leave:?}"), in_a_stalled_upload(stage.clone(), leave));
    }
    cases.add("h2", over_h2(stage.clone()));
    cases.add("after done", after_done(stage.clone()));
    cases.finish().await;
    stage.settle();
}
