//! How often the log is told of the same trouble: a provider that is down would otherwise write a line per request.

use crate::domain::units::WallMicros;
use std::sync::atomic::{AtomicI64, Ordering};

/// From one line to the next.
const EVERY: WallMicros = WallMicros(10_000_000);

/// When the last line was written.
#[derive(Debug)]
pub struct Complaints(AtomicI64);

impl Default for Complaints {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl Complaints {
    /// True if a line may be written now; then the next one has to wait. A clock that was set back does not silence it
    /// for longer than its step.
    pub fn due(&self, now: WallMicros) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        let quiet = last <= now.0 && now.0.saturating_sub(last) < EVERY.0;
        !quiet && self.0.compare_exchange(last, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_in_a_while() {
        let complaints = Complaints::default();
        let told = [0, 1, EVERY.0 - 1, EVERY.0, EVERY.0 + 1, 5].map(|now| complaints.due(WallMicros(now)));
        assert_eq!(told, [true, false, false, true, false, true], "and again after the clock was set back");
    }
}
