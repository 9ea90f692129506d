//! One look at the store: reads what has changed, keeps a copy of it, puts it in force. Decides the order of these,
//! and what a failed look means; what a row means for keys is `keys::table`'s, for tenants `io::directory`'s.

use super::ask::{Looks, Refusals};
use super::copier::Copier;
use super::copy::Job;
use super::cut::Cut;
use super::pace::Pace;
use super::reader::Reader;
use super::retired::Retired;
use super::table::{Asker, Draft, Rest, Table, TooMany, Turn};
use super::{Counts, Keys, NOT_YET, Pulse, Shared};
use crate::config::snapshot::{Store as StoreSettings, StoreTarget};
use crate::domain::units::{Micros, WallMicros};
use crate::io::directory::{Configured, MAX_ROWS, Merger, TooManyRows};
use crate::io::store::Store;
use crate::io::store::error::StoreError;
use crate::io::store::rows::{Row, Stamp};
use crate::logic::access::api_key::{self, key_id};
use crate::logic::access::digest::Pepper;
use crate::logic::access::directory::Directory;
use crate::ports::Clock;
use crate::runtime::Abort;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::time::Duration;
use tokio::sync::watch;

/// What is followed, and for whom.
pub struct Settings {
    /// The store.
    pub store: StoreSettings,
    /// The configuration's tenants and plans.
    pub configured: Configured,
    /// The `api_key` authenticators: name, pepper, `max_stale`.
    pub authenticators: Vec<(String, Pepper, Duration)>,
    /// Both clocks.
    pub clock: Arc<dyn Clock>,
    /// Where keys go whose open streams must end.
    pub abort: watch::Sender<Abort>,
}

/// Looks once, for one authenticator.
pub(super) fn once(
    store: StoreSettings,
    pepper: Pepper,
    max_stale: Duration,
    clock: Arc<dyn Clock>,
) -> Result<Arc<Keys>, StoreError> {
    let settings = Settings {
        store,
        configured: Configured::default(),
        authenticators: vec![(String::new(), pepper, max_stale)],
        clock,
        abort: watch::Sender::new(Abort::default()),
    };
    let (mut looker, keys) = Looker::new(settings, mpsc::sync_channel(1).0);
    looker.first()?;
    keys.into_values().next().ok_or_else(|| StoreError::Refused("no authenticator".to_owned()))
}

/// From when on no authenticator answers from the snapshot.
fn longest(authenticators: &[(String, Pepper, Duration)]) -> Micros {
    // Without authenticators there are tenants and plans only, which do not go stale.
    authenticators.iter().map(|(_, _, max_stale)| Micros::from(*max_stale)).max().unwrap_or(Micros(u64::MAX))
}

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the look has panicked: this is a bug, please report what the log says before this line")]
    Panicked,
}

impl From<TooMany> for Failed {
    fn from(_: TooMany) -> Self {
        Self::Store(StoreError::TooManyKeys)
    }
}

/// Looks at the store, on one thread.
pub(super) struct Looker {
    shared: Arc<Shared>,
    settings: StoreSettings,
    /// `None`: it could not be opened yet.
    store: Option<Store>,
    copy: Option<Copier>,
    /// What is in force; `None`: the next look must read everything.
    stamp: Option<Stamp>,
    reader: Reader,
    merger: Merger,
    directory: Arc<ArcSwap<Directory>>,
    /// The store has more tenants, teams, users and plans than fit: the directory stays as it was.
    overfull: bool,
    cut: Cut,
    old_tables: Retired<Table>,
    old_directories: Retired<Directory>,
    down: bool,
    foreign: usize,
}

