//! The way of usage from admission to the row, through the library: every admitted request yields exactly one row,
//! whatever dies in between (semantics.md §5).
#![allow(clippy::expect_used, clippy::panic, clippy::too_many_lines)] // a test fails by panicking

use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;
use weir::config::snapshot::{Durability, Spool, Usage};
use weir::domain::ids::{BackendId, KeyId, PoolId, RequestId, RouteId, TenantId};
use weir::domain::record::UsageRecord;
use weir::domain::surface::Surface;
use weir::domain::tokens::{TokenCounts, UsageSource};
use weir::domain::units::{Micros, Tokens, WallMicros};
use weir::io::spool::{frame, segment};
use weir::io::usage_log::UsageLog;
use weir::ports::{AdmitError, Birth, Clock, Progress, UsageLog as _};
use weir::writer::{self, Writer, WriterError};

const NOW: i64 = 1_790_000_000_000_000;

struct Fixed;

impl Clock for Fixed {
    fn wall(&self) -> WallMicros {
        WallMicros(NOW + 500)
    }
    fn mono(&self) -> Micros {
        Micros(0)
    }
}

fn settings(dir: &Path) -> Usage {
    Usage {
        inject_stream_usage: true,
        record_rejected: false,
        spool: Spool {
            dir: dir.join("spool"),
            durability: Durability::Process,
            fsync: Duration::from_millis(50),
            max_bytes: 64 << 20,
        },
        slots_dir: dir.join("slots"),
        slots: 16,
        sqlite: dir.join("usage.db"),
        prices: None,
    }
}

fn open(settings: &Usage) -> Arc<UsageLog> {
    UsageLog::open(settings, Arc::new(Fixed)).expect("the usage log opens")
}

fn birth(n: u64) -> Birth {
    Birth {
        request_id: RequestId(Uuid::now_v7()),
        received: WallMicros(NOW),
        admitted: WallMicros(NOW + 100),
        tenant: TenantId::new(if n.is_multiple_of(2) { "acme" } else { "beta" }),
        team: Some("blue".to_owned()),
        user: None,
        key: Some(KeyId::new("a1B2c3D4e5F6")),
        secret_gen: 2,
        auth_method: "api_key",
        surface: Surface::OpenAiChat,
        stream: true,
        route: RouteId::new("chat"),
        model: "llama".to_owned(),
        bytes_in: 1_000 + n,
        config_version: "0123456789ab".into(),
    }
}

fn record(birth: &Birth, input: u64, output: u64) -> UsageRecord {
    let mut record = UsageRecord::new(birth.request_id, "", 0, birth.surface.name());
    record.ts_received = birth.received;
    record.ts_admitted = Some(birth.admitted);
    record.ts_end = WallMicros(NOW + 900);
    record.tenant_id = Some(birth.tenant.as_str().to_owned());
    record.key_id = birth.key.as_ref().map(|key| key.as_str().to_owned());
    record.model_requested = Some(birth.model.clone());
    record.stream = birth.stream;
    record.http_status = Some(200);
    let counts =
        TokenCounts { input_total: Some(Tokens(input)), output_total: Some(Tokens(output)), ..TokenCounts::default() };
    record.set_counts(counts, UsageSource::UpstreamFinal);
    record.delivered_output = Some(Tokens(output));
    record
}

