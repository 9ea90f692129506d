use super::*;
use crate::domain::limit::{Dimension, Mode, Window};
use crate::domain::units::{NanoUsd, WallMicros};
use crate::io::store::rows::{BudgetLevel, BudgetPeriod, BudgetSpec, MAX_BUDGET, OnExceed, TenantSpec};
use crate::logic::quota::plan::LimitRule;

const AT: WallMicros = WallMicros(1_795_000_000_000_000);

fn tenant(name: &str, spec: TenantSpec) -> Row {
    Row::Tenant(StoredTenant { tenant: name.into(), spec, created_at: AT, deleted: false, epoch: 1 })
}

fn named(name: &str) -> Row {
    tenant(name, TenantSpec::default())
}

fn gone(row: Row) -> Row {
    match row {
        Row::Tenant(row) => Row::Tenant(StoredTenant { deleted: true, ..row }),
        Row::User(row) => Row::User(StoredMember { deleted: true, ..row }),
        Row::Plan(row) => Row::Plan(StoredPlan { deleted: true, ..row }),
        Row::Budget(row) => Row::Budget(StoredBudget { deleted: true, ..row }),
        row => row,
    }
}

fn budget(tenant: &str, id: &str, level: BudgetLevel, subject: Option<&str>) -> Row {
    let plain = BudgetSpec::of(tenant, NanoUsd(5), BudgetPeriod::Month);
    stored(id, BudgetSpec { level, subject: subject.map(Into::into), ..plain })
}

fn stored(id: &str, spec: BudgetSpec) -> Row {
    Row::Budget(StoredBudget { id: id.into(), spec, created_at: AT, deleted: false, epoch: 1 })
}

/// Names of the budgets at each of a tenant's places: its own, of team `core`, user `bob` and key `k`.
fn budgets_of(merger: &Merger, tenant: &str) -> [Vec<String>; 4] {
    let directory = merger.directory();
    let tenant = &directory.tenants[&TenantId::new(tenant)];
    let names = |rules: &[Arc<LimitRule>]| rules.iter().map(|rule| rule.name.to_string()).collect();
    let of = |member: Option<&Member>| member.map_or_else(Vec::new, |member| names(&member.budgets));
    [
        names(&tenant.budgets),
        of(tenant.teams.get(&TeamId::new("core"))),
        of(tenant.users.get(&UserId::new("bob"))),
        tenant.key_budgets.get(&"k".into()).map_or_else(Vec::new, |rules| names(rules)),
    ]
}

fn user(tenant: &str, id: &str, plan: &str) -> Row {
    let spec = MemberSpec { plan: Some(plan.into()), ..MemberSpec::default() };
    Row::User(StoredMember { tenant: tenant.into(), id: id.into(), spec, created_at: AT, deleted: false, epoch: 1 })
}

