//! The metrics of this process, in a registry of their own. Counts what it is told; decides only which label
//! values are shown. Never a user, a key or a request as a label.

use crate::domain::ids::{BackendId, PoolId};
use crate::domain::record::UsageRecord;
use crate::domain::units::{Micros, Tokens, WallMicros};
use crate::io::alerts;
use crate::io::keys::Figures;
use crate::ports::Ended;
use dashmap::DashMap;
use families::{
    AccessFamilies, ConfigFamilies, GenAiFamilies, KeyFamilies, PoolFamilies, RequestFamilies, UsageFamilies,
};
use labels::{FirstSeen, NONE, code_class, method, operation, token_source};
use limits::LimitMetrics;
use prometheus::{Histogram, IntCounter, IntGauge, Registry, TextEncoder};
use std::sync::Arc;

mod families;
mod labels;
pub mod limits;

/// Model names shown before the rest becomes `other`.
const MODEL_LABELS: usize = 200;
/// Route and pool names shown; they come from the configuration, but reloads can rename them without end.
const CONFIG_LABELS: usize = 1_000;
/// Must be the version that Cargo.toml pins; a test holds them together.
const PINGORA: &str = "0.9.1";

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Prompt blocks of a request: how many there are, and how many the chosen backend was thought to have cached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blocks {
    /// Cached.
    pub matched: u64,
    /// Looked up.
    pub total: u64,
}

/// Series of one way of choosing a backend, looked up once.
#[derive(Clone, Debug)]
struct Choice {
    decisions: IntCounter,
    hit_blocks: IntCounter,
    query_blocks: IntCounter,
}

/// Every family, and the series that are needed often.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    request: RequestFamilies,
    access: AccessFamilies,
    keys: KeyFamilies,
    pool: PoolFamilies,
    usage: UsageFamilies,
    gen_ai: GenAiFamilies,
    config: ConfigFamilies,
    limits: Arc<LimitMetrics>,
    tenants: Arc<FirstSeen>,
    models: FirstSeen,
    routes: FirstSeen,
    pools: FirstSeen,
    rules: FirstSeen,
    choices: DashMap<(PoolId, &'static str, &'static str), Choice>,
    inflight: DashMap<PoolId, IntGauge>,
    phases: DashMap<&'static str, Histogram>,
}