/// Admits and finishes `n` requests.
fn finish(log: &UsageLog, n: u64) {
    for i in 0..n {
        let birth = birth(i);
        let ticket = log.admit(&birth).expect("admitted");
        log.append(ticket, record(&birth, 10 + i, i)).blocking_recv().expect("told").expect("written");
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("made");
    for entry in std::fs::read_dir(from).expect("dir") {
        let path = entry.expect("entry").path();
        let target = to.join(path.file_name().expect("name"));
        if path.is_dir() {
            copy_dir(&path, &target)
        } else {
            std::fs::copy(&path, &target).map(|_| ()).expect("copied")
        }
    }
}

fn drain(settings: &Usage) -> writer::Passed {
    let mut writer = Writer::open(settings).expect("the writer opens");
    writer.recover().expect("recovered");
    writer.pass().expect("passed")
}

fn one<T: rusqlite::types::FromSql>(settings: &Usage, sql: &str) -> T {
    let database = Connection::open(&settings.sqlite).expect("database");
    database.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn rows(settings: &Usage) -> i64 {
    one(settings, "SELECT count(*) FROM usage_records")
}

/// P6: the roll-ups are the sums of the rows, group by group.
fn assert_rolled_up(settings: &Usage) {
    let sums = "sum(1), sum(status = 'completed'), sum(coalesce(input_total, 0)), sum(coalesce(output_total, 0)),
                sum(coalesce(delivered_output, 0)), sum(bytes_in), sum(bytes_out)";
    let of_rows = format!(
        "SELECT date(ts_received / 1000000, 'unixepoch'), coalesce(tenant_id, ''), coalesce(key_id, ''),
                coalesce(model_routed, model_requested, ''), {sums} FROM usage_records GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4"
    );
    let of_groups = "SELECT day, tenant_id, key_id, model, requests, completed, input_total, output_total,
                            delivered_output, bytes_in, bytes_out FROM usage_rollup_day ORDER BY 1, 2, 3, 4";
    let database = Connection::open(&settings.sqlite).expect("database");
    let read = |sql: &str| -> Vec<(Vec<String>, Vec<i64>)> {
        let mut select = database.prepare(sql).expect("prepared");
        select
            .query_map([], |row| {
                let names = (0..4).map(|i| row.get(i)).collect::<Result<_, _>>()?;
                Ok((names, (4..11).map(|i| row.get(i)).collect::<Result<_, _>>()?))
            })
            .expect("queried")
            .collect::<Result<_, _>>()
            .expect("read")
    };
    assert_eq!(read(of_groups), read(&of_rows), "the roll-ups must be the sums of the rows");
}

#[test]
fn every_finished_request_is_one_row_and_a_clean_end_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = settings(dir.path());
    let log = open(&settings);
    let proxy_id = log.proxy_id().to_owned();
    finish(&log, 40);
    assert_eq!(log.open_slots(), 0, "every slot is free again, 16 slots served 40 requests");
    assert_eq!(log.written(), 40, "what is in the spool is counted, for `weir_usage_records_total`");
    log.close().expect("closed");
    let passed = drain(&settings);
    assert_eq!((passed.inserted, passed.deleted), (40, 1), "40 rows, and the read segment is gone");
    assert_eq!(one::<i64>(&settings, "SELECT max(seq) - min(seq) + 1 FROM usage_records"), 40, "seq has no gap");
    assert_eq!(one::<String>(&settings, "SELECT DISTINCT proxy_id FROM usage_records"), proxy_id, "one proxy");
    assert_eq!(one::<i64>(&settings, "SELECT sum(input_total) FROM usage_records"), (10..50).sum::<i64>(), "tokens");
    assert_rolled_up(&settings);
    assert_eq!(std::fs::read_dir(&settings.slots_dir).expect("dir").count(), 0, "no table is left");
    assert!(segment::list(&settings.spool.dir).expect("list").is_empty(), "no segment is left");
}

#[test]
fn an_open_request_of_a_dead_process_is_one_crash_row_with_its_numbers() {
    let (alive, dead) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    let log = open(&settings(alive.path()));
    let births: Vec<Birth> = (0..3).map(birth).collect();
    let tickets: Vec<_> = births.iter().map(|birth| log.admit(birth).expect("admitted")).collect();
    log.dispatched(&tickets[0], &PoolId::new("p"), &BackendId::new("p-0"));
    log.dispatched(&tickets[0], &PoolId::new("p"), &BackendId::new("p-1"));
    let progress = Progress {
        input_plus_one: 8,
        output_plus_one: 6,
        delivered: 4,
        bytes_out: 70,
        sse_events: 9,
        first_token: NOW + 300,
    };
    log.progress(&tickets[0], &progress);
    log.progress(&tickets[1], &Progress { delivered: 3, ..Progress::default() });
    // The files as a kill would leave them; the copies have no lock.
    copy_dir(alive.path(), dead.path());
    let settings = settings(dead.path());

    for round in 1..=2 {
        let passed = drain(&settings);
        assert_eq!(passed.inserted, if round == 1 { 3 } else { 0 }, "round {round}: once is enough");
    }
    assert_eq!(one::<String>(&settings, "SELECT group_concat(DISTINCT status) FROM usage_records"), "crash", "status");
    let row = |n: usize, column: &str| -> rusqlite::types::Value {
        one(&settings, &format!("SELECT {column} FROM usage_records WHERE request_id = '{}'", births[n].request_id))
    };
    let text = |text: &str| rusqlite::types::Value::Text(text.to_owned());
    let expected: BTreeMap<&str, rusqlite::types::Value> = BTreeMap::from([
        ("tenant_id", text("acme")),
        ("team_id", text("blue")),
        ("key_id", text("a1B2c3D4e5F6")),
        ("secret_gen", 2.into()),
        ("auth_method", text("api_key")),
        ("model_requested", text("llama")),
        ("route_id", text("chat")),
        ("pool", text("p")),
        ("backend_id", text("p-1")),
        ("billable_cost_nano_usd", 0.into()),
        ("billing_policy", text("fair_v1")),
        ("surface", text("openai.chat")),
        ("config_version", text("0123456789ab")),
        ("proxy_id", text(log.proxy_id())),
        ("seq", 1.into()),
        ("stream", 1.into()),
        ("bytes_in", 1_000.into()),
        ("bytes_out", 70.into()),
        ("sse_events", 9.into()),
        ("input_total", 7.into()),
        ("output_total", 5.into()),
        ("delivered_output", 4.into()),
        ("usage_source", text("upstream_continuous")),
        ("usage_confidence", text("lower_bound")),
        ("ts_received", NOW.into()),
        ("ts_first_token", (NOW + 300).into()),
        ("ts_end", (NOW + 500).into()),
        ("error_code", rusqlite::types::Value::Null),
        ("terminal_event_seen", 0.into()),
    ]);
    for (column, value) in expected {
        assert_eq!(row(0, column), value, "{column} of the first");
    }
    assert_eq!(row(1, "usage_source"), text("chunk_count"), "no count was said, events were counted");
    assert_eq!(row(1, "output_total"), rusqlite::types::Value::Null, "what was not said is null");
    assert_eq!(row(1, "delivered_output"), 3.into(), "delivered is known all the same");
    assert_eq!(row(2, "usage_source"), text("none"), "nothing came back for the third");
    assert_rolled_up(&settings);
}

#[test]
fn a_record_in_the_spool_wins_over_its_slot_however_they_are_read() {
    let (alive, dead) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    let log = open(&settings(alive.path()));
    let birth = birth(0);
    let ticket = log.admit(&birth).expect("admitted");
    // The table as it was before the slot was freed, the spool as it was after the record was written.
    copy_dir(&alive.path().join("slots"), &dead.path().join("slots"));
    log.append(ticket, record(&birth, 10, 20)).blocking_recv().expect("told").expect("written");
    copy_dir(&alive.path().join("spool"), &dead.path().join("spool"));
    let settings = settings(dead.path());

    let restarted = open(&settings);
    assert_eq!(restarted.recovered().already_written, 1, "recovery sees the record in the dead one's segment");
    assert_eq!(restarted.recovered().crashed, 0, "and writes no second one");
    drain(&settings);
    assert_eq!(
        one::<String>(&settings, "SELECT status FROM usage_records"),
        "completed",
        "the whole record is the row"
    );
    assert_eq!(rows(&settings), 1, "exactly one");
}

#[test]
fn a_slot_whose_record_is_in_the_database_already_adds_no_row() {
    let (alive, dead) = (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    let log = open(&settings(alive.path()));
    let birth = birth(0);
    let ticket = log.admit(&birth).expect("admitted");
    copy_dir(&alive.path().join("slots"), &dead.path().join("held"));
    log.append(ticket, record(&birth, 10, 20)).blocking_recv().expect("told").expect("written");
    copy_dir(&alive.path().join("spool"), &dead.path().join("spool"));
    let settings = settings(dead.path());
    drain(&settings);
    assert!(segment::list(&settings.spool.dir).expect("list").is_empty(), "the segment is read and gone");
    copy_dir(&dead.path().join("held"), &settings.slots_dir);
    let passed = drain(&settings);
    assert_eq!((passed.inserted, passed.known), (0, 1), "the crash record meets the row");
    assert_eq!(one::<String>(&settings, "SELECT status FROM usage_records"), "completed", "which stays as it is");
    assert_rolled_up(&settings);
}

#[test]
fn reading_a_segment_twice_doubles_nothing() {
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = settings(dir.path());
    let log = open(&settings);
    finish(&log, 5);
    assert_eq!(drain(&settings).inserted, 5, "first time");
    // A position that was lost is the worst that a writer's death could do if it were not in the transaction.
    Connection::open(&settings.sqlite).and_then(|db| db.execute("DELETE FROM spool_position", [])).expect("forgotten");
    let again = drain(&settings);
    assert_eq!((again.frames, again.inserted, again.known), (5, 0, 5), "all are read and none is inserted");
    assert_rolled_up(&settings);
    finish(&log, 2);
    assert_eq!(drain(&settings).frames, 2, "the position is right again");
    assert_eq!(rows(&settings), 7, "every request once");
}

#[test]
fn a_full_spool_refuses_newcomers_and_lets_everyone_in_flight_finish() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut settings = settings(dir.path());
    settings.spool.max_bytes = 20_000;
    let log = open(&settings);
    let births: Vec<Birth> = (0..16).map(birth).collect();
    let tickets: Vec<_> = births.iter().map(|birth| log.admit(birth).expect("admitted")).collect();
    assert_eq!(log.admit(&birth(0)).map(|_| ()), Err(AdmitError::TableFull), "16 slots are 16 requests");
    for (birth, ticket) in births.iter().zip(tickets) {
        log.append(ticket, record(birth, 1, 1)).blocking_recv().expect("told").expect("in flight always finish");
    }
    assert!(log.spool_bytes() > 19_000, "{} bytes must be over the bound for this test", log.spool_bytes());
    assert_eq!(log.admit(&birth(0)).map(|_| ()), Err(AdmitError::SpoolFull), "the spool is full");
    log.close().expect("closed");
    assert_eq!(drain(&settings).inserted, 16, "nothing was lost");
    assert!(open(&settings).admits(), "an emptied spool admits again");
}

#[test]
fn a_damaged_frame_is_set_aside_and_an_unknown_payload_is_a_dead_letter() {
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = settings(dir.path());
    let log = open(&settings);
    finish(&log, 3);
    log.close().expect("closed");
    let found = segment::list(&settings.spool.dir).expect("list").remove(0);
    let mut bytes = std::fs::read(&found.path).expect("read");
    bytes[40] ^= 1;
    frame::encode(9, &[77, 1, 2, 3], &mut bytes);
    let whole = bytes.len();
    frame::encode(10, b"cut", &mut bytes);
    bytes.truncate(whole + 7);
    std::fs::write(&found.path, &bytes).expect("written");

    let passed = drain(&settings);
    assert_eq!((passed.inserted, passed.corrupt, passed.dead_letters, passed.torn), (2, 1, 1, 1), "each to its place");
    assert_eq!(
        one::<String>(&settings, "SELECT reason FROM usage_dead_letter"),
        "payload version 77 is not known",
        "the reason is told"
    );
    let kept = std::fs::read_dir(&settings.spool.dir)
        .expect("dir")
        .filter(|entry| entry.as_ref().expect("entry").path().extension().is_some_and(|ext| ext == "bad"))
        .count();
    assert_eq!(kept, 1, "the damaged bytes are kept");
    assert_rolled_up(&settings);
}

#[test]
fn a_spool_has_one_writer() {
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = settings(dir.path());
    let first = Writer::open(&settings).expect("the first writer");
    assert!(matches!(Writer::open(&settings), Err(WriterError::AlreadyRunning(_))), "the second is told so");
    drop(first);
    assert!(Writer::open(&settings).is_ok(), "the lock goes with its holder");
}

#[test]
fn a_running_writer_shows_a_row_within_two_seconds_and_ends_when_told() {
    let dir = tempfile::tempdir().expect("temp dir");
    let settings = settings(dir.path());
    let stop = Arc::new(AtomicBool::new(false));
    let running = {
        let (settings, stop) = (settings.clone(), Arc::clone(&stop));
        std::thread::spawn(move || writer::run(&settings, &stop))
    };
    let log = open(&settings);
    finish(&log, 1);
    let deadline = Instant::now() + Duration::from_secs(2);
    while !settings.sqlite.exists()
        || Connection::open(&settings.sqlite)
            .and_then(|db| db.query_row("SELECT count(*) FROM usage_records", [], |row| row.get::<_, i64>(0)))
            .unwrap_or(0)
            != 1
    {
        assert!(Instant::now() < deadline, "the row must be there within 2 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    finish(&log, 1);
    log.close().expect("closed");
    stop.store(true, Ordering::Relaxed);
    let passed = running.join().expect("thread").expect("a clean end");
    assert_eq!(passed.inserted, 2, "what is in the spool at the end is read too");
}

/// Not a test of its own: the process that the next test kills.
#[test]
fn child_that_is_killed() {
    let Some(dir) = std::env::var_os("WEIR_TEST_KILLED_DIR") else { return };
    let log = open(&settings(Path::new(&dir)));
    let open: Vec<_> = (0..4).map(|n| log.admit(&birth(n)).expect("admitted")).collect();
    finish(&log, 8);
    let ready = Path::new(&dir).join("ready");
    for n in 1.. {
        for ticket in &open {
            log.progress(ticket, &Progress { output_plus_one: n + 1, delivered: n, ..Progress::default() });
        }
        if n == 100 {
            std::fs::write(&ready, "").expect("ready");
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}

#[test]
fn kill_nine_leaves_one_row_per_request() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["child_that_is_killed", "--exact", "--nocapture"])
        .env("WEIR_TEST_KILLED_DIR", dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("child");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dir.path().join("ready").exists() {
        assert!(Instant::now() < deadline, "the child must come up");
        std::thread::sleep(Duration::from_millis(5));
    }
    let settings = settings(dir.path());
    let mut writer = Writer::open(&settings).expect("writer");
    assert_eq!(writer.recover().expect("looked").tables, 0, "a living process is left alone");
    child.kill().expect("SIGKILL");
    child.wait().expect("reaped");
    let recovered = writer.recover().expect("recovered");
    assert_eq!((recovered.tables, recovered.crashed), (1, 4), "four requests were open");
    writer.pass().expect("passed");
    assert_eq!(rows(&settings), 12, "eight finished and four cut");
    assert_eq!(one::<i64>(&settings, "SELECT count(*) FROM usage_records WHERE status = 'completed'"), 8, "finished");
    let least: i64 = one(&settings, "SELECT min(delivered_output) FROM usage_records WHERE status = 'crash'");
    assert!(least >= 99, "{least} delivered: progress must survive the kill");
    assert_eq!(
        one::<i64>(&settings, "SELECT count(*) FROM usage_records WHERE delivered_output > output_total"),
        0,
        "never more than the upstream sent"
    );
    assert_eq!(one::<i64>(&settings, "SELECT max(seq) FROM usage_records"), 12, "no gap in the numbers");
    assert_rolled_up(&settings);
}
