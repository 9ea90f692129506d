//! `weir serve`: wires stores, spool, metrics and the edge, and runs the proxy until a signal ends it.

mod identity;
mod limits;

use super::parent;
use crate::config::snapshot::Snapshot;
use crate::edge::context::OpenRequests;
use crate::edge::parts::Parts;
use crate::edge::server;
use crate::io::access_log::AccessLog;
use crate::io::clock::SystemClock;
use crate::io::keys::Pulse;
use crate::io::metrics::Metrics;
use crate::io::observer::Telemetry;
use crate::io::probe::Probes;
use crate::io::quota::Quota;
use crate::io::usage_log::UsageLog;
use crate::ports::Clock;
use crate::runtime::{Abort, BODIES_AT_ONCE, Budget, LivePool, Runtime, Services};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;

/// How often gauges are refreshed and idle limit books dropped.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How long the last access log lines may take.
const LOG_FLUSH: Duration = Duration::from_secs(2);

/// What is logged unless `RUST_LOG` says otherwise. Pingora calls it an error when a pooled connection is not let go
/// in time and a new one is made instead.
const QUIET: &str = "info,pingora=warn,pingora_core=warn,pingora_proxy=warn,pingora_core::connectors=off";

/// Flags of `weir serve`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Configuration file [default: conf/weir.yaml, else /etc/weir/weir.yaml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    logging();
    hide_memory();
    let Some(loaded) = super::loaded(args.config.as_deref()) else { return ExitCode::FAILURE };
    for warning in &loaded.warnings {
        eprintln!("{warning}");
    }
    match serve(&loaded.snapshot) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("weir serve: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Keys and secrets are in our memory and environment. From here on others of the same user can neither read them in
/// `/proc` nor attach to us, and no crash writes them to a core file.
#[cfg(target_os = "linux")]
fn hide_memory() {
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "Other processes of this user can read this one's memory.");
    }
}

/// Only Linux has such a switch.
#[cfg(not(target_os = "linux"))]
fn hide_memory() {}

/// Why the proxy did not start.
type Failure = Box<dyn std::error::Error>;

/// What was started beside the proxy and must end with it, in this order.
struct Attendants {
    _probes: Probes,
    _identity: identity::Attendants,
    limits: limits::Attendants,
    housekeeping: Option<std::sync::mpsc::Sender<()>>,
    usage: Arc<UsageLog>,
    access_log: Option<Arc<AccessLog>>,
}

impl Attendants {
    /// Ends everything; what was not written is said.
    fn end(mut self) {
        drop(self.housekeeping.take());
        self.limits.end();
        if let Err(error) = self.usage.close() {
            tracing::error!(%error, "The usage spool was not closed in order; recovery will read it.");
        }
        if self.access_log.as_ref().is_some_and(|log| !log.flush(LOG_FLUSH)) {
            tracing::warn!("The last lines of the access log were not written in time.");
        }
    }
}

