//! The usage database. Decides what is one transaction and which refusal is the row's fault; the form of the tables is
//! `schema`.
//!
//! WAL with `synchronous=FULL`: a segment is deleted after the commit of its last row, so a commit that a power loss
//! could take back would lose records. One sync per batch, not per row, makes that cheap.

use super::passed::Passed;
use super::row;
use super::schema;
use crate::domain::record::UsageRecord;
use crate::io::spool::payload;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params, params_from_iter};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement waits for another process's lock.
pub const BUSY: Duration = Duration::from_secs(5);

/// What is wrong with the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite's own word.
    #[error("{}: {source}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// What it says.
        source: rusqlite::Error,
    },
    /// The folder of the file cannot be made.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was wrong.
        source: std::io::Error,
    },
    /// Written by a newer Weir.
    #[error("{} has usage tables of version {found}; this program knows version {}", path.display(), schema::VERSION)]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
}

/// Frames that are committed together, and how far that reads their segment.
#[derive(Debug)]
pub struct Batch<'a> {
    /// The segment's name.
    pub segment: &'a str,
    /// Where the batch starts: the segment's position before it.
    pub start: u64,
    /// The position after it.
    pub end: u64,
    /// Offset and payload of each frame.
    pub frames: Vec<(u64, &'a [u8])>,
}

/// An open usage database.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    connection: Connection,
}

/// Day number, tenant, key, model.
type Group = (i64, String, String, String);
type Sums = [i64; schema::SUMS.len()];

impl Database {
    /// Opens the file, and makes it and its tables where they are not there.
    ///
    /// # Errors
    /// [`DatabaseError`]
    pub fn open(path: &Path) -> Result<Self, DatabaseError> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)
                .map_err(|source| DatabaseError::Folder { path: folder.to_owned(), source })?;
        }
        let at_fault = |source| DatabaseError::Sqlite { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(at_fault)?;
        let found = prepare(&connection).map_err(at_fault)?;
        if found > schema::VERSION {
            return Err(DatabaseError::Newer { path: path.to_owned(), found });
        }
        connection.execute_batch(&schema::create()).map_err(at_fault)?;
        Ok(Self { path: path.to_owned(), connection })
    }

    /// How far a segment has been read; 0 for one that is not known.
    ///
    /// # Errors
    /// [`DatabaseError::Sqlite`]
    pub fn position(&self, segment: &str) -> Result<u64, DatabaseError> {
        let read_to: Option<i64> = self
            .connection
            .prepare_cached("SELECT read_to FROM spool_position WHERE segment = ?")
            .and_then(|mut select| select.query_row([segment], |row| row.get(0)).optional())
            .map_err(self.at_fault())?;
        Ok(read_to.and_then(|read_to| u64::try_from(read_to).ok()).unwrap_or(0))
    }

    /// Commits a batch: rows, roll-ups of the rows really inserted, and the position, all or nothing.
    ///
    /// # Errors
    /// [`DatabaseError::Sqlite`]: nothing of the batch was kept.
    pub fn commit(&mut self, batch: &Batch<'_>) -> Result<Passed, DatabaseError> {
        let path = self.path.clone();
        commit(&mut self.connection, batch).map_err(|source| DatabaseError::Sqlite { path, source })
    }

    /// Forgets a segment that was deleted.
    ///
    /// # Errors
    /// [`DatabaseError::Sqlite`]
    pub fn forget(&mut self, segment: &str) -> Result<(), DatabaseError> {
        self.connection
            .execute("DELETE FROM spool_position WHERE segment = ?", [segment])
            .map(|_| ())
            .map_err(self.at_fault())
    }

    /// Forgets every segment that is not in the spool: deleted just before a crash of the writer.
    ///
    /// # Errors
    /// [`DatabaseError::Sqlite`]
    pub fn forget_deleted(&mut self, spool_dir: &Path) -> Result<(), DatabaseError> {
        let known: Vec<String> = self
            .connection
            .prepare("SELECT segment FROM spool_position")
            .and_then(|mut select| select.query_map([], |row| row.get(0))?.collect())
            .map_err(self.at_fault())?;
        for segment in known.iter().filter(|segment| !spool_dir.join(segment).exists()) {
            self.forget(segment)?;
        }
        Ok(())
    }

    fn at_fault(&self) -> impl FnOnce(rusqlite::Error) -> DatabaseError {
        let path = self.path.clone();
        move |source| DatabaseError::Sqlite { path, source }
    }
}

