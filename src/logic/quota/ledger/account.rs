//! One account of the ledger: what is committed to it, and what each replica has out of it. Decides what a statement
//! changes; which account a statement is about is the ledger's matter.

use super::{Call, Correction, Kind, MAX_PAST, MAX_REPLICAS, MAX_TTL_MS, Reply, Statement};
use crate::logic::quota::drain::{Level, MAX_UNITS, Rate};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A statement that seems good for more than so many times its length was made by a clock that was ahead of ours.
const AHEAD: i64 = 4;
/// Leases take at most a quarter of what is left, over all replicas.
const SHARES: u64 = 4;
/// Replicas as far as a share of what is left is reckoned; a bound only.
const MAX_SHARERS: u64 = 1_000_000;

/// One account.
#[derive(Clone, Debug)]
pub struct Account {
    count: Count,
    /// By replica, until it expires. Nobody is in here and in [`Period::past`].
    entries: BTreeMap<Arc<str>, Entry>,
}

/// What is committed.
#[derive(Clone, Debug)]
enum Count {
    Bucket { level: Level, rate: Rate },
    Calendar(Period),
    Slots,
}

/// What is committed in a period of the calendar, without the shares of the replicas that live.
#[derive(Clone, Debug)]
struct Period {
    starts: i64,
    ends: i64,
    /// Seed and shares of replicas that are gone.
    base: u64,
    /// The part of `base` that is known by replica.
    past: BTreeMap<Arc<str>, u64>,
    /// Made from rows, and not yet used by a statement: the period is what the rows' reader took for the present.
    unproven: bool,
}

/// What a replica has stated last.
#[derive(Clone, Copy, Debug)]
struct Entry {
    outstanding: u64,
    expires: i64,
    /// Buckets: the total last heard. Calendars: its share of the period.
    total: i64,
}

impl Account {
    /// An account that is not known; `None`: it cannot begin without a seed. `known_ms` is how long the ledger has been
    /// asked: a bucket that is missing for longer than it takes to drain has drained.
    pub fn open(statement: &Statement, now_ms: i64, known_ms: u64) -> Option<Self> {
        let seed = statement.seed.map(|seed| seed.min(MAX_UNITS));
        let count = match statement.kind {
            Kind::Bucket { limit, window_ms } => {
                let rate = Rate::new(limit, window_ms);
                let has_drained = known_ms >= rate.time_bound(statement.capacity.min(MAX_UNITS));
                let units = seed.or_else(|| has_drained.then_some(0))?;
                Count::Bucket { level: Level { units, drained: 0, at: now_ms }, rate }
            }
            Kind::Calendar { starts } => Count::Calendar(Period::new(period_at(&starts, now_ms), seed?)),
            Kind::Slots => Count::Slots,
        };
        Some(Self { count, entries: BTreeMap::new() })
    }

    /// A calendar account of which only rows are known.
    pub fn from_rows(period: i64) -> Self {
        let period = Period { unproven: true, ..Period::new(period, 0) };
        Self { count: Count::Calendar(period), entries: BTreeMap::new() }
    }

    /// Brings it to the present. False: what it counts is another period than the statement's, so that it is not known
    /// what is committed; then nothing has changed.
    pub fn advance(&mut self, statement: &Statement, now_ms: i64) -> bool {
        match (&mut self.count, statement.kind) {
            (Count::Bucket { level, rate }, Kind::Bucket { limit, window_ms }) => {
                *rate = Rate::new(limit, window_ms);
                level.drain(*rate, now_ms);
            }
            (Count::Calendar(period), Kind::Calendar { starts }) => {
                // A clock that fell back does not bring the last period back.
                let present = period_at(&starts, now_ms).max(period.starts);
                if !starts.contains(&period.starts) || (period.unproven && present != period.starts) {
                    let Some(seed) = statement.seed else { return false };
                    *period = Period::new(period_at(&starts, now_ms), seed.min(MAX_UNITS));
                    self.forget_shares();
                } else if present != period.starts {
                    *period = Period::new(present, 0);
                    self.forget_shares();
                }
                self.prove(&starts);
            }
            _ => {}
        }
        true
    }

    fn forget_shares(&mut self) {
        for entry in self.entries.values_mut() {
            entry.total = 0;
        }
    }

