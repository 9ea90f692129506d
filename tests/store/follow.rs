//! What a follower of the store is told.

use crate::world::{NOW, World, actor, both, change, changes, fresh, new_key, said};
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;
use weir::domain::units::NanoUsd;
use weir::io::store::Store;
use weir::io::store::rows::{
    BudgetPeriod, BudgetSpec, KeyStatus, MemberKind, MemberSpec, Row, Stamp, Streams, TenantSpec,
};

fn make_one_of_each(store: &mut Store) {
    change(store, |change| {
        change.put_plan("gold", None, "{}")?;
        change.put_tenant("acme", &TenantSpec::default())?;
        change.put_member(MemberKind::Team, "acme", "core", &MemberSpec::default())?;
        change.put_member(MemberKind::User, "acme", "ann", &MemberSpec::default())?;
        change.put_budget("b1", &BudgetSpec::of("acme", NanoUsd(5), BudgetPeriod::Day))?;
        change.create_key(&new_key(1))
    });
}

#[test]
fn who_knows_nothing_is_told_everything_once() {
    both(|world| {
        let mut store = world.open();
        make_one_of_each(&mut store);
        let (rows, stamp) = changes(&mut store, None);
        let key = format!("key {}", new_key(1).key_id);
        let wanted = ["reset", "plan gold", "tenant acme", "team acme/core", "user acme/ann", "budget acme/b1", &key];
        assert_eq!(said(&rows), wanted, "{}: keys last, when all that they name is known", world.name);
        assert_eq!(stamp, store.stamp().expect("read"), "{}: that is the state", world.name);
        assert_eq!(changes(&mut store, Some(&stamp)).0.len(), 0, "{}: and then nothing", world.name);
    });
}

#[test]
fn who_follows_is_told_only_what_has_changed_deletions_too() {
    both(|world| {
        let mut store = world.open();
        make_one_of_each(&mut store);
        let stamp = store.stamp().expect("read");
        change(&mut store, |change| change.revoke_key(&new_key(1).key_id, Streams::Terminate));
        change(&mut store, |change| change.delete_member(MemberKind::Team, "acme", "core"));
        change(&mut store, |change| change.delete_budget("b1"));
        change(&mut store, |change| change.create_key(&new_key(2)));
        let (rows, after) = changes(&mut store, Some(&stamp));
        let mut ids = [new_key(1).key_id, new_key(2).key_id];
        ids.sort();
        let gone = ["team acme/core deleted".to_owned(), "budget acme/b1 deleted".to_owned()];
        let wanted = [&gone[..], &ids.map(|id| format!("key {id}"))].concat();
        assert_eq!(said(&rows), wanted, "{}: no reset, and no row that is as it was", world.name);
        let revoked = rows
            .iter()
            .any(|row| matches!(row, Row::Key(key) if key.status == KeyStatus::Revoked && key.terminate_streams));
        assert!(revoked, "{}: with all that is to be known", world.name);
        assert_eq!(after.epoch, stamp.epoch + 4, "{}: four changes", world.name);
        assert!(changes(&mut store, Some(&after)).0.is_empty(), "{}: told once", world.name);
    });
}

#[test]
fn a_deleted_thing_is_not_told_to_who_reads_everything() {
    both(|world| {
        let mut store = world.open();
        make_one_of_each(&mut store);
        change(&mut store, |change| change.delete_member(MemberKind::User, "acme", "ann"));
        change(&mut store, |change| change.delete_budget("b1"));
        let told = said(&changes(&mut store, None).0);
        assert!(!told.iter().any(|row| row.contains("ann") || row.contains("b1")), "{}: {told:?}", world.name);
    });
}

#[test]
fn reading_is_no_change() {
    both(|world| {
        let mut store = world.open();
        make_one_of_each(&mut store);
        let stamp = store.stamp().expect("read");
        changes(&mut store, None);
        store.read().expect("open").key(&new_key(1).key_id).expect("read");
        drop(world.open());
        assert_eq!(store.stamp().expect("read"), stamp, "{}: nor is opening", world.name);
    });
}

