//! Stage 5: can they afford it? Reserves every limit in one step, takes a place in the pool and a slot for the
//! usage record; after this stage the request is admitted and owes exactly one settlement.

use crate::domain::call::Call;
use crate::domain::fault::RETRY_SOON;
use crate::domain::ids::PlanId;
use crate::domain::limit::{Plan, QuotaAsk, QuotaUse, Scope, Standing};
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::units::{Micros, Tokens};
use crate::exchange::{Claim, Exchange, Opening};
use crate::logic::access::directory::Directory;
use crate::logic::routing::prefix;
use crate::ports::{AdmitError, Reservation, ReserveError, Ticket};
use crate::runtime::Runtime;
use std::sync::Arc;

/// Admits a request, or says why not; a refusal burns nothing.
///
/// # Errors
/// `Limited`, `TokensExceedLimit`, `Overloaded`, `DependencyUnavailable`.
pub async fn debit(runtime: &Arc<Runtime>, mut claim: Claim) -> Result<Arc<Exchange>, Refusal> {
    let started = runtime.services.clock.mono();
    let reservation = reserve(runtime, &claim.principal, claim.call.as_ref(), started).await?;
    let give_back = |refusal| {
        reservation.settle(QuotaUse { refund: true, ..QuotaUse::default() }, started);
        refusal
    };
    let inside = claim.pool.enter().ok_or_else(|| give_back(Refusal::Overloaded { retry_after: RETRY_SOON }))?;
    let ticket = ticket(runtime, &claim).map_err(give_back)?;
    let model_routed = model_routed(&claim);
    let chain = prompt_chain(&claim, &model_routed);
    let spent = runtime.services.clock.mono() - started;
    runtime.services.observer.overhead("limit", spent);
    claim.spent += spent;
    let runtime = Arc::clone(runtime);
    Ok(Exchange::open(Opening { runtime, claim, model_routed, chain, reservation, inside, ticket }))
}

/// Counts a question that Weir itself answers as one request of its caller.
///
/// # Errors
/// `Limited`, `DependencyUnavailable`.
pub async fn question(runtime: &Runtime, principal: &Principal) -> Result<(), Refusal> {
    let now = runtime.services.clock.mono();
    let reservation = reserve(runtime, principal, None, now).await?;
    reservation.settle(QuotaUse { refund: true, ..QuotaUse::default() }, now);
    Ok(())
}

async fn reserve(
    runtime: &Runtime,
    principal: &Principal,
    call: Option<&Call>,
    now: Micros,
) -> Result<Box<dyn Reservation>, Refusal> {
    let wall = runtime.services.clock.wall();
    let plans = plans(&runtime.services.directory.load(), principal);
    let down = |what| Refusal::DependencyUnavailable { what, retry_after: RETRY_SOON };
    let ask = ask(principal, call, plans.map_err(|MissingPlan| down("plan"))?);
    runtime.services.quota.reserve(ask, now, wall).await.map_err(|error| match error {
        ReserveError::Denied(denial) => Refusal::Limited(denial),
        ReserveError::NeverFits(asked, limit) => Refusal::TokensExceedLimit { asked, limit },
        ReserveError::StoreDown => down("limit store"),
    })
}

/// How the caller's limits stand, for an answer that reserved nothing; none where a plan of theirs is missing.
#[must_use]
pub fn standings(runtime: &Runtime, principal: &Principal) -> Vec<Standing> {
    let services = &runtime.services;
    let Ok(plans) = plans(&services.directory.load(), principal) else { return Vec::new() };
    let (now, wall) = (services.clock.mono(), services.clock.wall());
    services.quota.standings(&principal.profile.tenant, &plans, now, wall)
}

/// A plan that somebody is said to have and that does not exist.
struct MissingPlan;

