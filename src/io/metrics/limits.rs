//! Metrics of limits: what was decided, how the shared ledger answers, and how far counters were from the usage rows.
//! Counts what it is told; decides only how tenants' budgets are shown.

use super::families::{LIMIT_STORE, added, counters, gauges};
use super::labels::FirstSeen;
use crate::domain::limit::Dimension;
use crate::domain::units::WallMicros;
use crate::io::quota::findings::{Findings, Pass};
use crate::io::quota::watch::{Called, Decided, Watch};
use parking_lot::Mutex;
use prometheus::{Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use prometheus::{Opts, Registry, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Every way in which limits are decided.
const DECIDED: [Decided; 5] =
    [Decided::Granted, Decided::Denied, Decided::Shadow, Decided::Fallback, Decided::StoreDown];
/// Every way in which a call to the ledger ends.
const CALLED: [Called; 4] = [Called::Ok, Called::Timeout, Called::Error, Called::Open];

/// The series of limits, looked up once: a decision costs one atomic addition.
#[derive(Debug)]
pub struct LimitMetrics {
    decisions: [IntCounter; DECIDED.len()],
    calls: [IntCounter; CALLED.len()],
    seconds: Histogram,
    waits: Histogram,
    shadowed: IntCounter,
    up: IntGauge,
    replicas: IntGauge,
    budgets: GaugeVec,
    drift: IntGaugeVec,
    corrected: IntCounterVec,
    passes: [IntCounter; Pass::ALL.len()],
    last_pass: Gauge,
    tenants: Arc<FirstSeen>,
    /// Tenants whose budgets are shown, as of the last word.
    shown: Mutex<BTreeSet<String>>,
}

/// A histogram of the time that the shared ledger takes.
fn times(registry: &Registry, name: &str, help: &str) -> Result<Histogram> {
    added(registry, Histogram::with_opts(HistogramOpts::new(name, help).buckets(LIMIT_STORE.to_vec()))?)
}

/// Where no ledger is shared, none is away.
fn store_up(registry: &Registry) -> Result<IntGauge> {
    let help = "0 while the ledger that replicas share is left alone, else 1.";
    let up = added(registry, IntGauge::new("weir_limit_store_up", help)?)?;
    up.set(1);
    Ok(up)
}

impl LimitMetrics {
    /// Registers every family. Results are shown from the start: an alert on an increase needs a zero to rise from.
    ///
    /// # Errors
    /// If two families have one name, which no input can cause.
    pub(super) fn register(registry: &Registry, tenants: Arc<FirstSeen>) -> Result<Self> {
        let decisions =
            counters(registry, "weir_limit_decisions_total", "Decisions of limits, by result.", &["result"])?;
        let calls = counters(
            registry,
            "weir_limit_store_calls_total",
            "Calls to the ledger that replicas share, by result.",
            &["result"],
        )?;
        let passes = counters(
            registry,
            "weir_limit_reconcile_total",
            "Comparisons of limit counters with usage rows, by result.",
            &["result"],
        )?;
        let budgets = Opts::new(
            "weir_budget_remaining_ratio",
            "What is left of a tenant's budget, 1 to 0; of several the least.",
        );
        Ok(Self {
            decisions: DECIDED.map(|result| decisions.with_label_values(&[result.name()])),
            calls: CALLED.map(|result| calls.with_label_values(&[result.name()])),
            passes: Pass::ALL.map(|result| passes.with_label_values(&[result.name()])),
            seconds: times(registry, "weir_limit_store_seconds", "Time that a call to the shared ledger took.")?,
            waits: times(registry, "weir_limit_wait_seconds", "Time that requests waited for the shared ledger.")?,
            shadowed: added(
                registry,
                IntCounter::new(
                    "weir_limit_shadow_refusals_total",
                    "How often limits in shadow mode would have refused.",
                )?,
            )?,
            up: store_up(registry)?,
            replicas: added(
                registry,
                IntGauge::new("weir_limit_replicas", "Live replicas, as the shared ledger says.")?,
            )?,
            budgets: added(registry, GaugeVec::new(budgets, &["tenant"])?)?,
            drift: gauges(
                registry,
                "weir_limit_drift",
                "Units between limit counters and usage rows at the last comparison, all accounts together.",
                &["dimension"],
            )?,
            corrected: counters(
                registry,
                "weir_limit_corrected_total",
                "Units by which limit counters were put right from usage rows, up or down.",
                &["dimension"],
            )?,
            last_pass: added(
                registry,
                Gauge::new(
                    "weir_limit_reconcile_timestamp_seconds",
                    "When counters were last compared with usage rows, in seconds since 1970.",
                )?,
            )?,
            tenants,
            shown: Mutex::default(),
        })
    }

    /// Counts for nobody: for tests and tools that serve no metrics.
    ///
    /// # Errors
    /// If two families have one name, which no input can cause.
    pub fn unregistered() -> Result<Arc<Self>> {
        Ok(Arc::new(Self::register(&Registry::new(), Arc::new(FirstSeen::new(0)))?))
    }
}

impl Watch for LimitMetrics {
    fn decided(&self, how: Decided) {
        self.decisions[how as usize].inc();
    }

    fn shadowed(&self, rules: u32) {
        self.shadowed.inc_by(u64::from(rules));
    }

    /// A call that was not made took no time.
    fn called(&self, how: Called, took: Duration) {
        self.calls[how as usize].inc();
        if how != Called::Open {
            self.seconds.observe(took.as_secs_f64());
        }
    }

    fn waited(&self, took: Duration) {
        self.waits.observe(took.as_secs_f64());
    }

    fn replicas(&self, live: u64, up: bool) {
        self.replicas.set(i64::try_from(live).unwrap_or(i64::MAX));
        self.up.set(i64::from(up));
    }
}

impl Findings for LimitMetrics {
    fn compared(&self, result: Pass, at: WallMicros) {
        self.passes[result as usize].inc();
        self.last_pass.set(at.0 as f64 / 1e6);
    }

    fn drift(&self, dimension: Dimension, units: u64) {
        self.drift.with_label_values(&[dimension.name()]).set(i64::try_from(units).unwrap_or(i64::MAX));
    }

    fn corrected(&self, dimension: Dimension, units: u64) {
        self.corrected.with_label_values(&[dimension.name()]).inc_by(units);
    }

    fn store(&self, up: bool) {
        self.up.set(i64::from(up));
    }

    /// Tenants beyond the bound are shown together as `other`, with the least of theirs; a budget that is no longer in
    /// use is no longer shown.
    fn budgets(&self, left: &[(&str, f64)]) {
        let mut least: BTreeMap<String, f64> = BTreeMap::new();
        for (tenant, left) in left {
            let known = least.entry(self.tenants.shown(tenant).to_owned()).or_insert(f64::INFINITY);
            *known = known.min(*left);
        }
        let mut shown = self.shown.lock();
        for tenant in shown.iter().filter(|tenant| !least.contains_key(*tenant)) {
            if let Err(error) = self.budgets.remove_label_values(&[tenant]) {
                tracing::debug!(%error, "a budget was not shown any more");
            }
        }
        for (tenant, left) in &least {
            self.budgets.with_label_values(&[tenant]).set(*left);
        }
        *shown = least.into_keys().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(tenants: usize) -> (Registry, LimitMetrics) {
        let registry = Registry::new();
        let metrics = LimitMetrics::register(&registry, Arc::new(FirstSeen::new(tenants))).expect("names are unique");
        (registry, metrics)
    }

    fn has(registry: &Registry, line: &str) {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
    }

    #[test]
    fn every_result_is_shown_from_the_start_and_counted_under_its_name() {
        let (registry, metrics) = metrics(9);
        for result in DECIDED {
            has(&registry, &format!("weir_limit_decisions_total{{result=\"{}\"}} 0", result.name()));
            metrics.decided(result);
            has(&registry, &format!("weir_limit_decisions_total{{result=\"{}\"}} 1", result.name()));
        }
        for result in CALLED {
            metrics.called(result, Duration::from_millis(1));
            has(&registry, &format!("weir_limit_store_calls_total{{result=\"{}\"}} 1", result.name()));
        }
        has(&registry, "weir_limit_store_seconds_count 3");
        for result in Pass::ALL {
            metrics.compared(result, WallMicros(2_500_000));
            has(&registry, &format!("weir_limit_reconcile_total{{result=\"{}\"}} 1", result.name()));
        }
        has(&registry, "weir_limit_reconcile_timestamp_seconds 2.5");
    }

    #[test]
    fn of_several_budgets_the_least_is_shown_and_the_rest_together() {
        let (registry, metrics) = metrics(1);
        metrics.budgets(&[("acme", 0.5), ("acme", 0.25), ("beta", 0.75), ("gamma", 0.125)]);
        has(&registry, "weir_budget_remaining_ratio{tenant=\"acme\"} 0.25");
        has(&registry, "weir_budget_remaining_ratio{tenant=\"other\"} 0.125");
        metrics.budgets(&[("acme", 0.125)]);
        has(&registry, "weir_budget_remaining_ratio{tenant=\"acme\"} 0.125");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).expect("text");
        assert!(!text.contains("other"), "a budget that is gone is not shown:\n{text}");
    }

    #[test]
    fn every_metric_of_limits_is_documented() {
        let (registry, metrics) = metrics(9);
        metrics.budgets(&[("acme", 0.5)]);
        metrics.drift(Dimension::Tokens, 1);
        metrics.corrected(Dimension::Tokens, 1);
        let documented = include_str!("../../../docs/limits.md");
        for family in registry.gather() {
            let labels: Vec<_> = family.get_metric()[0].get_label().iter().map(|label| label.name()).collect();
            let named = if labels.is_empty() {
                family.name().to_owned()
            } else {
                format!("{}{{{}}}", family.name(), labels[0])
            };
            assert!(documented.contains(&format!("| `{named}` |")), "docs/limits.md has no line for {named}");
        }
    }
}
