//! Questions to the usage database, which the writer fills. Decides how records are filtered, paged and summed; who may
//! see which is the asker's. Reads only: a read-only connection, never in the writer's way, and cut off when it takes
//! too long. No file yet means that nothing has been used yet.

use crate::domain::units::WallMicros;
use rusqlite::types::{Value as Sql, ValueRef};
use rusqlite::{Connection, ErrorCode, OpenFlags, Row, params_from_iter};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// How long one question may take; then it is interrupted.
pub const TIME_LIMIT: Duration = Duration::from_secs(5);
/// How long a question waits for a lock. WAL readers wait only while the file is recovered.
const BUSY: Duration = Duration::from_secs(1);
/// Between the time in a request's id and its `ts_received` at most: both are read when the head is there.
const ID_SLACK_MS: i64 = 60_000;

/// Columns of a record as the API shows it: name and kind, names as in semantics.md §5.
pub const COLUMNS: [(&str, Kind); 36] = [
    ("request_id", Kind::Text),
    ("client_request_id", Kind::MaybeText),
    ("ts_received", Kind::Whole),
    ("ts_first_token", Kind::MaybeWhole),
    ("ts_end", Kind::Whole),
    ("queue_ms", Kind::MaybeWhole),
    ("tenant_id", Kind::MaybeText),
    ("team_id", Kind::MaybeText),
    ("user_id", Kind::MaybeText),
    ("end_user", Kind::MaybeText),
    ("key_id", Kind::MaybeText),
    ("secret_gen", Kind::MaybeWhole),
    ("auth_method", Kind::MaybeText),
    ("surface", Kind::Text),
    ("stream", Kind::Flag),
    ("route_id", Kind::MaybeText),
    ("model_requested", Kind::MaybeText),
    ("model_routed", Kind::MaybeText),
    ("provider", Kind::MaybeText),
    ("pool", Kind::MaybeText),
    ("status", Kind::Text),
    ("http_status", Kind::MaybeWhole),
    ("error_code", Kind::MaybeText),
    ("finish_reason", Kind::MaybeText),
    ("bytes_in", Kind::Whole),
    ("bytes_out", Kind::Whole),
    ("input_total", Kind::MaybeWhole),
    ("input_cache_read", Kind::MaybeWhole),
    ("input_cache_write", Kind::MaybeWhole),
    ("output_total", Kind::MaybeWhole),
    ("output_reasoning", Kind::MaybeWhole),
    ("delivered_output", Kind::MaybeWhole),
    ("usage_source", Kind::Text),
    ("usage_confidence", Kind::Text),
    ("metered_cost_nano_usd", Kind::MaybeWhole),
    ("billable_cost_nano_usd", Kind::MaybeWhole),
];

/// What is in a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Text.
    Text,
    /// Text or null.
    MaybeText,
    /// A whole number.
    Whole,
    /// A whole number or null.
    MaybeWhole,
    /// 0 or 1.
    Flag,
}

/// The figures of a sum: name and SQL. One record counts for at most 10^12 tokens (10^15 nano-dollars): one absurd
/// count of an upstream must not make every sum over it overflow.
pub const SUMS: [(&str, &str); 8] = [
    ("requests", "count(*)"),
    ("completed", "sum(status = 'completed')"),
    ("input_total", "sum(min(coalesce(input_total, 0), 1000000000000))"),
    ("input_cache_read", "sum(min(coalesce(input_cache_read, 0), 1000000000000))"),
    ("output_total", "sum(min(coalesce(output_total, 0), 1000000000000))"),
    ("delivered_output", "sum(min(coalesce(delivered_output, 0), 1000000000000))"),
    ("metered_cost_nano_usd", "sum(min(coalesce(metered_cost_nano_usd, 0), 1000000000000000))"),
    ("billable_cost_nano_usd", "sum(min(coalesce(billable_cost_nano_usd, 0), 1000000000000000))"),
];

