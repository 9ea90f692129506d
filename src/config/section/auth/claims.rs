//! Which parts of a token, an answer or a certificate make a principal: one CEL expression each.

use crate::config::field::{Fields, Item};
use crate::config::section::expression::expression;
use crate::config::snapshot::ClaimMapping;

/// The keys of a mapping.
pub const KEYS: [&str; 6] = ["tenant", "team", "user", "roles", "plan", "operators"];

/// Reads the mapping among the settings of an authenticator; `variable` is what its expressions may refer to.
#[must_use]
pub fn mapping(fields: &Fields<'_>, variable: &str) -> ClaimMapping {
    let read = |key| fields.get(key).and_then(|item| expression(&item, &[variable]));
    ClaimMapping {
        tenant: read("tenant"),
        team: read("team"),
        user: read("user"),
        roles: read("roles"),
        plan: read("plan"),
        operators: fields.or("operators", Item::flag, false),
    }
}

/// The keys of an authenticator with those of its mapping.
#[must_use]
pub fn with_mapping<'k>(own: &[&'k str]) -> Vec<&'k str> {
    own.iter().copied().chain(KEYS).collect()
}
