//! One account as this replica has it: what is committed, what its open requests hold, and, where replicas share a
//! ledger, which units are leased and not used yet. Decides nothing about requests; `decide` weighs all rules together.
//!
//! `left = capacity - committed - out`, the two kept apart (semantics.md §3): a hold that is lost can expire without
//! ever having looked like spend. Alone, that is the truth, and what is left may be taken. Under a ledger it is how the
//! account would look by the last reply and what was done here since; only leased units may be taken.

use super::alert::{Spent, crossed};
use super::count::{CONCURRENCY_RETRY, Count};
use super::credit::{Credit, SEED_WAIT};
use super::period::Now;
use super::plan::LimitRule;
use super::share::{GRACE, grace};
use crate::domain::limit::{Dimension, Mode, Scope};
use crate::domain::units::Micros;
use std::sync::Arc;

/// Whether the shared ledger may be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// It answers, or there is none.
    Up,
    /// It does not; so many replicas were seen last.
    Down {
        /// Live replicas, at least 1.
        replicas: u64,
    },
}

/// What one request holds of one account.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The rule as it was when the request came.
    pub rule: Arc<LimitRule>,
    /// Units held in the beginning.
    pub first: u64,
    /// Units held now.
    pub held: u64,
    /// Units committed so far: of requests at once, of all else by progress.
    pub told: i64,
    /// The period that they were committed in.
    pub period: i64,
}

/// One account of this replica.
#[derive(Debug)]
pub struct Lease {
    /// Its id within the group.
    pub account: Arc<str>,
    /// Where it counts.
    pub scope: Scope,
    /// Its rule, as last seen.
    pub rule: Arc<LimitRule>,
    /// What is committed, by all replicas.
    pub(super) count: Count,
    /// What open requests of this replica hold.
    pub(super) held: u64,
    /// Open requests that hold something.
    open: u32,
    /// What it has of a ledger that replicas share; `None`: it counts alone.
    pub(super) credit: Option<Box<Credit>>,
    /// What the rows said of processes that are gone, as far as it was added; only for those that count alone.
    pub(super) past: Vec<(Arc<str>, u64)>,
    /// Since when the rows are being asked what it begins with; only for those that count alone.
    pub(super) awaits: Option<Micros>,
}

impl Lease {
    /// An account that counts alone.
    #[must_use]
    pub fn alone(account: Arc<str>, scope: Scope, rule: &Arc<LimitRule>, now: &Now) -> Self {
        let count = Count::new(rule, now);
        let (credit, past, awaits) = (None, Vec::new(), None);
        Self { account, scope, rule: Arc::clone(rule), count, held: 0, open: 0, credit, past, awaits }
    }

    /// An account of a shared ledger, of which nothing is known yet. `rows`: usage rows may know what it begins with.
    #[must_use]
    pub fn shared(account: Arc<str>, scope: Scope, rule: &Arc<LimitRule>, rows: bool, now: &Now) -> Self {
        let credit = Some(Box::new(Credit::new(rows)));
        Self { credit, ..Self::alone(account, scope, rule, now) }
    }

    /// Brings the figures to an instant and to what the rule says by now. True if it counts by other periods.
    pub fn follow(&mut self, rule: &Arc<LimitRule>, now: &Now) -> bool {
        let mut anew = false;
        if !Arc::ptr_eq(&self.rule, rule) {
            anew = self.count.follow(rule, now);
            if anew {
                self.restart();
            }
            self.rule = Arc::clone(rule);
        }
        self.advance(now);
        anew
    }

    /// How it stands, if it is a budget of which somebody may want to be told.
    #[must_use]
    pub fn spent(&self) -> Option<Spent> {
        let (rule, committed) = (&self.rule, self.count.used());
        let told = rule.dimension == Dimension::Spend && !crossed(&rule.alert_at, rule.limit, committed).is_empty();
        let period = self.count.period();
        told.then(|| Spent { scope: self.scope.clone(), rule: Arc::clone(rule), committed, period })
    }

    /// Brings the figures to an instant.
    pub fn advance(&mut self, now: &Now) {
        if self.count.advance(now) {
            self.restart();
        }
    }

    /// What was committed so far belongs to another period.
    fn restart(&mut self) {
        self.past.clear();
        if let Some(credit) = &mut self.credit {
            credit.restart();
        }
    }

