//! One pool's book: who has what, and who gets the next request. Choosing and booking are one call, so that under the
//! pool's lock no two requests see the same idle backend. It does not know health, names or addresses.

use super::cost::{self, Score, Terms};
use super::eligible::Eligible;
use super::index::{Fate, Index, Pins};
use super::ledger::{Entry, Ledger, Work};
use super::policy::kv_aware::{self, Prompt, View};
use super::policy::round_robin::Turns;
use super::policy::{Field, Pick, PolicyKind, consistent_hash, least_requests, p2c};
use super::prefix::BLOCK_TOKENS;
use crate::domain::units::{Micros, Tokens};

/// A backend, as far as routing cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendFacts {
    /// Relative share; 0 is never chosen.
    pub weight: u32,
    /// KV tokens that it holds; 0: unknown, the policy's constant counts.
    pub kv_tokens: u64,
    /// A hash of its name: consistent hashing goes by it, so that the order of backends does not matter.
    pub identity: u64,
}

/// A request, as far as routing cares.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Its blocks ([`super::prefix::chain`]); empty where there is no prompt.
    pub chain: &'a [u64],
    /// Estimated input.
    pub input_tokens: Tokens,
    /// A hash of the session that the caller named; `consistent_hash` prefers it to the first block.
    pub affinity: Option<u64>,
}

/// One attempt's place in the book. The attempt's guard owns it and owes it back to [`Book::release`].
#[must_use = "a booking that is not released counts as load for ever"]
#[derive(Debug)]
pub struct Booking {
    /// The chosen backend.
    pub backend: usize,
    /// Blocks of the prompt that its cache is believed to hold.
    pub matched_blocks: u32,
    /// Blocks of the prompt.
    pub total_blocks: u32,
    /// `prefix_hit`, `queue`, `sticky` or `fallback`.
    pub reason: &'static str,
    entry: Entry,
    pins: Pins,
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The answer came to its end.
    Done {
        /// Input tokens as the upstream counts them; scales `cached_tokens` to blocks.
        input: Option<Tokens>,
        /// Output tokens.
        output: Option<Tokens>,
        /// `usage.prompt_tokens_details.cached_tokens`.
        cached_tokens: Option<Tokens>,
    },
    /// The upstream failed.
    Failed,
    /// The client left, or our clock ended it.
    Aborted,
}

/// A pool's sums, for metrics and for the law that they end at zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Requests that have not ended.
    pub inflight: u64,
    /// Uncached prefill tokens without a first output.
    pub queued_tokens: u64,
    /// Input tokens of all requests that have not ended.
    pub context_tokens: u64,
    /// Blocks that running requests use, summed over backends.
    pub active_blocks: u64,
    /// Different blocks in the index.
    pub index_blocks: u64,
    /// Bytes that the index may take.
    pub index_bytes: u64,
}

/// The book of one pool.
#[derive(Debug)]
pub struct Book {
    policy: PolicyKind,
    weights: Vec<u32>,
    identities: Vec<u64>,
    kv_tokens: Vec<f64>,
    ledger: Ledger,
    index: Option<Index>,
    turns: Turns,
    /// Scratch for [`Book::choose`]: matched blocks by backend.
    depths: Vec<u32>,
}

impl Book {
    /// An empty book. Only `kv_aware` keeps an index, within its `index_budget`.
    #[must_use]
    pub fn new(policy: &PolicyKind, backends: &[BackendFacts]) -> Self {
        let (default_kv, budget) = match policy {
            PolicyKind::KvAware(constants) => (constants.kv_tokens, constants.index_budget),
            _ => (0.0, 0),
        };
        let kv_of = |facts: &BackendFacts| if facts.kv_tokens == 0 { default_kv } else { facts.kv_tokens as f64 };
        let kv_tokens: Vec<f64> = backends.iter().map(kv_of).collect();
        let capacities: Vec<usize> = kv_tokens.iter().map(|tokens| (tokens / BLOCK_TOKENS as f64) as usize).collect();
        Self {
            policy: policy.clone(),
            weights: backends.iter().map(|facts| facts.weight).collect(),
            identities: backends.iter().map(|facts| facts.identity).collect(),
            kv_tokens,
            ledger: Ledger::new(backends.len()),
            index: Index::new(&capacities, budget),
            turns: Turns::new(backends.len()),
            depths: vec![0; backends.len()],
        }
    }

    /// Picks a backend and books the request on it; `None` if nobody may be chosen. `eligible` is of this pool.
    pub fn choose(&mut self, ask: &Ask<'_>, eligible: &Eligible, now: Micros, chance: u64) -> Option<Booking> {
        if let Some(index) = &self.index {
            index.depths(ask.chain, eligible, &mut self.depths);
        }
        let pick = self.pick(ask, eligible, now, chance)?;
        let matched_blocks = self.depths[pick.backend];
        let work = match &self.policy {
            PolicyKind::KvAware(constants) => cost::work(constants, ask.input_tokens, matched_blocks),
            _ => Work { nanos: 0, miss: ask.input_tokens, input: ask.input_tokens },
        };
        Some(Booking {
            backend: pick.backend,
            matched_blocks,
            total_blocks: ask.chain.len() as u32,
            reason: pick.reason,
            entry: self.ledger.dispatch(pick.backend, work, now),
            pins: self.index.as_mut().map(|index| index.pin(pick.backend, ask.chain)).unwrap_or_default(),
        })
    }

