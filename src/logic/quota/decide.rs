//! Decides a request: all its rules, of all its scopes, in one step. Every rule gives its share, or the request is
//! refused and nothing is taken, or the ledger must be asked for more units first.
//!
//! Where room is short of the estimate but covers the least, the hold is clamped to the room, unless the rule is
//! strict. A rule in shadow mode gives what it has and never refuses.

use super::book::{Book, Place};
use super::cost::{Cost, Need, floor};
use super::lease::{Hold, Lease, Link};
use super::period::{Moment, Now, capacity};
use super::plan::{AskLine, LimitRule, QuotaAsk};
use crate::domain::limit::{Denial, Dimension, Figure, Mode, OnStoreError, QuotaUse, Scope, Standing};
use crate::domain::units::Micros;
use std::cmp::Ordering;
use std::sync::Arc;

/// When to try again what only the ledger can give while it is away: it is probed more often than that.
const STORE_RETRY: Micros = Micros(1_000_000);

/// The books that a request counts in.
pub struct Books<'a> {
    /// Its tenant's.
    pub tenant: &'a mut Book,
    /// That of pools and the installation, where a line is about one.
    pub shared: Option<&'a mut Book>,
}

/// Why a request is not let in, or not yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// It can never fit: `(asked, allowed)` tokens.
    NeverFits(u64, u64),
    /// Not now.
    Denied(Denial),
    /// The ledger is away, and a rule says closed.
    StoreDown,
    /// The ledger must be asked: for the tenant's accounts, for shared ones.
    Ask {
        /// The tenant's.
        tenant: bool,
        /// Pools' and the installation's.
        shared: bool,
    },
}

/// What one admitted request holds, and as how many it was counted. Settle, release or cancel it, once.
#[derive(Debug, Default)]
pub struct Claim {
    parts: Vec<(bool, Place, Hold)>,
    model: Option<Arc<str>>,
    /// Wall clock minus monotonic clock at admission: settling is told monotonic time only.
    wall_offset: i64,
}

/// An admission.
#[derive(Debug)]
#[must_use = "a claim must be settled or released"]
pub struct Grant {
    /// What the request owes.
    pub claim: Claim,
    /// The figures after this reservation.
    pub standings: Vec<Standing>,
    /// Shadow rules that would have refused.
    pub shadowed: u32,
    /// A rule was decided without the ledger that it needs.
    pub fallback: bool,
}

/// One rule of a request, weighed.
struct Weighed<'a> {
    line: &'a AskLine,
    place: Place,
    floor: u64,
    cost: Option<Cost>,
    room: u64,
    verdict: Verdict,
    /// Decided without the ledger that it needs.
    alone: bool,
}

impl Weighed<'_> {
    fn refuses(&self, verdict: Verdict) -> bool {
        self.verdict == verdict && self.line.rule.mode == Mode::Enforce
    }
}

/// One instant in both calendars.
struct Nows {
    tenant: Now,
    shared: Now,
}

