//! What a replica has of one account of the shared ledger: units leased and not used, what it has committed, what it
//! last heard, and what its waiting requests lack. Decides how much to ask for and what to give back; the ledger decides
//! what is granted.

use super::count::Count;
use super::ledger::{Kind, Reply, Statement};
use super::period::{Now, Starts, bucket_ms, capacity};
use super::plan::LimitRule;
use super::share::Share;
use crate::domain::limit::Dimension;
use crate::domain::units::Micros;
use std::sync::Arc;

/// How long a ledger that had nothing left is not asked again, unless what drains meanwhile is enough.
pub const DRY: Micros = Micros(100_000);
/// Nothing is given back for so long that a request needs which waits for something else.
const KEEP: Micros = Micros(25_000);
/// Figures that callers are told are no older than this and the time until the ledger is told of changes, if somebody
/// has looked at them before.
const STALE: Micros = Micros(1_000_000);
/// Requests wait for so long for what an account begins with.
pub(super) const SEED_WAIT: Micros = Micros(20_000);
/// A lease is good for about this long at the account's own rate.
const LEASE_MS: u64 = 100;
/// Accounts without a rate of their own lease this many times what the last 100 ms took.
const SLOTS_AHEAD: u64 = 4;
/// A ledger that is so far behind this replica's calendar has another day, and is right.
const CLOCKS_APART_MS: i64 = 5_000;

/// What was taken lately, in steps of [`LEASE_MS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    step: u64,
    present: u64,
    before: u64,
}

impl Demand {
    /// Something was taken.
    pub fn add(&mut self, amount: u64, now: &Now) {
        self.advance(now);
        self.present = self.present.saturating_add(amount);
    }

    /// The larger of this step and the one before.
    #[must_use]
    pub fn recent(&self, now: &Now) -> u64 {
        let mut seen = *self;
        seen.advance(now);
        seen.present.max(seen.before)
    }

    fn advance(&mut self, now: &Now) {
        let step = now.mono.millis() / LEASE_MS;
        if step == self.step {
            return;
        }
        self.before = if step == self.step + 1 { self.present } else { 0 };
        (self.step, self.present) = (step, 0);
    }
}

/// What an account begins with, where the ledger does not know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Seeding {
    /// Not asked.
    #[default]
    Unknown,
    /// The ledger wants it, since then; the rows are being asked.
    Wanted(Micros),
    /// This much.
    Known(u64),
}

/// A statement that is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    total: i64,
    trimmed: i64,
    out: u64,
    want: u64,
}

/// What waiting requests lack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Wanted {
    least: u64,
    full: u64,
    floor: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Credit {
    /// Units leased and not used.
    pub free: u64,
    /// What other replicas have out, as last heard.
    pub others: u64,
    /// All that this replica has committed.
    pub total: i64,
    /// What was taken lately.
    pub demand: Demand,
    /// What it begins with.
    pub seeding: Seeding,
    /// Waits in the book's list of accounts to state.
    pub queued: bool,
    /// Near its limit: stated more often.
    pub tight: bool,
    acked: i64,
    known_out: u64,
    wanted: Wanted,
    dry_until: Micros,
    kept_until: Micros,
    stated: Option<Micros>,
    share: Option<Share>,
    rows: bool,
}

impl Credit {
    /// Nothing is known yet. Without `rows` an account that the ledger does not know begins at 0.
    #[must_use]
    pub fn new(rows: bool) -> Self {
        Self { rows, seeding: if rows { Seeding::Unknown } else { Seeding::Known(0) }, ..Self::default() }
    }

    /// Units are used: leased ones first, then what this replica may have without the ledger.
    pub fn spend(&mut self, amount: u64) {
        let leased = amount.min(self.free);
        self.free -= leased;
        if let Some(share) = self.share.as_mut().filter(|_| amount > leased) {
            share.spend(amount - leased);
        }
    }

    /// Units are committed, out of what is free as far as that goes.
    pub fn commit(&mut self, delta: i64) {
        self.total = self.total.saturating_add(delta);
        if let Ok(amount) = u64::try_from(delta) {
            self.spend(amount);
        }
        if let Some(share) = &mut self.share {
            share.commit(delta);
        }
    }

