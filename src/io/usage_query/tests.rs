use super::*;
use crate::domain::ids::RequestId;
use crate::domain::record::UsageRecord;
use crate::domain::units::Tokens;
use crate::io::spool::payload;
use crate::writer::database::{Batch, Database};
use crate::writer::schema;

const HOUR: i64 = 3_600_000_000;
/// 2026-11-20 at noon.
const NOON: i64 = 1_795_176_000_000_000;

/// A record received at `at`, with an id that was made then.
fn record(at: i64, n: u64, tenant: &str, model: &str) -> UsageRecord {
    let seconds = u64::try_from(at / 1_000_000).expect("after 1970");
    let stamp = uuid::Timestamp::from_unix(uuid::NoContext, seconds, 0);
    let mut record = UsageRecord::new(RequestId(uuid::Uuid::new_v7(stamp)), "proxy", n, "openai.chat");
    record.ts_received = WallMicros(at);
    record.ts_end = WallMicros(at + 1);
    record.tenant_id = Some(tenant.to_owned());
    record.key_id = Some(format!("key{tenant}"));
    record.model_requested = Some(model.to_owned());
    record.input_total = Some(Tokens(n));
    record
}

fn filled(records: Vec<UsageRecord>) -> (tempfile::TempDir, UsageReader) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("usage.db");
    let mut database = Database::open(&path).expect("opens");
    let payloads: Vec<Vec<u8>> = records.into_iter().map(|record| payload::encode(record).expect("encodes")).collect();
    let frames = payloads.iter().enumerate().map(|(at, payload)| (at as u64, payload.as_slice())).collect();
    database.commit(&Batch { segment: "s", start: 0, end: 9, frames }).expect("commits");
    // The writer keeps its connection: readers must do beside it.
    std::mem::forget(database);
    let reader = UsageReader::new(&path);
    (folder, reader)
}

fn of(tenant: &str) -> Filter {
    Filter { tenant: Some(tenant.to_owned()), ..Filter::default() }
}

#[test]
fn without_a_file_or_its_tables_nothing_has_been_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("usage.db");
    let reader = UsageReader::new(&path);
    assert_eq!(reader.records(&Filter::default(), None, 9).expect("no file"), Vec::<Line>::new(), "no file");
    Connection::open(&path).and_then(|made| made.execute_batch("CREATE TABLE x (a)")).expect("a file");
    assert_eq!(reader.sums(&Filter::default(), &["day"], None, 9).expect("no tables"), Vec::<Line>::new(), "no tables");
}

#[test]
fn the_columns_are_those_of_the_table() {
    for (name, kind) in COLUMNS {
        let (_, sql) = schema::COLUMNS.iter().find(|(known, _)| *known == name).expect("a column of the table");
        let never_null = sql.contains("NOT NULL");
        let whole = sql.starts_with("INTEGER");
        match kind {
            Kind::Text => assert!(never_null && !whole, "{name} {sql}"),
            Kind::MaybeText => assert!(!never_null && !whole, "{name} {sql}"),
            Kind::Whole | Kind::Flag => assert!(never_null && whole, "{name} {sql}"),
            Kind::MaybeWhole => assert!(!never_null && whole, "{name} {sql}"),
        }
    }
}

#[test]
fn pages_hold_every_record_once_newest_first() {
    let records: Vec<_> = (0..7).map(|n| record(NOON + n * HOUR, n as u64, "a", "m")).collect();
    let ids: Vec<String> = records.iter().rev().map(|record| record.request_id.to_string()).collect();
    let (_folder, reader) = filled(records);
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = reader.records(&of("a"), seen.last().map(String::as_str), 3).expect("a page");
        assert!(page.len() <= 3, "the limit holds");
        seen.extend(page.iter().map(|line| line["request_id"].as_str().expect("text").to_owned()));
        if page.len() < 3 {
            break;
        }
    }
    assert_eq!(seen, ids, "all of them, once, newest first");
}

