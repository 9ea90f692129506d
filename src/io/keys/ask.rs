//! What happens to a key that the snapshot does not let in: whether the store is asked once more, and for how long a
//! no is remembered. Decides who waits and how long; the asking itself is `keys::follow`'s.

use crate::domain::units::Micros;
use crate::logic::access::digest::{DIGEST_LEN, Digest};
use quick_cache::sync::Cache;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;
use tokio::sync::watch;

/// Refusals remembered at once: about 10 MB. A storm with more of them costs looks at the store, which are rationed.
const MAX_REFUSALS: usize = 100_000;
/// How long a refusal is remembered. Half of what is promised to a new key that was tried too early: the rest is for
/// the look at the store.
const REFUSAL_TTL: Micros = Micros(1_000_000);
/// How long a request waits for a look at the store. Longer, and a store that hangs would hang its callers.
const MAX_WAIT: Duration = Duration::from_millis(300);
/// Requests that wait at once, at about a kilobyte each; the next one gets the snapshot's answer.
const MAX_WAITING: usize = 10_000;

/// Digests that were refused lately. Keyed by the whole digest: nothing that a caller chooses can stand for another.
pub(super) struct Refusals {
    until: Cache<[u8; DIGEST_LEN], Micros>,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self { until: Cache::new(MAX_REFUSALS) }
    }

    pub(super) fn hold(&self, digest: &Digest, now: Micros) -> bool {
        self.until.get(&digest.0).is_some_and(|until| now < until)
    }

    pub(super) fn remember(&self, digest: &Digest, now: Micros) {
        self.until.insert(digest.0, now + REFUSAL_TTL);
    }
}

/// Looks at the store: how many have begun, how many have ended, and how to ask for one.
pub(super) struct Looks {
    /// Counted by the follower alone.
    begun: AtomicU64,
    ended: watch::Sender<u64>,
    bell: SyncSender<()>,
    waiting: AtomicUsize,
}

impl Looks {
    /// `bell` has room for one ring: further ones mean the same.
    pub(super) fn new(bell: SyncSender<()>) -> Self {
        Self { begun: AtomicU64::new(0), ended: watch::Sender::new(0), bell, waiting: AtomicUsize::new(0) }
    }

    /// The store is about to be looked at.
    pub(super) fn begin(&self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
    }

    /// The look that began last is over, for better or worse.
    pub(super) fn end(&self) {
        self.ended.send_replace(self.begun.load(Ordering::SeqCst));
    }

    /// Asks for a look that begins from now on.
    pub(super) fn ring(&self) {
        // Full: somebody has rung already. Closed: nobody follows the store any more.
        let _rung = self.bell.try_send(());
    }

    /// Waits for a look that begins from now on, shared by all who wait. False: there was none in time.
    pub(super) async fn next(&self) -> bool {
        let Some(_place) = Place::take(&self.waiting) else { return false };
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let mut ended = self.ended.subscribe();
        self.ring();
        let reached = ended.wait_for(|ended| *ended >= wanted);
        matches!(tokio::time::timeout(MAX_WAIT, reached).await, Ok(Ok(_)))
    }
}

/// One who waits.
struct Place<'w>(&'w AtomicUsize);

impl<'w> Place<'w> {
    fn take(waiting: &'w AtomicUsize) -> Option<Self> {
        // Made before the count is read: if there is no room it is given back at once.
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
