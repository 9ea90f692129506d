//! A token bucket in whole numbers: what was spent drains at `limit` per `window`. Knows nothing of holds or
//! modes; the caller says how much is held.
//!
//! What was spent is kept times the window's microseconds, so that one microsecond refills exactly `limit` and
//! nothing is ever rounded: any span of one window commits at most `limit + burst`.

use crate::domain::units::Micros;

/// How fast a bucket refills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Units per window.
    pub limit: u64,
    /// The window; at least one microsecond.
    pub window: Micros,
}

/// One bucket. Full when new.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bucket {
    rate: Rate,
    /// Units spent and not refilled yet, times `rate.window`.
    spent: u128,
    at: Micros,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now: Micros) -> Self {
        Self { rate, spent: 0, at: now }
    }

    /// Refills for the time that has passed. A clock reading older than the last one changes nothing.
    pub fn advance(&mut self, now: Micros) {
        let passed = u128::from((now - self.at).0);
        self.spent = self.spent.saturating_sub(passed * u128::from(self.rate.limit));
        self.at = self.at.max(now);
    }

    /// Takes over a rate that a reload has changed; what was spent stays spent.
    pub fn set_rate(&mut self, rate: Rate) {
        if rate.window != self.rate.window {
            let units = self.spent.div_ceil(u128::from(self.rate.window.0.max(1)));
            self.spent = units.saturating_mul(u128::from(rate.window.0));
        }
        self.rate = rate;
    }

    /// Whole units left of `burst` while `held` are held.
    #[must_use]
    pub fn available(&self, burst: u64, held: u64) -> u64 {
        let left = self.scaled(burst).saturating_sub(self.scaled(held)).saturating_sub(self.spent);
        u64::try_from(left / u128::from(self.rate.window.0.max(1))).unwrap_or(u64::MAX)
    }

    /// Commits units. May go beyond the burst: over-use is paid back by waiting.
    pub fn charge(&mut self, amount: u64) {
        self.spent = self.spent.saturating_add(self.scaled(amount));
    }

    /// Commits units, but never beyond an empty bucket: a rule that only watches must not pile up a debt that
    /// hits callers when it is switched to enforcing.
    pub fn charge_up_to(&mut self, amount: u64, burst: u64) {
        self.spent = self.spent.saturating_add(self.scaled(amount)).min(self.scaled(burst).max(self.spent));
    }

    /// Time until `taken` units (held and asked together) fit into `burst`, all holds counted as if they were
    /// committed now; `None` if they never do.
    #[must_use]
    pub fn wait(&self, taken: u128, burst: u64) -> Option<Micros> {
        let wanted = self.spent.saturating_add(taken.saturating_mul(u128::from(self.rate.window.0)));
        let over = wanted.saturating_sub(self.scaled(burst));
        if over == 0 {
            return Some(Micros(0));
        }
        if self.rate.limit == 0 {
            return None;
        }
        Some(Micros(u64::try_from(over.div_ceil(u128::from(self.rate.limit))).unwrap_or(u64::MAX)))
    }

    /// True if nothing is spent.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.spent == 0
    }

    fn scaled(&self, units: u64) -> u128 {
        u128::from(units) * u128::from(self.rate.window.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Micros = Micros(60_000_000);

    fn per_minute(limit: u64) -> Rate {
        Rate { limit, window: MINUTE }
    }

    #[test]
    fn a_bucket_refills_evenly_and_never_beyond_full() {
        let mut bucket = Bucket::new(per_minute(60), Micros(0));
        bucket.charge(60);
        assert_eq!(bucket.available(60, 0), 0, "the burst is spent");
        bucket.advance(Micros(1_000_000));
        assert_eq!(bucket.available(60, 0), 1, "60 a minute is one a second");
        bucket.advance(Micros(10 * 60_000_000));
        assert_eq!(bucket.available(60, 0), 60, "a long pause gives one bucket, not ten");
        assert!(bucket.is_full(), "nothing is spent any more");
    }

    #[test]
    fn a_clock_that_steps_back_refills_nothing() {
        let mut bucket = Bucket::new(per_minute(60), Micros(5_000_000));
        bucket.charge(10);
        bucket.advance(Micros(1_000_000));
        bucket.advance(Micros(5_000_000));
        assert_eq!(bucket.available(60, 0), 50, "the same instant seen twice is no time");
    }

    #[test]
    fn a_changed_window_keeps_what_was_spent() {
        let mut bucket = Bucket::new(per_minute(60), Micros(0));
        bucket.charge(30);
        bucket.set_rate(Rate { limit: 1000, window: Micros(3_600_000_000) });
        assert_eq!(bucket.available(1000, 0), 970, "30 units stay spent under the new rate");
    }

    #[test]
    fn watching_piles_up_no_debt() {
        let mut bucket = Bucket::new(per_minute(60), Micros(0));
        bucket.charge_up_to(1_000, 60);
        assert_eq!(bucket.wait(1, 60), Some(Micros(1_000_000)), "one unit is back after one second");
    }

    proptest! {
        #[test]
        fn any_window_admits_at_most_limit_plus_burst(
            limit in 1u64..50,
            burst in 1u64..50,
            steps in proptest::collection::vec((0u64..20_000_000, 1u64..8), 1..80),
        ) {
            let mut bucket = Bucket::new(per_minute(limit), Micros(0));
            let mut now = Micros(0);
            let mut admitted: Vec<(u64, u64)> = Vec::new();
            for (pause, cost) in steps {
                now += Micros(pause);
                bucket.advance(now);
                if bucket.available(burst, 0) >= cost {
                    bucket.charge(cost);
                    admitted.push((now.0, cost));
                }
            }
            for (start, _) in &admitted {
                let sum: u64 = admitted.iter().filter(|(t, _)| t >= start && *t < start + MINUTE.0).map(|(_, c)| c).sum();
                prop_assert!(sum <= limit + burst, "{sum} units within a minute, limit {limit} burst {burst}");
            }
        }

        #[test]
        fn the_wait_is_the_first_instant_that_fits(
            limit in 1u64..1_000,
            burst in 1u64..1_000,
            spent in 0u64..2_000,
            cost in 1u64..1_000,
        ) {
            prop_assume!(cost <= burst);
            let mut bucket = Bucket::new(per_minute(limit), Micros(0));
            bucket.charge(spent);
            let wait = bucket.wait(u128::from(cost), burst).expect("limit is positive");
            let mut then = bucket;
            then.advance(wait);
            prop_assert!(then.available(burst, 0) >= cost, "fits after the wait of {wait:?}");
            if wait.0 > 0 {
                let mut before = bucket;
                before.advance(Micros(wait.0 - 1));
                prop_assert!(before.available(burst, 0) < cost, "did not fit a microsecond earlier");
            }
        }
    }
}
