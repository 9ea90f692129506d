//! When a replica gives signs of life, and how many replicas it believes in. Decides nothing about what follows from that.
//!
//! A ledger that has lost what it knew hears of the replicas one by one; who believed its first words would take far too
//! large a share when it is away the next time.

use std::time::Duration;
use tokio::time::Instant;

/// Between signs in the beginning and after a loss, so that replicas know of each other soon; then each third of the ttl.
const SOON: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// See the module.
#[derive(Debug)]
pub struct Pulse {
    ttl: Duration,
    next: Instant,
    /// Signs since the beginning, or since the last loss.
    signs: usize,
    /// Live replicas as believed.
    live: u64,
    /// From then on fewer are believed, too: by then all others have given a sign.
    fewer_from: Instant,
}

impl Pulse {
    /// A first sign is due; nobody else is known. `ttl`: a replica without a sign for so long does not live.
    #[must_use]
    pub fn new(now: Instant, ttl: Duration) -> Self {
        Self { ttl, next: now, signs: 0, live: 1, fewer_from: now }
    }

    /// The ledger has lost something, or is another one.
    pub fn lost(&mut self, now: Instant) {
        (self.next, self.signs, self.fewer_from) = (now, 0, now + self.ttl);
    }

    /// True if a sign is due.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.next
    }

    /// A sign was given, and the ledger said how many live. Gives how many to believe in.
    pub fn heard(&mut self, live: u64, now: Instant) -> u64 {
        let third = self.ttl / 3;
        self.next = now + SOON.get(self.signs).map_or(third, |soon| third.min(*soon));
        self.signs += 1;
        self.live = if now < self.fewer_from { live.max(self.live) } else { live.max(1) };
        self.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    /// When signs are due within two minutes, in seconds after `from`.
    fn signs(pulse: &mut Pulse, from: Instant) -> Vec<u64> {
        let due = |second: &u64| {
            let now = from + Duration::from_secs(*second);
            let due = pulse.is_due(now);
            if due {
                pulse.heard(4, now);
            }
            due
        };
        (0..60).filter(due).collect()
    }

    #[test]
    fn signs_come_at_once_and_soon_again_in_the_beginning_and_after_a_loss() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, TTL);
        assert_eq!(signs(&mut pulse, start), [0, 1, 5, 25, 45], "in the beginning");
        let loss = start + TTL;
        pulse.lost(loss);
        assert_eq!(signs(&mut pulse, loss), [0, 1, 5, 25, 45], "after a loss");
    }

    #[test]
    fn fewer_replicas_are_believed_only_when_all_had_time_to_give_a_sign() {
        let start = Instant::now();
        let mut pulse = Pulse::new(start, TTL);
        assert_eq!(pulse.heard(4, start), 4, "as the ledger says");
        assert_eq!(pulse.heard(3, start), 3, "one has gone");
        pulse.lost(start);
        let within = start + TTL - Duration::from_secs(1);
        assert_eq!([1, 2, 5, 4].map(|live| pulse.heard(live, within)), [3, 3, 5, 5], "more is believed, fewer not");
        assert_eq!(pulse.heard(2, start + TTL), 2, "who is silent for so long is gone");
    }
}