/// What sums may be by: name and SQL. Never null, so that groups have an order; unknown is the empty text.
pub const GROUPS: [(&str, &str); 6] = [
    ("tenant", "coalesce(tenant_id, '')"),
    ("team", "coalesce(team_id, '')"),
    ("user", "coalesce(user_id, '')"),
    ("key", "coalesce(key_id, '')"),
    ("model", "coalesce(model_routed, model_requested, '')"),
    ("day", "coalesce(date(ts_received / 1000000, 'unixepoch'), '')"),
];

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum UsageQueryError {
    /// It took longer than [`TIME_LIMIT`].
    #[error("the question took longer than {} s; ask for a shorter time", TIME_LIMIT.as_secs())]
    TooLong,
    /// SQLite's own word.
    #[error("{path}: {source}")]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
    /// The thread that would interrupt a long question cannot be started.
    #[error("no thread can be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Which records.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Filter {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// Of this team.
    pub team: Option<String>,
    /// Of this user.
    pub user: Option<String>,
    /// Of this key.
    pub key: Option<String>,
    /// Of this model: the routed one, else the one that was asked for.
    pub model: Option<String>,
    /// Received then or later.
    pub from: Option<WallMicros>,
    /// Received before then.
    pub to: Option<WallMicros>,
}

impl Filter {
    /// Conditions with their values.
    fn conditions(&self) -> Vec<(String, Sql)> {
        let texts = [
            ("tenant_id", &self.tenant),
            ("team_id", &self.team),
            ("user_id", &self.user),
            ("key_id", &self.key),
            ("coalesce(model_routed, model_requested)", &self.model),
        ];
        let mut all: Vec<(String, Sql)> = Vec::new();
        for (column, text) in texts {
            all.extend(text.clone().map(|text| (format!("{column} = ?"), Sql::Text(text))));
        }
        // A request's id begins with its time, so bounds on it let the primary key do the search.
        if let Some(from) = self.from {
            all.push(("ts_received >= ?".to_owned(), Sql::Integer(from.0)));
            all.push(("request_id >= ?".to_owned(), Sql::Text(first_id(from.0 / 1_000 - ID_SLACK_MS))));
        }
        if let Some(to) = self.to {
            all.push(("ts_received < ?".to_owned(), Sql::Integer(to.0)));
            all.push(("request_id < ?".to_owned(), Sql::Text(first_id(to.0 / 1_000 + ID_SLACK_MS))));
        }
        all
    }
}

/// The smallest UUIDv7 of a millisecond.
fn first_id(millis: i64) -> String {
    let millis = millis.clamp(0, 0xffff_ffff_ffff);
    format!("{:08x}-{:04x}", millis >> 16, millis & 0xffff)
}

/// Where usage is asked about.
#[derive(Clone, Debug)]
pub struct UsageReader {
    path: PathBuf,
}

/// A record, or a line of sums.
pub type Line = Map<String, Value>;

impl UsageReader {
    /// A reader of the writer's file; opens nothing yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Records, newest first, `limit` at most, beginning after the one with the id `after`.
    ///
    /// # Errors
    /// [`UsageQueryError`]
    pub fn records(&self, filter: &Filter, after: Option<&str>, limit: u32) -> Result<Vec<Line>, UsageQueryError> {
        let mut conditions = filter.conditions();
        conditions.extend(after.map(|after| ("request_id < ?".to_owned(), Sql::Text(after.to_owned()))));
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        let (filters, values) = split(conditions);
        let sql =
            format!("SELECT {} FROM usage_records {filters} ORDER BY request_id DESC LIMIT {limit}", names.join(", "));
        self.ask(&sql, values, |row| {
            let cell = |(index, (name, kind)): (usize, &(&str, Kind))| {
                let value = row.get_ref(index)?;
                Ok(((*name).to_owned(), if *kind == Kind::Flag { flag(value) } else { json_of(value) }))
            };
            COLUMNS.iter().enumerate().map(cell).collect()
        })
    }

