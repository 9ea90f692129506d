//! `impl ProxyHttp`: one short function per Pingora callback (design.md §4 says which stage each serves).

use super::context::{Context, OpenRequests};
use super::respond::Caller;
use super::{admit, body, peer, respond, upstream};
use crate::config::snapshot::{Backend, Listener};
use crate::domain::fault::Fault;
use crate::domain::refusal::Refusal;
use crate::exchange::{Exchange, Meter};
use crate::logic::quota::headers::is_of_limits;
use crate::runtime::Runtime;
use crate::stages::settle::{self, Ending};
use crate::stages::{dispatch, forward, meter};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::modules::http::HttpModules;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The proxy behind one listener.
pub struct Proxy {
    /// What runs; swapped by a reload.
    pub runtime: Arc<ArcSwap<Runtime>>,
    /// The listener that it serves.
    pub listener: Arc<Listener>,
    /// Open requests of the process.
    pub open: Arc<OpenRequests>,
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context::new(self.runtime.load_full(), &self.open)
    }

    /// No modules: compression would hide the events from nobody but the client, and costs on every chunk.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if context.runtime.draining.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        }
        let answered = admit::admit(session, context, &self.listener).await?;
        if !answered && context.exchange().is_some_and(|exchange| exchange.call.is_none()) {
            continue_expectation(session).await?;
        }
        Ok(answered)
    }

    async fn upstream_peer(&self, _session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let Some(exchange) = context.exchange().cloned() else { return internal("upstream_peer before admission") };
        match dispatch::dispatch(&exchange, fastrand::u64(..)) {
            Ok(chosen) => {
                let pool = &exchange.pool.config;
                let Some(backend) = pool.backends.get(chosen.backend) else { return internal("no such backend") };
                Ok(if exchange.call.is_some() { peer::for_call(pool, backend) } else { peer::for_http(pool, backend) })
            }
            Err(refusal) => {
                context.refusal = Some(refusal);
                Error::e_explain(ErrorType::Custom("NoBackend"), "no backend can be chosen")
            }
        }
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        let Some(exchange) = context.exchange() else { return internal("upstream request before admission") };
        let Some(backend) = current_backend(exchange) else { return internal("no backend chosen") };
        let inbound = &session.req_header().headers;
        let outbound = match &exchange.call {
            Some(call) => forward::call(exchange, call, backend, inbound),
            None => forward::http(exchange, backend, inbound),
        };
        upstream::write_head(request, outbound, exchange)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<()> {
        let (Some(exchange), Some(piece)) = (context.exchange(), body) else { return Ok(()) };
        upstream::may_go_on(exchange)?;
        let mut state = exchange.state();
        state.bytes_in += piece.len() as u64;
        let (got, limit) = (state.bytes_in, self.listener.body_bytes);
        drop(state);
        // A declared length was checked with the head; a chunked body shows its size only here.
        if got > limit {
            context.refusal = Some(Refusal::RequestTooLarge { limit });
            return Error::e_explain(ErrorType::Custom("BodyTooLarge"), "the body is over the listener's limit");
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        // An upgrade is never asked for: `forward` drops the field.
        if response.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 without an upgrade").into_up());
        }
        if response.status.is_informational() {
            return Ok(());
        }
        let Some(exchange) = context.exchange() else { return Ok(()) };
        // Again here: a request that began before the drain has not seen it in `request_filter`.
        if context.runtime.draining.load(Ordering::Relaxed) {
            session.set_keepalive(None);
        }
        if exchange.call.is_none() {
            upstream::may_go_on(exchange)?;
            exchange.state().upstream_status = Some(response.status.as_u16());
        }
        decorate(response, exchange)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        // A model call's bytes are counted by the connector, before they come here.
        let plain = context.exchange().filter(|exchange| exchange.call.is_none());
        if let (Some(exchange), Some(piece)) = (plain, body) {
            upstream::may_go_on(exchange)?;
            meter::delivered(exchange, piece.len());
        }
        Ok(None)
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        context: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        let retry = context.exchange().is_some_and(|exchange| dispatch::failed(exchange, Fault::Connect, false));
        error.set_retry(retry);
        error
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        error.set_retry(false);
        let Some(exchange) = context.exchange().cloned() else { return error };
        if *error.esource() != ErrorSource::Upstream {
            return error;
        }
        let fault = blame(upstream::fault_of(&error), reused, &exchange);
        // Plain HTTP is replayed only where it is safe to send twice and the retry buffer still holds it all.
        let replayable = exchange.call.is_some()
            || (session.req_header().method.is_idempotent() && !session.as_ref().retry_buffer_truncated());
        let committed = !respond::unanswered(session) || !replayable;
        error.set_retry(dispatch::failed(&exchange, fault, committed));
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let gone = FailToProxy { error_code: 0, can_reuse_downstream: false };
        let Some(exchange) = context.exchange().cloned() else { return gone };
        if !respond::unanswered(session) {
            return gone;
        }
        if *error.esource() == ErrorSource::Downstream {
            let refusal = context.refusal.take().unwrap_or_else(|| body::broken(error));
            return client_fault(session, &exchange, refusal).await.unwrap_or(gone);
        }
        // Pingora closes the connection after every failed request, whatever is returned here: the client is told.
        session.set_keepalive(None);
        let refusal = dispatch::given_up(&exchange, context.refusal.take());
        let passed_on = dispatch::passed_on(&exchange);
        let ending = failure(&exchange, &refusal, passed_on.as_ref().map(|answer| answer.status));
        settle::written(settle::settle(&exchange, &ending)).await;
        let sent = match &passed_on {
            Some(answer) => respond::pass_on(session, &exchange, answer).await,
            None => respond::refuse(session, &exchange.runtime, &exchange.facts, &refusal, Caller::of(&exchange)).await,
        };
        let status = passed_on.map_or_else(|| refusal.status(), |answer| answer.status);
        if let Err(error) = sent {
            tracing::debug!(%error, request_id = %exchange.facts.request_id, "The client did not take its error.");
        }
        FailToProxy { error_code: status, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        let Some(exchange) = context.exchange() else { return };
        let ending = match error {
            None => Ending::Completed,
            Some(error) if *error.esource() == ErrorSource::Downstream => Ending::ClientGone,
            Some(error) if respond::unanswered(session) => Ending::FailedBefore(upstream::fault_of(error)),
            Some(error) => Ending::FailedAfter(upstream::fault_of(error)),
        };
        let _ = settle::settle(exchange, &ending);
    }

    /// Settle writes the one line per request; Pingora's own would add a second, with the query string in it.
    fn suppress_error_log(&self, _session: &Session, _context: &Context, _error: &Error) -> bool {
        true
    }

    /// The default shows the target with its query string, and keys may be in it.
    fn request_summary(&self, session: &Session, context: &Context) -> String {
        let id = context.facts().map(|facts| facts.request_id.to_string()).unwrap_or_default();
        format!("{} {} {id}", session.req_header().method, session.req_header().uri.path())
    }
}

/// A pooled connection that ends before any answer was closed for its age, it may be just when it was used again: like
/// a reset it says nothing about its backend.
fn blame(fault: Fault, reused: bool, exchange: &Exchange) -> Fault {
    let silent = matches!(exchange.state().meter, Meter::Off);
    if reused && silent && fault == Fault::Eof { Fault::Reset } else { fault }
}

/// Answers a client whose body turned out to be broken or too slow when its head was upstream already; `None`: it is
/// gone and hears nothing.
async fn client_fault(session: &mut Session, exchange: &Exchange, refusal: Refusal) -> Option<FailToProxy> {
    if refusal == Refusal::ClientClosed {
        return None;
    }
    settle::written(settle::settle(exchange, &Ending::Refused(refusal.clone()))).await;
    session.set_keepalive(None);
    respond::refuse(session, &exchange.runtime, &exchange.facts, &refusal, Caller::of(exchange)).await.ok()?;
    Some(FailToProxy { error_code: refusal.status(), can_reuse_downstream: false })
}

/// How a request failed that no upstream answered: by a fault of its last attempt, or because none could be made.
fn failure(exchange: &Exchange, refusal: &Refusal, passed_on: Option<u16>) -> Ending {
    if let Some(status) = passed_on {
        return Ending::PassedOn(status);
    }
    let last = exchange.state().failed.last().map(|(_, fault)| *fault);
    match last {
        Some(fault) => Ending::FailedBefore(fault),
        None => Ending::Refused(refusal.clone()),
    }
}

/// Headers that Weir owns on every answer, and those of the upstream that it keeps to itself.
fn decorate(response: &mut ResponseHeader, exchange: &Exchange) -> Result<()> {
    const UPSTREAM_ONLY: [&str; 4] = ["openai-organization", "set-cookie", "server", "endpoint-load-metrics"];
    let limits: Vec<String> = response
        .headers
        .keys()
        .filter(|name| is_of_limits(name.as_str()))
        .map(|name| name.as_str().to_owned())
        .collect();
    for name in &limits {
        response.remove_header(name.as_str());
    }
    if exchange.call.is_some() {
        for name in UPSTREAM_ONLY {
            response.remove_header(name);
        }
    }
    response.insert_header("x-request-id", exchange.facts.request_id.to_string())?;
    for (name, value) in Caller::of(exchange).headers(&exchange.runtime, exchange.facts.dialect) {
        response.insert_header(name, value)?;
    }
    if exchange.facts.timing {
        let value = meter::with_timing(exchange, crate::logic::wire::timing::server_timing);
        response.insert_header("server-timing", value)?;
    }
    let explanation = exchange.state().explain.take();
    if let Some(explanation) = explanation {
        response.insert_header("x-weir-explain", explanation)?;
    }
    Ok(())
}

/// Pingora forwards `Expect` and leaves the client waiting a second; the answer is ours, the field is stripped.
async fn continue_expectation(session: &mut Session) -> Result<()> {
    if session.req_header().headers.contains_key("expect") {
        session.write_continue_response().await?;
    }
    Ok(())
}

/// The backend of the running attempt.
fn current_backend(exchange: &Exchange) -> Option<&Backend> {
    let index = exchange.state().backend?;
    exchange.pool.config.backends.get(index)
}

fn internal<T>(what: &'static str) -> Result<T> {
    Error::e_explain(ErrorType::InternalError, what)
}
