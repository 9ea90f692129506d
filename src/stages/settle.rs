//! Stage 9: what is owed? Closes a request exactly once: the booking, the reservation, the usage record, one log
//! line. Every ending comes here, also those that Pingora's `logging` never sees.

use super::accept::Facts;
use super::debit::input_estimate;
use super::dispatch;
use crate::domain::fault::Fault;
use crate::domain::limit::Dimension;
use crate::domain::principal::Principal;
use crate::domain::record::{Status, UsageRecord};
use crate::domain::refusal::Refusal;
use crate::domain::surface::Dialect;
use crate::domain::tokens::UsageSource;
use crate::exchange::{Exchange, State};
use crate::logic::money::billing;
use crate::logic::usage::charge;
use crate::logic::wire::error_body;
use crate::ports::{AppendError, Ended, Ticket};
use crate::runtime::Runtime;
use std::sync::Arc;
use tokio::sync::oneshot;

/// How an admitted request ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ending {
    /// The whole answer is there and goes out now.
    Completed,
    /// An upstream answer of 4xx is passed on.
    PassedOn(u16),
    /// The client left.
    ClientGone,
    /// No answer, and no further attempt.
    FailedBefore(Fault),
    /// The answer broke off after the commit point.
    FailedAfter(Fault),
    /// We refused after all: no backend could be chosen, or the client's body broke on its way.
    Refused(Refusal),
    /// The request's task ended without saying how (a panic, the runtime going down).
    Dropped,
}

/// The record's way to the disk; resolves once it is safe to let the last bytes go.
pub type Receipt = oneshot::Receiver<Result<(), AppendError>>;

/// Closes an exchange. The first call does it; later ones do nothing.
pub fn settle(exchange: &Exchange, ending: &Ending) -> Option<Receipt> {
    let (outcome, fault) = attempt_outcome(ending);
    dispatch::end_attempt(exchange, outcome, fault);
    let mut state = exchange.state();
    if std::mem::replace(&mut state.closed, true) {
        return None;
    }
    let ticket = state.ticket.take();
    let record = record(exchange, &state, ending, ticket.as_ref());
    let (first_token, overdrawn) = (state.first_token, state.overdrawn.take());
    drop(state);
    exchange.reservation.settle(charge::charged(&record), exchange.now());
    let services = &exchange.runtime.services;
    services.observer.inflight(exchange.pool.id(), -1);
    let mut ended = ended(&exchange.runtime, &exchange.facts, record, reason(ending));
    ended.ttft = first_token.map(|(at, _)| at - exchange.facts.received);
    ended.admitted = ticket.is_some();
    ended.rule = overdrawn;
    services.observer.ended(&ended);
    ticket.map(|ticket| services.usage.append(ticket, ended.record))
}

/// Waits until a record is written. After a failure the log keeps the record and tries again; the answer goes out all
/// the same, since the client's bytes are not ours to keep.
pub async fn written(receipt: Option<Receipt>) {
    let Some(receipt) = receipt else { return };
    match receipt.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "a usage record was not written; its slot is left to recovery"),
        Err(_) => tracing::error!("the spool is gone; a usage record is left to recovery"),
    }
}

/// The line in `attempts[]` for the attempt that is still open.
fn attempt_outcome(ending: &Ending) -> (&'static str, Option<Fault>) {
    match ending {
        Ending::Completed => ("ok", None),
        Ending::PassedOn(_) => ("status", None),
        Ending::ClientGone => (dispatch::ABORTED, None),
        Ending::FailedBefore(fault) | Ending::FailedAfter(fault) => (fault.outcome(), Some(*fault)),
        Ending::Refused(_) => ("refused", None),
        Ending::Dropped => ("dropped", None),
    }
}

/// True where a request that was admitted is refused for what its client sent then: a body that breaks HTTP.
fn clients_fault(refusal: &Refusal) -> bool {
    refusal.status() < 500
}

