//! What a store can say no to, and what kind of no it is. Decides the words; who hears them is the caller's matter.
//! There is no URL, no hash and no row content in them.

use super::rows::BrokenRow;
use std::path::PathBuf;

/// Keys of one store at most: a proxy holds all of them in memory, at about 300 bytes each.
pub const MAX_KEYS: usize = 1_000_000;

/// Keys of one tenant at most, revoked ones too: one tenant must not use up what the proxies can hold of all.
pub const MAX_TENANT_KEYS: usize = 250_000;

/// Teams and users of one tenant at most, for the same reason.
pub const MAX_TENANT_MEMBERS: usize = 50_000;

/// Budgets of one tenant at most, wherever they count.
pub const MAX_TENANT_BUDGETS: usize = 1_000;

/// Budgets at one place of a tenant at most: its own, those of one team, one user or one key. As many as the configuration
/// can have there. Each request of that place is held against all of them.
pub const MAX_PLACE_BUDGETS: usize = 16;

/// Tenants, teams, users, plans and budgets of one store at most, so that there is room below what a proxy can hold.
pub const MAX_STORED_ROWS: usize = 400_000;

/// What a caller over HTTP should be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// There is no such thing: 404.
    NotFound,
    /// It does not fit to what is there: 409.
    Conflict,
    /// It cannot be: 400.
    Refused,
    /// Not now: 503.
    Unavailable,
}

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
        /// Version of the store.
        found: i64,
        /// The newest one known here.
        known: i64,
    },
    /// More keys than a proxy may hold.
    #[error("key store holds more than {MAX_KEYS} keys")]
    TooManyKeys,
    /// A bound on what one tenant, or all of them, may have.
    #[error("there are {most} {what}, and there can be no more (revoked keys count; other things can be deleted)")]
    Full {
        /// Of what, and whose.
        what: String,
        /// The bound.
        most: usize,
    },
    /// A row cannot be read.
    #[error("{} {}: its row cannot be read: {}", .0.what, .0.id, .0.fault)]
    BrokenRow(BrokenRow),
    /// There is no such thing.
    #[error("there is no {what} `{id}`")]
    NotFound {
        /// What was looked for.
        what: &'static str,
        /// Which one.
        id: String,
    },
    /// It does not fit to what is there.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be.
    #[error("{0}")]
    Refused(String),
    /// What the store keeps for itself is not as it was written.
    #[error("key store is damaged: {0}")]
    Damaged(String),
    /// SQLite said no.
    #[error("key store: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// Postgres said no, or is not there.
    #[error("key store in Postgres: {0}")]
    Postgres(String),
    /// Postgres did not answer in time.
    #[error("key store in Postgres: no answer within {0:?}")]
    Timeout(std::time::Duration),
    /// No random bytes.
    #[error("key store: no random bytes: {0}")]
    Random(getrandom::Error),
}

impl StoreError {
    /// True where the file is what is wrong, and trying again would not help.
    pub(in crate::io) fn is_for_good(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        match self {
            Self::Newer { .. } | Self::Damaged(_) => true,
            Self::Sqlite(error) => matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase)),
            _ => false,
        }
    }

    /// What kind of no this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::Conflict(_) | Self::TooManyKeys | Self::Full { .. } | Self::BrokenRow(_) => Kind::Conflict,
            Self::Refused(_) => Kind::Refused,
            Self::File { .. }
            | Self::Newer { .. }
            | Self::Damaged(_)
            | Self::Sqlite(_)
            | Self::Postgres(_)
            | Self::Timeout(_)
            | Self::Random(_) => Kind::Unavailable,
        }
    }
}
