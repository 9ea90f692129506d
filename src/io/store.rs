//! The key store: keys, tenants, teams, users, plans, budgets and the log of their changes, in an SQLite file or in
//! Postgres. Decides what a change is and that it happens whole or not at all; who may call with a key is `io::keys`.
//!
//! Blocks: in async code use it on a thread where blocking is allowed. One `Store` per thread.

mod audit;
mod budgets;
pub mod change;
pub mod error;
mod follow;
mod keys;
mod migrate;
mod plans;
pub mod push;
pub mod read;
mod recall;
pub mod replica;
pub mod rows;
mod sql;
mod tenancy;

use crate::config::snapshot::{Push, Store as Settings, StoreTarget};
use crate::domain::units::WallMicros;
use change::Change;
use error::StoreError;
use push::Publisher;
use read::Reader;
use rows::{Actor, Row, Stamp};
use sql::{Mode, Sql, postgres, sqlite};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An open store. Several processes may have the same one open. Where the file was replaced or the connection is lost,
/// the next use opens it anew.
pub struct Store {
    place: Place,
    sql: Option<Sql>,
    publisher: Publisher,
}

/// Where it is.
#[derive(Clone, Debug)]
enum Place {
    File(PathBuf),
    Server(Box<postgres::Address>),
}

impl Store {
    /// Opens the store, makes it where it is absent (a file of mode 0600, its folder 0700), and brings its schema up
    /// to date.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(settings: &Settings) -> Result<Self, StoreError> {
        let mut store = Self::follow(settings)?;
        if let Place::File(path) = &store.place {
            sqlite::make(path)?;
        }
        store.sql = Some(store.connect()?);
        Ok(store)
    }

    /// Opens the SQLite store at `path` as [`Store::open`] does. Nobody is told of its changes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_file(path: &Path) -> Result<Self, StoreError> {
        Self::open(&settings_of(path))
    }

    /// A store that is opened at its first use: for those who start while it may be down. A file that is absent is not
    /// made; that is [`Store::open`]'s.
    ///
    /// # Errors
    /// [`StoreError::Refused`]: a URL cannot be read.
    pub fn follow(settings: &Settings) -> Result<Self, StoreError> {
        let place = match &settings.target {
            StoreTarget::Sqlite(path) => Place::File(path.clone()),
            StoreTarget::Postgres(url) => Place::Server(Box::new(postgres::Address::parse(&url.0)?)),
        };
        Ok(Self { place, sql: None, publisher: Publisher::new(&settings.push)? })
    }

    /// Which state the store is in: one cheap look.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stamp(&mut self) -> Result<Stamp, StoreError> {
        follow::stamp(self.sql()?)
    }

    /// Hands over what has changed since `since`, in one consistent look, and says what state that was. `None`, and a
    /// stamp that is not of this store's history, give [`Row::Reset`] and then everything.
    ///
    /// # Errors
    /// [`StoreError`]; what was handed over until then is to be forgotten.
    pub fn changes(&mut self, since: Option<&Stamp>, each: &mut dyn FnMut(Row)) -> Result<Stamp, StoreError> {
        let sql = self.sql()?;
        sql.begin(Mode::Read)?;
        let done = follow::changes(sql, since, each);
        finish(sql, done)
    }

    /// The one way to change the store. All that `work` does happens or nothing does; it is counted, written down in
    /// the audit log under `actor`, and told to the other replicas. Changes of all processes happen one after another.
    ///
    /// # Errors
    /// That of `work`, or [`StoreError`].
    pub fn change<T>(
        &mut self,
        actor: &Actor,
        now: WallMicros,
        work: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let sql = self.sql()?;
        sql.begin(Mode::Write)?;
        let (done, wrote) = change::run(sql, actor, now, work);
        // Nothing was written: then nothing is counted, and no follower looks for it.
        if !wrote {
            sql.rollback()?;
            return done;
        }
        let value = finish(sql, done)?;
        self.publisher.publish();
        Ok(value)
    }

    /// Looks things up.
    ///
    /// # Errors
    /// [`StoreError`]: the store cannot be opened.
    pub fn read(&mut self) -> Result<Reader<'_>, StoreError> {
        Ok(Reader { sql: self.sql()? })
    }

    /// How many changes could not be told to the other replicas, which then find out by their poll.
    #[must_use]
    pub fn lost_pushes(&self) -> u64 {
        self.publisher.lost()
    }

    /// The connection; a new one where the old one is of no more use.
    fn sql(&mut self) -> Result<&mut Sql, StoreError> {
        let mut sql = match self.sql.take().filter(Sql::usable) {
            Some(sql) => sql,
            None => self.connect()?,
        };
        match sql.ping() {
            Ok(()) => {}
            // Whoever is there and does not answer would not answer a new connection either.
            Err(error @ StoreError::Timeout(_)) => return Err(error),
            // It was closed while nobody looked.
            Err(_gone) => sql = self.connect()?,
        }
        Ok(self.sql.insert(sql))
    }

    /// A new connection to a store whose schema is ours.
    fn connect(&self) -> Result<Sql, StoreError> {
        let mut sql = match &self.place {
            Place::File(path) => Sql::Sqlite(sqlite::File::open(path)?),
            Place::Server(address) => Sql::Postgres(Box::new(postgres::Session::connect(address)?)),
        };
        migrate::check(&mut sql)?;
        Ok(sql)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("place", &self.place).finish_non_exhaustive()
    }
}

/// Commits what was done, or takes it back.
fn finish<T>(sql: &mut Sql, done: Result<T, StoreError>) -> Result<T, StoreError> {
    match done {
        Ok(value) => sql.commit().map(|()| value),
        Err(error) => {
            // Where even this fails the connection is not used again, and the database takes it back itself.
            let _unusable = sql.rollback();
            Err(error)
        }
    }
}

/// A store in a file, with nothing else set.
fn settings_of(path: &Path) -> Settings {
    Settings {
        target: StoreTarget::Sqlite(path.to_owned()),
        push: Push::None,
        poll: Duration::from_millis(500),
        replica: PathBuf::new(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