    /// A new period: what was committed belongs to the old one.
    pub fn restart(&mut self) {
        (self.total, self.acked) = (0, 0);
        if let Some(share) = &mut self.share {
            share.restart();
        }
    }

    /// What may be taken beyond the leases while the ledger is away. `left`: what was left of the account as a whole.
    pub fn share_left(&mut self, rule: &LimitRule, left: u64, replicas: u64, now: &Now) -> u64 {
        let unstated = u64::try_from(self.total - self.acked).unwrap_or(0);
        let share = self
            .share
            .get_or_insert_with(|| Share::open(rule, left.saturating_sub(self.free), replicas, (unstated, now)));
        share.left(now)
    }

    /// Time until a cost fits into that.
    #[must_use]
    pub fn share_wait(&self, cost: u64) -> Option<Micros> {
        self.share.as_ref().and_then(|share| share.wait(cost.saturating_sub(self.free)))
    }

    /// True if the ledger had nothing left a moment ago.
    #[must_use]
    pub fn is_dry(&self, now: &Now) -> bool {
        now.mono < self.dry_until
    }

    /// A request waits for something else, and needs what is here as well.
    pub fn keep(&mut self, now: Micros) {
        self.kept_until = now + KEEP;
    }

    /// A request waits for units.
    pub fn want(&mut self, least: u64, full: u64, floor: u64) {
        let first = self.wanted.full == 0;
        self.wanted.least = if first { least } else { self.wanted.least.min(least) };
        self.wanted.floor = if first { floor } else { self.wanted.floor.min(floor) };
        self.wanted.full = self.wanted.full.saturating_add(full);
    }

    /// True if the ledger may remember something of this replica.
    #[must_use]
    pub fn was_told(&self) -> bool {
        self.stated.is_some()
    }

    /// Whoever waited asks anew.
    pub fn forget_wants(&mut self) {
        self.wanted = Wanted::default();
    }

