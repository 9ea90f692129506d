//! How a long piece of work leaves the processor to requests. Decides when it pauses; knows nothing of the work.

use std::time::{Duration, Instant};

/// Work between two pauses: well under what a request may lose to a swap of the snapshot (5 ms).
const STRETCH: Duration = Duration::from_micros(500);
/// A pause. Short, yet the scheduler runs whoever waits.
const PAUSE: Duration = Duration::from_micros(100);

/// The pace of one piece of work.
pub(super) enum Pace {
    /// Without pauses: nobody is served yet.
    Full,
    /// With a pause after each stretch, which began then.
    Gentle(Instant),
}

impl Pace {
    /// Gentle from now on.
    pub(super) fn gentle() -> Self {
        Self::Gentle(Instant::now())
    }

    /// Called between small steps; pauses where it is time.
    pub(super) fn step(&mut self) {
        if let Self::Gentle(since) = self
            && since.elapsed() >= STRETCH
        {
            std::thread::sleep(PAUSE);
            *since = Instant::now();
        }
    }
}
