//! LIMITS: what may be used per window or at once – of plans, pools, models and of all requests together. How limits
//! count is in semantics.md §3.

use super::expression::{CONDITION, expression};
use super::patterns::model_pattern;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::units::{Count, Percent, Rate};
use crate::domain::limit::{Dimension, Mode, OnStoreError, Window};
use crate::logic::quota::plan::{LimitRule, ModelPattern};
use std::sync::Arc;

/// Limits of one kind in one place; budgets in one place.
pub const MAX_RULES: usize = 16;
/// Limits and budgets of a plan, limits of a pool, limits of all requests: those of models included. Each request is
/// held against all that match it, in one step.
pub const MAX_PLAN_RULES: usize = 64;
/// The keys of LIMITS.
pub const KINDS: [&str; 5] = ["requests", "tokens", "input_tokens", "output_tokens", "concurrency"];
/// The keys of one limit.
const RULE: &[&str] = &["limit", "burst", "strict", "mode", "on_store_error", "when", "reserve"];

/// Reads opened LIMITS into rules named `PREFIX.KIND`. `fallback` is what a rule does without the shared store that does
/// not say so itself.
#[must_use]
pub fn rules(prefix: &str, limits: &Fields<'_>, fallback: OnStoreError) -> Vec<Arc<LimitRule>> {
    let counted = Dimension::ALL.into_iter().filter(|dimension| *dimension != Dimension::Spend);
    let read = counted.flat_map(|dimension| {
        let Some(item) = limits.get(dimension.name()) else { return Vec::new() };
        let one = |name: &str, item: &Item<'_>| rule(name, dimension, item, fallback);
        numbered(&format!("{prefix}.{}", dimension.name()), &item, one)
    });
    read.collect()
}

/// Reads LIMITS that are no plan's.
#[must_use]
pub fn limits(prefix: &str, item: &Item<'_>, fallback: OnStoreError) -> Vec<Arc<LimitRule>> {
    rules(prefix, &item.fields(&KINDS, &["max_tokens_per_request"]), fallback)
}

/// Reads `models: { PATTERN: LIMITS }` into rules named `PREFIX.models.PATTERN.KIND`.
#[must_use]
pub fn by_model(prefix: &str, item: &Item<'_>, fallback: OnStoreError) -> Vec<Arc<LimitRule>> {
    let read = item.named().into_iter().flat_map(|(entry, item)| {
        let pattern = model_pattern(&item, entry);
        let read = limits(&format!("{prefix}.models.{}", entry.key), &item, fallback);
        let of_model = |pattern: ModelPattern| {
            let own = |rule: Arc<LimitRule>| LimitRule { model: Some(pattern.clone()), ..Arc::unwrap_or_clone(rule) };
            read.into_iter().map(own).map(Arc::new).collect()
        };
        pattern.map_or_else(Vec::new, of_model)
    });
    read.collect()
}

/// Tells of more rules in one place than a request can be held against.
pub fn bounded(item: &Item<'_>, rules: &[Arc<LimitRule>]) {
    if rules.len() > MAX_PLAN_RULES {
        let message = format!("at most {MAX_PLAN_RULES} limits and budgets in one place, not {}", rules.len());
        item.error(Code::OutOfRange, message, Some("let one pattern stand for several models".into()));
    }
}

/// Reads one rule or a list of them: `NAME`, `NAME.2`, `NAME.3`, …
pub fn numbered<'t>(
    name: &str,
    item: &Item<'t>,
    one: impl Fn(&str, &Item<'t>) -> Option<LimitRule>,
) -> Vec<Arc<LimitRule>> {
    let listed = item.list();
    if listed.len() > MAX_RULES {
        item.error(Code::OutOfRange, format!("at most {MAX_RULES} limits of one kind"), None);
    }
    let read = listed.iter().enumerate().map(|(index, item)| {
        let name = if index == 0 { name.to_owned() } else { format!("{name}.{}", index + 1) };
        one(&name, item).map(Arc::new)
    });
    read.flatten().collect()
}

