//! The metric families: names, labels and buckets (telemetry.md §2.1 and §2.3). A table; decides nothing.
//!
//! Looking a series up costs a hash of its labels and a read lock, no allocation; it happens per request and never
//! per event of a stream.

use prometheus::core::Collector;
use prometheus::{
    Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, Result,
};

/// `gen_ai.server.request.duration` and our own durations: 0.01 s doubled up to 81.92 s.
const DURATION: [f64; 14] = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
/// `gen_ai.server.time_to_first_token`, as Envoy AI Gateway has them; dashboards ask for `le="0.5"`.
const FIRST_TOKEN: [f64; 21] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0,
    60.0,
];
/// `gen_ai.server.time_per_output_token`, with three finer ones for fast GPUs.
const PER_TOKEN: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
/// `gen_ai.client.token.usage`: 1, 4, 16 … 67108864.
const TOKENS: [f64; 14] = [
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];
/// The proxy's own phases: a microsecond to a tenth of a second.
const OVERHEAD: [f64; 13] = [1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2e-2, 1e-1];
/// A call to the shared ledger: 50 us to a tenth of a second; 5 ms is the default time limit.
pub(super) const LIMIT_STORE: [f64; 11] = [5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2e-2, 2.5e-2, 1e-1];

/// What a request was and how it ended.
#[derive(Debug)]
pub(super) struct RequestFamilies {
    pub requests: IntCounterVec,
    pub duration: HistogramVec,
    pub errors: IntCounterVec,
    pub overhead: HistogramVec,
}

impl RequestFamilies {
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self {
            requests: counters(
                registry,
                "weir_requests_total",
                "Requests that ended.",
                &["route", "pool", "code_class", "method"],
            )?,
            duration: histograms(
                registry,
                "weir_request_duration_seconds",
                "From the request's head to the end of the answer.",
                &["route"],
                &DURATION,
            )?,
            errors: counters(
                registry,
                "weir_errors_total",
                "Requests that ended badly, by cause.",
                &["route", "reason"],
            )?,
            overhead: histograms(
                registry,
                "weir_overhead_seconds",
                "Time that the proxy itself took, by phase.",
                &["phase"],
                &OVERHEAD,
            )?,
        })
    }
}

/// Who was denied what, and who must change their key.
#[derive(Debug)]
pub(super) struct AccessFamilies {
    pub denied: IntCounterVec,
    pub deprecated: IntCounter,
}

impl AccessFamilies {
    pub fn register(registry: &Registry) -> Result<Self> {
        let deprecated = IntCounter::new(
            "weir_key_deprecated_uses_total",
            "Calls on the secret of a key that has been rotated, in its grace.",
        )?;
        registry.register(Box::new(deprecated.clone()))?;
        Ok(Self {
            denied: counters(
                registry,
                "weir_access_denied_total",
                "Requests that a scope, a rule or a restriction of the caller's denied.",
                &["rule"],
            )?,
            deprecated,
        })
    }
}

/// The keys in memory, and how the store is followed.
#[derive(Debug)]
pub(super) struct KeyFamilies {
    pub keys: IntGauge,
    pub age: Gauge,
    pub looks: IntCounterVec,
    pub refusals: IntCounterVec,
}

impl KeyFamilies {
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self {
            keys: added(registry, IntGauge::new("weir_keys", "Keys in memory, the revoked ones included.")?)?,
            age: added(
                registry,
                Gauge::new(
                    "weir_keys_age_seconds",
                    "Since the key store, or its copy, was last read; -1 before the first time.",
                )?,
            )?,
            looks: counters(registry, "weir_keys_looks_total", "Looks at the key store.", &["result"])?,
            refusals: counters(
                registry,
                "weir_keys_refusals_total",
                "Well-formed keys that were refused, by how: after the store was asked, or from memory.",
                &["by"],
            )?,
        })
    }
}

/// Pools, backends, balancing, connections.
#[derive(Debug)]
pub(super) struct PoolFamilies {
    pub connections: IntGaugeVec,
    pub inflight: IntGaugeVec,
    pub backend_inflight: IntGaugeVec,
    pub backend_healthy: IntGaugeVec,
    pub decisions: IntCounterVec,
    pub hit_blocks: IntCounterVec,
    pub query_blocks: IntCounterVec,
    pub index_blocks: IntGaugeVec,
}