fn record(exchange: &Exchange, state: &State, ending: &Ending, ticket: Option<&Ticket>) -> UsageRecord {
    let services = &exchange.runtime.services;
    let facts = &exchange.facts;
    let seq = ticket.map_or(0, |ticket| ticket.seq);
    let mut record = UsageRecord::new(facts.request_id, services.usage.proxy_id(), seq, facts.surface.name());
    identify(&mut record, facts, &exchange.principal);
    record.config_version = Some(exchange.runtime.snapshot.version.to_string());
    record.ts_admitted = Some(exchange.admitted_wall);
    record.ts_first_byte = state.first_byte;
    record.ts_first_token = state.first_token.map(|(_, wall)| wall);
    record.ts_end = services.clock.wall();
    record.queue_ms = Some(0);
    record.overhead_us = Some((exchange.admission_cost + state.dispatch_cost).0);
    record.stream = exchange.streams();
    record.route_id = Some(exchange.route.id.to_string());
    record.provider = Some(exchange.pool.config.engine.name().to_owned());
    record.pool = Some(exchange.pool.id().to_string());
    if let Some(call) = &exchange.call {
        record.end_user.clone_from(&call.end_user);
        record.model_requested = Some(call.model.clone());
        record.model_routed = Some(exchange.model_routed.clone());
        record.prefix_blocks_matched = Some(u64::from(state.prefix.0));
        record.prefix_blocks_total = Some(u64::from(state.prefix.1));
    }
    let backend = state.backend.and_then(|index| exchange.pool.config.backends.get(index));
    record.backend_id = backend.map(|backend| backend.id.to_string());
    record.bytes_in = state.bytes_in;
    record.bytes_out = state.bytes_out;
    record.attempts.clone_from(&state.attempts);
    count(&mut record, exchange, state, ending);
    conclude(&mut record, state, ending, facts.dialect);
    if exchange.call.is_some() {
        billing::price(&mut record, exchange.prices, &exchange.runtime.snapshot.prices.version);
    }
    record
}

/// Who and when: also known of requests that were refused.
fn identify(record: &mut UsageRecord, facts: &Facts, principal: &Principal) {
    record.client_request_id.clone_from(&facts.client_request_id);
    record.trace_id.clone_from(&facts.trace_id);
    record.ts_received = facts.received_wall;
    record.tenant_id = Some(principal.profile.tenant.to_string());
    record.team_id = principal.profile.team.as_ref().map(ToString::to_string);
    record.user_id = principal.profile.user.as_ref().map(ToString::to_string);
    record.key_id = principal.key.as_ref().map(ToString::to_string);
    record.secret_gen = principal.key.as_ref().map(|_| principal.secret_gen);
    record.auth_method = Some(principal.method.name().to_owned());
}

/// The counts of the last attempt. One that gave nothing counts nothing: where the caller got no answer of it, neither
/// limits nor bills know of any tokens.
fn count(record: &mut UsageRecord, exchange: &Exchange, state: &State, ending: &Ending) {
    let in_vain = matches!(ending, Ending::FailedBefore(_) | Ending::PassedOn(_) | Ending::Refused(_));
    let clean = *ending == Ending::Completed;
    if let Some(tally) = state.tally() {
        let (counts, source) = tally.settled(clean);
        // A caller who leaves before the first output is charged the input that the upstream has named by then.
        let began = state.first_token.is_some() || clean || *ending == Ending::ClientGone;
        if began && !in_vain {
            record.set_counts(counts, source);
            record.delivered_output = Some(tally.delivered);
            let said = source == UsageSource::UpstreamFinal || record.output_total.is_some();
            if !said && state.first_token.is_some() {
                record.output_total = Some(tally.delivered);
            }
        }
        record.sse_events = tally.sse_events;
        record.terminal_event_seen = tally.terminal_seen;
        record.finish_reason.clone_from(&tally.finish_reason);
        record.model_reported.clone_from(&tally.model_reported);
        record.raw_usage.clone_from(&tally.raw_usage);
    }
    let worked = state.sent || state.tally().is_some();
    let owed = clean || *ending == Ending::ClientGone || record.output_total.is_some();
    if let Some(call) = exchange.call.as_ref().filter(|_| worked && owed && !in_vain) {
        charge::stand_in(record, input_estimate(call));
    }
}

