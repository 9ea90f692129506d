use super::*;
use crate::domain::ids::RequestId;
use crate::domain::limit::QuotaUse;
use crate::domain::record::UsageRecord;
use crate::domain::units::{Tokens, WallMicros};
use crate::io::spool::payload;
use crate::logic::quota::plan::ModelPattern;
use crate::logic::usage::charge::charged;
use crate::writer::database::{Batch, Database};
use crate::writer::schema;
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// 2026-11-21 at midnight UTC, ms.
const MIDNIGHT: i64 = 1_795_219_200_000;

/// A record of `acme` that was admitted and ended at these ms after midnight.
fn record(admitted: Option<i64>, end: i64) -> UsageRecord {
    let mut record = UsageRecord::new(RequestId(uuid::Uuid::now_v7()), "p1", 1, "openai.chat");
    record.ts_received = WallMicros((MIDNIGHT + admitted.unwrap_or(end)) * 1_000 - 500);
    record.ts_admitted = admitted.map(|at| WallMicros((MIDNIGHT + at) * 1_000));
    record.ts_end = WallMicros((MIDNIGHT + end) * 1_000);
    record.tenant_id = Some("acme".to_owned());
    record.input_total = Some(Tokens(10));
    record.output_total = Some(Tokens(1));
    record
}

/// The writer's database with these records; the writer keeps it open, so that readers must do beside it.
fn filled(records: &[UsageRecord]) -> (tempfile::TempDir, Database, SqliteRows) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("usage.db");
    let mut database = Database::open(&path).expect("opens");
    let encode = |record: &UsageRecord| payload::encode(record.clone()).expect("encodes");
    let payloads: Vec<Vec<u8>> = records.iter().map(encode).collect();
    let frames = payloads.iter().enumerate().map(|(at, payload)| (at as u64, payload.as_slice())).collect();
    let passed = database.commit(&Batch { segment: "s", start: 0, end: 9, frames }).expect("commits");
    assert_eq!(passed.dead_letters, 0, "every record is a row");
    let rows = SqliteRows::new(&path);
    (folder, database, rows)
}

fn account(scope: Scope, dimension: Dimension) -> AccountRows {
    AccountRows { tenant: Some("acme".into()), scope, dimension, model: None }
}

fn of_tenant(dimension: Dimension) -> AccountRows {
    account(Scope::Tenant("acme".into()), dimension)
}

fn totals(rows: &SqliteRows, account: &AccountRows, from_ms: i64) -> Vec<(String, u64)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let totals = runtime.block_on(rows.totals(account, from_ms)).expect("answers");
    totals.into_iter().map(|row| (row.proxy_id.to_string(), row.total)).collect()
}

fn sum(rows: &SqliteRows, account: &AccountRows, from_ms: i64) -> u64 {
    totals(rows, account, from_ms).iter().map(|(_, total)| total).sum()
}

#[test]
fn without_a_file_nothing_has_been_used() {
    let folder = tempfile::tempdir().expect("a folder");
    let rows = SqliteRows::new(&folder.path().join("usage.db"));
    assert_eq!(totals(&rows, &of_tenant(Dimension::Tokens), 0), vec![], "no file, no rows");
}

#[test]
fn requests_count_when_they_are_admitted_and_tokens_when_they_end() {
    let over_midnight = record(Some(-1), 1);
    let (_folder, _database, rows) = filled(&[over_midnight, record(Some(0), 0), record(None, 5)]);
    assert_eq!(sum(&rows, &of_tenant(Dimension::Requests), MIDNIGHT), 1, "one was admitted today");
    assert_eq!(sum(&rows, &of_tenant(Dimension::Tokens), MIDNIGHT), 22, "two ended today; one was not admitted");
    assert_eq!(sum(&rows, &of_tenant(Dimension::Requests), MIDNIGHT - 1), 2, "both since yesterday");
    assert_eq!(sum(&rows, &of_tenant(Dimension::Concurrency), 0), 0, "no row tells of places");
}

