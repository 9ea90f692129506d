//! Silence: comments fill it, and deadlines end it (pingora.md §14.2). Upper bounds of time are the deadline only.

use super::super::backend::{Act, Script};
use super::super::cases::Cases;
use super::super::client::{Answer, Ask, Framing, Wire};
use super::super::say::{self, DONE, ROLE, USAGE, delta};
use super::{CHATTER, Expect, HASTE, Stage, interruption};

const COMMENT: &str = ": keep-alive\n\n";

/// A chat of the pool `chatty` with this one script.
async fn chatty(stage: &Stage, case: &str, framing: Framing, script: Script) -> Answer {
    stage.backends.script(case, vec![script]);
    stage.ask("chatty", case).framing(framing).send(stage.proxy.address).await
}

/// Headers later than the grace: 200 and comments first, then the stream as it is.
async fn late(stage: Stage, framing: Framing) {
    let case = format!("late head {framing:?}");
    let answer = chatty(&stage, &case, framing, [vec![say::pause(1500)], say::good_stream()].concat()).await;
    assert_eq!(answer.status, 200, "opened: {}", answer.text());
    assert!(answer.first >= CHATTER, "not before the grace is over: {:?}", answer.first);
    assert!(answer.whole >= answer.first + CHATTER, "the head came first: {:?}, {:?}", answer.first, answer.whole);
    let comments = answer.text().matches(COMMENT).count();
    assert!((2..=5).contains(&comments), "comments in 1.2 s of silence, each 0.3 s: {comments}");
    assert_eq!(answer.text().replace(COMMENT, ""), say::shown(), "and the stream is intact");
    answer.request_id();
    stage.expect(&case, Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

/// The preamble is let out with the grace, and comments stand between whole events only.
async fn split(stage: Stage) {
    let event = delta("He");
    let (front, back) = event.split_at(event.len() / 2);
    let script = [
        say::open_stream(&[ROLE, front]),
        vec![say::pause(1000), Act::Say(say::chunk(back)), say::pause(500)],
        [USAGE, DONE].map(|event| Act::Say(say::chunk(event))).to_vec(),
        vec![Act::Say(say::last_chunk())],
    ];
    let answer = chatty(&stage, "split event", Framing::Length, script.concat()).await;
    assert!(answer.text().contains(COMMENT), "comments: {}", answer.text());
    assert_eq!(answer.text().replace(COMMENT, ""), [ROLE, &event, DONE].concat(), "no event is torn by a comment");
    stage.expect("split event", Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

/// Silent for ever: the first-output deadline holds behind the grace too, then in band.
async fn for_ever(stage: Stage) {
    let answer = chatty(&stage, "for ever", Framing::Length, vec![Act::Hold]).await;
    let (before, event) = interruption(&answer);
    assert_eq!(before.replace(COMMENT, ""), "", "nothing but comments: {before}");
    assert!(before.contains(COMMENT), "comments: {before}");
    assert_eq!(event["error"]["code"], "upstream_timeout", "our own clock: {event}");
    stage.expect("for ever", Expect { status: "timeout", tries: 1, tokens: None });
}

/// Silence in the middle of an answer.
async fn idle(stage: Stage, framing: Framing) {
    let case = format!("idle {framing:?}");
    let script = [say::open_stream(&[ROLE, &delta("He")]), vec![Act::Hold]].concat();
    let answer = chatty(&stage, &case, framing, script).await;
    let (before, event) = interruption(&answer);
    assert_eq!(before.replace(COMMENT, ""), [ROLE, &delta("He")].concat(), "what had come stays");
    assert_eq!(event["error"]["code"], "upstream_timeout", "our own clock: {event}");
    stage.expect(&case, Expect { status: "timeout", tries: 1, tokens: None });
}

/// After the grace a bad head is told in band: the 200 is out.
async fn late_error(stage: Stage) {
    let script = [vec![say::pause(800)], say::answer(503, "{}")].concat();
    let answer = chatty(&stage, "late 503", Framing::Length, script).await;
    let (before, event) = interruption(&answer);
    assert_eq!(before.replace(COMMENT, ""), "", "nothing but comments: {before}");
    assert_eq!(event["error"]["code"], "upstream_stream_interrupted", "a failure upstream: {event}");
    stage.expect("late 503", Expect { status: "upstream_error_mid", tries: 1, tokens: None });
}

/// Nobody answers in time and nothing was shown: 504.
async fn no_output(stage: Stage) {
    stage.backends.script("no output", vec![vec![Act::Hold], vec![Act::Hold], vec![Act::Hold]]);
    let answer = stage.ask("hasty", "no output").send(stage.proxy.address).await;
    answer.assert_error(504, "server_error", "upstream_timeout", None);
    assert!(answer.first >= HASTE, "not before its time: {:?}", answer.first);
    let tries = stage.backends.seen("no output").len();
    stage.expect("no output", Expect { status: "timeout", tries, tokens: None });
}

/// A stream that never pauses has an end too.
async fn endless(stage: Stage) {
    let mut script = say::open_stream(&[ROLE]);
    for _ in 0..600 {
        script.extend([Act::Say(say::chunk(&delta("He"))), say::pause(50)]);
    }
    stage.backends.script("endless", vec![script]);
    let answer = stage.ask("brief", "endless").send(stage.proxy.address).await;
    let (before, event) = interruption(&answer);
    assert!(before.starts_with(&[ROLE, &delta("He")].concat()), "what had come stays: {before}");
    assert_eq!(event["error"]["code"], "upstream_timeout", "our own clock: {event}");
    stage.expect("endless", Expect { status: "timeout", tries: 1, tokens: None });
}

/// Silence before and in a JSON answer: 504, or a body without its end.
async fn documents(stage: Stage) {
    let ask = |model: &str, case: &str| {
        Ask::chat(&stage.proxy.key, format!(r#"{{"model":"{model}","messages":[]}}"#)).case(case)
    };
    stage.backends.script("no document", vec![vec![Act::Hold], vec![Act::Hold], vec![Act::Hold]]);
    let answer = ask("hasty", "no document").send(stage.proxy.address).await;
    answer.assert_error(504, "server_error", "upstream_timeout", None);
    let tries = stage.backends.seen("no document").len();
    stage.expect("no document", Expect { status: "timeout", tries, tokens: None });
    let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{\"id\":".to_vec();
    stage.backends.script("half a document", vec![vec![Act::Say(head), Act::Hold]]);
    let answer = ask("chatty", "half a document").send(stage.proxy.address).await;
    assert!(!answer.complete, "half a document never ends cleanly: {answer:?}");
    stage.expect("half a document", Expect { status: "timeout", tries: 1, tokens: None });
}

/// A client that does not read is not a backend that does not speak: no deadline of silence holds while it is full.
async fn slow_reader(stage: Stage) {
    const EVENTS: usize = 200;
    let text = "x".repeat(64_000);
    let mut script = say::open_stream(&[ROLE]);
    script.extend((0..EVENTS).map(|_| Act::Say(say::chunk(&delta(&text)))));
    script.extend([USAGE, DONE].map(|event| Act::Say(say::chunk(event))));
    script.push(Act::Say(say::last_chunk()));
    stage.backends.script("slow reader", vec![script]);
    let mut wire = Wire::open(stage.proxy.address).await;
    wire.send(&stage.ask("chatty", "slow reader").bytes()).await;
    // Twice as long as the pool's `between_bytes`.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    let answer = wire.answer().await;
    assert!(answer.complete, "an end");
    let told = answer.text().replace(COMMENT, "");
    assert!(told.ends_with(DONE), "the whole stream: {}", &told[told.len().saturating_sub(300)..]);
    assert_eq!(told.matches("\"content\":\"x").count(), EVENTS, "with every event");
    stage.expect("slow reader", Expect { status: "completed", tries: 1, tokens: Some((7, 2)) });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_filled_with_comments_and_ended_by_deadlines() {
    let stage = Stage::open().await;
    let mut cases = Cases::new();
    for framing in [Framing::Length, Framing::H2Length] {
        cases.add(format!("late {framing:?}"), late(stage.clone(), framing));
        cases.add(format!("idle {framing:?}"), idle(stage.clone(), framing));
    }
    cases.add("split event", split(stage.clone()));
    cases.add("for ever", for_ever(stage.clone()));
    cases.add("late 503", late_error(stage.clone()));
    cases.add("no output", no_output(stage.clone()));
    cases.add("endless", endless(stage.clone()));
    cases.add("documents", documents(stage.clone()));
    cases.add("slow reader", slow_reader(stage.clone()));
    cases.finish().await;
    stage.settle();
}
