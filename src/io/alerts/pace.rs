//! When an alert is tried again, and for how long. Decides nothing else; chance is passed in.

use crate::domain::limit::Window;
use std::time::Duration;

/// The times of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Before the first repetition; each further one takes twice as long.
    pub first: Duration,
    /// Between two tries at most.
    pub most: Duration,
    /// After this an alert that nobody has taken is given up.
    pub give_up: Duration,
    /// How long one replica has an alert to itself; if it falls silent another one takes over.
    pub claim: Duration,
    /// How long the limit store may be away before an alert is sent all the same, though another replica may send it
    /// too.
    pub patience: Duration,
}

impl Pace {
    /// As documented (docs/limits.md).
    pub const DEFAULT: Self = Self {
        first: Duration::from_secs(1),
        most: Duration::from_secs(300),
        give_up: Duration::from_secs(24 * 3_600),
        claim: Duration::from_secs(60),
        patience: Duration::from_secs(60),
    };

    /// How long to wait after so many tries: doubled each time, of which the upper half is up to `chance` (0 to 1).
    #[must_use]
    pub fn wait(&self, tries: u32, chance: f64) -> Duration {
        self.spread(self.doubled(self.first, tries), chance)
    }

    /// How long to wait before looking whether another replica still has an alert.
    #[must_use]
    pub fn look_again(&self, looks: u32, chance: f64) -> Duration {
        self.claim.max(self.spread(self.doubled(self.claim, looks), chance))
    }

    fn doubled(&self, base: Duration, times: u32) -> Duration {
        base.saturating_mul(2u32.saturating_pow(times.saturating_sub(1))).min(self.most.max(base))
    }

    fn spread(&self, whole: Duration, chance: f64) -> Duration {
        whole.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0)).max(self.first.min(whole))
    }
}

const HOUR: u64 = 3_600;

/// What is left of a period, at least: zones move its end by an hour. `None`: it has no end.
#[must_use]
pub fn left(window: Window, period_ms: i64, now_ms: i64) -> Option<Duration> {
    let span = match window {
        Window::Day => 25 * HOUR,
        Window::Month => (31 * 24 + 1) * HOUR,
        Window::Second | Window::Minute | Window::Hour | Window::Ever => return None,
    };
    let gone = Duration::from_millis(u64::try_from(now_ms.saturating_sub(period_ms)).unwrap_or(0));
    Some(Duration::from_secs(span).saturating_sub(gone))
}

/// How long it is remembered that an alert was delivered: longer than its period, in which others may see the same; for
/// prepaid credit, which has no end, 90 days.
#[must_use]
pub fn kept(window: Window, period_ms: i64, now_ms: i64) -> Duration {
    let hours = |hours: u64| Duration::from_secs(hours * HOUR);
    left(window, period_ms, now_ms).map_or(hours(90 * 24), |left| left + hours(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_a_second_to_five_minutes() {
        let waits = |chance: f64| {
            let seconds = [1, 2, 3, 4, 9, 10, 60, u32::MAX].map(|tries| Pace::DEFAULT.wait(tries, chance).as_millis());
            seconds.map(|wait| u64::try_from(wait).expect("short"))
        };
        assert_eq!(waits(1.0), [1_000, 2_000, 4_000, 8_000, 256_000, 300_000, 300_000, 300_000], "at most");
        assert_eq!(waits(0.0), [1_000, 1_000, 2_000, 4_000, 128_000, 150_000, 150_000, 150_000], "at least");
    }

    #[test]
    fn who_waits_for_another_replica_waits_until_its_claim_may_be_over() {
        for (looks, chance) in [(1, 0.0), (1, 1.0), (2, 0.0), (9, 1.0), (u32::MAX, 1.0)] {
            let wait = Pace::DEFAULT.look_again(looks, chance);
            assert!((Pace::DEFAULT.claim..=Pace::DEFAULT.most).contains(&wait), "{looks}: {wait:?}");
        }
    }

    #[test]
    fn what_was_delivered_is_remembered_for_longer_than_its_period() {
        let at = |window, gone_h: u64| {
            let now = 5_000 + i64::try_from(gone_h * HOUR * 1000).expect("short");
            (left(window, 5_000, now).map(|left| left.as_secs() / HOUR), kept(window, 5_000, now).as_secs() / HOUR)
        };
        assert_eq!(at(Window::Day, 0), (Some(25), 26), "a day has up to 25 hours");
        assert_eq!(at(Window::Month, 1), (Some(31 * 24), 31 * 24 + 1), "a month up to 31 days and an hour");
        assert_eq!(at(Window::Day, 100), (Some(0), 1), "a period that is over");
        assert_eq!(at(Window::Ever, 1_000_000), (None, 90 * 24), "prepaid credit has no end");
    }
}
