//! The copy for cold starts.

use crate::world::{HOUR, NOW, World, both, change, changes, new_key, said};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use weir::domain::units::NanoUsd;
use weir::domain::units::WallMicros;
use weir::io::store::Store;
use weir::io::store::replica::{Copied, Replica, TOUCH_EVERY};
use weir::io::store::rows::{
    BrokenRow, BudgetPeriod, BudgetSpec, MemberKind, MemberSpec, Rotation, Row, Stamp, Streams, TenantSpec,
};

fn path(world: &World) -> PathBuf {
    world.dir.path().join("copy/replica.db")
}

/// Copies what has changed since `since`.
fn copy(replica: &mut Replica, store: &mut Store, since: Option<&Stamp>, now: WallMicros) -> Stamp {
    let mut copying = replica.begin().expect("begun");
    let stamp = store.changes(since, &mut |row| copying.row(&row)).expect("read");
    copying.commit(&stamp, now).expect("copied");
    stamp
}

fn load(replica: &mut Replica) -> (Vec<Row>, Option<Copied>) {
    let mut rows = Vec::new();
    let copied = replica.load(&mut |row| rows.push(row)).expect("loaded");
    (rows, copied)
}

fn revoked(replica: &mut Replica) -> Vec<String> {
    let mut ids = Vec::new();
    replica.revoked(&mut |id| ids.push(id.as_str().to_owned())).expect("read");
    ids
}

