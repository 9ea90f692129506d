//! The admin listener: what runs, is it ready, its metrics, and the HTTP side of the admin API: bounded bodies, request
//! ids. GET never changes anything.

use super::body::broken;
use super::parts::Parts;
use crate::admin::call::Answer;
use crate::admin::dispatch::{Api, Head, MAX_BODY};
use crate::admin::{self, problem::Problem};
use crate::domain::ids::{RequestId, TenantId};
use crate::domain::refusal::Refusal;
use crate::runtime::Runtime;
use crate::stages::authenticate::Arrival;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::Response;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::server::ShutdownWatch;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a connection to our own socket may take.
const PROOF: Duration = Duration::from_millis(200);
/// How long the body of a call may take.
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Seconds between two requests of one connection.
const KEEPALIVE_S: u64 = 60;
/// How long the rest of a body that is not wanted is read, so that its sender can read the answer.
const LINGER: Duration = Duration::from_secs(2);
const KNOWN: &str = "known: /live /ready /metrics /config/status /pools /routes /tenants/{id}, and /admin/v1\n";
const TENANTS: &str = "/tenants/";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The admin listener's state.
pub struct Admin {
    runtime: Arc<ArcSwap<Runtime>>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    api: Api,
    keys_ready: Arc<dyn Fn() -> bool + Send + Sync>,
    started: Vec<Arc<AtomicBool>>,
    /// Sticky: once proved, the sockets are not tried again.
    accepting: AtomicBool,
}

impl Admin {
    /// An admin listener over `parts`; `started` has one flag per listener.
    #[must_use]
    pub fn new(parts: &Parts, started: Vec<Arc<AtomicBool>>) -> Self {
        Self {
            runtime: Arc::clone(&parts.runtime),
            metrics: Arc::clone(&parts.metrics),
            keys_ready: Arc::clone(&parts.keys_ready),
            api: Api::new(&parts.runtime.load().snapshot),
            started,
            accepting: AtomicBool::new(false),
        }
    }

    /// Ready once there are keys and the listeners accept, and not while draining. The backends are not asked.
    async fn ready(&self, runtime: &Runtime) -> (u16, &'static str, String) {
        if runtime.draining.load(Ordering::SeqCst) {
            return (503, TEXT, "draining\n".to_owned());
        }
        if !(self.keys_ready)() {
            return (503, TEXT, "waiting for the key store\n".to_owned());
        }
        if self.accepting.load(Ordering::Relaxed) || self.accepts(runtime).await {
            self.accepting.store(true, Ordering::Relaxed);
            return (200, TEXT, "ready\n".to_owned());
        }
        (503, TEXT, "starting\n".to_owned())
    }

    /// The services have been started; that their sockets listen is proved by a connection to each.
    async fn accepts(&self, runtime: &Runtime) -> bool {
        if !self.started.iter().all(|flag| flag.load(Ordering::SeqCst)) {
            return false;
        }
        for bind in runtime.snapshot.listeners.iter().flat_map(|listener| &listener.bind) {
            let connect = tokio::net::TcpStream::connect(reachable(*bind));
            if !matches!(tokio::time::timeout(PROOF, connect).await, Ok(Ok(_))) {
                return false;
            }
        }
        true
    }

    async fn answer(&self, method: &str, path: &str) -> (u16, &'static str, String) {
        let runtime = self.runtime.load_full();
        if !matches!(method, "GET" | "HEAD") {
            return (405, TEXT, "only GET is known here\n".to_owned());
        }
        match path {
            "/live" => (200, TEXT, "alive\n".to_owned()),
            "/ready" => self.ready(&runtime).await,
            "/metrics" => (200, EXPOSITION, (self.metrics)()),
            "/config/status" => (200, JSON, status(&runtime).to_string()),
            "/pools" => (200, JSON, pools(&runtime).to_string()),
            "/routes" => (200, JSON, routes(&runtime).to_string()),
            _ => (404, TEXT, KNOWN.to_owned()),
        }
    }
}