    /// True if some request waits.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.wanted.full > 0
    }

    /// A call was not answered: the ledger may have granted what nobody here knows of.
    pub fn doubt(&mut self) {
        self.known_out = u64::MAX;
    }

    /// True if the ledger does not know how things are, or may get something back.
    #[must_use]
    pub fn is_dirty(&self, held: u64) -> bool {
        self.total != self.acked || self.known_out != held || self.free > 0
    }

    /// True if what is out must be stated again, or it will expire.
    #[must_use]
    pub fn is_old(&self, held: u64, now: &Now, age: Micros) -> bool {
        let out = self.free.saturating_add(held).max(self.known_out);
        out > 0 && self.stated.is_none_or(|at| now.mono - at >= age)
    }

    /// True if what the ledger said last is too old to be told to callers, and it can be asked.
    #[must_use]
    pub fn is_stale(&self, now: &Now) -> bool {
        !self.is_unseeded() && self.stated.is_none_or(|at| now.mono - at >= STALE)
    }

    /// True if nothing is lost when this is forgotten: the ledger knows all and has forgotten this replica's part.
    #[must_use]
    pub fn is_idle(&self, keeps_total: bool, now: &Now, ttl: Micros) -> bool {
        let told = if keeps_total { self.total == 0 } else { self.total == self.acked };
        let long = self.stated.is_none_or(|at| now.mono - at > ttl);
        told && long && !self.is_wanted() && self.free == 0 && self.known_out == 0
    }

    /// Units that are handy to have: what the last moments took, or what the account's rate gives in that time.
    fn handy(&self, rule: &LimitRule, now: &Now) -> u64 {
        let recent = self.demand.recent(now);
        match bucket_ms(rule.window).filter(|_| rule.dimension != Dimension::Concurrency) {
            Some(window) => recent.max(rule.limit.saturating_mul(LEASE_MS) / window),
            None => recent.saturating_mul(SLOTS_AHEAD),
        }
    }

    /// Gives back what is more than handy; gives what is missing to it. Near the limit, and when nothing was taken lately,
    /// nothing is handy.
    fn trim(&mut self, handy: u64, now: &Now) -> u64 {
        if now.mono < self.kept_until {
            return 0;
        }
        let recent = self.demand.recent(now);
        let keep = if recent == 0 || self.tight { recent } else { handy };
        self.free = self.free.min(keep);
        if keep == handy && self.free < handy / 2 { handy - self.free } else { 0 }
    }

    /// Says how things are and asks for what is lacking; gives back what is not needed.
    pub fn state(&mut self, about: &About<'_>, now: &Now) -> (Statement, Sent) {
        let (rule, handy) = (about.rule, self.handy(about.rule, now));
        let wanted = std::mem::take(&mut self.wanted);
        let want = wanted.full.saturating_sub(self.free);
        let mut least = wanted.least.saturating_sub(self.free).min(want);
        let mut spare = 0;
        if want > 0 {
            // A request that has its least and would like more takes what there is.
            least = least.max(1);
            spare = handy;
        } else if self.share.is_none() {
            spare = self.trim(handy, now);
        }
        let trimmed = self.share.as_mut().map_or(0, |share| share.forgiven(self.total - self.acked, now));
        let sent = Sent { total: self.total - trimmed, trimmed, out: self.free.saturating_add(about.held), want };
        let statement = Statement {
            account: Arc::clone(about.account),
            kind: kind(rule, about.starts),
            capacity: capacity(rule),
            total: sent.total,
            acked: self.acked,
            period: about.count.period(),
            outstanding: sent.out,
            least,
            want,
            spare,
            floor: if want > 0 { wanted.floor } else { rule.reserve.saturating_mul(2) },
            seed: match self.seeding {
                Seeding::Known(level) => Some(level.max(self.told_level(about.count))),
                Seeding::Unknown | Seeding::Wanted(_) => None,
            },
        };
        (statement, sent)
    }

    /// What a bucket held by the ledger's last word, as far as it has not drained: rows come when requests end, and do not
    /// know of those that run.
    fn told_level(&self, count: &Count) -> u64 {
        let unstated = u64::try_from(self.total - self.acked).unwrap_or(0);
        if let Count::Bucket(_, level) = count { level.units.saturating_sub(unstated) } else { 0 }
    }

    /// Takes over what the ledger said.
    pub fn heard(&mut self, sent: &Sent, reply: &Reply, count: &mut Count, now: &Now) {
        self.stated = Some(now.mono);
        self.total -= sent.trimmed;
        self.share = None;
        if self.rows {
            // What is known by now is old when the ledger asks again.
            self.seeding = Seeding::Unknown;
        }
        self.acked = sent.total;
        self.others = reply.others;
        self.free = self.free.saturating_add(reply.granted);
        self.known_out = sent.out.saturating_add(reply.granted);
        self.dry_until = if reply.granted < sent.want { now.mono + DRY } else { Micros(0) };
        let since = self.total - sent.total;
        match count {
            Count::Bucket(_, level) => {
                (level.units, level.drained, level.at) = (reply.committed, reply.drained, now.mono_ms());
                level.commit(since);
            }
            Count::Calendar(_, sum) if reply.period == sum.period => {
                sum.used = reply.committed.saturating_add_signed(since);
            }
            Count::Calendar(_, sum) if reply.period > sum.period => {
                (sum.period, sum.used) = (reply.period, reply.committed);
                self.restart();
            }
            // This replica's clock is a little ahead; the ledger's will soon be there.
            Count::Calendar(_, sum) if sum.period - reply.now_ms <= CLOCKS_APART_MS => {}
            Count::Calendar(_, sum) => {
                (sum.period, sum.used) = (reply.period, reply.committed.saturating_add_signed(self.total));
                self.acked = 0;
            }
            Count::Slots => {}
        }
    }

    /// Judges how near the limit is, by what is left of the account.
    pub fn judge(&mut self, rule: &LimitRule, left: u64, replicas: u64, now: &Now) {
        self.tight = left < self.handy(rule, now).saturating_mul(4).saturating_mul(replicas).max(1);
    }

    /// The seed came from rows that have what this replica committed before: a bucket must not count that twice.
    pub fn seed(&mut self, level: u64, rows_have_mine: bool) {
        self.seeding = Seeding::Known(level);
        if rows_have_mine {
            self.acked = self.total;
        }
    }

    /// Keeps nothing that is not held.
    pub fn hand_back(&mut self) {
        (self.free, self.demand) = (0, Demand::default());
    }

    /// The ledger does not know this account. True if it has known it within `ttl`: later, it may have been right to
    /// forget it.
    pub fn unknown(&mut self, now: &Now, ttl: Micros) -> bool {
        self.seeding = Seeding::Wanted(now.mono);
        self.stated.take().is_some_and(|at| now.mono - at <= ttl)
    }

    /// True while the account's beginning is being asked of the rows.
    #[must_use]
    pub fn is_unseeded(&self) -> bool {
        matches!(self.seeding, Seeding::Wanted(_))
    }

    /// True if the rows take so long that nobody need wait for them.
    #[must_use]
    pub fn is_stuck(&self, now: &Now) -> bool {
        matches!(self.seeding, Seeding::Wanted(since) if now.mono - since >= SEED_WAIT)
    }

    /// True, and nothing is asked for any more, while the ledger cannot be told what the account begins with.
    pub fn is_put_off(&mut self) -> bool {
        let unseeded = self.is_unseeded();
        if unseeded {
            self.forget_wants();
            self.queued = false;
        }
        unseeded
    }

    /// What this replica has out by the ledger's last word.
    #[must_use]
    pub fn known_out(&self) -> u64 {
        self.known_out
    }
}

