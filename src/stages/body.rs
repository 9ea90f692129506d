//! Stage 3: what do they ask? Body bytes → `Call`, and the one route and pool that serve it. Reading the bytes is
//! the edge's work; this stage only understands them.

use super::authenticate::Caller;
use crate::config::snapshot::{Action, Route, RouteTarget};
use crate::domain::call::Call;
use crate::domain::refusal::Refusal;
use crate::domain::surface::Surface;
use crate::logic::access::expression::{Expression, Variables};
use crate::logic::access::rule;
use crate::logic::wire::scan;
use crate::runtime::{LivePool, Runtime};
use bytes::Bytes;
use std::sync::Arc;

/// Longest model name that is told back to the caller.
const MAX_MODEL_SHOWN: usize = 128;

/// Where a request goes.
pub enum Destination {
    /// To a pool.
    Pool(Arc<Route>, Arc<LivePool>),
    /// The route answers by itself.
    Respond(Arc<Route>),
}

/// Understands a model call.
///
/// # Errors
/// The body's refusals of semantics.md §1.
pub fn understand(surface: Surface, body: Bytes) -> Result<Call, Refusal> {
    scan::scan(surface, body)
}

/// Keeps the candidates whose condition holds; without variables none holds.
pub fn keep_matching(caller: &mut Caller, variables: Option<&Variables>) {
    let matches = |when: &Expression| variables.is_some_and(|variables| rule::holds(when, variables));
    caller.candidates.retain(|route| route.when.as_ref().is_none_or(&matches));
}

/// The route and pool of a model call: the first candidate whose model condition holds, or whose pools serve the
/// model. `draw` is a random number for the weights.
///
/// # Errors
/// `ModelNotFound` where no route serves the model, `RouteNotFound` where one does but no engine there speaks the
/// surface.
pub fn route_call(
    runtime: &Runtime,
    caller: &Caller,
    surface: Surface,
    model: &str,
    draw: u64,
) -> Result<Destination, Refusal> {
    let mut model_known = false;
    for route in &caller.candidates {
        let Action::Pools(targets) = &route.action else {
            if route.matcher.models.as_ref().is_none_or(|models| models.is_match(model)) {
                return Ok(Destination::Respond(Arc::clone(route)));
            }
            continue;
        };
        let routed = route.rewrite_model.as_deref().unwrap_or(model);
        let serving = |target: &&RouteTarget| match &route.matcher.models {
            Some(models) => models.is_match(model),
            None => runtime.pools.get(target.pool).is_some_and(|pool| pool.serves(routed)),
        };
        let serving: Vec<&RouteTarget> = targets.iter().filter(serving).collect();
        model_known |= !serving.is_empty();
        let speaking: Vec<&RouteTarget> =
            serving.into_iter().filter(|target| speaks(runtime, target.pool, surface)).collect();
        if let Some(pool) = by_weight(&speaking, draw).and_then(|target| runtime.pools.get(target.pool)) {
            return Ok(Destination::Pool(Arc::clone(route), Arc::clone(pool)));
        }
    }
    if model_known {
        return Err(Refusal::RouteNotFound);
    }
    Err(unknown_model(model))
}

/// The refusal for a model that is unknown or not allowed; one answer for both.
#[must_use]
pub fn unknown_model(model: &str) -> Refusal {
    Refusal::ModelNotFound { model: model.chars().take(MAX_MODEL_SHOWN).collect() }
}

/// The route and pool of plain HTTP: the first candidate without a model condition.
///
/// # Errors
/// `RouteNotFound`.
pub fn route_http(runtime: &Runtime, caller: &Caller, draw: u64) -> Result<Destination, Refusal> {
    for route in &caller.candidates {
        if route.matcher.models.is_some() {
            continue;
        }
        let Action::Pools(targets) = &route.action else { return Ok(Destination::Respond(Arc::clone(route))) };
        let targets: Vec<&RouteTarget> = targets.iter().collect();
        if let Some(pool) = by_weight(&targets, draw).and_then(|target| runtime.pools.get(target.pool)) {
            return Ok(Destination::Pool(Arc::clone(route), Arc::clone(pool)));
        }
    }
    Err(Refusal::RouteNotFound)
}

fn speaks(runtime: &Runtime, pool: usize, surface: Surface) -> bool {
    let Some(engine) = runtime.snapshot.pools.get(pool).map(|pool| pool.engine) else { return false };
    match surface {
        Surface::AnthropicMessages => engine.speaks_anthropic(),
        _ => engine != crate::config::snapshot::Engine::Anthropic,
    }
}

/// Picks by weight; `draw` is uniform over `u64`.
fn by_weight<'a>(targets: &[&'a RouteTarget], draw: u64) -> Option<&'a RouteTarget> {
    let total: u64 = targets.iter().map(|target| u64::from(target.weight)).sum();
    let mut left = draw.checked_rem(total)?;
    for target in targets {
        let weight = u64::from(target.weight);
        if left < weight {
            return Some(target);
        }
        left -= weight;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_divide_the_draws() {
        let targets = [RouteTarget { pool: 0, weight: 3 }, RouteTarget { pool: 1, weight: 1 }];
        let all: Vec<&RouteTarget> = targets.iter().collect();
        let hits = (0..400).filter(|draw| by_weight(&all, *draw).map(|t| t.pool) == Some(0)).count();
        assert_eq!(hits, 300, "three quarters of evenly spread draws go to the pool with three quarters of the weight");
    }

    #[test]
    fn no_weight_is_no_target() {
        assert!(by_weight(&[], 7).is_none(), "an empty list has no pick");
        let zero = RouteTarget { pool: 0, weight: 0 };
        assert!(by_weight(&[&zero], 7).is_none(), "weight 0 takes no traffic");
    }
}