/// An address to connect to for one that is bound: the wildcard address is reached on loopback.
fn reachable(bind: std::net::SocketAddr) -> std::net::SocketAddr {
    let mut address = bind;
    if bind.ip().is_unspecified() {
        address.set_ip(match bind {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn status(runtime: &Runtime) -> Value {
    json!({"file": runtime.snapshot.file, "version": &*runtime.snapshot.version, "draining": runtime.draining.load(Ordering::SeqCst)})
}

fn pools(runtime: &Runtime) -> Value {
    let pool = |pool: &Arc<crate::runtime::LivePool>| {
        let book = pool.book.lock();
        let backends: Vec<Value> = pool
            .config
            .backends
            .iter()
            .enumerate()
            .map(|(index, backend)| {
                json!({
                    "name": backend.id, "address": backend.addr.to_string(), "weight": backend.weight,
                    "healthy": pool.is_healthy(index), "inflight": book.inflight(index),
                })
            })
            .collect();
        json!({
            "name": pool.id(), "engine": pool.config.engine.name(), "policy": pool.config.policy.name(),
            "models": pool.models(), "inflight": pool.inflight(), "backends": backends,
        })
    };
    json!({"pools": runtime.pools.iter().map(pool).collect::<Vec<_>>()})
}

/// A tenant as requests meet it now: the configuration merged with the store.
fn tenant(runtime: &Runtime, name: &str) -> Option<Value> {
    let directory = runtime.services.directory.load();
    let tenant = directory.tenants.get(&TenantId::new(name))?;
    Some(json!({
        "name": name, "plan": tenant.plan, "models": tenant.models.as_ref().map(|_| &tenant.model_patterns),
        "disabled": tenant.disabled, "origin": tenant.origin.name(), "teams": tenant.teams.len(),
        "users": tenant.users.len(),
    }))
}

fn routes(runtime: &Runtime) -> Value {
    let route = |route: &Arc<crate::config::snapshot::Route>| json!({"name": route.id, "auth": route.auth, "models": route.matcher.model_patterns, "methods": route.matcher.methods});
    json!({"routes": runtime.snapshot.routes.iter().map(route).collect::<Vec<_>>()})
}

/// A call of the admin API, body and all.
async fn call(
    api: &Api,
    runtime: &Arc<Runtime>,
    session: &mut ServerSession,
    id: RequestId,
) -> Result<Answer, Problem> {
    let request = session.req_header();
    let head = Head { id, path: request.uri.path(), query: request.uri.query(), arrival: arrival(session) };
    let opened = api.open(runtime, &head).await?;
    let body = body(session).await?;
    api.finish(opened, body).await
}

/// `/tenants/{id}`, for whoever may read any tenant through the API: what it says is a tenant's, not the process's.
async fn about_tenant(
    api: &Api,
    runtime: &Arc<Runtime>,
    session: &ServerSession,
    id: RequestId,
) -> Result<Answer, Problem> {
    let request = session.req_header();
    if !matches!(request.method.as_str(), "GET" | "HEAD") {
        return Err(Problem::MethodNotAllowed { allow: "GET".to_owned() });
    }
    let path = format!("{}{}", admin::PREFIX, request.uri.path());
    let opened = api.open(runtime, &Head { id, path: &path, query: None, arrival: arrival(session) }).await?;
    if !opened.reaches_all_tenants() {
        return Err(Refusal::InsufficientPermissions { rule: Arc::from("tenants") }.into());
    }
    let name = request.uri.path().strip_prefix(TENANTS).unwrap_or_default();
    let body = tenant(runtime, name).ok_or(Problem::NotFound("tenant"))?;
    Ok(Answer { status: 200, body })
}

fn arrival(session: &ServerSession) -> Arrival<'_> {
    let request = session.req_header();
    Arrival {
        method: request.method.as_str(),
        target: request.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str),
        host: request.headers.get("host").and_then(|value| value.to_str().ok()),
        headers: &request.headers,
        client: peer(session),
        certificate: None,
    }
}

fn peer(session: &ServerSession) -> IpAddr {
    match session.client_addr() {
        Some(SocketAddr::Inet(address)) => address.ip().to_canonical(),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

/// The whole body, within its bounds.
async fn body(session: &mut ServerSession) -> Result<Vec<u8>, Problem> {
    if session.get_header("expect").is_some() && session.write_continue_response().await.is_err() {
        return Err(Refusal::ClientClosed.into());
    }
    let read = async {
        let mut whole = Vec::new();
        while let Some(piece) = session.read_request_body().await.map_err(|error| broken(&error))? {
            if (whole.len() + piece.len()) as u64 > MAX_BODY {
                return Err(Refusal::RequestTooLarge { limit: MAX_BODY });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    };
    Ok(tokio::time::timeout(BODY_DEADLINE, read).await.unwrap_or(Err(Refusal::RequestTimeout))?)
}

/// The API's answer to a request.
async fn answer_call(api: &Api, runtime: &Arc<Runtime>, session: &mut ServerSession) -> Response<Vec<u8>> {
    let id = RequestId(uuid::Uuid::now_v7());
    let of_tenant = session.req_header().uri.path().starts_with(TENANTS);
    let done =
        if of_tenant { about_tenant(api, runtime, session, id).await } else { call(api, runtime, session, id).await };
    let (status, headers, body) = match done {
        Ok(answer) => (answer.status, vec![("content-type", JSON.to_owned())], answer.body.to_string().into_bytes()),
        Err(problem) => {
            if problem.status() >= 500 {
                tracing::warn!(request_id = %id, problem = ?problem, "the admin API could not do what it was asked for");
            }
            // What is left of the body would be taken for the next request.
            session.set_keepalive(None);
            let _ = tokio::time::timeout(LINGER, session.drain_request_body()).await;
            let reply = problem.render(&id.to_string());
            (reply.status, reply.headers, reply.body.to_vec())
        }
    };
    let mut response = Response::builder().status(status).header("x-request-id", id.to_string());
    for (name, value) in headers {
        response = response.header(name, value);
    }
    // Keys are in some of them.
    finished(session, response.header("cache-control", "no-store"), body)
}

/// A response whose body is left out where HEAD asked for it.
fn finished(session: &ServerSession, head: http::response::Builder, body: Vec<u8>) -> Response<Vec<u8>> {
    let head = head.header("content-length", body.len());
    let body = if session.req_header().method == http::Method::HEAD { Vec::new() } else { body };
    head.body(body).unwrap_or_default()
}

impl Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let path = session.req_header().uri.path();
        if path.starts_with(admin::PREFIX) || path.starts_with(TENANTS) {
            let runtime = self.runtime.load_full();
            return answer_call(&self.api, &runtime, session).await;
        }
        let request = session.req_header();
        let (status, content_type, body) = self.answer(request.method.as_str(), request.uri.path()).await;
        let head = Response::builder().status(status).header("content-type", content_type);
        finished(session, head, body.into_bytes())
    }
}

/// Not by Pingora's `ServeHttp`: that one logs a head which it cannot read as it came, credentials and all.
#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::debug!(kind = ?error.etype(), "a head on the admin listener could not be read");
                return None;
            }
        }
        session.set_keepalive((!*shutdown.borrow()).then_some(KEEPALIVE_S));
        let (head, body) = self.response(&mut session).await.into_parts();
        if let Err(error) = answered(&mut session, head, body).await {
            tracing::debug!(kind = ?error.etype(), "an answer of the admin listener could not be written");
            return None;
        }
        let kept = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, kept))
    }
}

async fn answered(session: &mut ServerSession, head: http::response::Parts, body: Vec<u8>) -> pingora_core::Result<()> {
    session.write_response_header(Box::new(head.into())).await?;
    if !body.is_empty() {
        session.write_response_body(body.into(), true).await?;
    }
    Ok(())
}
