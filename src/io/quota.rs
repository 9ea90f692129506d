//! [`QuotaStore`]: one book per tenant and one for what tenants share, each behind one lock, so that all rules of a
//! request are decided in one step. Decides nothing itself (`logic/quota` does). Alone, a process never waits; where
//! replicas share a ledger, a request waits for it at most [`WAIT`], and only if the leases are used up.

pub mod accounts;
pub mod arrivals;
pub mod beginnings;
pub mod desk;
pub mod findings;
pub mod ledgers;
pub mod nudge;
pub mod pulse;
pub mod reconcile;
pub mod redis;
pub mod rows;
pub mod seed;
pub mod sync;
pub mod watch;

use crate::domain::limit::{QuotaUse, Standing};
use crate::domain::units::{Micros, WallMicros};
use crate::logic::quota::book::Home;
use crate::logic::quota::decide::{Books, Claim, Grant, Stop};
use crate::logic::quota::lease::Link;
use crate::logic::quota::period::Moment;
use crate::logic::quota::plan::QuotaAsk;
use crate::ports::{Clock, QuotaStore, Reservation, ReserveError, SpendWatch};
use async_trait::async_trait;
use desk::{Desk, Hall, Owed};
use ledgers::{Ledgers, UsageRows};
use nudge::Nudge;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use watch::{Decided, Watch};

/// No request waits for the ledger longer (semantics.md §3).
pub const WAIT: Duration = Duration::from_millis(20);
/// After so many calls without a pause it takes its time: others may take what it was given for it.
const ROUNDS_MAX: u32 = 32;
/// Between two looks at what others are at work on, and between two calls of which the first has failed.
const PAUSE: Duration = Duration::from_millis(1);

/// What an engine is made of.
pub struct Settings {
    /// This process, as its usage records name it.
    pub replica: Arc<str>,
    /// `limits.hold_ttl`.
    pub hold_ttl: Duration,
    /// The clocks, for work in the background.
    pub clock: Arc<dyn Clock>,
    /// The usage rows, for what calendars begin with; `None`: at 0.
    pub rows: Option<Arc<dyn UsageRows>>,
    /// Who is told how it goes.
    pub watch: Arc<dyn Watch>,
    /// Tells the reconciler that a counter may be wrong.
    pub nudge: Nudge,
    /// Who is told how money is spent.
    pub spend: Option<Arc<dyn SpendWatch>>,
}

/// The limits of this process.
pub struct Quota {
    hall: Arc<Hall>,
}

impl Quota {
    /// Each process counts alone.
    #[must_use]
    pub fn process(settings: Settings) -> Arc<Self> {
        Arc::new(Self { hall: Hall::open(Home::Here, None, settings) })
    }

    /// Replicas share a ledger, and lease units of it.
    #[must_use]
    pub fn leased(ledgers: Arc<dyn Ledgers>, settings: Settings) -> Arc<Self> {
        Arc::new(Self { hall: Hall::open(Home::Ledger, Some(ledgers), settings) })
    }

    /// Starts the work in the background on a runtime; it ends when the answer is dropped.
    pub fn spawn(&self, on: &tokio::runtime::Handle) -> sync::Running {
        sync::spawn(&self.hall, on)
    }

    /// Gives all leases back, in bounded time. Call it when no request is open any more.
    pub async fn close(&self) {
        sync::close(&self.hall).await;
    }

    /// Drops what is unused: books, scopes, rules of old plans. Cheap enough for every few seconds; a book is locked for
    /// as long as it takes to look at its accounts.
    pub fn sweep(&self, now: Micros, wall: WallMicros) {
        self.hall.sweep(Moment { mono: now, wall });
    }

    /// Tenants with something committed or held, or not swept yet.
    #[must_use]
    pub fn books(&self) -> usize {
        self.hall.tenants()
    }

    /// The whole decision where nobody else is asked; never waits for anything but the books' own locks.
    ///
    /// # Errors
    /// [`ReserveError`]; then nothing was burnt. `StoreDown` where the ledger would have to be asked.
    pub fn reserve_now(&self, ask: &QuotaAsk, at: Moment) -> Result<Granted, ReserveError> {
        if ask.lines.is_empty() && ask.max_tokens_per_request.is_none() {
            return Ok(Granted::unlimited());
        }
        let desks = self.hall.desks(ask, at);
        let granted = desks.reserve(ask, at, Link::Up);
        self.answer(desks, granted, at)
    }

