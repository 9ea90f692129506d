//! What Weir has sent to each backend and not yet seen the end of: the state of the predicted-time policy.
//! It counts; it does not score. Sums are integers, so that after the last release they are exactly zero.

use crate::domain::units::{Micros, Tokens};
use std::collections::BTreeMap;

/// Horizon of the arrival rate, seconds (routing-policy.md).
const ARRIVAL_HORIZON: f64 = 60.0;

/// Weight of one answer in the fleet's mean output length (routing-policy.md).
const OUTPUT_WEIGHT: f64 = 0.01;

/// Output tokens expected before any answer was seen; knowing the true length buys nothing (routing-policy.md).
const FIRST_OUTPUT_GUESS: f64 = 256.0;

/// What a request costs its backend until its first output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// Predicted prefill time, nanoseconds.
    pub nanos: u64,
    /// Input that is not expected in the cache.
    pub miss: Tokens,
    /// All input.
    pub input: Tokens,
}

/// A backend's load as the cost function reads it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Load {
    /// Q: prefill work without a first output, seconds.
    pub queue: f64,
    /// Qtok: its tokens.
    pub queue_tokens: f64,
    /// The oldest of it: its work in seconds, and when it was sent.
    pub head: Option<(f64, Micros)>,
    /// tf: when the last first output was seen.
    pub last_first: Micros,
    /// n: requests that are decoding.
    pub decoding: f64,
    /// S: their input tokens.
    pub context: f64,
    /// n with those that wait for their first output.
    pub decoding_all: f64,
    /// S with those that wait for their first output.
    pub context_all: f64,
    /// lambda: requests a second.
    pub arrivals: f64,
}

/// The state of every backend of a pool.
#[derive(Debug)]
pub struct Ledger {
    backends: Vec<Account>,
    /// o: mean output length.
    output: f64,
    next: u64,
}

#[derive(Clone, Debug, Default)]
struct Account {
    /// Requests without a first output, oldest first. Removal is O(log) of a few hundred at most.
    pending: BTreeMap<u64, (Work, Micros)>,
    queue_nanos: u64,
    queue_tokens: u64,
    pending_context: u64,
    decoding: u32,
    context: u64,
    last_first: Micros,
    arrivals: f64,
    arrivals_at: Micros,
}

/// Where a request stands; owed back to [`Ledger::release`].
#[must_use = "an entry that is not released counts as load for ever"]
#[derive(Debug)]
pub struct Entry {
    order: u64,
    waiting: bool,
    input: u64,
}

impl Entry {
    /// True until the first output.
    #[must_use]
    pub fn waiting(&self) -> bool {
        self.waiting
    }
}

impl Ledger {
    /// A ledger with no load.
    #[must_use]
    pub fn new(backends: usize) -> Self {
        Self { backends: vec![Account::default(); backends], output: FIRST_OUTPUT_GUESS, next: 0 }
    }

    /// Charges a request to a backend, at the moment it is chosen.
    pub fn dispatch(&mut self, backend: usize, work: Work, now: Micros) -> Entry {
        self.next += 1;
        let account = &mut self.backends[backend];
        account.queue_nanos += work.nanos;
        account.queue_tokens += work.miss.0;
        account.pending_context += work.input.0;
        account.arrivals = account.arrivals_at(now) + 1.0 / ARRIVAL_HORIZON;
        account.arrivals_at = now;
        account.pending.insert(self.next, (work, now));
        Entry { order: self.next, waiting: true, input: work.input.0 }
    }

    /// The first output was seen: prefill is over, decoding begins. Further calls do nothing.
    pub fn first_output(&mut self, backend: usize, entry: &mut Entry, now: Micros) {
        let account = &mut self.backends[backend];
        if !entry.waiting || !account.end_waiting(entry.order) {
            return;
        }
        entry.waiting = false;
        account.decoding += 1;
        account.context += entry.input;
        account.last_first = now;
    }

    /// The request is over, whatever it came to.
    pub fn release(&mut self, backend: usize, entry: Entry) {
        let account = &mut self.backends[backend];
        if entry.waiting {
            account.end_waiting(entry.order);
            return;
        }
        account.decoding -= 1;
        account.context -= entry.input;
    }

    /// An answer came to its end with this much output.
    pub fn learn_output(&mut self, output: Tokens) {
        self.output += OUTPUT_WEIGHT * (output.0 as f64 - self.output);
    }

    /// o: output tokens that an answer is expected to have.
    #[must_use]
    pub fn output(&self) -> f64 {
        self.output
    }

    /// Requests of a backend that have not ended.
    #[must_use]
    pub fn inflight(&self, backend: usize) -> u32 {
        let account = &self.backends[backend];
        account.decoding + account.pending.len() as u32
    }

