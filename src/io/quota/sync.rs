//! How books and the ledger keep together: calls that state and ask, the work in the background that tells what has
//! changed, renews what would expire and gives back what is not needed. Decides when; what is said is the book's.

use super::beginnings::seed_all;
use super::desk::{Desk, Hall};
use super::ledgers::LedgerFault;
use super::pulse::Pulse;
use super::watch::Called;
use crate::domain::units::Micros;
use crate::logic::quota::book::Flight;
use crate::logic::quota::ledger::Call;
use crate::logic::quota::period::Moment;
use futures_util::StreamExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};

/// How often desks that are near a limit tell what has changed.
const TICK: Duration = Duration::from_millis(100);
/// And all others.
const TELL: Micros = Micros(1_000_000);
/// Calls to the ledger at once, from the background.
const CALLS_AT_ONCE: usize = 16;
/// Statements of one call from the background; whoever has asked stands behind no more of them at their desk.
const TELL_MAX: usize = 16;
/// Statements on their way from the background, all calls together: a ledger does one thing after the other, and requests
/// stand behind these.
pub const STATEMENTS_AT_ONCE: usize = 32;
/// Giving all leases back may take so long.
const CLOSE: Duration = Duration::from_secs(1);

/// Work in the background; it ends with this.
#[must_use = "the work ends when this is dropped"]
pub struct Running {
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Ends it, and waits until it has ended.
    pub async fn end(mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks.drain(..) {
            let _aborted = task.await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Starts the work in the background.
pub fn spawn(hall: &Arc<Hall>, on: &tokio::runtime::Handle) -> Running {
    let mut tasks = Vec::new();
    if hall.ledgers.is_some() {
        tasks.push(on.spawn(keep_together(Arc::clone(hall))));
    }
    if hall.rows.is_some() {
        tasks.push(on.spawn(seed_all(Arc::clone(hall))));
    }
    Running { tasks }
}

/// For whom a call is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A request waits for it.
    Request,
    /// Nobody does.
    Background,
}

/// A call on its way: what it said is said again if nobody hears of it.
struct Flying<'a> {
    desk: &'a Desk,
    at: Moment,
    flight: Option<Flight>,
}

impl Drop for Flying<'_> {
    fn drop(&mut self) {
        if let Some(flight) = self.flight.take() {
            let mut book = self.desk.book.lock();
            let now = book.now(self.at);
            book.crash(&flight, &now);
        }
    }
}

/// One call for a desk; the caller has its turn. Gives the number of accounts that it was about.
///
/// # Errors
/// [`LedgerFault`]; what was to be said will be said again.
pub async fn call(hall: &Hall, desk: &Arc<Desk>, by: Caller) -> Result<usize, LedgerFault> {
    let Some(ledgers) = &hall.ledgers else { return Ok(0) };
    let at = hall.moment();
    let flight = {
        let mut book = desk.book.lock();
        let now = book.now(at);
        desk.flights.fetch_add(1, Ordering::Relaxed);
        match by {
            Caller::Request => book.flight(&now),
            Caller::Background => book.flight_of(TELL_MAX, &now),
        }
    };
    let told = flight.statements.len();
    if told == 0 {
        return Ok(0);
    }
    let mut flying = Flying { desk, at, flight: Some(flight) };
    let replicas = hall.replicas.load(Ordering::Relaxed).max(1);
    let begun = Instant::now();
    let answer = {
        let statements = flying.flight.as_ref().map(|flight| flight.statements.as_slice()).unwrap_or_default();
        let ttl_ms = i64::try_from(hall.ttl.millis()).unwrap_or(i64::MAX);
        let call = Call { replica: &hall.replica, ttl_ms, replicas, statements };
        match by {
            Caller::Request => ledgers.state(&desk.group, &call).await,
            Caller::Background => ledgers.tell(&desk.group, &call).await,
        }
    };
    hall.watch.called(answer.as_ref().map_or_else(Called::from, |_| Called::Ok), begun.elapsed());
    let replies = answer?;
    if let Some(flight) = flying.flight.take() {
        let (landed, spent) = {
            let mut book = desk.book.lock();
            (book.land(&flight, &replies, replicas, hall.moment()), book.take_spent())
        };
        desk.tell_spent(&spent);
        if landed.lost {
            hall.errands.lost.store(true, Ordering::Release);
        }
        landed.swept.iter().for_each(|account| hall.nudge.about(&desk.group, account));
        if !landed.unknown.is_empty() {
            desk.ask_rows(landed.unknown);
        }
    }
    Ok(told)
}