    /// Tells how it went, in the words of the port.
    fn answer(&self, desks: Desks, decided: Result<Grant, Stop>, at: Moment) -> Result<Granted, ReserveError> {
        let watch = &self.hall.watch;
        let (how, answer) = match decided {
            Ok(grant) => {
                if grant.shadowed > 0 {
                    watch.shadowed(grant.shadowed);
                }
                let how = match (grant.fallback, grant.shadowed) {
                    (true, _) => Decided::Fallback,
                    (false, 0) => Decided::Granted,
                    (false, _) => Decided::Shadow,
                };
                (how, Ok(Granted::new(desks, grant, at)))
            }
            Err(Stop::Denied(denial)) => (Decided::Denied, Err(ReserveError::Denied(denial))),
            Err(Stop::NeverFits(asked, allowed)) => (Decided::Denied, Err(ReserveError::NeverFits(asked, allowed))),
            Err(Stop::StoreDown | Stop::Ask { .. }) => (Decided::StoreDown, Err(ReserveError::StoreDown)),
        };
        watch.decided(how);
        answer
    }

    /// Asks the ledger until the request can be decided, or the wait is over. `decided`: what was decided so far.
    async fn ask_and_decide(
        &self,
        desks: &Desks,
        ask: &QuotaAsk,
        mut decided: Result<Grant, Stop>,
    ) -> Result<Grant, Stop> {
        let begun = Instant::now();
        let deadline = begun + WAIT;
        let mut rounds = 0;
        while let Err(Stop::Ask { tenant, shared }) = decided {
            rounds += 1;
            let tenant = async { if tenant { self.fetch(&desks.tenant, deadline).await } else { true } };
            let shared = async {
                match &desks.shared {
                    Some(desk) if shared => self.fetch(desk, deadline).await,
                    _ => true,
                }
            };
            let (tenant, shared) = tokio::join!(tenant, shared);
            // A call that failed says little: the ledger may have done all the same what it was asked. While it is used
            // and there is time, it is asked again.
            let mut link = self.hall.link();
            if link == Link::Up && (!(tenant && shared) || rounds >= ROUNDS_MAX) {
                pause(deadline).await;
                link = self.hall.link();
            }
            if Instant::now() >= deadline {
                link = self.hall.link_down();
            }
            decided = desks.reserve(ask, self.hall.moment(), link);
        }
        self.hall.watch.waited(begun.elapsed());
        decided
    }

    /// One call to the ledger for a desk, together with all others that wait there. False: it did not work, or not in
    /// time.
    async fn fetch(&self, desk: &Arc<Desk>, deadline: Instant) -> bool {
        if self.hall.ledgers.is_none() {
            // Only the rows are asked here.
            pause(deadline).await;
            return true;
        }
        let flights = desk.flights.load(Ordering::Relaxed);
        let _place = loop {
            if let Some(place) = desk.queue_up() {
                break place;
            }
            pause(deadline).await;
            if desk.flights.load(Ordering::Relaxed) != flights || Instant::now() >= deadline {
                return true;
            }
        };
        let Ok(turn) = tokio::time::timeout_at(deadline, desk.turn.lock()).await else { return false };
        if desk.flights.load(Ordering::Relaxed) != flights || !desk.book.lock().is_asked() {
            // A call that began after we had asked has asked for us too; what others have asked since is theirs.
            return true;
        }
        let call = sync::call(&self.hall, desk, sync::Caller::Request);
        match tokio::time::timeout_at(deadline, call).await {
            Ok(Ok(0)) => {
                drop(turn);
                // The rows are being asked what the account begins with.
                pause(deadline).await;
                true
            }
            Ok(answered) => answered.is_ok(),
            Err(_) => false,
        }
    }
}

async fn pause(deadline: Instant) {
    tokio::time::sleep_until(deadline.min(Instant::now() + PAUSE)).await;
}

