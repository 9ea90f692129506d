//! Stage 4: may they? Scopes, the restrictions of the key, models, and the operator's rules. A model that is not
//! allowed looks like one that does not exist, so that nobody can read the catalogue by asking; every other denial is
//! one answer, and the log alone says which rule it was.

use super::accept::Facts;
use super::authenticate::Caller;
use super::body::unknown_model;
use crate::domain::call::Call;
use crate::domain::ids::PlanId;
use crate::domain::principal::{AuthMethod, Principal};
use crate::domain::refusal::Refusal;
use crate::domain::surface::Surface;
use crate::logic::access::directory::Directory;
use crate::logic::access::expression::Variables;
use crate::logic::access::models::{self, Lists};
use crate::logic::access::rule::{self, Asked};
use crate::logic::access::scopes::{Grant, Scope, grant};
use crate::runtime::Runtime;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// What is known from the head alone: the scope that the path needs, and the restrictions of the credential. Callers
/// of open routes have shown no credential that could be restricted.
///
/// # Errors
/// `InsufficientPermissions`, which names what denies for the log.
pub fn head(runtime: &Runtime, principal: &Principal, facts: &Facts) -> Result<(), Refusal> {
    if principal.method == AuthMethod::Anonymous {
        return Ok(());
    }
    let needed = scope_of(facts);
    if needed.is_some_and(|scope| !granted(runtime, principal).scopes.allow(scope)) {
        return Err(denied(format!("scope {}", needed.map_or("", Scope::name))));
    }
    restrictions(principal, &facts.path, facts.client)
}

/// The paths and addresses that a credential is restricted to.
///
/// # Errors
/// `InsufficientPermissions`, which names the restriction for the log.
pub fn restrictions(principal: &Principal, path: &str, client: IpAddr) -> Result<(), Refusal> {
    let profile = &principal.profile;
    if profile.endpoints.as_ref().is_some_and(|list| !list.iter().any(|pattern| models::matches(pattern, path))) {
        return Err(denied("endpoints of the key".to_owned()));
    }
    // An IPv4 address in IPv6 clothes is the address that it is.
    let client = client.to_canonical();
    if profile.addresses.as_ref().is_some_and(|list| !list.iter().any(|net| net.contains(&client))) {
        return Err(denied("addresses of the key".to_owned()));
    }
    Ok(())
}

fn denied(rule: String) -> Refusal {
    Refusal::InsufficientPermissions { rule: Arc::from(rule) }
}

/// What a path needs. `GET /v1/me` tells callers of themselves what they have shown already.
fn scope_of(facts: &Facts) -> Option<Scope> {
    match (facts.method.as_str(), facts.path.as_str()) {
        _ if facts.surface == Surface::Models => Some(Scope::ModelsList),
        ("GET" | "HEAD", "/v1/me") => None,
        ("GET" | "HEAD", "/v1/me/usage") => Some(Scope::UsageRead),
        _ => Some(Scope::Inference),
    }
}

fn granted<'r>(runtime: &'r Runtime, principal: &Principal) -> Grant<'r> {
    grant(&runtime.snapshot.roles, principal.profile.roles.as_deref())
}

/// What conditions may look at; `None` where nothing is conditional.
#[must_use]
pub fn conditions(runtime: &Runtime, caller: &Caller, facts: &Facts, call: Option<&Call>) -> Option<Variables> {
    let unconditional = caller.candidates.iter().all(|route| route.when.is_none());
    if unconditional && runtime.snapshot.authorization.is_empty() {
        return None;
    }
    Some(variables(runtime, &caller.principal, facts, call))
}

/// What conditions may look at, of routes, rules and limits.
#[must_use]
pub fn variables(runtime: &Runtime, principal: &Principal, facts: &Facts, call: Option<&Call>) -> Variables {
    let asked = Asked {
        method: &facts.method,
        host: facts.host.as_deref(),
        path: &facts.path,
        address: facts.client.to_canonical(),
        model: call.map(|call| call.model.as_str()),
        stream: call.map(|call| call.stream),
        max_tokens: call.and_then(|call| call.max_tokens),
    };
    let directory = runtime.services.directory.load();
    let (plan, scopes) = (narrowest_plan(&directory, principal), granted(runtime, principal).scopes);
    rule::variables(principal, scopes, plan, &asked, runtime.services.clock.wall())
}

