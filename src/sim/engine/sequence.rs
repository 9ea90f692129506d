//! One sequence inside the engine: how far it is computed and which blocks it holds. It does not decide when it runs.

use super::blocks::{BlockHash, Blocks};
use crate::domain::units::{Micros, Tokens};
use crate::sim::profile::StepWork;
use std::sync::Arc;

/// Names a sequence; the caller gives the numbers and never uses one twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SeqId(pub u64);

/// One sequence to compute.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name.
    pub id: SeqId,
    /// Hashes of the prompt's full blocks, from its start.
    pub chain: Arc<[BlockHash]>,
    /// Prompt tokens; zero counts as one.
    pub input: Tokens,
    /// Tokens to generate; zero for a pure prefill (embeddings).
    pub output: Tokens,
}

/// What the step under way does for a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Turn {
    Idle,
    Prefill(u64),
    Decode,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SeqId,
    pub(super) arrived: Micros,
    pub(super) input: u64,
    pub(super) output: u64,
    pub(super) generated: u64,
    /// Prompt tokens found in the cache when it was first admitted.
    pub(super) cached: Option<u64>,
    pub(super) turn: Turn,
    /// Blocks that only this sequence knows: the prompt's not yet computed ones, its tail, the output.
    pub(super) private: u64,
    chain: Arc<[BlockHash]>,
    /// Length of `chain` that may be used: the prompt's full blocks.
    full: usize,
    /// Blocks of `chain` that it holds in the cache.
    held: usize,
    /// Tokens whose KV is computed.
    computed: u64,
    /// Tokens to compute before the next one can be sampled, fixed at admission.
    goal: u64,
}

impl Sequence {
    pub(super) fn new(job: Job, arrived: Micros, block_tokens: u64) -> Self {
        let input = job.input.0.max(1);
        let full = usize::try_from(input / block_tokens).unwrap_or(usize::MAX).min(job.chain.len());
        Self {
            id: job.id,
            arrived,
            input,
            output: job.output.0,
            generated: 0,
            cached: None,
            turn: Turn::Idle,
            private: 0,
            chain: job.chain,
            full,
            held: 0,
            computed: 0,
            goal: input,
        }
    }

    /// True once the prompt is computed.
    pub(super) fn decoding(&self) -> bool {
        self.computed >= self.goal
    }

    /// Tokens that the next decode attends to.
    pub(super) fn context(&self) -> u64 {
        self.input + self.generated
    }

    /// True if the next decode's token has no block yet.
    pub(super) fn needs_block(&self, block_tokens: u64) -> bool {
        self.context().div_ceil(block_tokens) > self.held as u64 + self.private
    }

    /// Takes blocks for everything that is to be computed, as many as possible from the cache; false if they do not
    /// fit. One token at least is computed afresh, as in vLLM.
    pub(super) fn admit(&mut self, blocks: &mut Blocks, block_tokens: u64) -> bool {
        let goal = self.context();
        let usable = usize::try_from((goal - 1) / block_tokens).unwrap_or(usize::MAX).min(self.full);
        let hits = blocks.matched(&self.chain[..usable]);
        let fresh = goal.div_ceil(block_tokens) - hits as u64;
        if !blocks.admit(&self.chain[..hits], fresh) {
            return false;
        }
        self.goal = goal;
        self.held = hits;
        self.private = fresh;
        self.computed = hits as u64 * block_tokens;
        self.cached.get_or_insert(self.computed);
        true
    }

    /// Plans the next chunk of its prefill within `budget`; returns its tokens.
    pub(super) fn plan_chunk(&mut self, budget: u64, work: &mut StepWork) -> u64 {
        let n = (self.goal - self.computed).min(budget);
        self.turn = if n == 0 { Turn::Idle } else { Turn::Prefill(n) };
        if n > 0 {
            work.chunk(n, self.computed);
        }
        n
    }

    /// Books the step; true if it sampled a token.
    pub(super) fn finish_turn(&mut self, blocks: &mut Blocks, block_tokens: u64) -> bool {
        match std::mem::replace(&mut self.turn, Turn::Idle) {
            Turn::Idle => false,
            Turn::Decode => true,
            Turn::Prefill(n) => {
                self.computed += n;
                while self.held < self.full && (self.held as u64 + 1) * block_tokens <= self.computed {
                    blocks.commit(self.chain[self.held], self.held);
                    self.private -= 1;
                    self.held += 1;
                }
                self.decoding()
            }
        }
    }

    /// Gives all blocks back.
    pub(super) fn release(&self, blocks: &mut Blocks) {
        blocks.release(&self.chain[..self.held], self.private);
    }

    /// Preemption: everything is to be computed again, apart from what the cache still has then.
    pub(super) fn lose_blocks(&mut self, blocks: &mut Blocks) {
        self.release(blocks);
        self.held = 0;
        self.private = 0;
        self.computed = 0;
        self.goal = self.context();
        self.turn = Turn::Idle;
    }
}
