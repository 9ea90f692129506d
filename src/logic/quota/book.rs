//! A group's accounts as this replica has them, and the output estimates of its tenant. Finds an account for a rule at
//! a scope, and keeps what has changed for the ledger. One book is changed by one caller at a time; `io/quota` sees to
//! that.

use super::alert::Spent;
use super::credit::{About, Credit, Sent};
use super::estimate::Estimates;
use super::lease::{Hold, Lease};
use super::ledger::{Kind, Reply, Statement};
use super::period::{Calendar, Moment, Now, Starts, account_id};
use super::plan::LimitRule;
use crate::domain::limit::Scope;
use crate::domain::units::Micros;
use jiff::tz::TimeZone;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Scopes of a group above which unused accounts are dropped. Ones in use are never dropped (that would hand out a
/// fresh quota), so the true bound is this plus the scopes that are in use.
pub const SCOPES_SOFT_MAX: usize = 1_024;
/// Most statements of one call.
pub const CALL_MAX: usize = 64;
/// Requests that wait for the ledger at one book; further ones do without it.
pub const BOOK_WAITERS_MAX: usize = 1_024;
/// Accounts that nobody waits for, in a call that somebody waits for.
const ALONG_MAX: usize = 16;

/// An account's place in its book, as long as a request holds something of it or the book stays locked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place(usize);

/// Whether accounts count alone or under a shared ledger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Home {
    /// Alone.
    Here,
    /// Under a ledger.
    Ledger,
}

/// A call that is on its way.
#[derive(Debug, Default)]
pub struct Flight {
    /// What it says.
    pub statements: Vec<Statement>,
    sent: Vec<(Arc<str>, Place, Sent)>,
}

/// The accounts of one group.
#[derive(Debug)]
pub struct Book {
    home: Home,
    calendar: Calendar,
    /// Its time zone has changed, and the accounts have not heard of it.
    moved: bool,
    /// By how much the ledger's clock is ahead of the wall clock here.
    ahead_ms: i64,
    scopes: FxHashMap<Scope, Vec<Place>>,
    leases: Vec<Option<Lease>>,
    vacant: Vec<Place>,
    /// Output estimates of the tenant.
    pub estimates: Estimates,
    /// Number of scopes at which unused accounts are looked for again.
    evict_at: usize,
    /// Accounts that requests wait for.
    asked: Vec<Place>,
    /// Accounts that have something to tell.
    changed: Vec<Place>,
    changed_since: Option<Micros>,
    tight: bool,
    /// Accounts that count alone and whose beginning the rows may know.
    unseeded: Vec<Place>,
    /// Budgets of which somebody may want to be told; taken after each use of the book.
    spent: Vec<Spent>,
    ttl: Micros,
    /// There are rows that may know the beginning of accounts.
    rows: bool,
    /// Live replicas when the ledger answered last.
    pub(super) replicas: u64,
}

/// What came of a call.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Landed {
    /// Accounts that the ledger does not know and wants to know the beginning of.
    pub unknown: Vec<Arc<str>>,
    /// The ledger has forgotten something that it was told.
    pub lost: bool,
    /// Accounts in which a replica has fallen silent.
    pub swept: Vec<Arc<str>>,
}

impl Book {
    /// An empty book. `ttl`: the ledger forgets what a silent replica has out after so long. `rows`: usage rows can
    /// be asked what accounts begin with.
    #[must_use]
    pub fn new(home: Home, ttl: Micros, rows: bool) -> Self {
        Self {
            home,
            calendar: Calendar::default(),
            moved: false,
            ahead_ms: 0,
            scopes: FxHashMap::default(),
            leases: Vec::new(),
            vacant: Vec::new(),
            estimates: Estimates::default(),
            evict_at: 0,
            asked: Vec::new(),
            changed: Vec::new(),
            changed_since: None,
            tight: false,
            unseeded: Vec::new(),
            spent: Vec::new(),
            ttl,
            rows,
            replicas: 1,
        }
    }

    /// Takes over the time zone in which days and months begin.
    pub fn set_zone(&mut self, zone: &TimeZone) {
        self.moved |= self.calendar.set_zone(zone);
    }

    /// An instant as this book's accounts see it.
    pub fn now(&mut self, moment: Moment) -> Now {
        let now = self.calendar.at(moment, self.ahead_ms);
        if std::mem::take(&mut self.moved) {
            (0..self.leases.len()).for_each(|at| self.begin_anew(Place(at), &now));
        }
        now
    }

