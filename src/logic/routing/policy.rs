//! The policies by name, and what each needs to know. It dispatches; every rule is in a file of its own.

pub mod consistent_hash;
pub mod kv_aware;
pub mod least_requests;
pub mod p2c;
pub mod round_robin;

use super::eligible::Eligible;
use super::ledger::Ledger;
use crate::domain::cost::CostConstants;

/// How a pool chooses; mirrors the configuration's `policy`.
#[derive(Clone, PartialEq, Debug)]
pub enum PolicyKind {
    /// Least predicted time, cache and queue in one unit.
    KvAware(CostConstants),
    /// Fewest in flight for its weight.
    LeastRequests,
    /// Two at random by weight, the less loaded one.
    P2c,
    /// In turn, by weight.
    RoundRobin,
    /// By session or first block, with bounded load.
    ConsistentHash,
}

/// What a policy chose, and why (`weir_lb_decisions_total{reason}`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pick {
    /// The backend.
    pub backend: usize,
    /// `prefix_hit`, `queue`, `sticky` or `fallback`.
    pub reason: &'static str,
}

/// What the policies that go by counts look at.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Who may be chosen.
    pub eligible: &'a Eligible,
    /// Relative share of each backend; 0 is never chosen.
    pub weights: &'a [u32],
    /// Requests in flight.
    pub ledger: &'a Ledger,
}

impl Field<'_> {
    /// Eligible backends with a weight, from a random one on and around.
    pub fn candidates(&self, chance: u64) -> impl Iterator<Item = usize> + '_ {
        self.eligible.iter_from(chance).filter(|backend| self.weights[*backend] > 0)
    }

    /// Requests in flight for each unit of weight, with one more.
    #[must_use]
    pub fn load_with_one_more(&self, backend: usize) -> f64 {
        (f64::from(self.ledger.inflight(backend)) + 1.0) / f64::from(self.weights[backend])
    }
}

/// Spreads the bits of a number over all 64 (the finaliser of SplitMix64), so that one `chance` makes several.
#[must_use]
pub fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests;
