//! The two clocks of the machine. The wall clock may jump; nothing here hides that.

use crate::domain::units::{Micros, WallMicros};
use crate::ports::Clock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The machine's clocks; monotonic time counts from when this was made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// Starts monotonic time.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn wall(&self) -> WallMicros {
        let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |micros| -micros),
        };
        WallMicros(micros)
    }

    fn mono(&self) -> Micros {
        self.origin.elapsed().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_goes_back_and_wall_time_is_of_this_century() {
        let clock = SystemClock::new();
        let (first, second) = (clock.mono(), clock.mono());
        assert!(first <= second, "{first:?} then {second:?}");
        assert!(clock.wall().0 > 946_684_800_000_000, "after 2000: {:?}", clock.wall());
    }
}