    /// Sums by some of [`GROUPS`], in the groups' order, `limit` at most, beginning after the groups `after`. Unknown
    /// is null.
    ///
    /// # Errors
    /// [`UsageQueryError`]
    pub fn sums(
        &self,
        filter: &Filter,
        by: &[&str],
        after: Option<&[String]>,
        limit: u32,
    ) -> Result<Vec<Line>, UsageQueryError> {
        let groups: Vec<&(&str, &str)> =
            by.iter().filter_map(|by| GROUPS.iter().find(|(name, _)| name == by)).collect();
        let keys: Vec<&str> = groups.iter().map(|(_, sql)| *sql).collect();
        let keys = keys.join(", ");
        let (mut filters, mut values) = split(filter.conditions());
        if let Some(after) = after.filter(|_| !groups.is_empty()) {
            let marks = vec!["?"; after.len()].join(", ");
            filters.push_str(if filters.is_empty() { "WHERE " } else { " AND " });
            filters.push_str(&format!("({keys}) > ({marks})"));
            values.extend(after.iter().cloned().map(Sql::Text));
        }
        let sums: Vec<&str> = SUMS.iter().map(|(_, sql)| *sql).collect();
        let sums = sums.join(", ");
        let sql = if groups.is_empty() {
            format!("SELECT {sums} FROM usage_records {filters} HAVING count(*) > 0")
        } else {
            format!("SELECT {keys}, {sums} FROM usage_records {filters} GROUP BY {keys} ORDER BY {keys} LIMIT {limit}")
        };
        let names: Vec<&str> = groups.iter().map(|(name, _)| *name).chain(SUMS.iter().map(|(name, _)| *name)).collect();
        self.ask(&sql, values, |row| {
            let cell = |(index, name): (usize, &&str)| {
                let value = row.get_ref(index)?;
                let unknown = matches!(value, ValueRef::Text(b"") | ValueRef::Null);
                Ok(((*name).to_owned(), if unknown { Value::Null } else { json_of(value) }))
            };
            names.iter().enumerate().map(cell).collect()
        })
    }

    /// Runs one question on a connection of its own, with its time limit. No file, or no tables yet: no lines.
    pub(super) fn ask<T, F>(&self, sql: &str, values: Vec<Sql>, line: F) -> Result<Vec<T>, UsageQueryError>
    where
        F: Fn(&Row<'_>) -> rusqlite::Result<T>,
    {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(|error| self.at_fault(error))?;
        connection.busy_timeout(BUSY).map_err(|error| self.at_fault(error))?;
        if !self.has_tables(&connection)? {
            return Ok(Vec::new());
        }
        let _limit = Limit::set(&connection, TIME_LIMIT)?;
        let lines = connection.prepare(sql).and_then(|mut select| {
            let rows = select.query_map(params_from_iter(values), |row| line(row))?;
            rows.collect()
        });
        lines.map_err(|error| self.at_fault(error))
    }

    /// False while the writer has made the file and not yet its tables.
    fn has_tables(&self, connection: &Connection) -> Result<bool, UsageQueryError> {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'usage_records'";
        let count: i64 = connection.query_row(sql, [], |row| row.get(0)).map_err(|error| self.at_fault(error))?;
        Ok(count > 0)
    }

    fn at_fault(&self, source: rusqlite::Error) -> UsageQueryError {
        if source.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
            return UsageQueryError::TooLong;
        }
        UsageQueryError::Sqlite { path: self.path.clone(), source }
    }
}

/// Interrupts a connection's statement when its time is over; ends with the value.
struct Limit {
    done: Option<mpsc::Sender<()>>,
    watch: Option<std::thread::JoinHandle<()>>,
}

impl Limit {
    fn set(connection: &Connection, limit: Duration) -> std::io::Result<Self> {
        let handle = connection.get_interrupt_handle();
        let (done, ended) = mpsc::channel::<()>();
        let watch = std::thread::Builder::new().name("weir-usage".to_owned()).spawn(move || {
            if ended.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                handle.interrupt();
            }
        })?;
        Ok(Self { done: Some(done), watch: Some(watch) })
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(watch) = self.watch.take()
            && watch.join().is_err()
        {
            tracing::error!("the thread that interrupts long usage questions ended in a panic");
        }
    }
}

/// `WHERE …` with its values.
fn split(conditions: Vec<(String, Sql)>) -> (String, Vec<Sql>) {
    let (texts, values): (Vec<String>, Vec<Sql>) = conditions.into_iter().unzip();
    let filters = if texts.is_empty() { String::new() } else { format!("WHERE {}", texts.join(" AND ")) };
    (filters, values)
}

fn flag(value: ValueRef<'_>) -> Value {
    Value::Bool(value.as_i64().is_ok_and(|value| value != 0))
}

fn json_of(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Integer(number) => Value::from(number),
        ValueRef::Text(text) => Value::from(String::from_utf8_lossy(text)),
        // No column of ours has one.
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Blob(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests;