/// The plans in force, widest first: the tenant's counts all its callers, the team's and the user's theirs, the key's
/// that key alone. A request must fit all of them, the narrowest and the widest.
///
/// A plan that is named and does not exist is an error: without it the caller would have no limit at all. It is the
/// installation's fault and not the caller's, so they are told 503 and may come back once it is put right.
fn plans(directory: &Directory, principal: &Principal) -> Result<Vec<(Scope, Arc<Plan>)>, MissingPlan> {
    let profile = &principal.profile;
    let name = &profile.tenant;
    let mut plans: Vec<(Scope, Arc<Plan>)> = Vec::new();
    let mut add = |id: Option<&PlanId>, scope: Scope| {
        let Some(id) = id else { return Ok(()) };
        let plan = directory.plans.get(id).ok_or_else(|| missing(id, &scope))?;
        // The same plan twice at one level would count each request twice.
        if !plans.iter().any(|(at, other)| *at == scope && Arc::ptr_eq(other, plan)) {
            plans.push((scope, Arc::clone(plan)));
        }
        Ok(())
    };
    if let Some(tenant) = directory.tenants.get(name) {
        add(tenant.plan.as_ref(), Scope::Tenant(name.clone()))?;
        if let Some((team, member)) = profile.team.as_ref().and_then(|team| tenant.teams.get_key_value(team)) {
            add(member.plan.as_ref(), Scope::Team(name.clone(), team.clone()))?;
        }
        if let Some((user, member)) = profile.user.as_ref().and_then(|user| tenant.users.get_key_value(user)) {
            add(member.plan.as_ref(), Scope::User(name.clone(), user.clone()))?;
        }
    }
    if profile.plan.is_some() {
        add(profile.plan.as_ref(), own_scope(principal))?;
    }
    Ok(plans)
}

/// Where a plan on the credential itself counts: the key alone; without a key the narrowest level that has a name.
fn own_scope(principal: &Principal) -> Scope {
    let profile = &principal.profile;
    let tenant = || profile.tenant.clone();
    match (&principal.key, &profile.user, &profile.team) {
        (Some(key), _, _) => Scope::Key(key.clone()),
        (None, Some(user), _) => Scope::User(tenant(), user.clone()),
        (None, None, Some(team)) => Scope::Team(tenant(), team.clone()),
        (None, None, None) => Scope::Tenant(tenant()),
    }
}

fn missing(plan: &PlanId, scope: &Scope) -> MissingPlan {
    tracing::error!(%plan, ?scope, "this plan does not exist; its callers are refused until it does");
    MissingPlan
}

/// What the request asks of the quota.
fn ask(principal: &Principal, call: Option<&Call>, plans: Vec<(Scope, Arc<Plan>)>) -> QuotaAsk {
    QuotaAsk {
        tenant: principal.profile.tenant.clone(),
        plans,
        model: Arc::from(call.map_or("", |call| call.model.as_str())),
        input_estimate: call.map(input_estimate),
        max_output: call.and_then(|call| call.max_tokens).map(|cap| {
            let choices = call.map_or(1, |call| u64::from(call.choices.max(1)));
            Tokens(cap.0.saturating_mul(choices))
        }),
    }
}

/// Prompt bytes divided by four, rounded up.
#[must_use]
pub fn input_estimate(call: &Call) -> Tokens {
    Tokens::of_bytes(call.prompt_bytes)
}

fn model_routed(claim: &Claim) -> String {
    let asked = claim.call.as_ref().map_or("", |call| call.model.as_str());
    claim.route.rewrite_model.as_deref().unwrap_or(asked).to_owned()
}

/// The prefix chain, in a namespace of the model, and of the tenant where the pool keeps tenants apart.
fn prompt_chain(claim: &Claim, model: &str) -> Vec<u64> {
    let Some(call) = &claim.call else { return Vec::new() };
    let tenant = if claim.pool.config.isolate_tenants { claim.principal.profile.tenant.as_str() } else { "" };
    let parts = call.prompt.iter().filter_map(|span| call.body.get(span.clone()));
    prefix::chain(&[model.as_bytes(), tenant.as_bytes()], parts)
}

