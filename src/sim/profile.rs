//! Hardware profiles: what one engine step costs and how many tokens its KV cache holds. It does not decide what goes
//! into a step (see [`super::engine`]).

use crate::domain::units::{Micros, Tokens};

/// Constants of one model on one kind of GPU. Times in seconds; sources in the routing policy's "Engine model".
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// The name that `--profile` takes.
    pub name: &'static str,
    /// `a`: seconds that every step costs.
    pub step: f64,
    /// `p1`: seconds per prefilled token.
    pub prefill: f64,
    /// `p2`: seconds per prefilled token and token of context (attention).
    pub attention: f64,
    /// `c`: seconds per decoding sequence.
    pub decode: f64,
    /// `d`: seconds per token of context of the decoding sequences.
    pub context: f64,
    /// Tokens that fit into the KV cache.
    pub kv_tokens: Tokens,
}

/// Every profile, the default first.
///
/// 8b-h100: Llama-3.1-8B bf16, 16 GB / 3.35 TB/s x 1.36 + 32 layers x 32.1 us + 126 us; 16 GFLOP / (989.5 TF x 0.45);
/// KV 131 kB/token / 3.35 TB/s x 1.95. 8b-h200: the same on 4.8 TB/s with an fp8 KV cache. 70b-h100x4: 70B, TP4.
pub const PROFILES: [Profile; 3] = [
    Profile {
        name: "8b-h100",
        step: 7.7e-3,
        prefill: 36e-6,
        attention: 1.18e-9,
        decode: 20e-6,
        context: 76e-9,
        kv_tokens: Tokens(400_000),
    },
    Profile {
        name: "8b-h200",
        step: 5.8e-3,
        prefill: 36e-6,
        attention: 1.18e-9,
        decode: 20e-6,
        context: 27e-9,
        kv_tokens: Tokens(1_600_000),
    },
    Profile {
        name: "70b-h100x4",
        step: 18e-3,
        prefill: 95e-6,
        attention: 1.47e-9,
        decode: 30e-6,
        context: 47.6e-9,
        kv_tokens: Tokens(400_000),
    },
];

/// The work of one step, summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepWork {
    /// Prefilled tokens: Σ n.
    pub prefill: f64,
    /// Prefilled tokens times the context each one attends to: Σ n*(ctx + n/2).
    pub attended: f64,
    /// Sequences that decode one token.
    pub decodes: u64,
    /// Their context: Σ tokens in the KV cache.
    pub context: u64,
}

impl StepWork {
    /// Adds a prefill chunk of `n` tokens that follows `ctx` tokens already computed.
    pub fn chunk(&mut self, n: u64, ctx: u64) {
        let n = n as f64;
        self.prefill += n;
        self.attended += n * (ctx as f64 + n / 2.0);
    }

    /// Adds a sequence that decodes one token after `ctx` tokens.
    pub fn decode(&mut self, ctx: u64) {
        self.decodes += 1;
        self.context += ctx;
    }
}

impl Profile {
    /// The profile of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        PROFILES.iter().find(|profile| profile.name == name).copied()
    }

    /// How long a step takes: `a + Σ(p1*n + p2*n*(ctx+n/2)) + c*decodes + d*context`, at least 1 us.
    #[must_use]
    pub fn step_time(&self, work: &StepWork) -> Micros {
        let secs = self.step
            + self.prefill * work.prefill
            + self.attention * work.attended
            + self.decode * work.decodes as f64
            + self.context * work.context as f64;
        Micros(((secs * 1e6).round() as u64).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_costs_what_the_formula_says() {
        let profile = Profile::named("8b-h100").expect("a known profile");
        let mut work = StepWork::default();
        work.chunk(1_000, 500);
        work.decode(2_000);
        work.decode(1_000);
        let secs = 7.7e-3 + 36e-6 * 1_000.0 + 1.18e-9 * 1_000.0 * (500.0 + 500.0) + 20e-6 * 2.0 + 76e-9 * 3_000.0;
        assert_eq!(profile.step_time(&work), Micros((secs * 1e6_f64).round() as u64), "a + chunks + decode + context");
    }

    #[test]
    fn a_cold_100k_prompt_takes_about_nine_and_a_half_seconds_on_8b_h100() {
        let profile = Profile::named("8b-h100").expect("a known profile");
        let (mut done, mut total) = (0_u64, 0_u64);
        while done < 100_000 {
            let n = 2_048.min(100_000 - done);
            let mut work = StepWork::default();
            work.chunk(n, done);
            total += profile.step_time(&work).0;
            done += n;
        }
        assert!((9_000_000..11_000_000).contains(&total), "the policy's figure is 9.5 s, got {total} us");
    }

    #[test]
    fn an_unknown_name_is_no_profile() {
        assert_eq!(Profile::named("9b-abacus"), None, "only listed names are profiles");
    }
}
