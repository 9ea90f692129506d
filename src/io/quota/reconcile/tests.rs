use super::*;
use crate::domain::limit::Scope;
use crate::domain::units::{Micros, WallMicros};
use crate::io::quota::ledgers::{AccountRows, Group, LedgerFault, RowTotal};
use crate::io::quota::seed::Seeder;
use crate::logic::quota::ledger::{Call, Correction, Kind, Ledger, Reply, Statement};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const ME: &str = "me";
const TTL_MS: i64 = 60_000;
const ACCOUNT: &str = "tenant|p.tokens";

/// A ledger, a replica that states each second, its rows, and whoever listens.
struct World {
    ledger: Mutex<Ledger>,
    names: Mutex<HashSet<String>>,
    /// Names are put there, and nobody is told.
    unheard: AtomicBool,
    up: AtomicBool,
    rows: Mutex<BTreeMap<String, u64>>,
    rows_fail: AtomicBool,
    asked: AtomicUsize,
    running: Mutex<Vec<String>>,
    arrives: AtomicBool,
    committed: Mutex<u64>,
    total: Mutex<u64>,
    found: Mutex<Vec<(Pass, u64)>>,
    budgets: Mutex<Vec<(String, f64)>>,
    money: AtomicBool,
    begin: Instant,
}

impl World {
    fn new(total: u64, rows: &[(&str, u64)]) -> Arc<Self> {
        Arc::new(Self {
            ledger: Mutex::default(),
            names: Mutex::default(),
            unheard: AtomicBool::new(false),
            up: AtomicBool::new(true),
            rows: Mutex::new(rows.iter().map(|(name, total)| ((*name).to_owned(), *total)).collect()),
            rows_fail: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            running: Mutex::new(vec![ME.to_owned()]),
            arrives: AtomicBool::new(true),
            committed: Mutex::default(),
            total: Mutex::new(total),
            found: Mutex::default(),
            budgets: Mutex::default(),
            money: AtomicBool::new(false),
            begin: Instant::now(),
        })
    }

    fn now(&self) -> i64 {
        1_000 + i64::try_from(self.begin.elapsed().as_millis()).expect("small")
    }

    fn set_row(&self, process: &str, total: u64) {
        self.rows.lock().insert(process.to_owned(), total);
    }

    fn state(&self, replica: &str, total: u64, seed: Option<u64>) -> Reply {
        let statement = Statement {
            account: ACCOUNT.into(),
            kind: Kind::Calendar { starts: [0, 0, i64::MAX, i64::MAX] },
            capacity: 1_000,
            total: i64::try_from(total).expect("small"),
            acked: 0,
            period: 0,
            outstanding: 0,
            least: 0,
            want: 0,
            spare: 0,
            floor: 0,
            seed,
        };
        let call = Call { replica, ttl_ms: TTL_MS, replicas: 1, statements: &[statement] };
        self.ledger.lock().state(&call, self.now())[0]
    }

    /// What is committed, all together, as a newcomer without use of its own sees it.
    fn sum(&self) -> u64 {
        self.state("newcomer", 0, Some(0)).committed
    }

    fn wipe(&self) {
        *self.ledger.lock() = Ledger::default();
        self.names.lock().clear();
    }

    fn open(&self) -> OpenAccount {
        OpenAccount {
            group: Group::Tenant("acme".into()),
            account: ACCOUNT.into(),
            rows: AccountRows {
                tenant: Some("acme".into()),
                scope: Scope::Tenant("acme".into()),
                dimension: if self.money.load(Ordering::SeqCst) { Dimension::Spend } else { Dimension::Tokens },
                model: None,
            },
            kind: Kind::Calendar { starts: [0, 0, i64::MAX, i64::MAX] },
            capacity: 1_000,
            period: 0,
            committed: *self.committed.lock(),
            total: i64::try_from(*self.total.lock()).expect("small"),
        }
    }

