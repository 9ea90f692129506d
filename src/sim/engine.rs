//! A model of one GPU engine without sockets and clocks: continuous batching, chunked prefill, a paged KV cache with
//! prefix reuse, preemption, a waiting queue. Virtual time comes in as a parameter; equal inputs give equal events.
//! It does not decide how requests look on the wire (`sim/server/`) nor which engine gets them.
//!
//! One step: every decoding sequence gets one token; what is left of the token budget prefills in order of admission,
//! then admits from the queue, first come first served, while a slot is free and the whole prompt fits into the KV
//! cache. If a decoding sequence needs a block and none is left, the newest sequence loses its blocks and goes to the
//! head of the queue (it recomputes prompt and output so far). A prefix block can be hit once it has been computed;
//! generated tokens cannot.

mod blocks;
mod sequence;
#[cfg(test)]
mod tests;

use super::profile::{Profile, StepWork};
use crate::domain::units::{Micros, Tokens};
use blocks::Blocks;
use sequence::{Sequence, Turn};
use std::collections::VecDeque;

pub use blocks::BlockHash;
pub use sequence::{Job, SeqId};

/// Tokens that one step may prefill and decode together (vLLM's `max_num_batched_tokens`).
pub const STEP_TOKENS: u64 = 2_048;
/// Sequences that run at once (vLLM's `max_num_seqs`).
pub const SLOTS: usize = 256;
/// Tokens in a prefix block (vLLM's default).
pub const BLOCK_TOKENS: u64 = 16;

/// What an engine is built from.
#[derive(Clone, Copy, Debug)]
pub struct EngineLimits {
    /// Step costs.
    pub profile: Profile,
    /// Size of the KV cache.
    pub kv_tokens: Tokens,
    /// Sequences that run at once.
    pub slots: usize,
    /// Tokens per prefix block.
    pub block_tokens: u64,
    /// Token budget of a step.
    pub step_tokens: u64,
}

impl EngineLimits {
    /// The profile's own KV cache, 256 slots, blocks of 16 tokens, 2,048 tokens a step.
    #[must_use]
    pub fn of(profile: Profile) -> Self {
        let kv_tokens = profile.kv_tokens;
        Self { profile, kv_tokens, slots: SLOTS, block_tokens: BLOCK_TOKENS, step_tokens: STEP_TOKENS }
    }

    /// Blocks in the KV cache.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.kv_tokens.0 / self.block_tokens.max(1)
    }

    /// True if a sequence of so many tokens can ever run.
    #[must_use]
    pub fn fits(&self, input: Tokens, output: Tokens) -> bool {
        (input + output).0.div_ceil(self.block_tokens.max(1)) <= self.blocks()
    }
}

/// Why a job was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{asked:?} tokens never fit into a KV cache of {capacity:?} tokens")]
pub struct TooLarge {
    /// Prompt and output together.
    pub asked: Tokens,
    /// The KV cache.
    pub capacity: Tokens,
}

/// What happened to a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineEvent {
    /// The prefill ended and gave the first token.
    FirstToken {
        /// Which sequence.
        id: SeqId,
        /// When.
        at: Micros,
        /// Prompt tokens that came from the prefix cache.
        cached: Tokens,
    },
    /// One more token.
    Token {
        /// Which sequence.
        id: SeqId,
        /// When.
        at: Micros,
    },
    /// It lost its blocks and waits again; tokens already given stay given.
    Preempted {
        /// Which sequence.
        id: SeqId,
        /// When.
        at: Micros,
    },
    /// Everything asked for was generated.
    Done {
        /// Which sequence.
        id: SeqId,
        /// When.
        at: Micros,
        /// Prompt tokens that came from the prefix cache.
        cached: Tokens,
    },
}

/// Totals and gauges for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineStats {
    /// Sequences in a slot.
    pub running: u64,
    /// Sequences in the queue.
    pub waiting: u64,
    /// Blocks held by sequences.
    pub used_blocks: u64,
    /// Blocks in all.
    pub total_blocks: u64,
    /// Prompt tokens looked up in the prefix cache, ever.
    pub queried_tokens: u64,
    /// Prompt tokens found there, ever.
    pub hit_tokens: u64,
    /// Prompt tokens of sequences whose prefill ended, ever.
    pub prompt_tokens: u64,
    /// Tokens generated, ever.
    pub generated_tokens: u64,
    /// Preemptions, ever.
    pub preemptions: u64,
    /// Steps, ever.
    pub steps: u64,
}

/// One engine.
#[derive(Debug)]
pub struct Engine {
    limits: EngineLimits,
    blocks: Blocks,
    /// In order of admission; at most `limits.slots`.
    running: Vec<Sequence>,
    /// Bounded by the caller: nothing enters but through `submit`.
    waiting: VecDeque<Sequence>,
    /// End of the last step.
    clock: Micros,
    step_end: Option<Micros>,
    totals: EngineStats,
}

impl Engine {
    /// An idle engine with an empty cache at time zero.
    #[must_use]
    pub fn new(limits: EngineLimits) -> Self {
        let limits = EngineLimits { block_tokens: limits.block_tokens.max(1), slots: limits.slots.max(1), ..limits };
        Self {
            blocks: Blocks::new(limits.blocks()),
            limits,
            running: Vec::new(),
            waiting: VecDeque::new(),
            clock: Micros(0),
            step_end: None,
            totals: EngineStats::default(),
        }
    }

