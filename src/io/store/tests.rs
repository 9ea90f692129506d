//! The store's laws are in `tests/store`, on both databases; here are those that need its inside.

use super::*;
use crate::logic::access::digest::Pepper;

pub(crate) const NOW: WallMicros = WallMicros(1_795_000_000_000_000);

pub(crate) fn pepper() -> Pepper {
    Pepper::new(b"pepper").expect("a pepper")
}

pub(crate) fn actor() -> Actor {
    Actor { kind: "cli".into(), id: "ann".into(), tenant: None, request_id: None }
}

/// A store in whose file `sql` was run.
fn filled(sql: &str) -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("weir.db");
    drop(Store::open_file(&path).expect("made"));
    rusqlite::Connection::open(&path).and_then(|file| file.execute_batch(sql)).expect("filled");
    (dir, Store::open_file(&path).expect("opened"))
}

fn numbers(most: usize) -> String {
    format!("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {most})")
}

fn put(store: &mut Store, tenant: &str) -> Result<(), StoreError> {
    let spec = rows::MemberSpec::default();
    store.change(&actor(), NOW, |change| change.put_member(rows::MemberKind::User, tenant, "one-more", &spec).map(drop))
}

#[test]
fn a_tenant_that_is_full_makes_no_more_users_and_others_do() {
    let (most, users) = (error::MAX_TENANT_MEMBERS, "INSERT INTO users (tenant_id, id, created_at, deleted, epoch)");
    let (_dir, mut store) = filled(&format!("{users} {} SELECT 'acme', 'u' || i, 0, 0, 1 FROM n", numbers(most)));
    let full = put(&mut store, "acme").expect_err("full");
    assert_eq!(full.kind(), error::Kind::Conflict, "told as a conflict: {full}");
    assert!(full.to_string().contains("50000 teams and users of the tenant `acme`"), "names the bound: {full}");
    put(&mut store, "other").expect("another tenant has room");
    // Deleted ones count while a follower may have to be told, and not for ever.
    let gone = |epoch: i64| format!("{users} {} SELECT 'acme', 'u' || i, 0, 1, {epoch} FROM n", numbers(most));
    let (_dir, mut store) = filled(&format!("{}; UPDATE meta SET epoch = 10005", gone(7)));
    put(&mut store, "acme").expect_err("followers may still ask for these");
    let (_dir, mut store) = filled(&format!("{}; UPDATE meta SET epoch = 10005", gone(6)));
    put(&mut store, "acme").expect("nobody asks for these");
}

#[test]
fn all_tenants_together_leave_room_below_what_a_proxy_can_hold() {
    let most = error::MAX_STORED_ROWS;
    assert!(most < crate::io::directory::MAX_ROWS, "a proxy holds more than the store takes");
    let users = "INSERT INTO users (tenant_id, id, created_at, deleted, epoch)";
    let (_dir, mut store) = filled(&format!("{users} {} SELECT 't' || i, 'u', 0, 0, 1 FROM n", numbers(most)));
    let full = put(&mut store, "acme").expect_err("full");
    assert!(full.to_string().contains("400000 tenants, teams, users, plans and budgets"), "names the bound: {full}");
}

#[test]
fn a_tenant_that_is_full_makes_no_more_keys_and_others_do() {
    let most = error::MAX_TENANT_KEYS;
    let keys = "INSERT INTO api_keys (key_id, tenant_id, status, revoked_at, created_at)";
    let (_dir, mut store) =
        filled(&format!("{keys} {} SELECT printf('%012d', i), 'acme', 'revoked', 1, 0 FROM n", numbers(most)));
    let mut make = |id: &str, tenant: &str| {
        let new = rows::NewKey::of(crate::domain::ids::KeyId::new(id), pepper().hash(b"x"), tenant);
        store.change(&actor(), NOW, |change| change.create_key(&new).map(drop))
    };
    let full = make("aaaaaaaaaaaa", "acme").expect_err("full");
    assert!(full.to_string().contains("250000 keys of the tenant `acme`"), "names the bound: {full}");
    assert_eq!(full.kind(), error::Kind::Conflict, "told as a conflict");
    make("aaaaaaaaaaaa", "other").expect("another tenant has room");
}