/// What a statement is about.
pub struct About<'a> {
    /// The account's id.
    pub account: &'a Arc<str>,
    /// Its rule.
    pub rule: &'a LimitRule,
    /// What is committed, as far as it is known here.
    pub count: &'a Count,
    /// What open requests hold.
    pub held: u64,
    /// The periods around now.
    pub starts: Starts,
}

/// How the ledger counts a rule.
#[must_use]
pub fn kind(rule: &LimitRule, starts: Starts) -> Kind {
    match (rule.dimension, bucket_ms(rule.window)) {
        (Dimension::Concurrency, _) => Kind::Slots,
        (_, Some(window_ms)) => Kind::Bucket { limit: rule.limit, window_ms },
        (_, None) => Kind::Calendar { starts },
    }
}

#[cfg(test)]
mod tests {
    use super::super::book::{Book, Flight, Home};
    use super::super::ledger::{Call, Ledger};
    use super::super::period::Moment;
    use super::*;
    use crate::domain::limit::{Scope, Window};
    use crate::domain::units::WallMicros;

    /// A book with one account, and the ledger that it is under.
    struct Pair {
        book: Book,
        ledger: Ledger,
        rule: Arc<LimitRule>,
    }

    fn at(seconds: u64) -> Moment {
        Moment {
            mono: Micros(seconds * 1_000_000),
            wall: WallMicros(1_795_000_000_000_000 + seconds as i64 * 1_000_000),
        }
    }

    impl Pair {
        fn new(dimension: Dimension, rows: bool) -> Self {
            let rule = Arc::new(LimitRule::new("gold.x", dimension, 100, Window::Day));
            let book = Book::new(Home::Ledger, Micros(60_000_000), rows);
            Self { book, ledger: Ledger::default(), rule }
        }

        fn account(&mut self, seconds: u64) -> super::super::book::Place {
            let now = self.book.now(at(seconds));
            self.book.find(&Scope::Tenant("acme".into()), &self.rule, &now)
        }

        /// A request lacks units, and the ledger is asked; what is said, and what it answers.
        fn ask(&mut self, units: u64, seconds: u64) -> (Flight, Vec<Reply>) {
            let place = self.account(seconds);
            self.book.want(place, (units, units), 0);
            let now = self.book.now(at(seconds));
            let flight = self.book.flight(&now);
            let replies = self.apply(&flight, seconds);
            (flight, replies)
        }

