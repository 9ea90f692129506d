//! The part of `weir serve` that wires limits: the ledger that replicas share, the usage rows behind it, the comparison
//! of the two, and the alerts of budgets.

use super::Failure;
use crate::config::snapshot::Snapshot;
use crate::io::alerts::{self, Alerts};
use crate::io::fetch::Fetch;
use crate::io::metrics::Metrics;
use crate::io::quota::arrivals::SpoolArrivals;
use crate::io::quota::ledgers::{Ledgers, UsageRows};
use crate::io::quota::nudge::Nudge;
use crate::io::quota::reconcile::{self, Reconciler, Reconciling};
use crate::io::quota::redis::RedisLedgers;
use crate::io::quota::rows::SqliteRows;
use crate::io::quota::sync::Running;
use crate::io::quota::{Quota, Settings};
use crate::io::usage_log::UsageLog;
use crate::ports::{Clock, SpendWatch, UsageLog as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, Runtime};

/// How long background work may take to end with the process; leases are given back in it.
const LAST_WORK: Duration = Duration::from_secs(1);

/// How long the start waits for the limit store, so that the first requests need not do without it.
const FIRST_WORD: Duration = Duration::from_secs(1);

/// What limits are made of.
pub(super) struct Parts<'a> {
    pub snapshot: &'a Snapshot,
    pub clock: &'a Arc<dyn Clock>,
    pub usage: &'a Arc<UsageLog>,
    pub metrics: &'a Arc<Metrics>,
}

/// The threads behind the limits; ended when the last request has.
pub(super) struct Attendants {
    quota: Arc<Quota>,
    running: Option<(Running, Reconciling)>,
    runtime: Option<Runtime>,
    /// Its one thread does nothing but the store's input and output, so that no answer waits for other work.
    store: Option<Runtime>,
}

impl Attendants {
    /// Gives back what is leased, and ends.
    pub fn end(mut self) {
        if let Some(runtime) = self.runtime.take() {
            if let Some((running, reconciling)) = self.running.take() {
                drop(reconciling);
                runtime.block_on(running.end());
            }
            // It ends in time by itself, and says so if that was too short.
            runtime.block_on(self.quota.close());
            runtime.shutdown_timeout(LAST_WORK);
        }
        if let Some(store) = self.store.take() {
            store.shutdown_background();
        }
    }
}

/// Starts the limits.
pub(super) fn start(parts: &Parts<'_>) -> Result<(Arc<Quota>, Attendants), Failure> {
    let runtime = thread("weir-limits")?;
    let limits = &parts.snapshot.limits;
    let backend = limits.backend.as_ref();
    let store = backend.map(|_| thread("weir-limit-store")).transpose()?;
    let ledgers = match (backend, &store) {
        (Some(backend), Some(store)) => Some(RedisLedgers::start(backend, store.handle())?),
        _ => None,
    };
    if let Some(ledgers) = &ledgers
        && !runtime.block_on(ledgers.ready(FIRST_WORD))
    {
        tracing::warn!("The limit store does not answer yet; limits begin without it.");
    }
    let ledgers = ledgers.map(|ledgers| ledgers as Arc<dyn Ledgers>);
    let rows: Arc<dyn UsageRows> = Arc::new(SqliteRows::new(&parts.snapshot.usage.sqlite));
    let nudge = Nudge::default();
    let settings = Settings {
        replica: parts.usage.proxy_id().into(),
        hold_ttl: limits.hold_ttl,
        clock: Arc::clone(parts.clock),
        rows: Some(Arc::clone(&rows)),
        nudge: nudge.clone(),
        watch: parts.metrics.limits(),
        spend: alerts(parts, ledgers.clone(), runtime.handle())?,
    };
    let quota = match &ledgers {
        Some(ledgers) => Quota::leased(Arc::clone(ledgers), settings),
        None => Quota::process(settings),
    };
    let running = quota.spawn(runtime.handle());
    let reconciler = Reconciler::new(reconcile::Parts {
        books: quota.clone(),
        rows,
        arrivals: Arc::new(SpoolArrivals::new(&parts.snapshot.usage)),
        ledgers,
        findings: parts.metrics.limits(),
        replica: parts.usage.proxy_id().into(),
        every: limits.reconcile,
        nudge,
        clock: Arc::clone(parts.clock),
    });
    let running = (running, reconciler.spawn(runtime.handle()));
    Ok((Arc::clone(&quota), Attendants { quota, running: Some(running), runtime: Some(runtime), store }))
}

fn thread(name: &str) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()
}

/// What tells a webhook of budgets, where one is configured.
fn alerts(
    parts: &Parts<'_>,
    ledgers: Option<Arc<dyn Ledgers>>,
    runtime: &Handle,
) -> Result<Option<Arc<dyn SpendWatch>>, Failure> {
    let Some(hook) = &parts.snapshot.limits.alerts else { return Ok(None) };
    let around = alerts::Surroundings {
        fetch: Fetch::new()?,
        clock: Arc::clone(parts.clock),
        ledgers,
        replica: parts.usage.proxy_id().into(),
        counts: parts.metrics.alerts(),
        runtime: runtime.clone(),
    };
    Ok(Some(Alerts::start(hook, around)?))
}
