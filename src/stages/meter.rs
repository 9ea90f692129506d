//! Stage 8: what came back? A fold over the pieces of an answer: whole events out, tokens counted, first output
//! and terminal event noticed. It decides nothing about retries or the record.

use crate::domain::fault::Fault;
use crate::domain::limit::QuotaUse;
use crate::domain::units::{Micros, Tokens};
use crate::exchange::{Exchange, Meter, State};
use crate::logic::usage::charge;
use crate::logic::usage::json_meter::JsonMeter;
use crate::logic::usage::stream_meter::{Step, StreamMeter};
use crate::logic::wire::error_body::stream_error;
use crate::logic::wire::stream_kind::StreamKind;
use crate::logic::wire::timing::{self, Audience, Timing};
use crate::ports::Progress;
use crate::stages::debit::input_estimate;
use crate::stages::{dispatch, forward};
use bytes::{Bytes, BytesMut};

/// Starts counting an answer of the running attempt.
pub fn begin(exchange: &Exchange, status: u16, event_stream: bool) {
    let surface = exchange.facts.surface;
    let meter = match StreamKind::of(surface) {
        Some(kind) if event_stream => Meter::Stream(Box::new(StreamMeter::new(kind, forward::strip(exchange)))),
        _ => Meter::Json(Box::new(JsonMeter::new(surface))),
    };
    let mut state = exchange.state();
    state.upstream_status = Some(status);
    state.meter = meter;
}

/// Feeds one piece of an event stream.
pub fn piece(exchange: &Exchange, piece: Bytes) -> Step {
    fold(exchange, |meter| meter.push(piece))
}

/// The upstream's body ended: an unterminated last event still counts.
pub fn finish(exchange: &Exchange) -> Step {
    fold(exchange, StreamMeter::finish)
}

fn fold(exchange: &Exchange, feed: impl FnOnce(&mut StreamMeter) -> Step) -> Step {
    let mut state = exchange.state();
    let Meter::Stream(meter) = &mut state.meter else {
        return Step { out: Bytes::new(), output: false, terminal: false, error: false };
    };
    let step = feed(meter);
    if step.output {
        state.last_token = Some(exchange.now());
        if state.first_token.is_none() {
            drop(state);
            dispatch::first_output(exchange);
        }
    }
    step
}

/// Feeds one piece of a JSON answer.
pub fn document(exchange: &Exchange, piece: &[u8]) {
    let mut state = exchange.state();
    if let Meter::Json(meter) = &mut state.meter {
        meter.push(piece);
    }
    if state.first_token.is_none() {
        drop(state);
        dispatch::first_output(exchange);
    }
}

/// Bytes were handed to the client's side; the slot learns how far the request has come.
pub fn delivered(exchange: &Exchange, bytes: usize) {
    let mut state = exchange.state();
    state.bytes_out += bytes as u64;
    if state.first_byte.is_none() {
        state.first_byte = Some(exchange.runtime.services.clock.wall());
    }
    if let Some(ticket) = &state.ticket {
        exchange.runtime.services.usage.progress(ticket, &progress(&state));
    }
}

/// How often the limits are told what a running stream has used.
pub const ACCOUNT_EVERY: Micros = Micros(5_000_000);

/// Tells the limits what a running stream has used so far, at most each [`ACCOUNT_EVERY`] and only where something was
/// used. A fault: a rule that ends streams is used up.
pub fn account(exchange: &Exchange) -> Option<Fault> {
    let mut state = exchange.state();
    let last = state.last_token?;
    if last - state.accounted < ACCOUNT_EVERY {
        return None;
    }
    state.accounted = last;
    let estimate = exchange.call.as_ref().map(input_estimate).unwrap_or_default();
    let counts = charge::so_far(state.tally()?, estimate);
    drop(state);
    let used = QuotaUse {
        input: counts.input_total.unwrap_or_default(),
        output: counts.output_total.unwrap_or_default(),
        cost: exchange.prices.map(|prices| prices.cost(&counts)).unwrap_or_default(),
        complete: false,
    };
    let rule = exchange.reservation.progress(used, last)?;
    exchange.state().overdrawn = Some(rule);
    Some(Fault::BudgetExceeded)
}

fn progress(state: &State) -> Progress {
    let tally = state.tally();
    let plus_one = |count: Option<Tokens>| count.map_or(0, |tokens| tokens.0 + 1);
    Progress {
        input_plus_one: plus_one(tally.and_then(|tally| tally.counts.input_total)),
        output_plus_one: plus_one(tally.and_then(|tally| tally.counts.output_total)),
        delivered: tally.map_or(0, |tally| tally.delivered.0),
        bytes_out: state.bytes_out,
        sse_events: tally.map_or(0, |tally| tally.sse_events),
        first_token: state.first_token.map_or(0, |(_, wall)| wall.0),
    }
}

/// The error event that ends a stream after the commit point, in the client's dialect.
#[must_use]
pub fn interruption(exchange: &Exchange, fault: Fault) -> Bytes {
    let kind = StreamKind::of(exchange.facts.surface).unwrap_or(StreamKind::Chat);
    let message = match fault {
        Fault::Shutdown => "The server is shutting down; send the request again.",
        Fault::BudgetExceeded => "Your budget is used up; what was sent so far is incomplete.",
        Fault::Revoked => "The key of this request was revoked; what was sent so far is incomplete.",
        fault if fault.is_timeout() => "The model did not answer in time; send the request again.",
        _ => "The stream was interrupted upstream; what was sent so far is incomplete.",
    };
    stream_error(kind, fault.stream_code(), message, &exchange.facts.request_id.to_string())
}

/// Runs a function over the timing of an exchange as it stands, for those who asked (`x-weir-timing: 1`).
pub fn with_timing<T>(exchange: &Exchange, show: impl FnOnce(Timing<'_>, Audience) -> T) -> T {
    let state = exchange.state();
    let counts = state.tally().map(|tally| tally.counts).unwrap_or_default();
    let decode = state.first_token.zip(state.last_token).map(|((first, _), last)| last - first);
    let gaps = counts.output_total.map(|tokens| tokens.0.saturating_sub(1)).filter(|gaps| *gaps > 0);
    let backend = state.backend.and_then(|index| exchange.pool.config.backends.get(index));
    let timing = Timing {
        ttft: state.first_token.map(|(at, _)| at - exchange.facts.received),
        tpot: decode.zip(gaps).map(|(span, gaps)| Micros(span.0 / gaps)),
        queue: Some(Micros(0)),
        overhead: Some(exchange.admission_cost + state.dispatch_cost),
        backend: backend.map(|backend| backend.id.as_str()),
        input: counts.input_total.map(|tokens| tokens.0),
        output: counts.output_total.map(|tokens| tokens.0),
        cached: counts.input_cache_read.map(|tokens| tokens.0),
    };
    show(timing, if exchange.facts.debug { Audience::Operator } else { Audience::Caller })
}

/// The last bytes of a stream with the timing comment behind them, where it was asked for.
#[must_use]
pub fn last_words(exchange: &Exchange, out: Bytes) -> Bytes {
    if !exchange.facts.timing {
        return out;
    }
    let mut longer = BytesMut::from(&out[..]);
    longer.extend_from_slice(&with_timing(exchange, timing::comment));
    longer.freeze()
}
