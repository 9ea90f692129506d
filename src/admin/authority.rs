//! What a caller may put on a key, and whose keys are theirs to change. Decides that nobody hands out, or gets hold of,
//! more than they have themselves.
//!
//! Who has the scope `admin` decides who may call models: they may give every scope, within their reach. Who has only
//! `keys:write` makes keys like their own: no scope, model, endpoint, address, team or user beyond theirs, on their plan,
//! and no longer than they.

use super::call::Call;
use super::problem::Problem;
use crate::domain::ids::RoleId;
use crate::domain::principal::Principal;
use crate::domain::units::WallMicros;
use crate::logic::access::scopes::{self, Roles, Scope, Scopes};
use std::sync::Arc;

/// What a key has, or would have.
#[derive(Clone, Copy, Debug, Default)]
pub struct Powers<'a> {
    /// Its roles; `None`: nothing is said, so it is a member.
    pub roles: Option<&'a [String]>,
    /// Its models; `None`: all.
    pub models: Option<&'a [String]>,
    /// Its endpoints; `None`: all.
    pub endpoints: Option<&'a [String]>,
    /// Its networks; `None`: all.
    pub addresses: Option<&'a [String]>,
    /// Its team.
    pub team: Option<&'a str>,
    /// Its user.
    pub user: Option<&'a str>,
    /// The plan that counts it alone.
    pub plan: Option<&'a str>,
    /// When it ends; `None`: never.
    pub ends: Option<WallMicros>,
}

/// Refuses a role that the configuration does not have.
///
/// # Errors
/// 422 that points to it.
pub fn known_roles(roles: &Roles, wanted: Option<&[String]>) -> Result<(), Problem> {
    for (index, name) in wanted.unwrap_or_default().iter().enumerate() {
        if !roles.contains_key(&RoleId::new(name)) {
            let known: Vec<&str> = roles.keys().map(RoleId::as_str).collect();
            let message = format!("There is no role of this name. Known: {}.", known.join(", "));
            return Err(Problem::member(&format!("/roles/{index}"), message));
        }
    }
    Ok(())
}

/// Refuses powers for a key of `tenant` that the caller has not themselves.
///
/// # Errors
/// 403 that says which.
pub fn covers(call: &Call, tenant: &str, powers: &Powers<'_>) -> Result<(), Problem> {
    let roles = &call.runtime.snapshot.roles;
    let scopes = call.scopes_in(tenant);
    let caller = Giver { principal: &call.principal, scopes, everywhere: call.everywhere };
    beyond(roles, &caller, powers).map_or(Ok(()), |what| {
        Err(Problem::Forbidden(format!("You cannot make or change a key {what}: that is more than you have yourself.")))
    })
}

/// Refuses to switch a key of `tenant` on again to who does not administer there: an administrator switched it off.
///
/// # Errors
/// 403.
pub fn may_enable(call: &Call, tenant: &str) -> Result<(), Problem> {
    if call.administers(tenant) {
        return Ok(());
    }
    Err(Problem::Forbidden("Only who administers the tenant switches a disabled key on again.".to_owned()))
}

/// Who gives.
struct Giver<'a> {
    principal: &'a Principal,
    /// What they may in the key's tenant.
    scopes: Scopes,
    /// What they may in every tenant.
    everywhere: Scopes,
}

