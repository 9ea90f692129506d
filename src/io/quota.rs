//! [`QuotaStore`] in this process: one book per tenant behind one lock, so that all rules of a request are decided
//! in one step. Decides nothing itself (`logic/quota` does), and knows no other process: replicas each count alone.

use crate::domain::ids::TenantId;
use crate::domain::limit::{Plan, QuotaAsk, QuotaUse, Scope, Standing};
use crate::domain::units::{Micros, WallMicros};
use crate::logic::quota::book::{Claim, TenantBook};
use crate::logic::quota::decide::Refused;
use crate::logic::quota::rule::Moment;
use crate::ports::{QuotaStore, Reservation, ReserveError};
use async_trait::async_trait;
use dashmap::DashMap;
use parking_lot::Mutex;
use prometheus::IntCounter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Books above which unused ones are dropped without waiting for the next [`ProcessQuota::sweep`]. Books in use
/// are never dropped, so the true bound is this plus the tenants in use.
pub const BOOKS_SOFT_MAX: usize = 16_384;

type Book = Arc<Mutex<TenantBook>>;

/// Quota of this process.
#[derive(Debug)]
pub struct ProcessQuota {
    books: DashMap<TenantId, Book>,
    hold_ttl: AtomicU64,
    sweep_at: AtomicUsize,
    shadowed: IntCounter,
}

impl ProcessQuota {
    /// No tenant has used anything yet. `hold_ttl` is `limits.hold_ttl`; `shadowed` counts how often a rule in
    /// shadow mode would have refused (`Metrics::shadow_refusals`).
    #[must_use]
    pub fn new(hold_ttl: Duration, shadowed: IntCounter) -> Self {
        Self {
            books: DashMap::new(),
            hold_ttl: AtomicU64::new(Micros::from(hold_ttl).0),
            sweep_at: AtomicUsize::new(BOOKS_SOFT_MAX),
            shadowed,
        }
    }

    /// Takes over `limits.hold_ttl` of a new configuration; plans come with each ask.
    pub fn set_hold_ttl(&self, hold_ttl: Duration) {
        self.hold_ttl.store(Micros::from(hold_ttl).0, Ordering::Relaxed);
    }

    /// Drops what is unused: books, key scopes, rules of old plans. Cheap enough for every few seconds; a book
    /// is locked for as long as it takes to look at its scopes.
    pub fn sweep(&self, now: Micros, wall: WallMicros) {
        let at = Moment { mono: now, wall };
        // Counted under the map's own lock: a book with a second owner has a request in it, or about to be.
        self.books.retain(|_, book| Arc::strong_count(book) > 1 || !book.lock().sweep(at));
    }

    /// Tenants with something committed or held, or not swept yet.
    #[must_use]
    pub fn books(&self) -> usize {
        self.books.len()
    }

    fn book(&self, tenant: &TenantId, at: Moment) -> Book {
        if let Some(book) = self.books.get(tenant) {
            return Arc::clone(&book);
        }
        if self.books.len() >= self.sweep_at.load(Ordering::Relaxed) {
            self.sweep(at.mono, at.wall);
            // Doubling keeps the cost per new tenant constant even if all books are in use.
            self.sweep_at.store((2 * self.books.len()).max(BOOKS_SOFT_MAX), Ordering::Relaxed);
        }
        Arc::clone(&self.books.entry(tenant.clone()).or_default())
    }

