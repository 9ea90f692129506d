//! The usage rows of a proxy, by a real `weir writer` run over its spool.

use super::proxy::{DEADLINE, Proxy, signal, wait_exit};
use rusqlite::{Connection, OpenFlags, Row as SqlRow};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The part of a usage row that the edge answers for.
#[derive(Clone, Debug)]
pub struct Row {
    pub status: String,
    pub surface: String,
    pub http_status: Option<i64>,
    pub error_code: Option<String>,
    pub input_total: Option<i64>,
    pub output_total: Option<i64>,
    pub delivered_output: Option<i64>,
    pub usage_source: String,
    pub bytes_in: i64,
    pub bytes_out: i64,
    pub attempts: Vec<serde_json::Value>,
    pub tenant: String,
    pub user: Option<String>,
    pub auth_method: String,
    pub billable: Option<i64>,
    pub price_version: Option<String>,
}

const QUERY: &str = "SELECT request_id, status, surface, http_status, error_code, input_total, output_total,
    delivered_output, usage_source, bytes_in, bytes_out, attempts, tenant_id, user_id, auth_method,
    billable_cost_nano_usd, price_version FROM usage_records";

/// Runs the writer until the table holds `count` rows, lets it finish, and returns every row by request id. Panics if
/// that many do not come within the deadline, or more are there in the end.
pub fn rows(proxy: &Proxy, count: usize) -> BTreeMap<String, Row> {
    let mut writer = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(["writer", "-c", &proxy.config().to_string_lossy()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("weir writer");
    let until = Instant::now() + DEADLINE;
    while !read(proxy).is_ok_and(|rows| rows.len() >= count) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(&writer, "TERM");
    if wait_exit(&mut writer, DEADLINE).is_none() {
        let _ = writer.kill();
        panic!("the writer did not end");
    }
    let rows = read(proxy).expect("the usage table");
    assert_eq!(rows.len(), count, "one row per admitted request, no more, no less: {rows:#?}");
    rows
}

fn read(proxy: &Proxy) -> rusqlite::Result<BTreeMap<String, Row>> {
    let database = Connection::open_with_flags(proxy.state("usage.db"), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    database.busy_timeout(DEADLINE)?;
    let mut query = database.prepare(QUERY)?;
    let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, parse(row)?)))?;
    rows.collect()
}

fn parse(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let attempts: String = row.get(11)?;
    Ok(Row {
        status: row.get(1)?,
        surface: row.get(2)?,
        http_status: row.get(3)?,
        error_code: row.get(4)?,
        input_total: row.get(5)?,
        output_total: row.get(6)?,
        delivered_output: row.get(7)?,
        usage_source: row.get(8)?,
        bytes_in: row.get(9)?,
        bytes_out: row.get(10)?,
        attempts: serde_json::from_str(&attempts).expect("attempts are a JSON list"),
        tenant: row.get(12)?,
        user: row.get(13)?,
        auth_method: row.get(14)?,
        billable: row.get(15)?,
        price_version: row.get(16)?,
    })
}