/// How it ended.
fn conclude(record: &mut UsageRecord, state: &State, ending: &Ending, dialect: Dialect) {
    let sent = state.first_byte.is_some();
    let (status, http_status, code) = match ending {
        Ending::Completed => (Status::Completed, state.upstream_status, None),
        Ending::PassedOn(status) => (Status::UpstreamErrorPre, Some(*status), Some("upstream_error")),
        Ending::ClientGone | Ending::Dropped if record.terminal_event_seen => {
            (Status::Completed, state.upstream_status, None)
        }
        Ending::ClientGone => (Status::ClientDisconnect, Some(499), Some("client_closed_request")),
        Ending::FailedBefore(fault) => {
            let refusal = fault.refusal();
            let status = failed(*fault, Status::UpstreamErrorPre);
            (status, Some(refusal.status()), Some(refusal.code()))
        }
        Ending::FailedAfter(fault) => {
            let status = failed(*fault, Status::UpstreamErrorMid);
            (status, state.upstream_status.or(Some(200)), Some(fault.stream_code()))
        }
        Ending::Refused(refusal) => {
            let status = if clients_fault(refusal) { Status::Rejected } else { Status::UpstreamErrorPre };
            (status, Some(refusal.status()), Some(refusal.code()))
        }
        Ending::Dropped if sent => (Status::UpstreamErrorMid, state.upstream_status, Some("internal_error")),
        Ending::Dropped => (Status::UpstreamErrorPre, Some(500), Some("internal_error")),
    };
    record.status = status;
    record.http_status = http_status.map(|status| error_body::status_in(dialect, status));
    record.error_code = code.map(str::to_owned);
}

/// The status of a request that a fault ended: our own clock and our own no are told from what the upstream did.
fn failed(fault: Fault, by_upstream: Status) -> Status {
    match fault {
        fault if fault.is_timeout() => Status::Timeout,
        Fault::Revoked | Fault::BudgetExceeded => Status::Rejected,
        _ => by_upstream,
    }
}

/// What is told of a request that ends: not admitted and without a first token, unless the caller says so.
fn ended(runtime: &Runtime, facts: &Facts, record: UsageRecord, reason: Option<&'static str>) -> Ended {
    Ended {
        record,
        method: facts.method.clone(),
        path: facts.path.clone(),
        client: facts.client.to_string(),
        ttft: None,
        duration: runtime.services.clock.mono() - facts.received,
        reason,
        rule: None,
        admitted: false,
    }
}

/// Why an admitted request did not end well.
fn reason(ending: &Ending) -> Option<&'static str> {
    match ending {
        Ending::Completed => None,
        Ending::PassedOn(_) => Some("upstream_4xx"),
        Ending::ClientGone => Some("client_abort"),
        Ending::FailedBefore(fault) | Ending::FailedAfter(fault) => Some(fault_reason(*fault)),
        Ending::Refused(refusal) => Some(refusal_reason(refusal)),
        Ending::Dropped => Some("internal"),
    }
}

