//! Which limits would count a request, and why each other one would not: from the configuration alone, so without
//! tenants, plans and budgets of the store.

use super::Args;
use crate::admin::me;
use crate::config::snapshot::{Action, Pool, Snapshot};
use crate::domain::ids::{KeyId, PlanId, TeamId, TenantId, UserId};
use crate::domain::limit::{Dimension, Mode, Scope, Window};
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::surface::Surface;
use crate::domain::units::WallMicros;
use crate::logic::access::directory::Directory;
use crate::logic::access::expression::Variables;
use crate::logic::access::rule;
use crate::logic::access::scopes;
use crate::logic::quota::lines::{self, Asked, Asker, Candidate, Errand};
use crate::stages::check;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The tenant of callers that nothing is said of.
const DEFAULT_TENANT: &str = "default";
/// Stands for any key where a plan is on the key itself.
const SOME_KEY: &str = "-";

/// The rules of a request whose route does this, by way of one of these pools.
///
/// # Errors
/// What to tell the operator.
pub fn rules(
    args: &Args,
    host: Option<&str>,
    (action, pools): (&Action, &[&Arc<Pool>]),
    snapshot: &Snapshot,
) -> Result<Vec<Value>, String> {
    let principal = principal(args);
    let directory = Directory {
        tenants: snapshot.tenants.iter().map(|(name, tenant)| (name.clone(), Arc::new(tenant.clone()))).collect(),
        plans: snapshot.plans.iter().map(|(name, plan)| (name.clone(), Arc::clone(plan))).collect(),
    };
    let variables = variables(args, host, &directory, &principal, snapshot);
    let surface = Surface::of(&args.what, args.path.as_deref().unwrap_or_default());
    let model = args.model.as_deref().filter(|_| surface.is_llm());
    let errand = errand(surface, args.path.as_deref().unwrap_or_default(), action);
    let asked = Asked { model, variables: Some(&variables), errand };
    let mut told = Vec::new();
    // What is not the pool's holds whichever pool is taken.
    let mut first = true;
    let none: [Option<&Arc<Pool>>; 1] = [None];
    let each: Vec<_> = if pools.is_empty() { none.to_vec() } else { pools.iter().map(|pool| Some(*pool)).collect() };
    for pool in each {
        let pool = pool.map(|pool| (&pool.id, &*pool.limits));
        let asker = Asker { directory: &directory, principal: &principal, shared: &snapshot.limits.shared, pool };
        let found = lines::in_force(&asker).map_err(|unclear| unclear.to_string())?;
        let new = found.candidates.iter().filter(|one| first || matches!(one.scope, Scope::Pool(_)));
        told.extend(new.map(|one| line(one, &asked)));
        first = false;
    }
    Ok(told)
}

/// What the limits make of it. Weir's own paths come before what the route does.
fn errand(surface: Surface, path: &str, action: &Action) -> Errand {
    match (surface, action) {
        (Surface::Me, _) if path != me::PATH => Errand::Question,
        (Surface::Me | Surface::Models, _) | (_, Action::Respond { .. }) => Errand::Answer,
        (_, Action::Pools(_)) => Errand::Upstream,
    }
}

fn principal(args: &Args) -> Principal {
    let profile = Profile {
        team: args.team.as_deref().map(TeamId::new),
        user: args.user.as_deref().map(UserId::new),
        plan: args.key_plan.as_deref().map(PlanId::new),
        ..Profile::of(TenantId::new(args.tenant.as_deref().unwrap_or(DEFAULT_TENANT)))
    };
    let known = Principal::of(Arc::new(profile), AuthMethod::ApiKey);
    Principal { key: args.key_plan.as_ref().map(|_| KeyId::new(SOME_KEY)), ..known }
}

fn variables(
    args: &Args,
    host: Option<&str>,
    directory: &Directory,
    principal: &Principal,
    snapshot: &Snapshot,
) -> Variables {
    let asked = rule::Asked {
        method: &args.what,
        host,
        path: args.path.as_deref().unwrap_or_default(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        model: args.model.as_deref(),
        stream: None,
        max_tokens: None,
    };
    let scopes = scopes::grant(&snapshot.roles, None).scopes;
    let plan = check::narrowest_plan(directory, principal);
    let now = WallMicros(jiff::Timestamp::now().as_microsecond());
    rule::variables(principal, scopes, plan, &asked, now)
}

fn line(candidate: &Candidate<'_>, asked: &Asked<'_>) -> Value {
    let rule = candidate.rule;
    let counts = candidate.counts(asked);
    json!({
        "rule": &*rule.name, "scope": rule.scope_name(&candidate.scope), "dimension": rule.dimension.name(),
        "limit": rule.limit, "window": window(rule.dimension, rule.window),
        "mode": if rule.mode == Mode::Shadow { "shadow" } else { "enforce" },
        "counts": counts.is_ok(), "because": counts.err().map(lines::Skipped::name),
    })
}

/// `null` for concurrency, which has none.
fn window(dimension: Dimension, window: Window) -> Option<&'static str> {
    (dimension != Dimension::Concurrency).then_some(match window {
        Window::Second => "second",
        Window::Minute => "minute",
        Window::Hour => "hour",
        Window::Day => "day",
        Window::Month => "month",
        Window::Ever => "ever",
    })
}

/// The rules for people.
#[must_use]
pub fn words(rules: &[Value]) -> String {
    let mut out = String::new();
    for rule in rules {
        let text = |name: &str| rule[name].as_str().unwrap_or_default();
        let window = rule["window"].as_str().map(|window| format!(" per {window}")).unwrap_or_default();
        let shadow = if text("mode") == "shadow" { ", shadow" } else { "" };
        let verdict =
            rule["because"].as_str().map_or("counts it".to_owned(), |why| format!("does not count it: {why}"));
        let line = format!(
            "limit {} (of the {}): {} {}{window}{shadow}: {verdict}\n",
            text("rule"),
            text("scope"),
            rule["limit"],
            text("dimension"),
        );
        out.push_str(&line.replace("per ever", "in all"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_weir_answers_itself_counts_for_nothing_but_the_question_for_usage() {
        let pools = Action::Pools(vec![]);
        let respond = Action::Respond { status: 200, body: String::new() };
        for (method, path, action, wanted) in [
            ("POST", "/v1/chat/completions", &pools, Errand::Upstream),
            ("GET", "/x", &pools, Errand::Upstream),
            ("GET", "/v1/models", &pools, Errand::Answer),
            ("GET", "/v1/models/m", &pools, Errand::Answer),
            ("GET", "/v1/me", &pools, Errand::Answer),
            ("GET", "/v1/me/usage", &pools, Errand::Question),
            ("GET", "/v1/me/usage", &respond, Errand::Question),
            ("POST", "/v1/chat/completions", &respond, Errand::Answer),
            ("GET", "/x", &respond, Errand::Answer),
        ] {
            let told = errand(Surface::of(method, path), path, action);
            assert_eq!(told, wanted, "{method} {path}, {action:?}");
        }
    }
}