#[test]
fn a_tenant_that_is_full_makes_no_more_budgets_and_others_do() {
    let most = error::MAX_TENANT_BUDGETS;
    let filled = |deleted: u8, epoch: i64| {
        filled(&format!(
            "INSERT INTO budgets (budget_id, tenant_id, level, amount_nano_usd, period, created_at, deleted, epoch)
             {} SELECT 'b' || i, 'acme', 'tenant', 1, 'day', 0, {deleted}, {epoch} FROM n; UPDATE meta SET epoch = 10005",
            numbers(most)
        ))
    };
    let put = |store: &mut Store, tenant: &str, id: &str| {
        let spec = rows::BudgetSpec::of(tenant, crate::domain::units::NanoUsd(2), rows::BudgetPeriod::Day);
        store.change(&actor(), NOW, |change| change.put_budget(id, &spec).map(drop))
    };
    let (_dir, mut store) = filled(0, 1);
    let full = put(&mut store, "acme", "one-more").expect_err("full");
    assert!(full.to_string().contains("1000 budgets of the tenant `acme`"), "names the bound: {full}");
    put(&mut store, "acme", "b1").expect("one that is there can be changed");
    put(&mut store, "other", "one-more").expect("another tenant has room");
    let (_dir, mut store) = filled(1, 7);
    put(&mut store, "acme", "one-more").expect_err("followers may still ask for these");
    let (_dir, mut store) = filled(1, 6);
    put(&mut store, "acme", "one-more").expect("nobody asks for these");
}

#[test]
fn one_place_has_few_budgets_and_another_place_of_the_tenant_has_room() {
    let (_dir, mut store) = filled("");
    let mut put = |id: &str, level, subject: Option<&str>, nano| {
        let plain = rows::BudgetSpec::of("acme", crate::domain::units::NanoUsd(nano), rows::BudgetPeriod::Day);
        let spec = rows::BudgetSpec { level, subject: subject.map(Into::into), ..plain };
        store.change(&actor(), NOW, |change| change.put_budget(id, &spec).map(drop))
    };
    let (tenant, team, user) = (rows::BudgetLevel::Tenant, rows::BudgetLevel::Team, rows::BudgetLevel::User);
    for number in 1..=16 {
        put(&format!("t{number}"), tenant, None, 1).expect("room at the tenant");
        put(&format!("c{number}"), team, Some("core"), 1).expect("room at the team");
    }
    for (level, subject, words) in [
        (tenant, None, "16 budgets of the tenant `acme`"),
        (team, Some("core"), "16 budgets of the team `core` of the tenant `acme`"),
    ] {
        let full = put("one-more", level, subject, 1).expect_err("full");
        assert_eq!(full.kind(), error::Kind::Conflict, "told as a conflict");
        assert!(full.to_string().contains(words), "names the place: {full}");
    }
    put("t1", tenant, None, 2).expect("one that is there can be changed");
    put("t1", team, Some("core"), 2).expect_err("and cannot go where there is no room");
    put("other", team, Some("infra"), 1).expect("another team has room");
    put("user", user, Some("core"), 1).expect("and a user of the same name");
    put("c1", team, Some("infra"), 1).expect("one can go where there is room");
    put("one-more", team, Some("core"), 1).expect("and leaves its own behind");
    store.change(&actor(), NOW, |change| change.delete_budget("t2")).expect("deleted");
    let spec = rows::BudgetSpec::of("acme", crate::domain::units::NanoUsd(1), rows::BudgetPeriod::Day);
    store.change(&actor(), NOW, |change| change.put_budget("late", &spec).map(drop)).expect("what is deleted is none");
}
