//! The same backend for the same session or prompt beginning, unless it is too busy.
//!
//! Weighted rendezvous hashing instead of a ring of virtual nodes: weights are exact, the loss of a backend moves only
//! its own keys, and there is no ring to rebuild; a pick is one hash per backend. Load is bounded to 1.25 of a
//! backend's fair share; beyond it the next in the key's order takes over.

use super::{Field, Pick, mix};

/// Bound of a backend's load, as a multiple of its fair share.
const BOUND: f64 = 1.25;

/// Picks for a key, or `None` if nobody may be chosen. `identities` name backends independently of their order.
#[must_use]
pub fn pick(field: &Field<'_>, identities: &[u64], key: u64) -> Option<Pick> {
    let (mut weight, mut inflight) = (0.0, 1.0);
    for backend in field.candidates(0) {
        weight += f64::from(field.weights[backend]);
        inflight += f64::from(field.ledger.inflight(backend));
    }
    let bound = BOUND * inflight / weight;
    let mut preferred: Option<(f64, usize)> = None;
    let mut allowed: Option<(f64, usize)> = None;
    for backend in field.candidates(0) {
        let distance = distance(key, identities[backend], field.weights[backend]);
        if preferred.is_none_or(|(least, _)| distance < least) {
            preferred = Some((distance, backend));
        }
        let one_more = f64::from(field.ledger.inflight(backend)) + 1.0;
        let fits = one_more <= (bound * f64::from(field.weights[backend])).ceil();
        if fits && allowed.is_none_or(|(least, _)| distance < least) {
            allowed = Some((distance, backend));
        }
    }
    let (_, preferred) = preferred?;
    let backend = allowed.map_or(preferred, |(_, backend)| backend);
    Some(Pick { backend, reason: if backend == preferred { "sticky" } else { "fallback" } })
}

/// How far a key is from a backend: exponentially distributed with the weight as its rate, so the nearest is drawn in
/// proportion to weights.
#[must_use]
pub fn distance(key: u64, identity: u64, weight: u32) -> f64 {
    let uniform = ((mix(key ^ mix(identity)) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / f64::from(weight)
}