/// The plan on the credential, else the user's, the team's, the tenant's.
#[must_use]
pub fn narrowest_plan<'a>(directory: &'a Directory, principal: &'a Principal) -> Option<&'a PlanId> {
    let profile = &principal.profile;
    let tenant = directory.tenants.get(&profile.tenant);
    let user = || tenant?.users.get(profile.user.as_ref()?)?.plan.as_ref();
    let team = || tenant?.teams.get(profile.team.as_ref()?)?.plan.as_ref();
    profile.plan.as_ref().or_else(user).or_else(team).or_else(|| tenant?.plan.as_ref())
}

/// Applies the operator's rules to everyone who had to say who they are. One that cannot be evaluated denies.
///
/// # Errors
/// `InsufficientPermissions` with the rule's name, for the log.
pub fn rules(runtime: &Runtime, principal: &Principal, variables: Option<&Variables>) -> Result<(), Refusal> {
    let rules = &runtime.snapshot.authorization;
    if rules.is_empty() || principal.method == AuthMethod::Anonymous {
        return Ok(());
    }
    let Some(variables) = variables else { return Err(Refusal::Internal) };
    pass(rule::denied(rules, variables))
}

/// Applies those of the operator's rules that do not look at the body, so that nobody's body is read who may not come in
/// whatever it says. The others, and these once more, are applied when it is there.
///
/// # Errors
/// As [`rules`].
pub fn head_rules(runtime: &Runtime, caller: &Caller, facts: &Facts) -> Result<(), Refusal> {
    let early = || runtime.snapshot.authorization.iter().filter(|rule| !rule.reads_body());
    if early().next().is_none() || caller.principal.method == AuthMethod::Anonymous {
        return Ok(());
    }
    let Some(variables) = conditions(runtime, caller, facts, None) else { return Err(Refusal::Internal) };
    pass(rule::denied(early(), &variables))
}

fn pass(denied: Option<rule::Denied<'_>>) -> Result<(), Refusal> {
    let Some(rule::Denied { rule, error }) = denied else { return Ok(()) };
    if let Some(error) = error {
        tracing::warn!(rule = %rule.name, %error, "this rule cannot be evaluated, so it denies");
    }
    Err(Refusal::InsufficientPermissions { rule: Arc::clone(&rule.name) })
}

/// Refuses a model that the caller may not use.
///
/// # Errors
/// `ModelNotFound`.
pub fn model(runtime: &Runtime, principal: &Principal, model: &str) -> Result<(), Refusal> {
    let directory = runtime.services.directory.load();
    if lists(runtime, &directory, principal).allow(model) { Ok(()) } else { Err(unknown_model(model)) }
}

/// The model lists that hold for a caller. Who came by an open route has no roles that could restrict them.
fn lists<'a>(runtime: &'a Runtime, directory: &'a Directory, principal: &'a Principal) -> Lists<'a> {
    let profile = &principal.profile;
    let tenant = directory.tenants.get(&profile.tenant);
    let team = || tenant?.teams.get(profile.team.as_ref()?)?.models.as_deref();
    let user = || tenant?.users.get(profile.user.as_ref()?)?.models.as_deref();
    let anonymous = principal.method == AuthMethod::Anonymous;
    Lists {
        tenant: tenant.and_then(|tenant| tenant.models.as_ref()),
        own: [team(), user(), profile.models.as_deref()],
        roles: if anonymous { None } else { granted(runtime, principal).models },
    }
}

/// What the caller may use, each name once, with its owner.
fn usable(runtime: &Runtime, principal: &Principal) -> Vec<(String, &'static str)> {
    let directory = runtime.services.directory.load();
    let lists = lists(runtime, &directory, principal);
    let mut names: Vec<(String, &'static str)> = Vec::new();
    for pool in &runtime.pools {
        for name in pool.models().unwrap_or_default() {
            if lists.allow(&name) && !names.iter().any(|(known, _)| *known == name) {
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
