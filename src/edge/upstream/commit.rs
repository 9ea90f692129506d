//! Up to the commit point: sends the body, holds the preamble, and decides when the client may see an answer.
//! Until then every failure is an error that another backend can make good.

use super::broken;
use super::session::Upstream;
use crate::domain::fault::Fault;
use crate::domain::ids::KeyId;
use crate::exchange::{Exchange, UpstreamError};
use crate::logic::wire::strict::hop_by_hop;
use crate::runtime::Abort;
use crate::stages::meter;
use bytes::{Bytes, BytesMut};
use pingora::http::ResponseHeader;
use pingora_core::Result;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// Most bytes of a preamble that are held; behind that the answer is shown, output or not.
const HELD_BYTES: usize = 16 << 10;
/// Most bytes of an error answer that are read.
const ERROR_BYTES: usize = 16 << 10;
/// How long reading an error answer may take: a connection that gives it whole goes back to the pool.
const ERROR_PATIENCE: Duration = Duration::from_millis(500);
/// How long a backend that stopped reading the body has to say why.
const EARLY_ANSWER: Duration = Duration::from_millis(100);

/// What the upstream did.
pub(super) enum Arrived {
    /// Its head.
    Head,
    /// A piece of its body, not empty.
    Piece(Bytes),
    /// Its end.
    End,
}

/// Why requests of this key must end, if it was said since this was last asked. Cheap enough for every piece of an
/// answer: an upstream that never pauses would otherwise never be interrupted.
pub(super) fn overdue(abort: &mut watch::Receiver<Abort>, key: Option<&KeyId>) -> Option<Fault> {
    match abort.has_changed() {
        Ok(false) => None,
        Ok(true) => abort.borrow_and_update().reason(key),
        Err(_) => Some(Fault::Shutdown),
    }
}

/// Waits until requests of this key must end, and says why.
pub(super) async fn aborted(abort: &mut watch::Receiver<Abort>, key: Option<&KeyId>) -> Fault {
    match abort.wait_for(|abort| abort.reason(key).is_some()).await {
        Ok(abort) => abort.reason(key).unwrap_or(Fault::Shutdown),
        Err(_) => Fault::Shutdown,
    }
}

impl Upstream {
    /// Returns once the client may be shown a head.
    pub(super) async fn commit(&mut self) -> Result<()> {
        let exchange = self.exchange()?;
        Box::pin(self.send_body()).await?;
        let mut held = 0;
        while self.head.is_none() {
            let Some(arrived) = self.await_arrival(&exchange).await? else {
                self.open_silently()?;
                break;
            };
            match arrived {
                Arrived::Head => self.read_head(&exchange).await?,
                Arrived::Piece(piece) => held += self.preamble(&exchange, piece, held).await?,
                Arrived::End => self.early_end(&exchange).await?,
            }
        }
        let now = Instant::now();
        (self.clock.heard, self.clock.sent) = (now, now);
        Ok(())
    }

    /// The next thing from upstream, `None` when a silent stream's grace is over.
    async fn await_arrival(&mut self, exchange: &Exchange) -> Result<Option<Arrived>> {
        let grace = exchange.streams().then_some(self.clock.grace);
        let last = self.clock.first_byte.min(self.clock.total);
        let deadline = grace.map_or(last, |grace| grace.min(last));
        match self.guarded(deadline).await {
            Some(arrived) => arrived.map(Some),
            None if grace.is_some_and(|grace| grace < last) => Ok(None),
            None if self.clock.total < self.clock.first_byte => broken(Fault::Total),
            None => broken(Fault::FirstByte),
        }
    }

    /// One step under a deadline and the shutdown's abort; `None`: the deadline passed.
    pub(super) async fn guarded(&mut self, deadline: Instant) -> Option<Result<Arrived>> {
        let Some(mut abort) = self.abort.take() else { return Some(broken(Fault::Shutdown)) };
        let key = self.call.as_ref().and_then(|call| call.exchange.principal.key.clone());
        if let Some(fault) = overdue(&mut abort, key.as_ref()) {
            return Some(broken(fault));
        }
        let arrived = tokio::select! {
            biased;
            arrived = timeout_at(deadline, self.step()) => arrived.ok(),
            fault = aborted(&mut abort, key.as_ref()) => Some(broken(fault)),
        };
        self.abort = Some(abort);
        arrived
    }

    /// One read. Cancel-safe, as both of Pingora's reads are: nothing is lost when the future is dropped.
    pub(super) async fn step(&mut self) -> Result<Arrived> {
        while self.head_due {
            self.stock.read_response_header().await?;
            let Some(head) = self.stock.response_header() else { return broken(Fault::Malformed) };
            if head.status.is_informational() {
                continue;
            }
            self.head_due = false;
            return Ok(Arrived::Head);
        }
        loop {
            match self.stock.read_response_body().await? {
                Some(piece) if piece.is_empty() => {}
                Some(piece) => return Ok(Arrived::Piece(piece)),
                None => return Ok(Arrived::End),
            }
        }
    }

