//! `plans:` – named sets of limits and budgets, which count together wherever the plan is named.

use super::budgets::budget;
use super::names::check_name;
use super::rules;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::Snapshot;
use crate::domain::ids::PlanId;
use crate::domain::limit::{OnStoreError, Priority};
use crate::domain::units::Tokens;
use crate::logic::quota::plan::Plan;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What `Snapshot::plans` holds.
type Plans = BTreeMap<PlanId, Arc<Plan>>;
/// What rules are named by that are no plan's: a plan of such a name could be taken for them.
const TAKEN: [&str; 4] = ["budget", "limits", "pools", "tenants"];

/// Reads `plans:`.
#[must_use]
pub fn plans(item: &Item<'_>, fallback: OnStoreError) -> Plans {
    let read = item.named().into_iter().map(|(entry, item)| {
        check_name(&item, &entry.key, entry.place);
        if let Some(word) = taken(&entry.key) {
            let hint = Some("choose another name".to_owned());
            let message = format!("`{word}` begins the names of other limits");
            item.findings.add(Code::BadWord, (entry.place, &item.path), message, hint);
        }
        (PlanId::new(&entry.key), Arc::new(plan(&entry.key, &item, fallback)))
    });
    read.collect()
}

/// The word that keeps a name from being a plan's: rules of such a plan could be taken for others.
#[must_use]
pub fn taken(name: &str) -> Option<&'static str> {
    let first = name.split('.').next().unwrap_or_default();
    TAKEN.into_iter().find(|word| *word == first)
}

/// One plan; its rules carry its name. `fallback` is what they do without the shared store where they do not say so.
#[must_use]
pub fn plan(name: &str, item: &Item<'_>, fallback: OnStoreError) -> Plan {
    let fields = item.fields(&["limits", "budget", "priority", "models"], &[]);
    let known = [&rules::KINDS[..], &["max_tokens_per_request", "spend"]].concat();
    let limits = fields.item("limits").fields(&known, &[]);
    if let Some(spend) = limits.get("spend") {
        let hint = Some("write `budget: { usd: 5000/month }` beside `limits`".to_owned());
        spend.error(Code::UnknownKey, "money is a budget".into(), hint);
    }
    let mut all = rules::rules(name, &limits, fallback);
    all.extend(budget(&format!("{name}.budget"), &fields.item("budget"), fallback));
    all.extend(rules::by_model(name, &fields.item("models"), fallback));
    rules::bounded(item, &all);
    Plan {
        rules: all,
        priority: fields.or("priority", priority, Priority::Normal),
        max_tokens_per_request: limits.get("max_tokens_per_request").and_then(|item| item.positive()).map(Tokens),
    }
}

fn priority(item: &Item<'_>) -> Option<Priority> {
    Some(match item.choice(&["low", "normal", "high"], &[])? {
        "low" => Priority::Low,
        "high" => Priority::High,
        _ => Priority::Normal,
    })
}

/// True if some tenant, team or user of the snapshot counts by this plan.
#[must_use]
pub fn is_used(snapshot: &Snapshot, plan: &PlanId) -> bool {
    snapshot.tenants.values().any(|tenant| {
        let members = tenant.teams.values().chain(tenant.users.values()).map(|member| &member.plan);
        members.chain([&tenant.plan]).flatten().any(|used| used == plan)
    })
}