fn prepare(connection: &Connection) -> rusqlite::Result<i64> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn commit(connection: &mut Connection, batch: &Batch<'_>) -> rusqlite::Result<Passed> {
    let mut done = Passed { frames: batch.frames.len() as u64, ..Passed::default() };
    let mut groups: BTreeMap<Group, Sums> = BTreeMap::new();
    let transaction = connection.transaction()?;
    for (offset, payload) in &batch.frames {
        match insert(&transaction, payload) {
            Ok(Inserted::New(group, sums)) => {
                done.inserted += 1;
                let total = groups.entry(group).or_insert([0; schema::SUMS.len()]);
                for (total, sum) in total.iter_mut().zip(sums) {
                    *total = total.saturating_add(sum);
                }
            }
            Ok(Inserted::Known) => done.known += 1,
            Err(NotInserted::Row(reason)) => {
                done.dead_letters += 1;
                tracing::error!(segment = batch.segment, offset, %reason, "a record is no row; it is in usage_dead_letter");
                bury(&transaction, batch.segment, *offset, &reason, payload)?;
            }
            Err(NotInserted::Database(error)) => return Err(error),
        }
    }
    roll_up(&transaction, groups)?;
    transaction
        .prepare_cached(
            "INSERT INTO spool_position (segment, read_to) VALUES (?, ?)
             ON CONFLICT (segment) DO UPDATE SET read_to = excluded.read_to",
        )?
        .execute(params![batch.segment, signed(batch.end)])?;
    transaction.commit()?;
    Ok(done)
}

enum Inserted {
    New(Group, Sums),
    Known,
}

enum NotInserted {
    /// The record's fault: tried again it would fail again.
    Row(String),
    /// The database's fault: the whole batch is tried again.
    Database(rusqlite::Error),
}

fn insert(transaction: &Transaction<'_>, payload: &[u8]) -> Result<Inserted, NotInserted> {
    let record = payload::decode(payload).map_err(|error| NotInserted::Row(error.to_string()))?;
    let (group, sums) = (group_of(&record), sums_of(&record));
    let values = row::values(record).map_err(|error| NotInserted::Row(error.to_string()))?;
    let rows = transaction
        .prepare_cached(&schema::insert())
        .and_then(|mut insert| insert.execute(params_from_iter(values)))
        .map_err(blame)?;
    Ok(if rows == 0 { Inserted::Known } else { Inserted::New(group, sums) })
}

fn blame(error: rusqlite::Error) -> NotInserted {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch) => {
            NotInserted::Row(error.to_string())
        }
        _ => NotInserted::Database(error),
    }
}

fn group_of(record: &UsageRecord) -> Group {
    const DAY: i64 = 86_400_000_000;
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    (
        record.ts_received.0.div_euclid(DAY),
        text(record.tenant_id.as_ref()),
        text(record.key_id.as_ref()),
        text(record.model_routed.as_ref().or(record.model_requested.as_ref())),
    )
}

/// In the order of [`schema::SUMS`].
fn sums_of(record: &UsageRecord) -> Sums {
    let tokens = |tokens: Option<crate::domain::units::Tokens>| tokens.map_or(0, |tokens| signed(tokens.0));
    [
        1,
        (record.status == crate::domain::record::Status::Completed).into(),
        tokens(record.input_total),
        record.input_total.is_some().into(),
        tokens(record.input_cache_read),
        tokens(record.output_total),
        record.output_total.is_some().into(),
        tokens(record.delivered_output),
        signed(record.bytes_in),
        signed(record.bytes_out),
        record.metered_cost_nano_usd.unwrap_or(0),
        record.billable_cost_nano_usd.unwrap_or(0),
    ]
}

fn roll_up(transaction: &Transaction<'_>, groups: BTreeMap<Group, Sums>) -> rusqlite::Result<()> {
    use rusqlite::types::Value;
    let mut upsert = transaction.prepare_cached(&schema::roll_up())?;
    for ((day, tenant, key, model), sums) in groups {
        let group = [Value::Integer(day), Value::Text(tenant), Value::Text(key), Value::Text(model)];
        upsert.execute(params_from_iter(group.into_iter().chain(sums.into_iter().map(Value::Integer))))?;
    }
    Ok(())
}

fn bury(
    transaction: &Transaction<'_>,
    segment: &str,
    offset: u64,
    reason: &str,
    payload: &[u8],
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO usage_dead_letter (segment, frame_offset, reason, payload, seen_at)
             VALUES (?, ?, ?, ?, unixepoch()) ON CONFLICT DO NOTHING",
        )?
        .execute(params![segment, signed(offset), reason, payload])
        .map(|_| ())
}

/// A row's counts have been checked before; a larger one saturates rather than wrap.
fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