    fn prove(&mut self, starts: &[i64; 4]) {
        if let Count::Calendar(period) = &mut self.count {
            period.unproven = false;
            period.ends = end_of(period.starts, starts);
        }
    }

    /// Drops what has expired, and, where there are too many replicas for another, the one that expires first. True if
    /// somebody else may have used more than is known.
    pub fn sweep(&mut self, call: &Call<'_>, now_ms: i64) -> bool {
        let ttl_ms = ttl(call);
        for entry in self.entries.values_mut().filter(|entry| entry.expires > now_ms.saturating_add(AHEAD * ttl_ms)) {
            entry.expires = now_ms.saturating_add(ttl_ms);
        }
        let mut swept = self.expire(call.replica, now_ms);
        if self.entries.len() >= MAX_REPLICAS && !self.entries.contains_key(call.replica) {
            let first = self.entries.iter().min_by_key(|(name, entry)| (entry.expires, (*name).clone()));
            if let Some(name) = first.map(|(name, _)| name.clone()) {
                swept |= self.bury(&name);
            }
        }
        swept
    }

    fn expire(&mut self, caller: &str, now_ms: i64) -> bool {
        let gone = self.entries.iter().filter(|(_, entry)| entry.expires <= now_ms);
        let gone: Vec<Arc<str>> = gone.map(|(name, _)| name.clone()).collect();
        let mut swept = false;
        for name in &gone {
            // The caller is back, and says what it has used.
            swept |= self.bury(name) && **name != *caller;
        }
        swept
    }

    /// Drops a replica's entry; its share of a period stays. True if that may not be all that it has used: it had
    /// something out, or a share to which it may not have stated its last units.
    fn bury(&mut self, replica: &Arc<str>) -> bool {
        let Some(entry) = self.entries.remove(replica) else { return false };
        let mut share = 0;
        if let Count::Calendar(period) = &mut self.count {
            share = u64::try_from(entry.total).unwrap_or(0);
            period.bury(replica, share);
        }
        entry.outstanding > 0 || share > 0
    }

    /// Applies a statement to an account that is at the present, and answers it.
    pub fn apply(&mut self, call: &Call<'_>, statement: &Statement, now_ms: i64) -> Reply {
        let swept = self.sweep(call, now_ms);
        let total = self.commit(call.replica, statement);
        let stated = statement.outstanding.min(MAX_UNITS);
        let others = self.entries.iter().filter(|(name, _)| ***name != *call.replica);
        let others = others.map(|(_, entry)| entry.outstanding).fold(0, sum);
        let expires = now_ms.saturating_add(ttl(call));
        self.put(call.replica, Entry { outstanding: stated, expires, total });
        let committed = self.committed();
        let used = sum(committed, sum(stated, others));
        let granted = grant(statement, statement.capacity.min(MAX_UNITS).saturating_sub(used), call.replicas);
        self.put(call.replica, Entry { outstanding: sum(stated, granted), expires, total });
        let (drained, period) = match &self.count {
            Count::Bucket { level, .. } => (level.drained, 0),
            Count::Calendar(period) => (0, period.starts),
            Count::Slots => (0, 0),
        };
        Reply { granted, committed, drained, others, period, fresh: false, swept, now_ms }
    }

    /// Commits what is new; gives what is to be remembered of the replica's total.
    fn commit(&mut self, replica: &str, statement: &Statement) -> i64 {
        let stated = within(statement.total);
        let heard = self.entries.get(replica).map(|entry| entry.total);
        match &mut self.count {
            Count::Bucket { level, .. } => {
                level.commit(stated.saturating_sub(heard.unwrap_or_else(|| within(statement.acked))));
                stated
            }
            Count::Calendar(period) => {
                let share = heard.unwrap_or_else(|| signed(period.take_back(replica)));
                if statement.period == period.starts { stated.max(0) } else { share }
            }
            Count::Slots => 0,
        }
    }

    fn put(&mut self, replica: &str, entry: Entry) {
        match self.entries.get_mut(replica) {
            Some(known) => *known = entry,
            None => {
                self.entries.insert(Arc::from(replica), entry);
            }
        }
    }

    fn committed(&self) -> u64 {
        match &self.count {
            Count::Bucket { level, .. } => level.units,
            Count::Calendar(period) => {
                let shares = self.entries.values().map(|entry| u64::try_from(entry.total).unwrap_or(0));
                shares.fold(period.base, sum)
            }
            Count::Slots => 0,
        }
    }

