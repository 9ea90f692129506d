//! Limits and budgets of the effective text: those of plans, tenants and pools, and `limits` itself.

use super::{at, map, reference, texts};
use crate::config::snapshot::{AlertHook, LimitBackend, Limits, RedisServers};
use crate::config::tree::{Kind, Node};
use crate::config::units::{Percent, Rate, Span, Spend, Usd};
use crate::domain::limit::{Dimension, Mode, OnStoreError, Priority};
use crate::logic::quota::plan::{LimitRule, ModelPattern, Plan};
use serde_yaml::{Mapping, Value};
use std::sync::Arc;

/// `plans.NAME`
#[must_use]
pub fn plan(plan: &Plan) -> Value {
    let mut limits = kinds(&plan.rules, None);
    if let Some(most) = plan.max_tokens_per_request {
        limits.insert("max_tokens_per_request".into(), most.0.into());
    }
    let priority = match plan.priority {
        Priority::Low => "low",
        Priority::Normal => "normal",
        Priority::High => "high",
    };
    map([
        ("limits", Value::Mapping(limits)),
        ("budget", budgets(&plan.rules)),
        ("priority", priority.into()),
        ("models", by_model(&plan.rules)),
    ])
}

/// LIMITS of all models together; nothing where there are none.
#[must_use]
pub fn of_all(rules: &[Arc<LimitRule>]) -> Value {
    some(kinds(rules, None))
}

/// LIMITS by model; nothing where there are none.
fn by_model(rules: &[Arc<LimitRule>]) -> Value {
    let mut models = Mapping::new();
    for pattern in rules.iter().filter_map(|rule| rule.model.as_ref()) {
        if !models.contains_key(pattern.text()) {
            models.insert(pattern.text().into(), Value::Mapping(kinds(rules, Some(pattern))));
        }
    }
    some(models)
}

/// `budget`; nothing where there is none.
#[must_use]
pub fn budgets(rules: &[Arc<LimitRule>]) -> Value {
    let budgets: Vec<Value> =
        rules.iter().filter(|rule| rule.dimension == Dimension::Spend).map(|rule| budget(rule)).collect();
    if budgets.is_empty() { Value::Null } else { Value::Sequence(budgets) }
}

fn some(entries: Mapping) -> Value {
    if entries.is_empty() { Value::Null } else { Value::Mapping(entries) }
}

fn kinds(rules: &[Arc<LimitRule>], model: Option<&ModelPattern>) -> Mapping {
    let counted = Dimension::ALL.into_iter().filter(|dimension| *dimension != Dimension::Spend);
    let written = counted.filter_map(|dimension| {
        let of = rules.iter().filter(|one| one.dimension == dimension && one.model.as_ref() == model);
        let of: Vec<Value> = of.map(|one| rule(one)).collect();
        (!of.is_empty()).then(|| (Value::from(dimension.name()), Value::Sequence(of)))
    });
    written.collect()
}

fn rule(rule: &LimitRule) -> Value {
    let limit = match rule.dimension {
        Dimension::Concurrency => rule.limit.into(),
        _ => Rate { count: rule.limit, window: rule.window }.to_string().into(),
    };
    map([
        ("limit", limit),
        ("burst", if rule.burst == rule.limit { Value::Null } else { rule.burst.into() }),
        ("strict", flag(rule.strict)),
        ("mode", if rule.mode == Mode::Shadow { "shadow" } else { "enforce" }.into()),
        ("on_store_error", lost(rule.on_store_error).into()),
        ("when", rule.when.as_ref().map_or(Value::Null, |when| when.text().into())),
        ("reserve", if rule.reserve == 0 { Value::Null } else { rule.reserve.into() }),
    ])
}

fn budget(rule: &LimitRule) -> Value {
    let alerts = rule.alert_at.iter().map(|share| Percent(*share));
    map([
        ("usd", Spend { amount: Usd(rule.limit), window: rule.window }.to_string().into()),
        ("on_exceed", if rule.mode == Mode::Shadow { "warn" } else { "reject" }.into()),
        ("alert_at", if rule.alert_at.is_empty() { Value::Null } else { texts(alerts) }),
        ("strict", flag(rule.strict)),
        ("stop_streams", flag(rule.stop_streams)),
        ("on_store_error", lost(rule.on_store_error).into()),
    ])
}

/// What is off unless it is written.
fn flag(on: bool) -> Value {
    if on { true.into() } else { Value::Null }
}

/// The word for what a rule does without the shared store.
#[must_use]
pub fn lost(on_store_error: OnStoreError) -> &'static str {
    match on_store_error {
        OnStoreError::Local => "local",
        OnStoreError::Open => "open",
        OnStoreError::Closed => "closed",
    }
}

/// `limits`
#[must_use]
pub fn section(limits: &Limits, root: &Node) -> Value {
    map([
        ("headers", limits.headers.into()),
        ("hold_ttl", Span(limits.hold_ttl).to_string().into()),
        ("estimate", map([("tokenizer", "bytes".into())])),
        ("backend", limits.backend.as_ref().map_or(Value::Null, |one| backend(one, root))),
        ("global", of_all(&limits.shared.rules)),
        ("models", by_model(&limits.shared.rules)),
        ("reconcile", Span(limits.reconcile).to_string().into()),
        ("alerts", limits.alerts.as_ref().map_or(Value::Null, |one| alerts(one, root))),
    ])
}

fn backend(backend: &LimitBackend, root: &Node) -> Value {
    let node = |path: &[&str]| at(root, &[&["limits", "backend", "redis"], path].concat());
    let (mut url, mut cluster, mut sentinel) = (Value::Null, Value::Null, Value::Null);
    match &backend.servers {
        RedisServers::Single(_) => url = reference(node(&["url"])),
        RedisServers::Cluster(_) => cluster = references(node(&["cluster"])),
        RedisServers::Sentinel { master, .. } => {
            let sentinels = references(node(&["sentinel", "sentinels"]));
            sentinel = map([("master", master.as_str().into()), ("sentinels", sentinels)]);
        }
    }
    let redis = map([
        ("url", url),
        ("cluster", cluster),
        ("sentinel", sentinel),
        ("timeout", Span(backend.timeout).to_string().into()),
        ("on_store_error", lost(backend.on_store_error).into()),
        ("prefix", backend.prefix.as_ref().into()),
    ]);
    map([("redis", redis)])
}

fn alerts(hook: &AlertHook, root: &Node) -> Value {
    let secret = |key: &str| reference(at(root, &["limits", "alerts", "webhook", key]));
    let timeout = Span(hook.timeout).to_string().into();
    map([("webhook", map([("url", secret("url")), ("secret", secret("secret")), ("timeout", timeout)]))])
}

/// References to several secrets; one may stand alone.
fn references(node: Option<&Node>) -> Value {
    match node.map(|node| &node.kind) {
        Some(Kind::List(items)) => Value::Sequence(items.iter().map(|item| reference(Some(item))).collect()),
        _ => Value::Sequence(vec![reference(node)]),
    }
}
