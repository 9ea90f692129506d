//! One rule's figures: what is committed, what is held, what is left, and when a cost would fit. Does not decide
//! about requests; `decide` weighs all rules together.
//!
//! `available = capacity - committed - held`, the two kept apart (semantics.md §3): a hold that is lost can
//! expire without ever having looked like spend.

use super::bucket::{Bucket, Rate};
use super::calendar::{Calendar, Period};
use crate::domain::limit::{Dimension, LimitRule, Mode, Window};
use crate::domain::units::{Micros, WallMicros};

/// When to try again after a concurrency refusal: nobody knows when a request will end.
pub const CONCURRENCY_RETRY: Micros = Micros(1_000_000);

/// One instant on both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// Monotonic, for buckets and holds.
    pub mono: Micros,
    /// Wall clock, for the calendar.
    pub wall: WallMicros,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Committed {
    Bucket(Bucket),
    Calendar(Calendar),
    /// Concurrency: a request is either open or gone.
    Nothing,
}

/// The state of one rule at one scope. The rule itself comes with each call, since a reload may change it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RuleState {
    committed: Committed,
    held: u64,
}

impl RuleState {
    /// Nothing committed, nothing held.
    #[must_use]
    pub fn new(rule: &LimitRule, at: Moment) -> Self {
        Self { committed: fresh(rule, at), held: 0 }
    }

    /// Brings the figures to an instant and to what the rule says by now. A rule that moved between bucket, day
    /// and month starts anew; one that only changed its figures keeps what was committed.
    pub fn follow(&mut self, rule: &LimitRule, at: Moment) {
        self.advance(at);
        match (&mut self.committed, fresh(rule, at)) {
            (Committed::Bucket(bucket), Committed::Bucket(_)) => bucket.set_rate(rate_of(rule)),
            (Committed::Calendar(old), Committed::Calendar(new)) if old.period() == new.period() => {}
            (Committed::Nothing, Committed::Nothing) => {}
            (kept, new) => *kept = new,
        }
    }

    /// Brings the figures to an instant.
    pub fn advance(&mut self, at: Moment) {
        match &mut self.committed {
            Committed::Bucket(bucket) => bucket.advance(at.mono),
            Committed::Calendar(counter) => counter.advance(at.wall),
            Committed::Nothing => {}
        }
    }

    /// Units that a request could take now.
    #[must_use]
    pub fn available(&self, rule: &LimitRule) -> u64 {
        match &self.committed {
            Committed::Bucket(bucket) => bucket.available(capacity(rule), self.held),
            Committed::Calendar(counter) => capacity(rule).saturating_sub(counter.used()).saturating_sub(self.held),
            Committed::Nothing => capacity(rule).saturating_sub(self.held),
        }
    }

    /// Time until `cost` fits if nobody else asks and every hold is used in full; `None`: never.
    #[must_use]
    pub fn wait(&self, rule: &LimitRule, cost: u64, at: Moment) -> Option<Micros> {
        if cost > capacity(rule) {
            return None;
        }
        if self.available(rule) >= cost {
            return Some(Micros(0));
        }
        match &self.committed {
            Committed::Bucket(bucket) => bucket.wait(u128::from(self.held) + u128::from(cost), capacity(rule)),
            Committed::Calendar(counter) => Some(counter.period().left(at.wall)),
            Committed::Nothing => Some(CONCURRENCY_RETRY),
        }
    }

    /// Time until the rule is as good as unused; holds count as used in full.
    #[must_use]
    pub fn full_in(&self, at: Moment) -> Micros {
        match &self.committed {
            _ if self.is_full() => Micros(0),
            Committed::Bucket(bucket) => bucket.wait(u128::from(self.held), 0).unwrap_or(Micros(u64::MAX)),
            Committed::Calendar(counter) => counter.period().left(at.wall),
            Committed::Nothing => CONCURRENCY_RETRY,
        }
    }

    /// Takes a hold.
    pub fn hold(&mut self, amount: u64) {
        self.held = self.held.saturating_add(amount);
    }

    /// Ends a hold.
    pub fn release(&mut self, amount: u64) {
        debug_assert!(amount <= self.held, "released {amount} of {} held", self.held);
        self.held = self.held.saturating_sub(amount);
    }

