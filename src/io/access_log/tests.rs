use super::*;
use crate::domain::ids::RequestId;
use crate::domain::record::{Status, UsageRecord};
use crate::domain::units::{Micros, Tokens, WallMicros};
use serde_json::Value;
use std::sync::mpsc::Sender;

const WAIT: Duration = Duration::from_secs(20);

fn ended(path: &str) -> Ended {
    let mut record = UsageRecord::new(RequestId(uuid::Uuid::now_v7()), "proxy", 1, "openai.chat");
    record.ts_end = WallMicros(1_795_273_200_000_042);
    record.http_status = Some(200);
    Ended {
        record,
        method: "POST".into(),
        path: path.into(),
        client: "10.0.0.9".into(),
        ttft: None,
        duration: Micros(1_234_567),
        reason: None,
        rule: None,
        admitted: true,
    }
}

fn parsed(ended: &Ended) -> Value {
    serde_json::from_slice(&line::encode(ended).expect("encodes")).expect("a JSON line")
}

fn dropped() -> IntCounter {
    IntCounter::new("dropped", "x").expect("a name")
}

fn paths_in(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).expect("the log is there");
    let path_of = |line: &str| serde_json::from_str::<Value>(line).expect("a JSON line")["path"].clone();
    text.lines().map(|line| path_of(line).as_str().expect("text").to_owned()).collect()
}

#[test]
fn a_line_has_the_names_and_units_of_the_specification() {
    let mut ended = ended("/v1/chat/completions");
    ended.ttft = Some(Micros(234_567));
    ended.record.output_total = Some(Tokens(11));
    ended.record.tenant_id = Some("acme".into());
    let line = parsed(&ended);
    assert_eq!(line["ts"], "2026-11-21T15:00:00.000042Z", "RFC 3339 with microseconds");
    assert_eq!(line["dur_ms"], 1234.567, "milliseconds");
    assert_eq!(line["ttft_ms"], 234.567, "milliseconds");
    assert_eq!(line["tpot_ms"], 100.0, "a second over ten gaps");
    assert_eq!((&line["tok_out"], &line["tok_in"]), (&Value::from(11), &Value::Null), "null is not zero");
    assert_eq!((&line["tenant"], &line["level"]), (&Value::from("acme"), &Value::from("info")), "who, and how bad");
    let names: Vec<_> = line.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut expected: Vec<_> =
        "ts level msg request_id client_request_id trace_id tenant key_id route pool backend model \
        method path status reason rule error_code stream ttft_ms tpot_ms dur_ms queue_ms overhead_us tok_in tok_out \
        tok_cached bytes_in bytes_out chunks client_abort client usage_source"
            .split_whitespace()
            .collect();
    expected.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(names, expected, "the fields of telemetry.md and no others");
}

#[test]
fn nothing_that_a_caller_sends_can_forge_a_line() {
    let mut forged = ended("/x\",\"status\":200}\n{\"level\":\"info\"\u{1b}[2J");
    forged.record.model_requested = Some("m\r\n\u{0}".into());
    let bytes = line::encode(&forged).expect("encodes");
    let control = bytes.iter().position(|byte| byte.is_ascii_control());
    assert_eq!(control, Some(bytes.len() - 1), "the only control byte is the newline at the end");
    assert_eq!(parsed(&forged)["path"], forged.path.as_str(), "and nothing is lost");
}

#[test]
fn long_texts_are_cut_between_letters() {
    let line = parsed(&ended(&"é".repeat(10_000)));
    assert_eq!(line["path"].as_str().expect("text").len(), 1_024, "512 letters of two bytes");
}

#[test]
fn levels_follow_who_is_to_blame() {
    let level = |status, code| {
        let mut ended = ended("/");
        ended.record.status = status;
        ended.record.http_status = Some(code);
        parsed(&ended)["level"].as_str().expect("text").to_owned()
    };
    assert_eq!(level(Status::Rejected, 429), "warn", "the caller's");
    assert_eq!(level(Status::UpstreamErrorPre, 502), "error", "the upstream's");
    assert_eq!(level(Status::UpstreamErrorMid, 200), "error", "a broken stream, although its status is 200");
}

#[test]
fn a_sample_of_zero_logs_errors_only_and_half_logs_about_half() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = AccessLog::start(&folder.path().join("log"), 0.0, dropped()).expect("opens");
    let mut bad = ended("/bad");
    bad.record.http_status = Some(500);
    assert!(!log.wanted(&ended("/good")) && log.wanted(&bad), "errors always");
    log.set_sample(0.5);
    let mut id = 1u64;
    let logged = (0..1_000)
        .filter(|_| {
            id = id.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mut one = ended("/");
            one.record.request_id = RequestId(uuid::Uuid::from_u64_pair(0, id >> 2 | 1 << 63));
            log.wanted(&one)
        })
        .count();
    assert!((430..570).contains(&logged), "{logged} of 1000");
    log.set_sample(1.0);
    assert!((0..100).all(|_| log.wanted(&ended("/"))), "all of them");
}

#[test]
fn what_was_logged_is_in_the_file_after_a_flush_and_after_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("access.log");
    let log = AccessLog::start(&path, 1.0, dropped()).expect("opens");
    log.write(&ended("/one"));
    assert!(log.flush(WAIT), "the thread answers");
    assert_eq!(paths_in(&path), ["/one"], "flushed");
    (0..500).for_each(|n| log.write(&ended(&format!("/{n}"))));
    drop(log);
    assert_eq!(paths_in(&path).len(), 501, "the end writes what is queued");
}

#[test]
fn reopening_after_a_rotation_writes_to_the_new_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let log = AccessLog::start(&path, 1.0, dropped()).expect("opens");
    log.write(&ended("/before"));
    assert!(log.flush(WAIT), "the thread answers");
    std::fs::rename(&path, &rotated).expect("rotates");
    log.reopen();
    log.write(&ended("/after"));
    assert!(log.flush(WAIT), "the thread answers");
    assert_eq!((paths_in(&rotated), paths_in(&path)), (vec!["/before".to_owned()], vec!["/after".to_owned()]), "split");
}

/// Says that it was written to, then blocks until it is told to go on.
struct Stuck {
    reached: Sender<()>,
    go: Receiver<()>,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // The test may have ended; then nobody listens.
        let _ = self.reached.send(());
        let _ = self.go.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_disk_that_does_not_answer_costs_lines_and_never_a_request() {
    let (reached, is_stuck) = std::sync::mpsc::channel();
    let (release, go) = std::sync::mpsc::channel();
    let sink = Sink { out: BufWriter::new(Box::new(Stuck { reached, go })), path: None };
    let lost = dropped();
    let log = AccessLog::start_with(sink, 1.0, lost.clone()).expect("starts");
    log.write(&ended("/first"));
    is_stuck.recv_timeout(WAIT).expect("the thread is writing");
    for _ in 0..QUEUE_LINES + 7 {
        log.write(&ended("/more"));
    }
    assert_eq!(lost.get(), 7, "what does not fit the queue is dropped and counted");
    assert!(!log.flush(Duration::from_millis(20)), "a flush gives up when its time is over");
    drop(release);
    drop(log);
}

#[test]
fn a_disk_that_refuses_is_counted_and_the_log_lives_on() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lost = dropped();
    let sink = Sink { out: BufWriter::new(Box::new(Full)), path: None };
    let log = AccessLog::start_with(sink, 1.0, lost.clone()).expect("starts");
    (0..100).for_each(|_| log.write(&ended("/")));
    assert!(log.flush(WAIT), "the thread lives");
    assert!(lost.get() > 0, "lines beyond the buffer are lost and counted");
}
