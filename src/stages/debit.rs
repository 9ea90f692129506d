//! Stage 5: can they afford it? Takes a place in the pool, reserves every limit in one step and takes a slot for the
//! usage record; after this stage the request is admitted and owes exactly one settlement.

use crate::config::snapshot::{Pool, Route};
use crate::domain::call::Call;
use crate::domain::fault::RETRY_SOON;
use crate::domain::ids::TenantId;
use crate::domain::limit::{Denial, QuotaUse, Standing};
use crate::domain::money::TokenPrices;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::units::{Micros, Tokens, WallMicros};
use crate::exchange::{Claim, Exchange, Opening};
use crate::logic::quota::denials::Denied;
use crate::logic::quota::lines::{self, Asked, Asker, Errand, Unclear};
use crate::logic::quota::plan::QuotaAsk;
use crate::logic::routing::prefix;
use crate::ports::{AdmitError, Reservation, ReserveError, Ticket};
use crate::runtime::Runtime;
use crate::stages::accept::Facts;
use crate::stages::check;
use std::sync::Arc;

/// Admits a request, or says why not; a refusal burns nothing.
///
/// # Errors
/// `Limited`, `TokensExceedLimit`, `Overloaded`, `DependencyUnavailable`.
pub async fn debit(runtime: &Arc<Runtime>, mut claim: Claim) -> Result<Arc<Exchange>, Refusal> {
    let started = runtime.services.clock.mono();
    let prices = claim.call.as_ref().and_then(|call| runtime.snapshot.prices.prices(&call.model));
    // Before the limits: a full pool need not ask them, and the place goes back by itself.
    let inside = claim.pool.enter().ok_or(Refusal::Overloaded { retry_after: RETRY_SOON })?;
    let reservation = reserve(runtime, &Matter::claim(&claim, prices), started).await?;
    let ticket = ticket(runtime, &claim).inspect_err(|_| reservation.cancel(runtime.services.clock.mono()))?;
    let model_routed = model_routed(&claim);
    let chain = prompt_chain(&claim, &model_routed);
    let spent = runtime.services.clock.mono() - started;
    runtime.services.observer.overhead("limit", spent);
    claim.spent += spent;
    let runtime = Arc::clone(runtime);
    Ok(Exchange::open(Opening { runtime, claim, model_routed, chain, prices, reservation, inside, ticket }))
}

/// Counts a question that Weir itself answers as one request of its caller.
///
/// # Errors
/// `Limited`, `DependencyUnavailable`.
pub async fn question(runtime: &Runtime, principal: &Principal, facts: &Facts) -> Result<(), Refusal> {
    let now = runtime.services.clock.mono();
    let matter = Matter { errand: Errand::Question, ..Matter::of(principal, facts) };
    reserve(runtime, &matter, now).await?.settle(QuotaUse::default(), now);
    Ok(())
}

/// How the caller's limits stand, for an answer that reserved nothing; none where a plan of theirs is missing.
#[must_use]
pub fn standings(runtime: &Runtime, principal: &Principal, facts: &Facts) -> Vec<Standing> {
    let services = &runtime.services;
    let Ok(ask) = ask(runtime, &Matter::of(principal, facts)) else { return Vec::new() };
    services.quota.standings(&ask, services.clock.mono(), services.clock.wall())
}

/// What wants something of the limits.
#[derive(Clone, Copy)]
struct Matter<'a> {
    principal: &'a Principal,
    facts: &'a Facts,
    route: Option<&'a Route>,
    pool: Option<&'a Pool>,
    call: Option<&'a Call>,
    prices: Option<TokenPrices>,
    errand: Errand,
}

impl<'a> Matter<'a> {
    /// A request of which no more is known than its head and its caller.
    fn of(principal: &'a Principal, facts: &'a Facts) -> Self {
        Self { principal, facts, route: None, pool: None, call: None, prices: None, errand: Errand::Upstream }
    }

    fn claim(claim: &'a Claim, prices: Option<TokenPrices>) -> Self {
        Self {
            route: Some(&claim.route),
            pool: Some(&claim.pool.config),
            call: claim.call.as_ref(),
            prices,
            ..Self::of(&claim.principal, &claim.facts)
        }
    }
}

async fn reserve(runtime: &Runtime, matter: &Matter<'_>, now: Micros) -> Result<Box<dyn Reservation>, Refusal> {
    let wall = runtime.services.clock.wall();
    let down = |what| Refusal::DependencyUnavailable { what, retry_after: RETRY_SOON };
    let ask = ask(runtime, matter).map_err(|unclear| {
        complain(runtime, &matter.principal.profile.tenant, &unclear, now);
        down("plan")
    })?;
    runtime.services.quota.reserve(ask, now, wall).await.map_err(|error| match error {
        ReserveError::Denied(denial) => {
            runtime.services.denials.lock().push(denied(matter, wall, denial.clone()));
            Refusal::Limited(denial)
        }
        ReserveError::NeverFits(asked, limit) => Refusal::TokensExceedLimit { asked, limit },
        ReserveError::StoreDown => down("limit store"),
    })
}

/// Tells the operator, and not for each request anew.
fn complain(runtime: &Runtime, tenant: &TenantId, unclear: &Unclear, now: Micros) {
    if runtime.services.complaints.lock().is_news(tenant, unclear, now) {
        tracing::error!(%tenant, %unclear, "these callers are refused until it is put right");
    }
}

/// What is remembered of a refusal.
fn denied(matter: &Matter<'_>, at: WallMicros, denial: Denial) -> Denied {
    Denied {
        request_id: matter.facts.request_id,
        at,
        tenant: matter.principal.profile.tenant.clone(),
        key: matter.principal.key.clone(),
        model: matter.call.map(|call| call.model.clone()),
        route: matter.route.map(|route| route.id.clone()),
        denial,
    }
}

/// What a request asks of the quota.
fn ask(runtime: &Runtime, matter: &Matter<'_>) -> Result<QuotaAsk, Unclear> {
    let Matter { principal, facts, call, .. } = *matter;
    let snapshot = &runtime.snapshot;
    let directory = runtime.services.directory.load();
    let pool = matter.pool.map(|pool| (&pool.id, &*pool.limits));
    let in_force = lines::in_force(&Asker { directory: &directory, principal, shared: &snapshot.limits.shared, pool })?;
    let variables = in_force.is_conditional().then(|| check::variables(runtime, principal, facts, call));
    let model = call.map(|call| call.model.as_str());
    let asked = Asked { model, variables: variables.as_ref(), errand: matter.errand };
    Ok(QuotaAsk {
        tenant: principal.profile.tenant.clone(),
        lines: in_force.lines(&asked)?,
        zone: in_force.zone,
        max_tokens_per_request: in_force.max_tokens_per_request,
        priority: in_force.priority,
        prices: matter.prices,
        model: Arc::from(model.unwrap_or_default()),
        input_estimate: call.map(input_estimate),
        max_output: call.and_then(|call| {
            let cap = call.max_tokens?;
            Some(Tokens(cap.0.saturating_mul(u64::from(call.choices.max(1)))))
        }),
    })
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
