//! From what a credential says of its holder to a profile. Decides by the operator's expressions alone; whether the
//! credential holds is decided before.

use super::expression::{EvalError, Expression, Variables};
use crate::domain::ids::{PlanId, RoleId, TeamId, TenantId, UserId};
use crate::domain::principal::Profile;
use serde_json::Value;
use std::sync::Arc;

/// Bytes of a tenant's, team's, user's, role's or plan's name.
pub const MAX_NAME: usize = 256;
/// Where a principal belongs whose mapping names no tenant.
const DEFAULT_TENANT: &str = "default";

/// Which parts of a document of claims make the principal. Expressions give a text (roles: a list of texts, or one).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ClaimMapping {
    /// The tenant; `None`: `default`. Where there is an expression, it must give one.
    pub tenant: Option<Expression>,
    /// The team.
    pub team: Option<Expression>,
    /// The user; `None`: `sub`.
    pub user: Option<Expression>,
    /// Roles; `None`: nothing is said of roles. An expression that finds none gives none, and then nothing is allowed.
    pub roles: Option<Expression>,
    /// The plan of this caller alone.
    pub plan: Option<Expression>,
    /// True if roles that reach all tenants are taken from it too; else they are left out.
    pub operators: bool,
}

/// Why a mapping gives no profile: the credential is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MappingError {
    /// An expression cannot be evaluated, or gives another type.
    #[error("{part}: {why}")]
    Evaluation {
        /// `tenant`, `team`, …
        part: &'static str,
        /// Why.
        why: EvalError,
    },
    /// An expression gives a text that cannot be a name.
    #[error("{part}: a name has 1 to {MAX_NAME} bytes, no control characters, and no blanks around it")]
    Name {
        /// `tenant`, `team`, …
        part: &'static str,
    },
    /// The mapping names a tenant and the credential does not have it.
    #[error("the credential names no tenant")]
    NoTenant,
}

/// What a credential says.
#[derive(Clone, Copy, Debug)]
pub struct Statement<'a> {
    /// For the expressions.
    pub variables: &'a Variables,
    /// The user, where the mapping names none: a token's `sub`, a certificate's subject.
    pub subject: Option<&'a str>,
    /// For rules (`auth.claims`), as it came.
    pub claims: Option<&'a Arc<Value>>,
}

/// Makes the profile of a credential that holds.
///
/// # Errors
/// [`MappingError`]; then the credential is refused.
pub fn profile(mapping: &ClaimMapping, said: Statement<'_>) -> Result<Profile, MappingError> {
    let text = |part, expression: &Option<Expression>| match expression {
        Some(expression) => one(part, expression, said.variables),
        None => Ok(None),
    };
    let tenant = match &mapping.tenant {
        None => DEFAULT_TENANT.to_owned(),
        Some(expression) => one("tenant", expression, said.variables)?.ok_or(MappingError::NoTenant)?,
    };
    let user = match (&mapping.user, said.subject) {
        (Some(expression), _) => one("user", expression, said.variables)?,
        (None, Some(subject)) => Some(named("user", subject.to_owned())?),
        (None, None) => None,
    };
    Ok(Profile {
        team: text("team", &mapping.team)?.map(|name| TeamId::new(&name)),
        user: user.map(|name| UserId::new(&name)),
        roles: roles(mapping, said.variables)?,
        plan: text("plan", &mapping.plan)?.map(|name| PlanId::new(&name)),
        claims: said.claims.cloned(),
        ..Profile::of(TenantId::new(&tenant))
    })
}

/// True for a text that can be a name: it may stand in a header, a log line and a metric.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && !text.chars().any(char::is_control) && text.trim() == text
}

fn roles(mapping: &ClaimMapping, variables: &Variables) -> Result<Option<Arc<[RoleId]>>, MappingError> {
    let Some(expression) = &mapping.roles else { return Ok(None) };
    let texts = expression.texts_in(variables).map_err(|why| MappingError::Evaluation { part: "roles", why })?;
    let names = texts.unwrap_or_default().into_iter().map(|name| named("roles", name).map(|name| RoleId::new(&name)));
    names.collect::<Result<_, _>>().map(Some)
}

fn one(part: &'static str, expression: &Expression, variables: &Variables) -> Result<Option<String>, MappingError> {
    let text = expression.text_in(variables).map_err(|why| MappingError::Evaluation { part, why })?;
    text.map(|text| named(part, text)).transpose()
}