/// A request that was not admitted: one log line, metrics, and a `rejected` record where the configuration wants
/// one and the caller had proved who they are.
pub fn refused(runtime: &Runtime, facts: &Facts, principal: Option<&Principal>, refusal: &Refusal) {
    let services = &runtime.services;
    let anonymous = Principal::anonymous();
    let mut record = UsageRecord::new(facts.request_id, services.usage.proxy_id(), 0, facts.surface.name());
    identify(&mut record, facts, principal.unwrap_or(&anonymous));
    if principal.is_none() {
        record.tenant_id = None;
        record.auth_method = None;
    }
    record.config_version = Some(runtime.snapshot.version.to_string());
    record.ts_end = services.clock.wall();
    record.status = Status::Rejected;
    record.http_status = Some(error_body::status_in(facts.dialect, refusal.status()));
    record.error_code = Some(refusal.code().to_owned());
    let mut ended = ended(runtime, facts, record, Some(refusal_reason(refusal)));
    ended.rule = match refusal {
        Refusal::InsufficientPermissions { rule } => Some(Arc::clone(rule)),
        Refusal::Limited(denial) => Some(Arc::clone(&denial.rule)),
        _ => None,
    };
    services.observer.ended(&ended);
    if let (Some(principal), true) = (principal, runtime.snapshot.usage.record_rejected) {
        record_rejection(runtime, facts, principal, ended.record);
    }
}

/// Writes a `rejected` record. Where the slot table or the spool is full it is left out: refusals must never stand
/// in the way of what is owed for admitted requests.
fn record_rejection(runtime: &Runtime, facts: &Facts, principal: &Principal, mut record: UsageRecord) {
    let birth = facts.birth(runtime, principal);
    if let Ok(ticket) = runtime.services.usage.admit(&birth) {
        record.seq = ticket.seq;
        drop(runtime.services.usage.append(ticket, record));
    }
}

/// A request of `principal` that Weir answered by itself (`/v1/models`, `respond:`): one log line, no record.
pub fn answered(runtime: &Runtime, facts: &Facts, principal: &Principal, (status, bytes): (u16, usize)) {
    let services = &runtime.services;
    let mut record = UsageRecord::new(facts.request_id, services.usage.proxy_id(), 0, facts.surface.name());
    identify(&mut record, facts, principal);
    record.ts_end = services.clock.wall();
    record.http_status = Some(status);
    record.bytes_out = bytes as u64;
    services.observer.ended(&ended(runtime, facts, record, None));
}

/// The closed set of telemetry.md §2.3.
fn refusal_reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::InvalidApiKey | Refusal::ApiKeyExpired | Refusal::ApiKeyDisabled => "auth_invalid",
        Refusal::AmbiguousCredentials | Refusal::InvalidToken => "auth_invalid",
        Refusal::InsufficientPermissions { .. } => "forbidden",
        Refusal::ModelNotFound { .. } => "forbidden",
        Refusal::RouteNotFound => "no_route",
        Refusal::Limited(denial) => match denial.dimension {
            Dimension::Requests => "rate_requests",
            Dimension::Tokens | Dimension::InputTokens | Dimension::OutputTokens => "rate_tokens",
            Dimension::Spend => "budget",
            Dimension::Concurrency => "concurrency",
        },
        Refusal::TokensExceedLimit { .. } => "rate_tokens",
        Refusal::RequestTooLarge { .. } => "body_too_large",
        Refusal::RequestTimeout => "request_timeout",
        Refusal::Overloaded { .. } => "queue_full",
        Refusal::NoHealthyUpstream { .. } => "no_backend",
        Refusal::UpstreamError | Refusal::UpstreamAuthError => "upstream_5xx",
        Refusal::UpstreamTimeout => "first_byte_timeout",
        Refusal::DependencyUnavailable { .. } => "dependency",
        Refusal::ShuttingDown => "shutdown",
        Refusal::ClientClosed => "client_abort",
        Refusal::Internal => "internal",
        _ => "bad_request",
    }
}

fn fault_reason(fault: Fault) -> &'static str {
    match fault {
        Fault::Connect => "connect",
        Fault::Reset | Fault::Eof | Fault::Malformed => "upstream_reset",
        Fault::FirstByte => "first_byte_timeout",
        Fault::Idle | Fault::Total => "idle_timeout",
        Fault::Status(_) | Fault::Auth(_) | Fault::ErrorEvent => "upstream_5xx",
        Fault::Shutdown => "shutdown",
        Fault::Revoked => "auth_invalid",
        Fault::BudgetExceeded => "budget",
    }
}
