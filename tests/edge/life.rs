//! The process's life (pingora.md §14.5, reliability.md P1, P2): TERM finishes what runs and exits as soon as idle, INT
//! is fast, HUP and USR1 do not kill, and SIGKILL in the middle of streams leaves exactly one row per admitted request.

use super::backend::{Act, Backends, Script};
use super::cases::eventually;
use super::client::{Ask, Framing, Wire};
use super::proxy::{DEADLINE, Proxy, Setup};
use super::say::{self, DONE, ROLE, USAGE, delta};
use super::usage;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// What "at once" may take on two busy cores. The default drain timeout is ten minutes: an exit within this has not
/// waited for it.
const SOON: Duration = Duration::from_secs(5);

fn chat(proxy: &Proxy, case: &str) -> Ask {
    Ask::chat(&proxy.key, r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"x"}]}"#).case(case)
}

/// A stream of `count` deltas, one each `gap` milliseconds.
fn slow_stream(count: usize, gap: u64) -> Script {
    let mut script = say::open_stream(&[ROLE]);
    for number in 0..count {
        script.extend([Act::Say(say::chunk(&delta(&format!("<{number}>")))), say::pause(gap)]);
    }
    script.extend([USAGE, DONE].map(|event| Act::Say(say::chunk(event))));
    script.push(Act::Say(say::last_chunk()));
    script
}

/// Opens a stream and waits for its first output.
async fn begin(proxy: &Proxy, case: &str) -> Wire {
    let mut wire = Wire::open(proxy.address).await;
    wire.send(&chat(proxy, case).bytes()).await;
    assert!(wire.until("<0>").await, "{case} has begun");
    wire
}

