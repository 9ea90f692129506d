//! One line of the access log (telemetry.md §2.4). Every value goes through the JSON encoder: nothing that a caller
//! sends can end a line or a string.

use crate::domain::record::Status;
use crate::domain::units::{Micros, Tokens};
use crate::io::metrics::seconds_per_token;
use crate::ports::Ended;
use serde::Serialize;

/// Longest text of a field; callers choose paths, models and ids.
const MAX_TEXT: usize = 1_024;

#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    level: &'static str,
    msg: &'static str,
    request_id: String,
    client_request_id: Option<&'a str>,
    trace_id: Option<&'a str>,
    tenant: Option<&'a str>,
    key_id: Option<&'a str>,
    route: Option<&'a str>,
    pool: Option<&'a str>,
    backend: Option<&'a str>,
    model: Option<&'a str>,
    method: &'a str,
    path: &'a str,
    status: Option<u16>,
    reason: Option<&'static str>,
    rule: Option<&'a str>,
    error_code: Option<&'a str>,
    stream: bool,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    dur_ms: f64,
    queue_ms: Option<u64>,
    overhead_us: Option<u64>,
    tok_in: Option<Tokens>,
    tok_out: Option<Tokens>,
    tok_cached: Option<Tokens>,
    bytes_in: u64,
    bytes_out: u64,
    chunks: u64,
    client_abort: bool,
    client: &'a str,
    usage_source: &'a str,
}

/// The line of a request, newline included.
///
/// # Errors
/// If a value cannot be JSON, which none of these types can cause.
pub(super) fn encode(ended: &Ended) -> Result<Vec<u8>, serde_json::Error> {
    let record = &ended.record;
    let line = Line {
        ts: timestamp(record.ts_end.0),
        level: level(ended),
        msg: sentence(record.status),
        request_id: record.request_id.to_string(),
        client_request_id: short(record.client_request_id.as_deref()),
        trace_id: short(record.trace_id.as_deref()),
        tenant: short(record.tenant_id.as_deref()),
        key_id: short(record.key_id.as_deref()),
        route: short(record.route_id.as_deref()),
        pool: short(record.pool.as_deref()),
        backend: short(record.backend_id.as_deref()),
        model: short(record.model_requested.as_deref()),
        method: cut(&ended.method),
        path: cut(&ended.path),
        status: record.http_status,
        reason: ended.reason,
        rule: short(ended.rule.as_deref()),
        error_code: short(record.error_code.as_deref()),
        stream: record.stream,
        ttft_ms: ended.ttft.map(millis),
        tpot_ms: seconds_per_token(ended).map(|pace| rounded(pace * 1e3)),
        dur_ms: millis(ended.duration),
        queue_ms: record.queue_ms,
        overhead_us: record.overhead_us,
        tok_in: record.input_total,
        tok_out: record.output_total,
        tok_cached: record.input_cache_read,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        chunks: record.sse_events,
        client_abort: record.status == Status::ClientDisconnect,
        client: cut(&ended.client),
        usage_source: cut(&record.usage_source),
    };
    let mut bytes = Vec::with_capacity(1_024);
    serde_json::to_writer(&mut bytes, &line)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// True for requests that are logged whatever the sample: an error status, a named reason, no clean end.
pub(super) fn went_wrong(ended: &Ended) -> bool {
    let status = ended.record.http_status;
    ended.reason.is_some() || ended.record.status != Status::Completed || status.is_none_or(|code| code >= 400)
}

/// Our side's or the upstream's failure is an error, the caller's a warning. A stream that broke has status 200.
fn level(ended: &Ended) -> &'static str {
    match (ended.record.status, ended.record.http_status) {
        (Status::UpstreamErrorMid | Status::Timeout | Status::Crash, _) | (_, Some(500..)) => "error",
        (_, Some(400..)) => "warn",
        _ => "info",
    }
}

fn sentence(status: Status) -> &'static str {
    match status {
        Status::Completed => "The request was answered in full.",
        Status::Rejected => "The request was refused.",
        Status::UpstreamErrorPre => "The upstream failed before it sent any output.",
        Status::UpstreamErrorMid => "The upstream failed in the middle of its output.",
        Status::ClientDisconnect => "The client left before the end of the answer.",
        Status::Timeout => "The request ran out of time.",
        Status::Plugin => "A plugin ended the request.",
        Status::Crash => "The proxy died while the request was open.",
    }
}

/// RFC 3339 with microseconds, UTC. A time that no calendar has is written as the number that it is.
fn timestamp(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros).map_or_else(|_| micros.to_string(), |at| format!("{at:.6}"))
}

fn millis(span: Micros) -> f64 {
    rounded(span.0 as f64 / 1e3)
}

fn rounded(millis: f64) -> f64 {
    (millis * 1e3).round() / 1e3
}

fn short(text: Option<&str>) -> Option<&str> {
    text.map(cut)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
