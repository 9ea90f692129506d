//! Compares the calendar counters of this replica with the usage rows, and puts right what processes that are gone have
//! left in the ledger. Decides when that is done: soon after the start, after the ledger was lost or is back, after a
//! replica has gone, and each `limits.reconcile`. What may be corrected is `logic/quota/drift`'s.
//!
//! A replica's own count is the truth for itself, since its rows come later: it is compared and told as drift. It is
//! corrected only upwards, by rows from before the account was made or was given its present calendar.

mod agenda;
mod canary;

use super::accounts::{Books, OpenAccount};
use super::arrivals::{Arrivals, Mark};
use super::findings::{Findings, Pass};
use super::ledgers::{LedgerFault, Ledgers, UsageRows};
use super::nudge::{Account, Nudge};
use super::seed::look;
use crate::domain::limit::Dimension;
use crate::logic::quota::drift::{Compared, Counter, Look, Way, compare};
use crate::ports::Clock;
use agenda::{Agenda, Open, Work};
use canary::Canary;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often the agenda and the ledger are looked at.
const TICK: Duration = Duration::from_secs(1);
/// Between two words on what is left of budgets, in ticks.
const BUDGET_TICKS: u32 = 15;

/// Accounts one after the other that could not be compared; then the others are left for the next time.
const FAULTS_IN_A_ROW: u32 = 3;

/// What a reconciler works with.
pub struct Parts {
    /// The counters.
    pub books: Arc<dyn Books>,
    /// What they should be.
    pub rows: Arc<dyn UsageRows>,
    /// What is on its way to the rows.
    pub arrivals: Arc<dyn Arrivals>,
    /// The ledger that replicas share, to see whether it has lost its memory; `None`: there is none.
    pub ledgers: Option<Arc<dyn Ledgers>>,
    /// Who is told.
    pub findings: Arc<dyn Findings>,
    /// This process, as its usage records name it.
    pub replica: Arc<str>,
    /// `limits.reconcile`.
    pub every: Duration,
    /// What may be wrong.
    pub nudge: Nudge,
    /// For the time of the last comparison.
    pub clock: Arc<dyn Clock>,
}

/// Compares and corrects, for as long as [`Self::run`] is awaited.
pub struct Reconciler {
    parts: Parts,
    /// The last comparison of each account.
    earlier: HashMap<Account, Earlier>,
}

/// A reconciler at work; it ends with this.
#[must_use = "the work ends when this is dropped"]
pub struct Reconciling(JoinHandle<()>);

impl Drop for Reconciling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A comparison that was made.
struct Earlier {
    /// What the rows said.
    look: Look,
    /// What was on its way then.
    mark: Arc<Mark>,
    dimension: Dimension,
    /// How far counter and rows were from each other.
    drift: u64,
}

