//! L3: what a request pins for its life: the compiled configuration, the live state of its pools, the services.
//!
//! Holds state, decides nothing: the decisions are in `logic/`, the steps in `stages/`.

use crate::config::snapshot::{Backend, Policy, Pool, Secret, Snapshot};
use crate::domain::fault::{Fault, RETRY_SOON};
use crate::domain::ids::{KeyId, PoolId};
use crate::domain::refusal::Refusal;
use crate::logic::access::directory::Directory;
use crate::logic::quota::complaints::Complaints;
use crate::logic::quota::denials::Denials;
use crate::logic::routing::book::{BackendFacts, Book};
use crate::logic::routing::policy::PolicyKind;
use crate::logic::routing::retry::RetryBudget;
use crate::ports::{Authenticate, Clock, Observer, QuotaStore, UsageLog};
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The ports, as wired by `cli/`.
pub struct Services {
    /// Authenticators by name.
    pub auth: BTreeMap<String, Arc<dyn Authenticate>>,
    /// Who there is; swapped whole when the store changes.
    pub directory: Arc<ArcSwap<Directory>>,
    /// Limits.
    pub quota: Arc<dyn QuotaStore>,
    /// Slot table and spool.
    pub usage: Arc<dyn UsageLog>,
    /// Metrics and access log.
    pub observer: Arc<dyn Observer>,
    /// Why requests were refused lately.
    pub denials: Arc<Mutex<Denials>>,
    /// What was said lately of limits that nobody can read.
    pub complaints: Arc<Mutex<Complaints>>,
    /// Both clocks.
    pub clock: Arc<dyn Clock>,
    /// Key of the per-tenant `cache_salt` (the pepper).
    pub salt_key: Secret,
}

/// One configuration, running.
pub struct Runtime {
    /// The compiled configuration.
    pub snapshot: Arc<Snapshot>,
    /// Live pools, indexed as `snapshot.pools`.
    pub pools: Vec<Arc<LivePool>>,
    /// The ports.
    pub services: Services,
    /// Memory of buffered bodies.
    pub bodies: Budget,
    /// Set on TERM: `/ready` fails, connections are not kept.
    pub draining: Arc<AtomicBool>,
    /// What must end before its time; it ends with a terminal event.
    pub abort: tokio::sync::watch::Receiver<Abort>,
}

/// Which requests must end before their time.
#[derive(Clone, Debug, Default)]
pub struct Abort {
    /// The drain deadline has passed: all of them.
    pub all: bool,
    /// Keys that were revoked with `terminate_streams`: theirs.
    pub keys: Arc<HashSet<KeyId>>,
}

impl Abort {
    /// Why a request of this key must end, if it must.
    #[must_use]
    pub fn reason(&self, key: Option<&KeyId>) -> Option<Fault> {
        if self.all {
            return Some(Fault::Shutdown);
        }
        key.filter(|key| self.keys.contains(*key)).map(|_| Fault::Revoked)
    }
}

/// Most bytes of request bodies that are buffered at once, all requests together.
pub const BODIES_AT_ONCE: u64 = 1 << 30;
/// The budget is counted in pieces of this many bytes.
const PIECE: u64 = 1 << 10;

/// The memory that buffered bodies share. A body over its share is refused, never the process.
#[derive(Debug)]
pub struct Budget(Arc<Semaphore>);

/// A body's share; given back when dropped.
#[derive(Debug)]
pub struct Share(OwnedSemaphorePermit);

impl Budget {
    /// A budget of `bytes`.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let pieces = usize::try_from(bytes / PIECE).unwrap_or(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(pieces.min(Semaphore::MAX_PERMITS))))
    }

    /// Takes a share for `bytes`.
    ///
    /// # Errors
    /// `Overloaded` where that much is not left.
    pub fn take(&self, bytes: u64) -> Result<Share, Refusal> {
        let pieces = u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).try_acquire_many_owned(pieces);
        permit.map(Share).map_err(|_| Refusal::Overloaded { retry_after: RETRY_SOON })
    }
}

impl Share {
    /// Grows the share to `bytes`, where it is smaller.
    ///
    /// # Errors
    /// `Overloaded` where that much is not left.
    pub fn grow(&mut self, budget: &Budget, bytes: u64) -> Result<(), Refusal> {
        let held = self.0.num_permits() as u64 * PIECE;
        if bytes > held {
            self.0.merge(budget.take(bytes - held)?.0);
        }
        Ok(())
    }
}

/// A pool's live state. One lock covers choosing and booking, so two requests cannot see the same idle backend.
pub struct LivePool {
    /// Its configuration.
    pub config: Arc<Pool>,
    /// Ledger, prefix index and policy.
    pub book: Mutex<Book>,
    /// Health as the probe sees it, per backend.
    healthy: Vec<AtomicBool>,
    /// Models that the backends named, once they were asked.
    served: ArcSwapOption<Vec<String>>,
    /// Requests in the pool.
    inflight: AtomicUsize,
    /// How many retries may run at once.
    pub retries: Mutex<RetryBudget>,
}