/// What of these powers is beyond the giver's own; `None`: nothing.
fn beyond(roles: &Roles, giver: &Giver<'_>, powers: &Powers<'_>) -> Option<&'static str> {
    let names: Option<Vec<RoleId>> = powers.roles.map(|names| names.iter().map(|name| RoleId::new(name)).collect());
    let given = scopes::grant(roles, names.as_deref());
    // Who administers all tenants decides who reaches them.
    if !giver.everywhere.allow(Scope::Admin) && !giver.everywhere.cover(given.everywhere) {
        return Some("that reaches all tenants");
    }
    if giver.scopes.allow(Scope::Admin) {
        return None;
    }
    if !giver.scopes.cover(given.scopes) {
        return Some("with these roles");
    }
    let profile = &giver.principal.profile;
    let own = scopes::grant(roles, profile.roles.as_deref());
    let within_lists = match (&own.models, &given.models) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(own), Some(given)) => given.iter().all(|list| own.contains(list)),
    };
    if !within_lists || !within(profile.models.as_ref(), powers.models) {
        return Some("for these models");
    }
    if !within(profile.endpoints.as_ref(), powers.endpoints) {
        return Some("for these endpoints");
    }
    let networks: Option<Arc<[String]>> =
        profile.addresses.as_ref().map(|list| list.iter().map(ToString::to_string).collect());
    if !within(networks.as_ref(), powers.addresses) {
        return Some("for these addresses");
    }
    let other = |own: Option<&str>, given: Option<&str>| own.is_some() && own != given;
    if other(profile.team.as_ref().map(|team| team.as_str()), powers.team) {
        return Some("of another team");
    }
    if other(profile.user.as_ref().map(|user| user.as_str()), powers.user) {
        return Some("of another user");
    }
    if other(profile.plan.as_ref().map(|plan| plan.as_str()), powers.plan) {
        return Some("without the plan that counts yours");
    }
    let longer = |own: WallMicros| powers.ends.is_none_or(|ends| ends > own);
    giver.principal.expires_at.is_some_and(longer).then_some("that ends later than yours")
}

