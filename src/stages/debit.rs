//! Stage 5: can they afford it? Reserves every limit in one step, takes a place in the pool and a slot for the
//! usage record; after this stage the request is admitted and owes exactly one settlement.

use crate::domain::call::Call;
use crate::domain::fault::RETRY_SOON;
use crate::domain::limit::{Plan, QuotaAsk, QuotaUse, Scope, Standing};
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::units::{Micros, Tokens};
use crate::exchange::{Claim, Exchange, Opening};
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
    let reservation = reserve(runtime, &claim, started).await?;
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

async fn reserve(runtime: &Runtime, claim: &Claim, now: Micros) -> Result<Box<dyn Reservation>, Refusal> {
    let wall = runtime.services.clock.wall();
    let ask = ask(runtime, claim);
    runtime.services.quota.reserve(ask, now, wall).await.map_err(|error| match error {
        ReserveError::Denied(denial) => Refusal::Limited(denial),
        ReserveError::NeverFits(asked, limit) => Refusal::TokensExceedLimit { asked, limit },
        ReserveError::StoreDown => Refusal::DependencyUnavailable { what: "limit store", retry_after: RETRY_SOON },
    })
}

/// How the caller's limits stand, for an answer that reserved nothing.
#[must_use]
pub fn standings(runtime: &Runtime, principal: &Principal) -> Vec<Standing> {
    let services = &runtime.services;
    let (now, wall) = (services.clock.mono(), services.clock.wall());
    services.quota.standings(&principal.tenant, &plans(runtime, principal), now, wall)
}

/// The plans in force: the tenant's counts all its keys, the key's that key alone.
fn plans(runtime: &Runtime, principal: &Principal) -> Vec<(Scope, Arc<Plan>)> {
    let snapshot = &runtime.snapshot;
    let mut plans = Vec::with_capacity(2);
    let tenant_plan = snapshot.tenants.get(&principal.tenant).and_then(|tenant| tenant.plan.as_ref());
    if let Some(plan) = tenant_plan.and_then(|name| snapshot.plans.get(name)) {
        plans.push((Scope::Tenant(principal.tenant.clone()), Arc::clone(plan)));
    }
    let key_plan = principal.plan.as_ref().and_then(|name| snapshot.plans.get(name));
    if let (Some(plan), Some(key)) = (key_plan, &principal.key) {
        plans.push((Scope::Key(key.clone()), Arc::clone(plan)));
    }
    plans
}

/// What the request asks of the quota.
fn ask(runtime: &Runtime, claim: &Claim) -> QuotaAsk {
    let principal = &claim.principal;
    let plans = plans(runtime, principal);
    let call = claim.call.as_ref();
    QuotaAsk {
        tenant: principal.tenant.clone(),
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
    let tenant = if claim.pool.config.isolate_tenants { claim.principal.tenant.as_str() } else { "" };
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
