//! `pools.*.policy` – how a backend is chosen, with the constants of the predicted-time cost.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::{CostConstants, Policy};

const POLICIES: &[&str] = &["kv_aware", "least_requests", "p2c", "round_robin", "consistent_hash"];
const CONSTANTS: &[&str] = &[
    "preset",
    "index_budget",
    "a",
    "p1",
    "p2",
    "c",
    "d",
    "step_budget",
    "kappa",
    "alpha",
    "beta",
    "gamma",
    "ev",
    "kv_tokens",
];

/// Reads a policy: its name alone, or `kv_aware: { … }`.
#[must_use]
pub fn policy(item: &Item<'_>) -> Option<Policy> {
    let (name, settings) = item.variant(POLICIES, &["least_latency", "random", "weighted", "session"])?;
    let settings = settings.filter(|settings| !settings.node.is_null());
    let policy = match name {
        "kv_aware" => Policy::KvAware(settings.as_ref().map(constants).unwrap_or_default()),
        "least_requests" => Policy::LeastRequests,
        "p2c" => Policy::P2c,
        "round_robin" => Policy::RoundRobin,
        _ => Policy::ConsistentHash,
    };
    if let (Some(settings), false) = (settings, matches!(policy, Policy::KvAware(_))) {
        let _ = settings.fields(&[], &[]);
    }
    Some(policy)
}

/// The constants: the preset first, then what is set by itself (routing-policy.md).
fn constants(item: &Item<'_>) -> CostConstants {
    let fields = item.fields(CONSTANTS, &["hold", "profile", "rho", "block_tokens"]);
    let mut k = CostConstants::default();
    let presets = ["latency", "throughput", "sticky"];
    match fields.get("preset").and_then(|preset| preset.choice(&presets, &[])) {
        Some("latency") => k.beta = 0.0,
        Some("sticky") => k.kappa = 3.0,
        _ => {}
    }
    let numbers: [(&str, &mut f64); 12] = [
        ("a", &mut k.a),
        ("p1", &mut k.p1),
        ("p2", &mut k.p2),
        ("c", &mut k.c),
        ("d", &mut k.d),
        ("step_budget", &mut k.step_budget),
        ("kappa", &mut k.kappa),
        ("alpha", &mut k.alpha),
        ("beta", &mut k.beta),
        ("gamma", &mut k.gamma),
        ("ev", &mut k.ev),
        ("kv_tokens", &mut k.kv_tokens),
    ];
    for (key, slot) in numbers {
        *slot = fields.or(key, Item::number, *slot);
        if matches!(key, "a" | "p1" | "step_budget" | "kv_tokens") && *slot <= 0.0 {
            let hint = Some("leave the key out for the default".to_owned());
            fields.item(key).error(Code::OutOfRange, format!("`{key}` must be above 0"), hint);
        }
    }
    k.index_budget = fields.or("index_budget", Item::size, k.index_budget);
    k
}
