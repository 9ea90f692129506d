//! Keys in memory: an immutable snapshot of the store, and one authenticator for each configured one. Decides when a
//! snapshot is too old to answer from, and when the store is asked once more; what a key deserves is `keys::table`'s,
//! following the store `keys::follow`'s.

mod ask;
mod copier;
mod copy;
mod cut;
mod entry;
mod follow;
mod look;
mod pace;
mod reader;
mod retired;
mod shard;
mod table;

pub use follow::{Follower, StartError, Started, start};
pub use look::Settings;

use crate::domain::principal::Principal;
use crate::domain::units::{Micros, WallMicros};
use crate::io::store::error::StoreError;
use crate::logic::access::api_key::{self, IdBytes};
use crate::logic::access::digest::{self, Digest, Pepper};
use crate::ports::{AuthRequest, Authenticate, Clock, Rejection, Verdict};
use arc_swap::ArcSwap;
use ask::{Looks, Refusals};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use table::{Asker, Table};

/// What is named in the log where the store has been away for too long.
const STORE: &str = "key store";
/// [`Shared::seen_at`] before the store, or its copy, was read for the first time.
const NOT_YET: i64 = i64::MIN;

/// What all authenticators of one store share.
struct Shared {
    table: ArcSwap<Table>,
    /// When the store last said how it stands, in microseconds of the monotonic clock: a jump of the wall clock makes
    /// no snapshot stale. Negative where a copy of an earlier process says so.
    seen_at: AtomicI64,
    /// The longest `max_stale` of all: an older snapshot serves nobody.
    max_stale: Micros,
    clock: Arc<dyn Clock>,
    refusals: Refusals,
    looks: Looks,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    looks: AtomicU64,
    snapshots: AtomicU64,
    failed: AtomicU64,
    asked: AtomicU64,
    remembered: AtomicU64,
}

/// What the keys' side of a process has done, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    /// Keys in the snapshot, the revoked ones included.
    pub keys: usize,
    /// How old the snapshot is; `None`: there is none yet.
    pub age: Option<Micros>,
    /// Looks at the store.
    pub looks: u64,
    /// Snapshots that were put in force.
    pub snapshots: u64,
    /// Looks that failed.
    pub failed: u64,
    /// Requests that had the store asked once more.
    pub asked: u64,
    /// Refusals from memory.
    pub remembered: u64,
}

impl Shared {
    fn age(&self) -> Option<Micros> {
        let seen_at = self.seen_at.load(Ordering::Acquire);
        if seen_at == NOT_YET {
            return None;
        }
        let age = self.mono().saturating_sub(seen_at);
        Some(Micros(u64::try_from(age).unwrap_or_default()))
    }

    fn mono(&self) -> i64 {
        i64::try_from(self.clock.mono().0).unwrap_or(i64::MAX)
    }
}

/// How the keys of a store stand: for `/ready` and metrics.
#[derive(Clone)]
pub struct Pulse(Arc<Shared>);

impl Pulse {
    /// True while there is a snapshot, of the store or of its copy, from which any authenticator answers.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.0.age().is_some_and(|age| age <= self.0.max_stale)
    }

    /// What has been done so far, by all authenticators of the store.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let counts = &self.0.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Figures {
            keys: self.0.table.load().keys(),
            age: self.0.age(),
            looks: of(&counts.looks),
            snapshots: of(&counts.snapshots),
            failed: of(&counts.failed),
            asked: of(&counts.asked),
            remembered: of(&counts.remembered),
        }
    }
}

/// One `api_key` authenticator: the keys of the store under one pepper.
pub struct Keys {
    shared: Arc<Shared>,
    asker: Asker,
    max_stale: Micros,
}

/// What the snapshot says of a presented key.
enum Known {
    /// The store is needed no more, or would not help.
    Settled(Result<Principal, Rejection>),
    /// Unknown, wrong or revoked; the store may know better.
    Perhaps(Digest),
}

