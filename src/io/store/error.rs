//! What a key store can say no to. Decides the words; who hears them is the caller's matter.

use std::path::PathBuf;

/// Keys of one store at most: a proxy holds all of them in memory, at about 300 bytes each.
pub const MAX_KEYS: usize = 1_000_000;

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file, or its folder, cannot be used.
    #[error("key store {path}: {source}")]
    File {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The database was made by a newer version.
    #[error("key store has schema version {found}, this weir knows {known}: use the newer weir")]
    Newer {
        /// Version of the file.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// More keys than a proxy may hold.
    #[error("key store holds more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// A row cannot be read as a key.
    #[error("key {key_id}: its row cannot be read: {fault}")]
    BrokenRow {
        /// Whose row.
        key_id: String,
        /// What is wrong with it.
        fault: String,
    },
    /// SQLite said no.
    #[error("key store: {0}")]
    Sqlite(#[from] rusqlite::Error),
}