#[test]
fn each_scope_counts_its_own_rows() {
    let with = |change: fn(&mut UsageRecord)| {
        let mut record = record(Some(0), 1);
        change(&mut record);
        record
    };
    let records = [
        with(|record| record.key_id = Some("k1".to_owned())),
        with(|record| record.user_id = Some("u1".to_owned())),
        with(|record| record.team_id = Some("t1".to_owned())),
        with(|record| record.pool = Some("gpu".to_owned())),
        with(|record| record.tenant_id = Some("other".to_owned())),
        with(|record| record.proxy_id = "p2".to_owned()),
    ];
    let (_folder, _database, rows) = filled(&records);
    let tenant = || crate::domain::ids::TenantId::new("acme");
    for scope in [
        Scope::Key("k1".into()),
        Scope::User(tenant(), "u1".into()),
        Scope::Team(tenant(), "t1".into()),
        Scope::Pool("gpu".into()),
    ] {
        let rows_of = AccountRows { tenant: None, ..account(scope.clone(), Dimension::Requests) };
        assert_eq!(sum(&rows, &rows_of, MIDNIGHT), 1, "{scope:?}");
        assert_eq!(sum(&rows, &account(scope.clone(), Dimension::Requests), MIDNIGHT), 1, "{scope:?} of its tenant");
    }
    let by_process = vec![("p1".to_owned(), 4), ("p2".to_owned(), 1)];
    assert_eq!(totals(&rows, &of_tenant(Dimension::Requests), MIDNIGHT), by_process, "by process, in order");
    let all = AccountRows { tenant: None, ..account(Scope::Global, Dimension::Requests) };
    assert_eq!(sum(&rows, &all, MIDNIGHT), 6, "everybody's");
}

#[test]
fn a_rule_that_names_models_counts_what_was_asked_for() {
    let named = |model: Option<&str>| {
        let mut record = record(Some(0), 1);
        record.model_requested = model.map(str::to_owned);
        record.model_routed = Some("llama-3".to_owned());
        record
    };
    let (_folder, _database, rows) =
        filled(&[named(Some("llama-3")), named(Some("llama-4")), named(Some("gpt")), named(None)]);
    let pattern = globset::Glob::new("llama-*").expect("a glob").compile_matcher();
    let models = AccountRows { model: Some(ModelPattern(pattern)), ..of_tenant(Dimension::Requests) };
    assert_eq!(sum(&rows, &models, MIDNIGHT), 2, "two of the four");
}

#[test]
fn a_buckets_past_is_told_by_second_oldest_first() {
    let (_folder, _database, rows) =
        filled(&[record(Some(2_100), 2_200), record(Some(900), 2_900), record(Some(0), 999)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let recent = |dimension, from| runtime.block_on(rows.recent(&of_tenant(dimension), from)).expect("answers");
    assert_eq!(recent(Dimension::Tokens, MIDNIGHT), [(MIDNIGHT, 11), (MIDNIGHT + 2_000, 22)], "tokens when they ended");
    assert_eq!(
        recent(Dimension::Requests, MIDNIGHT + 1_000),
        [(MIDNIGHT + 2_000, 1)],
        "requests when they were admitted, from the instant on"
    );
}

#[test]
fn what_a_limit_counts_is_found_by_an_index() {
    let (folder, _database, _rows) = filled(&[]);
    let connection = rusqlite::Connection::open(folder.path().join("usage.db")).expect("opens");
    let plan = |rows: &AccountRows| {
        let (sql, values) = Question::of(rows, MIDNIGHT).expect("a question").grouped("proxy_id", None);
        let mut explain = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("valid SQL");
        let lines = explain.query_map(rusqlite::params_from_iter(values), |row| row.get::<_, String>(3));
        lines.expect("a plan").collect::<Result<Vec<_>, _>>().expect("lines").join("; ")
    };
    let tenant = || crate::domain::ids::TenantId::new("acme");
    for (scope, index) in [
        (Scope::Tenant(tenant()), "usage_records_by_tenant (tenant_id=? AND ts_end>?)"),
        (Scope::Team(tenant(), "t".into()), "usage_records_by_tenant (tenant_id=? AND ts_end>?)"),
        (Scope::User(tenant(), "u".into()), "usage_records_by_user (tenant_id=? AND user_id=? AND ts_received>?)"),
        (Scope::Key("k".into()), "usage_records_by_key (tenant_id=? AND key_id=? AND ts_received>?)"),
    ] {
        for dimension in [Dimension::Requests, Dimension::Tokens, Dimension::Spend] {
            let plan = plan(&account(scope.clone(), dimension));
            assert!(plan.contains(&format!("USING INDEX {index}")), "{scope:?} {dimension:?}: {plan}");
        }
    }
    for scope in [Scope::Pool("gpu".into()), Scope::Global] {
        let plan = plan(&AccountRows { tenant: None, ..account(scope.clone(), Dimension::Tokens) });
        assert!(plan.contains("USING INDEX usage_records_by_time (ts_received>?)"), "{scope:?}: {plan}");
    }
}

#[test]
fn questions_run_a_few_at_a_time() {
    let (_folder, _database, rows) = filled(&[]);
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let (rows, running, most) = (rows.clone(), Arc::clone(&running), Arc::clone(&most));
                tokio::spawn(async move {
                    rows.ask(move |_| {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(5));
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok(())
                    })
                    .await
                })
            })
            .collect();
        for one in asked {
            one.await.expect("ends").expect("answers");
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), QUESTIONS_AT_ONCE, "no more at once, and no fewer");
}

