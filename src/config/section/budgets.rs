//! `budget:` of plans, tenants, teams and users – money over a day, a month, or paid before. What a request costs is
//! `prices`' matter.

use super::rules::{mode, nothing, numbered, on_store_error};
use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::units::{Percent, Spend};
use crate::domain::limit::{Dimension, Mode, OnStoreError, Window};
use crate::logic::quota::plan::LimitRule;
use std::sync::Arc;

/// Shares of one budget at which somebody is told.
pub const MAX_ALERTS: usize = 8;
/// The keys of one budget.
const BUDGET: &[&str] = &["usd", "on_exceed", "alert_at", "strict", "stop_streams", "mode", "on_store_error"];

/// Reads `budget:` into rules named `NAME`, `NAME.2`, …; `fallback` is what one does without the shared store that does
/// not say so itself.
#[must_use]
pub fn budget(name: &str, item: &Item<'_>, fallback: OnStoreError) -> Vec<Arc<LimitRule>> {
    numbered(name, item, |name, item| rule(name, item, fallback))
}

fn rule(name: &str, item: &Item<'_>, fallback: OnStoreError) -> Option<LimitRule> {
    let plain = LimitRule { on_store_error: fallback, ..LimitRule::new(name, Dimension::Spend, 0, Window::Ever) };
    if item.text_only() {
        let (limit, window) = amount(item)?;
        return Some(LimitRule { limit, window, burst: limit, ..plain });
    }
    let fields = item.fields(BUDGET, &["when"]);
    let (limit, window) = amount(&fields.need("usd", "for example `usd: 5000/month`")?)?;
    let mode = effect(&fields);
    let stop_streams = fields.or("stop_streams", Item::flag, false);
    if stop_streams && mode == Mode::Shadow {
        let hint = Some("remove it, or write `on_exceed: reject`".to_owned());
        fields.item("stop_streams").error(Code::Contradiction, "a budget that only warns stops nothing".into(), hint);
    }
    Some(LimitRule {
        limit,
        window,
        burst: limit,
        strict: fields.or("strict", Item::flag, false),
        mode,
        on_store_error: fields.or("on_store_error", on_store_error, fallback),
        alert_at: fields.or("alert_at", alerts, Arc::from([])),
        stop_streams,
        ..plain
    })
}

fn amount(item: &Item<'_>) -> Option<(u64, Window)> {
    let spend = item.parse::<Spend>()?;
    nothing(item, spend.amount.0).map(|nano| (nano, spend.window))
}

/// `on_exceed` is the word for budgets, `mode` the one of all limits: they say the same.
fn effect(fields: &Fields<'_>) -> Mode {
    let exceed = fields.get("on_exceed").and_then(|item| item.choice(&["reject", "warn"], &[]));
    let exceed = exceed.map(|word| if word == "warn" { Mode::Shadow } else { Mode::Enforce });
    let mode = fields.get("mode").and_then(|item| mode(&item));
    if let (Some(exceed), Some(mode)) = (exceed, mode)
        && exceed != mode
    {
        let hint = Some("`reject` is `enforce` and `warn` is `shadow`: remove one of them".to_owned());
        fields.item("mode").error(Code::Contradiction, "`mode` and `on_exceed` do not agree".into(), hint);
    }
    exceed.or(mode).unwrap_or_default()
}

/// Percents in ascending order, each once.
fn alerts(item: &Item<'_>) -> Option<Arc<[u8]>> {
    let listed = item.list();
    if listed.len() > MAX_ALERTS {
        item.error(Code::OutOfRange, format!("at most {MAX_ALERTS} alerts of one budget"), None);
    }
    let mut shares: Vec<u8> = listed.iter().filter_map(Item::parse::<Percent>).map(|percent| percent.0).collect();
    shares.sort_unstable();
    shares.dedup();
    Some(shares.into())
}
