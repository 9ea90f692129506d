//! What limits and budgets need of other sections before they do what they say. Warns; refuses nothing.

use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::snapshot::{Snapshot, StoreTarget};
use crate::domain::ids::PlanId;
use crate::logic::access::directory::Member;
use crate::logic::quota::lines::MAX_LINES;
use crate::logic::quota::plan::LimitRule;
use std::sync::Arc;

/// Warns of replicas whose limits do not know of each other.
pub fn apart(root: &Item<'_>, snapshot: &Snapshot) {
    if snapshot.limits.backend.is_some() || !matches!(snapshot.store.target, StoreTarget::Postgres(_)) {
        return;
    }
    let item = root.fields_unchecked().item("store").fields_unchecked().item("postgres");
    let message = "replicas may share this store, and each of them counts limits and budgets for itself";
    let hint = Some("add `limits: { backend: { redis: { url: { env: REDIS_URL } } } }`".to_owned());
    item.error(Code::CountedApart, message.into(), hint);
}

/// Warns of budgets that count nothing, since there are no prices, and of alerts that nobody gets.
pub fn idle(root: &Item<'_>, snapshot: &Snapshot) {
    for (item, rules) in budgets(root, snapshot) {
        if snapshot.prices.entries.is_empty() && !rules.is_empty() {
            let hint = Some("add `usage: { prices: FILE }`".to_owned());
            item.error(Code::Idle, "without prices nothing costs anything".into(), hint);
        }
        if snapshot.limits.alerts.is_none() && rules.iter().any(|rule| !rule.alert_at.is_empty()) {
            let hint = Some("add `limits: { alerts: { webhook: … } }`".to_owned());
            item.error(Code::Idle, "`alert_at` tells nobody".into(), hint);
        }
    }
}

/// Warns of tenants with callers whose every request would be refused, since more limits count it than can be weighed.
/// Limits that count some requests only, and budgets of the store, come on top.
pub fn crowded(root: &Item<'_>, snapshot: &Snapshot) {
    let pools = snapshot.pools.iter().map(|pool| always(&pool.limits.rules));
    let shared = always(&snapshot.limits.shared.rules) + pools.max().unwrap_or(0);
    let plan = |id: Option<&PlanId>| id.and_then(|id| snapshot.plans.get(id)).map_or(0, |plan| always(&plan.rules));
    let member = |member: &Member| plan(member.plan.as_ref()) + always(&member.budgets);
    let tenants = root.fields_unchecked().item("tenants").fields_unchecked();
    for (name, tenant) in &snapshot.tenants {
        let team = tenant.teams.values().map(member).max().unwrap_or(0);
        let user = tenant.users.values().map(member).max().unwrap_or(0);
        let lines = shared + plan(tenant.plan.as_ref()) + always(&tenant.budgets) + team + user;
        if lines > MAX_LINES {
            let message = format!("{lines} limits count one request, and at most {MAX_LINES} can: it would be refused");
            let hint = Some("give its team or its user a plan of fewer limits".to_owned());
            tenants.item(name.as_str()).error(Code::Crowded, message, hint);
        }
    }
}

/// How many rules count every request of their place.
fn always(rules: &[Arc<LimitRule>]) -> usize {
    rules.iter().filter(|rule| rule.when.is_none() && rule.model.is_none()).count()
}

/// Every `budget:` of the file, with the rules of its place.
fn budgets<'s>(root: &Item<'s>, snapshot: &'s Snapshot) -> Vec<(Item<'s>, &'s [Arc<LimitRule>])> {
    let top = root.fields_unchecked();
    let below = |fields: &Fields<'s>, key: &str| fields.item(key).fields_unchecked();
    let mut found: Vec<(Item<'s>, &'s [Arc<LimitRule>])> = Vec::new();
    let plans = below(&top, "plans");
    for (name, plan) in &snapshot.plans {
        found.push((below(&plans, name.as_str()).item("budget"), &plan.rules));
    }
    let tenants = below(&top, "tenants");
    for (name, tenant) in &snapshot.tenants {
        let fields = below(&tenants, name.as_str());
        found.push((fields.item("budget"), &tenant.budgets));
        let (teams, users) = (below(&fields, "teams"), below(&fields, "users"));
        let teams = tenant.teams.iter().map(|(id, member)| (below(&teams, id.as_str()), member));
        let users = tenant.users.iter().map(|(id, member)| (below(&users, id.as_str()), member));
        found.extend(teams.chain(users).map(|(fields, member)| (fields.item("budget"), &member.budgets[..])));
    }
    found.retain(|(item, _)| !item.node.is_null());
    found
}
