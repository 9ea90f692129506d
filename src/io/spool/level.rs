//! How full the spool is. Decides when admission stops; measures the directory because the writer, another process,
//! deletes from it.

use super::segment;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Share of `max_bytes` at which an alarm is logged, percent.
pub const ALARM_PERCENT: u64 = 70;
/// Share of `max_bytes` at which new requests are refused, percent; the rest is for those in flight.
pub const STOP_PERCENT: u64 = 95;

/// Bytes in the spool against its bound, and whether the disk takes writes at all.
#[derive(Debug)]
pub struct Level {
    max: u64,
    bytes: AtomicU64,
    failing: AtomicBool,
    alarmed: AtomicBool,
}

impl Level {
    /// An empty spool of at most `max` bytes.
    #[must_use]
    pub fn new(max: u64) -> Self {
        Self { max, bytes: AtomicU64::new(0), failing: AtomicBool::new(false), alarmed: AtomicBool::new(false) }
    }

    /// True if a new request may come in: space is left and the disk takes writes.
    #[must_use]
    pub fn admits(&self) -> bool {
        !self.failing() && self.bytes() < self.max / 100 * STOP_PERCENT
    }

    /// Bytes in the spool, as last measured plus what was written since.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The bound.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max
    }

    /// True while the disk refuses writes.
    #[must_use]
    pub fn failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Says whether the disk refuses writes.
    pub fn set_failing(&self, failing: bool) {
        if self.failing.swap(failing, Ordering::Relaxed) && !failing {
            tracing::info!("the spool can be written again");
        }
    }

    /// Counts bytes that were written between two measurements.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Measures the directory and says so when the alarm level is crossed.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn measure(&self, dir: &Path) -> io::Result<()> {
        let bytes = segment::bytes_in(dir)?;
        self.bytes.store(bytes, Ordering::Relaxed);
        let alarm = bytes >= self.max / 100 * ALARM_PERCENT;
        if alarm != self.alarmed.swap(alarm, Ordering::Relaxed) {
            if alarm {
                tracing::warn!(
                    bytes,
                    max = self.max,
                    "the usage spool is over {ALARM_PERCENT} %: is the writer running?"
                );
            } else {
                tracing::info!(bytes, max = self.max, "the usage spool is below {ALARM_PERCENT} % again");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_stops_at_ninety_five_percent_and_while_the_disk_refuses() {
        let level = Level::new(1_000);
        level.add(949);
        assert!(level.admits(), "94.9 % is below the bound");
        level.add(1);
        assert!(!level.admits(), "95 % is the bound");
        let level = Level::new(1_000);
        level.set_failing(true);
        assert!(!level.admits(), "a disk that takes nothing admits nobody");
    }
}
