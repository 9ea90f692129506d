//! The SQLite side: a file of mode 0600 in write-ahead mode, synchronous FULL. Decides how a file is made and when a
//! connection is no longer to the file of that name.

use super::super::error::StoreError;
use super::{Columns, Fault, Mode, Value};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, params_from_iter};
use std::fs::{self, DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// How long a change waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries to switch a new file to WAL, while another process does the same.
const WAL_TRIES: u32 = 50;
const WAL_PAUSE: Duration = Duration::from_millis(20);

/// An open file.
pub(crate) struct File {
    connection: Connection,
    path: PathBuf,
    /// Device and inode: a connection goes on reading a file that was deleted or replaced, and we must not.
    identity: (u64, u64),
    /// A transaction is open.
    open: bool,
}

impl File {
    /// Opens the file; where there is none it is an error, and none is made.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        // Taken before opening: if the file is replaced in between, the next use notices.
        let identity = identity(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        use_wal(&connection)?;
        // A revocation that was acknowledged must survive the host: WAL alone would allow the last commits to be lost.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(Self { connection, path: path.to_owned(), identity, open: false })
    }

    pub(super) fn usable(&self) -> bool {
        !self.open && identity(&self.path).is_ok_and(|found| found == self.identity)
    }

    pub(super) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let mut statement = self.connection.prepare_cached(&numbered(sql))?;
        let rows = statement.execute(params_from_iter(values)).map_err(refused)?;
        Ok(rows as u64)
    }

    pub(super) fn query_each(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn Columns) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.connection.prepare_cached(&numbered(sql))?;
        let mut rows = statement.query(params_from_iter(values))?;
        while let Some(row) = rows.next().map_err(refused)? {
            each(row)?;
        }
        Ok(())
    }

    pub(super) fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        Ok(self.connection.execute_batch(sql)?)
    }

    pub(super) fn begin(&mut self, mode: Mode) -> Result<(), StoreError> {
        self.batch(match mode {
            Mode::Read => "BEGIN",
            // Takes the lock at once: a reader that turns writer could find that another was faster.
            Mode::Write => "BEGIN IMMEDIATE",
        })?;
        self.open = true;
        Ok(())
    }

    pub(super) fn end(&mut self, how: &str) -> Result<(), StoreError> {
        self.batch(how)?;
        self.open = false;
        Ok(())
    }
}

/// SQLite writes `?1` for what Postgres writes `$1`.
fn numbered(sql: &str) -> String {
    sql.replace('$', "?")
}

fn refused(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::ConstraintViolation | rusqlite::ErrorCode::TooBig) => {
            // SQLite's text names the table and the column or check, never the value.
            StoreError::Refused(format!("the key store refuses a value: {error}"))
        }
        _ => StoreError::Sqlite(error),
    }
}

/// Makes the file (mode 0600) and its folder (0700) where they are absent: SQLite would make a file that everyone may
/// read.
pub(in super::super) fn make(path: &Path) -> Result<(), StoreError> {
    make_file(path).map_err(|source| StoreError::File { path: path.to_owned(), source })
}

fn make_file(path: &Path) -> std::io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

/// Switches to write-ahead logging: readers then never wait for a writer. SQLite does not wait for a lock here, however
/// long its busy timeout, so we do.
fn use_wal(connection: &Connection) -> Result<(), StoreError> {
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

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl Columns for rusqlite::Row<'_> {
    fn int(&self, at: usize) -> Result<Option<i64>, Fault> {
        column(self, at, |value| value.as_i64_or_null().ok())
    }

    fn text(&self, at: usize) -> Result<Option<&str>, Fault> {
        column(self, at, |value| value.as_str_or_null().ok())
    }

    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, Fault> {
        column(self, at, |value| value.as_blob_or_null().ok())
    }
}

/// Names the column, never its content.
fn column<'r, T>(
    row: &'r rusqlite::Row<'_>,
    at: usize,
    read: impl FnOnce(ValueRef<'r>) -> Option<Option<T>>,
) -> Result<Option<T>, Fault> {
    row.get_ref(at)
        .ok()
        .and_then(read)
        .ok_or_else(|| format!("column {} has a wrong value", row.as_ref().column_name(at).unwrap_or("?")))
}