impl LivePool {
    /// A pool at rest: every backend counts as healthy until its probes fail.
    #[must_use]
    pub fn new(config: &Arc<Pool>) -> Self {
        let kv_tokens = match &config.policy {
            Policy::KvAware(constants) => constants.kv_tokens as u64,
            _ => 0,
        };
        let facts: Vec<_> = config.backends.iter().map(|backend| facts(backend, kv_tokens)).collect();
        Self {
            book: Mutex::new(Book::new(&policy_kind(&config.policy), &facts)),
            healthy: config.backends.iter().map(|_| AtomicBool::new(true)).collect(),
            served: ArcSwapOption::empty(),
            inflight: AtomicUsize::new(0),
            retries: Mutex::new(RetryBudget::new(config.retry.budget)),
            config: Arc::clone(config),
        }
    }

    /// The pool's name.
    #[must_use]
    pub fn id(&self) -> &PoolId {
        &self.config.id
    }

    /// What the probe last said of a backend.
    #[must_use]
    pub fn is_healthy(&self, backend: usize) -> bool {
        self.healthy.get(backend).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// The probe's verdict.
    pub fn set_healthy(&self, backend: usize, healthy: bool) {
        if let Some(flag) = self.healthy.get(backend) {
            flag.store(healthy, Ordering::Relaxed);
        }
    }

    /// What the backends named at `GET /v1/models`.
    pub fn set_served(&self, models: Vec<String>) {
        self.served.store(Some(Arc::new(models)));
    }

    /// The models of this pool: as configured, else as its backends named them; `None`: not known yet.
    #[must_use]
    pub fn models(&self) -> Option<Vec<String>> {
        if !self.config.models.is_empty() {
            return Some(self.config.models.clone());
        }
        self.served.load_full().map(|models| models.as_ref().clone())
    }

    /// True if the pool serves a model, or may: nothing is known against it.
    #[must_use]
    pub fn serves(&self, model: &str) -> bool {
        if !self.config.models.is_empty() {
            return self.config.models.iter().any(|name| name == model);
        }
        self.served.load().as_ref().is_none_or(|models| models.iter().any(|name| name == model))
    }

    /// Takes a place in the pool; `None` if `queue.max_inflight` is reached.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Option<Inside> {
        let limit = self.config.max_inflight;
        let before = self.inflight.fetch_add(1, Ordering::AcqRel);
        if limit != 0 && before >= limit {
            self.inflight.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        self.retries.lock().enter();
        Some(Inside { pool: Arc::clone(self), retries: AtomicUsize::new(0) })
    }

    /// Requests in the pool.
    #[must_use]
    pub fn inflight(&self) -> usize {
        self.inflight.load(Ordering::Relaxed)
    }
}

/// A request's place in its pool; leaves when dropped.
pub struct Inside {
    pool: Arc<LivePool>,
    retries: AtomicUsize,
}

impl Inside {
    /// The request has taken one retry of the pool's budget, which it gives back when it leaves.
    pub fn took_retry(&self) {
        self.retries.fetch_add(1, Ordering::AcqRel);
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.pool.inflight.fetch_sub(1, Ordering::AcqRel);
        let mut budget = self.pool.retries.lock();
        for _ in 0..self.retries.load(Ordering::Acquire) {
            budget.retry_ended();
        }
        budget.leave();
    }
}

/// A backend in the words of `logic/routing`.
fn facts(backend: &Backend, kv_tokens: u64) -> BackendFacts {
    let identity = xxhash_rust::xxh3::xxh3_64(backend.id.as_str().as_bytes());
    BackendFacts { weight: backend.weight, kv_tokens, identity }
}

/// The configuration's policy in the words of `logic/routing`.
fn policy_kind(policy: &Policy) -> PolicyKind {
    match policy {
        Policy::KvAware(constants) => PolicyKind::KvAware(*constants),
        Policy::LeastRequests => PolicyKind::LeastRequests,
        Policy::P2c => PolicyKind::P2c,
        Policy::RoundRobin => PolicyKind::RoundRobin,
        Policy::ConsistentHash => PolicyKind::ConsistentHash,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_given_back_and_never_overdrawn() {
        let budget = Budget::new(4 * PIECE);
        let mut first = budget.take(PIECE).expect("one of four");
        first.grow(&budget, 3 * PIECE).expect("three of four");
        assert!(budget.take(2 * PIECE).is_err(), "only one piece is left");
        drop(first);
        assert!(budget.take(4 * PIECE).is_ok(), "a dropped share is given back whole");
    }
}