    /// States each second, as the books do, and asks for seeds.
    async fn live(self: Arc<Self>, nudge: Nudge) {
        let seeder = Seeder::new(Some(self.clone()), nudge);
        loop {
            let mut reply = self.state(ME, *self.total.lock(), None);
            if reply.fresh
                && let Ok(seed) = seeder.seed(&self.open(), self.now()).await
            {
                self.ledger.lock().correct(&seed.parts, self.now());
                reply = self.state(ME, *self.total.lock(), Some(seed.level));
            }
            *self.committed.lock() = reply.committed;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Starts the replica and its reconciler.
    fn start(self: &Arc<Self>) {
        let nudge = Nudge::default();
        tokio::spawn(self.clone().live(nudge.clone()));
        let parts = Parts {
            books: self.clone(),
            rows: self.clone(),
            arrivals: self.clone(),
            ledgers: Some(self.clone()),
            findings: self.clone(),
            replica: ME.into(),
            every: Duration::from_secs(3_600),
            nudge,
            clock: self.clone(),
        };
        tokio::spawn(Reconciler::new(parts).run());
    }
}

#[async_trait]
impl Books for World {
    fn calendars(&self) -> Vec<OpenAccount> {
        vec![self.open()]
    }

    async fn correct(&self, _: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
        Ok(self.ledger.lock().correct(corrections, self.now()))
    }
}

#[async_trait]
impl UsageRows for World {
    async fn totals(&self, _: &AccountRows, _: i64) -> Result<Vec<RowTotal>, String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.rows_fail.load(Ordering::SeqCst) {
            return Err("no rows today".to_owned());
        }
        let row = |(name, total): (&String, &u64)| RowTotal { proxy_id: name.as_str().into(), total: *total };
        Ok(self.rows.lock().iter().map(row).collect())
    }

    async fn recent(&self, _: &AccountRows, _: i64) -> Result<Vec<(i64, u64)>, String> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Arrivals for World {
    async fn mark(&self) -> Result<Mark, String> {
        Ok(Mark { running: self.running.lock().iter().cloned().collect(), ..Mark::default() })
    }

    async fn arrived(&self, _: &Mark) -> Result<bool, String> {
        Ok(self.arrives.load(Ordering::SeqCst))
    }
}

#[async_trait]
impl Ledgers for World {
    async fn state(&self, _: &Group, _: &Call<'_>) -> Result<Vec<Reply>, LedgerFault> {
        Err(LedgerFault::Open)
    }

    async fn correct(&self, _: &Group, _: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
        Err(LedgerFault::Open)
    }

    async fn beat(&self, _: &str, _: Duration) -> Result<u64, LedgerFault> {
        Ok(1)
    }

    async fn claim(&self, _: &Group, name: &str, _: &str, _: Duration) -> Result<bool, LedgerFault> {
        let new = self.names.lock().insert(name.to_owned());
        if self.unheard.load(Ordering::SeqCst) { Err(LedgerFault::Timeout(Duration::from_millis(5))) } else { Ok(new) }
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::SeqCst)
    }
}

impl Findings for World {
    fn compared(&self, result: Pass, _: WallMicros) {
        self.found.lock().push((result, 0));
    }

    fn drift(&self, _: Dimension, units: u64) {
        self.found.lock().push((Pass::Done, units));
    }

    fn corrected(&self, _: Dimension, _: u64) {}

    fn store(&self, _: bool) {}

    fn budgets(&self, left: &[(&str, f64)]) {
        *self.budgets.lock() = left.iter().map(|(tenant, left)| ((*tenant).to_owned(), *left)).collect();
    }
}

impl Clock for World {
    fn wall(&self) -> WallMicros {
        WallMicros(self.now() * 1_000)
    }

