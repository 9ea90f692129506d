//! Asks backends whether they are well and which models they serve. Health checks and their thresholds are
//! pingora-load-balancing's; what a verdict means for routing is decided elsewhere.

mod models;

use crate::config::snapshot::{Backend as BackendConfig, Health, Pool};
use crate::ports::Observer;
use crate::runtime::{LivePool, Runtime};
use async_trait::async_trait;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora_core::{Error, ErrorType, Result};
use pingora_load_balancing::discovery::Static;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck};
use pingora_load_balancing::{Backend, Backends};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the backends' model lists are asked for again.
const MODELS_EVERY: Duration = Duration::from_secs(30);
/// The same while nothing is known yet.
const MODELS_SOON: Duration = Duration::from_secs(1);

/// Runs the probes until it is dropped.
pub struct Probes {
    stop: watch::Sender<bool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Probes {
    /// Starts probing every pool on one thread of its own.
    ///
    /// # Errors
    /// The thread or its runtime cannot be started.
    pub fn start(runtime: &Arc<Runtime>) -> std::io::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let executor = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let pools = runtime.pools.clone();
        let observer = Arc::clone(&runtime.services.observer);
        let thread = std::thread::Builder::new().name("weir-probe".to_owned()).spawn(move || {
            executor.block_on(probe_all(&pools, &observer, stopped));
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("The probe thread had panicked.");
        }
    }
}

async fn probe_all(pools: &[Arc<LivePool>], observer: &Arc<dyn Observer>, mut stopped: watch::Receiver<bool>) {
    let mut tasks = tokio::task::JoinSet::new();
    for pool in pools {
        if let Some(health) = pool.config.health.clone() {
            tasks.spawn(watch_health(Arc::clone(pool), health, Arc::clone(observer)));
        }
        if pool.config.models.is_empty() {
            tasks.spawn(watch_models(Arc::clone(pool)));
        }
    }
    // The sender lives as long as `Probes`; either a stop or its loss ends the tasks.
    let _ = stopped.wait_for(|stop| *stop).await;
    tasks.shutdown().await;
}

async fn watch_health(pool: Arc<LivePool>, health: Health, observer: Arc<dyn Observer>) {
    let mut targets = Vec::new();
    for backend in &pool.config.backends {
        match Backend::new(&backend.addr.to_string()) {
            Ok(target) => targets.push(target),
            Err(error) => return tracing::error!(%error, backend = %backend.id, "This backend cannot be probed."),
        }
    }
    let backends = Backends::new(Static::new(targets.iter().cloned().collect::<BTreeSet<_>>()));
    let mut checks = Checks { by_address: HashMap::new(), rise: health.rise, fall: health.fall };
    for (target, backend) in targets.iter().zip(&pool.config.backends) {
        match check(backend, &health, &pool.config) {
            Ok(check) => drop(checks.by_address.insert(target.addr.to_string(), check)),
            Err(error) => return tracing::error!(%error, backend = %backend.id, "This backend cannot be probed."),
        }
    }
    let mut backends = backends;
    backends.set_health_check(Box::new(checks));
    if let Err(error) = backends.update(|_| ()).await {
        return tracing::error!(%error, pool = %pool.id(), "The pool's backends cannot be probed.");
    }
    loop {
        backends.run_health_check(true).await;
        for (index, target) in targets.iter().enumerate() {
            let healthy = backends.ready(target);
            if healthy != pool.is_healthy(index) {
                let name = pool.config.backends.get(index).map(|b| b.id.as_str()).unwrap_or_default();
                tracing::warn!(pool = %pool.id(), backend = name, healthy, "A backend's health has changed.");
            }
            pool.set_healthy(index, healthy);
        }
        report(&pool, &observer);
        tokio::time::sleep(health.every).await;
    }
}

/// Tells the gauges how the pool stands.
fn report(pool: &LivePool, observer: &Arc<dyn Observer>) {
    let book = pool.book.lock();
    let inflight: Vec<u32> = (0..pool.config.backends.len()).map(|index| book.inflight(index)).collect();
    drop(book);
    for (index, backend) in pool.config.backends.iter().enumerate() {
        let count = inflight.get(index).copied().unwrap_or(0);
        observer.backend(pool.id(), &backend.id, u64::from(count), pool.is_healthy(index));
    }
}

/// One probe per backend; each has a host, and perhaps a path prefix, of its own.
struct Checks {
    by_address: HashMap<String, HttpHealthCheck>,
    rise: usize,
    fall: usize,
}

#[async_trait]
impl HealthCheck for Checks {
    async fn check(&self, target: &Backend) -> Result<()> {
        match self.by_address.get(&target.addr.to_string()) {
            Some(check) => check.check(target).await,
            None => Error::e_explain(ErrorType::InternalError, "no probe for this backend"),
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.rise } else { self.fall }
    }
}

fn check(backend: &BackendConfig, health: &Health, pool: &Pool) -> Result<HttpHealthCheck> {
    let mut check = HttpHealthCheck::new(&backend.host, backend.tls);
    check.peer_template.options.connection_timeout = Some(health.timeout);
    check.peer_template.options.read_timeout = Some(health.timeout);
    check.reuse_connection = true;
    check.req = request(backend, &health.path, pool)?;
    check.validator = Some(Box::new(judge));
    Ok(check)
}

/// 2xx is well. 404 and 405 say that there is no such probe, not that the backend is ill.
fn judge(head: &ResponseHeader) -> Result<()> {
    match head.status.as_u16() {
        200..=299 | 404 | 405 => Ok(()),
        status => Error::e_explain(ErrorType::CustomCode("unhealthy status", status), "the probe was answered so"),
    }
}

/// A GET to a backend, with our credential.
fn request(backend: &BackendConfig, path: &str, pool: &Pool) -> Result<RequestHeader> {
    let target = format!("{}{path}", backend.prefix);
    let mut request = RequestHeader::build("GET", target.as_bytes(), Some(3))?;
    request.insert_header("host", format!("{}:{}", backend.host, backend.port))?;
    if let Some(crate::config::snapshot::Credential::Bearer(secret)) = &pool.credential {
        let mut value = b"Bearer ".to_vec();
        value.extend_from_slice(&secret.0);
        request.insert_header("authorization", value.as_slice())?;
    }
    Ok(request)
}

/// Learns what a pool serves from its backends. Until one has answered, nothing is known and nothing is refused.
async fn watch_models(pool: Arc<LivePool>) {
    let connector = models::connector();
    loop {
        let mut served: Vec<String> = Vec::new();
        for (index, backend) in pool.config.backends.iter().enumerate() {
            if !pool.is_healthy(index) {
                continue;
            }
            match models::ask(&connector, backend, &pool.config).await {
                Ok(names) => served.extend(names),
                Err(error) => tracing::debug!(%error, backend = %backend.id, "The model list was not given."),
            }
        }
        served.sort_unstable();
        served.dedup();
        let known = !served.is_empty();
        if known {
            pool.set_served(served);
        }
        tokio::time::sleep(if known || pool.models().is_some() { MODELS_EVERY } else { MODELS_SOON }).await;
    }
}