    /// An account counts by other periods: has the rows asked what has been committed in the present one.
    fn begin_anew(&mut self, place: Place, now: &Now) {
        let (rows, ttl) = (self.rows, self.ttl);
        let Some(lease) = self.lease(place).filter(|lease| rows && lease.rule.when.is_none()) else { return };
        lease.advance(now);
        if matches!(lease.kind(now), Kind::Calendar { .. }) {
            lease.unknown(now, ttl);
            self.unseeded.push(place);
        }
    }

    /// Drops unused accounts where there are many scopes. Not while places of a request are in somebody's hands: another
    /// account would take the place of one that is dropped.
    pub fn make_room(&mut self, now: &Now) {
        if self.scopes.len() >= self.evict_at.max(SCOPES_SOFT_MAX) {
            self.sweep(now);
            // Doubling keeps the search for unused scopes cheap per request even if all are in use.
            self.evict_at = 2 * self.scopes.len();
        }
    }

    /// The account of a rule at a scope, brought to the present; made if there is none.
    pub fn find(&mut self, scope: &Scope, rule: &Arc<LimitRule>, now: &Now) -> Place {
        let known = self.scopes.get(scope).and_then(|places| {
            let is_it = |lease: &Lease| Arc::ptr_eq(&lease.rule, rule) || lease.rule.name == rule.name;
            places.iter().copied().find(|place| self.leases[place.0].as_ref().is_some_and(is_it))
        });
        match known {
            Some(place) => {
                if self.lease(place).is_some_and(|lease| lease.follow(rule, now)) {
                    self.begin_anew(place, now);
                }
                place
            }
            None => self.open(scope, rule, now),
        }
    }

    fn open(&mut self, scope: &Scope, rule: &Arc<LimitRule>, now: &Now) -> Place {
        let account: Arc<str> = account_id(scope, &rule.name).into();
        let known = self.rows && rule.when.is_none();
        let mut lease = match self.home {
            Home::Here => Lease::alone(account, scope.clone(), rule, now),
            Home::Ledger => Lease::shared(account, scope.clone(), rule, known, now),
        };
        let awaits = self.home == Home::Here && known && matches!(lease.kind(now), Kind::Calendar { .. });
        lease.awaits = awaits.then_some(now.mono);
        let place = self.vacant.pop().unwrap_or_else(|| {
            self.leases.push(None);
            Place(self.leases.len() - 1)
        });
        self.leases[place.0] = Some(lease);
        self.scopes.entry(scope.clone()).or_default().push(place);
        if awaits {
            self.unseeded.push(place);
        }
        place
    }

    /// An account, if there still is one at this place.
    pub fn lease(&mut self, place: Place) -> Option<&mut Lease> {
        self.leases.get_mut(place.0).and_then(Option::as_mut)
    }

    /// Every account.
    pub fn leases(&mut self) -> impl Iterator<Item = &mut Lease> {
        self.leases.iter_mut().flatten()
    }

    /// An account by its id.
    pub fn named(&mut self, account: &str) -> Option<&mut Lease> {
        self.leases().find(|lease| &*lease.account == account)
    }

    /// Drops unused accounts. True if nothing is left that another request could miss. (Estimates are not missed: they
    /// are learnt anew.)
    pub fn sweep(&mut self, now: &Now) -> bool {
        let Self { scopes, leases, vacant, ttl, .. } = self;
        scopes.retain(|_, places| {
            places.retain(|place| {
                let Some(lease) = &mut leases[place.0] else { return false };
                lease.advance(now);
                let unused = lease.is_unused(now, *ttl);
                if unused {
                    leases[place.0] = None;
                    vacant.push(*place);
                }
                !unused
            });
            !places.is_empty()
        });
        self.scopes.is_empty()
    }

    /// Notes that an account has something to tell the ledger. True if the book had nothing to tell before.
    pub fn touch(&mut self, place: Place, now: &Now) -> bool {
        let Some(lease) = self.leases.get_mut(place.0).and_then(Option::as_mut) else { return false };
        let held = lease.held;
        let Some(credit) = lease.credit.as_mut().filter(|credit| !credit.queued && credit.is_dirty(held)) else {
            return false;
        };
        credit.queued = true;
        self.changed.push(place);
        let first = self.changed_since.is_none();
        self.changed_since.get_or_insert(now.mono);
        first
    }