impl Looker {
    /// Has looked at nothing yet: until then every key is unavailable.
    pub(super) fn new(settings: Settings, bell: SyncSender<()>) -> (Self, BTreeMap<String, Arc<Keys>>) {
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(Table::empty(RandomState::new().hash_one(0))),
            seen_at: AtomicI64::new(NOT_YET),
            max_stale: longest(&settings.authenticators),
            clock: settings.clock,
            refusals: Refusals::new(),
            looks: Looks::new(bell),
            counts: Counts::default(),
        });
        let peppers: Vec<_> = settings.authenticators.iter().map(|(_, pepper, _)| pepper.id().to_owned()).collect();
        let keys = settings.authenticators.into_iter().map(|(name, pepper, max_stale)| {
            // Authenticators with the same pepper share its number.
            let number = peppers.iter().position(|id| id == pepper.id()).and_then(|number| u8::try_from(number).ok());
            let asker = Asker { number: number.unwrap_or_default(), pepper };
            (name, Arc::new(Keys { shared: Arc::clone(&shared), asker, max_stale: Micros::from(max_stale) }))
        });
        let keys = keys.collect();
        let merger = Merger::new(settings.configured);
        let copied = matches!(settings.store.target, StoreTarget::Postgres(_));
        let looker = Self {
            store: None,
            copy: copied.then(|| Copier::new(settings.store.clone())),
            stamp: None,
            reader: Reader::new(peppers),
            directory: Arc::new(ArcSwap::from_pointee(merger.directory())),
            merger,
            overfull: false,
            cut: Cut::new(settings.abort),
            old_tables: Retired::default(),
            old_directories: Retired::default(),
            down: false,
            foreign: 0,
            settings: settings.store,
            shared: Arc::clone(&shared),
        };
        (looker, keys)
    }

    pub(super) fn directory(&self) -> Arc<ArcSwap<Directory>> {
        Arc::clone(&self.directory)
    }

    pub(super) fn pulse(&self) -> Pulse {
        Pulse(Arc::clone(&self.shared))
    }

    /// The look of a start: the copy first, for what it knows of revocations, then the store itself.
    ///
    /// # Errors
    /// What will not be better later. A server that does not answer is none of that.
    pub(super) fn first(&mut self) -> Result<(), StoreError> {
        if let Err(error) = self.take_over() {
            tracing::error!(%error, "the copy of the key store cannot be used; the store itself is needed");
        }
        self.shared.looks.begin();
        let done = self.turn(&mut Pace::Full);
        self.shared.looks.end();
        match done {
            Err(Failed::Store(error @ (StoreError::Postgres(_) | StoreError::Timeout(_)))) => {
                self.tell(Err(error.into()));
                Ok(())
            }
            Err(Failed::Store(error)) => Err(error),
            done => {
                self.tell(done);
                Ok(())
            }
        }
    }

    /// One look. A failure leaves everything as it is, and the snapshot's age runs.
    pub(super) fn look(&mut self) {
        self.shared.looks.begin();
        let done = self.turn(&mut Pace::gentle());
        self.tell(done);
        // Those who waited get their answer before anything is cleared away.
        self.shared.looks.end();
        self.cut.trim(self.shared.clock.mono());
        let mut pace = Pace::gentle();
        self.old_tables.sweep(|table| table.dissolve(&mut || pace.step()));
        self.old_directories.sweep(drop);
    }

    /// What follows a look that has panicked: the next one reads everything, over a new connection, and those who
    /// waited get the snapshot's answer.
    pub(super) fn after_panic(&mut self) {
        (self.stamp, self.store) = (None, None);
        self.tell(Err(Failed::Panicked));
        self.shared.looks.end();
    }

    /// Says how the looks go when that changes, not at each look.
    fn tell(&mut self, done: Result<(), Failed>) {
        let counts = &self.shared.counts;
        counts.looks.fetch_add(1, Ordering::Relaxed);
        let was_down = std::mem::replace(&mut self.down, done.is_err());
        match done {
            Ok(()) if was_down => tracing::info!("the key store can be read again"),
            Ok(()) => {}
            Err(error) => {
                counts.failed.fetch_add(1, Ordering::Relaxed);
                if !was_down {
                    tracing::warn!(%error, "the key store cannot be read; the last snapshot serves until max_stale");
                }
            }
        }
    }

    fn turn(&mut self, pace: &mut Pace) -> Result<(), Failed> {
        // Taken before the look: what is seen is at least as new as this.
        let (seen_at, now) = (self.shared.mono(), self.shared.clock.wall());
        let store = match &mut self.store {
            Some(store) => store,
            store => store.insert(Store::open(&self.settings)?),
        };
        let mut batch = Batch::new(&self.shared.table.load(), &mut self.reader, now);
        let stamp = store.changes(self.stamp.as_ref(), &mut |row| {
            pace.step();
            batch.take(row);
        })?;
        if self.stamp.as_ref() != Some(&stamp) {
            let found = batch.end()?;
            // Until all of it is in force: whatever fails from here on, the next look reads everything.
            self.stamp = None;
            let ready = self.prepare(found, pace)?;
            self.keep(&stamp, now, seen_at);
            let again = ready.again;
            self.enforce(ready);
            self.stamp = (!again).then_some(stamp);
        } else {
            self.keep(&stamp, now, seen_at);
        }
        self.shared.seen_at.store(seen_at, Ordering::Release);
        Ok(())
    }

    /// Takes over what an earlier process has kept.
    fn take_over(&mut self) -> Result<(), Failed> {
        let (mono, now) = (self.shared.mono(), self.shared.clock.wall());
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let mut batch = Batch::new(&self.shared.table.load(), &mut self.reader, now);
        batch.take(Row::Reset);
        let mut revoked = Vec::new();
        let loaded = copy.load(&mut |row| batch.take(row), &mut |id| revoked.push(id))?;
        let Some(loaded) = loaded else { return Ok(()) };
        let found = batch.end()?;
        let mut ready = self.prepare(found, &mut Pace::Full)?;
        let ids = revoked.iter().filter_map(|id| api_key::parse_id(id.as_str()));
        ready.turn = ready.turn.table.revoke(ids)?;
        self.enforce(ready);
        self.stamp = Some(loaded.stamp);
        // A copy of the future has the same doubt about its age as one of the past.
        let age = i64::try_from(now.0.abs_diff(loaded.read_at.0)).unwrap_or(i64::MAX);
        self.shared.seen_at.store(mono.saturating_sub(age).max(NOT_YET + 1), Ordering::Release);
        Ok(())
    }

    /// Makes the next snapshot, and takes tenants and plans in.
    fn prepare(&mut self, found: Found, pace: &mut Pace) -> Result<Ready, Failed> {
        let old = self.shared.table.load_full();
        let Found { draft, rest, rows, overfull } = found;
        let turn = draft.turn(&old, rest, &mut || pace.step())?;
        let (directory, again) = self.merge(&rows, rest, overfull);
        Ok(Ready { turn, directory, again })
    }

    /// Takes tenants and plans in; also says whether everything must be read again, as rows were left out and there may
    /// now be room. Too many of them hold up no key: the last directory stays.
    fn merge(&mut self, rows: &[Row], rest: Rest, overfull: bool) -> (Option<Directory>, bool) {
        // Rows of keys have gone into the draft.
        if rows.is_empty() {
            return (None, false);
        }
        if self.overfull && rest == Rest::Stays {
            return (None, true);
        }
        let merged = if overfull { Err(TooManyRows) } else { self.merger.apply(rows) };
        let was = std::mem::replace(&mut self.overfull, merged.is_err());
        match merged {
            Ok(notices) => {
                notices.iter().for_each(|notice| tracing::warn!("{notice}"));
                (Some(self.merger.directory()), false)
            }
            Err(error) => {
                if !was {
                    tracing::error!(%error, "the last ones that fitted stay in force; keys are followed on");
                }
                (None, false)
            }
        }
    }

    /// Has the copy brought up to date before anything is in force: a revocation that was seen here survives a
    /// restart. A copy that takes long holds nothing up.
    fn keep(&mut self, stamp: &Stamp, now: WallMicros, seen_at: i64) {
        if let Some(copy) = &mut self.copy {
            copy.keep(Job { stamp: stamp.clone(), now, mono: Micros(u64::try_from(seen_at).unwrap_or_default()) });
        }
    }

    /// The one place where requests begin to see something new. Tenants come before their keys.
    fn enforce(&mut self, ready: Ready) {
        let Turn { table, cut, defended } = ready.turn;
        for id in defended {
            tracing::warn!(key_id = %key_id(&id), "the store no longer says that this key is revoked; it stays so");
        }
        let foreign = table.foreign();
        if foreign > 0 && foreign != self.foreign {
            tracing::warn!(keys = foreign, "keys with a secret under another pepper are refused");
        }
        self.foreign = foreign;
        if let Some(directory) = ready.directory {
            self.old_directories.keep(self.directory.swap(Arc::new(directory)));
        }
        self.old_tables.keep(self.shared.table.swap(Arc::new(table)));
        self.shared.counts.snapshots.fetch_add(1, Ordering::Relaxed);
        // Before the first snapshot there was no stream.
        if self.shared.seen_at.load(Ordering::Acquire) != NOT_YET {
            self.cut.add(cut.iter().map(key_id), self.shared.clock.mono());
        }
    }
}

