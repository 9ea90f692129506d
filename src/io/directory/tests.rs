use super::*;
use crate::domain::units::WallMicros;
use crate::io::store::rows::TenantSpec;

const AT: WallMicros = WallMicros(1);

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
        row => row,
    }
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