    /// Notes that somebody looks at an account: what was heard of it long ago is to be heard anew.
    pub fn look(&mut self, place: Place, now: &Now) {
        let credit = self.lease(place).and_then(|lease| lease.credit.as_mut());
        let Some(credit) = credit.filter(|credit| !credit.queued && credit.is_stale(now)) else { return };
        credit.queued = true;
        self.changed.push(place);
        self.changed_since.get_or_insert(now.mono);
    }

    /// Notes that a request waits for units of an account.
    pub fn want(&mut self, place: Place, (least, full): (u64, u64), floor: u64) {
        let Some(credit) = self.lease(place).and_then(|lease| lease.credit.as_mut()) else { return };
        let first = !credit.is_wanted();
        credit.want(least, full, floor);
        if first {
            self.asked.push(place);
        }
    }

    /// Since when the book has had something to tell, and whether an account of it is near its limit.
    #[must_use]
    pub fn due(&self) -> Option<(Micros, bool)> {
        self.changed_since.map(|since| (since, self.tight))
    }

    /// True if a request waits for units.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }

    /// Accounts with something to tell.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.changed.len()
    }

    /// True if there is something to tell the ledger.
    #[must_use]
    pub fn owes(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The next call: what requests wait for, and some of what has changed; or, if nobody waits, all that has changed.
    pub fn flight(&mut self, now: &Now) -> Flight {
        self.flight_of(CALL_MAX, now)
    }

    /// The same; if nobody waits, with no more than so many accounts.
    pub fn flight_of(&mut self, most: usize, now: &Now) -> Flight {
        let mut places: Vec<Place> = self.asked.drain(..self.asked.len().min(CALL_MAX)).collect();
        let along = if places.is_empty() { most } else { ALONG_MAX.min(CALL_MAX - places.len()) };
        places.extend(self.changed.drain(..self.changed.len().min(along)));
        if self.changed.is_empty() {
            (self.changed_since, self.tight) = (None, false);
        }
        let mut flight = Flight::default();
        for place in places {
            let Some(lease) = self.leases.get_mut(place.0).and_then(Option::as_mut) else { continue };
            // An account may have been both asked for and changed.
            if flight.sent.iter().any(|(_, other, _)| *other == place) {
                continue;
            }
            if lease.credit.as_mut().is_some_and(|credit| credit.is_put_off()) {
                continue;
            }
            if let Some((statement, sent)) = lease.state(now) {
                flight.sent.push((Arc::clone(&lease.account), place, sent));
                flight.statements.push(statement);
            }
        }
        flight
    }

    /// Takes over what the ledger said, reply by statement.
    pub fn land(&mut self, flight: &Flight, replies: &[Reply], replicas: u64, moment: Moment) -> Landed {
        if let Some(reply) = replies.first() {
            self.replicas = replicas;
            self.ahead_ms = reply.now_ms.saturating_sub(moment.wall.0.div_euclid(1_000));
        }
        let now = self.now(moment);
        let ttl = self.ttl;
        let mut landed = Landed::default();
        for ((account, place, sent), reply) in flight.sent.iter().zip(replies) {
            let Some(lease) = self.lease(*place).filter(|lease| lease.account == *account) else { continue };
            if reply.swept {
                landed.swept.push(Arc::clone(account));
            }
            if reply.fresh {
                landed.lost |= lease.unknown(&now, ttl);
                landed.unknown.push(Arc::clone(account));
                continue;
            }
            lease.heard(sent, reply, replicas, &now);
            let spent = lease.spent();
            let tight = lease.credit.as_ref().is_some_and(|credit| credit.tight);
            self.tight |= tight;
            self.spent.extend(spent);
            self.touch(*place, &now);
        }
        landed
    }

    /// Says what an account begins with that the ledger does not know. `rows`: the rows have what was committed here.
    pub fn seed(&mut self, account: &str, level: u64, rows: bool, now: &Now) {
        let found = self.leases.iter().position(|lease| lease.as_ref().is_some_and(|lease| &*lease.account == account));
        let Some(at) = found else { return };
        if let Some(credit) = self.leases[at].as_mut().and_then(|lease| lease.credit.as_mut()) {
            credit.seed(level, rows);
            if !std::mem::replace(&mut credit.queued, true) {
                self.changed.push(Place(at));
                self.changed_since.get_or_insert(now.mono);
            }
        }
    }

    /// A call that failed: what it said is to be said again.
    pub fn crash(&mut self, flight: &Flight, now: &Now) {
        for (account, place, _) in &flight.sent {
            let lease = self.lease(*place).filter(|lease| lease.account == *account);
            if let Some(credit) = lease.and_then(|lease| lease.credit.as_mut()) {
                credit.doubt();
                self.touch(*place, now);
            }
        }
    }

    /// Notes all that must be said again before it expires. True if there is something to tell.
    pub fn refresh(&mut self, now: &Now, age: Micros) -> bool {
        self.recall(now, |credit, held| credit.is_old(held, now, age) || credit.is_dirty(held))
    }

    /// Notes all that a ledger must know that has lost what it was told. Nothing is asked of it in the same breath: what
    /// it would give may be in the hands of another, who has not told it yet. Who waits asks anew.
    pub fn restate(&mut self, now: &Now) -> bool {
        for place in std::mem::take(&mut self.asked) {
            if let Some(credit) = self.lease(place).and_then(|lease| lease.credit.as_mut()) {
                credit.forget_wants();
            }
        }
        self.recall(now, |credit, held| credit.was_told() || credit.is_dirty(held))
    }

    fn recall(&mut self, now: &Now, says: impl Fn(&Credit, u64) -> bool) -> bool {
        for at in 0..self.leases.len() {
            let Some(lease) = &mut self.leases[at] else { continue };
            lease.advance(now);
            let held = lease.held;
            let Some(credit) = &mut lease.credit else { continue };
            if !credit.queued && !credit.is_unseeded() && says(credit, held) {
                credit.queued = true;
                self.changed.push(Place(at));
                self.changed_since.get_or_insert(Micros(0));
            }
        }
        !self.changed.is_empty()
    }

    /// Gives all leases back: what is free is free no more, and all is to be said.
    pub fn hand_back(&mut self, now: &Now) {
        for lease in self.leases() {
            if let Some(credit) = &mut lease.credit {
                credit.hand_back();
            }
        }
        self.refresh(now, Micros(0));
    }

    /// Accounts that count alone and whose beginning the rows may know; each is given once.
    pub fn unseeded(&mut self) -> Vec<Arc<str>> {
        let places = std::mem::take(&mut self.unseeded);
        places.into_iter().filter_map(|place| self.lease(place).map(|lease| Arc::clone(&lease.account))).collect()
    }

    /// The rows have said what an account begins with that counts alone.
    pub fn begun(&mut self, account: &str) {
        let found = self.leases.iter().position(|lease| lease.as_ref().is_some_and(|lease| &*lease.account == account));
        let Some(at) = found else { return };
        if let Some(lease) = &mut self.leases[at] {
            lease.awaits = None;
        }
        self.notice(Place(at));
    }

    /// Notes how a budget stands that counts alone; what a ledger says is noted when it says it.
    pub fn notice(&mut self, place: Place) {
        if self.home == Home::Here {
            self.spent.extend(self.leases.get(place.0).and_then(Option::as_ref).and_then(Lease::spent));
        }
    }

    /// Budgets of which somebody may want to be told.
    #[must_use]
    pub fn take_spent(&mut self) -> Vec<Spent> {
        std::mem::take(&mut self.spent)
    }

    /// Open requests' holds end here.
    pub fn settle(&mut self, place: Place, hold: &mut Hold, used: u64, now: &Now) {
        if let Some(lease) = self.lease(place) {
            lease.settle(hold, used, now);
        }
        self.notice(place);
        self.touch(place, now);
    }
}

impl Lease {
    /// How it counts.
    #[must_use]
    pub fn kind(&self, now: &Now) -> Kind {
        super::credit::kind(&self.rule, now.periods(&self.rule))
    }

    fn state(&mut self, now: &Now) -> Option<(Statement, Sent)> {
        self.advance(now);
        let starts: Starts = now.periods(&self.rule);
        let about = About { account: &self.account, rule: &self.rule, count: &self.count, held: self.held, starts };
        let credit = self.credit.as_mut()?;
        credit.queued = false;
        Some(credit.state(&about, now))
    }

    fn heard(&mut self, sent: &Sent, reply: &Reply, replicas: u64, now: &Now) {
        if let Some(credit) = &mut self.credit {
            credit.heard(sent, reply, &mut self.count, now);
        }
        let left = self.left(0);
        if let Some(credit) = &mut self.credit {
            credit.judge(&self.rule, left, replicas, now);
        }
    }

    /// The ledger does not know this account. True if it knew it a moment ago.
    fn unknown(&mut self, now: &Now, ttl: Micros) -> bool {
        self.credit.as_mut().is_some_and(|credit| credit.unknown(now, ttl))
    }
}