/// What is about to be put in force.
struct Ready {
    turn: Turn,
    /// `None`: nothing has changed but keys.
    directory: Option<Directory>,
    /// The next look must read everything.
    again: bool,
}

/// What a look has found.
struct Found {
    draft: Draft,
    rest: Rest,
    /// All but the keys.
    rows: Vec<Row>,
    /// There were more of them than fit.
    overfull: bool,
}

/// Takes rows in, one after another; nothing of it is in force.
struct Batch<'r> {
    reader: &'r mut Reader,
    now: WallMicros,
    found: Found,
    failed: Option<Failed>,
}

impl<'r> Batch<'r> {
    fn new(table: &Table, reader: &'r mut Reader, now: WallMicros) -> Self {
        let found = Found { draft: Draft::new(table), rest: Rest::Stays, rows: Vec::new(), overfull: false };
        Self { reader, now, found, failed: None }
    }

    fn take(&mut self, row: Row) {
        match row {
            Row::Key(key) => {
                let Some(entry) = self.reader.entry(&key, self.now) else { return };
                if let Err(error) = self.found.draft.put(entry) {
                    self.failed = Some(error.into());
                }
                return;
            }
            Row::Reset => self.found.rest = Rest::Gone,
            Row::Broken(ref broken) if broken.what == "key" => {
                tracing::error!(key_id = %broken.id, fault = %broken.fault, "this key is refused, the others are not");
                if let Some(id) = api_key::parse_id(&broken.id) {
                    self.found.draft.forget(id);
                }
                return;
            }
            _ => {}
        }
        if self.found.rows.len() > MAX_ROWS {
            self.found.overfull = true;
            return;
        }
        self.found.rows.push(row);
    }

    fn end(self) -> Result<Found, Failed> {
        self.failed.map_or(Ok(self.found), Err)
    }
}

#[cfg(test)]
pub(super) mod tests;
