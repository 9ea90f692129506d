//! Where a bucket stands after uses that are known by time: what the ledger would say, had it heard of them. Decides
//! nothing about which uses those are.

use super::drain::{Level, Rate};

/// The level at an instant, after uses (ms since 1970 and units) in the order of time.
#[must_use]
pub fn level_after(uses: &[(i64, u64)], rate: Rate, now_ms: i64) -> u64 {
    let mut level = Level::default();
    for (at, units) in uses {
        level.drain(rate, *at);
        level.commit(i64::try_from(*units).unwrap_or(i64::MAX));
    }
    level.drain(rate, now_ms);
    level.units
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2026-11-21, 21:00:00 UTC.
    const NOW: i64 = 1_795_294_800_000;

    #[test]
    fn what_was_used_drains_from_when_it_was_used() {
        let rate = Rate::new(60, 60_000);
        assert_eq!(level_after(&[], rate, NOW), 0, "nothing was used");
        assert_eq!(level_after(&[(NOW - 10_000, 15)], rate, NOW), 5, "one a second drains");
        let two = [(NOW - 100_000, 50), (NOW - 10_000, 15)];
        assert_eq!(level_after(&two, rate, NOW), 5, "an empty bucket saves nothing up");
        assert_eq!(level_after(&[(NOW + 1_000, 7)], rate, NOW), 7, "a clock that is ahead takes nothing away");
    }

    proptest! {
        #[test]
        fn uses_within_the_rate_leave_less_than_they_are(
            uses in proptest::collection::vec((0i64..120_000, 0u64..100), 0..50),
            limit in 1u64..1_000,
        ) {
            let mut uses: Vec<(i64, u64)> = uses.into_iter().map(|(ago, units)| (NOW - ago, units)).collect();
            uses.sort_unstable();
            let sum: u64 = uses.iter().map(|(_, units)| units).sum();
            let level = level_after(&uses, Rate::new(limit, 60_000), NOW);
            prop_assert!(level <= sum, "{level} of {sum}");
            let later = level_after(&uses, Rate::new(limit, 60_000), NOW + 60_000);
            prop_assert_eq!(later, level.saturating_sub(limit), "a window drains the limit");
        }
    }
}
