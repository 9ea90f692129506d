//! The backend with the least predicted cost (routing-policy.md): cache and queue compared in seconds.

use super::super::cost::{self, Prospect, Score, Terms};
use super::super::index::Index;
use super::{Field, Pick};
use crate::domain::cost::CostConstants;
use crate::domain::units::{Micros, Tokens};

/// What the policy knows beside the field.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Candidates, weights, loads.
    pub field: Field<'a>,
    /// The constants.
    pub constants: &'a CostConstants,
    /// The mirrors; `None` where there is no room for any.
    pub index: Option<&'a Index>,
    /// KV tokens of each backend.
    pub kv_tokens: &'a [f64],
}

/// The request: its input, its blocks, and how many of them each backend holds.
#[derive(Clone, Copy, Debug)]
pub struct Prompt<'a> {
    /// All input.
    pub input: Tokens,
    /// Blocks of the prompt.
    pub blocks: usize,
    /// Matched blocks by backend.
    pub depths: &'a [u32],
}

/// Picks, or `None` if nobody may be chosen. Among equals the first from a random start.
#[must_use]
pub fn pick(view: &View<'_>, prompt: &Prompt<'_>, now: Micros, chance: u64) -> Option<Pick> {
    let mut best: Option<(f64, usize)> = None;
    for backend in view.field.candidates(chance) {
        let total = score(view, prompt, backend, now).total;
        if best.is_none_or(|(least, _)| total < least) {
            best = Some((total, backend));
        }
    }
    let (_, backend) = best?;
    Some(Pick { backend, reason: if prompt.depths[backend] > 0 { "prefix_hit" } else { "queue" } })
}

/// One candidate's score. A weight of 2 counts as an engine that is twice as fast.
#[must_use]
pub fn score(view: &View<'_>, prompt: &Prompt<'_>, backend: usize, now: Micros) -> Score {
    let matched_blocks = prompt.depths[backend];
    let missing = prompt.blocks - matched_blocks as usize;
    let prospect = Prospect {
        input: prompt.input,
        matched_blocks,
        output: view.field.ledger.output(),
        eviction_age: view.index.and_then(|index| index.eviction_age(backend, missing, now)),
        kv_tokens: view.kv_tokens[backend],
    };
    let terms: Terms = cost::terms(view.constants, &view.field.ledger.load(backend, now), &prospect, now);
    Score { backend, total: terms.sum() / f64::from(view.field.weights[backend]), matched_blocks, terms }
}