async fn refused(proxy: &Proxy) -> bool {
    TcpStream::connect(proxy.address).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_proxy_ends_at_once_and_its_log_is_whole() {
    let backends = Backends::start(1).await;
    let mut proxy = Proxy::start(&Setup::of(&backends));
    // An idle keep-alive connection is nothing to wait for.
    let mut idle = Wire::open(proxy.address).await;
    idle.send(&Ask::new("GET", "/x", &proxy.key).bytes()).await;
    assert_eq!(idle.answer().await.status, 200, "a request on it");
    proxy.signal("TERM");
    let status = proxy.wait_exit(SOON).unwrap_or_else(|| panic!("still there: {}", proxy.log()));
    assert!(status.success(), "a clean exit: {status}");
    assert!(!proxy.log().contains("panicked"), "no panic on the way: {}", proxy.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn int_ends_it_at_once_whatever_runs() {
    let backends = Backends::start(1).await;
    let mut proxy = Proxy::start(&Setup::of(&backends));
    backends.script("runs", vec![slow_stream(1000, 100)]);
    let mut wire = begin(&proxy, "runs").await;
    proxy.signal("INT");
    assert!(proxy.wait_exit(SOON).is_some(), "still there: {}", proxy.log());
    let rest = wire.answer().await;
    assert!(!rest.text().contains("[DONE]"), "the stream was cut: {}", rest.text());
    proxy.restart();
    assert_eq!(usage::rows(&proxy, 1).len(), 1, "and has its row");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn term_finishes_what_runs_and_takes_nothing_new() {
    let backends = Backends::start(1).await;
    let mut proxy = Proxy::start(&Setup { server: &["drain_delay: 500ms"], ..Setup::of(&backends) });
    for signal in ["HUP", "USR1"] {
        proxy.signal(signal);
    }
    backends.script("runs", vec![slow_stream(15, 100)]);
    backends.script("runs over h2", vec![slow_stream(15, 100)]);
    let mut wire = begin(&proxy, "runs").await;
    let (ask, address) = (chat(&proxy, "runs over h2").framing(Framing::H2Length), proxy.address);
    let second = tokio::spawn(async move { ask.send(address).await });
    assert!(eventually(|| backends.seen("runs over h2").len() == 1).await, "the second stream runs");
    assert!(proxy.lives(), "HUP and USR1 do not kill: {}", proxy.log());

    proxy.signal("TERM");
    assert!(eventually(|| proxy.admin("/ready").starts_with("HTTP/1.1 503")).await, "not ready while it drains");
    let late = Ask::new("GET", "/x", &proxy.key).send(proxy.address).await;
    assert_eq!((late.status, late.header("connection").as_str()), (200, "close"), "served in the delay: {}", late.head);
    let until = Instant::now() + SOON;
    while !refused(&proxy).await {
        assert!(Instant::now() < until, "new connections are refused after the delay");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(proxy.lives(), "the streams still run");
    for answer in [wire.answer().await, second.await.expect("no panic")] {
        let text = answer.text();
        assert!(answer.complete && text.ends_with(DONE), "finished: {text}");
        assert_eq!(text.matches("<").count(), 15, "with every event: {text}");
    }
    let status = proxy.wait_exit(SOON).unwrap_or_else(|| panic!("idle, and still there: {}", proxy.log()));
    assert!(status.success(), "a clean exit: {status}");
    proxy.restart();
    let rows = usage::rows(&proxy, 2);
    assert!(rows.values().all(|row| row.status == "completed"), "both are completed: {rows:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_drain_timeout_streams_end_in_an_event_and_not_in_a_cut() {
    let backends = Backends::start(1).await;
    let mut proxy = Proxy::start(&Setup { server: &["drain_timeout: 700ms"], ..Setup::of(&backends) });
    for case in ["runs", "runs over h2"] {
        backends.script(case, vec![slow_stream(1000, 100)]);
    }
    backends.script("silent", vec![vec![Act::Hold]]);
    let mut wire = begin(&proxy, "runs").await;
    let mut silent = Wire::open(proxy.address).await;
    silent.send(&chat(&proxy, "silent").bytes()).await;
    let (ask, address) = (chat(&proxy, "runs over h2").framing(Framing::H2Length), proxy.address);
    let second = tokio::spawn(async move { ask.send(address).await });
    assert!(eventually(|| backends.total() == 3).await, "all three are upstream");
    proxy.signal("TERM");
    for answer in [wire.answer().await, second.await.expect("no panic")] {
        let text = answer.text();
        assert!(answer.complete, "a clean end: {text}");
        assert!(text.contains("\"server_shutdown\"") && !text.contains("[DONE]"), "why it ended: {text}");
        assert_eq!(text.matches("\"error\"").count(), 1, "told once: {text}");
    }
    silent.answer().await.assert_error(503, "server_error", "overloaded", None);
    assert!(proxy.wait_exit(SOON).is_some(), "still there: {}", proxy.log());
    proxy.restart();
    let rows = usage::rows(&proxy, 3);
    assert!(rows.values().all(|row| row.status.starts_with("upstream_error")), "none is completed: {rows:#?}");
}

/// Events with output that a client has.
fn received(text: &str) -> i64 {
    i64::try_from(text.matches("\"<").count()).expect("a small number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_in_the_middle_of_streams_leaves_one_row_per_admitted_request() {
    const RUNNING: usize = 12;
    let backends = Backends::start(2).await;
    let mut proxy = Proxy::start(&Setup::of(&backends));
    let mut completed = Vec::new();
    for number in 0..4 {
        let case = format!("done {number}");
        backends.script(&case, vec![slow_stream(2, 1)]);
        let answer = chat(&proxy, &case).send(proxy.address).await;
        assert!(answer.text().ends_with(DONE), "{case}: {}", answer.text());
        completed.push(answer.request_id());
    }
    let refused = Ask::chat(&proxy.key, "no JSON").send(proxy.address).await.request_id();
    let mut wires = Vec::new();
    for number in 0..RUNNING {
        let case = format!("cut {number}");
        backends.script(&case, vec![slow_stream(10_000, 5)]);
        wires.push(begin(&proxy, &case).await);
    }
    backends.script("silent", vec![vec![Act::Hold]]);
    let mut silent = Wire::open(proxy.address).await;
    silent.send(&chat(&proxy, "silent").bytes()).await;
    assert!(eventually(|| backends.seen("silent").len() == 1).await, "one has no output yet");
    // The kill comes as soon as the client has seen this one's end, and before the backend ends its body: the record
    // must have been written before the terminal event was released.
    let mut script = slow_stream(2, 1);
    *script.last_mut().expect("a last chunk") = Act::Hold;
    backends.script("just done", vec![script]);
    let mut last = begin(&proxy, "just done").await;
    assert!(last.until("[DONE]").await, "the end");
    proxy.signal("KILL");
    assert!(proxy.wait_exit(DEADLINE).is_some(), "killed");
    completed.push(last.answer().await.request_id());

    let mut cut = Vec::new();
    for mut wire in wires {
        let answer = wire.answer().await;
        assert!(!answer.complete, "the stream was cut: {}", answer.text());
        cut.push((answer.request_id(), received(&answer.text())));
    }
    drop(silent);
    let ids = backends.request_ids();
    proxy.restart();
    let rows = usage::rows(&proxy, completed.len() + RUNNING + 1);
    assert!(ids.iter().all(|id| rows.contains_key(id)), "every request that went upstream has its row");
    assert!(!rows.contains_key(&refused), "the refused one has none");
    for id in &completed {
        let row = &rows[id];
        assert_eq!((row.status.as_str(), row.output_total), ("completed", Some(2)), "seen completed: {row:?}");
    }
    for (id, received) in cut {
        let row = &rows[&id];
        let delivered = row.delivered_output.unwrap_or(-1);
        assert_eq!(row.status, "crash", "cut by the crash: {row:?}");
        // Never less than the client has, and more only by what was on its way through Pingora: one piece in the upper
        // half, four in the channel, five in a batch that is being written.
        assert!((received..=received + 10).contains(&delivered), "the client has {received} events: {row:?}");
    }
    let silent = &rows[&backends.seen("silent")[0].header("x-request-id")];
    assert_eq!((silent.status.as_str(), silent.delivered_output.unwrap_or(0)), ("crash", 0), "no output: {silent:?}");
}
