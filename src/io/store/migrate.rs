//! Brings a key store's schema up to date, one embedded file per version. Decides only which files are still to run.

use super::error::StoreError;
use rusqlite::{Connection, TransactionBehavior};
use std::thread;
use std::time::Duration;

/// Version n is file n - 1. Files are never changed once released; a change is a further file.
const MIGRATIONS: &[&str] = &[include_str!("migrations/0001_keys.sql")];

/// Tries to switch a new file to WAL, while another process does the same.
const WAL_TRIES: u32 = 50;
const WAL_PAUSE: Duration = Duration::from_millis(20);

/// Switches to write-ahead logging: readers then never wait for a writer. SQLite does not wait for a lock here, however
/// long its busy timeout, so we do.
pub(super) fn use_wal(connection: &Connection) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(error) if is_busy(&error) && tries < WAL_TRIES => thread::sleep(WAL_PAUSE),
            done => return Ok(done?),
        }
        tries += 1;
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked))
}

/// Runs what is missing, all or none. Two processes that do it at once do it once.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch("CREATE TABLE IF NOT EXISTS key_schema_version (version INTEGER PRIMARY KEY NOT NULL) STRICT;")?;
    let found: i64 = tx.query_row("SELECT coalesce(max(version), 0) FROM key_schema_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (version, sql) in (1i64..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        tx.execute_batch(sql)?;
        tx.execute("INSERT INTO key_schema_version (version) VALUES (?1)", [version])?;
    }
    tx.commit()?;
    Ok(())
}

/// Refuses a file that a newer version has changed: a reader would misunderstand it.
pub(super) fn check(connection: &Connection) -> Result<(), StoreError> {
    let found: i64 =
        connection.query_row("SELECT coalesce(max(version), 0) FROM key_schema_version", [], |row| row.get(0))?;
    let known = MIGRATIONS.len() as i64;
    if found > known { Err(StoreError::Newer { found, known }) } else { Ok(()) }
}
