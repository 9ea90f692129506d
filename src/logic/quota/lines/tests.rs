use super::*;
use crate::domain::ids::{KeyId, TeamId, TenantId, UserId};
use crate::domain::limit::Window;
use crate::domain::principal::{AuthMethod, Profile};
use crate::logic::access::expression::{Expression, Fact};
use crate::logic::quota::plan::ModelPattern;

/// A plan with one rule of its own name.
fn plan(name: &str) -> Arc<Plan> {
    Arc::new(Plan { rules: vec![rule(name)], ..Plan::default() })
}

fn rule(name: &str) -> Arc<LimitRule> {
    Arc::new(LimitRule::new(name, Dimension::Requests, 10, Window::Minute))
}

/// Tenant `acme` on plan `wide` with team `core` on `mid` and user `ann` on `small`, and a budget at each level.
fn directory() -> Directory {
    let member =
        |plan: &str, budget: &str| Member { plan: Some(plan.into()), budgets: vec![rule(budget)], ..Member::default() };
    let mut acme = Tenant { plan: Some("wide".into()), budgets: vec![rule("budget.acme")], ..Tenant::default() };
    acme.teams.insert("core".into(), member("mid", "budget.core"));
    acme.users.insert("ann".into(), member("small", "budget.ann"));
    acme.key_budgets.insert(KeyId::new("k"), vec![rule("budget.k")]);
    let mut directory = Directory::default();
    directory.tenants.insert("acme".into(), Arc::new(acme));
    for name in ["wide", "mid", "small", "own"] {
        directory.plans.insert(name.into(), plan(name));
    }
    directory
}

fn caller(team: Option<&str>, user: Option<&str>, plan: Option<&str>, key: Option<&str>) -> Principal {
    let profile = Profile {
        team: team.map(TeamId::new),
        user: user.map(UserId::new),
        plan: plan.map(PlanId::new),
        ..Profile::of("acme".into())
    };
    Principal { key: key.map(KeyId::new), ..Principal::of(Arc::new(profile), AuthMethod::Jwt) }
}

fn everything() -> Principal {
    caller(Some("core"), Some("ann"), Some("own"), Some("k"))
}

/// The rules that hold, as `level rule`, in order.
fn found(directory: &Directory, principal: &Principal) -> Result<Vec<String>, Unclear> {
    let shared = Plan::default();
    let in_force = in_force(&Asker { directory, principal, shared: &shared, pool: None })?;
    Ok(in_force.candidates.iter().map(|one| format!("{} {}", one.scope.name(), one.rule.name)).collect())
}

#[test]
fn every_level_counts_widest_first_and_budgets_stand_beside_plans() {
    let (directory, principal, shared, limits) = (directory(), everything(), plan("shared"), plan("pool"));
    let pool = PoolId::new("p");
    let asker = Asker { directory: &directory, principal: &principal, shared: &shared, pool: Some((&pool, &limits)) };
    let in_force = in_force(&asker).expect("every plan exists");
    let told: Vec<String> =
        in_force.candidates.iter().map(|one| format!("{} {}", one.scope.name(), one.rule.name)).collect();
    let wanted = [
        "global shared",
        "pool pool",
        "tenant wide",
        "tenant budget.acme",
        "team mid",
        "team budget.core",
        "user small",
        "user budget.ann",
        "key own",
        "key budget.k",
    ];
    assert_eq!(told, wanted, "all of them hold");
    let stranger = caller(Some("none"), Some("nobody"), None, Some("other"));
    let told = found(&directory, &stranger).expect("every plan exists");
    assert_eq!(told, ["tenant wide", "tenant budget.acme"], "members who are not listed have nothing of their own");
}

#[test]
fn a_namesake_in_another_tenant_shares_no_limit() {
    let mut directory = directory();
    let acme = directory.tenants.get(&TenantId::new("acme")).cloned().expect("there");
    directory.tenants.insert("other".into(), acme);
    let ann = caller(None, Some("ann"), None, None);
    let profile = Profile { tenant: "other".into(), ..ann.profile.as_ref().clone() };
    let other = Principal::of(Arc::new(profile), AuthMethod::Jwt);
    let scopes = |principal: &Principal| {
        let shared = Plan::default();
        let asker = Asker { directory: &directory, principal, shared: &shared, pool: None };
        let found = in_force(&asker).expect("every plan exists");
        found.candidates.into_iter().map(|one| one.scope).collect::<Vec<_>>()
    };
    let mine = scopes(&ann);
    assert_eq!(mine.len(), 4, "tenant and user, each with a plan and a budget");
    assert!(scopes(&other).iter().all(|scope| !mine.contains(scope)), "a scope names its tenant");
}

#[test]
fn a_plan_of_a_caller_without_a_key_counts_at_the_narrowest_level_with_a_name() {
    for (team, user, level) in [(None, Some("bob"), "user"), (Some("b"), None, "team"), (None, None, "tenant")] {
        let told = found(&directory(), &caller(team, user, Some("own"), None)).expect("the plan exists");
        assert_eq!(told.last(), Some(&format!("{level} own")), "never without a limit");
    }
}

#[test]
fn a_plan_that_is_said_twice_at_one_level_counts_once() {
    let told = found(&directory(), &caller(None, Some("ann"), Some("small"), None)).expect("the plan exists");
    assert_eq!(told.iter().filter(|line| line.ends_with("small")).count(), 1, "one plan, one count: {told:?}");
}

