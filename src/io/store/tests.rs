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
    assert!(full.to_string().contains("400000 tenants, teams, users and plans"), "names the bound: {full}");
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