    /// What all replicas have out, without what this one has leased and not used.
    fn out(&self) -> u64 {
        self.held.saturating_add(self.credit.as_ref().map_or(0, |credit| credit.others))
    }

    /// Units that a request could have that leaves `floor` to others.
    #[must_use]
    pub fn left(&self, floor: u64) -> u64 {
        self.count.left(&self.rule, self.out().saturating_add(floor))
    }

    /// Units that a request could take at once.
    pub fn room(&mut self, floor: u64, now: &Now, link: Link) -> u64 {
        let left = self.left(floor);
        let Some(credit) = &mut self.credit else { return self.blind_room(left, now, link) };
        let leased = if floor > 0 { credit.free.min(left) } else { credit.free };
        match link {
            Link::Up => leased,
            Link::Down { replicas } => {
                let shared = self.count.left(&self.rule, self.held.saturating_add(credit.others));
                leased.saturating_add(
                    credit.share_left(&self.rule, shared, replicas, now).saturating_sub(floor / replicas.max(1)),
                )
            }
        }
    }

    /// What may be taken while nobody can say what it begins with: of a budget a grace, of all else what is left by
    /// what was taken here.
    fn blind_room(&self, left: u64, now: &Now, link: Link) -> u64 {
        match (self.awaits, link) {
            (Some(since), Link::Down { .. }) if self.rule.dimension == Dimension::Spend => {
                let taken = self.count.used().saturating_add(self.held);
                let grace = if now.mono - since < GRACE { grace(&self.rule, 1) } else { 0 };
                left.min(grace.saturating_sub(taken))
            }
            _ => left,
        }
    }

    /// True if somebody else must be asked before all is known: the ledger, or the rows.
    #[must_use]
    pub fn depends(&self) -> bool {
        self.credit.is_some() || self.awaits.is_some()
    }

    /// True if the rows take so long to say what it begins with that nobody need wait for them.
    #[must_use]
    pub fn is_stuck(&self, now: &Now) -> bool {
        self.awaits.is_some_and(|since| now.mono - since >= SEED_WAIT)
            || self.credit.as_ref().is_some_and(|credit| credit.is_stuck(now))
    }

    /// Time until a cost fits; `None`: never.
    #[must_use]
    pub fn wait(&self, cost: u64, floor: u64, now: &Now) -> Option<Micros> {
        if cost.saturating_add(floor) > super::period::capacity(&self.rule) {
            return None;
        }
        let taken = self.out().saturating_add(cost).saturating_add(floor);
        let wait = self.count.wait(&self.rule, taken, now);
        // Only what is held is in the way: it comes back when requests end, not with the next period.
        let held = matches!(self.count, Count::Calendar(..)) && self.count.left(&self.rule, floor) >= cost;
        if held { Some(wait.map_or(CONCURRENCY_RETRY, |wait| wait.min(CONCURRENCY_RETRY))) } else { wait }
    }

    /// Time until the account is as good as unused; what is out counts as used in full.
    #[must_use]
    pub fn full_in(&self, now: &Now) -> Micros {
        self.count.full_in(self.out(), now)
    }

    /// Takes units for a request: requests are counted at once, all else is held until it ends.
    pub fn take(&mut self, rule: &Arc<LimitRule>, amount: u64, now: &Now) -> Hold {
        if let Some(credit) = &mut self.credit {
            credit.demand.add(amount, now);
        }
        self.open += 1;
        let (rule, period) = (Arc::clone(rule), self.count.period());
        if rule.dimension == Dimension::Requests {
            let told = self.commit(&rule, signed(amount));
            return Hold { rule, first: 0, held: 0, told, period };
        }
        self.hold(amount);
        Hold { rule, first: amount, held: amount, told: 0, period }
    }

    /// Counts what a running request has used so far, instead of its hold. True if the account is used up and there is
    /// nothing left for this request.
    pub fn progress(&mut self, hold: &mut Hold, used: u64, now: &Now) -> bool {
        self.advance(now);
        self.forget_old(hold);
        let left = hold.first.saturating_sub(used).min(hold.held);
        self.unhold(hold.held - left);
        hold.held = left;
        let delta = (signed(used) - hold.told).max(0);
        hold.told += delta;
        self.commit(&hold.rule, delta);
        let free = self.credit.as_ref().map_or(0, |credit| credit.free);
        hold.held == 0 && free == 0 && self.left(0) == 0
    }