    /// Commits units.
    pub fn commit(&mut self, rule: &LimitRule, amount: u64) {
        match (&mut self.committed, rule.mode) {
            (Committed::Bucket(bucket), Mode::Enforce) => bucket.charge(amount),
            (Committed::Bucket(bucket), Mode::Shadow) => bucket.charge_up_to(amount, capacity(rule)),
            (Committed::Calendar(counter), _) => counter.charge(amount),
            (Committed::Nothing, _) => {}
        }
    }

    /// Units held by open requests.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// True if forgetting this state would change nothing.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let unused = match &self.committed {
            Committed::Bucket(bucket) => bucket.is_full(),
            Committed::Calendar(counter) => counter.used() == 0,
            Committed::Nothing => true,
        };
        unused && self.held == 0
    }
}

/// The most that a rule can ever give to one request. A burst is a bucket's notion; calendar and concurrency
/// know the limit alone.
#[must_use]
pub fn capacity(rule: &LimitRule) -> u64 {
    match (rule.dimension, bucket_window(rule.window)) {
        (Dimension::Requests | Dimension::Tokens, Some(_)) => rule.burst,
        _ => rule.limit,
    }
}

fn bucket_window(window: Window) -> Option<Micros> {
    match window {
        Window::Second => Some(Micros(1_000_000)),
        Window::Minute => Some(Micros(60_000_000)),
        Window::Hour => Some(Micros(3_600_000_000)),
        Window::Day | Window::Month => None,
    }
}

fn rate_of(rule: &LimitRule) -> Rate {
    Rate { limit: rule.limit, window: bucket_window(rule.window).unwrap_or(Micros(1)) }
}

fn fresh(rule: &LimitRule, at: Moment) -> Committed {
    match (rule.dimension, rule.window) {
        (Dimension::Concurrency, _) => Committed::Nothing,
        (_, Window::Day) => Committed::Calendar(Calendar::new(Period::Day, at.wall)),
        (_, Window::Month) => Committed::Calendar(Calendar::new(Period::Month, at.wall)),
        _ => Committed::Bucket(Bucket::new(rate_of(rule), at.mono)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(dimension: Dimension, limit: u64, window: Window) -> LimitRule {
        LimitRule { name: "p.x".into(), dimension, limit, window, burst: limit, strict: false, mode: Mode::Enforce }
    }

    fn at(mono: u64, wall: i64) -> Moment {
        Moment { mono: Micros(mono), wall: WallMicros(wall) }
    }

    #[test]
    fn holds_do_not_drain_with_time_and_commitments_do() {
        let rule = rule(Dimension::Tokens, 60, Window::Minute);
        let mut state = RuleState::new(&rule, at(0, 0));
        state.hold(20);
        state.commit(&rule, 40);
        state.advance(at(60_000_000, 0));
        assert_eq!(state.available(&rule), 40, "the commitment has drained, the hold has not");
        state.release(20);
        assert!(state.is_full(), "nothing is left of either");
    }

    #[test]
    fn a_day_counter_waits_for_midnight() {
        let rule = rule(Dimension::Requests, 2, Window::Day);
        let mut state = RuleState::new(&rule, at(0, 1));
        state.commit(&rule, 2);
        assert_eq!(state.wait(&rule, 1, at(0, 1)), Some(Micros(86_400_000_000 - 1)), "the rest of the day");
        state.follow(&rule, at(0, 86_400_000_000));
        assert_eq!(state.available(&rule), 2, "a new day");
    }

    #[test]
    fn concurrency_counts_open_requests_only() {
        let rule = rule(Dimension::Concurrency, 1, Window::Second);
        let mut state = RuleState::new(&rule, at(0, 0));
        state.hold(1);
        assert_eq!(state.wait(&rule, 1, at(0, 0)), Some(CONCURRENCY_RETRY), "full: try again in a second");
        state.release(1);
        assert_eq!(state.available(&rule), 1, "the request has gone and left nothing");
    }

    #[test]
    fn a_lower_limit_after_a_reload_keeps_what_was_spent() {
        let before = rule(Dimension::Requests, 100, Window::Minute);
        let after = rule(Dimension::Requests, 50, Window::Minute);
        let mut state = RuleState::new(&before, at(0, 0));
        state.commit(&before, 40);
        state.follow(&after, at(0, 0));
        assert_eq!(state.available(&after), 10, "40 of 50 are spent");
    }

    #[test]
    fn a_cost_above_the_capacity_never_fits() {
        let rule = rule(Dimension::Tokens, 10, Window::Minute);
        assert_eq!(RuleState::new(&rule, at(0, 0)).wait(&rule, 11, at(0, 0)), None, "11 of 10");
    }
}
