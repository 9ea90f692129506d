//! What the store keeps in the form of the configuration, read by the configuration's own code: plans as JSON, and
//! the model patterns of tenants. Decides nothing that a file does not.

use super::diagnostic::{Findings, Place};
use super::effective;
use super::field::Item;
use super::section::{patterns, plans};
use super::tree::{Entry, Kind, Node};
use crate::domain::limit::OnStoreError;
use crate::logic::quota::plan::Plan;
use globset::GlobSet;
use serde_json::Value;

/// Bytes of one stored plan.
const MAX_PLAN_BYTES: usize = 16 << 10;
/// Model patterns of one stored tenant.
const MAX_TENANT_PATTERNS: usize = 256;

/// Compiles a plan of the store: JSON of the same shape as one entry of `plans:`. `fallback` is what its rules do
/// without the shared ledger that do not say so ([`Limits::on_store_error`](super::snapshot::Limits::on_store_error)).
///
/// # Errors
/// Everything that is wrong with it, in words, with the path of each fault.
pub fn plan_from_json(name: &str, text: &str, fallback: OnStoreError) -> Result<Plan, String> {
    if text.len() > MAX_PLAN_BYTES {
        return Err(format!("a plan has at most {MAX_PLAN_BYTES} bytes"));
    }
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?;
    if !value.is_object() {
        return Err("a plan is an object: `{\"limits\":{\"requests\":\"600/min\"}}`".to_owned());
    }
    if let Some(path) = fraction(&value, "") {
        return Err(format!("{path}: a number with a fraction is exact as text only: write \"0.50/day\""));
    }
    let node = node_of(&value);
    without_fault(&node, |item| plans::plan(name, item, fallback))
}

/// A plan as JSON that [`plan_from_json`] makes the same plan of; what is as it is by default is left out.
#[must_use]
pub fn plan_to_json(plan: &Plan, fallback: OnStoreError) -> Value {
    let mut value = serde_json::to_value(effective::quota::plan(plan)).unwrap_or_default();
    let defaults = [("mode", "enforce"), ("on_exceed", "reject"), ("on_store_error", effective::quota::lost(fallback))];
    without_defaults(&mut value, &defaults);
    value
}

fn without_defaults(value: &mut Value, defaults: &[(&str, &str)]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| without_defaults(item, defaults)),
        Value::Object(members) => {
            members.retain(|key, value| !defaults.iter().any(|(name, default)| name == key && *value == *default));
            members.values_mut().for_each(|value| without_defaults(value, defaults));
        }
        _ => {}
    }
}

/// Compiles the model patterns of a tenant of the store, with the meaning of `tenants.*.models`.
///
/// # Errors
/// What is wrong with them, in words.
pub fn tenant_models(patterns: &[String]) -> Result<GlobSet, String> {
    if patterns.len() > MAX_TENANT_PATTERNS {
        return Err(format!("a tenant has at most {MAX_TENANT_PATTERNS} model patterns"));
    }
    let node = node_of(&Value::from(patterns));
    without_fault(&node, |item| patterns::models(item).0)?.ok_or_else(|| "these patterns do not compile".to_owned())
}

/// Reads a node of no file; any fault refuses the value.
fn without_fault<T>(node: &Node, read: impl FnOnce(&Item<'_>) -> T) -> Result<T, String> {
    let findings = Findings::default();
    let value = read(&Item { findings: &findings, node, path: String::new() });
    let report = findings.into_report("");
    if report.errors.is_empty() {
        return Ok(value);
    }
    let words = report.errors.iter().map(|fault| {
        let path = if fault.path.is_empty() { String::new() } else { format!("{}: ", fault.path) };
        let hint = fault.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        format!("{path}{}{hint}", fault.message)
    });
    Err(words.collect::<Vec<_>>().join("; "))
}

/// The path of a number with a fraction: JSON's readers round it.
fn fraction(value: &Value, path: &str) -> Option<String> {
    match value {
        Value::Number(number) => number.is_f64().then(|| path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| fraction(item, &format!("{path}[{index}]")))
        }
        Value::Object(members) => members.iter().find_map(|(key, item)| {
            let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            fraction(item, &below)
        }),
        _ => None,
    }
}

