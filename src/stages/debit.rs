//! Stage 5: can they afford it? Reserves every limit in one step, takes a place in the pool and a slot for the
//! usage record; after this stage the request is admitted and owes exactly one settlement.

use super::accept::Facts;
use crate::config::snapshot::Route;
use crate::domain::call::Call;
use crate::domain::fault::RETRY_SOON;
use crate::domain::limit::{Plan, QuotaAsk, QuotaUse, Scope, Standing};
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::units::{Micros, Tokens};
use crate::exchange::{Exchange, Opening};
use crate::logic::routing::prefix;
use crate::ports::{AdmitError, Birth, Reservation, ReserveError, Ticket};
use crate::runtime::{LivePool, Runtime, Share};
use std::sync::Arc;

/// Bytes of prompt per token where no tokenizer is configured (semantics.md §3).
const BYTES_PER_TOKEN: u64 = 4;

/// A request that passed authentication, authorisation and routing.
pub struct Claim {
    /// What its head said.
    pub facts: Facts,
    /// Who calls.
    pub principal: Principal,
    /// Where it goes.
    pub route: Arc<Route>,
    /// Which pool.
    pub pool: Arc<LivePool>,
    /// The model call; `None` for plain HTTP.
    pub call: Option<Call>,
    /// The memory that its body takes.
    pub share: Option<Share>,
    /// Time that Weir spent on it so far, without waiting for the body.
    pub spent: Micros,
}

/// Admits a request, or says why not; a refusal burns nothing.
///
/// # Errors
/// `Limited`, `TokensExceedLimit`, `Overloaded`, `DependencyUnavailable`; with the facts, which the answer needs.
pub async fn debit(runtime: &Arc<Runtime>, claim: Claim) -> Result<Arc<Exchange>, (Refusal, Box<Claim>)> {
    let started = runtime.services.clock.mono();
    let reservation = match reserve(runtime, &claim, started).await {
        Ok(reservation) => reservation,
        Err(refusal) => return Err((refusal, Box::new(claim))),
    };
    let Some(inside) = claim.pool.enter() else {
        reservation.settle(QuotaUse { refund: true, ..QuotaUse::default() }, started);
        return Err((Refusal::Overloaded { retry_after: RETRY_SOON }, Box::new(claim)));
    };
    let ticket = match ticket(runtime, &claim) {
        Ok(ticket) => ticket,
        Err(refusal) => {
            reservation.settle(QuotaUse { refund: true, ..QuotaUse::default() }, started);
            return Err((refusal, Box::new(claim)));
        }
    };
    let model_routed = model_routed(&claim);
    let chain = prompt_chain(&claim, &model_routed);
    let spent = runtime.services.clock.mono() - started;
    runtime.services.observer.overhead("limit", spent);
    Ok(Exchange::open(Opening {
        runtime: Arc::clone(runtime),
        admission_cost: claim.spent + spent,
        facts: claim.facts,
        principal: claim.principal,
        route: claim.route,
        pool: claim.pool,
        call: claim.call,
        share: claim.share,
        model_routed,
        chain,
        reservation,
        inside,
        ticket,
    }))
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
    Tokens(call.prompt_bytes.div_ceil(BYTES_PER_TOKEN))
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
    let principal = &claim.principal;
    let birth = Birth {
        request_id: claim.facts.request_id,
        received: claim.facts.received_wall,
        admitted: runtime.services.clock.wall(),
        tenant: principal.tenant.clone(),
        team: principal.team.as_ref().map(ToString::to_string),
        user: principal.user.as_ref().map(ToString::to_string),
        key: principal.key.clone(),
        secret_gen: principal.secret_gen,
        auth_method: principal.method.name(),
        surface: claim.facts.surface,
        stream: claim.call.as_ref().is_some_and(|call| call.stream),
        route: claim.route.id.clone(),
        model: claim.call.as_ref().map(|call| call.model.clone()).unwrap_or_default(),
        bytes_in: claim.call.as_ref().map_or(0, |call| call.body.len() as u64),
        config_version: Arc::clone(&runtime.snapshot.version),
    };
    runtime.services.usage.admit(&birth).map(Some).map_err(|error| match error {
        AdmitError::TableFull => Refusal::Overloaded { retry_after: RETRY_SOON },
        AdmitError::SpoolFull => Refusal::DependencyUnavailable { what: "usage spool", retry_after: RETRY_SOON },
    })
}