fn serve(snapshot: &Arc<Snapshot>) -> Result<(), Failure> {
    let state_dir = &snapshot.server.state_dir;
    std::fs::create_dir_all(state_dir).map_err(|error| format!("cannot make {}: {error}", state_dir.display()))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new(snapshot.telemetry.tenant_labels)?;
    metrics.config_applied(&snapshot.version, clock.wall());
    let access_log = access_log(snapshot, &metrics)?;
    let usage = UsageLog::open(&snapshot.usage, Arc::clone(&clock))?;
    let parts = limits::Parts { snapshot, clock: &clock, usage: &usage, metrics: &metrics };
    let (quota, limits) = limits::start(&parts)?;
    let (abort, aborted) = watch::channel(Abort::default());
    let identity = identity::start(snapshot, &clock, &abort)?;
    let runtime = Arc::new(Runtime {
        snapshot: Arc::clone(snapshot),
        pools: snapshot.pools.iter().map(|pool| Arc::new(LivePool::new(pool))).collect(),
        services: Services {
            auth: identity.auth,
            directory: identity.directory,
            quota: quota.clone(),
            usage: usage.clone(),
            observer: Arc::new(Telemetry::new(Arc::clone(&metrics), access_log.clone())),
            denials: Arc::default(),
            complaints: Arc::default(),
            clock: Arc::clone(&clock),
            salt_key: identity::salt_key(snapshot)?,
        },
        bodies: Budget::new(BODIES_AT_ONCE),
        draining: Arc::new(AtomicBool::new(false)),
        abort: aborted,
    });
    let ready = server::prepare(&runtime)?;
    let attendants = Attendants {
        _probes: Probes::start(&runtime)?,
        _identity: identity.attendants,
        limits,
        housekeeping: Some(housekeeping(&metrics, &quota, &usage, (&runtime, &identity.pulse))?),
        usage,
        access_log: access_log.clone(),
    };
    let pulse = identity.pulse;
    parent::exit_with_parent();
    announce(snapshot);
    let parts = Parts {
        runtime: Arc::new(ArcSwap::new(runtime)),
        open: Arc::new(OpenRequests::default()),
        abort,
        metrics: Arc::new(move || metrics.render()),
        keys_ready: Arc::new(move || pulse.ready()),
        on_reload: Box::new(|| tracing::warn!("HUP: reloading is not supported by this version; nothing changed.")),
        on_reopen: Box::new(move || access_log.iter().for_each(|log| log.reopen())),
    };
    server::run(parts, ready);
    attendants.end();
    Ok(())
}

/// Logs of the process go to standard error as JSON; `RUST_LOG` sets the level. Pingora's are bridged.
fn logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(QUIET));
    let built = tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).try_init();
    if let Err(error) = built {
        eprintln!("weir: logs cannot be set up: {error}");
    }
    // Below this, Pingora and the database clients, which log by this facade, write heads with their cookies and
    // queries, and bodies. Weir's own lines have none of that at any level.
    log::set_max_level(log::max_level().min(log::LevelFilter::Info));
}

fn access_log(snapshot: &Snapshot, metrics: &Metrics) -> Result<Option<Arc<AccessLog>>, Failure> {
    let Some(path) = &snapshot.telemetry.access_log else { return Ok(None) };
    let log = AccessLog::start(path, snapshot.telemetry.sample, metrics.log_dropped())
        .map_err(|error| format!("cannot write the access log {}: {error}", path.display()))?;
    Ok(Some(Arc::new(log)))
}

/// A thread that refreshes gauges and drops idle limit books, until the sender is dropped.
fn housekeeping(
    metrics: &Arc<Metrics>,
    quota: &Arc<Quota>,
    usage: &Arc<UsageLog>,
    (runtime, pulse): (&Arc<Runtime>, &Pulse),
) -> std::io::Result<std::sync::mpsc::Sender<()>> {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (metrics, quota, usage) = (Arc::clone(metrics), Arc::clone(quota), Arc::clone(usage));
    let (clock, pools, pulse) = (Arc::clone(&runtime.services.clock), runtime.pools.clone(), pulse.clone());
    metrics.usage_records("recovered", usage.recovered().crashed);
    std::thread::Builder::new().name("weir-house".to_owned()).spawn(move || {
        while stopped.recv_timeout(HOUSEKEEPING) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            metrics.spool(usage.spool_bytes());
            metrics.usage_records("written", usage.written());
            quota.sweep(clock.mono(), clock.wall());
            metrics.keys(&pulse.figures());
            for pool in &pools {
                metrics.index_blocks(pool.id(), pool.book.lock().totals().index_blocks);
            }
        }
    })?;
    Ok(stop)
}

/// One line per listener, for people; and systemd's readiness.
fn announce(snapshot: &Snapshot) {
    for listener in &snapshot.listeners {
        for bind in &listener.bind {
            tracing::info!(listener = %listener.name, %bind, "Listening.");
        }
    }
    tracing::info!(admin = %snapshot.server.admin, version = %snapshot.version, "Serving.");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd was not told that the proxy is ready.");
    }
}