/// JSON as a tree without places: its depth is bounded by the JSON reader, its size by the callers.
fn node_of(value: &Value) -> Node {
    let scalar = |text: String| Kind::Scalar { shown: text.clone(), text };
    let kind = match value {
        Value::Null => Kind::Null,
        Value::Bool(flag) => scalar(flag.to_string()),
        Value::Number(number) => scalar(number.to_string()),
        Value::String(text) => scalar(text.clone()),
        Value::Array(items) => Kind::List(items.iter().map(node_of).collect()),
        Value::Object(members) => {
            let entry = |(key, value): (&String, &Value)| Entry {
                key: key.clone(),
                place: Place::default(),
                value: node_of(value),
            };
            Kind::Map(members.iter().map(entry).collect())
        }
    };
    Node { place: Place::default(), kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::Dimension;

    fn plan_of(name: &str, text: &str) -> Result<Plan, String> {
        plan_from_json(name, text, OnStoreError::Local)
    }

    #[test]
    fn a_stored_plan_means_what_the_same_plan_means_in_a_file() {
        let json = r#"{"limits":{"requests":["600/min",{"limit":"9k/day","mode":"shadow"}],"concurrency":4,"max_tokens_per_request":1000},"budget":{"usd":"7.25","alert_at":["80%"]},"priority":"low","models":{"a*":{"output_tokens":"5k/h"}}}"#;
        let plan = plan_of("gold", json).expect("a plan");
        let file = format!(
            "version: 1\nlisteners: {{ l: {{ bind: ['127.0.0.1:0'] }} }}\nroutes: [{{ respond: {{}} }}]\nplans: {{ gold: {json} }}\n"
        );
        let loaded = crate::config::load_text("t.yaml", &file, std::path::Path::new("")).expect("a file");
        assert_eq!(*loaded.snapshot.plans[&"gold".into()], plan, "one meaning in both places");
        assert_eq!(plan.rules[1].name.as_ref(), "gold.requests.2", "rules are named by the plan");
        assert_eq!(plan.rules[2].dimension, Dimension::Concurrency, "numbers need no quotes");
        assert_eq!(
            (plan.rules[3].name.as_ref(), plan.rules[3].limit),
            ("gold.budget", 7_250_000_000),
            "nor do amounts"
        );
    }

    #[test]
    fn a_wrong_plan_is_refused_with_every_fault_and_its_path() {
        let wrong = plan_of("p", r#"{"limits":{"tokens":"5","requets":"1/s"}}"#).expect_err("two faults");
        assert!(wrong.contains("limits.tokens: `5`: not a rate"), "the unit: {wrong}");
        assert!(wrong.contains("did you mean `requests`?"), "the key: {wrong}");
        for text in ["", "[]", "5", "{\"limits\":", "{\"limits\":{\"requests\":\"0/min\"}}", "version: 1"] {
            assert!(plan_of("p", text).is_err(), "{text:?} is no plan");
        }
        assert!(plan_of("p", &format!("{{\"x\":\"{}\"}}", "y".repeat(MAX_PLAN_BYTES))).is_err(), "too long");
        assert!(plan_of("p", "{}").is_ok_and(|plan| plan.rules.is_empty()), "no limits are no fault");
    }

    #[test]
    fn a_number_with_a_fraction_is_refused_since_it_has_been_a_float() {
        let of = |usd: &str| plan_of("p", &format!(r#"{{"budget":[5,{{"usd":{usd}}}]}}"#));
        let limit = |usd: &str| of(usd).map(|plan| plan.rules[1].limit);
        assert_eq!(limit("\"8392501.472984842\""), Ok(8_392_501_472_984_842), "a text is exact to the nano-dollar");
        assert_eq!(limit("7"), Ok(7_000_000_000), "a whole number is exact");
        let wrong = limit("8392501.472984842").expect_err("this one would be a nano-dollar short");
        assert!(wrong.starts_with("budget[1].usd: ") && wrong.contains("as text"), "where, and what helps: {wrong}");
    }

    #[test]
    fn a_stored_plan_reads_nothing_from_the_environment() {
        let text = r#"{"limits":{"requests":"${CARGO_PKG_NAME}"}}"#;
        let wrong = plan_of("p", text).expect_err("no rate");
        assert!(wrong.contains("${CARGO_PKG_NAME}"), "letters stay letters: {wrong}");
    }

    #[test]
    fn patterns_of_a_tenant_are_globs_and_a_wrong_one_is_named() {
        let of = |patterns: &[&str]| {
            tenant_models(&patterns.iter().map(|pattern| (*pattern).to_owned()).collect::<Vec<_>>())
        };
        let set = of(&["llama-*", "gold/x"]).expect("patterns");
        assert!(set.is_match("llama-3/8b") && !set.is_match("gpt-4o"), "as in a file");
        assert!(of(&["[a"]).is_err_and(|fault| fault.contains("`[a`")), "the pattern is named");
        assert!(of(&[]).is_err() && of(&[""]).is_err(), "an empty list or name would allow nothing");
    }
}
