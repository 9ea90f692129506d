//! The constants of the routing cost: what an engine's step takes, and how much each externality counts.
//! Where they come from is the configuration's matter; what is made of them, `logic::routing::cost`'s.

/// Constants of the predicted-time cost; names and defaults from routing-policy.md.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct CostConstants {
    /// Step base, seconds.
    pub a: f64,
    /// Prefill, seconds per token.
    pub p1: f64,
    /// Prefill, seconds per token squared.
    pub p2: f64,
    /// Per decoding sequence, seconds.
    pub c: f64,
    /// Per decoded context token, seconds.
    pub d: f64,
    /// Prefill tokens per step.
    pub step_budget: f64,
    /// A miss also costs cache space.
    pub kappa: f64,
    /// Decodes stalled by this prefill.
    pub alpha: f64,
    /// Arrivals that will queue behind it.
    pub beta: f64,
    /// Its own decode.
    pub gamma: f64,
    /// Age of what would be evicted.
    pub ev: f64,
    /// KV tokens that an engine holds.
    pub kv_tokens: f64,
    /// Bytes that the prefix index may take, all backends of the pool together.
    pub index_budget: u64,
}

impl Default for CostConstants {
    /// Profile 8b-h100, preset `throughput` (routing-policy.md).
    fn default() -> Self {
        Self {
            a: 7.7e-3,
            p1: 36e-6,
            p2: 1.18e-9,
            c: 20e-6,
            d: 76e-9,
            step_budget: 2048.0,
            kappa: 1.5,
            alpha: 0.2,
            beta: 0.5,
            gamma: 0.05,
            ev: 0.5,
            kv_tokens: 400_000.0,
            index_budget: 256 << 20,
        }
    }
}
