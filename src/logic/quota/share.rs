//! What a replica may take of an account while the ledger is away: its part of the limit, times 1.2, since load is never
//! spread evenly. Decides as well how much of it the ledger is told afterwards: what a bucket has drained meanwhile
//! must not come back as a debt.

use super::drain::{Level, Rate};
use super::period::{Now, bucket_ms, capacity};
use super::plan::LimitRule;
use crate::domain::limit::Dimension;
use crate::domain::units::Micros;

/// A replica's part is a fifth more than its even share.
const MORE: (u64, u64) = (12, 10);
/// Budgets go on for this share of the limit, in all replicas together: 1 %.
const GRACE_PARTS: u64 = 100;
/// And for so long.
pub const GRACE: Micros = Micros(60_000_000);

/// A replica's part of one account.
#[derive(Debug)]
pub enum Share {
    /// Drains at the replica's part of the rate.
    Bucket(Box<Part>),
    /// Units of a period, or places.
    Units {
        /// Not used yet.
        left: u64,
        /// The part of an unused period.
        whole: u64,
        /// What is left afterwards counts no more.
        until: Option<Micros>,
    },
}

/// A replica's part of a bucket.
#[derive(Debug)]
pub struct Part {
    rate: Rate,
    size: u64,
    /// The most that it tells afterwards.
    even: u64,
    /// Taken here, and the replica's part of what was taken before.
    taken: Level,
    /// Its part of what was committed before, by whomever.
    before: Level,
    /// The same and what was committed here since, or had not been told.
    after: Level,
}

/// A replica's part of what a budget may go on for.
#[must_use]
pub fn grace(rule: &LimitRule, replicas: u64) -> u64 {
    (rule.limit / GRACE_PARTS / replicas.max(1)).max(1)
}

impl Share {
    /// Begins with the replica's part of what is `left` of an account. `unstated` is what the ledger has not been told.
    #[must_use]
    pub fn open(rule: &LimitRule, left: u64, replicas: u64, (unstated, now): (u64, &Now)) -> Self {
        let part = |units: u64| units.saturating_mul(MORE.0) / MORE.1.saturating_mul(replicas.max(1));
        let size = part(capacity(rule)).max(1);
        let room = part(left).max(u64::from(left > 0)).min(size);
        if rule.dimension == Dimension::Spend {
            let grace = grace(rule, replicas);
            return Self::Units { left: left.min(grace), whole: grace, until: Some(now.mono + GRACE) };
        }
        match bucket_ms(rule.window).filter(|_| rule.dimension != Dimension::Concurrency) {
            Some(window) => {
                let level = |units| Level { units, drained: 0, at: now.mono_ms() };
                let before = part(capacity(rule).saturating_sub(left));
                Self::Bucket(Box::new(Part {
                    rate: Rate::new(part(rule.limit), window),
                    size,
                    even: capacity(rule).div_ceil(replicas.max(1)).saturating_add(unstated),
                    taken: level(size - room),
                    before: level(before),
                    after: level(before.saturating_add(unstated)),
                }))
            }
            None => Self::Units { left: room, whole: size, until: None },
        }
    }

    /// Units that may be taken now.
    pub fn left(&mut self, now: &Now) -> u64 {
        match self {
            Self::Bucket(part) => {
                part.drain(now);
                part.size.saturating_sub(part.taken.units)
            }
            Self::Units { until: Some(until), .. } if now.mono >= *until => 0,
            Self::Units { left, .. } => *left,
        }
    }

    /// Time until a cost fits, where that is known here.
    #[must_use]
    pub fn wait(&self, cost: u64) -> Option<Micros> {
        let Self::Bucket(part) = self else { return None };
        let over = part.taken.units.saturating_add(cost).saturating_sub(part.size);
        let millis = part.rate.time_to(over, part.taken.drained);
        (cost <= part.size).then_some(Micros(millis.saturating_mul(1_000)))
    }

    /// Units are taken.
    pub fn spend(&mut self, amount: u64) {
        match self {
            Self::Bucket(part) => part.taken.commit(i64::try_from(amount).unwrap_or(i64::MAX)),
            Self::Units { left, .. } => *left = left.saturating_sub(amount),
        }
    }

    /// Units are committed.
    pub fn commit(&mut self, delta: i64) {
        if let Self::Bucket(part) = self {
            part.after.commit(delta);
        }
    }

    /// A new period begins.
    pub fn restart(&mut self) {
        if let Self::Units { left, whole, .. } = self {
            *left = *whole;
        }
    }

    /// How much of what the ledger has not been told it need not be told: of a bucket, what has drained meanwhile, and
    /// what is more than the replica's even part besides what had not been told before.
    pub fn forgiven(&mut self, unstated: i64, now: &Now) -> i64 {
        let Self::Bucket(part) = self else { return 0 };
        part.drain(now);
        let owed = part.after.units.saturating_sub(part.before.units).min(part.even);
        (unstated - i64::try_from(owed).unwrap_or(i64::MAX)).max(0)
    }
}

impl Part {
    fn drain(&mut self, now: &Now) {
        for level in [&mut self.taken, &mut self.before, &mut self.after] {
            level.drain(self.rate, now.mono_ms());
        }
    }
}
