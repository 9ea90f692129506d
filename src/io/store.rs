//! The SQLite key store: keys, their secrets' hashes, and an epoch that counts changes. Decides what a change is and
//! that it happens whole or not at all; who may call with a key is `io::keys`.

pub mod error;
mod migrate;
pub mod rows;
pub mod watch;

use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;
use error::{MAX_KEYS, StoreError};
use rows::{NewKey, Rows, StoredKey};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use std::fs::{DirBuilder, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// How long a change waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// An open store. Several processes may have the same one open.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
}

impl Store {
    /// Opens the store, makes it (mode 0600) and its folder (0700) where they are absent, and brings its schema up to
    /// date.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        make_file(path).map_err(|source| StoreError::File { path: path.to_owned(), source })?;
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        migrate::use_wal(&connection)?;
        // A revocation that was acknowledged must survive the host: WAL alone would allow the last commits to be lost.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate::migrate(&mut connection)?;
        Ok(Self { connection })
    }

    /// Adds keys, all or none.
    ///
    /// # Errors
    /// [`StoreError`]; an id that exists is an error of SQLite's.
    pub fn create(&mut self, keys: &[NewKey], now: WallMicros) -> Result<(), StoreError> {
        self.change(|tx| {
            let have: i64 = tx.query_row("SELECT count(*) FROM api_keys", [], |row| row.get(0))?;
            if usize::try_from(have).unwrap_or(usize::MAX).saturating_add(keys.len()) > MAX_KEYS {
                return Err(StoreError::TooManyKeys);
            }
            keys.iter().try_for_each(|key| rows::insert(tx, key, now))
        })
    }

    /// Ends a key for good. Revoking a revoked key changes nothing. `None`: there is no such key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn revoke(&mut self, key_id: &KeyId, now: WallMicros) -> Result<Option<StoredKey>, StoreError> {
        self.change(|tx| {
            tx.execute(
                "UPDATE api_keys SET status = 'revoked', revoked_at = ?2 WHERE key_id = ?1 AND status <> 'revoked'",
                params![key_id.as_str(), now.0],
            )?;
            rows::one(tx, key_id.as_str())
        })
    }

    /// One key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn find(&self, key_id: &KeyId) -> Result<Option<StoredKey>, StoreError> {
        rows::one(&self.connection, key_id.as_str())
    }

    /// Every key, in the order in which they were made.
    ///
    /// # Errors
    /// [`StoreError`]. A row that cannot be read is in [`Rows::broken`].
    pub fn list(&self) -> Result<Rows, StoreError> {
        let mut rows = rows::all(&self.connection)?;
        rows.keys.sort_by(|a, b| (a.created_at, &a.key_id).cmp(&(b.created_at, &b.key_id)));
        Ok(rows)
    }

    /// The one way to change the store: whatever is done counts the epoch up in the same transaction, so that
    /// followers see it.
    fn change<T>(&mut self, work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let done = work(&tx)?;
        tx.execute("UPDATE key_epoch SET value = value + 1 WHERE id = 1", [])?;
        tx.commit()?;
        Ok(done)
    }
}

/// SQLite would make the file readable to everyone.
fn make_file(path: &Path) -> std::io::Result<()> {
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