    fn mono(&self) -> Micros {
        Micros(0)
    }
}

async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn a_wiped_ledger_has_the_rows_figures_within_30_seconds() {
    let world = World::new(10, &[("dead-1", 100), ("dead-2", 50), (ME, 10)]);
    world.start();
    seconds(20).await;
    assert_eq!(world.sum(), 160, "what was before the start, and the own part once");
    world.wipe();
    seconds(30).await;
    assert_eq!(world.sum(), 160, "all of it is back");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_others_have_begun_anew_without_these_rows_is_completed_within_30_seconds() {
    let world = World::new(10, &[("dead", 100), (ME, 10)]);
    world.start();
    seconds(20).await;
    world.wipe();
    // A replica of another host has other rows.
    assert_eq!(world.state("elsewhere", 7, Some(0)).committed, 7, "the account exists, nobody is asked for a seed");
    seconds(30).await;
    assert_eq!(world.sum(), 117, "this host's dead, and everybody that lives");
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_seen_though_the_answer_that_would_have_told_it_is_lost() {
    let world = World::new(10, &[("dead", 100), (ME, 10)]);
    world.start();
    seconds(20).await;
    world.unheard.store(true, Ordering::SeqCst);
    world.wipe();
    assert_eq!(world.state("elsewhere", 7, Some(0)).committed, 7, "begun anew without these rows");
    seconds(6).await;
    assert_eq!(world.names.lock().len(), 1, "the name is there again");
    world.unheard.store(false, Ordering::SeqCst);
    seconds(24).await;
    assert_eq!(world.sum(), 117, "the rows are compared all the same");
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_replica_has_counted_beyond_its_rows_is_given_back_once_they_are_all_there() {
    let world = World::new(0, &[]);
    world.start();
    world.state("dead", 70, Some(0));
    world.set_row("dead", 40);
    seconds(30).await;
    assert_eq!(world.sum(), 70, "it may live: its statement still holds");
    seconds(40).await;
    world.arrives.store(false, Ordering::SeqCst);
    world.up.store(false, Ordering::SeqCst);
    seconds(2).await;
    world.up.store(true, Ordering::SeqCst);
    seconds(15).await;
    assert_eq!(world.sum(), 70, "its last records are on their way");
    world.set_row("dead", 45);
    world.arrives.store(true, Ordering::SeqCst);
    seconds(15).await;
    assert_eq!(world.sum(), 45, "then the rows are believed");
}

#[tokio::test(start_paused = true)]
async fn a_process_of_this_host_that_runs_is_left_to_itself() {
    let world = World::new(0, &[("neighbour", 30)]);
    world.running.lock().push("neighbour".to_owned());
    world.start();
    seconds(3).await;
    world.state("neighbour", 50, Some(0));
    seconds(600).await;
    // It has stated nothing for longer than its statement holds: its host knows that it runs.
    assert_eq!(world.sum(), 50, "20 are open or on their way to the rows");
}

#[tokio::test(start_paused = true)]
async fn rows_that_cannot_be_asked_are_asked_again_and_change_nothing() {
    let world = World::new(10, &[("dead", 100)]);
    world.rows_fail.store(true, Ordering::SeqCst);
    world.state(ME, 10, Some(0));
    world.start();
    seconds(14).await;
    let failed = world.found.lock().iter().filter(|(result, _)| *result == Pass::Failed).count();
    assert_eq!((failed, world.sum()), (2, 10), "tried twice by now; nothing is corrected");
    world.rows_fail.store(false, Ordering::SeqCst);
    seconds(15).await;
    assert_eq!(world.sum(), 110, "then it is");
}

#[tokio::test(start_paused = true)]
async fn what_agrees_is_compared_once_an_hour() {
    let world = World::new(10, &[("dead", 100), (ME, 8)]);
    world.start();
    seconds(60).await;
    let asked = world.asked.load(Ordering::SeqCst);
    assert!((2..=4).contains(&asked), "a few times after the start: {asked}");
    assert_eq!(world.found.lock().last().map(|(result, _)| *result), Some(Pass::Done), "it agrees");
    let drift = world.found.lock().iter().map(|(_, units)| *units).max();
    assert_eq!(drift, Some(2), "the own difference is told");
    seconds(3_500).await;
    assert_eq!(world.asked.load(Ordering::SeqCst), asked, "then nothing for an hour");
    seconds(60).await;
    assert!(world.asked.load(Ordering::SeqCst) > asked, "then again");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_of_budgets_is_told_and_of_other_limits_not() {
    let world = World::new(250, &[]);
    world.start();
    seconds(20).await;
    assert_eq!(*world.budgets.lock(), [], "tokens are no budget");
    world.money.store(true, Ordering::SeqCst);
    seconds(20).await;
    assert_eq!(*world.budgets.lock(), [("acme".to_owned(), 0.75)], "250 of 1,000 are spent");
}