fn fill(store: &mut Store) {
    change(store, |change| {
        change.put_plan("gold", None, r#"{"limits":{}}"#)?;
        change.put_tenant("acme", &TenantSpec::default())?;
        change.put_member(MemberKind::Team, "acme", "core", &MemberSpec::default())?;
        change.put_member(MemberKind::User, "acme", "ann", &MemberSpec::default())?;
        for id in ["b1", "b2"] {
            let spec = BudgetSpec { alert_at: vec![50], ..BudgetSpec::of("acme", NanoUsd(5), BudgetPeriod::Day) };
            change.put_budget(id, &spec)?;
        }
        change.create_key(&new_key(1))?;
        let rotation = Rotation { hash: new_key(2).hash, grace: std::time::Duration::from_secs(60), forced: false };
        change.rotate_key(&new_key(1).key_id, &rotation)?;
        change.create_key(&new_key(3))
    });
}

#[test]
fn a_copy_gives_what_the_store_would_give() {
    both(|world| {
        let mut store = world.open();
        fill(&mut store);
        let stamp = copy(&mut Replica::open(&path(world)).expect("opened"), &mut store, None, NOW);
        let (rows, copied) = load(&mut Replica::open(&path(world)).expect("opened again"));
        let wanted = changes(&mut store, None).0;
        assert_eq!(format!("{rows:?}"), format!("{wanted:?}"), "{}: to the letter", world.name);
        assert_eq!(copied, Some(Copied { stamp, read_at: NOW }), "{}: and says of when it is", world.name);
        let mode = std::fs::metadata(path(world)).expect("a file").mode();
        assert_eq!(mode & 0o777, 0o600, "{}: for its owner alone", world.name);
    });
}

#[test]
fn a_copy_that_is_brought_up_to_date_is_as_one_made_anew() {
    both(|world| {
        let mut store = world.open();
        fill(&mut store);
        let mut replica = Replica::open(&path(world)).expect("opened");
        let stamp = copy(&mut replica, &mut store, None, NOW);
        change(&mut store, |change| {
            change.end_grace(&new_key(1).key_id)?;
            change.revoke_key(&new_key(3).key_id, Streams::Terminate)?;
            change.delete_member(MemberKind::Team, "acme", "core")?;
            change.delete_budget("b1")?;
            change.put_tenant("acme", &TenantSpec { disabled: true, ..TenantSpec::default() })
        });
        copy(&mut replica, &mut store, Some(&stamp), NOW);
        let (rows, _) = load(&mut replica);
        let wanted = changes(&mut store, None).0;
        assert_eq!(format!("{rows:?}"), format!("{wanted:?}"), "{}", world.name);
    });
}

#[test]
fn a_new_copy_has_nothing_to_start_from() {
    let world = World::sqlite();
    let mut replica = Replica::open(&path(&world)).expect("opened");
    let (rows, copied) = load(&mut replica);
    assert_eq!((rows.len(), copied), (0, None), "which is not the same as an empty store");
    replica.touch(NOW).expect("no matter");
    assert_eq!(load(&mut replica).1, None, "also after a look that found nothing");
}

#[test]
fn copying_that_is_given_up_changes_nothing() {
    let world = World::sqlite();
    let mut store = world.open();
    fill(&mut store);
    let mut replica = Replica::open(&path(&world)).expect("opened");
    copy(&mut replica, &mut store, None, NOW);
    let before = load(&mut replica);
    let mut copying = replica.begin().expect("begun");
    copying.row(&Row::Reset);
    drop(copying);
    let after = load(&mut replica);
    assert_eq!(said(&after.0), said(&before.0), "as it was");
    assert_eq!(after.1, before.1, "and of the same time");
}

#[test]
fn a_revocation_is_remembered_though_the_store_forgets_the_key() {
    let world = World::sqlite();
    let mut store = world.open();
    change(&mut store, |change| change.create_key(&new_key(1)));
    change(&mut store, |change| change.revoke_key(&new_key(1).key_id, Streams::Finish));
    let mut replica = Replica::open(&path(&world)).expect("opened");
    copy(&mut replica, &mut store, None, NOW);
    let restored = World::sqlite();
    copy(&mut replica, &mut restored.open(), None, NOW);
    assert_eq!(said(&load(&mut replica).0), ["reset"], "the copy is of the restored store");
    let known = revoked(&mut Replica::open(&path(&world)).expect("opened again"));
    assert_eq!(known, [new_key(1).key_id.as_str()], "but a restart does not bring the key back");
}

#[test]
fn the_time_of_the_last_look_is_written_each_ten_seconds_at_most() {
    let world = World::sqlite();
    let mut store = world.open();
    let mut replica = Replica::open(&path(&world)).expect("opened");
    copy(&mut replica, &mut store, None, NOW);
    let at = |replica: &mut Replica| load(replica).1.map(|copied| copied.read_at);
    replica.touch(NOW + TOUCH_EVERY - WallMicros(1)).expect("touched");
    assert_eq!(at(&mut replica), Some(NOW), "not yet");
    replica.touch(NOW + TOUCH_EVERY).expect("touched");
    assert_eq!(at(&mut replica), Some(NOW + TOUCH_EVERY), "now");
    replica.touch(NOW - HOUR).expect("touched");
    assert_eq!(at(&mut replica), Some(NOW - HOUR), "a clock that was set back is followed");
    let mut again = Replica::open(&path(&world)).expect("opened again");
    assert_eq!(at(&mut again), Some(NOW - HOUR), "and it is on disk");
}

#[test]
fn what_cannot_be_read_in_the_store_is_not_in_the_copy() {
    both(|world| {
        let mut store = world.open();
        fill(&mut store);
        let mut replica = Replica::open(&path(world)).expect("opened");
        copy(&mut replica, &mut store, None, NOW);
        let id = new_key(1).key_id;
        world.sql(&format!("UPDATE api_keys SET models = '[1]' WHERE key_id = '{id}'")).expect("set");
        for table in ["tenants", "teams", "users"] {
            world.sql(&format!("UPDATE {table} SET models = '[1]'")).expect("set");
        }
        world.sql("UPDATE budgets SET alert_at = '[1000]'").expect("set");
        copy(&mut replica, &mut store, None, NOW);
        let (rows, _) = load(&mut replica);
        assert_eq!(
            said(&rows),
            [
                "reset".into(),
                "plan gold".into(),
                format!("key {}", new_key(3).key_id),
                "broken budget acme/b1".into(),
                "broken budget acme/b2".into(),
            ],
            "{}",
            world.name
        );
        let mut copying = replica.begin().expect("begun");
        let broken = BrokenRow { what: "key", id: new_key(3).key_id.as_str().into(), fault: "x".into() };
        copying.row(&Row::Broken(broken));
        copying.commit(&store.stamp().expect("read"), NOW).expect("copied");
        assert_eq!(
            said(&load(&mut replica).0),
            ["reset", "plan gold", "broken budget acme/b1", "broken budget acme/b2"],
            "{}: one that breaks later is taken out",
            world.name
        );
    });
}

#[test]
fn a_budget_that_cannot_be_read_is_none_that_can_be_in_the_copy_until_it_is_put_or_deleted() {
    both(|world| {
        let mut store = world.open();
        fill(&mut store);
        let mut replica = Replica::open(&path(world)).expect("opened");
        let stamp = copy(&mut replica, &mut store, None, NOW);
        for id in ["b1", "b2"] {
            let fault = "torn".to_owned();
            let row = Row::Broken(BrokenRow { what: "budget", id: format!("acme/{id}"), fault });
            let mut copying = replica.begin().expect("begun");
            copying.row(&row);
            copying.commit(&stamp, NOW).expect("copied");
        }
        let budgets = |replica: &mut Replica| {
            let rows = load(replica).0;
            let budget =
                |row: &&Row| matches!(row, Row::Budget(_)) || matches!(row, Row::Broken(one) if one.fault == "torn");
            said(&rows.iter().filter(budget).cloned().collect::<Vec<_>>())
        };
        let mut again = Replica::open(&path(world)).expect("opened again");
        assert_eq!(
            budgets(&mut again),
            ["broken budget acme/b1", "broken budget acme/b2"],
            "{}: a start from the copy refuses whom the store's follower refuses",
            world.name
        );
        change(&mut store, |change| {
            change.put_budget("b1", &BudgetSpec::of("acme", NanoUsd(7), BudgetPeriod::Day))?;
            change.delete_budget("b2")
        });
        let stamp = copy(&mut again, &mut store, Some(&stamp), NOW);
        assert_eq!(budgets(&mut again), ["budget acme/b1"], "{}: nothing is left of it", world.name);
        let mut copying = again.begin().expect("begun");
        copying.row(&Row::Broken(BrokenRow { what: "budget", id: "acme/b1".into(), fault: "torn".into() }));
        copying.row(&Row::Reset);
        copying.commit(&stamp, NOW).expect("copied");
        assert_eq!(budgets(&mut again), [""; 0], "{}: nor after a copy that begins anew", world.name);
    });
}

#[test]
fn a_copy_that_is_of_no_use_is_put_aside_and_made_anew() {
    let world = World::sqlite();
    let mut store = world.open();
    fill(&mut store);
    let newer = |path: &Path| {
        let connection = rusqlite::Connection::open(path).expect("opened");
        connection.execute_batch("INSERT INTO key_schema_version (version) VALUES (9999)").expect("set");
    };
    let garbage = |path: &Path| std::fs::write(path, [b'x'; 8192]).expect("written");
    for (what, spoil) in [("newer", &newer as &dyn Fn(&Path)), ("garbage", &garbage)] {
        let path = path(&world);
        copy(&mut Replica::open(&path).expect("opened"), &mut store, None, NOW);
        spoil(&path);
        let mut replica = Replica::open(&path).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(load(&mut replica).1, None, "{what}: a new one, which knows nothing");
        copy(&mut replica, &mut store, None, NOW);
        assert!(path.with_file_name("replica.db.aside").exists(), "{what}: the other is kept");
    }
    assert!(load(&mut Replica::open(&path(&world)).expect("opened")).1.is_some(), "and the new one is good");
}
