//! How much output the next request of a tenant for a model will probably have: a running 95th percentile.
//! Not a forecast per request; the caller bounds it by the request's own cap.
//!
//! The percentile moves up by 19 small steps when an answer was longer and down by one when it was shorter: it
//! rests where one answer in twenty is longer (stochastic approximation after Robbins and Monro).

use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The least output that is reserved unless the caller's own cap is lower, in tokens (semantics.md §3).
pub const FLOOR: u64 = 64;
/// Models remembered per tenant; the one learnt from longest ago makes room. Callers can name models at will.
pub const MAX_MODELS: usize = 64;

/// Fixed point: tokens times this.
const SCALE: u64 = 1 << 10;
/// Longest answer that is learnt from, in tokens: keeps the fixed point within 64 bits.
const MAX_TOKENS: u64 = 1 << 40;
/// Steps up per answer that was longer, to one down: 0.95 / 0.05.
const UP: u64 = 19;

#[derive(Clone, Copy, Debug)]
struct Percentile {
    value: u64,
    seen: u64,
    turn: u64,
}

impl Percentile {
    /// Steps are a share of the value: coarse (1/64) for the first answers, fine (1/512) from the eighth on.
    fn observe(&mut self, tokens: u64) {
        let seen = tokens.min(MAX_TOKENS) * SCALE;
        self.seen = (self.seen + 1).min(8);
        let step = self.value / (64 * self.seen) + 1;
        self.value = if seen > self.value {
            (self.value + UP * step).min(seen)
        } else {
            self.value.saturating_sub(step).max(seen)
        };
    }
}

/// The estimates of one tenant.
#[derive(Clone, Debug, Default)]
pub struct Estimates {
    models: FxHashMap<Arc<str>, Percentile>,
    turn: u64,
}

impl Estimates {
    /// Output tokens to expect: at least [`FLOOR`], which is also the answer for a model not seen yet.
    #[must_use]
    pub fn output(&self, model: &str) -> u64 {
        self.models.get(model).map_or(FLOOR, |known| known.value.div_ceil(SCALE).max(FLOOR))
    }

    /// Learns from an answer's length in tokens.
    pub fn observe(&mut self, model: &Arc<str>, tokens: u64) {
        self.turn += 1;
        if let Some(known) = self.models.get_mut(model) {
            known.turn = self.turn;
            known.observe(tokens);
            return;
        }
        if self.models.len() >= MAX_MODELS {
            self.forget_oldest();
        }
        let value = tokens.min(MAX_TOKENS) * SCALE;
        self.models.insert(Arc::clone(model), Percentile { value, seen: 0, turn: self.turn });
    }

    fn forget_oldest(&mut self) {
        let oldest = self.models.iter().min_by_key(|(_, known)| known.turn).map(|(model, _)| Arc::clone(model));
        if let Some(model) = oldest {
            self.models.remove(&model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_and_short_answers_get_the_floor() {
        let model: Arc<str> = "m".into();
        let mut estimates = Estimates::default();
        assert_eq!(estimates.output("m"), FLOOR, "nothing is known");
        estimates.observe(&model, 3);
        assert_eq!(estimates.output("m"), FLOOR, "three tokens are below the floor");
    }

    #[test]
    fn answers_of_one_length_are_estimated_at_that_length() {
        let model: Arc<str> = "m".into();
        let mut estimates = Estimates::default();
        for _ in 0..100 {
            estimates.observe(&model, 500);
        }
        assert_eq!(estimates.output("m"), 500, "there is no other length");
    }

    #[test]
    fn the_estimate_settles_near_the_95th_percentile() {
        let model: Arc<str> = "m".into();
        let mut estimates = Estimates::default();
        let mut seed = 1u64;
        let (mut sum, mut count) = (0, 0);
        for turn in 0..20_000u32 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            estimates.observe(&model, (seed >> 33) % 1_000 + 1);
            if turn >= 5_000 {
                sum += estimates.output("m");
                count += 1;
            }
        }
        let mean = sum / count;
        assert!((900..=985).contains(&mean), "mean estimate {mean} for answers spread evenly over 1..=1000");
    }

    #[test]
    fn the_number_of_remembered_models_is_bounded() {
        let mut estimates = Estimates::default();
        let kept: Arc<str> = "kept".into();
        for n in 0..3 * MAX_MODELS {
            estimates.observe(&Arc::from(format!("m{n}")), 100);
            estimates.observe(&kept, 900);
        }
        assert_eq!(estimates.models.len(), MAX_MODELS, "the bound holds");
        assert_eq!(estimates.output("kept"), 900, "a model in use is not the one that goes");
    }

    #[test]
    fn an_absurd_length_does_not_overflow() {
        let model: Arc<str> = "m".into();
        let mut estimates = Estimates::default();
        estimates.observe(&model, u64::MAX);
        estimates.observe(&model, u64::MAX);
        assert!(estimates.output("m") <= MAX_TOKENS, "bounded by the fixed point");
    }
}