    /// Puts a job into the queue at `now`; calls come in order of time.
    ///
    /// # Errors
    /// [`TooLarge`] if it could never run.
    pub fn submit(&mut self, job: Job, now: Micros) -> Result<(), TooLarge> {
        let asked = job.input + job.output;
        if !self.limits.fits(job.input, job.output) {
            return Err(TooLarge { asked, capacity: self.limits.kv_tokens });
        }
        self.waiting.push_back(Sequence::new(job, now, self.limits.block_tokens));
        Ok(())
    }

    /// Forgets a sequence at once and frees its blocks; false if it is unknown or already done. The step that is under
    /// way takes as long as it was planned to.
    pub fn cancel(&mut self, id: SeqId) -> bool {
        if let Some(at) = self.running.iter().position(|seq| seq.id == id) {
            let seq = self.running.remove(at);
            seq.release(&mut self.blocks);
            return true;
        }
        let Some(at) = self.waiting.iter().position(|seq| seq.id == id) else { return false };
        self.waiting.remove(at).is_some()
    }

    /// When the next thing happens; `None` while idle.
    #[must_use]
    pub fn next_event_at(&self) -> Option<Micros> {
        self.step_end.or_else(|| self.next_start())
    }

    fn next_start(&self) -> Option<Micros> {
        if !self.running.is_empty() {
            return Some(self.clock);
        }
        self.waiting.front().map(|seq| seq.arrived.max(self.clock))
    }

    /// Lets virtual time pass until `now`; what happened is appended to `events` in order.
    pub fn advance(&mut self, now: Micros, events: &mut Vec<EngineEvent>) {
        while let Some(at) = self.next_event_at().filter(|at| *at <= now) {
            match self.step_end.take() {
                Some(end) => self.finish_step(end, events),
                None => self.start_step(at, events),
            }
        }
    }

    /// Totals and gauges.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        EngineStats {
            running: self.running.len() as u64,
            waiting: self.waiting.len() as u64,
            used_blocks: self.blocks.used(),
            total_blocks: self.blocks.capacity(),
            ..self.totals
        }
    }

    fn start_step(&mut self, at: Micros, events: &mut Vec<EngineEvent>) {
        let preempted = self.make_room_for_decodes(at, events);
        let mut work = StepWork::default();
        for seq in self.running.iter_mut().filter(|seq| seq.decoding()) {
            work.decode(seq.context());
            seq.turn = Turn::Decode;
        }
        let mut budget = self.limits.step_tokens.saturating_sub(work.decodes);
        for seq in self.running.iter_mut().filter(|seq| !seq.decoding()) {
            budget -= seq.plan_chunk(budget, &mut work);
        }
        // Taking in what was thrown out a moment ago would only move the same blocks to and fro.
        if !preempted {
            self.admit_waiting(at, budget, &mut work);
        }
        self.totals.steps += 1;
        self.clock = at;
        self.step_end = Some(at + self.limits.profile.step_time(&work));
    }

    /// Gives each decoding sequence the block that its next token may need; true if one had to go for that.
    fn make_room_for_decodes(&mut self, at: Micros, events: &mut Vec<EngineEvent>) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() {
            let seq = &mut self.running[index];
            if !seq.decoding() || !seq.needs_block(self.limits.block_tokens) {
                index += 1;
                continue;
            }
            if self.blocks.take(1) {
                seq.private += 1;
                index += 1;
                continue;
            }
            let Some(mut newest) = self.running.pop() else { break };
            newest.lose_blocks(&mut self.blocks);
            events.push(EngineEvent::Preempted { id: newest.id, at });
            self.totals.preemptions += 1;
            self.waiting.push_front(newest);
            preempted = true;
        }
        preempted
    }

    fn admit_waiting(&mut self, at: Micros, mut budget: u64, work: &mut StepWork) {
        while budget > 0 && self.running.len() < self.limits.slots {
            let Some(seq) = self.waiting.front_mut().filter(|seq| seq.arrived <= at) else { return };
            let first = seq.cached.is_none();
            if !seq.admit(&mut self.blocks, self.limits.block_tokens) {
                return;
            }
            if first {
                self.totals.queried_tokens += seq.input;
                self.totals.hit_tokens += seq.cached.unwrap_or(0);
            }
            budget -= seq.plan_chunk(budget, work);
            if let Some(seq) = self.waiting.pop_front() {
                self.running.push(seq);
            }
        }
    }

    fn finish_step(&mut self, at: Micros, events: &mut Vec<EngineEvent>) {
        self.clock = at;
        let (blocks, totals, block_tokens) = (&mut self.blocks, &mut self.totals, self.limits.block_tokens);
        self.running.retain_mut(|seq| {
            let sampled = seq.finish_turn(blocks, block_tokens);
            if !sampled {
                return true;
            }
            let cached = Tokens(seq.cached.unwrap_or(0));
            if seq.generated == 0 {
                totals.prompt_tokens += seq.input;
            }
            if seq.output > 0 {
                seq.generated += 1;
                totals.generated_tokens += 1;
                events.push(match seq.generated {
                    1 => EngineEvent::FirstToken { id: seq.id, at, cached },
                    _ => EngineEvent::Token { id: seq.id, at },
                });
            }
            if seq.generated < seq.output {
                return true;
            }
            events.push(EngineEvent::Done { id: seq.id, at, cached });
            seq.release(blocks);
            false
        });
    }
}
