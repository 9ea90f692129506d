//! Keys in memory: an immutable snapshot of the store, swapped whole, and the thread that follows the store. Decides
//! when a snapshot is too old to answer from; what a key deserves is `keys::table`'s.

mod table;

use crate::domain::principal::Principal;
use crate::domain::units::{Micros, WallMicros};
use crate::io::store::Store;
use crate::io::store::error::{MAX_KEYS, StoreError};
use crate::io::store::rows::{KeyStatus, Rows};
use crate::io::store::watch::{Seen, Watch};
use crate::logic::access::api_key::{self, IdBytes};
use crate::logic::access::digest::Pepper;
use crate::ports::{Clock, KeyRejection, KeyStore};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use table::Table;

/// Between two looks at the store: with the reload behind it, a revocation is visible within 1 s.
pub const POLL: Duration = Duration::from_millis(500);

/// The keys of one store under one pepper.
pub struct Keys {
    table: ArcSwap<Table>,
    pepper: Pepper,
    max_stale: Micros,
    clock: Arc<dyn Clock>,
    /// When the store was last read, on the monotonic clock: a jump of the wall clock makes no snapshot stale.
    read_at: AtomicU64,
    following: Mutex<Following>,
}

/// What only the follower needs.
struct Following {
    watch: Watch,
    /// Every key that was ever seen revoked. A store that is put back from a backup does not bring them back.
    revoked: FxHashSet<IdBytes>,
    down: bool,
}

impl Keys {
    /// Opens the store (made where absent) and reads it. Without [`Keys::follow`] the snapshot stays as it is and
    /// ends after `max_stale`.
    ///
    /// # Errors
    /// [`StoreError`]: then there is nothing to serve from.
    pub fn load(
        store: &Path,
        pepper: Pepper,
        max_stale: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Store::open(store)?;
        let keys = Arc::new(Self {
            table: ArcSwap::from_pointee(Table::default()),
            pepper,
            max_stale: Micros::from(max_stale),
            read_at: AtomicU64::new(0),
            clock,
            following: Mutex::new(Following { watch: Watch::new(store), revoked: FxHashSet::default(), down: false }),
        });
        keys.refresh(&mut keys.following.lock())?;
        Ok(keys)
    }

    /// Starts the thread that follows the store.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn follow(self: &Arc<Self>) -> std::io::Result<Follower> {
        let keys = Arc::clone(self);
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = thread::Builder::new().name("weir-keys".to_owned()).spawn(move || {
            while stopped.recv_timeout(POLL) == Err(RecvTimeoutError::Timeout) {
                keys.tick();
            }
        })?;
        Ok(Follower { stop: Some(stop), thread: Some(thread) })
    }

    /// One look at the store. A failure leaves the snapshot as it is, and its age runs.
    fn tick(&self) {
        let mut following = self.following.lock();
        let was_down = following.down;
        let done = self.refresh(&mut following);
        following.down = done.is_err();
        match done {
            Ok(()) if was_down => tracing::info!("the key store can be read again"),
            Err(error) if !was_down => {
                tracing::warn!(%error, "the key store cannot be read; the last snapshot serves until max_stale");
            }
            // Said once, not at each look.
            _ => {}
        }
    }

    fn refresh(&self, following: &mut Following) -> Result<(), StoreError> {
        // Taken before the look: what is seen is at least as new as this.
        let now = self.clock.mono();
        if let Seen::Changed(rows) = following.watch.poll()? {
            self.replace(following, rows)?;
        }
        self.read_at.store(now.0, Ordering::Release);
        Ok(())
    }

    fn replace(&self, following: &mut Following, mut rows: Rows) -> Result<(), StoreError> {
        for fault in &rows.broken {
            tracing::error!(%fault, "this key is refused, the others are not");
        }
        for key in &mut rows.keys {
            let Some(id) = api_key::parse_id(key.key_id.as_str()) else { continue };
            if key.status == KeyStatus::Revoked {
                following.revoked.insert(id);
            } else if following.revoked.contains(&id) {
                tracing::warn!(key_id = %key.key_id, "the store no longer says that this key is revoked; it stays so");
                key.status = KeyStatus::Revoked;
            }
        }
        if following.revoked.len() > MAX_KEYS {
            return Err(StoreError::TooManyKeys);
        }
        let table = Table::new(rows.keys, &self.pepper);
        if table.foreign() > 0 {
            tracing::warn!(
                secrets = table.foreign(),
                pepper = self.pepper.id(),
                "secrets under another pepper are refused"
            );
        }
        self.table.store(Arc::new(table));
        Ok(())
    }

    fn age(&self) -> Micros {
        self.clock.mono() - Micros(self.read_at.load(Ordering::Acquire))
    }
}

impl KeyStore for Keys {
    fn authenticate(&self, presented: &[u8], now: WallMicros) -> Result<Principal, KeyRejection> {
        // Junk is junk, whatever the store's state: the checksum tells it without a look-up.
        let key = api_key::parse(presented).map_err(|_| KeyRejection::Invalid)?;
        if self.age() > self.max_stale {
            return Err(KeyRejection::StoreDown);
        }
        self.table.load().authenticate(&self.pepper, &key, presented, now)
    }
}

/// Owns the following thread; dropping it stops the thread and waits for it (at most one look at the store).
#[must_use = "dropping it stops the following"]
pub struct Follower {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        // A closed channel is the sign to stop.
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that follows the key store had panicked");
        }
    }
}

#[cfg(test)]
mod tests;