    /// Sets what a replica has committed in a period that it has not stated itself; gives by how much the sum has changed.
    pub fn correct(&mut self, correction: &Correction, now_ms: i64) -> i64 {
        let Correction { replica, period, total, .. } = correction;
        if self.entries.get(replica).is_some_and(|entry| entry.expires <= now_ms) {
            self.bury(replica);
        }
        if let Some(starts) = &correction.starts {
            self.begin_anew(*period, starts);
        }
        let Count::Calendar(known) = &mut self.count else { return 0 };
        let total = (*total).min(MAX_UNITS);
        match self.entries.get_mut(replica) {
            _ if known.starts != *period => 0,
            Some(entry) if known.unproven => signed(total) - std::mem::replace(&mut entry.total, signed(total)),
            Some(_) => 0,
            None => known.set(replica, total),
        }
    }

    /// Begins a period of a calendar of which the one that counted is none.
    fn begin_anew(&mut self, period: i64, starts: &[i64; 4]) {
        let Count::Calendar(known) = &mut self.count else { return };
        let is_of_it = starts.contains(&known.starts) && (!known.unproven || known.starts == period);
        if !is_of_it && starts.contains(&period) {
            *known = Period { unproven: true, ..Period::new(period, 0) };
            self.forget_shares();
        }
    }

    /// True where an account that is made anew would stand as this one does.
    pub fn is_idle(&mut self, now_ms: i64) -> bool {
        self.expire("", now_ms);
        if self.entries.values().any(|entry| entry.outstanding > 0) {
            return false;
        }
        match &mut self.count {
            Count::Bucket { level, rate } => {
                level.drain(*rate, now_ms);
                level.units == 0
            }
            Count::Calendar(period) => period.ends <= now_ms || self.committed() == 0,
            Count::Slots => true,
        }
    }
}

impl Period {
    fn new(starts: i64, base: u64) -> Self {
        Self { starts, ends: i64::MAX, base, past: BTreeMap::new(), unproven: false }
    }

    /// Keeps the share of a replica that has gone.
    fn bury(&mut self, replica: &Arc<str>, share: u64) {
        if share == 0 {
            return;
        }
        self.base = sum(self.base, share);
        if self.past.len() < MAX_PAST {
            self.past.insert(replica.clone(), share);
        }
    }

    /// The share of a replica that is back.
    fn take_back(&mut self, replica: &str) -> u64 {
        let share = self.past.remove(replica).unwrap_or(0);
        self.base = self.base.saturating_sub(share);
        share
    }

    fn set(&mut self, replica: &Arc<str>, share: u64) -> i64 {
        if self.past.len() >= MAX_PAST && !self.past.contains_key(replica) {
            return 0;
        }
        let before = self.base;
        self.take_back(replica);
        self.bury(replica, share);
        signed(self.base) - signed(before)
    }
}

/// What is granted of what is left of the capacity.
fn grant(statement: &Statement, left: u64, replicas: u64) -> u64 {
    let free = left.saturating_sub(statement.floor);
    let least = statement.least.min(MAX_UNITS);
    if free < least {
        return 0;
    }
    let needed = statement.want.min(free);
    let share = (free - needed) / (SHARES * replicas.clamp(1, MAX_SHARERS));
    let least = least.max(1);
    needed + statement.spare.min(share) / least * least
}

/// The period that is now.
pub fn period_at(starts: &[i64; 4], now_ms: i64) -> i64 {
    let [_, second, ..] = *starts;
    starts.iter().rev().find(|start| **start <= now_ms).copied().unwrap_or(second)
}

/// Where the period ends; prepaid credit never does.
fn end_of(period: i64, starts: &[i64; 4]) -> i64 {
    starts.iter().find(|start| **start > period).copied().unwrap_or(i64::MAX)
}

fn ttl(call: &Call<'_>) -> i64 {
    call.ttl_ms.clamp(1, MAX_TTL_MS)
}

/// A sum of amounts, saturating where doubles end to be exact.
fn sum(one: u64, other: u64) -> u64 {
    one.saturating_add(other).min(MAX_UNITS)
}

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}

fn within(total: i64) -> i64 {
    total.clamp(-signed(MAX_UNITS), signed(MAX_UNITS))
}
