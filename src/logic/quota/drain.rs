//! How a token bucket drains: whole units at whole milliseconds, the rest carried over, so that nothing is lost or won by
//! looking often. The Lua script of `io/quota/redis` does the same, which is why no product reaches 2^53.

/// The largest amount: what a double holds exactly.
pub const MAX_UNITS: u64 = (1 << 53) - 1;
/// The largest limit of a bucket: `limit % window_ms x window_ms` and `limit x window` stay below 2^53.
pub const MAX_LIMIT: u64 = 1_000_000_000_000;
/// The longest window of a bucket: an hour.
pub const MAX_WINDOW_MS: u64 = 3_600_000;
/// No bucket is awaited for longer: 400 days.
pub const MAX_TIME_MS: u64 = 400 * 86_400_000;

/// How fast a bucket drains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    limit: u64,
    window_ms: u64,
}

impl Rate {
    /// `limit` units per window, both brought within their bounds.
    #[must_use]
    pub fn new(limit: u64, window_ms: u64) -> Self {
        Self { limit: limit.clamp(1, MAX_LIMIT), window_ms: window_ms.clamp(1, MAX_WINDOW_MS) }
    }

    /// An upper bound, by less than two windows, of the time in which so many units drain.
    #[must_use]
    pub fn time_bound(self, units: u64) -> u64 {
        let windows = (units / self.limit + 1).min(MAX_TIME_MS / self.window_ms);
        windows * self.window_ms
    }

    /// Milliseconds until so many units have drained, where `drained` units / `window_ms` have already: the least in
    /// which [`Level::drain`] does it.
    #[must_use]
    pub fn time_to(self, units: u64, drained: u64) -> u64 {
        if units == 0 {
            return 0;
        }
        let shares = u128::from(units) * u128::from(self.window_ms) - u128::from(drained.min(self.window_ms - 1));
        u64::try_from(shares.div_ceil(u128::from(self.limit))).unwrap_or(u64::MAX)
    }
}

/// What is in a bucket: it is empty when nothing was used for long, and refuses when it is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Level {
    /// Committed units that have not drained yet; may be more than the bucket's size.
    pub units: u64,
    /// What has drained of the next unit, in units / `window_ms`.
    pub drained: u64,
    /// Up to when it has drained, in milliseconds.
    pub at: i64,
}

impl Level {
    /// Drains up to `now_ms`. A clock that falls back drains nothing until it has caught up, but no more than a window is
    /// waited for.
    pub fn drain(&mut self, rate: Rate, now_ms: i64) {
        let Rate { limit, window_ms } = rate;
        let elapsed = u64::try_from(now_ms.saturating_sub(self.at)).unwrap_or(0);
        let ahead = u64::try_from(self.at.saturating_sub(now_ms)).unwrap_or(0);
        self.at = if ahead > window_ms { now_ms } else { self.at.max(now_ms) };
        // A rule may have got another window since.
        self.drained = self.drained.min(window_ms - 1);
        let (whole, rest) = (elapsed / window_ms, elapsed % window_ms);
        if whole >= self.units.div_ceil(limit) {
            return self.empty();
        }
        self.units -= whole * limit;
        let part = rest * (limit % window_ms) + self.drained;
        let drop = rest * (limit / window_ms) + part / window_ms;
        if drop >= self.units {
            return self.empty();
        }
        self.units -= drop;
        self.drained = part % window_ms;
    }

    /// Adds to it, or takes back.
    pub fn commit(&mut self, delta: i64) {
        let bound = i64::try_from(MAX_UNITS).unwrap_or(i64::MAX);
        let delta = delta.clamp(-bound, bound);
        self.units = self.units.saturating_add_signed(delta).min(MAX_UNITS);
        if self.units == 0 {
            self.empty();
        }
    }

    fn empty(&mut self) {
        self.units = 0;
        self.drained = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(units: u64, at: i64) -> Level {
        Level { units, drained: 0, at }
    }

    #[test]
    fn a_clock_that_fell_back_far_is_believed_after_all() {
        let rate = Rate::new(60, 60_000);
        let mut bucket = level(10, 100_000);
        bucket.drain(rate, 90_000);
        assert_eq!(bucket, level(10, 100_000), "a little behind: it waits");
        bucket.drain(rate, 39_999);
        assert_eq!(bucket.at, 39_999, "more than a window behind: the new clock counts");
        bucket.drain(rate, 40_999);
        assert_eq!(bucket.units, 9, "and it drains by it");
    }

    #[test]
    fn the_largest_figures_fit() {
        let rate = Rate::new(u64::MAX, u64::MAX);
        let mut bucket = Level { units: MAX_UNITS, drained: MAX_WINDOW_MS, at: 0 };
        bucket.drain(rate, 3_599_999);
        assert_eq!(bucket.units, MAX_UNITS - MAX_LIMIT + 277_777, "less what a window but a millisecond drains");
        bucket.drain(rate, i64::MAX);
        assert_eq!((bucket.units, bucket.drained), (0, 0), "time without end empties it");
        bucket.commit(i64::MAX);
        assert_eq!(bucket.units, MAX_UNITS, "an amount has an upper bound");
        bucket.commit(i64::MIN);
        assert_eq!(bucket.units, 0, "and a lower one");
        assert_eq!(Rate::new(0, 0), Rate::new(1, 1), "no rate is 0");
        assert!(Rate::new(1, 1000).time_bound(MAX_UNITS) <= MAX_TIME_MS, "no wait is without end");
    }

    proptest! {
        #[test]
        fn looking_often_changes_nothing(
            limit in 1_u64..2_000_000, window in prop_oneof![Just(1000_u64), Just(60_000), Just(3_600_000)],
            units in 0_u64..5_000_000, steps in prop::collection::vec(0_i64..50_000, 1..20),
        ) {
            let rate = Rate::new(limit, window);
            let (mut often, mut once) = (level(units, 0), level(units, 0));
            let mut now = 0;
            for step in steps {
                now += step;
                often.drain(rate, now);
            }
            once.drain(rate, now);
            prop_assert_eq!(often, once, "the path does not matter");
            let exact = u128::from(now.unsigned_abs()) * u128::from(limit) / u128::from(window);
            prop_assert_eq!(u128::from(once.units), u128::from(units).saturating_sub(exact), "rate x time has drained");
        }

        #[test]
        fn the_wait_is_true(
            limit in 1_u64..20_000, window in prop_oneof![Just(1000_u64), Just(60_000), Just(3_600_000)],
            before in 0_i64..3_000, share in 1_u64..40_000,
        ) {
            let rate = Rate::new(limit, window);
            let mut bucket = level(100_000, 0);
            bucket.drain(rate, before);
            let target = bucket.units - share;
            let wait = i64::try_from(rate.time_to(share, bucket.drained)).expect("it ends");
            let after = |ms: i64| {
                let mut later = bucket;
                later.drain(rate, before + ms);
                later.units
            };
            prop_assert!(after(wait) <= target, "then it has drained");
            prop_assert!(after(wait - 1) > target, "and not before");
            prop_assert!(rate.time_bound(share) >= rate.time_to(share, 0), "the bound is above it");
        }
    }
}
