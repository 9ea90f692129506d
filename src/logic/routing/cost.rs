//! What it would cost to send a request to a backend: predicted time to first token, and the time it takes from
//! others, all in seconds (routing-policy.md, "The policy, precisely"). It compares nothing and books nothing.

use super::ledger::{Load, Work};
use super::prefix::BLOCK_TOKENS;
use crate::domain::cost::CostConstants;
use crate::domain::units::{Micros, Tokens};
use serde::Serialize;

/// Context at which the rate of other prefills is estimated, tokens (routing-policy.md: W(B)).
const TYPICAL_CONTEXT: f64 = 8_000.0;

/// Most of the head of a queue that is believed to be done while its first output has not come.
const MOST_DONE: f64 = 0.95;

/// Time constant with which the value of an unused block fades, seconds.
const BLOCK_VALUE_FADES: f64 = 120.0;

/// Seconds that a backend costs for each part of KV above [`KV_FULL`].
const KV_PRESSURE: f64 = 20.0;

/// Share of KV from which a request would wait for blocks.
const KV_FULL: f64 = 0.95;

/// One candidate's score, for the choice and for its explanation. Lower is better.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Score {
    /// Its place in the pool.
    pub backend: usize,
    /// For `kv_aware` the sum of the terms divided by the weight, seconds; for the other policies their own measure.
    pub total: f64,
    /// Blocks of the prompt that its cache is believed to hold.
    pub matched_blocks: u32,
    /// The parts of the sum; zero for policies that do not predict time.
    pub terms: Terms,
}

/// The terms of the cost, seconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Terms {
    /// Prefill that is in front of it.
    pub queue: f64,
    /// Its own prefill.
    pub prefill: f64,
    /// Steps of running decodes between the chunks of both.
    pub steps: f64,
    /// kappa: a miss also costs cache space.
    pub space: f64,
    /// alpha: decodes that its prefill stalls.
    pub stall: f64,
    /// beta: arrivals that will queue behind it.
    pub arrivals: f64,
    /// gamma: its own decode among the others.
    pub decode: f64,
    /// ev: worth of the blocks that it evicts.
    pub eviction: f64,
    /// It would wait for KV blocks.
    pub pressure: f64,
}

impl Terms {
    /// The cost J, seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        self.queue
            + self.prefill
            + self.steps
            + self.space
            + self.stall
            + self.arrivals
            + self.decode
            + self.eviction
            + self.pressure
    }
}

/// A request as one backend would see it.
#[derive(Clone, Copy, Debug)]
pub struct Prospect {
    /// L: all input tokens.
    pub input: Tokens,
    /// Blocks of it that the backend holds.
    pub matched_blocks: u32,
    /// o: output tokens to expect.
    pub output: f64,
    /// How old the block is that would be evicted; `None`: there is room.
    pub eviction_age: Option<Micros>,
    /// KV tokens that the backend holds.
    pub kv_tokens: f64,
}

/// The prefill that a request needs with so many blocks in the cache. At least one token is always computed.
#[must_use]
pub fn work(constants: &CostConstants, input: Tokens, matched_blocks: u32) -> Work {
    let cached = (u64::from(matched_blocks) * BLOCK_TOKENS).min(input.0.saturating_sub(1));
    let miss = input.0 - cached;
    let seconds = prefill_seconds(constants, miss as f64, cached as f64);
    Work { nanos: (seconds * 1e9) as u64, miss: Tokens(miss), input }
}

/// The cost of one candidate, term by term.
#[must_use]
pub fn terms(constants: &CostConstants, load: &Load, prospect: &Prospect, now: Micros) -> Terms {
    let CostConstants { a, c, d, .. } = *constants;
    let work = work(constants, prospect.input, prospect.matched_blocks);
    let own = work.nanos as f64 / 1e9;
    let (input, miss) = (prospect.input.0 as f64, work.miss.0 as f64);
    let step = a + c * load.decoding + d * load.context;
    let (queue, queue_tokens) = remaining_queue(constants, load, step, now);
    let per_step = (constants.step_budget - load.decoding).max(1.0);
    let value = prospect.eviction_age.map_or(0.0, |age| (-age.secs() / BLOCK_VALUE_FADES).exp());
    let filled = (load.context_all + input + prospect.output) / prospect.kv_tokens.max(1.0);
    Terms {
        queue,
        prefill: own,
        steps: ((queue_tokens + miss) / per_step).ceil() * step,
        space: (constants.kappa - 1.0) * own,
        stall: constants.alpha * load.decoding * own,
        arrivals: constants.beta * load.arrivals * own * own / 2.0,
        decode: constants.gamma
            * prospect.output
            * (a + c * (load.decoding_all + 1.0) + d * (load.context_all + input)),
        eviction: constants.ev * own * value,
        pressure: KV_PRESSURE * (filled - KV_FULL).max(0.0),
    }
}