#[async_trait]
impl QuotaStore for Quota {
    async fn reserve(
        &self,
        ask: QuotaAsk,
        now: Micros,
        wall: WallMicros,
    ) -> Result<Box<dyn Reservation>, ReserveError> {
        let at = Moment { mono: now, wall };
        if ask.lines.is_empty() && ask.max_tokens_per_request.is_none() {
            return Ok(Box::new(Granted::unlimited()));
        }
        let desks = self.hall.desks(&ask, at);
        let mut decided = desks.reserve(&ask, at, self.hall.link());
        if matches!(decided, Err(Stop::Ask { .. })) {
            decided = self.ask_and_decide(&desks, &ask, decided).await;
        }
        Ok(Box::new(self.answer(desks, decided, at)?))
    }

    fn standings(&self, ask: &QuotaAsk, now: Micros, wall: WallMicros) -> Vec<Standing> {
        if ask.lines.is_empty() {
            return Vec::new();
        }
        let at = Moment { mono: now, wall };
        self.hall.desks(ask, at).with(|mut books| books.standings(ask, at))
    }
}

/// The desks of a request.
#[derive(Clone)]
pub struct Desks {
    tenant: Arc<Desk>,
    shared: Option<Arc<Desk>>,
}

impl Desks {
    /// Locks the books, the tenant's first.
    fn with<T>(&self, work: impl FnOnce(Books<'_>) -> T) -> T {
        let mut tenant = self.tenant.book.lock();
        let mut shared = self.shared.as_ref().map(|desk| desk.book.lock());
        let done = work(Books { tenant: &mut tenant, shared: shared.as_deref_mut() });
        let owed = (Owed::of(&mut tenant), shared.as_mut().map(|book| Owed::of(book)));
        drop((shared, tenant));
        self.tenant.attend(owed.0);
        if let (Some(desk), Some(owed)) = (&self.shared, owed.1) {
            desk.attend(owed);
        }
        done
    }

    fn reserve(&self, ask: &QuotaAsk, at: Moment, link: Link) -> Result<Grant, Stop> {
        self.with(|mut books| books.reserve(ask, at, link))
    }
}

/// A granted reservation. Settle it once; dropped unsettled, it gives tokens and concurrency back, and the request stays
/// counted. While it exists its hold does not expire.
#[must_use = "a reservation must be settled"]
pub struct Granted {
    owed: Option<(Desks, Mutex<Claim>)>,
    standings: Vec<Standing>,
    at: Micros,
    done: AtomicBool,
}

impl Granted {
    fn unlimited() -> Self {
        Self { owed: None, standings: Vec::new(), at: Micros(0), done: AtomicBool::new(true) }
    }

    fn new(desks: Desks, grant: Grant, at: Moment) -> Self {
        let owed = Some((desks, Mutex::new(grant.claim)));
        Self { owed, standings: grant.standings, at: at.mono, done: AtomicBool::new(false) }
    }

    /// True for the one caller that ends the reservation.
    fn finish(&self) -> bool {
        !self.done.swap(true, Ordering::AcqRel)
    }
}

impl std::fmt::Debug for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Granted").field("standings", &self.standings).finish_non_exhaustive()
    }
}

impl Reservation for Granted {
    fn standings(&self) -> &[Standing] {
        &self.standings
    }

    fn progress(&self, used: QuotaUse, now: Micros) -> Option<Arc<str>> {
        let (desks, claim) = self.owed.as_ref().filter(|_| !self.done.load(Ordering::Acquire))?;
        desks.with(|mut books| books.progress(&mut claim.lock(), &used, now))
    }

    fn settle(&self, used: QuotaUse, now: Micros) {
        if let Some((desks, claim)) = self.owed.as_ref().filter(|_| self.finish()) {
            desks.with(|mut books| books.settle(&mut claim.lock(), &used, now));
        }
    }

    fn cancel(&self, now: Micros) {
        if let Some((desks, claim)) = self.owed.as_ref().filter(|_| self.finish()) {
            desks.with(|mut books| books.cancel(&mut claim.lock(), now));
        }
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some((desks, claim)) = self.owed.as_ref().filter(|_| self.finish()) {
            desks.with(|mut books| books.release(&mut claim.lock(), self.at));
        }
    }
}

#[cfg(test)]
mod tests;