/// A slot for the record. Plain HTTP has one only where its route says `meter: true`.
fn ticket(runtime: &Runtime, claim: &Claim) -> Result<Option<Ticket>, Refusal> {
    if claim.call.is_none() && !claim.route.meter {
        return Ok(None);
    }
    let mut birth = claim.facts.birth(runtime, &claim.principal);
    birth.route = claim.route.id.clone();
    if let Some(call) = &claim.call {
        birth.stream = call.stream;
        birth.model.clone_from(&call.model);
        birth.bytes_in = call.body.len() as u64;
    }
    runtime.services.usage.admit(&birth).map(Some).map_err(|error| match error {
        AdmitError::TableFull => Refusal::Overloaded { retry_after: RETRY_SOON },
        AdmitError::SpoolFull => Refusal::DependencyUnavailable { what: "usage spool", retry_after: RETRY_SOON },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{KeyId, TeamId, TenantId, UserId};
    use crate::domain::principal::{AuthMethod, Profile};
    use crate::logic::access::directory::{Member, Tenant};

    /// Tenant `acme` on plan `wide` with team `core` on `mid` and user `ann` on `small`.
    fn directory() -> Directory {
        let member = |plan: &str| Member { plan: Some(plan.into()), ..Member::default() };
        let mut acme = Tenant { plan: Some("wide".into()), ..Tenant::default() };
        acme.teams.insert("core".into(), member("mid"));
        acme.users.insert("ann".into(), member("small"));
        let mut directory = Directory::default();
        directory.tenants.insert("acme".into(), Arc::new(acme));
        for plan in ["wide", "mid", "small", "own"] {
            directory.plans.insert(plan.into(), Arc::new(Plan::default()));
        }
        directory
    }

    fn caller(team: Option<&str>, user: Option<&str>, plan: Option<&str>, key: Option<&str>) -> Principal {
        let profile = Profile {
            team: team.map(TeamId::new),
            user: user.map(UserId::new),
            plan: plan.map(PlanId::new),
            ..Profile::of("acme".into())
        };
        Principal { key: key.map(KeyId::new), ..Principal::of(Arc::new(profile), AuthMethod::Jwt) }
    }

    /// The levels at which plans count for a caller.
    fn levels(directory: &Directory, caller: &Principal) -> Option<Vec<&'static str>> {
        plans(directory, caller).ok().map(|plans| plans.iter().map(|(scope, _)| scope.name()).collect())
    }

    #[test]
    fn every_level_counts_widest_first() {
        let all = caller(Some("core"), Some("ann"), Some("own"), Some("k"));
        assert_eq!(levels(&directory(), &all), Some(vec!["tenant", "team", "user", "key"]), "all four hold");
        let stranger = caller(Some("none"), Some("nobody"), None, Some("k"));
        assert_eq!(levels(&directory(), &stranger), Some(vec!["tenant"]), "members who are not listed have no plan");
    }

    #[test]
    fn a_namesake_in_another_tenant_shares_no_limit() {
        let mut directory = directory();
        let acme = directory.tenants.get(&TenantId::new("acme")).cloned().expect("there");
        directory.tenants.insert("other".into(), acme);
        let ann = caller(None, Some("ann"), None, None);
        let profile = Profile { tenant: "other".into(), ..ann.profile.as_ref().clone() };
        let other = Principal::of(Arc::new(profile), AuthMethod::Jwt);
        let scopes = |caller| plans(&directory, caller).ok().unwrap_or_default().into_iter().map(|(scope, _)| scope);
        let mine: Vec<Scope> = scopes(&ann).collect();
        assert_eq!(mine.len(), 2, "tenant and user");
        assert!(scopes(&other).all(|scope| !mine.contains(&scope)), "a scope names its tenant");
    }

    #[test]
    fn a_plan_of_a_caller_without_a_key_counts_at_the_narrowest_level_with_a_name() {
        for (team, user, level) in [(None, Some("bob"), "user"), (Some("b"), None, "team"), (None, None, "tenant")] {
            let named = levels(&directory(), &caller(team, user, Some("own"), None)).expect("the plan exists");
            assert_eq!(named, ["tenant", level], "never without a limit");
        }
    }

    #[test]
    fn a_plan_that_is_said_twice_at_one_level_counts_once() {
        let ann = caller(None, Some("ann"), Some("small"), None);
        assert_eq!(levels(&directory(), &ann), Some(vec!["tenant", "user"]), "one plan, one count");
    }

    #[test]
    fn a_plan_that_does_not_exist_lets_nobody_in() {
        for gone in ["wide", "mid", "small", "own"] {
            let mut directory = directory();
            directory.plans.remove(&PlanId::new(gone));
            let all = caller(Some("core"), Some("ann"), Some("own"), Some("k"));
            assert_eq!(levels(&directory, &all), None, "without `{gone}` there would be no limit there");
        }
    }
}