fn named(part: &'static str, text: String) -> Result<String, MappingError> {
    if is_name(&text) { Ok(text) } else { Err(MappingError::Name { part }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mapping(parts: &[(&str, &str)]) -> ClaimMapping {
        let of = |part: &str| {
            let (_, text) = parts.iter().find(|(name, _)| *name == part)?;
            Some(Expression::compile(text, &["claims"]).expect("an expression"))
        };
        ClaimMapping {
            tenant: of("tenant"),
            team: of("team"),
            user: of("user"),
            roles: of("roles"),
            plan: of("plan"),
            operators: false,
        }
    }

    fn mapped(parts: &[(&str, &str)], claims: Value) -> Result<Profile, MappingError> {
        let claims = Arc::new(claims);
        let variables = Variables::new().with("claims", Arc::clone(&claims));
        let subject = claims.get("sub").and_then(Value::as_str);
        profile(&mapping(parts), Statement { variables: &variables, subject, claims: Some(&claims) })
    }

    #[test]
    fn every_part_comes_from_its_expression() {
        let all = [
            ("tenant", "claims.org"),
            ("team", "claims.team"),
            ("user", "claims.email"),
            ("roles", "claims.groups"),
            ("plan", "claims.plan"),
        ];
        let claims =
            json!({"org": "acme", "team": "core", "email": "a@b", "groups": ["dev"], "plan": "gold", "sub": "1"});
        let profile = mapped(&all, claims.clone()).expect("a profile");
        assert_eq!(profile.tenant.as_str(), "acme", "tenant");
        assert_eq!(profile.team, Some(TeamId::new("core")), "team");
        assert_eq!(profile.user, Some(UserId::new("a@b")), "user");
        assert_eq!(profile.roles.as_deref(), Some(&[RoleId::new("dev")][..]), "roles");
        assert_eq!(profile.plan, Some(PlanId::new("gold")), "plan");
        assert_eq!(profile.claims.as_deref(), Some(&claims), "claims for rules");
    }

    #[test]
    fn without_expressions_it_is_the_subject_in_the_default_tenant() {
        let profile = mapped(&[], json!({"sub": "ann"})).expect("a profile");
        assert_eq!(profile.tenant.as_str(), "default", "tenant");
        assert_eq!(profile.user, Some(UserId::new("ann")), "user");
        assert_eq!(profile.roles, None, "nothing is said of roles");
    }

    #[test]
    fn a_token_without_the_tenant_it_should_name_does_not_fall_into_the_default_one() {
        assert_eq!(mapped(&[("tenant", "claims.org")], json!({"sub": "x"})), Err(MappingError::NoTenant), "absent");
        assert_eq!(mapped(&[("tenant", "claims.org")], json!({"org": null})), Err(MappingError::NoTenant), "null");
    }

    #[test]
    fn roles_that_are_asked_for_and_not_there_are_none_and_not_the_default_ones() {
        let profile = mapped(&[("roles", "claims.groups")], json!({"sub": "x"})).expect("a profile");
        assert_eq!(profile.roles.as_deref(), Some(&[][..]), "an empty list allows nothing");
    }

    #[test]
    fn wrong_types_and_names_that_are_none_are_refused() {
        for claims in [json!({"org": 7}), json!({"org": ["a"]}), json!({"org": {"a": 1}}), json!({"org": true})] {
            let refused = mapped(&[("tenant", "claims.org")], claims.clone());
            assert!(matches!(refused, Err(MappingError::Evaluation { part: "tenant", .. })), "{claims}: {refused:?}");
        }
        for name in ["", " a", "a\n", "a\u{0}b", "a\u{85}b", &"x".repeat(MAX_NAME + 1)] {
            let refused = mapped(&[("tenant", "claims.org")], json!({ "org": name }));
            assert_eq!(refused, Err(MappingError::Name { part: "tenant" }), "{name:?}");
        }
        let refused = mapped(&[("roles", "claims.groups")], json!({"groups": ["a", ""]}));
        assert_eq!(refused, Err(MappingError::Name { part: "roles" }), "a role without a name");
        assert_eq!(mapped(&[], json!({"sub": "a\r\nb"})), Err(MappingError::Name { part: "user" }), "a subject too");
    }
}