impl PoolFamilies {
    pub fn register(registry: &Registry) -> Result<Self> {
        let backend = ["pool", "backend"];
        Ok(Self {
            connections: gauges(registry, "weir_connections", "Open connections.", &["side", "state"])?,
            inflight: gauges(registry, "weir_inflight_requests", "Requests in flight in a pool.", &["pool"])?,
            backend_inflight: gauges(registry, "weir_backend_inflight", "Requests in flight at a backend.", &backend)?,
            backend_healthy: gauges(
                registry,
                "weir_backend_healthy",
                "1 if a backend may be chosen, else 0.",
                &backend,
            )?,
            decisions: counters(
                registry,
                "weir_lb_decisions_total",
                "Choices of a backend, by what decided.",
                &["pool", "policy", "reason"],
            )?,
            hit_blocks: counters(
                registry,
                "weir_kv_prefix_hit_blocks_total",
                "Prompt blocks that the chosen backend was thought to have cached.",
                &["pool"],
            )?,
            query_blocks: counters(
                registry,
                "weir_kv_prefix_query_blocks_total",
                "Prompt blocks looked up in the prefix index.",
                &["pool"],
            )?,
            index_blocks: gauges(registry, "weir_kv_index_blocks", "Blocks in the prefix index.", &["pool"])?,
        })
    }
}

/// Tokens, the way of usage records to the database, and what was left out or let through.
#[derive(Debug)]
pub(super) struct UsageFamilies {
    pub tokens: IntCounterVec,
    pub records: IntCounterVec,
    pub spool_bytes: IntGauge,
    pub log_dropped: IntCounter,
    pub alerts: IntCounterVec,
}

impl UsageFamilies {
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self {
            tokens: counters(
                registry,
                "weir_tokens_total",
                "Tokens of admitted requests.",
                &["tenant", "model", "type", "source"],
            )?,
            records: counters(
                registry,
                "weir_usage_records_total",
                "Usage records, by what became of them.",
                &["result"],
            )?,
            spool_bytes: added(registry, IntGauge::new("weir_usage_spool_bytes", "Bytes in the usage spool.")?)?,
            log_dropped: added(
                registry,
                IntCounter::new("weir_access_log_dropped_total", "Access log lines that were not written.")?,
            )?,
            alerts: counters(
                registry,
                "weir_alerts_total",
                "Alerts of budgets: accepted by the webhook, tries that were not, alerts given up.",
                &["result"],
            )?,
        })
    }
}

/// OpenTelemetry's GenAI metrics under their own names.
#[derive(Debug)]
pub(super) struct GenAiFamilies {
    pub token_usage: HistogramVec,
    pub duration: HistogramVec,
    pub first_token: HistogramVec,
    pub per_token: HistogramVec,
}

impl GenAiFamilies {
    pub fn register(registry: &Registry) -> Result<Self> {
        let call = ["gen_ai_request_model", "gen_ai_response_model", "gen_ai_provider_name", "gen_ai_operation_name"];
        let typed = ["gen_ai_token_type", call[0], call[1], call[2], call[3]];
        Ok(Self {
            token_usage: histograms(
                registry,
                "gen_ai_client_token_usage",
                "Tokens used by a model call.",
                &typed,
                &TOKENS,
            )?,
            duration: histograms(
                registry,
                "gen_ai_server_request_duration_seconds",
                "From the request's head to the end of the answer.",
                &call,
                &DURATION,
            )?,
            first_token: histograms(
                registry,
                "gen_ai_server_time_to_first_token_seconds",
                "From the request's head to the first output.",
                &call,
                &FIRST_TOKEN,
            )?,
            per_token: histograms(
                registry,
                "gen_ai_server_time_per_output_token_seconds",
                "Time between output tokens after the first.",
                &call,
                &PER_TOKEN,
            )?,
        })
    }
}

/// What runs here.
#[derive(Debug)]
pub(super) struct ConfigFamilies {
    pub last_reload_success: IntGauge,
    pub last_reload_time: Gauge,
    pub reloads: IntCounterVec,
    pub info: IntGaugeVec,
    pub build: IntGaugeVec,
}

impl ConfigFamilies {
    pub fn register(registry: &Registry) -> Result<Self> {
        Ok(Self {
            last_reload_success: added(
                registry,
                IntGauge::new(
                    "weir_config_last_reload_success",
                    "1 if the configuration was taken over the last time it was read, else 0.",
                )?,
            )?,
            last_reload_time: added(
                registry,
                Gauge::new(
                    "weir_config_last_reload_success_timestamp_seconds",
                    "When a configuration was last taken over, in seconds since 1970.",
                )?,
            )?,
            reloads: counters(registry, "weir_config_reloads_total", "Readings of the configuration.", &["result"])?,
            info: gauges(registry, "weir_config_info", "1 for the configuration in force.", &["hash"])?,
            build: gauges(registry, "weir_build_info", "1 for this build.", &["version", "rustc", "pingora"])?,
        })
    }
}

pub(super) fn added<C: Collector + Clone + 'static>(registry: &Registry, family: C) -> Result<C> {
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

pub(super) fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
    added(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
    added(registry, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> Result<HistogramVec> {
    added(registry, HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?)
}
