//! Refusals and faults become HTTP here and nowhere else, in the client's dialect.

use crate::domain::limit::Standing;
use crate::domain::refusal::Refusal;
use crate::domain::surface::Dialect;
use crate::domain::units::WallMicros;
use crate::exchange::{Exchange, UpstreamError};
use crate::logic::quota::headers::standing_headers;
use crate::logic::wire::error_body::{self, ErrorReply};
use crate::runtime::Runtime;
use crate::stages::accept::Facts;
use bytes::Bytes;
use pingora::http::ResponseHeader;
use pingora_core::Result;
use pingora_proxy::Session;
use std::sync::atomic::Ordering;

/// True if nothing but an interim response was written, so that an answer can still be given.
#[must_use]
pub fn unanswered(session: &Session) -> bool {
    session.response_written().is_none_or(|head| head.status.is_informational())
}

/// What answers tell a caller about themselves; nothing where nobody knows who calls.
#[derive(Clone, Copy, Default)]
pub struct Caller<'a> {
    /// Their limits as they stand.
    pub standings: &'a [Standing],
    /// Their secret has been replaced and ends then.
    pub deprecated_until: Option<WallMicros>,
}

impl<'a> Caller<'a> {
    /// The caller of an admitted request.
    #[must_use]
    pub fn of(exchange: &'a Exchange) -> Self {
        let deprecated_until = exchange.principal.deprecated_until;
        Self { standings: exchange.reservation.standings(), deprecated_until }
    }

    /// The headers of this caller's answers.
    pub fn headers(self, runtime: &Runtime, dialect: Dialect) -> impl Iterator<Item = (&'static str, String)> {
        let shown = if runtime.snapshot.limits.headers { self.standings } else { &[] };
        let limits = standing_headers(shown, dialect, runtime.services.clock.wall());
        limits.into_iter().chain(self.deprecated_until.and_then(deprecation))
    }
}

/// `x-key-deprecated-until`, RFC 3339 in whole seconds: the secret still works then, and not a second longer.
fn deprecation(until: WallMicros) -> Option<(&'static str, String)> {
    let at = jiff::Timestamp::from_second(until.0.div_euclid(1_000_000)).ok()?;
    Some(("x-key-deprecated-until", at.to_string()))
}

/// Answers with a refusal.
///
/// # Errors
/// The client's side failed.
pub async fn refuse(
    session: &mut Session,
    runtime: &Runtime,
    facts: &Facts,
    refusal: &Refusal,
    caller: Caller<'_>,
) -> Result<()> {
    let reply = error_body::render(refusal, facts.dialect, &facts.request_id.to_string());
    let caller = match refusal {
        Refusal::Limited(denial) => Caller { standings: &denial.standings, ..caller },
        // A key that was revoked while its request ran: nobody knows who calls any more.
        refusal if refusal.status() == 401 => Caller::default(),
        _ => caller,
    };
    if refusal.closes() {
        session.set_keepalive(None);
    }
    send(session, runtime, facts, reply, caller).await
}

/// Answers with an upstream's error: verbatim where it is in the client's dialect already, wrapped once where not.
///
/// # Errors
/// The client's side failed.
pub async fn pass_on(session: &mut Session, exchange: &Exchange, error: &UpstreamError) -> Result<()> {
    let facts = &exchange.facts;
    let mut reply = if error_body::is_valid_error(facts.dialect, &error.body) {
        ErrorReply {
            status: error.status,
            body: error.body.clone(),
            headers: vec![("content-type", "application/json".to_owned())],
        }
    } else {
        error_body::wrap_upstream(facts.dialect, error.status, &error.body, &facts.request_id.to_string())
    };
    if let Some(wait) = &error.retry_after {
        reply.headers.push(("retry-after", wait.clone()));
    }
    send(session, &exchange.runtime, facts, reply, Caller::of(exchange)).await
}

/// A document of our own.
pub struct Document {
    /// HTTP status.
    pub status: u16,
    /// Its type.
    pub content_type: &'static str,
    /// The body.
    pub text: String,
}

/// Answers with a document of our own (`/v1/models`, `respond:`).
///
/// # Errors
/// The client's side failed.
pub async fn document(
    session: &mut Session,
    runtime: &Runtime,
    facts: &Facts,
    document: Document,
    caller: Caller<'_>,
) -> Result<()> {
    let Document { status, content_type, text } = document;
    let headers = vec![("content-type", content_type.to_owned())];
    send(session, runtime, facts, ErrorReply { status, body: Bytes::from(text), headers }, caller).await
}

async fn send(
    session: &mut Session,
    runtime: &Runtime,
    facts: &Facts,
    reply: ErrorReply,
    caller: Caller<'_>,
) -> Result<()> {
    let mut head = ResponseHeader::build(reply.status, Some(reply.headers.len() + 10))?;
    for (name, value) in reply.headers {
        head.insert_header(name, value)?;
    }
    for (name, value) in caller.headers(runtime, facts.dialect) {
        head.insert_header(name, value)?;
    }
    head.insert_header("content-length", reply.body.len().to_string())?;
    head.insert_header("x-request-id", facts.request_id.to_string())?;
    if runtime.draining.load(Ordering::Relaxed) {
        session.set_keepalive(None);
    }
    let bodiless = session.req_header().method == http::Method::HEAD || reply.body.is_empty();
    session.write_response_header(Box::new(head), bodiless).await?;
    if !bodiless {
        session.write_response_body(Some(reply.body), true).await?;
    }
    Ok(())
}
