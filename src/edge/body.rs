//! Reads a whole request body before a backend is chosen. The one place that calls `read_request_body`: with the
//! upstream connector (`edge/upstream.rs`) no retry buffer is needed, so any size and framing works.

use crate::domain::refusal::Refusal;
use crate::runtime::{Budget, Share};
use bytes::{Bytes, BytesMut};
use pingora_proxy::Session;
use std::time::Duration;
use tokio::time::Instant;

/// How long the whole body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes reserved ahead on the word of `Content-Length` alone.
const RESERVE_AHEAD: u64 = 1 << 20;

/// Most bytes of an unwanted body that are read and dropped after the answer, so that a client that is still
/// sending can read it (a close with unread data resets the connection).
const LINGER_BYTES: usize = 16 << 20;
/// How long that may take.
const LINGER: Duration = Duration::from_secs(2);

/// A buffered body with its share of the memory that all of them may take.
pub struct Buffered {
    /// The bytes.
    pub bytes: Bytes,
    /// Given back when dropped.
    pub share: Share,
}

/// What is known before a body is read.
pub struct Expected {
    /// `Content-Length`, if there is one.
    pub length: Option<u64>,
    /// The listener's limit in bytes.
    pub limit: u64,
}

/// The whole body.
///
/// # Errors
/// `RequestTooLarge`, `RequestTimeout`, `ClientClosed` (gone half way), `MalformedRequest` (broken framing),
/// `Overloaded` (the bodies of others fill the memory set aside for them).
pub async fn read(session: &mut Session, expected: &Expected, budget: &Budget) -> Result<Buffered, Refusal> {
    let (length, limit) = (expected.length, expected.limit);
    let mut share = budget.take(length.unwrap_or(0))?;
    let expects = session.req_header().headers.get("expect").is_some();
    if expects && session.write_continue_response().await.is_err() {
        return Err(Refusal::ClientClosed);
    }
    let deadline = Instant::now() + BODY_DEADLINE;
    let mut whole: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    loop {
        let piece = match tokio::time::timeout_at(deadline, session.read_request_body()).await {
            Err(_) => return Err(Refusal::RequestTimeout),
            Ok(Err(error)) => return Err(broken(&error)),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(piece))) => piece,
        };
        let got = whole.as_ref().map_or(0, Bytes::len) + rest.len() + piece.len();
        if got as u64 > limit {
            return Err(Refusal::RequestTooLarge { limit });
        }
        share.grow(budget, got as u64)?;
        match whole.take() {
            None if rest.is_empty() => whole = Some(piece),
            None => rest.extend_from_slice(&piece),
            Some(first) => {
                let ahead = length.unwrap_or(0).min(RESERVE_AHEAD);
                rest.reserve(usize::try_from(ahead).unwrap_or(0).max(first.len() + piece.len()));
                rest.extend_from_slice(&first);
                rest.extend_from_slice(&piece);
            }
        }
    }
    let body = whole.unwrap_or_else(|| rest.freeze());
    if length.is_some_and(|length| length != body.len() as u64) {
        return Err(Refusal::ClientClosed);
    }
    Ok(Buffered { bytes: body, share })
}

/// Reads what the client is still sending, within bounds. One that waits for `100 Continue` sends nothing more.
pub async fn linger(session: &mut Session) {
    if session.req_header().headers.contains_key("expect") {
        return;
    }
    let drain = async {
        let mut dropped = 0;
        while dropped < LINGER_BYTES {
            match session.read_request_body().await {
                Ok(Some(piece)) => dropped += piece.len(),
                Ok(None) | Err(_) => return,
            }
        }
    };
    // Past the deadline the connection is closed with data unread; the client had its chance.
    let _ = tokio::time::timeout(LINGER, drain).await;
}

/// What a failed read means: a slow client, one that left, or one that broke the framing.
#[must_use]
pub fn broken(error: &pingora_core::Error) -> Refusal {
    use pingora_core::ErrorType as Kind;
    match error.etype() {
        Kind::ReadTimedout => Refusal::RequestTimeout,
        Kind::ConnectionClosed | Kind::ReadError | Kind::H2Error => Refusal::ClientClosed,
        // Pingora's word for bytes behind the body while the answer is awaited.
        Kind::ConnectError => {
            Refusal::MalformedRequest { status: 400, detail: "more bytes came before this request was answered" }
        }
        _ => Refusal::MalformedRequest { status: 400, detail: "the body's framing is broken" },
    }
}