/// What a request may have been, as its record tells.
fn any_record() -> impl Strategy<Value = UsageRecord> {
    let tokens = || proptest::option::of(prop_oneof![0u64..50, 0u64..1_000_000_000]);
    let cost = proptest::option::of(0i64..1_000_000_000_000);
    let times = (proptest::option::weighted(0.9, -2_000i64..2_000), 0i64..2_000);
    (times, tokens(), tokens(), tokens(), cost, 0..3u8).prop_map(
        |((admitted, took), input, output, delivered, cost, proxy)| {
            let mut record = record(admitted, admitted.unwrap_or(0) + took);
            record.proxy_id = format!("p{proxy}");
            record.input_total = input.map(Tokens);
            record.output_total = output.map(Tokens);
            record.delivered_output = delivered.map(Tokens);
            record.billable_cost_nano_usd = cost;
            record
        },
    )
}

/// What a limit is charged for a record, if it counts in a period that begins at midnight.
fn charge(record: &UsageRecord, dimension: Dimension) -> u64 {
    let Some(admitted) = record.ts_admitted else { return 0 };
    let used: QuotaUse = charged(record);
    let today = |at: WallMicros| u64::from(at.0 >= MIDNIGHT * 1_000);
    match dimension {
        Dimension::Requests => today(admitted),
        other => used.amount(other) * today(record.ts_end),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_limits_are_charged_is_what_the_rows_say(records in proptest::collection::vec(any_record(), 0..24)) {
        let (_folder, _database, rows) = filled(&records);
        for dimension in Dimension::ALL {
            let mut charges: BTreeMap<String, u64> = BTreeMap::new();
            for record in &records {
                let charged = charge(record, dimension);
                if charged > 0 {
                    *charges.entry(record.proxy_id.clone()).or_default() += charged;
                }
            }
            let mut told = totals(&rows, &of_tenant(dimension), MIDNIGHT);
            told.retain(|(_, total)| *total > 0);
            prop_assert_eq!(told, charges.into_iter().collect::<Vec<_>>(), "{:?}", dimension);
        }
    }
}

#[test]
fn the_tables_have_the_columns_that_are_asked_for() {
    let asked = ["proxy_id", "tenant_id", "team_id", "user_id", "key_id", "pool", "model_requested", "ts_admitted"];
    for name in asked.iter().chain(&["ts_end", "ts_received", "billable_cost_nano_usd"]) {
        assert!(schema::COLUMNS.iter().any(|(column, _)| column == name), "{name} is a column");
    }
}

#[test]
fn slices_are_cut_between_the_first_row_and_the_last() {
    let (_folder, _database, rows) = filled(&[record(Some(5), 7), record(Some(1), 2), record(Some(3), 900)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (scope, expected) in [
        (Scope::Tenant("acme".into()), ((MIDNIGHT + 2) * 1_000, (MIDNIGHT + 900) * 1_000)),
        (Scope::Global, ((MIDNIGHT + 1) * 1_000 - 500, (MIDNIGHT + 5) * 1_000 - 500)),
    ] {
        let question = Question::of(&account(scope.clone(), Dimension::Tokens), MIDNIGHT).expect("a question");
        let (sql, values) = question.bounds();
        let ask = rows.ask(move |reader| reader.ask(&sql, values, |row| Ok((row.get(0)?, row.get(1)?))));
        let bounds: Vec<(i64, i64)> = runtime.block_on(ask).expect("answers");
        assert_eq!(bounds, [expected], "{scope:?}");
        let whole = Slice { from: expected.0, to: expected.1 + 1 };
        let (sql, values) = question.grouped("proxy_id", Some(whole));
        let ask = rows.ask(move |reader| reader.ask(&sql, values, |row| row.get::<_, i64>(2)));
        assert_eq!(runtime.block_on(ask).expect("answers"), [33], "{scope:?}: all rows are between them");
    }
}
