//! Who calls, in the effective text: store, roles, rules and tenants.

use super::{at, map, quota, reference, texts};
use crate::config::snapshot::{Push, Store, StoreTarget, Tenant};
use crate::config::tree::Node;
use crate::config::units::Span;
use crate::domain::ids::PlanId;
use crate::logic::access::directory::Member;
use crate::logic::access::rule::{Effect, Rule};
use crate::logic::access::scopes::{Reach, Role, Roles, Scope, built_in};
use serde_yaml::{Mapping, Value};

/// `store:`
#[must_use]
pub fn store(store: &Store, root: &Node) -> Value {
    let url = |path: &[&str]| map([("url", reference(at(root, path)))]);
    let (sqlite, postgres) = match &store.target {
        StoreTarget::Sqlite(file) => (file.display().to_string().into(), Value::Null),
        StoreTarget::Postgres(_) => (Value::Null, url(&["store", "postgres", "url"])),
    };
    let push = match &store.push {
        Push::None => "none".into(),
        Push::Notify => "notify".into(),
        Push::Redis(_) => map([("redis", url(&["store", "push", "redis", "url"]))]),
    };
    map([
        ("sqlite", sqlite),
        ("postgres", postgres),
        ("push", push),
        ("poll", Span(store.poll).to_string().into()),
        ("replica", store.replica.display().to_string().into()),
    ])
}

/// The roles that are not as they are built in.
#[must_use]
pub fn roles(roles: &Roles) -> Value {
    let built_in = built_in();
    let own = roles.iter().filter(|(name, role)| built_in.get(name) != Some(role));
    named(own.map(|(name, one)| (name.as_str(), role(one))))
}

fn role(role: &Role) -> Value {
    map([
        ("scopes", texts(role.scopes.iter().map(Scope::name))),
        ("models", role.models.as_ref().map_or(Value::Null, |models| texts(models.iter()))),
        ("tenants", if role.reach == Reach::All { "all" } else { "own" }.into()),
    ])
}

/// `authorization:`
#[must_use]
pub fn authorization(rules: &[Rule]) -> Value {
    let one = |rule: &Rule| {
        let effect = if rule.effect == Effect::Require { "require" } else { "deny" };
        map([("name", rule.name.as_ref().into()), ("when", rule.when.text().into()), ("effect", effect.into())])
    };
    if rules.is_empty() { Value::Null } else { Value::Sequence(rules.iter().map(one).collect()) }
}

/// `tenants.NAME`
#[must_use]
pub fn tenant(tenant: &Tenant) -> Value {
    map([
        ("plan", plan(tenant.plan.as_ref())),
        ("models", if tenant.models.is_some() { texts(&tenant.model_patterns) } else { Value::Null }),
        ("time_zone", tenant.zone.iana_name().map_or(Value::Null, Value::from)),
        ("budget", quota::budgets(&tenant.budgets)),
        ("disabled", if tenant.disabled { true.into() } else { Value::Null }),
        ("teams", named(tenant.teams.iter().map(|(name, one)| (name.as_str(), member(one))))),
        ("users", named(tenant.users.iter().map(|(name, one)| (name.as_str(), member(one))))),
    ])
}

fn member(member: &Member) -> Value {
    let models = member.models.as_ref().map_or(Value::Null, |models| texts(models.iter()));
    map([("plan", plan(member.plan.as_ref())), ("models", models), ("budget", quota::budgets(&member.budgets))])
}

fn plan(plan: Option<&PlanId>) -> Value {
    plan.map_or(Value::Null, |plan| plan.as_str().into())
}

/// Entries under their names; nothing where there are none.
fn named<'n>(entries: impl Iterator<Item = (&'n str, Value)>) -> Value {
    let entries: Mapping = entries.map(|(name, value)| (Value::from(name), value)).collect();
    if entries.is_empty() { Value::Null } else { Value::Mapping(entries) }
}