    fn pick(&mut self, ask: &Ask<'_>, eligible: &Eligible, now: Micros, chance: u64) -> Option<Pick> {
        let field = Field { eligible, weights: &self.weights, ledger: &self.ledger };
        match &self.policy {
            PolicyKind::KvAware(constants) => {
                let view = View { field, constants, index: self.index.as_ref(), kv_tokens: &self.kv_tokens };
                let prompt = Prompt { input: ask.input_tokens, blocks: ask.chain.len(), depths: &self.depths };
                kv_aware::pick(&view, &prompt, now, chance)
            }
            PolicyKind::LeastRequests => least_requests::pick(&field, chance),
            PolicyKind::P2c => p2c::pick(&field, chance),
            PolicyKind::RoundRobin => self.turns.pick(&field, chance),
            PolicyKind::ConsistentHash => match hash_key(ask) {
                Some(key) => consistent_hash::pick(&field, &self.identities, key),
                None => least_requests::pick(&field, chance).map(|pick| Pick { reason: "fallback", ..pick }),
            },
        }
    }

    /// The score of every candidate, in the pool's order, as `choose` would see it now.
    #[must_use]
    pub fn explain(&self, ask: &Ask<'_>, eligible: &Eligible, now: Micros) -> Vec<Score> {
        let mut depths = vec![0; self.weights.len()];
        if let Some(index) = &self.index {
            index.depths(ask.chain, eligible, &mut depths);
        }
        let field = Field { eligible, weights: &self.weights, ledger: &self.ledger };
        let prompt = Prompt { input: ask.input_tokens, blocks: ask.chain.len(), depths: &depths };
        let plain = |backend, total| Score { backend, total, matched_blocks: 0, terms: Terms::default() };
        let score = |backend: usize| match (&self.policy, hash_key(ask)) {
            (PolicyKind::KvAware(constants), _) => {
                let view = View { field, constants, index: self.index.as_ref(), kv_tokens: &self.kv_tokens };
                kv_aware::score(&view, &prompt, backend, now)
            }
            (PolicyKind::ConsistentHash, Some(key)) => {
                plain(backend, consistent_hash::distance(key, self.identities[backend], self.weights[backend]))
            }
            _ => plain(backend, field.load_with_one_more(backend)),
        };
        field.candidates(0).map(score).collect()
    }

    /// The first output of an attempt was seen. Further calls do nothing.
    pub fn first_output(&mut self, booking: &mut Booking, now: Micros) {
        if !booking.entry.waiting() {
            return;
        }
        self.ledger.first_output(booking.backend, &mut booking.entry, now);
        if let Some(index) = &mut self.index {
            index.confirm(booking.backend, &booking.pins);
        }
    }

    /// An attempt ended: its load is gone, and the index learns what is really in the cache.
    pub fn release(&mut self, booking: Booking, ending: Ending, now: Micros) {
        let fate = self.fate(&booking, ending);
        if let Ending::Done { output: Some(output), .. } = ending {
            self.ledger.learn_output(output);
        }
        let Booking { backend, entry, pins, .. } = booking;
        self.ledger.release(backend, entry);
        if let Some(index) = &mut self.index {
            index.unpin(backend, pins, fate, now);
        }
    }

    /// The loop of D6. Only confirmed blocks can be contradicted: those that another request is still computing are
    /// rightly no hit yet. Estimates of tokens are forgiven a sixteenth of the prompt and one block.
    fn fate(&mut self, booking: &Booking, ending: Ending) -> Fate {
        let Ending::Done { input, cached_tokens, .. } = ending else { return Fate::RollBack };
        let (Some(cached), Some(index)) = (cached_tokens, &mut self.index) else { return Fate::Keep };
        let total = u64::from(booking.total_blocks);
        let actual = match input {
            Some(input) if input.0 > 0 => (u128::from(total) * u128::from(cached.0) / u128::from(input.0)) as u64,
            _ => cached.0 / BLOCK_TOKENS,
        };
        let predicted = u64::from(booking.pins.confirmed.min(booking.matched_blocks));
        if actual + 1 + total / 16 < predicted {
            index.shrink(booking.backend);
            return Fate::Truncate(actual as usize);
        }
        if predicted > 0 {
            index.grow(booking.backend);
        }
        Fate::Keep
    }

    /// Forgets what a backend's cache holds, such as after its restart.
    pub fn clear(&mut self, backend: usize) {
        if let Some(index) = &mut self.index {
            index.clear(backend);
        }
    }

    /// Requests of a backend that have not ended.
    #[must_use]
    pub fn inflight(&self, backend: usize) -> u32 {
        self.ledger.inflight(backend)
    }

    /// The pool's sums.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for backend in 0..self.weights.len() {
            totals.inflight += u64::from(self.ledger.inflight(backend));
            totals.queued_tokens += self.ledger.queued_tokens(backend).0;
            totals.context_tokens += self.ledger.context(backend).0;
            totals.active_blocks += self.index.as_ref().map_or(0, |index| index.active(backend)) as u64;
        }
        if let Some(index) = &self.index {
            totals.index_blocks = index.blocks() as u64;
            totals.index_bytes = index.bytes();
        }
        totals
    }
}

fn hash_key(ask: &Ask<'_>) -> Option<u64> {
    ask.affinity.or_else(|| ask.chain.first().copied())
}

#[cfg(test)]
mod tests;