#[test]
fn a_plan_that_does_not_exist_lets_nobody_in() {
    for gone in ["wide", "mid", "small", "own"] {
        let mut directory = directory();
        directory.plans.remove(&PlanId::new(gone));
        let refused = found(&directory, &everything());
        assert!(
            matches!(&refused, Err(Unclear::MissingPlan { plan, .. }) if plan.as_str() == gone),
            "without `{gone}` there would be no limit there: {refused:?}"
        );
    }
}

#[test]
fn the_callers_own_plans_give_the_priority_and_all_plans_the_largest_request() {
    let mut directory = directory();
    let with = |priority, most| Arc::new(Plan { priority, max_tokens_per_request: most, ..Plan::default() });
    directory.plans.insert("wide".into(), with(Priority::Low, Some(Tokens(900))));
    directory.plans.insert("mid".into(), with(Priority::High, None));
    let (shared, limits) = (with(Priority::High, Some(Tokens(800))), with(Priority::High, Some(Tokens(700))));
    let pool = PoolId::new("p");
    let of = |principal: &Principal, pool| {
        let asker = Asker { directory: &directory, principal, shared: &shared, pool };
        let found = in_force(&asker).expect("every plan exists");
        (found.priority, found.max_tokens_per_request)
    };
    let core = caller(Some("core"), None, None, None);
    assert_eq!(of(&core, None), (Priority::High, Some(Tokens(800))), "the team's priority is higher");
    let plain = caller(None, None, None, None);
    assert_eq!(of(&plain, Some((&pool, &limits))), (Priority::Low, Some(Tokens(700))), "nobody gets the pool's own");
}

fn only_for(model: &str) -> Option<ModelPattern> {
    Some(ModelPattern(globset::Glob::new(model).expect("a glob").compile_matcher()))
}

#[test]
fn a_rule_counts_the_models_that_it_names() {
    let rule = Arc::new(LimitRule { model: only_for("llama-*"), ..(*rule("m")).clone() });
    let line = Candidate { scope: Scope::Global, rule: &rule };
    let asked = |model| line.counts(&Asked { model, variables: None, errand: Errand::Upstream });
    assert_eq!(asked(Some("llama-3")), Ok(()), "named");
    assert_eq!(asked(Some("qwen")), Err(Skipped::Model), "another one");
    assert_eq!(asked(None), Err(Skipped::Model), "plain HTTP names none");
}

#[test]
fn a_condition_that_cannot_be_evaluated_counts() {
    let when = |text: &str| Some(Expression::compile(text, &["request"]).expect("an expression"));
    let variables = Variables::new().with("request", Fact::Members(vec![("stream", true.into())]));
    for (text, counted) in [("request.stream", true), ("!request.stream", false), ("request.nothing > 1", true)] {
        let rule = Arc::new(LimitRule { when: when(text), ..(*rule("w")).clone() });
        let line = Candidate { scope: Scope::Global, rule: &rule };
        let asked = |variables| line.counts(&Asked { model: None, variables, errand: Errand::Upstream }).is_ok();
        assert_eq!(asked(Some(&variables)), counted, "{text}");
        assert!(asked(None), "{text}: nothing is known, so it counts");
    }
}

#[test]
fn a_question_counts_as_a_request_of_its_caller_and_nothing_else() {
    let of = |scope: Scope, dimension| {
        let rule = Arc::new(LimitRule { dimension, ..(*rule("q")).clone() });
        Candidate { scope, rule: &rule }.counts(&Asked { model: None, variables: None, errand: Errand::Question })
    };
    assert_eq!(of(Scope::Tenant("acme".into()), Dimension::Requests), Ok(()), "one request");
    assert!(of(Scope::Global, Dimension::Requests).is_err(), "what is shared it does not use");
    for dimension in Dimension::ALL.into_iter().filter(|dimension| *dimension != Dimension::Requests) {
        assert!(of(Scope::Tenant("acme".into()), dimension).is_err(), "{dimension:?}: it has none");
    }
}

#[test]
fn an_answer_out_of_what_is_at_hand_counts_for_nothing() {
    for dimension in Dimension::ALL {
        let rule = Arc::new(LimitRule { dimension, ..(*rule("q")).clone() });
        let line = Candidate { scope: Scope::Tenant("acme".into()), rule: &rule };
        let counts = line.counts(&Asked { model: None, variables: None, errand: Errand::Answer });
        assert_eq!(counts, Err(Skipped::Question), "{dimension:?}");
    }
}

#[test]
fn more_lines_than_can_be_weighed_let_nobody_in() {
    let mut directory = directory();
    let many = |count| Arc::new(Plan { rules: vec![rule("r"); count], ..Plan::default() });
    let principal =
        Principal::of(Arc::new(Profile { tenant: "acme".into(), ..Profile::of("acme".into()) }), AuthMethod::Jwt);
    for (count, fits) in [(MAX_LINES - 1, true), (MAX_LINES, false)] {
        directory.plans.insert("wide".into(), many(count));
        let shared = Plan::default();
        let asker = Asker { directory: &directory, principal: &principal, shared: &shared, pool: None };
        let found = in_force(&asker).expect("every plan exists");
        let lines = found.lines(&Asked { model: None, variables: None, errand: Errand::Upstream });
        assert_eq!(lines.is_ok(), fits, "{count} of the plan and one budget");
    }
}
