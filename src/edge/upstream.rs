//! Weir's connector around Pingora's stock one: the upstream path of model calls (pingora.md §14.1).
//!
//! It keeps Pingora's pool, TLS and HTTP/1 client, and adds what a filter cannot do: the buffered body goes out on
//! every attempt, nothing is shown downstream before the first output, early failures and retryable statuses become
//! errors that Pingora's retry loop understands, silence is filled with comments, and the usage record is written
//! before the terminal event leaves.
//!
//! Both extension points are public but undocumented: this module and `edge/head.rs` are the only ones that use
//! them, the version is pinned, `tests/edge` holds the behaviour.

mod commit;
mod session;
mod stream;

pub use session::Upstream;

use crate::domain::fault::Fault;
use crate::exchange::Exchange;
use crate::stages::forward::Outbound;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::RequestHeader;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector as StockConnector;
use pingora_core::connectors::http::custom::{Connection, Connector};
use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::Peer;
use pingora_core::{Error, ErrorType, Result};
use std::sync::Arc;
use std::time::Duration;

/// Travels in the request head's extensions from `upstream_request_filter` to the session.
#[derive(Clone)]
struct Carried {
    exchange: Arc<Exchange>,
    body: Bytes,
}

/// Turns Pingora's clone of the client's head into the request of one attempt.
///
/// # Errors
/// A target or field that Pingora does not take.
pub fn write_head(request: &mut RequestHeader, outbound: Outbound, exchange: &Arc<Exchange>) -> Result<()> {
    let names: Vec<_> = request.headers.keys().map(|name| name.as_str().to_owned()).collect();
    for name in &names {
        request.remove_header(name.as_str());
    }
    request.set_raw_path(outbound.target.as_bytes())?;
    request.set_version(http::Version::HTTP_11);
    for (name, value) in outbound.headers {
        request.append_header(name, value)?;
    }
    if let Some(body) = outbound.body {
        request.extensions_mut().insert(Carried { exchange: Arc::clone(exchange), body });
    }
    Ok(())
}

/// The connector.
pub struct UpstreamConnector {
    stock: StockConnector<()>,
}

impl UpstreamConnector {
    /// A connector with a pool of its own.
    #[must_use]
    pub fn new(options: ConnectorOptions) -> Self {
        Self { stock: StockConnector::new(Some(options)) }
    }
}

/// The same peer in the stock connector's eyes.
fn stock_peer<P: Peer>(peer: &P) -> P {
    let mut peer = peer.clone();
    if let Some(options) = peer.get_mut_peer_options() {
        options.alpn = ALPN::H1;
    }
    peer
}

#[async_trait]
impl Connector for UpstreamConnector {
    type Session = Upstream;

    async fn get_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        peer: &P,
    ) -> Result<(Connection<Upstream>, bool)> {
        let (stock, reused) = self.stock.get_http_session(&stock_peer(peer)).await?;
        Ok((Connection::Session(Upstream::new(stock)), reused))
    }

    /// Reuse happens in the stock connector's pool, above.
    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _peer: &P) -> Option<Upstream> {
        None
    }

    /// Always called, also after errors: an answer that was not read to its end must not go back to the pool.
    async fn release_http_session<P: Peer + Send + Sync + 'static>(
        &self,
        session: Upstream,
        peer: &P,
        idle_timeout: Option<Duration>,
    ) {
        if let Some(stock) = session.into_reusable().await {
            self.stock.release_http_session(stock, &stock_peer(peer), idle_timeout).await;
        }
    }
}

/// Our error for a fault: `fault_of` reads it back.
fn broken<T>(fault: Fault) -> Result<T> {
    let code = match fault {
        Fault::Status(status) | Fault::Auth(status) => status,
        _ => 0,
    };
    let mut error = Error::explain(ErrorType::CustomCode(fault.outcome(), code), "upstream attempt failed");
    error.as_up();
    Err(error)
}

/// Ends plain HTTP whose caller must not go on: Pingora's own path is asked at each piece, so a silent answer ends with
/// the first byte that it would have given.
///
/// # Errors
/// The fault, where the request must end.
pub fn may_go_on(exchange: &Exchange) -> Result<()> {
    let reason = exchange.runtime.abort.borrow().reason(exchange.principal.key.as_ref());
    reason.map_or(Ok(()), broken)
}

/// Which fault an error of Pingora's, or of this connector's, is.
#[must_use]
pub fn fault_of(error: &Error) -> Fault {
    match error.etype() {
        ErrorType::CustomCode(outcome, code) => Fault::from_outcome(outcome, *code).unwrap_or(Fault::Reset),
        ErrorType::ConnectTimedout
        | ErrorType::ConnectRefused
        | ErrorType::ConnectNoRoute
        | ErrorType::ConnectError
        | ErrorType::ConnectProxyFailure
        | ErrorType::TLSHandshakeFailure
        | ErrorType::TLSHandshakeTimedout
        | ErrorType::InvalidCert
        | ErrorType::BindError
        | ErrorType::SocketError => Fault::Connect,
        ErrorType::ReadTimedout => Fault::FirstByte,
        ErrorType::WriteTimedout => Fault::Idle,
        ErrorType::ConnectionClosed => Fault::Eof,
        ErrorType::InvalidHTTPHeader => Fault::Malformed,
        _ => Fault::Reset,
    }
}
