//! Stage 4: may they? Which models a principal may use. A model that is not allowed looks like one that does not
//! exist, so that nobody can read the catalogue by asking.

use super::body::unknown_model;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::logic::access::models;
use crate::runtime::Runtime;
use serde_json::{Value, json};

/// Refuses a model that the caller's key or tenant may not use.
///
/// # Errors
/// `ModelNotFound`.
pub fn check(runtime: &Runtime, principal: &Principal, model: &str) -> Result<(), Refusal> {
    if may_use(runtime, principal, model) { Ok(()) } else { Err(unknown_model(model)) }
}

/// True where both the tenant and the key allow a model.
#[must_use]
pub fn may_use(runtime: &Runtime, principal: &Principal, model: &str) -> bool {
    let tenant = runtime.snapshot.tenants.get(&principal.tenant).and_then(|tenant| tenant.models.as_ref());
    models::may_use(principal, tenant, model)
}

/// What the caller may use, each name once, with its owner.
fn usable(runtime: &Runtime, principal: &Principal) -> Vec<(String, &'static str)> {
    let mut names: Vec<(String, &'static str)> = Vec::new();
    for pool in &runtime.pools {
        for name in pool.models().unwrap_or_default() {
            if may_use(runtime, principal, &name) && !names.iter().any(|(known, _)| *known == name) {
                names.push((name, pool.config.engine.name()));
            }
        }
    }
    names.sort();
    names
}

/// The answer to `GET /v1/models` (what the caller may use) and to `GET /v1/models/{model}`.
///
/// # Errors
/// `ModelNotFound` for one that is unknown or not allowed.
pub fn models(runtime: &Runtime, principal: &Principal, path: &str) -> Result<String, Refusal> {
    let mut known = usable(runtime, principal).into_iter();
    match path.strip_prefix("/v1/models/") {
        Some(wanted) => {
            let found = known.find(|(name, _)| name == wanted);
            found.map(|(name, owner)| entry(&name, owner).to_string()).ok_or_else(|| unknown_model(wanted))
        }
        None => {
            let data: Vec<Value> = known.map(|(name, owner)| entry(&name, owner)).collect();
            Ok(json!({"object": "list", "data": data}).to_string())
        }
    }
}

fn entry(name: &str, owner: &str) -> Value {
    json!({"id": name, "object": "model", "created": 0, "owned_by": owner})
}