impl Nows {
    fn of(&self, scope: &Scope) -> &Now {
        if scope.is_shared() { &self.shared } else { &self.tenant }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Verdict {
    Gives,
    Lacks,
    Asks,
    Closed,
}

impl Books<'_> {
    fn of(&mut self, scope: &Scope) -> &mut Book {
        match &mut self.shared {
            Some(shared) if scope.is_shared() => shared,
            _ => self.tenant,
        }
    }

    fn at(&mut self, shared: bool) -> &mut Book {
        match &mut self.shared {
            Some(book) if shared => book,
            _ => self.tenant,
        }
    }

    /// Decides a request and, if it fits, takes what it needs.
    ///
    /// # Errors
    /// [`Stop`]; then nothing was taken.
    pub fn reserve(&mut self, ask: &QuotaAsk, at: Moment, link: Link) -> Result<Grant, Stop> {
        let need = Need::of(ask, self.tenant.estimates.output(&ask.model));
        need.check_size(ask.max_tokens_per_request).map_err(|(asked, allowed)| Stop::NeverFits(asked, allowed))?;
        let nows = self.nows(ask, at);
        let mut lines = Vec::with_capacity(ask.lines.len());
        for line in &ask.lines {
            let floor = floor(&line.rule, ask.priority);
            let cost = need.cost(&line.rule);
            lines.push(weigh(self.of(&line.scope), line, (cost, floor), nows.of(&line.scope), link));
        }
        if let Some((asked, allowed)) = lines.iter().find_map(never_fits) {
            return Err(Stop::NeverFits(asked, allowed));
        }
        if let Some(denial) = self.denial(&lines, &nows) {
            return Err(Stop::Denied(denial));
        }
        if lines.iter().any(|line| line.refuses(Verdict::Closed)) {
            return Err(Stop::StoreDown);
        }
        if lines.iter().any(|line| line.refuses(Verdict::Asks)) {
            return Err(self.ask(&lines, at));
        }
        Ok(self.take(&lines, &ask.model, at, &nows))
    }

    /// Each book counts in its own calendar: shared ones in UTC, whoever asks. What is unused goes before anything is
    /// looked for.
    fn nows(&mut self, ask: &QuotaAsk, at: Moment) -> Nows {
        self.tenant.set_zone(&ask.zone);
        let tenant = self.tenant.now(at);
        self.tenant.make_room(&tenant);
        let mut shared = tenant;
        if let Some(book) = &mut self.shared {
            shared = book.now(at);
            book.make_room(&shared);
        }
        Nows { tenant, shared }
    }

    fn ask(&mut self, lines: &[Weighed<'_>], at: Moment) -> Stop {
        let (mut tenant, mut shared) = (false, false);
        for line in lines {
            let Some(cost) = line.cost else { continue };
            let scope = &line.line.scope;
            let book = self.of(scope);
            // What is there for this request must not be given back while it waits for the rest.
            if let Some(credit) = book.lease(line.place).and_then(|lease| lease.credit.as_mut()) {
                credit.keep(at.mono);
            }
            if !line.refuses(Verdict::Asks) {
                continue;
            }
            book.want(line.place, (cost.least, cost.full), line.floor);
            *(if scope.is_shared() { &mut shared } else { &mut tenant }) = true;
        }
        Stop::Ask { tenant, shared }
    }

    fn take(&mut self, lines: &[Weighed<'_>], model: &Arc<str>, at: Moment, nows: &Nows) -> Grant {
        let mono = i64::try_from(at.mono.0).unwrap_or(i64::MAX);
        let mut claim = Claim {
            parts: Vec::with_capacity(lines.len()),
            model: Some(Arc::clone(model)),
            wall_offset: at.wall.0.saturating_sub(mono),
        };
        let mut shadowed = 0;
        let mut fallback = false;
        for line in lines {
            let Some(cost) = line.cost else { continue };
            let rule = &line.line.rule;
            shadowed += u32::from(rule.mode == Mode::Shadow && line.room < cost.least);
            // Requests and places count even under a rule that watches and has no room; of tokens there is what there is.
            let amount = if rule.dimension.is_settled() { cost.full.min(line.room) } else { cost.full };
            fallback |= line.alone;
            let now = nows.of(&line.line.scope);
            let book = self.of(&line.line.scope);
            if let Some(lease) = book.lease(line.place) {
                let hold = lease.take(rule, amount, now);
                claim.parts.push((line.line.scope.is_shared(), line.place, hold));
            }
            book.touch(line.place, now);
        }
        let standings = self.told(lines, nows);
        Grant { claim, standings, shadowed, fallback }
    }

    /// How the rules of a request stand, as last heard; nothing is taken, and nobody is waited for. What is old by now is
    /// asked for, and told next time.
    pub fn standings(&mut self, ask: &QuotaAsk, at: Moment) -> Vec<Standing> {
        let nows = self.nows(ask, at);
        let mut lines = Vec::with_capacity(ask.lines.len());
        for line in &ask.lines {
            let floor = floor(&line.rule, ask.priority);
            let (now, book) = (nows.of(&line.scope), self.of(&line.scope));
            let weighed = weigh(book, line, (None, floor), now, Link::Up);
            book.look(weighed.place, now);
            lines.push(weighed);
        }
        self.told(&lines, &nows)
    }

    /// The most constrained enforced rule of requests and of tokens; a dimension without a rule is left out.
    fn told(&mut self, lines: &[Weighed<'_>], nows: &Nows) -> Vec<Standing> {
        let mut told: Vec<Standing> = Vec::with_capacity(2);
        for line in lines {
            let rule = &line.line.rule;
            if rule.mode != Mode::Enforce || !(rule.dimension.is_tokens() || rule.dimension == Dimension::Requests) {
                continue;
            }
            let Some(lease) = self.of(&line.line.scope).lease(line.place) else { continue };
            let standing = Standing {
                dimension: rule.dimension,
                limit: rule.limit,
                remaining: lease.left(line.floor),
                reset: lease.full_in(nows.of(&line.line.scope)),
            };
            let same = |other: &&mut Standing| other.dimension.is_tokens() == standing.dimension.is_tokens();
            match told.iter_mut().find(same) {
                Some(other) if by_share_left(&standing, other) == Ordering::Less => *other = standing,
                Some(_) => {}
                None => told.push(standing),
            }
        }
        told
    }

    /// Of several rules that say no, the one that will say it longest is named: waiting for another would be in vain.
    fn denial(&mut self, lines: &[Weighed<'_>], nows: &Nows) -> Option<Denial> {
        if !lines.iter().any(|line| line.refuses(Verdict::Lacks)) {
            return None;
        }
        let mut figures = Vec::with_capacity(lines.len());
        let mut worst: Option<Figure> = None;
        for line in lines {
            let scope = &line.line.scope;
            let figure = figure(line, self.of(scope).lease(line.place), nows.of(scope));
            let longest = worst.as_ref().is_none_or(|worst| longer(figure.wait, worst.wait));
            if line.refuses(Verdict::Lacks) {
                // Nobody settles what is refused, and somebody may want to know why it is.
                self.of(scope).notice(line.place);
            }
            if line.refuses(Verdict::Lacks) && longest {
                worst = Some(figure.clone());
            }
            figures.push(figure);
        }
        let Figure { dimension, rule, scope, wait, .. } = worst?;
        Some(Denial { dimension, rule, scope, retry_after: wait, standings: self.told(lines, nows), figures })
    }

    /// Counts what a running request has used so far. Gives a rule that is used up and ends running streams.
    pub fn progress(&mut self, claim: &mut Claim, used: &QuotaUse, mono: Micros) -> Option<Arc<str>> {
        let mut over = None;
        for (shared, place, hold) in &mut claim.parts {
            if !hold.rule.dimension.is_settled() {
                continue;
            }
            let book = match &mut self.shared {
                Some(book) if *shared => book,
                _ => &mut *self.tenant,
            };
            let now = book.now(moment(claim.wall_offset, mono));
            let Some(lease) = book.lease(*place) else { continue };
            let used_up = lease.progress(hold, used.amount(hold.rule.dimension), &now);
            if used_up && hold.rule.stop_streams && hold.rule.mode == Mode::Enforce {
                over.get_or_insert_with(|| Arc::clone(&hold.rule.name));
            }
            book.notice(*place);
            book.touch(*place, &now);
        }
        over
    }

    /// Ends a claim: its holds go, what was used in all is committed.
    pub fn settle(&mut self, claim: &mut Claim, used: &QuotaUse, mono: Micros) {
        if let Some(model) = claim.model.take().filter(|_| used.complete) {
            self.tenant.estimates.observe(&model, used.output.0);
        }
        let at = moment(claim.wall_offset, mono);
        for (shared, place, mut hold) in claim.parts.drain(..) {
            let book = self.at(shared);
            let now = book.now(at);
            let amount = used.amount(hold.rule.dimension);
            book.settle(place, &mut hold, amount, &now);
        }
    }

    /// Ends a claim that nobody settled: tokens and places go back, the request stays counted.
    pub fn release(&mut self, claim: &mut Claim, mono: Micros) {
        self.end(claim, mono, |lease, hold, _| lease.release(hold));
    }

    /// Ends the claim of a request that was not let in after all: nothing of it stays counted.
    pub fn cancel(&mut self, claim: &mut Claim, mono: Micros) {
        self.end(claim, mono, Lease::cancel);
    }

    fn end(&mut self, claim: &mut Claim, mono: Micros, how: impl Fn(&mut Lease, &mut Hold, &Now)) {
        let at = moment(claim.wall_offset, mono);
        for (shared, place, mut hold) in claim.parts.drain(..) {
            let book = self.at(shared);
            let now = book.now(at);
            if let Some(lease) = book.lease(place) {
                how(lease, &mut hold, &now);
            }
            book.touch(place, &now);
        }
    }
}

impl Claim {
    /// True if it holds something of a pool's or the installation's.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.parts.iter().any(|(shared, ..)| *shared)
    }
}

/// An instant of the monotonic clock on both clocks, as they stood to each other at admission.
fn moment(wall_offset: i64, mono: Micros) -> Moment {
    let wall = wall_offset.saturating_add(i64::try_from(mono.0).unwrap_or(i64::MAX));
    Moment { mono, wall: crate::domain::units::WallMicros(wall) }
}

fn weigh<'a>(
    book: &mut Book,
    line: &'a AskLine,
    (cost, floor): (Option<Cost>, u64),
    now: &Now,
    link: Link,
) -> Weighed<'a> {
    let place = book.find(&line.scope, &line.rule, now);
    let mut weighed = Weighed { line, place, floor, cost, room: 0, verdict: Verdict::Gives, alone: false };
    let stuck = Link::Down { replicas: book.replicas };
    let (Some(cost), Some(lease)) = (cost, book.lease(place)) else { return weighed };
    let link = if lease.is_stuck(now) { stuck } else { link };
    weighed.room = lease.room(floor, now, link);
    if line.rule.mode == Mode::Shadow && link == Link::Up {
        // Nobody waits for a rule that only watches: it goes by what was last heard.
        weighed.room = weighed.room.max(lease.left(floor));
    }
    let short = weighed.room < cost.least;
    weighed.verdict = match link {
        Link::Up if lease.asks(&cost, weighed.room, floor, now) => Verdict::Asks,
        Link::Down { .. } if lease.depends() => {
            let leased = if lease.credit.is_some() { lease.room(floor, now, Link::Up) } else { 0 };
            let (verdict, room) = without_ledger(lease, &line.rule, (&cost, floor), (weighed.room, leased));
            (weighed.room, weighed.alone) = (room, true);
            verdict
        }
        _ if short => Verdict::Lacks,
        _ => Verdict::Gives,
    };
    weighed
}

impl Lease {
    /// True if the ledger may have more, and it is needed.
    fn asks(&self, cost: &Cost, room: u64, floor: u64, now: &Now) -> bool {
        let Some(credit) = &self.credit else {
            // What the rows know can only leave less.
            return self.awaits.is_some() && room >= cost.least;
        };
        if room >= cost.full {
            return false;
        }
        // Dry: for what would only be handy nobody is asked, for what is needed only if it should be there by now.
        !credit.is_dry(now) || (room < cost.least && self.left(floor) >= cost.least)
    }
}

/// What a rule does while the ledger is away.
fn without_ledger(
    lease: &Lease,
    rule: &LimitRule,
    (cost, floor): (&Cost, u64),
    (room, leased): (u64, u64),
) -> (Verdict, u64) {
    match rule.on_store_error {
        OnStoreError::Open => (Verdict::Gives, cost.full),
        // The ledger gave these before, and has counted them.
        OnStoreError::Closed if leased >= cost.least => (Verdict::Gives, leased),
        OnStoreError::Closed => (Verdict::Closed, 0),
        OnStoreError::Local if room >= cost.least => (Verdict::Gives, room),
        // What was left of a budget may still be there; nobody can tell.
        OnStoreError::Local if rule.dimension == Dimension::Spend && lease.left(floor) >= cost.least => {
            (Verdict::Closed, room)
        }
        OnStoreError::Local => (Verdict::Lacks, room),
    }
}

/// More tokens than the capacity. (More money than the whole budget is a matter for the caller's account.)
fn never_fits(line: &Weighed<'_>) -> Option<(u64, u64)> {
    let rule = &line.line.rule;
    let cost = line.cost.filter(|_| rule.dimension.is_tokens() && rule.mode == Mode::Enforce)?;
    (cost.least > capacity(rule)).then(|| (cost.least, capacity(rule)))
}

fn figure(line: &Weighed<'_>, lease: Option<&mut Lease>, now: &Now) -> Figure {
    let rule = &line.line.rule;
    let needed = line.cost.map_or(0, |cost| cost.least);
    let fits = line.cost.is_none() || line.room >= needed;
    let (remaining, wait) = lease.map_or((0, None), |lease| {
        let wait = lease.wait(needed, line.floor, now);
        if line.alone {
            let share = lease.credit.as_ref().and_then(|credit| credit.share_wait(needed));
            return (line.room, share.or(wait.map(|wait| wait.max(STORE_RETRY))));
        }
        (lease.left(line.floor).max(line.room), wait)
    });
    Figure {
        rule: Arc::clone(&rule.name),
        scope: rule.scope_name(&line.line.scope),
        dimension: rule.dimension,
        mode: rule.mode,
        limit: rule.limit,
        remaining,
        needed,
        wait: if fits { Some(Micros(0)) } else { wait },
        without_store: line.alone,
    }
}

/// `None` is for ever.
fn longer(wait: Option<Micros>, than: Option<Micros>) -> bool {
    match (wait, than) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wait), Some(than)) => wait > than,
    }
}

/// Compares remaining / limit by cross-multiplication.
fn by_share_left(a: &Standing, b: &Standing) -> Ordering {
    let left = u128::from(a.remaining) * u128::from(b.limit);
    let right = u128::from(b.remaining) * u128::from(a.limit);
    left.cmp(&right).then(a.remaining.cmp(&b.remaining))
}

#[cfg(test)]
mod tests;
