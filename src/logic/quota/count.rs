//! What is committed to one account: a bucket's level, a period's sum, or nothing for places that are only taken and
//! given back. Knows nothing of holds or modes; the caller says how much is out.

use super::drain::{Level, MAX_UNITS, Rate};
use super::period::{Now, bucket_ms, capacity};
use super::plan::LimitRule;
use crate::domain::limit::{Dimension, Window};
use crate::domain::units::Micros;

/// When to try again after a concurrency refusal: nobody knows when a request will end.
pub const CONCURRENCY_RETRY: Micros = Micros(1_000_000);

/// What is committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    /// Drains evenly.
    Bucket(Rate, Level),
    /// Restarts with its period.
    Calendar(Window, Sum),
    /// Concurrency: a request is either open or gone.
    Slots,
}

/// The sum of a period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sum {
    /// Its beginning, ms since 1970.
    pub period: i64,
    /// Units committed in it.
    pub used: u64,
}

impl Count {
    /// Nothing is committed.
    #[must_use]
    pub fn new(rule: &LimitRule, now: &Now) -> Self {
        match (rule.dimension, bucket_ms(rule.window)) {
            (Dimension::Concurrency, _) => Self::Slots,
            (_, Some(window)) => {
                Self::Bucket(Rate::new(rule.limit, window), Level { at: now.mono_ms(), ..Level::default() })
            }
            (_, None) => Self::Calendar(rule.window, Sum { period: now.periods(rule)[1], used: 0 }),
        }
    }

    /// Brings the figures to what the rule says by now. A rule that moved between bucket, day and month starts anew;
    /// one that only changed its figures keeps what was committed. Prepaid credit with another beginning is other credit.
    /// True if it starts anew.
    pub fn follow(&mut self, rule: &LimitRule, now: &Now) -> bool {
        match (self, Self::new(rule, now)) {
            (Self::Bucket(rate, _), Self::Bucket(new, _)) => *rate = new,
            (Self::Calendar(Window::Ever, old), Self::Calendar(Window::Ever, new)) if old.period == new.period => {}
            (Self::Calendar(old, _), Self::Calendar(new, _)) if *old == new && new != Window::Ever => {}
            (Self::Slots, Self::Slots) => {}
            (kept, new) => {
                *kept = new;
                return true;
            }
        }
        false
    }

    /// Brings the figures to an instant. True if a new period has begun. One period back is a clock being corrected
    /// around midnight and keeps the sum; a longer way means that the clock had been wrong, and restarts too.
    pub fn advance(&mut self, now: &Now) -> bool {
        match self {
            Self::Bucket(rate, level) => level.drain(*rate, now.mono_ms()),
            Self::Calendar(Window::Ever, _) => {}
            Self::Calendar(window, sum) => {
                let starts = now.starts(*window);
                if sum.period != starts[1] && sum.period != starts[2] {
                    *sum = Sum { period: starts[1], used: 0 };
                    return true;
                }
            }
            Self::Slots => {}
        }
        false
    }

    /// Units committed.
    #[must_use]
    pub fn used(&self) -> u64 {
        match self {
            Self::Bucket(_, level) => level.units,
            Self::Calendar(_, sum) => sum.used,
            Self::Slots => 0,
        }
    }

    /// The period that counts; 0 where no calendar does.
    #[must_use]
    pub fn period(&self) -> i64 {
        match self {
            Self::Calendar(_, sum) => sum.period,
            _ => 0,
        }
    }

    /// Commits units, or takes back. May go beyond the capacity: over-use is paid back by waiting.
    pub fn commit(&mut self, delta: i64) {
        match self {
            Self::Bucket(_, level) => level.commit(delta),
            Self::Calendar(_, sum) => sum.used = sum.used.saturating_add_signed(delta).min(MAX_UNITS),
            Self::Slots => {}
        }
    }

    /// Units left of a rule while `out` are out.
    #[must_use]
    pub fn left(&self, rule: &LimitRule, out: u64) -> u64 {
        capacity(rule).saturating_sub(self.used()).saturating_sub(out)
    }

    /// Time until `taken` units (out and asked together) fit, if nobody else asks and all that is out is used in full;
    /// `None` if they never do.
    #[must_use]
    pub fn wait(&self, rule: &LimitRule, taken: u64, now: &Now) -> Option<Micros> {
        let over = self.used().saturating_add(taken).saturating_sub(capacity(rule));
        match self {
            _ if over == 0 => Some(Micros(0)),
            Self::Bucket(rate, level) if rule.limit > 0 => Some(drained_in(*rate, *level, over, now)),
            Self::Bucket(..) => None,
            Self::Calendar(window, sum) => now.left(*window, sum.period),
            Self::Slots => Some(CONCURRENCY_RETRY),
        }
    }

    /// Time until nothing is committed, where what is out is used in full.
    #[must_use]
    pub fn full_in(&self, out: u64, now: &Now) -> Micros {
        let taken = self.used().saturating_add(out);
        match self {
            _ if taken == 0 => Micros(0),
            Self::Bucket(rate, level) => drained_in(*rate, *level, taken, now),
            Self::Calendar(window, sum) => now.left(*window, sum.period).unwrap_or(Micros(u64::MAX)),
            Self::Slots => CONCURRENCY_RETRY,
        }
    }
}

/// Time from now until so many units have drained: a bucket drains at whole milliseconds.
fn drained_in(rate: Rate, level: Level, units: u64, now: &Now) -> Micros {
    let at = u64::try_from(level.at).unwrap_or(0).saturating_add(rate.time_to(units, level.drained));
    Micros(at.saturating_mul(1_000)) - now.mono
}