/// True where a restricted giver's list has every entry of what is given.
fn within(own: Option<&Arc<[String]>>, given: Option<&[String]>) -> bool {
    match (own, given) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(own), Some(given)) => given.iter().all(|entry| own.contains(entry)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{PlanId, TeamId, UserId};
    use crate::domain::principal::{AuthMethod, Profile};
    use crate::logic::access::scopes::{Reach, Role, built_in};

    fn roles() -> Roles {
        let mut roles = built_in();
        let list: Arc<[String]> = Arc::new(["llama-*".to_owned()]);
        let role = |scopes: &[Scope], models: Option<&Arc<[String]>>| Role {
            scopes: Scopes::of(scopes),
            models: models.cloned(),
            reach: Reach::Own,
        };
        roles.insert(RoleId::new("issuer"), role(&[Scope::KeysWrite, Scope::Inference], None));
        roles.insert(RoleId::new("llama-issuer"), role(&[Scope::KeysWrite, Scope::Inference], Some(&list)));
        roles.insert(RoleId::new("llama"), role(&[Scope::Inference], Some(&list)));
        roles.insert(RoleId::new("caller"), role(&[Scope::Inference], None));
        let all = |scopes: &[Scope]| Role { reach: Reach::All, ..role(scopes, None) };
        roles.insert(RoleId::new("reader"), all(&[Scope::UsageRead]));
        roles.insert(RoleId::new("key-desk"), all(&[Scope::KeysWrite]));
        roles
    }

    fn profile(roles: &str) -> Profile {
        let roles = roles.split(' ').map(RoleId::new).collect();
        Profile { roles: Some(roles), ..Profile::of("acme".into()) }
    }

    fn told(profile: &Profile, powers: &Powers<'_>) -> Option<&'static str> {
        told_until(profile, None, powers)
    }

    /// As told to a giver whose credential ends.
    fn told_until(profile: &Profile, ends: Option<WallMicros>, powers: &Powers<'_>) -> Option<&'static str> {
        let roles = roles();
        let own = scopes::grant(&roles, profile.roles.as_deref());
        let principal = principal(profile, ends);
        let giver = Giver { principal: &principal, scopes: own.scopes, everywhere: own.everywhere };
        beyond(&roles, &giver, powers)
    }

    fn principal(profile: &Profile, expires_at: Option<WallMicros>) -> Principal {
        Principal { expires_at, ..Principal::of(Arc::new(profile.clone()), AuthMethod::ApiKey) }
    }

    fn list(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn with_roles(role: &str, given: Option<&[&str]>) -> Option<&'static str> {
        let given = given.map(list);
        told(&profile(role), &Powers { roles: given.as_deref(), ..Powers::default() })
    }

    #[test]
    fn an_administrator_gives_every_scope_within_their_reach() {
        assert_eq!(with_roles("tenant-admin", None), None, "a member, who calls models");
        assert_eq!(with_roles("tenant-admin", Some(&["tenant-admin"])), None, "another administrator");
        assert!(with_roles("tenant-admin", Some(&["operator"])).is_some(), "nobody who reaches all");
        assert!(with_roles("tenant-admin", Some(&["member", "operator"])).is_some(), "nor hidden behind another role");
        assert_eq!(with_roles("operator", Some(&["operator"])), None, "an operator does");
    }

    #[test]
    fn a_role_that_reaches_all_makes_no_operator_of_an_administrator() {
        let both = "tenant-admin reader";
        assert!(with_roles(both, Some(&["operator"])).is_some(), "no operator");
        assert_eq!(with_roles(both, Some(&["reader"])), None, "what they have everywhere");
        assert!(with_roles(both, Some(&["key-desk"])).is_some(), "and nothing else everywhere");
        assert!(with_roles("tenant-admin", Some(&["reader"])).is_some(), "nor who reaches nobody else");
        // In another tenant their own tenant's administration counts for nothing.
        let (roles, profile) = (roles(), profile("tenant-admin key-desk"));
        let own = scopes::grant(&roles, profile.roles.as_deref());
        let principal = principal(&profile, None);
        let giver = Giver { principal: &principal, scopes: own.everywhere, everywhere: own.everywhere };
        let given = list(&["tenant-admin"]);
        let there = beyond(&roles, &giver, &Powers { roles: Some(&given), ..Powers::default() });
        assert_eq!(there, Some("with these roles"), "no administrator of another tenant");
    }

    #[test]
    fn who_only_writes_keys_gives_no_scope_and_no_model_beyond_their_own() {
        assert_eq!(with_roles("issuer", Some(&["caller"])), None, "less than their own");
        assert!(with_roles("issuer", None).is_some(), "a member reads usage, an issuer does not");
        assert!(with_roles("issuer", Some(&["tenant-admin"])).is_some(), "no administrator");
        assert_eq!(with_roles("llama-issuer", Some(&["llama"])), None, "the same models");
        assert!(with_roles("llama-issuer", Some(&["caller"])).is_some(), "all models are more than some");
        assert_eq!(with_roles("issuer", Some(&["llama"])), None, "some models are less than all");
    }

    #[test]
    fn a_restricted_issuer_gives_no_wider_key() {
        let mut own = profile("issuer");
        own.models = Some(Arc::new(["a".to_owned(), "b".to_owned()]));
        own.endpoints = Some(Arc::new(["/v1/*".to_owned()]));
        own.addresses = Some(Arc::new(["10.0.0.0/8".parse().expect("a network")]));
        own.team = Some(TeamId::new("core"));
        own.user = Some(UserId::new("ann"));
        own.plan = Some(PlanId::new("tiny"));
        let (roles, models, endpoints, addresses) =
            (list(&["caller"]), list(&["a"]), list(&["/v1/*"]), list(&["10.0.0.0/8"]));
        let same = Powers {
            roles: Some(&roles),
            models: Some(&models),
            endpoints: Some(&endpoints),
            addresses: Some(&addresses),
            team: Some("core"),
            user: Some("ann"),
            plan: Some("tiny"),
            ends: Some(WallMicros(5)),
        };
        let told = |powers: &Powers<'_>| told_until(&own, Some(WallMicros(5)), powers);
        assert_eq!(told(&same), None, "all within");
        assert_eq!(told(&Powers { ends: Some(WallMicros(4)), ..same }), None, "a shorter life is less");
        let other = list(&["c"]);
        for (wider, why) in [
            (Powers { models: None, ..same }, "for these models"),
            (Powers { models: Some(&other), ..same }, "for these models"),
            (Powers { endpoints: None, ..same }, "for these endpoints"),
            (Powers { addresses: None, ..same }, "for these addresses"),
            (Powers { team: None, ..same }, "of another team"),
            (Powers { user: Some("bob"), ..same }, "of another user"),
            (Powers { plan: None, ..same }, "without the plan that counts yours"),
            (Powers { plan: Some("gold"), ..same }, "without the plan that counts yours"),
            (Powers { ends: None, ..same }, "that ends later than yours"),
            (Powers { ends: Some(WallMicros(6)), ..same }, "that ends later than yours"),
        ] {
            assert_eq!(told(&wider), Some(why), "{wider:?}");
        }
    }

    #[test]
    fn a_role_that_is_not_configured_is_named() {
        let problem = known_roles(&roles(), Some(&list(&["member", "mmeber"]))).expect_err("a slip");
        assert!(matches!(&problem, Problem::Invalid { param: Some(at), .. } if at == "/roles/1"), "{problem:?}");
    }
}