fn prefill_seconds(constants: &CostConstants, tokens: f64, context: f64) -> f64 {
    constants.p1 * tokens + constants.p2 * tokens * (context + tokens / 2.0)
}

/// q and qt: the queue less what of its head must be done by now. Prefill gets the share of wall time that a full
/// chunk has of a step.
fn remaining_queue(constants: &CostConstants, load: &Load, step: f64, now: Micros) -> (f64, f64) {
    let Some((head, sent)) = load.head else { return (load.queue, load.queue_tokens) };
    if load.queue <= 0.0 {
        return (0.0, load.queue_tokens);
    }
    let chunk = prefill_seconds(constants, constants.step_budget, TYPICAL_CONTEXT);
    let share = chunk / (chunk + step);
    let done = (share * (now - load.last_first.max(sent)).secs()).clamp(0.0, MOST_DONE * head);
    let queue = load.queue - done;
    (queue, load.queue_tokens * (queue / load.queue))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prospect(input: u64, matched_blocks: u32) -> Prospect {
        Prospect { input: Tokens(input), matched_blocks, output: 100.0, eviction_age: None, kv_tokens: 400_000.0 }
    }

    #[test]
    fn an_idle_backend_costs_the_formula_by_hand() {
        let constants = CostConstants::default();
        let terms = terms(&constants, &Load::default(), &prospect(6_400, 0), Micros(0));
        let own = 36e-6 * 6_400.0 + 1.18e-9 * 6_400.0 * 3_200.0;
        assert!((terms.prefill - own).abs() < 1e-8, "w = p1*miss + p2*miss*(m + miss/2): {terms:?}");
        assert!((terms.steps - 4.0 * 7.7e-3).abs() < 1e-9, "6,400 tokens take four steps of 2,048");
        assert!((terms.space - 0.5 * own).abs() < 1e-8, "(kappa - 1) * w");
        assert!((terms.decode - 0.05 * 100.0 * (7.7e-3 + 20e-6 + 76e-9 * 6_400.0)).abs() < 1e-9, "gamma term");
        assert_eq!(
            (terms.queue, terms.stall, terms.arrivals, terms.eviction, terms.pressure),
            (0.0, 0.0, 0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn a_cached_prefix_is_not_computed_again_but_its_last_token_is() {
        let constants = CostConstants::default();
        assert_eq!(work(&constants, Tokens(6_400), 50).miss, Tokens(3_200), "half is cached");
        assert_eq!(work(&constants, Tokens(6_400), 100).miss, Tokens(1), "one token is always computed");
        assert_eq!(work(&constants, Tokens(0), 0).miss, Tokens(0), "no input, no work");
    }

    #[test]
    fn the_head_of_the_queue_gets_done_with_time_but_never_wholly() {
        let constants = CostConstants::default();
        let load = Load { queue: 3.0, queue_tokens: 300.0, head: Some((2.0, Micros(0))), ..Load::default() };
        let at = |secs: u64| terms(&constants, &load, &prospect(100, 0), Micros(secs * 1_000_000)).queue;
        assert!((at(0) - 3.0).abs() < 1e-9, "nothing is done at once");
        assert!(at(1) < 3.0 && at(1) > 2.0, "a part of a second's worth after a second: {}", at(1));
        assert!((at(100) - 1.1).abs() < 1e-9, "at most 95 % of the head: {}", at(100));
    }

    #[test]
    fn each_externality_grows_with_what_it_names() {
        let constants = CostConstants::default();
        let idle = terms(&constants, &Load::default(), &prospect(6_400, 0), Micros(0));
        let busy = Load {
            decoding: 10.0,
            context: 50_000.0,
            decoding_all: 10.0,
            context_all: 390_000.0,
            arrivals: 2.0,
            ..Load::default()
        };
        let full = Prospect { eviction_age: Some(Micros(120_000_000)), ..prospect(6_400, 0) };
        let terms = terms(&constants, &busy, &full, Micros(0));
        let own = idle.prefill;
        assert!((terms.stall - 0.2 * 10.0 * own).abs() < 1e-8, "alpha * n * w");
        assert!((terms.arrivals - 0.5 * 2.0 * own * own / 2.0).abs() < 1e-8, "beta * lambda * w^2 / 2");
        assert!((terms.eviction - 0.5 * own * (-1.0_f64).exp()).abs() < 1e-8, "ev * w * exp(-age/120 s)");
        assert!((terms.pressure - 20.0 * (396_500.0 / 400_000.0 - 0.95)).abs() < 1e-9, "KV above 95 %");
        assert!(terms.steps > idle.steps && terms.decode > idle.decode, "longer steps for everyone");
    }
}