fn rule(name: &str, dimension: Dimension, item: &Item<'_>, fallback: OnStoreError) -> Option<LimitRule> {
    let plain = LimitRule { on_store_error: fallback, ..LimitRule::new(name, dimension, 0, Window::Second) };
    if item.text_only() {
        let (limit, window) = amount(item, dimension)?;
        return Some(LimitRule { limit, window, burst: limit, ..plain });
    }
    let fields = item.fields(RULE, &[]);
    let (limit, window) = amount(&fields.need("limit", "for example `limit: 600/min`")?, dimension)?;
    let strict = fields.or("strict", Item::flag, false);
    if strict && !dimension.is_tokens() {
        let hint = Some("remove it, or put it on a limit of tokens".to_owned());
        fields.item("strict").error(Code::Contradiction, "`strict` is about tokens".into(), hint);
    }
    let burst = fields.get("burst").and_then(|item| burst(&item, dimension, window)).unwrap_or(limit);
    Some(LimitRule {
        limit,
        window,
        burst,
        strict,
        mode: fields.or("mode", mode, Mode::Enforce),
        on_store_error: fields.or("on_store_error", on_store_error, fallback),
        reserve: fields.or("reserve", |item| reserve(item, burst), 0),
        when: fields.get("when").and_then(|item| expression(&item, CONDITION)),
        ..plain
    })
}

/// `enforce` or `shadow`.
#[must_use]
pub fn mode(item: &Item<'_>) -> Option<Mode> {
    Some(if item.choice(&["enforce", "shadow"], &[])? == "shadow" { Mode::Shadow } else { Mode::Enforce })
}

/// `local`, `open` or `closed`.
#[must_use]
pub fn on_store_error(item: &Item<'_>) -> Option<OnStoreError> {
    Some(match item.choice(&["local", "open", "closed"], &[])? {
        "open" => OnStoreError::Open,
        "closed" => OnStoreError::Closed,
        _ => OnStoreError::Local,
    })
}

/// `N/unit`, or a plain number for concurrency.
fn amount(item: &Item<'_>, dimension: Dimension) -> Option<(u64, Window)> {
    let (count, window) = if dimension == Dimension::Concurrency {
        (item.parse::<Count>()?.0, Window::Second)
    } else {
        let rate = item.parse::<Rate>()?;
        (rate.count, rate.window)
    };
    nothing(item, count).map(|count| (count, window))
}

/// Tells of a limit of nothing.
#[must_use]
pub fn nothing(item: &Item<'_>, count: u64) -> Option<u64> {
    if count == 0 {
        let hint = Some("use `null` for no limit or a number ≥ 1".to_owned());
        item.error(Code::OutOfRange, "0 would refuse every request".into(), hint);
        return None;
    }
    Some(count)
}

fn burst(item: &Item<'_>, dimension: Dimension, window: Window) -> Option<u64> {
    let burst = item.positive()?;
    if dimension == Dimension::Concurrency || matches!(window, Window::Day | Window::Month) {
        let hint = Some("remove `burst`: only limits per s, min and h are buckets".to_owned());
        item.error(Code::Contradiction, "this limit has no bucket".into(), hint);
        return None;
    }
    Some(burst)
}

/// Units, or percents of all that there can be at once. Low priority leaves twice as much.
fn reserve(item: &Item<'_>, capacity: u64) -> Option<u64> {
    let units = if item.text()?.trim_end().ends_with('%') {
        let percent = item.parse::<Percent>()?.0;
        u64::try_from(u128::from(capacity) * u128::from(percent) / 100).unwrap_or(u64::MAX)
    } else {
        item.positive()?
    };
    if units.saturating_mul(2) >= capacity {
        let hint = Some("keep less than half in reserve".to_owned());
        let message = "requests of low priority leave twice the reserve to others, and would never pass";
        item.error(Code::OutOfRange, message.into(), hint);
        return None;
    }
    Some(units)
}