#[test]
fn a_filter_shows_its_own_tenant_and_time_only() {
    let records = vec![record(NOON, 1, "a", "m"), record(NOON + HOUR, 2, "a", "n"), record(NOON + HOUR, 3, "b", "m")];
    let (_folder, reader) = filled(records);
    let counts = |filter: &Filter| reader.records(filter, None, 9).expect("lines").len();
    assert_eq!((counts(&Filter::default()), counts(&of("a")), counts(&of("' OR 1 --"))), (3, 2, 0), "tenants");
    let within = |from: i64, to: i64| {
        counts(&Filter { from: Some(WallMicros(from)), to: Some(WallMicros(to)), ..Filter::default() })
    };
    assert_eq!(within(NOON, NOON + HOUR), 1, "the end is not in it");
    assert_eq!(within(NOON, NOON + HOUR + 1), 3, "the start is");
    assert_eq!(within(NOON + 1, i64::MAX), 2, "a far end");
    assert_eq!(within(i64::MIN, NOON + 1), 1, "a far start");
}

#[test]
fn sums_are_by_what_was_asked_for_and_page_by_their_groups() {
    let mut absurd = record(NOON + 24 * HOUR, 0, "b", "m");
    absurd.input_total = Some(Tokens(i64::MAX as u64));
    absurd.team_id = None;
    let records =
        vec![record(NOON, 1, "a", "m"), record(NOON, 2, "a", "m"), record(NOON, 4, "a", "n"), absurd.clone(), {
            let mut other = record(NOON + 24 * HOUR, 1, "b", "m");
            other.input_total = Some(Tokens(i64::MAX as u64));
            other
        }];
    let (_folder, reader) = filled(records);
    let by = ["tenant", "model", "day"];
    let all = reader.sums(&Filter::default(), &by, None, 9).expect("sums");
    let line = |line: &Line| (line["tenant"].clone(), line["model"].clone(), line["requests"].clone());
    assert_eq!(
        all.iter().map(line).collect::<Vec<_>>(),
        [("a".into(), "m".into(), 2.into()), ("a".into(), "n".into(), 1.into()), ("b".into(), "m".into(), 2.into())],
        "groups in order"
    );
    assert_eq!((&all[0]["input_total"], &all[0]["day"]), (&3.into(), &"2026-11-20".into()), "a sum, a day");
    let after: Vec<String> = by.iter().map(|name| all[0][*name].as_str().unwrap_or("").to_owned()).collect();
    assert_eq!(reader.sums(&Filter::default(), &by, Some(&after), 9).expect("rest"), all[1..], "the next page");
    let whole = reader.sums(&of("a"), &[], None, 9).expect("one line");
    assert_eq!((whole.len(), &whole[0]["requests"]), (1, &3.into()), "no group: one line");
    let unknown = reader.sums(&of("a"), &["team"], None, 9).expect("one line");
    assert_eq!(unknown[0]["team"], Value::Null, "unknown is null");
}

#[test]
fn a_question_that_takes_too_long_is_cut_off() {
    let connection = Connection::open_in_memory().expect("a database");
    let limit = Limit::set(&connection, Duration::from_millis(20)).expect("a limit");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let error = connection.query_row(endless, [], |row| row.get::<_, i64>(0)).expect_err("never ends by itself");
    drop(limit);
    assert_eq!(error.sqlite_error_code(), Some(ErrorCode::OperationInterrupted), "interrupted, not failed");
}

#[test]
fn a_callers_own_usage_is_found_without_reading_everyone_elses() {
    let (_folder, reader) = filled(vec![record(NOON, 1, "a", "m")]);
    let connection = Connection::open(&reader.path).expect("opens");
    let mine = || Filter { from: Some(WallMicros(NOON)), to: Some(WallMicros(NOON + HOUR)), ..of("a") };
    for (filter, index) in [
        (Filter { key: Some("keya".to_owned()), ..mine() }, "usage_records_by_key (tenant_id=? AND key_id=? AND ts_r"),
        (
            Filter { user: Some("ann".to_owned()), ..mine() },
            "usage_records_by_user (tenant_id=? AND user_id=? AND ts_r",
        ),
    ] {
        let (filters, values) = split(filter.conditions());
        let sql =
            format!("EXPLAIN QUERY PLAN SELECT count(*), date(ts_received) FROM usage_records {filters} GROUP BY 2");
        let plan: rusqlite::Result<Vec<String>> = connection
            .prepare(&sql)
            .and_then(|mut plan| plan.query_map(params_from_iter(values), |row| row.get(3))?.collect());
        let plan = plan.expect("a plan").join("; ");
        assert!(plan.contains(index), "{index}: {plan}");
    }
}
