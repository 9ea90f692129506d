//! Roles over HTTP, read only: they are configured. Decides nothing.

use super::call::{Answer, Call};
use super::problem::Problem;
use crate::logic::access::scopes::Reach;
use schemars::JsonSchema;
use serde::Serialize;

/// A role.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Role")]
pub struct RoleView {
    /// Its name.
    role: String,
    /// What it allows.
    scopes: Vec<&'static str>,
    /// Model patterns; null: all.
    models: Option<Vec<String>>,
    /// `own`: the caller's tenant; `all`: every tenant.
    #[schemars(extend("enum" = ["own", "all"]))]
    tenants: &'static str,
}

/// Every role.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RoleList {
    roles: Vec<RoleView>,
}

/// `GET /roles`
pub fn list(call: &Call) -> Result<Answer, Problem> {
    let roles = call.runtime.snapshot.roles.iter().map(|(name, role)| RoleView {
        role: name.as_str().to_owned(),
        scopes: role.scopes.iter().map(crate::logic::access::scopes::Scope::name).collect(),
        models: role.models.as_ref().map(|models| models.to_vec()),
        tenants: if role.reach == Reach::All { "all" } else { "own" },
    });
    Answer::of(200, &RoleList { roles: roles.collect() })
}
