//! Sees changes of a key store from outside: polls its epoch on a read-only connection. Decides whether something has
//! changed; never makes a file, never waits long for a writer.

use super::error::StoreError;
use super::migrate;
use super::rows::{self, Rows};
use rusqlite::{Connection, OpenFlags};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Readers of a WAL file wait for nobody but a checkpoint that starts it anew.
const BUSY_TIMEOUT: Duration = Duration::from_millis(200);

/// What a poll found.
#[derive(Debug)]
pub enum Seen {
    /// Nothing has changed since the poll before.
    Same,
    /// Everything that is in the store now.
    Changed(Rows),
}

/// A store that is watched.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    /// Device and inode: a connection goes on reading a file that was deleted or replaced, and we must not.
    file: (u64, u64),
    epoch: Option<i64>,
}

impl Watch {
    /// Watches the store at `path`; opened at the first poll.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None }
    }

    /// Looks once. After an error the next poll opens the file anew and reads all of it.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be read now.
    pub fn poll(&mut self) -> Result<Seen, StoreError> {
        let open = self.open.take();
        let mut open = self.current(open)?;
        // Epoch and rows out of one read transaction, so that no change falls between them.
        let tx = open.connection.transaction()?;
        let epoch = rows::epoch(&tx)?;
        let seen = if open.epoch == Some(epoch) { Seen::Same } else { Seen::Changed(rows::all(&tx)?) };
        tx.commit()?;
        open.epoch = Some(epoch);
        self.open = Some(open);
        Ok(seen)
    }

    /// The connection that is open, if the file under that name is still the same one; else a new one.
    fn current(&self, open: Option<Open>) -> Result<Open, StoreError> {
        let meta = fs::metadata(&self.path).map_err(|source| StoreError::File { path: self.path.clone(), source })?;
        // Taken before opening: if the file is replaced in between, the next poll notices.
        let file = (meta.dev(), meta.ino());
        if let Some(open) = open.filter(|open| open.file == file) {
            return Ok(open);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        migrate::check(&connection)?;
        Ok(Open { connection, file, epoch: None })
    }
}