impl Metrics {
    /// All families, none with a value yet. `tenant_labels` is how many tenants are shown by name.
    ///
    /// # Errors
    /// If two families have one name, which no input can cause.
    pub fn new(tenant_labels: usize) -> prometheus::Result<Arc<Self>> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let tenants = Arc::new(FirstSeen::new(tenant_labels));
        let metrics = Self {
            request: RequestFamilies::register(&registry)?,
            access: AccessFamilies::register(&registry)?,
            keys: KeyFamilies::register(&registry)?,
            pool: PoolFamilies::register(&registry)?,
            usage: UsageFamilies::register(&registry)?,
            gen_ai: GenAiFamilies::register(&registry)?,
            config: ConfigFamilies::register(&registry)?,
            limits: Arc::new(LimitMetrics::register(&registry, Arc::clone(&tenants))?),
            registry,
            tenants,
            models: FirstSeen::new(MODEL_LABELS),
            routes: FirstSeen::new(CONFIG_LABELS),
            pools: FirstSeen::new(CONFIG_LABELS),
            rules: FirstSeen::new(CONFIG_LABELS),
            choices: DashMap::new(),
            inflight: DashMap::new(),
            phases: DashMap::new(),
        };
        // Shown from the start: an alert on an increase needs a zero to rise from.
        for result in ["applied", "rejected"] {
            metrics.config.reloads.with_label_values(&[result]).reset();
        }
        let rustc = option_env!("WEIR_RUSTC").unwrap_or("unknown");
        metrics.config.build.with_label_values(&[env!("CARGO_PKG_VERSION"), rustc, PINGORA]).set(1);
        Ok(Arc::new(metrics))
    }

    /// Everything in the Prometheus text form.
    #[must_use]
    pub fn render(&self) -> String {
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_else(|fault| {
            tracing::error!(%fault, "The metrics could not be written as text.");
            format!("# the metrics could not be written: {fault}\n")
        })
    }

    /// Counts a request that ended. Only admitted ones can bring up tenants and models as labels: a caller who is
    /// refused must not.
    pub fn ended(&self, ended: &Ended) {
        let record = &ended.record;
        let route = self.routes.shown_or_none(record.route_id.as_deref());
        let pool = self.pools.shown_or_none(record.pool.as_deref());
        let class = code_class(record.http_status);
        self.request.requests.with_label_values(&[route, pool, class, method(&ended.method)]).inc();
        self.request.duration.with_label_values(&[route]).observe(ended.duration.secs());
        if let Some(reason) = ended.reason {
            self.request.errors.with_label_values(&[route, reason]).inc();
        }
        if let Some(rule) = &ended.rule {
            self.access.denied.with_label_values(&[self.rules.shown(rule)]).inc();
        }
        if ended.admitted {
            self.model_call(ended);
        }
    }

    fn model_call(&self, ended: &Ended) {
        let record = &ended.record;
        let Some(operation) = operation(&record.surface) else { return };
        let asked = self.models.shown_or_none(record.model_requested.as_deref());
        let answered = record.model_reported.as_deref().or(record.model_routed.as_deref());
        let provider = record.provider.as_deref().unwrap_or(NONE);
        let call = [asked, self.models.shown_or_none(answered), provider, operation];
        self.gen_ai.duration.with_label_values(&call).observe(ended.duration.secs());
        if let Some(ttft) = ended.ttft {
            self.gen_ai.first_token.with_label_values(&call).observe(ttft.secs());
        }
        if let Some(pace) = seconds_per_token(ended) {
            self.gen_ai.per_token.with_label_values(&call).observe(pace);
        }
        let tenant = self.tenants.shown_or_none(record.tenant_id.as_deref());
        let source = token_source(&record.usage_source);
        for (kind, tokens) in token_kinds(record) {
            let Some(Tokens(tokens)) = tokens else { continue };
            self.usage.tokens.with_label_values(&[tenant, asked, kind, source]).inc_by(tokens);
            let typed = [kind, call[0], call[1], call[2], call[3]];
            self.gen_ai.token_usage.with_label_values(&typed).observe(tokens as f64);
        }
    }

    /// Counts a choice of a backend.
    pub fn picked(&self, pool: &PoolId, policy: &'static str, reason: &'static str, blocks: Blocks) {
        let key = (pool.clone(), policy, reason);
        let known = self.choices.get(&key).map(|choice| choice.clone());
        let choice = known.unwrap_or_else(|| {
            let name = self.pools.shown(pool.as_str());
            let new = Choice {
                decisions: self.pool.decisions.with_label_values(&[name, policy, reason]),
                hit_blocks: self.pool.hit_blocks.with_label_values(&[name]),
                query_blocks: self.pool.query_blocks.with_label_values(&[name]),
            };
            if self.choices.len() < CONFIG_LABELS {
                self.choices.insert(key, new.clone());
            }
            new
        });
        choice.decisions.inc();
        choice.hit_blocks.inc_by(blocks.matched);
        choice.query_blocks.inc_by(blocks.total);
    }

    /// Adds to the requests in flight in a pool.
    pub fn inflight(&self, pool: &PoolId, delta: i64) {
        if let Some(gauge) = self.inflight.get(pool) {
            gauge.add(delta);
            return;
        }
        let gauge = self.pool.inflight.with_label_values(&[self.pools.shown(pool.as_str())]);
        gauge.add(delta);
        if self.inflight.len() < CONFIG_LABELS {
            self.inflight.insert(pool.clone(), gauge);
        }
    }

    /// Counts a call on a secret that has been replaced and will end.
    pub fn deprecated_key(&self) {
        self.access.deprecated.inc();
    }

    /// Records time spent in a phase of our own.
    pub fn overhead(&self, phase: &'static str, spent: Micros) {
        if let Some(histogram) = self.phases.get(phase) {
            histogram.observe(spent.secs());
            return;
        }
        let histogram = self.request.overhead.with_label_values(&[phase]);
        histogram.observe(spent.secs());
        self.phases.insert(phase, histogram);
    }

    /// Adds to the open connections: side `downstream` or `upstream`, state `active` or `idle`.
    pub fn connections(&self, side: &'static str, state: &'static str, delta: i64) {
        self.pool.connections.with_label_values(&[side, state]).add(delta);
    }

    /// Says how a backend stands.
    pub fn set_backend(&self, pool: &PoolId, backend: &BackendId, inflight: u64, healthy: bool) {
        let labels = [pool.as_str(), backend.as_str()];
        self.pool.backend_inflight.with_label_values(&labels).set(gauge_value(inflight));
        self.pool.backend_healthy.with_label_values(&labels).set(i64::from(healthy));
    }

    /// Forgets every backend, before the ones of a new configuration are set: else gone ones would be shown for
    /// ever.
    pub fn clear_backends(&self) {
        self.pool.backend_inflight.reset();
        self.pool.backend_healthy.reset();
    }

    /// Says how many blocks a pool's prefix index has.
    pub fn index_blocks(&self, pool: &PoolId, blocks: u64) {
        let name = self.pools.shown(pool.as_str());
        self.pool.index_blocks.with_label_values(&[name]).set(gauge_value(blocks));
    }

    /// Says how many usage records there have been so far: `written` to the spool, `recovered` from dead processes.
    pub fn usage_records(&self, result: &'static str, so_far: u64) {
        let counter = self.usage.records.with_label_values(&[result]);
        counter.inc_by(so_far.saturating_sub(counter.get()));
    }

    /// Says how large the spool is.
    pub fn spool(&self, bytes: u64) {
        self.usage.spool_bytes.set(gauge_value(bytes));
    }

    /// Counts access log lines that were not written.
    #[must_use]
    pub fn log_dropped(&self) -> IntCounter {
        self.usage.log_dropped.clone()
    }

    /// The metrics of limits.
    #[must_use]
    pub fn limits(&self) -> Arc<LimitMetrics> {
        Arc::clone(&self.limits)
    }

    /// Counts what became of alerts.
    #[must_use]
    pub fn alerts(&self) -> alerts::Counts {
        let of = |result| self.usage.alerts.with_label_values(&[result]);
        alerts::Counts { delivered: of("delivered"), failed: of("failed"), dropped: of("dropped") }
    }

    /// A configuration was taken over: `version` is its hash.
    pub fn config_applied(&self, version: &str, now: WallMicros) {
        self.config.last_reload_success.set(1);
        self.config.last_reload_time.set(now.0 as f64 / 1e6);
        self.config.reloads.with_label_values(&["applied"]).inc();
        self.config.info.reset();
        self.config.info.with_label_values(&[version]).set(1);
    }

    /// How the keys stand. The figures are totals since the start.
    pub fn keys(&self, figures: &Figures) {
        self.keys.keys.set(i64::try_from(figures.keys).unwrap_or(i64::MAX));
        self.keys.age.set(figures.age.map_or(-1.0, |age| age.0 as f64 / 1e6));
        let total = |counter: IntCounter, total: u64| counter.inc_by(total.saturating_sub(counter.get()));
        total(self.keys.looks.with_label_values(&["failed"]), figures.failed);
        total(self.keys.looks.with_label_values(&["done"]), figures.looks.saturating_sub(figures.failed));
        total(self.keys.refusals.with_label_values(&["store"]), figures.asked);
        total(self.keys.refusals.with_label_values(&["memory"]), figures.remembered);
    }

    /// A configuration was refused; the one before stays in force.
    pub fn config_rejected(&self) {
        self.config.last_reload_success.set(0);
        self.config.reloads.with_label_values(&["rejected"]).inc();
    }
}

/// (duration - TTFT) / (output tokens - 1); `None` with fewer than two tokens or no first one.
#[must_use]
pub fn seconds_per_token(ended: &Ended) -> Option<f64> {
    let after_first = (ended.duration - ended.ttft?).secs();
    let gaps = ended.record.output_total?.0.checked_sub(1).filter(|gaps| *gaps > 0)?;
    Some(after_first / gaps as f64)
}

/// The names that Envoy AI Gateway gives to `gen_ai.token.type`.
fn token_kinds(record: &UsageRecord) -> [(&'static str, Option<Tokens>); 5] {
    [
        ("input", record.input_total),
        ("output", record.output_total),
        ("cached_input", record.input_cache_read),
        ("cache_creation_input", record.input_cache_write),
        ("reasoning", record.output_reasoning),
    ]
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