    /// Ends a hold and commits what was really used in all.
    pub fn settle(&mut self, hold: &mut Hold, used: u64, now: &Now) {
        self.advance(now);
        self.forget_old(hold);
        self.release(hold);
        if hold.rule.dimension.is_settled() {
            self.commit(&hold.rule, signed(used) - hold.told);
        }
    }

    /// Ends a hold as if it had never been taken: what was counted at once or by progress is taken back too.
    pub fn cancel(&mut self, hold: &mut Hold, now: &Now) {
        self.advance(now);
        self.forget_old(hold);
        self.release(hold);
        self.commit(&hold.rule, -hold.told);
    }

    /// Ends a hold; what was counted at once or by progress stays.
    pub fn release(&mut self, hold: &mut Hold) {
        self.unhold(hold.held);
        hold.held = 0;
        self.open = self.open.saturating_sub(1);
    }

    /// What was committed in a period that is over counts no more: all belongs to the one in which the request ends.
    fn forget_old(&self, hold: &mut Hold) {
        if hold.period != self.count.period() {
            hold.period = self.count.period();
            hold.told = 0;
        }
    }

    fn hold(&mut self, amount: u64) {
        self.held = self.held.saturating_add(amount);
        if let Some(credit) = &mut self.credit {
            credit.spend(amount);
        }
    }

    fn unhold(&mut self, amount: u64) {
        debug_assert!(amount <= self.held, "released {amount} of {} held", self.held);
        self.held = self.held.saturating_sub(amount);
        if let Some(credit) = &mut self.credit {
            credit.free = credit.free.saturating_add(amount);
        }
    }

    /// Gives what was committed.
    fn commit(&mut self, rule: &LimitRule, delta: i64) -> i64 {
        let delta = match (rule.mode, &self.count) {
            // A rule that only watches must not pile up a debt that hits callers when it is switched to enforcing.
            (Mode::Shadow, Count::Bucket(..)) => delta.min(signed(self.count.left(rule, 0))),
            _ => delta,
        };
        self.count.commit(delta);
        if let Some(credit) = &mut self.credit {
            credit.commit(delta);
        }
        delta
    }

    /// Adds what the rows say of a process that is gone, in place of what they said before. Gives the change.
    pub fn correct(&mut self, replica: &Arc<str>, total: u64) -> i64 {
        let place = self.past.iter().position(|(name, _)| name == replica).unwrap_or_else(|| {
            self.past.push((Arc::clone(replica), 0));
            self.past.len() - 1
        });
        let change = signed(total) - signed(self.past[place].1);
        self.past[place].1 = total;
        self.count.commit(change);
        change
    }

    /// Counts what the rows say that this process has committed itself, where it knows of less: it did so before the
    /// account was made, or changed its calendar. (Of more it often knows: rows come later.) Gives the change.
    pub fn own(&mut self, total: u64) -> i64 {
        let change = signed(total).saturating_sub(self.total()).max(0);
        self.count.commit(change);
        if let Some(credit) = &mut self.credit {
            credit.total = credit.total.saturating_add(change);
        }
        change
    }

    /// The period that counts; 0 where no calendar does.
    #[must_use]
    pub fn period(&self) -> i64 {
        self.count.period()
    }

    /// What is committed, all replicas together, as far as it is known here.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.count.used()
    }

    /// What open requests hold.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.held
    }

    /// What this replica has committed itself, as far as that is known apart.
    #[must_use]
    pub fn total(&self) -> i64 {
        let past: u64 = self.past.iter().map(|(_, total)| *total).sum();
        self.credit.as_ref().map_or_else(|| signed(self.count.used()) - signed(past), |credit| credit.total)
    }

    /// True if forgetting this account would change nothing.
    #[must_use]
    pub fn is_unused(&self, now: &Now, ttl: Micros) -> bool {
        let idle = self
            .credit
            .as_ref()
            .is_none_or(|credit| credit.is_idle(matches!(self.count, Count::Calendar(..)), now, ttl));
        let unused = self.credit.is_some() || (self.count.used() == 0 && self.awaits.is_none());
        self.open == 0 && self.held == 0 && unused && idle
    }
}

/// Amounts are far below 2^63.
fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
