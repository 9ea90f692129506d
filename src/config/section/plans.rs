//! `plans:` – named sets of limits. How they count is in semantics.md §3.

use super::names::check_name;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::Snapshot;
use crate::config::units::{Count, Rate};
use crate::domain::ids::PlanId;
use crate::domain::limit::{Dimension, LimitRule, Mode, Plan, Window};
use crate::domain::units::Tokens;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What `Snapshot::plans` holds.
type Plans = BTreeMap<PlanId, Arc<Plan>>;
/// Limits of one dimension in one plan.
const MAX_RULES: usize = 16;

/// Reads `plans:`.
#[must_use]
pub fn plans(item: &Item<'_>) -> Plans {
    let read = item.named().into_iter().map(|(entry, item)| {
        check_name(&item, &entry.key, entry.place);
        (PlanId::new(&entry.key), Arc::new(plan(&entry.key, &item)))
    });
    read.collect()
}

/// One plan; its rules carry its name.
#[must_use]
pub fn plan(name: &str, item: &Item<'_>) -> Plan {
    let fields = item.fields(&["limits"], &["budget", "priority", "models"]);
    let later = ["input_tokens", "output_tokens", "spend"];
    let limits = fields.item("limits").fields(&["requests", "tokens", "concurrency", "max_tokens_per_request"], &later);
    let mut rules = Vec::new();
    let dimensions =
        [("requests", Dimension::Requests), ("tokens", Dimension::Tokens), ("concurrency", Dimension::Concurrency)];
    for (key, dimension) in dimensions {
        let Some(item) = limits.get(key) else { continue };
        let listed = item.list();
        if listed.len() > MAX_RULES {
            item.error(Code::OutOfRange, format!("at most {MAX_RULES} limits of one kind"), None);
        }
        for (index, item) in listed.iter().enumerate() {
            let suffix = if index == 0 { String::new() } else { format!(".{}", index + 1) };
            rules.extend(rule(&format!("{name}.{key}{suffix}"), dimension, item));
        }
    }
    Plan {
        rules,
        max_tokens_per_request: limits.get("max_tokens_per_request").and_then(|item| item.positive()).map(Tokens),
    }
}

fn rule(name: &str, dimension: Dimension, item: &Item<'_>) -> Option<LimitRule> {
    let plain = LimitRule {
        name: Arc::from(name),
        dimension,
        limit: 0,
        window: Window::Second,
        burst: 0,
        strict: false,
        mode: Mode::Enforce,
    };
    if item.text_only() {
        let (limit, window) = amount(item, dimension)?;
        return Some(LimitRule { limit, window, burst: limit, ..plain });
    }
    let fields = item.fields(&["limit", "burst", "strict", "mode", "on_store_error"], &["when"]);
    let (limit, window) = amount(&fields.need("limit", "for example `limit: 600/min`")?, dimension)?;
    let mode = fields.get("mode").and_then(|item| item.choice(&["enforce", "shadow"], &[]));
    if let Some(item) = fields.get("on_store_error") {
        let _ = item.choice(&["local"], &["open", "closed"]);
    }
    let strict = fields.or("strict", Item::flag, false);
    if strict && dimension != Dimension::Tokens {
        let hint = Some("remove it, or put it on a `tokens` limit".to_owned());
        fields.item("strict").error(Code::Contradiction, "`strict` is about tokens".into(), hint);
    }
    let burst = fields.get("burst").and_then(|item| burst(&item, dimension, window));
    let mode = if mode == Some("shadow") { Mode::Shadow } else { Mode::Enforce };
    Some(LimitRule { limit, window, burst: burst.unwrap_or(limit), strict, mode, ..plain })
}

/// `N/unit`, or a plain number for concurrency.
fn amount(item: &Item<'_>, dimension: Dimension) -> Option<(u64, Window)> {
    let (count, window) = if dimension == Dimension::Concurrency {
        (item.parse::<Count>()?.0, Window::Second)
    } else {
        let rate = item.parse::<Rate>()?;
        (rate.count, rate.window)
    };
    if count == 0 {
        let hint = Some("use `null` for no limit or a number ≥ 1".to_owned());
        item.error(Code::OutOfRange, "0 would refuse every request".into(), hint);
        return None;
    }
    Some((count, window))
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

/// True if some tenant, team or user of the snapshot counts by this plan.
#[must_use]
pub fn is_used(snapshot: &Snapshot, plan: &PlanId) -> bool {
    snapshot.tenants.values().any(|tenant| {
        let members = tenant.teams.values().chain(tenant.users.values()).map(|member| &member.plan);
        members.chain([&tenant.plan]).flatten().any(|used| used == plan)
    })
}
