//! The session of one attempt: Pingora's custom client session, over the stock HTTP/1 session.
//!
//! Order per attempt: `write_request_header` → (`read_response_header` → `response_header` → `read_response_body`*),
//! the bracket beside the watch on the client, so that a client that leaves cancels a stalled upload too.

use super::{Carried, broken};
use crate::domain::fault::Fault;
use crate::exchange::Exchange;
use crate::runtime::Abort;
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::Result;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::custom::client::Session;
use pingora_core::protocols::http::custom::{BodyWrite, CustomMessageWrite};
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::protocols::{Digest, UniqueIDType};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// One attempt at one backend.
pub struct Upstream {
    pub(super) stock: HttpSession<()>,
    pub(super) call: Option<Carried>,
    /// The head that the client sees, once it may.
    pub(super) head: Option<Box<ResponseHeader>>,
    /// The upstream's head was not read yet.
    pub(super) head_due: bool,
    /// The answer is an event stream.
    pub(super) events: bool,
    /// Ready to be sent.
    pub(super) ready: VecDeque<Bytes>,
    /// The last piece of a JSON answer, kept until the record is written.
    pub(super) last_piece: Option<Bytes>,
    /// Nothing more follows `ready`.
    pub(super) ended: bool,
    /// The terminal event was seen and its record written.
    pub(super) concluded: bool,
    /// Read to its end: the connection may be used again.
    pub(super) clean: bool,
    pub(super) clock: Clocks,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    pub(super) abort: Option<tokio::sync::watch::Receiver<Abort>>,
}

/// Points in time of one attempt.
pub(super) struct Clocks {
    /// Until this the first output must be there.
    pub first_byte: Instant,
    /// At this a silent stream is opened all the same.
    pub grace: Instant,
    /// Until this everything must be over.
    pub total: Instant,
    /// When the upstream last said something.
    pub heard: Instant,
    /// When the client was last sent something.
    pub sent: Instant,
}

impl Upstream {
    pub(super) fn new(stock: HttpSession<()>) -> Self {
        let now = Instant::now();
        Self {
            stock,
            call: None,
            head: None,
            head_due: true,
            events: false,
            ready: VecDeque::new(),
            last_piece: None,
            ended: false,
            concluded: false,
            clean: false,
            clock: Clocks { first_byte: now, grace: now, total: now, heard: now, sent: now },
            timer: None,
            abort: None,
        }
    }

    /// The stock session if it may be used again; else it is shut down.
    pub(super) async fn into_reusable(mut self) -> Option<HttpSession<()>> {
        if self.clean {
            return Some(self.stock);
        }
        self.stock.shutdown().await;
        None
    }

    /// The exchange that this attempt serves.
    pub(super) fn exchange(&self) -> Result<Arc<Exchange>> {
        match &self.call {
            Some(call) => Ok(Arc::clone(&call.exchange)),
            None => broken(Fault::Malformed),
        }
    }

    fn start_clocks(&mut self, exchange: &Exchange) {
        let now = Instant::now();
        let limits = exchange.pool.config.timeouts;
        let spent = Duration::from_micros((exchange.now() - exchange.facts.received).0);
        self.clock = Clocks {
            first_byte: now + limits.first_byte,
            grace: now + limits.commit_grace,
            total: now + limits.total.saturating_sub(spent),
            heard: now,
            sent: now,
        };
    }
}

#[async_trait]
impl Session for Upstream {
    async fn write_request_header(&mut self, mut request: Box<RequestHeader>, _end: bool) -> Result<()> {
        self.call = request.extensions_mut().remove::<Carried>();
        let exchange = self.exchange()?;
        self.start_clocks(&exchange);
        self.abort = Some(exchange.runtime.abort.clone());
        self.stock.write_request_header(request).await
    }

    /// The body is sent by `read_response_header`: this call is awaited before the client is watched.
    async fn write_request_body(&mut self, _piece: Bytes, _end: bool) -> Result<()> {
        Ok(())
    }

    async fn finish_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    /// Deadlines are ours (`Clocks`).
    fn set_read_timeout(&mut self, _timeout: Option<Duration>) {}

    fn set_write_timeout(&mut self, timeout: Option<Duration>) {
        self.stock.set_write_timeout(timeout);
    }

    async fn read_response_header(&mut self) -> Result<()> {
        self.commit().await
    }

    async fn read_response_body(&mut self) -> Result<Option<Bytes>> {
        self.next_piece().await
    }

    fn response_finished(&self) -> bool {
        self.ended && self.ready.is_empty()
    }

    async fn shutdown(&mut self, _code: u32, _why: &str) {
        self.stock.shutdown().await;
    }

    fn response_header(&self) -> Option<&ResponseHeader> {
        self.head.as_deref()
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn digest(&self) -> Option<&Digest> {
        self.stock.digest()
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        self.stock.digest_mut()
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        self.stock.server_addr()
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        self.stock.client_addr()
    }

    async fn read_trailers(&mut self) -> Result<Option<HeaderMap>> {
        Ok(None)
    }

    fn fd(&self) -> UniqueIDType {
        self.stock.stream().map_or(-1, |stream| stream.id())
    }

    /// The end is `read_response_body` returning `None`.
    async fn check_response_end_or_error(&mut self, _headers: bool) -> Result<bool> {
        Ok(false)
    }

    fn take_request_body_writer(&mut self) -> Option<Box<dyn BodyWrite>> {
        Some(Box::new(NoBody))
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>> {
        Some(Box::new(stream::empty()))
    }

    async fn drain_custom_messages(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        Some(Box::new(()))
    }
}

/// Pingora insists on a body writer; the body went out already.
struct NoBody;

#[async_trait]
impl BodyWrite for NoBody {
    async fn write_all_buf(&mut self, data: &mut Bytes) -> Result<()> {
        data.clear();
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    async fn cleanup(&mut self) -> Result<()> {
        Ok(())
    }

    fn upgrade_body_writer(&mut self) {}
}