#[test]
fn a_stamp_that_is_not_of_this_history_gives_everything() {
    both(|world| {
        let mut store = world.open();
        make_one_of_each(&mut store);
        let stamp = store.stamp().expect("read");
        let strangers = [
            ("another store", Stamp { store: "x".into(), ..stamp.clone() }),
            ("a backup was put back", Stamp { epoch: stamp.epoch + 1, ..stamp.clone() }),
            ("a backup was put back and changed as often", Stamp { mark: stamp.mark ^ 1, ..stamp.clone() }),
        ];
        for (what, stranger) in strangers {
            let (rows, seen) = changes(&mut store, Some(&stranger));
            assert!(matches!(rows.first(), Some(Row::Reset)), "{}: {what}: forget it all", world.name);
            assert_eq!((rows.len(), &seen), (7, &stamp), "{}: {what}: and learn anew", world.name);
        }
    });
}

#[test]
fn two_stores_have_two_names() {
    both(|world| {
        let another = World::sqlite();
        let (one, other) = (world.open().stamp(), another.open().stamp());
        assert_ne!(one.expect("read").store, other.expect("read").store, "{}", world.name);
    });
}

#[test]
fn a_broken_row_is_told_and_the_others_are_too() {
    both(|world| {
        let mut store = world.open();
        make_one_of_each(&mut store);
        let (key, other) = (new_key(1).key_id, new_key(2));
        change(&mut store, |change| change.create_key(&other));
        world.sql(&format!("UPDATE api_keys SET addresses = '[\"nowhere\"]' WHERE key_id = '{key}'")).expect("set");
        world.sql("UPDATE tenants SET models = '[1]'").expect("set");
        let rows = said(&changes(&mut store, None).0);
        for wanted in [format!("broken key {key}"), "broken tenant acme".into(), format!("key {}", other.key_id)] {
            assert!(rows.contains(&wanted), "{}: {wanted} in {rows:?}", world.name);
        }
    });
}

#[test]
fn writers_beside_each_other_lose_nothing_and_a_follower_sees_it_all() {
    const WRITERS: u8 = 4;
    const EACH: u8 = 8;
    both(|world| {
        let mut store = world.open();
        let start = Barrier::new(usize::from(WRITERS) + 1);
        let mut seen = BTreeSet::new();
        let mut stamp = store.stamp().expect("read");
        let mut look = |store: &mut Store| {
            stamp = store
                .changes(Some(&stamp), &mut |row| match row {
                    Row::Key(key) => assert!(seen.insert(key.key_id), "told twice"),
                    other => panic!("only keys were made: {other:?}"),
                })
                .expect("read");
            seen.len()
        };
        thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (start, mut store) = (&start, world.open());
                    scope.spawn(move || {
                        start.wait();
                        for nth in 0..EACH {
                            let new = new_key(writer * EACH + nth);
                            store.change(&actor(), NOW, |change| change.create_key(&new)).expect("made");
                        }
                    })
                })
                .collect();
            start.wait();
            while !writers.iter().all(|writer| writer.is_finished()) {
                look(&mut store);
            }
        });
        let all = usize::from(WRITERS * EACH);
        assert_eq!(look(&mut store), all, "{}: every key, each told once", world.name);
        let epoch = store.stamp().expect("read").epoch;
        assert_eq!(epoch, all as i64, "{}: every change was counted", world.name);
    });
}

#[test]
fn a_hash_of_a_key_is_told_to_followers_as_it_was_stored() {
    both(|world| {
        let mut store = world.open();
        change(&mut store, |change| change.create_key(&new_key(3)));
        let (rows, _) = changes(&mut store, None);
        let hash = crate::world::pepper().hash(fresh(3).text.as_bytes());
        let found = rows.iter().any(|row| matches!(row, Row::Key(key) if key.secrets[0].hash == hash));
        assert!(found, "{}: bytes stay bytes", world.name);
    });
}