    /// Sends the body. It is here, and not with the head, so that a client that leaves ends a stalled upload.
    async fn send_body(&mut self) -> Result<()> {
        let (Some(call), Some(mut abort)) = (&self.call, self.abort.clone()) else { return broken(Fault::Malformed) };
        let body = call.body.clone();
        let key = call.exchange.principal.key.clone();
        let deadline = self.clock.first_byte.min(self.clock.total);
        let upload = async {
            self.stock.write_request_body(body, true).await?;
            self.stock.finish_request_body().await
        };
        let sent = tokio::select! {
            biased;
            sent = timeout_at(deadline, upload) => match sent {
                Ok(sent) => sent,
                Err(_) => return broken(Fault::FirstByte),
            },
            fault = aborted(&mut abort, key.as_ref()) => return broken(fault),
        };
        let Err(error) = sent else { return Ok(()) };
        // A backend that answers early (413) stops reading; its answer says more than our failed write.
        match timeout(EARLY_ANSWER, self.step()).await {
            Ok(Ok(Arrived::Head)) => {
                let exchange = self.exchange()?;
                self.read_head(&exchange).await?;
                Err(error)
            }
            _ => Err(error),
        }
    }

    /// The upstream's head is there: an answer to count, or an error to keep.
    async fn read_head(&mut self, exchange: &Exchange) -> Result<()> {
        let Some(head) = self.stock.response_header() else { return broken(Fault::Malformed) };
        let status = head.status.as_u16();
        let content_type = head.headers.get("content-type").map(|value| value.as_bytes());
        self.events = content_type.is_some_and(|value| value.starts_with(b"text/event-stream"));
        if (200..300).contains(&status) {
            meter::begin(exchange, status, self.events);
            return Ok(());
        }
        let retry_after = head.headers.get("retry-after").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = Box::pin(self.error_body()).await;
        let mut state = exchange.state();
        state.upstream_status = Some(status);
        state.last_error = Some(UpstreamError { status, body, retry_after });
        drop(state);
        broken(if matches!(status, 401 | 403) { Fault::Auth(status) } else { Fault::Status(status) })
    }

    /// As much of an error's body as is needed; the connection stays usable if that is all of it.
    async fn error_body(&mut self) -> Bytes {
        let mut body = BytesMut::new();
        let whole = async {
            loop {
                match self.stock.read_response_body().await {
                    Ok(Some(piece)) if body.len() + piece.len() <= ERROR_BYTES => body.extend_from_slice(&piece),
                    Ok(Some(_)) | Err(_) => return false,
                    Ok(None) => return true,
                }
            }
        };
        self.clean = timeout(ERROR_PATIENCE, whole).await.unwrap_or(false);
        body.freeze()
    }

    /// A piece before the commit point: kept, unless it decides. Returns its length.
    async fn preamble(&mut self, exchange: &Exchange, piece: Bytes, held: usize) -> Result<usize> {
        let length = piece.len();
        if !self.events {
            meter::document(exchange, &piece);
            self.last_piece = Some(piece);
            self.show_head()?;
            return Ok(length);
        }
        let step = meter::piece(exchange, piece);
        if step.error {
            return broken(Fault::ErrorEvent);
        }
        if step.terminal {
            self.conclude(exchange, step.out).await;
            self.show_head()?;
            return Ok(length);
        }
        if !step.out.is_empty() {
            meter::delivered(exchange, step.out.len());
            self.ready.push_back(step.out);
        }
        if step.output || held + length > HELD_BYTES {
            self.show_head()?;
        }
        Ok(length)
    }

    /// The upstream's body ended before any output. A stream with its terminal event is an answer all the same.
    async fn early_end(&mut self, exchange: &Exchange) -> Result<()> {
        if !self.events {
            return broken(Fault::Eof);
        }
        let step = meter::finish(exchange);
        if !step.terminal {
            return broken(Fault::Eof);
        }
        self.clean = true;
        self.ended = true;
        self.conclude(exchange, step.out).await;
        self.show_head()
    }

    /// Lets the upstream's head through, without what belongs to its hop. A stream's length is not known any more:
    /// comments and error events may be added.
    fn show_head(&mut self) -> Result<()> {
        let Some(upstream) = self.stock.response_header() else { return broken(Fault::Malformed) };
        let mut head = Box::new(upstream.clone());
        let own: Vec<String> =
            head.headers.keys().map(|name| name.as_str().to_owned()).filter(|name| hop_by_hop(name)).collect();
        for name in &own {
            head.remove_header(name.as_str());
        }
        if self.events {
            head.remove_header("content-length");
        }
        self.head = Some(head);
        Ok(())
    }

    /// Opens a stream whose backend is silent: the client gets 200 and comments, and later failures in band.
    fn open_silently(&mut self) -> Result<()> {
        let mut head = ResponseHeader::build(200, Some(4))?;
        head.insert_header("content-type", "text/event-stream")?;
        head.insert_header("cache-control", "no-cache")?;
        self.head = Some(Box::new(head));
        self.events = true;
        Ok(())
    }
}
