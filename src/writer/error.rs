//! Why the writer cannot work. Decides words only.

use super::database::DatabaseError;
use std::io;
use std::path::{Path, PathBuf};

/// Why the writer cannot work.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// Another writer has this spool.
    #[error("another writer is at work on {}; a spool has one writer", .0.display())]
    AlreadyRunning(PathBuf),
    /// A file or folder of the spool.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was wrong.
        source: io::Error,
    },
    /// The database.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl WriterError {
    /// Says which file or folder an error is about.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