fn plan(name: &str, owner: Option<&str>, limit: &str) -> Row {
    let document = format!(r#"{{"limits":{{"requests":"{limit}"}}}}"#);
    let tenant = owner.map(Into::into);
    Row::Plan(StoredPlan { plan: name.into(), tenant, document, created_at: AT, deleted: false, epoch: 1 })
}

fn broken(what: &'static str, id: &str) -> Row {
    Row::Broken(BrokenRow { what, id: id.into(), fault: "torn".into() })
}

/// A configuration with tenant `acme`, its user `ann` (plan `small`), and plan `gold`.
fn merger() -> Merger {
    let ann = Member { plan: Some("small".into()), ..Member::default() };
    let acme = Tenant { users: BTreeMap::from([("ann".into(), ann)]), ..Tenant::default() };
    Merger::new(Configured {
        file: "conf/weir.yaml".into(),
        tenants: BTreeMap::from([("acme".into(), acme)]),
        plans: BTreeMap::from([("gold".into(), Arc::new(Plan::default()))]),
        ..Configured::default()
    })
}

fn apply(merger: &mut Merger, rows: &[Row]) -> Vec<String> {
    merger.apply(rows).expect("room").iter().map(ToString::to_string).collect()
}

fn plan_of(merger: &Merger, tenant: &str, user: &str) -> Option<String> {
    let directory = merger.directory();
    Some(directory.tenants.get(&tenant.into())?.users.get(&user.into())?.plan.as_ref()?.as_str().to_owned())
}

#[test]
fn the_configuration_wins_and_says_so_once() {
    let mut merger = merger();
    let rows = [
        tenant("acme", TenantSpec { disabled: true, ..TenantSpec::default() }),
        user("acme", "ann", "huge"),
        plan("gold", None, "1/min"),
    ];
    let said = apply(&mut merger, &rows);
    assert_eq!(
        said,
        [
            "tenant `acme` is configured in conf/weir.yaml: the store's is not used",
            "user `acme/ann` is configured in conf/weir.yaml: the store's is not used",
            "plan `gold` is configured in conf/weir.yaml: the store's is not used",
        ],
        "each name"
    );
    assert_eq!(apply(&mut merger, &rows), [""; 0], "and once");
    let directory = merger.directory();
    assert!(!directory.tenants[&TenantId::new("acme")].disabled, "the tenant");
    assert_eq!(plan_of(&merger, "acme", "ann").as_deref(), Some("small"), "its user");
    assert!(directory.plans[&PlanId::new("gold")].rules.is_empty(), "the plan");
}

#[test]
fn a_configured_tenant_may_have_users_in_the_store() {
    let mut merger = merger();
    apply(&mut merger, &[user("acme", "bob", "gold")]);
    assert_eq!(plan_of(&merger, "acme", "bob").as_deref(), Some("gold"), "beside the configured ones");
    apply(&mut merger, &[gone(user("acme", "bob", "gold"))]);
    assert_eq!(plan_of(&merger, "acme", "bob"), None, "until it is deleted");
    assert_eq!(plan_of(&merger, "acme", "ann").as_deref(), Some("small"), "which takes no other with it");
}

#[test]
fn a_tenant_of_the_store_comes_with_its_words_and_goes_when_deleted() {
    let mut merger = merger();
    let spec = TenantSpec { models: Some(vec!["llama-*".into()]), disabled: true, ..TenantSpec::default() };
    apply(&mut merger, &[tenant("globex", spec), user("globex", "eve", "gold")]);
    let directory = merger.directory();
    let globex = &directory.tenants[&TenantId::new("globex")];
    assert!(globex.disabled && globex.origin == Origin::Store, "as the store says");
    let allows = |model: &str| globex.models.as_ref().is_some_and(|models| models.is_match(model));
    assert!(allows("llama-3") && !allows("gpt-4o"), "its models");
    apply(&mut merger, &[gone(named("globex"))]);
    assert!(!merger.directory().tenants.contains_key(&"globex".into()), "deleted, whatever members are left");
}

#[test]
fn an_empty_list_of_models_allows_none() {
    let mut merger = merger();
    apply(&mut merger, &[tenant("globex", TenantSpec { models: Some(Vec::new()), ..TenantSpec::default() })]);
    let directory = merger.directory();
    let models = directory.tenants[&TenantId::new("globex")].models.as_ref().expect("a list");
    assert!(!models.is_match("llama"), "an empty list is not an absent one");
}

#[test]
fn what_cannot_be_read_refuses_who_depends_on_it() {
    let mut merger = merger();
    let odd = tenant("odd", TenantSpec { models: Some(vec!["[".into()]), ..TenantSpec::default() });
    let rows = [
        named("globex"),
        odd,
        named("torn"),
        broken("tenant", "torn"),
        broken("user", "globex/eve"),
        plan("silver", None, "many"),
        plan("bronze", None, "1/min"),
        broken("plan", "bronze"),
    ];
    let said = apply(&mut merger, &rows);
    assert_eq!(said.len(), 5, "each is said: {said:?}");
    let directory = merger.directory();
    assert!(!directory.tenants.contains_key(&"odd".into()), "a tenant whose models do not compile");
    assert!(!directory.tenants.contains_key(&"torn".into()), "a tenant that is torn");
    let eve = &directory.tenants[&TenantId::new("globex")].users[&UserId::new("eve")];
    assert_eq!(eve.models.as_deref(), Some(&[][..]), "a user that is torn may use no model");
    assert!(eve.plan.as_ref().is_some_and(|plan| !directory.plans.contains_key(plan)), "and has a plan that is none");
    assert!(!directory.plans.contains_key(&"silver".into()), "a plan that is none");
    assert!(!directory.plans.contains_key(&"bronze".into()), "a plan that is torn");
}

#[test]
fn a_tenant_never_counts_by_the_plan_of_another() {
    let mut merger = merger();
    apply(&mut merger, &[plan("fast", Some("acme"), "1/min"), named("globex"), user("globex", "eve", "fast")]);
    let absent = |merger: &Merger| {
        let plan = plan_of(merger, "globex", "eve").expect("a name");
        !merger.directory().plans.contains_key(&PlanId::new(&plan))
    };
    assert!(absent(&merger), "acme's plan is none for globex");
    apply(&mut merger, &[gone(plan("fast", Some("acme"), "1/min")), plan("fast", Some("globex"), "1/min")]);
    assert!(!absent(&merger), "its own is, from when it is there");
}

#[test]
fn a_reset_forgets_what_is_not_said_again() {
    let mut merger = merger();
    apply(&mut merger, &[named("globex"), named("initech"), plan("silver", None, "1/min")]);
    apply(&mut merger, &[Row::Reset, named("initech")]);
    let directory = merger.directory();
    let there = |name: &str| directory.tenants.contains_key(&name.into());
    assert_eq!((there("globex"), there("initech"), there("acme")), (false, true, true), "the configuration stays");
    assert!(!directory.plans.contains_key(&"silver".into()), "plans too");
}

#[test]
fn budgets_of_the_store_count_at_their_level_also_for_who_is_nowhere_listed() {
    let mut merger = merger();
    let rows = [
        budget("acme", "b1", BudgetLevel::Tenant, None),
        budget("acme", "b2", BudgetLevel::Team, Some("core")),
        budget("acme", "b3", BudgetLevel::User, Some("bob")),
        budget("acme", "b4", BudgetLevel::Key, Some("k")),
        budget("nobody", "b5", BudgetLevel::Tenant, None),
    ];
    assert_eq!(apply(&mut merger, &rows), [""; 0], "a configured tenant has budgets in the store");
    let all = ["b1", "b2", "b3", "b4"].map(|id| vec![format!("budget.{id}")]);
    assert_eq!(budgets_of(&merger, "acme"), all, "each where it counts");
    assert!(!merger.directory().tenants.contains_key(&"nobody".into()), "a budget makes no tenant");
    apply(&mut merger, &rows[..4].iter().cloned().map(gone).collect::<Vec<_>>());
    assert_eq!(budgets_of(&merger, "acme"), [const { Vec::<String>::new() }; 4], "deleted, they are gone");
    let directory = merger.directory();
    let acme = &directory.tenants[&TenantId::new("acme")];
    assert!(acme.teams.is_empty() && acme.key_budgets.is_empty(), "with the entries that they had made");
}

#[test]
fn a_stored_budget_is_a_rule_with_all_that_it_says() {
    let mut merger = merger();
    let spec = BudgetSpec {
        on_exceed: OnExceed::Warn,
        alert_at: vec![95, 80, 80],
        strict: true,
        stop_streams: true,
        ..BudgetSpec::of("acme", NanoUsd(i64::MAX), BudgetPeriod::Prepaid)
    };
    merger.configured.on_store_error = OnStoreError::Closed;
    apply(&mut merger, &[stored("b", spec), budget("acme", "c", BudgetLevel::Tenant, None)]);
    let directory = merger.directory();
    let acme = &directory.tenants[&TenantId::new("acme")];
    let most = u64::try_from(MAX_BUDGET.0).expect("positive");
    let wanted = LimitRule {
        mode: Mode::Shadow,
        alert_at: Arc::from([80, 95]),
        strict: true,
        stop_streams: true,
        on_store_error: OnStoreError::Closed,
        since: 1_795_000_000_000,
        ..LimitRule::new("budget.b", Dimension::Spend, most, Window::Ever)
    };
    assert_eq!(*acme.budgets[0], wanted, "what can be counted of it");
    let plain = LimitRule::new("budget.c", Dimension::Spend, 5, Window::Month);
    assert_eq!(*acme.budgets[1], LimitRule { on_store_error: OnStoreError::Closed, ..plain }, "and a plain one");
}

#[test]
fn a_budget_that_cannot_be_read_refuses_its_tenant_until_it_can() {
    let mut merger = merger();
    let refused = |merger: &Merger| {
        let directory = merger.directory();
        let plan = directory.tenants[&TenantId::new("acme")].plan.clone();
        plan.is_some_and(|plan| !directory.plans.contains_key(&plan))
    };
    let said = apply(&mut merger, &[broken("budget", "acme/b")]);
    assert_eq!(said.len(), 1, "it is said: {said:?}");
    assert!(refused(&merger), "a plan that is none");
    apply(&mut merger, &[budget("acme", "b", BudgetLevel::Tenant, None)]);
    assert!(!refused(&merger), "put again it is read");
    assert_eq!(apply(&mut merger, &[budget("acme", "b", BudgetLevel::Team, None)]).len(), 1, "a level without subject");
    assert!(refused(&merger), "is none that can be read");
    apply(&mut merger, &[gone(budget("acme", "b", BudgetLevel::Tenant, None))]);
    assert!(!refused(&merger), "deleted it holds nobody");
}

#[test]
fn a_budget_id_that_comes_back_with_another_tenant_leaves_the_first() {
    let mut merger = merger();
    apply(&mut merger, &[named("globex"), budget("acme", "b", BudgetLevel::Tenant, None)]);
    apply(&mut merger, &[budget("globex", "b", BudgetLevel::Tenant, None)]);
    assert!(budgets_of(&merger, "acme")[0].is_empty(), "it is acme's no more");
    assert_eq!(budgets_of(&merger, "globex")[0], ["budget.b"], "it is globex's");
    apply(&mut merger, &[Row::Reset]);
    assert!(budgets_of(&merger, "acme")[0].is_empty(), "a reset forgets budgets too");
}

#[test]
fn a_stored_tenants_days_begin_where_it_says() {
    let mut merger = merger();
    let zone = |name: &str| TenantSpec { time_zone: Some(name.into()), ..TenantSpec::default() };
    let said =
        apply(&mut merger, &[tenant("globex", zone("Asia/Tokyo")), tenant("odd", zone("Mars/Base")), named("plain")]);
    let directory = merger.directory();
    let of = |name: &str| directory.tenants[&TenantId::new(name)].zone.iana_name().map(str::to_owned);
    assert_eq!(of("globex").as_deref(), Some("Asia/Tokyo"), "its zone");
    assert_eq!(directory.tenants[&TenantId::new("plain")].zone, TimeZone::UTC, "else UTC");
    assert!(!directory.tenants.contains_key(&"odd".into()) && said.len() == 1, "none that is known: {said:?}");
}