    /// The whole decision; never waits for anything but the tenant's own lock.
    ///
    /// # Errors
    /// [`ReserveError`]; then nothing was burnt.
    pub fn reserve_now(&self, ask: &QuotaAsk, at: Moment) -> Result<ProcessReservation, ReserveError> {
        if ask.plans.iter().all(|(_, plan)| plan.rules.is_empty() && plan.max_tokens_per_request.is_none()) {
            return Ok(ProcessReservation::unlimited());
        }
        let ttl = Micros(self.hold_ttl.load(Ordering::Relaxed));
        let book = self.book(&ask.tenant, at);
        let answer = {
            let mut open = book.lock();
            // A claim is alive while its reservation is: that is its only other owner.
            open.expire(at.mono, ttl, |claim| Arc::strong_count(claim) > 1);
            open.reserve(ask, ttl, at)
        };
        let grant = answer.map_err(|refused| match refused {
            Refused::NeverFits(asked, allowed) => ReserveError::NeverFits(asked, allowed),
            Refused::Denied(denial) => ReserveError::Denied(denial),
        })?;
        self.shadowed.inc_by(u64::from(grant.shadowed));
        Ok(ProcessReservation {
            owed: Some((book, grant.claim)),
            standings: grant.standings,
            done: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl QuotaStore for ProcessQuota {
    async fn reserve(
        &self,
        ask: QuotaAsk,
        now: Micros,
        wall: WallMicros,
    ) -> Result<Box<dyn Reservation>, ReserveError> {
        let reservation = self.reserve_now(&ask, Moment { mono: now, wall })?;
        Ok(Box::new(reservation))
    }

    fn standings(
        &self,
        tenant: &TenantId,
        plans: &[(Scope, Arc<Plan>)],
        now: Micros,
        wall: WallMicros,
    ) -> Vec<Standing> {
        if plans.iter().all(|(_, plan)| plan.rules.is_empty()) {
            return Vec::new();
        }
        let at = Moment { mono: now, wall };
        self.book(tenant, at).lock().standings(plans, at)
    }
}

/// A granted reservation. Settle it once; dropped unsettled, it gives tokens and concurrency back, and the
/// request stays counted. While it exists its hold does not expire.
#[derive(Debug)]
#[must_use = "a reservation must be settled"]
pub struct ProcessReservation {
    owed: Option<(Book, Arc<Claim>)>,
    standings: Vec<Standing>,
    done: AtomicBool,
}

impl ProcessReservation {
    fn unlimited() -> Self {
        Self { owed: None, standings: Vec::new(), done: AtomicBool::new(true) }
    }

    /// True for the one caller that ends the reservation.
    fn finish(&self) -> bool {
        !self.done.swap(true, Ordering::AcqRel)
    }
}

impl Reservation for ProcessReservation {
    fn standings(&self) -> &[Standing] {
        &self.standings
    }

    fn settle(&self, used: QuotaUse, now: Micros) {
        if let Some((book, claim)) = self.owed.as_ref().filter(|_| self.finish()) {
            book.lock().settle(claim, used, now);
        }
    }
}

impl Drop for ProcessReservation {
    fn drop(&mut self) {
        if let Some((book, claim)) = self.owed.as_ref().filter(|_| self.finish()) {
            book.lock().release(claim);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::{Dimension, LimitRule, Mode, Plan, Scope, Window};
    use crate::domain::units::Tokens;
    use std::sync::Barrier;

    const TTL: Duration = Duration::from_secs(60);

    fn quota() -> ProcessQuota {
        ProcessQuota::new(TTL, IntCounter::new("shadowed", "x").expect("a name"))
    }

    fn rule(name: &str, dimension: Dimension, limit: u64) -> LimitRule {
        LimitRule {
            name: name.into(),
            dimension,
            limit,
            window: Window::Minute,
            burst: limit,
            strict: false,
            mode: Mode::Enforce,
        }
    }

    fn ask(rules: Vec<LimitRule>, input: u64) -> QuotaAsk {
        QuotaAsk {
            tenant: "acme".into(),
            plans: vec![(Scope::Tenant("acme".into()), Arc::new(Plan { rules, max_tokens_per_request: None }))],
            model: "m".into(),
            input_estimate: Some(Tokens(input)),
            max_output: Some(Tokens(0)),
        }
    }

    fn at(mono: u64) -> Moment {
        Moment { mono: Micros(mono), wall: WallMicros(1_795_000_000_000_000 + mono as i64) }
    }

    fn used(tokens: u64) -> QuotaUse {
        QuotaUse { tokens: Some(Tokens(tokens)), output: None, refund: false }
    }

    /// Tokens left of 1000, learnt from the standing of a request that takes one.
    fn tokens_left(quota: &ProcessQuota, rules: &[LimitRule], now: u64) -> u64 {
        let probe = quota.reserve_now(&ask(rules.to_vec(), 1), at(now)).expect("one token is left");
        probe.standings()[0].remaining + 1
    }

    fn admitted_of_200(rules: Vec<LimitRule>) -> usize {
        let quota = quota();
        let (ask, barrier) = (ask(rules, 1), Barrier::new(200));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..200)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        quota.reserve_now(&ask, at(0)).ok()
                    })
                })
                .collect();
            let granted: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            granted.iter().flatten().count()
        })
    }

    #[test]
    fn two_hundred_at_once_against_room_for_ten_admit_ten() {
        for dimension in [Dimension::Requests, Dimension::Tokens, Dimension::Concurrency] {
            assert_eq!(admitted_of_200(vec![rule("p.x", dimension, 10)]), 10, "{dimension:?}");
        }
    }

    #[test]
    fn requests_that_come_and_go_at_once_leave_nothing_held() {
        let quota = quota();
        let rules = vec![rule("p.tokens", Dimension::Tokens, 1_000), rule("p.concurrency", Dimension::Concurrency, 4)];
        let ask = ask(rules, 10);
        std::thread::scope(|scope| {
            for thread in 0..8u64 {
                let (quota, ask) = (&quota, &ask);
                scope.spawn(move || {
                    for turn in 0..200 {
                        let Ok(reservation) = quota.reserve_now(ask, at(turn)) else { continue };
                        if (thread + turn) % 2 == 0 {
                            reservation.settle(used(0), Micros(turn));
                        }
                        quota.sweep(Micros(turn), at(turn).wall);
                    }
                });
            }
        });
        let all = quota.reserve_now(&QuotaAsk { input_estimate: Some(Tokens(1_000)), ..ask }, at(200));
        assert!(all.is_ok(), "every token and every slot is back: {all:?}");
    }

    #[test]
    fn settling_twice_or_settling_and_dropping_counts_once() {
        let rules = vec![rule("p.tokens", Dimension::Tokens, 1_000)];
        let quota = quota();
        let reservation = quota.reserve_now(&ask(rules.clone(), 100), at(0)).expect("fits");
        reservation.settle(used(30), Micros(0));
        reservation.settle(used(500), Micros(0));
        drop(reservation);
        assert_eq!(tokens_left(&quota, &rules, 0), 970, "the first word counts");
    }

    #[test]
    fn dropping_gives_tokens_and_slot_back_and_keeps_the_request_counted() {
        let rules = vec![
            rule("p.requests", Dimension::Requests, 2),
            rule("p.tokens", Dimension::Tokens, 100),
            rule("p.concurrency", Dimension::Concurrency, 1),
        ];
        let quota = quota();
        drop(quota.reserve_now(&ask(rules.clone(), 100), at(0)).expect("fits"));
        let second = quota.reserve_now(&ask(rules.clone(), 100), at(0)).expect("all tokens and the slot are back");
        assert_eq!(second.standings()[0].remaining, 0, "both requests are counted");
        drop(second);
        let third = quota.reserve_now(&ask(rules, 1), at(0));
        assert!(matches!(third, Err(ReserveError::Denied(d)) if d.dimension == Dimension::Requests), "two a minute");
    }

    #[test]
    fn a_reservation_that_is_alive_outlasts_the_holds_ttl() {
        let rules = vec![rule("p.concurrency", Dimension::Concurrency, 1)];
        let quota = quota();
        let long = quota.reserve_now(&ask(rules.clone(), 1), at(0)).expect("fits");
        for minute in 1..5 {
            let second = quota.reserve_now(&ask(rules.clone(), 1), at(minute * 61_000_000));
            assert!(second.is_err(), "minute {minute}: the slot is still taken");
        }
        long.settle(QuotaUse::default(), Micros(300_000_000));
        assert!(quota.reserve_now(&ask(rules, 1), at(300_000_000)).is_ok(), "and free when it ends");
    }

    #[test]
    fn books_are_dropped_when_unused_and_only_then() {
        let rules = vec![rule("p.requests", Dimension::Requests, 10)];
        let quota = quota();
        let open = quota.reserve_now(&ask(rules, 1), at(0)).expect("fits");
        quota.sweep(Micros(120_000_000), at(120_000_000).wall);
        assert_eq!(quota.books(), 1, "a request is open");
        drop(open);
        quota.sweep(Micros(1), at(1).wall);
        assert_eq!(quota.books(), 1, "its request is not refilled yet");
        quota.sweep(Micros(120_000_000), at(120_000_000).wall);
        assert_eq!(quota.books(), 0, "nothing is left to know");
    }

    #[test]
    fn a_tenant_without_a_plan_costs_nothing() {
        let quota = quota();
        let free = quota.reserve_now(&QuotaAsk { plans: vec![], ..ask(vec![], 1) }, at(0)).expect("no limits");
        free.settle(used(1), Micros(0));
        assert_eq!((free.standings().len(), quota.books()), (0, 0), "no headers, no book");
    }

    #[test]
    fn shadow_refusals_are_counted() {
        let quota = quota();
        let rules = vec![LimitRule { mode: Mode::Shadow, ..rule("p.requests", Dimension::Requests, 1) }];
        let open: Vec<_> = (0..3).map(|_| quota.reserve_now(&ask(rules.clone(), 1), at(0))).collect();
        assert!(open.iter().all(Result::is_ok), "shadow never refuses");
        assert_eq!(quota.shadowed.get(), 2, "the second and the third");
    }

    #[tokio::test]
    async fn the_port_tells_denials_and_hopeless_requests_apart() {
        let quota = quota();
        let ask = ask(vec![rule("p.tokens", Dimension::Tokens, 10)], 10);
        let at = at(0);
        let too_large = QuotaAsk { input_estimate: Some(Tokens(11)), ..ask.clone() };
        let hopeless = quota.reserve(too_large, at.mono, at.wall).await.err();
        assert_eq!(hopeless, Some(ReserveError::NeverFits(11, 10)), "larger than the bucket");
        let open = quota.reserve(ask.clone(), at.mono, at.wall).await.map_err(|e| format!("{e:?}")).expect("fits");
        open.settle(used(10), at.mono);
        let denied = quota.reserve(ask, at.mono, at.wall).await.err();
        let Some(ReserveError::Denied(denial)) = denied else { panic!("expected a denial, got {denied:?}") };
        assert_eq!((&*denial.rule, denial.scope), ("p.tokens", "tenant"), "which rule, and where");
        assert_eq!(denial.retry_after, Some(Micros(60_000_000)), "ten tokens at ten a minute");
    }
}
