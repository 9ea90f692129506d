//! Stage 6: which backend? Chooses and books in one critical section, and decides after a fault whether another
//! backend is tried. It sends nothing.

use crate::config::snapshot::{Backend, RetryOn};
use crate::domain::fault::{Fault, RETRY_SOON};
use crate::domain::record::Attempt;
use crate::domain::refusal::Refusal;
use crate::domain::units::Tokens;
use crate::exchange::{Exchange, Meter, OpenAttempt, State, UpstreamError};
use crate::logic::routing::book::{Ask, Ending};
use crate::logic::routing::eligible::Eligible;
use crate::logic::routing::retry::{self, Decision};
use crate::stages::debit::input_estimate;

/// Most bytes of `x-weir-explain`.
const EXPLAIN_BYTES: usize = 4096;

/// The outcome of an attempt whose client left.
pub const ABORTED: &str = "client_gone";

/// A chosen backend.
pub struct Chosen {
    /// Index in the pool.
    pub backend: usize,
}

/// Chooses a backend, books the request there and starts an attempt. `chance` is a random number.
///
/// # Errors
/// `NoHealthyUpstream`.
pub fn dispatch(exchange: &Exchange, chance: u64) -> Result<Chosen, Refusal> {
    let started = exchange.now();
    let pool = &exchange.pool;
    let mut state = exchange.state();
    let eligible = eligible(exchange, &state.failed);
    let ask = ask(exchange);
    let mut book = pool.book.lock();
    let scores = exchange.facts.explain.then(|| book.explain(&ask, &eligible, started));
    let booking = book.choose(&ask, &eligible, started, chance);
    drop(book);
    state.explain = scores.map(|scores| render_scores(exchange, &scores, EXPLAIN_BYTES));
    let Some(booking) = booking else {
        return Err(Refusal::NoHealthyUpstream { retry_after: RETRY_SOON });
    };
    let backend = booking.backend;
    state.prefix = (booking.matched_blocks, booking.total_blocks);
    state.backend = Some(backend);
    state.meter = Meter::Off;
    state.sent = false;
    if exchange.call.is_none() {
        // A retry replays the body of plain HTTP, and it is counted as it passes.
        state.bytes_in = 0;
    }
    let services = &exchange.runtime.services;
    if let (Some(ticket), Some(config)) = (&state.ticket, pool.config.backends.get(backend)) {
        services.usage.dispatched(ticket, pool.id(), &config.id);
    }
    let policy = pool.config.policy.name();
    let (matched, total) = (u64::from(booking.matched_blocks), u64::from(booking.total_blocks));
    services.observer.picked(pool.id(), policy, booking.reason, matched, total);
    state.open = Some(OpenAttempt { booking, started: services.clock.wall(), started_mono: exchange.now() });
    let spent = exchange.now() - started;
    state.dispatch_cost += spent;
    services.observer.overhead("route", spent);
    Ok(Chosen { backend })
}

/// The question put to the pool's book.
fn ask(exchange: &Exchange) -> Ask<'_> {
    let input_tokens = exchange.call.as_ref().map_or(Tokens(0), input_estimate);
    Ask { chain: &exchange.chain, input_tokens, affinity: exchange.chain.first().copied() }
}

/// Healthy backends that have not failed this request. Where none is left, those come back whose fault was the
/// connection's rather than the backend's: a stale pooled connection says nothing about its backend.
fn eligible(exchange: &Exchange, failed: &[(usize, Fault)]) -> Eligible {
    let pool = &exchange.pool;
    let count = pool.config.backends.len();
    let fresh =
        eligible_of(count, |backend| pool.is_healthy(backend) && !failed.iter().any(|(other, _)| *other == backend));
    if !fresh.is_empty() {
        return fresh;
    }
    eligible_of(count, |backend| {
        let sick = |(other, fault): &(usize, Fault)| *other == backend && !matches!(fault, Fault::Reset);
        pool.is_healthy(backend) && !failed.iter().any(sick)
    })
}

fn eligible_of(count: usize, may: impl Fn(usize) -> bool) -> Eligible {
    let mut eligible = Eligible::none(count);
    (0..count).filter(|backend| may(*backend)).for_each(|backend| eligible.insert(backend));
    eligible
}

/// The candidates with their scores as they were when the choice was made, as JSON of at most `limit` bytes.
fn render_scores(exchange: &Exchange, scores: &[crate::logic::routing::cost::Score], limit: usize) -> String {
    let config = &exchange.pool.config;
    let name = |backend: usize| config.backends.get(backend).map_or("", |b: &Backend| b.id.as_str());
    let mut shown = scores.len();
    loop {
        let candidates: Vec<_> = scores
            .iter()
            .take(shown)
            .map(|score| serde_json::json!({"backend": name(score.backend), "score": score}))
            .collect();
        let text = serde_json::json!({
            "pool": config.id, "policy": config.policy.name(), "candidates": candidates,
            "omitted": scores.len() - shown,
        })
        .to_string();
        if text.len() <= limit || shown == 0 {
            return text;
        }
        shown -= 1;
    }
}

