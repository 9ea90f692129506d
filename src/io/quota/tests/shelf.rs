//! A ledger for tests: the pure model behind a lock, with a clock that tests turn and faults that they order. It is for
//! no decision of its own.

use crate::domain::units::{Micros, WallMicros};
use crate::io::quota::ledgers::{Group, LedgerFault, Ledgers};
use crate::logic::quota::ledger::{Call, Correction, Ledger, Reply};
use crate::ports::Clock;
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The runtime's own clock, which tests stop; it begins on 2026-11-21 at 21:20 UTC.
#[derive(Debug)]
pub struct Hands(tokio::time::Instant);

const BEGIN_MICROS: i64 = 1_795_296_000_000_000;

impl Hands {
    pub fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for Hands {
    fn wall(&self) -> WallMicros {
        WallMicros(BEGIN_MICROS + self.0.elapsed().as_micros() as i64)
    }
    fn mono(&self) -> Micros {
        Micros(1_000_000 + self.0.elapsed().as_micros() as u64)
    }
}

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ill {
    /// Nothing.
    Well,
    /// It says so at once, and is known to be down.
    Down,
    /// Each call fails, and nobody has drawn conclusions yet.
    Fails,
    /// Each call is applied, and the answer is lost.
    Deaf,
    /// So many calls in ten fail, one after the other.
    Flaps(u64),
    /// It answers after so long.
    Slow(Duration),
}

pub struct Shelf {
    pub clock: Arc<Hands>,
    groups: Mutex<HashMap<Group, Ledger>>,
    ill: Mutex<Ill>,
    pub calls: AtomicU64,
    /// Statements on their way, all calls together: now, and at most so far.
    under_way: AtomicU64,
    pub most_under_way: AtomicU64,
    /// How many live; 0: as many as have given a sign since it began.
    pub replicas: AtomicU64,
    pub signs: Mutex<HashSet<String>>,
    pub generation: AtomicU64,
    pub asked_down: AtomicBool,
}

impl Shelf {
    pub fn new(clock: &Arc<Hands>) -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::clone(clock),
            groups: Mutex::default(),
            ill: Mutex::new(Ill::Well),
            calls: AtomicU64::new(0),
            under_way: AtomicU64::new(0),
            most_under_way: AtomicU64::new(0),
            replicas: AtomicU64::new(1),
            signs: Mutex::default(),
            generation: AtomicU64::new(0),
            asked_down: AtomicBool::new(false),
        })
    }

    pub fn fall(&self, ill: Ill) {
        *self.ill.lock() = ill;
    }

    /// It begins anew, empty.
    pub fn wipe(&self) {
        self.groups.lock().clear();
        self.signs.lock().clear();
    }

    fn now_ms(&self) -> i64 {
        self.clock.wall().0 / 1_000
    }

    async fn suffer(&self) -> Result<(), LedgerFault> {
        let ill = *self.ill.lock();
        match ill {
            Ill::Well | Ill::Deaf => Ok(()),
            Ill::Down => {
                self.asked_down.store(true, Ordering::SeqCst);
                Err(LedgerFault::Open)
            }
            Ill::Flaps(of_ten) if self.calls.load(Ordering::SeqCst) % 10 >= of_ten => Ok(()),
            Ill::Fails | Ill::Flaps(_) => Err(LedgerFault::Failed("as ordered".into())),
            Ill::Slow(by) => {
                tokio::time::sleep(by).await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl Ledgers for Shelf {
    async fn state(&self, group: &Group, call: &Call<'_>) -> Result<Vec<Reply>, LedgerFault> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let statements = call.statements.len() as u64;
        let under_way = statements + self.under_way.fetch_add(statements, Ordering::SeqCst);
        self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        let suffered = self.suffer().await;
        self.under_way.fetch_sub(statements, Ordering::SeqCst);
        suffered?;
        let now = self.now_ms();
        let mut groups = self.groups.lock();
        let replies = groups.entry(group.clone()).or_default().state(call, now);
        match *self.ill.lock() {
            Ill::Deaf => Err(LedgerFault::Timeout(Duration::from_millis(5))),
            _ => Ok(replies),
        }
    }

    async fn correct(&self, group: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
        self.suffer().await?;
        let now = self.now_ms();
        let mut groups = self.groups.lock();
        Ok(groups.entry(group.clone()).or_default().correct(corrections, now))
    }

    async fn beat(&self, replica: &str, _ttl: Duration) -> Result<u64, LedgerFault> {
        self.suffer().await?;
        self.signs.lock().insert(replica.to_owned());
        Ok(match self.replicas.load(Ordering::SeqCst) {
            0 => self.signs.lock().len() as u64,
            live => live,
        })
    }

    async fn claim(&self, _group: &Group, _name: &str, _by: &str, _ttl: Duration) -> Result<bool, LedgerFault> {
        self.suffer().await?;
        Ok(true)
    }

    fn is_up(&self) -> bool {
        *self.ill.lock() != Ill::Down
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }
}