/// The work in the background.
async fn keep_together(hall: Arc<Hall>) {
    let Some(ledgers) = hall.ledgers.clone() else { return };
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let third = Duration::from_micros(hall.ttl.0 / 3);
    let mut pulse = Pulse::new(Instant::now(), Duration::from_micros(hall.ttl.0));
    let (mut refresh_at, mut restate_at) = (Instant::now() + third / 2, Instant::now() + third);
    let (mut was_up, mut generation) = (ledgers.is_up(), ledgers.generation());
    loop {
        tick.tick().await;
        let (now, up) = (Instant::now(), ledgers.is_up());
        let present = ledgers.generation();
        let is_another = std::mem::replace(&mut generation, present) != present;
        if is_another {
            // What replicas that are gone have said may be lost as well.
            hall.nudge.all();
        }
        let lost = hall.errands.lost.swap(false, Ordering::AcqRel) || (up && !was_up) || is_another;
        if lost {
            pulse.lost(now);
        }
        let beat = ledgers.beat(&hall.replica, Duration::from_micros(hall.ttl.0));
        if pulse.is_due(now)
            && up
            && let Ok(live) = beat.await
        {
            hall.replicas.store(pulse.heard(live, now), Ordering::Relaxed);
        }
        hall.watch.replicas(hall.replicas.load(Ordering::Relaxed), up);
        let all = lost || (now >= restate_at && ledgers.changes_unseen());
        if all || now >= refresh_at {
            refresh(&hall, all, third / 2).await;
            refresh_at = now + third / 2;
        }
        if all {
            restate_at = now + third;
        }
        was_up = up;
        if up {
            tell_due(&hall).await;
        }
    }
}

/// Notes what must be said again: what would expire, or all, if the ledger may have lost something.
async fn refresh(hall: &Hall, all: bool, age: Duration) {
    let at = hall.moment();
    for desk in hall.all() {
        let owes = {
            let mut book = desk.book.lock();
            let now = book.now(at);
            if all { book.restate(&now) } else { book.refresh(&now, Micros::from(age)) }
        };
        if owes {
            desk.enlist();
        }
        // There may be very many, and others are at work here.
        tokio::task::yield_now().await;
    }
}

/// Lets the desks tell whose time has come.
async fn tell_due(hall: &Arc<Hall>) {
    let now = hall.clock.mono();
    let desks = std::mem::take(&mut *hall.errands.telling.lock());
    let (mut due, mut later) = (Vec::new(), Vec::new());
    for desk in desks {
        let is_due = desk.book.lock().due().is_none_or(|(since, tight)| tight || now - since >= TELL);
        if is_due { due.push(desk) } else { later.push(desk) }
    }
    hall.errands.telling.lock().extend(later);
    tell_all(hall, due).await;
}

/// Lets desks tell, some at once.
async fn tell_all(hall: &Arc<Hall>, desks: Vec<Arc<Desk>>) {
    let room = &Semaphore::new(STATEMENTS_AT_ONCE);
    futures_util::stream::iter(desks)
        .for_each_concurrent(CALLS_AT_ONCE, |desk| async move { tell(hall, &desk, room).await })
        .await;
}

/// Tells all that a desk has to tell by now, call by call: between two of them requests have their turn.
async fn tell(hall: &Hall, desk: &Arc<Desk>, room: &Semaphore) {
    desk.delist();
    let mut left = desk.book.lock().changes();
    while left > 0 {
        let most = left.min(TELL_MAX);
        // Before the turn: whoever has that waits for nothing but the ledger.
        let Ok(_room) = room.acquire_many(u32::try_from(most).unwrap_or(u32::MAX)).await else { break };
        let _turn = desk.turn.lock().await;
        if call(hall, desk, Caller::Background).await.is_err() {
            break;
        }
        left -= most;
    }
    if desk.book.lock().owes() {
        desk.enlist();
    }
}

/// Gives all leases back.
pub async fn close(hall: &Arc<Hall>) {
    if hall.ledgers.is_none() {
        return;
    }
    let at = hall.moment();
    // Not those that are enlisted: a task that was ended may have taken the list with it.
    let desks = hall.all();
    for desk in &desks {
        let mut book = desk.book.lock();
        let now = book.now(at);
        book.hand_back(&now);
    }
    if tokio::time::timeout(CLOSE, tell_all(hall, desks)).await.is_err() {
        tracing::warn!("Not all leases of limits were given back in time; they expire by themselves.");
    }
}