/// The first output of the running attempt was seen: its prefill is over.
pub fn first_output(exchange: &Exchange) {
    let now = exchange.now();
    let wall = exchange.runtime.services.clock.wall();
    let mut state = exchange.state();
    if state.first_token.is_none() {
        state.first_token = Some((now, wall));
        if let Some(open) = &mut state.open {
            exchange.pool.book.lock().first_output(&mut open.booking, now);
        }
    }
}

/// Ends the running attempt after a fault and decides whether another backend is tried. `committed`: the client
/// has seen something, so nothing can be tried again.
pub fn failed(exchange: &Exchange, fault: Fault, committed: bool) -> bool {
    end_attempt(exchange, fault.outcome(), Some(fault));
    let mut state = exchange.state();
    if !committed {
        forget_unshown(&mut state);
    }
    let attempts = u32::try_from(state.attempts.len()).unwrap_or(u32::MAX);
    let another = !eligible(exchange, &state.failed).is_empty();
    drop(state);
    let policy = &exchange.pool.config.retry;
    let wanted = match fault {
        Fault::Connect => policy.on.contains(&RetryOn::Connect),
        Fault::Reset => policy.on.contains(&RetryOn::Reset),
        Fault::Eof | Fault::ErrorEvent => policy.on.contains(&RetryOn::Eof),
        Fault::FirstByte => policy.on.contains(&RetryOn::FirstByte),
        Fault::Status(status) => policy.on_status(status),
        _ => false,
    };
    let situation = retry::Situation {
        committed,
        listed: wanted,
        attempts,
        max_retries: policy.max,
        backend_left: another,
        deadline: exchange.facts.received + exchange.pool.config.timeouts.total.into(),
    };
    let decision = retry::decide(&situation, &mut exchange.pool.retries.lock(), exchange.now());
    if decision != Decision::Retry {
        return false;
    }
    exchange.inside.took_retry();
    true
}

/// What a failed attempt had ready was never shown: the next one starts from nothing.
fn forget_unshown(state: &mut State) {
    state.first_byte = None;
    state.first_token = None;
    state.last_token = None;
    state.bytes_out = 0;
}

/// What the caller is told when no attempt is left: by the last fault, or because nothing could be tried at all.
#[must_use]
pub fn given_up(exchange: &Exchange, refusal: Option<Refusal>) -> Refusal {
    let last = exchange.state().failed.last().map(|(_, fault)| fault.refusal());
    last.or(refusal).unwrap_or(Refusal::Internal)
}

/// The upstream's own error answer, where that is what the caller gets: any 4xx but those about our credential.
#[must_use]
pub fn passed_on(exchange: &Exchange) -> Option<UpstreamError> {
    let state = exchange.state();
    match state.failed.last() {
        Some((_, Fault::Status(status))) if (400..500).contains(status) => state.last_error.clone(),
        _ => None,
    }
}

/// Ends the running attempt, if there is one: releases its booking and writes its line.
pub fn end_attempt(exchange: &Exchange, outcome: &str, fault: Option<Fault>) {
    let mut state = exchange.state();
    state.close_document();
    let Some(open) = state.open.take() else { return };
    let backend = open.booking.backend;
    if let Some(fault) = fault {
        state.failed.push((backend, fault));
    }
    let ending = match fault {
        Some(Fault::Revoked | Fault::Shutdown | Fault::BudgetExceeded) => Ending::Aborted,
        Some(_) => Ending::Failed,
        None if outcome == ABORTED => Ending::Aborted,
        None => ending_of(&state),
    };
    let attempt = Attempt {
        n: u32::try_from(state.attempts.len()).unwrap_or(u32::MAX).saturating_add(1),
        backend_id: exchange.pool.config.backends.get(backend).map(|b| b.id.to_string()).unwrap_or_default(),
        outcome: outcome.to_owned(),
        http_status: state.upstream_status,
        started: open.started,
        ended: exchange.runtime.services.clock.wall(),
    };
    state.attempts.push(attempt);
    exchange.pool.book.lock().release(open.booking, ending, exchange.now());
}

/// What the ledger learns from an attempt that ended well.
fn ending_of(state: &State) -> Ending {
    let Some(tally) = state.tally() else { return Ending::Aborted };
    let counts = tally.counts;
    Ending::Done { input: counts.input_total, output: counts.output_total, cached_tokens: counts.input_cache_read }
}
