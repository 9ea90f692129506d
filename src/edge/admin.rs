//! The admin listener: what runs, is it ready, and its metrics. GET never changes anything.

use super::parts::Parts;
use crate::runtime::Runtime;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::Response;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long a connection to our own socket may take.
const PROOF: Duration = Duration::from_millis(200);
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The admin listener's state.
pub struct Admin {
    runtime: Arc<ArcSwap<Runtime>>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
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
            started,
            accepting: AtomicBool::new(false),
        }
    }

    /// Ready once the listeners accept, and not while draining. The backends are not asked.
    async fn ready(&self, runtime: &Runtime) -> (u16, &'static str, String) {
        if runtime.draining.load(Ordering::SeqCst) {
            return (503, TEXT, "draining\n".to_owned());
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
            _ => (404, TEXT, "known: /live /ready /metrics /config/status /pools /routes\n".to_owned()),
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

fn routes(runtime: &Runtime) -> Value {
    let route = |route: &Arc<crate::config::snapshot::Route>| json!({"name": route.id, "auth": route.auth, "models": route.matcher.model_patterns, "methods": route.matcher.methods});
    json!({"routes": runtime.snapshot.routes.iter().map(route).collect::<Vec<_>>()})
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (status, content_type, body) = self.answer(request.method.as_str(), request.uri.path()).await;
        let body = body.into_bytes();
        let response = Response::builder()
            .status(status)
            .header("content-type", content_type)
            .header("content-length", body.len());
        response.body(body).unwrap_or_default()
    }
}