        fn apply(&mut self, flight: &Flight, seconds: u64) -> Vec<Reply> {
            let call = Call { replica: "here", ttl_ms: 60_000, replicas: 1, statements: &flight.statements };
            self.ledger.state(&call, at(seconds).wall.0 / 1_000)
        }
    }

    #[test]
    fn a_ledger_that_is_lost_again_is_told_its_beginning_anew() {
        let mut pair = Pair::new(Dimension::Requests, true);
        let (flight, replies) = pair.ask(1, 0);
        let landed = pair.book.land(&flight, &replies, 1, at(0));
        assert_eq!(landed.unknown.len(), 1, "it asks what the day began with");
        let now = pair.book.now(at(0));
        pair.book.seed("tenant|gold.x", 90, true, &now);
        let (flight, replies) = pair.ask(1, 1);
        assert_eq!(replies[0].committed, 90, "it is told");
        pair.book.land(&flight, &replies, 1, at(1));
        pair.ledger = Ledger::default();
        let (flight, replies) = pair.ask(1, 2);
        assert!(replies[0].fresh, "what was used since is not in that seed: {replies:?}");
        let landed = pair.book.land(&flight, &replies, 1, at(2));
        assert!(landed.lost && landed.unknown.len() == 1, "so the rows are asked again");
    }

    #[test]
    fn a_bucket_that_was_lost_begins_no_lower_than_a_replica_knows() {
        let mut pair = Pair::new(Dimension::Requests, true);
        pair.rule = Arc::new(LimitRule::new("gold.x", Dimension::Requests, 100, Window::Minute));
        let (flight, replies) = pair.ask(1, 0);
        pair.book.land(&flight, &replies, 1, at(0));
        let now = pair.book.now(at(0));
        pair.book.seed("tenant|gold.x", 0, true, &now);
        let (flight, replies) = pair.ask(80, 0);
        pair.book.land(&flight, &replies, 1, at(0));
        let (place, rule) = (pair.account(0), Arc::clone(&pair.rule));
        let lease = pair.book.lease(place).expect("it is there");
        let _eighty = lease.take(&rule, 80, &now);
        let (flight, replies) = pair.ask(1, 0);
        assert_eq!(replies[0].committed, 80, "the ledger is told");
        pair.book.land(&flight, &replies, 1, at(0));
        pair.ledger = Ledger::default();
        let (flight, replies) = pair.ask(1, 0);
        pair.book.land(&flight, &replies, 1, at(0));
        // They all run still: no row knows of them.
        pair.book.seed("tenant|gold.x", 0, true, &now);
        let lease = pair.book.lease(place).expect("it is there");
        let _one_more = lease.take(&rule, 1, &now);
        let (_, replies) = pair.ask(1, 0);
        assert_eq!(replies[0].committed, 81, "none is forgotten, and none counts twice");
    }

    #[test]
    fn units_of_an_answer_that_was_lost_go_back_at_once() {
        let mut pair = Pair::new(Dimension::Concurrency, false);
        let (flight, replies) = pair.ask(10, 0);
        assert_eq!(replies[0].granted, 10, "the ledger has debited them");
        let now = pair.book.now(at(0));
        pair.book.crash(&flight, &now);
        assert!(pair.book.owes(), "the replica does not know, and says how it is");
        let flight = pair.book.flight(&now);
        pair.apply(&flight, 0);
        let place = pair.account(0);
        let whole = LimitRule::new("gold.x", Dimension::Concurrency, 100, Window::Day);
        let other = Statement {
            account: pair.book.lease(place).map(|lease| Arc::clone(&lease.account)).expect("it is there"),
            kind: Kind::Slots,
            ..flight.statements[0].clone()
        };
        let all = Statement { least: whole.limit, want: whole.limit, ..other };
        let call = Call { replica: "there", ttl_ms: 60_000, replicas: 1, statements: &[all] };
        assert_eq!(pair.ledger.state(&call, at(0).wall.0 / 1_000)[0].granted, 100, "nobody has anything");
    }
}