impl Keys {
    /// Reads a store once. Nobody follows it: the snapshot stays as it is and ends after `max_stale`.
    ///
    /// # Errors
    /// [`StoreError`]: then there is nothing to answer from.
    pub fn load(
        store: &crate::config::snapshot::Store,
        pepper: Pepper,
        max_stale: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        look::once(store.clone(), pepper, max_stale, clock)
    }

    /// Whom a presented key belongs to, as far as the snapshot knows. Asks nobody.
    ///
    /// # Errors
    /// [`Rejection`] as the key deserves.
    pub fn authenticate(&self, presented: &[u8], now: WallMicros) -> Result<Principal, Rejection> {
        match self.known(presented, now) {
            Known::Settled(verdict) => verdict,
            Known::Perhaps(_) => Err(Rejection::Invalid),
        }
    }

    fn known(&self, presented: &[u8], now: WallMicros) -> Known {
        let (table, age) = (self.shared.table.load(), self.shared.age());
        let own = api_key::parse(presented).ok().map(|key| key.id);
        // Junk is junk, whatever the store's state: the checksum tells it without a look-up.
        let Some(id) = own.or_else(|| foreign(presented, age.is_none() || table.has_plain())) else {
            return Known::Settled(Err(Rejection::Invalid));
        };
        if age.is_none_or(|age| age > self.max_stale) {
            return Known::Settled(Err(Rejection::Unavailable(STORE)));
        }
        let answer = table.authenticate(&self.asker, &id, presented, now);
        match answer.verdict {
            // What has no checksum is not worth a look at the store: tokens for others come here too.
            Err(Rejection::Invalid) if own.is_some() => Known::Perhaps(answer.digest),
            settled => Known::Settled(settled),
        }
    }
}

#[async_trait]
impl Authenticate for Keys {
    fn look(&self, request: &AuthRequest<'_>) -> Verdict {
        let Some(presented) = request.credential else { return Verdict::NotMine };
        match self.known(presented, request.now) {
            Known::Settled(verdict) => said(verdict),
            Known::Perhaps(digest) if self.shared.refusals.hold(&digest, self.shared.clock.mono()) => {
                self.shared.counts.remembered.fetch_add(1, Ordering::Relaxed);
                Verdict::Rejected(Rejection::Invalid)
            }
            Known::Perhaps(_) => Verdict::Ask,
        }
    }

    async fn ask(&self, request: &AuthRequest<'_>) -> Verdict {
        let Some(presented) = request.credential else { return Verdict::NotMine };
        self.shared.counts.asked.fetch_add(1, Ordering::Relaxed);
        // In time or not, failed or not: what the snapshot says then is the answer. A store that is down refuses
        // nobody whom the snapshot knows.
        let failed = self.shared.counts.failed.load(Ordering::Relaxed);
        let in_time = self.shared.looks.next().await;
        let store_said = in_time && self.shared.counts.failed.load(Ordering::Relaxed) == failed;
        match self.known(presented, request.now) {
            Known::Settled(verdict) => said(verdict),
            Known::Perhaps(digest) => {
                // What the store did not say is asked again by the next one who presents the key.
                if store_said {
                    self.shared.refusals.remember(&digest, self.shared.clock.mono());
                }
                Verdict::Rejected(Rejection::Invalid)
            }
        }
    }
}

/// The id of a key that another system made, whether there is such a key or not. `imported`: there may be any.
fn foreign(presented: &[u8], imported: bool) -> Option<IdBytes> {
    (imported && api_key::may_be_foreign(presented)).then(|| api_key::id_of_hash(&digest::plain(presented)))
}

fn said(verdict: Result<Principal, Rejection>) -> Verdict {
    match verdict {
        Ok(principal) => Verdict::Known(principal),
        Err(rejection) => Verdict::Rejected(rejection),
    }
}

#[cfg(test)]
mod tests;