    /// Prefill tokens of a backend that wait for their first output.
    #[must_use]
    pub fn queued_tokens(&self, backend: usize) -> Tokens {
        Tokens(self.backends[backend].queue_tokens)
    }

    /// Input tokens of all requests of a backend that have not ended.
    #[must_use]
    pub fn context(&self, backend: usize) -> Tokens {
        let account = &self.backends[backend];
        Tokens(account.context + account.pending_context)
    }

    /// A backend's load as of `now`.
    #[must_use]
    pub fn load(&self, backend: usize, now: Micros) -> Load {
        let account = &self.backends[backend];
        Load {
            queue: account.queue_nanos as f64 / 1e9,
            queue_tokens: account.queue_tokens as f64,
            head: account.pending.first_key_value().map(|(_, (work, sent))| (work.nanos as f64 / 1e9, *sent)),
            last_first: account.last_first,
            decoding: f64::from(account.decoding),
            context: account.context as f64,
            decoding_all: f64::from(self.inflight(backend)),
            context_all: self.context(backend).0 as f64,
            arrivals: account.arrivals_at(now),
        }
    }
}

impl Account {
    fn arrivals_at(&self, now: Micros) -> f64 {
        if self.arrivals == 0.0 {
            return 0.0;
        }
        self.arrivals * (-(now - self.arrivals_at).secs() / ARRIVAL_HORIZON).exp()
    }

    /// Takes a request out of the queue; false if it was not in it.
    fn end_waiting(&mut self, order: u64) -> bool {
        let Some((work, _)) = self.pending.remove(&order) else { return false };
        self.queue_nanos -= work.nanos;
        self.queue_tokens -= work.miss.0;
        self.pending_context -= work.input.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Work = Work { nanos: 2_000_000_000, miss: Tokens(100), input: Tokens(150) };

    #[test]
    fn a_request_is_prefill_load_until_its_first_output_and_decode_load_after() {
        let mut ledger = Ledger::new(1);
        let mut entry = ledger.dispatch(0, WORK, Micros(5));
        let before = ledger.load(0, Micros(5));
        assert_eq!((before.queue, before.queue_tokens, before.decoding, before.context), (2.0, 100.0, 0.0, 0.0));
        assert_eq!(before.head, Some((2.0, Micros(5))), "it is the head of the queue");
        assert_eq!((before.decoding_all, before.context_all), (1.0, 150.0), "it counts as in flight at once");
        ledger.first_output(0, &mut entry, Micros(9));
        ledger.first_output(0, &mut entry, Micros(10));
        let after = ledger.load(0, Micros(10));
        assert_eq!((after.queue, after.queue_tokens, after.decoding, after.context), (0.0, 0.0, 1.0, 150.0));
        assert_eq!((after.head, after.last_first), (None, Micros(9)), "the first call is the one that counts");
        ledger.release(0, entry);
        assert_eq!(ledger.load(0, Micros(10)).context_all, 0.0, "nothing is left");
        assert_eq!(ledger.inflight(0), 0, "nobody is left");
    }

    #[test]
    fn the_head_of_the_queue_is_the_oldest_that_still_waits() {
        let mut ledger = Ledger::new(1);
        let first = ledger.dispatch(0, WORK, Micros(1));
        let second = ledger.dispatch(0, WORK, Micros(2));
        let third = ledger.dispatch(0, WORK, Micros(3));
        ledger.release(0, second);
        assert_eq!(ledger.load(0, Micros(4)).head, Some((2.0, Micros(1))), "the middle one left");
        ledger.release(0, first);
        assert_eq!(ledger.load(0, Micros(4)).head, Some((2.0, Micros(3))), "the next in line moves up");
        ledger.release(0, third);
        assert_eq!(ledger.load(0, Micros(4)).head, None, "an empty queue has no head");
    }

    #[test]
    fn steady_arrivals_are_learnt_and_forgotten() {
        let mut ledger = Ledger::new(1);
        for second in 0..600 {
            let entry = ledger.dispatch(0, WORK, Micros(second * 1_000_000));
            ledger.release(0, entry);
        }
        let rate = ledger.load(0, Micros(600_000_000)).arrivals;
        assert!((rate - 1.0).abs() < 0.05, "one a second, measured {rate}");
        let later = ledger.load(0, Micros(1_200_000_000)).arrivals;
        assert!(later < 1e-3, "ten minutes of silence leave {later}");
    }

    #[test]
    fn the_mean_output_moves_by_a_hundredth() {
        let mut ledger = Ledger::new(1);
        ledger.learn_output(Tokens(356));
        assert!((ledger.output() - 257.0).abs() < 1e-9, "256 + 0.01 * 100, got {}", ledger.output());
    }
}