impl Reconciler {
    /// Does nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self { parts, earlier: HashMap::new() }
    }

    /// Starts the work on a runtime.
    pub fn spawn(self, on: &tokio::runtime::Handle) -> Reconciling {
        Reconciling(on.spawn(self.run()))
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        let mut agenda = Agenda::new(Instant::now(), self.parts.every);
        let mut canary = Canary::new(&self.parts.replica);
        let nudge = self.parts.nudge.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for turn in (0..BUDGET_TICKS).cycle() {
            tokio::select! {
                doubts = nudge.heard() => agenda.doubt(doubts, Instant::now()),
                _ = tick.tick() => self.look_at_ledger(&mut canary, &mut agenda).await,
            }
            if turn == 0 {
                self.tell_budgets();
            }
            if let Some(work) = agenda.due(Instant::now()) {
                let open = self.pass(&work).await;
                let result = match (open.failed.is_empty(), open.unsettled.is_empty()) {
                    (false, _) => Pass::Failed,
                    (true, false) => Pass::Unsettled,
                    (true, true) => Pass::Done,
                };
                self.parts.findings.compared(result, self.parts.clock.wall());
                agenda.passed(work, open, Instant::now());
            }
        }
    }

    fn tell_budgets(&self) {
        let open = self.parts.books.calendars();
        let budgets = open.iter().filter(|one| one.rows.dimension == Dimension::Spend);
        let left: Vec<(&str, f64)> = budgets
            .filter_map(|one| {
                let left = one.capacity.saturating_sub(one.committed) as f64 / one.capacity.max(1) as f64;
                Some((one.rows.tenant.as_ref()?.as_str(), left))
            })
            .collect();
        self.parts.findings.budgets(&left);
    }

    async fn look_at_ledger(&self, canary: &mut Canary, agenda: &mut Agenda) {
        let Some(ledgers) = &self.parts.ledgers else { return };
        self.parts.findings.store(ledgers.is_up());
        if canary.finds_loss(&**ledgers, &*self.parts.books).await {
            self.parts.books.restate();
            tracing::warn!("the ledger of limits was away or has lost its memory; counters are compared with the rows");
            agenda.doubt_all(Instant::now());
        }
    }

    /// Compares accounts once.
    async fn pass(&mut self, work: &Work) -> Open {
        let mut accounts: Vec<OpenAccount> = self.parts.books.calendars();
        if matches!(work, Work::All) {
            let there: HashSet<Account> = accounts.iter().map(name).collect();
            self.earlier.retain(|account, _| there.contains(account));
        }
        accounts.retain(|account| work.includes(&name(account)));
        let mut open = Open::default();
        if let Some(error) = self.compare_all(&accounts, &mut open).await {
            tracing::warn!(accounts = open.failed.len(), %error, "counters could not be compared with the usage rows");
        }
        self.tell_drift();
        open
    }

    /// Compares accounts. Gives what was wrong last, if something was.
    async fn compare_all(&mut self, accounts: &[OpenAccount], open: &mut Open) -> Option<String> {
        let away = self.parts.ledgers.as_ref().is_some_and(|ledgers| !ledgers.is_up());
        let mark = match self.parts.arrivals.mark().await {
            Ok(mark) if !away => Arc::new(mark),
            Ok(_) if accounts.is_empty() => return None,
            unknown => {
                open.failed.extend(accounts.iter().map(name));
                return Some(unknown.err().unwrap_or_else(|| LedgerFault::Open.to_string()));
            }
        };
        let (mut arrived, mut faults, mut last) = (Arrived::default(), 0, None);
        for account in accounts {
            // What fails for some in a row would fail for all.
            let compared = if faults < FAULTS_IN_A_ROW {
                self.account(account, &mark, &mut arrived).await
            } else {
                Err(last.take().unwrap_or_default())
            };
            match compared {
                Ok(true) => faults = 0,
                Ok(false) => {
                    faults = 0;
                    open.unsettled.insert(name(account));
                }
                Err(error) => {
                    faults += 1;
                    last = Some(error);
                    open.failed.insert(name(account));
                }
            }
        }
        last
    }

    fn tell_drift(&self) {
        for dimension in Dimension::ALL.into_iter().filter(|dimension| *dimension != Dimension::Concurrency) {
            let of_it = self.earlier.values().filter(|one| one.dimension == dimension);
            self.parts.findings.drift(dimension, of_it.map(|one| one.drift).fold(0, u64::saturating_add));
        }
    }

    /// Compares one account. True if its rows are all there.
    async fn account(&mut self, open: &OpenAccount, mark: &Arc<Mark>, arrived: &mut Arrived) -> Result<bool, String> {
        let totals = self.parts.rows.totals(&open.rows, open.period).await?;
        let now = look(open.period, &totals);
        let compared = match self.earlier.get(&name(open)) {
            Some(earlier) => {
                let arrived = arrived.of(&earlier.mark, &*self.parts.arrivals).await?;
                let way = Way { running: &earlier.mark.running, arrived };
                self.compare(open, Some(&earlier.look), &now, &way)
            }
            None => self.compare(open, None, &now, &Way { running: &mark.running, arrived: false }),
        };
        let changed = self.correct(open, &compared).await?;
        let drift = compared.own.saturating_add(changed);
        let dimension = open.rows.dimension;
        self.earlier.insert(name(open), Earlier { look: now, mark: Arc::clone(mark), dimension, drift });
        Ok(compared.settled)
    }

    /// Tells the ledger what the rows say. Gives by how many units that has changed the counter.
    async fn correct(&self, open: &OpenAccount, compared: &Compared) -> Result<u64, String> {
        if compared.corrections.is_empty() {
            return Ok(0);
        }
        let changes = self.parts.books.correct(&open.group, &compared.corrections).await;
        let changes = changes.map_err(|fault| fault.to_string())?;
        let changed = changes.iter().map(|change| change.unsigned_abs()).fold(0, u64::saturating_add);
        if changed > 0 {
            tracing::warn!(account = %open.account, units = changed, "a counter was put right from the usage rows");
            self.parts.findings.corrected(open.rows.dimension, changed);
        }
        Ok(changed)
    }

    fn compare(&self, open: &OpenAccount, earlier: Option<&Look>, now: &Look, way: &Way<'_>) -> Compared {
        let counter = Counter {
            account: &open.account,
            committed: open.committed,
            total: open.total,
            replica: &self.parts.replica,
        };
        compare(&counter, earlier, now, way)
    }
}

fn name(open: &OpenAccount) -> Account {
    (open.group.clone(), Arc::clone(&open.account))
}

/// Whether what was on its way has arrived, asked once for each mark of a pass.
#[derive(Default)]
struct Arrived(Vec<(Arc<Mark>, bool)>);

impl Arrived {
    async fn of(&mut self, mark: &Arc<Mark>, arrivals: &dyn Arrivals) -> Result<bool, String> {
        if let Some((_, known)) = self.0.iter().find(|(asked, _)| Arc::ptr_eq(asked, mark)) {
            return Ok(*known);
        }
        let arrived = arrivals.arrived(mark).await?;
        self.0.push((Arc::clone(mark), arrived));
        Ok(arrived)
    }
}

#[cfg(test)]
mod tests;
