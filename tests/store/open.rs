//! Stores that are made, opened, brought up to date, replaced.

use crate::world::{NOW, World, both, change, changes, fresh, new_key, pepper, said, secret, settings};
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::thread;
use weir::config::snapshot::{Push, StoreTarget};
use weir::io::store::Store;
use weir::io::store::error::{Kind, StoreError};
use weir::io::store::rows::{KeyFilter, OnExceed, Row, Stamp, Streams};
use weir::logic::access::digest;

/// The schema as it was released first.
const RELEASED: &str = include_str!("../../src/io/store/migrations/sqlite/0001_keys.sql");
/// Its second version, in which budgets were stored and not followed.
const IDENTITY: &str = include_str!("../../src/io/store/migrations/sqlite/0002_identity.sql");

#[test]
fn processes_that_open_a_new_store_at_once_all_succeed() {
    const RACERS: u8 = 6;
    both(|world| {
        let start = Barrier::new(usize::from(RACERS));
        thread::scope(|scope| {
            for byte in 0..RACERS {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    change(&mut world.open(), |change| change.create_key(&new_key(byte)));
                });
            }
        });
        let (rows, stamp) = changes(&mut world.open(), None);
        assert_eq!(rows.len(), usize::from(RACERS) + 1, "{}: nobody's key is lost", world.name);
        assert_eq!(stamp.epoch, i64::from(RACERS), "{}: nor counted twice", world.name);
    });
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    both(|world| {
        drop(world.open());
        world.sql("INSERT INTO key_schema_version VALUES (99)").expect("written");
        let opened = Store::open(&world.settings).map(drop);
        assert!(matches!(opened, Err(StoreError::Newer { found: 99, .. })), "{}: not ours to write", world.name);
        let followed = Store::follow(&world.settings).expect("made").stamp();
        assert!(matches!(followed, Err(StoreError::Newer { found: 99, .. })), "{}: nor to read", world.name);
    });
}

#[test]
fn a_store_of_the_first_release_opens_with_all_its_keys() {
    let world = World::sqlite();
    std::fs::create_dir_all(world.file().parent().expect("a folder")).expect("made");
    let key = fresh(1);
    let hash = digest::hex(&pepper().digest(key.text.as_bytes()));
    let (active, revoked, pepper_id) = (&key.id, fresh(2).id, pepper().id().to_owned());
    world
        .sql(&format!(
            "CREATE TABLE key_schema_version (version INTEGER PRIMARY KEY NOT NULL) STRICT;
             {RELEASED}
             INSERT INTO key_schema_version VALUES (1);
             INSERT INTO api_keys VALUES ('{active}', 'acme', NULL, NULL, 'ci', '[\"a\"]', NULL, 'dev', 'active', 5, 9, NULL);
             INSERT INTO api_keys VALUES ('{revoked}', 'acme', NULL, NULL, NULL, NULL, NULL, NULL, 'revoked', 6, NULL, 7);
             INSERT INTO api_key_secrets VALUES ('{active}', 1, 'hmac-sha256', X'{hash}', '{pepper_id}', 5);
             INSERT INTO api_key_secrets VALUES ('{revoked}', 1, 'hmac-sha256', X'{hash}', '{pepper_id}', 6);
             UPDATE key_epoch SET value = 3;"
        ))
        .expect("made");
    let mut store = world.open();
    let found = store.read().expect("open").key(active).expect("read").expect("there");
    assert_eq!(
        (found.name.as_deref(), found.models, found.expires_at.map(|at| at.0)),
        (Some("ci"), Some(vec!["a".into()]), Some(9)),
        "as it was"
    );
    assert_eq!(found.roles, Some(vec!["dev".to_owned()]), "its one role is a list of one");
    assert_eq!(found.secrets[0].hash, pepper().hash(key.text.as_bytes()), "its secret is still good");
    let ended = store.read().expect("open").key(&revoked).expect("read").expect("there");
    assert_eq!(ended.standing(NOW), "revoked", "what was revoked stays so");
    assert_eq!(store.stamp().expect("read").epoch, 3, "the count goes on");
    change(&mut store, |change| change.create_key(&new_key(3)));
    assert_eq!(changes(&mut world.open(), None).0.len(), 4, "and it can be used");
}

#[test]
fn followers_are_told_of_budgets_that_are_older_than_their_enforcement() {
    let world = World::sqlite();
    std::fs::create_dir_all(world.file().parent().expect("a folder")).expect("made");
    world
        .sql(&format!(
            "CREATE TABLE key_schema_version (version INTEGER PRIMARY KEY NOT NULL) STRICT;
             {RELEASED}
             {IDENTITY}
             INSERT INTO key_schema_version VALUES (1), (2);
             UPDATE meta SET store = 's', epoch = 9, mark = 7;
             INSERT INTO change_marks VALUES (8, 6), (9, 7);
             INSERT INTO budgets VALUES ('old', 'acme', 'tenant', NULL, 5, 'month', 1, 3);"
        ))
        .expect("made");
    let known = |epoch, mark| Stamp { store: "s".into(), epoch, mark };
    let mut store = world.open();
    for stamp in [known(9, 7), known(8, 6)] {
        let (rows, now) = changes(&mut store, Some(&stamp));
        assert_eq!(said(&rows), ["reset", "budget acme/old"], "whoever knew {stamp:?} reads everything");
        assert_eq!(now.epoch, 9, "the count goes on");
    }
    let found = store.read().expect("open").budget("old").expect("read").expect("there");
    let (rejects, plain) = (found.spec.on_exceed, (found.spec.alert_at, found.spec.strict, found.spec.stop_streams));
    assert_eq!((rejects, plain), (OnExceed::Reject, (vec![], false, false)), "it refuses, and nothing else");
}

#[test]
fn the_file_is_its_owners_alone_and_holds_no_plaintext() {
    let world = World::sqlite();
    change(&mut world.open(), |change| change.create_key(&new_key(1)));
    let meta = std::fs::metadata(world.file()).expect("a file");
    assert_eq!(meta.mode() & 0o777, 0o600, "for its owner alone");
    let key = fresh(1);
    let bytes = std::fs::read(world.file()).expect("a file");
    let there = |part: &str| bytes.windows(part.len()).any(|bytes| bytes == part.as_bytes());
    assert!(there(key.id.as_str()), "the id is in the file");
    assert!(!there(&key.text[21..]), "the secret is not");
}

#[test]
fn following_makes_no_file_and_sees_one_that_was_replaced() {
    let world = World::sqlite();
    let mut follower = Store::follow(&world.settings).expect("made");
    assert_eq!(follower.stamp().expect_err("none").kind(), Kind::Unavailable, "there is no store");
    assert!(!world.file().exists(), "and following makes none");
    change(&mut world.open(), |change| change.create_key(&new_key(1)));
    let (_, stamp) = changes(&mut follower, None);
    let other = World::sqlite();
    change(&mut other.open(), |change| change.create_key(&new_key(2)));
    for end in ["-wal", "-shm"] {
        // Present or not, depending on who closed last.
        let _gone = std::fs::remove_file(format!("{}{end}", world.file().display()));
    }
    std::fs::rename(other.file(), world.file()).expect("replaced");
    let (rows, _) = changes(&mut follower, Some(&stamp));
    assert_eq!(said(&rows), ["reset".to_owned(), format!("key {}", new_key(2).key_id)], "the new file, from scratch");
}

#[test]
fn a_change_is_never_written_to_a_file_that_was_replaced() {
    let world = World::sqlite();
    let mut store = world.open();
    change(&mut store, |change| change.create_key(&new_key(1)));
    let copy = world.file().with_extension("copy");
    world.sql(&format!("VACUUM INTO '{}'", copy.display())).expect("copied");
    for end in ["-wal", "-shm"] {
        let _gone = std::fs::remove_file(format!("{}{end}", world.file().display()));
    }
    std::fs::rename(&copy, world.file()).expect("put back");
    change(&mut store, |change| change.revoke_key(&new_key(1).key_id, Streams::Finish));
    let keys = world.open().read().expect("open").keys(&KeyFilter::default(), &crate::world::ALL).expect("read");
    assert_eq!(keys.rows[0].standing(NOW), "revoked", "the revocation is in the file that everyone reads");
}

#[test]
fn a_change_that_panics_is_taken_back() {
    both(|world| {
        let mut store = world.open();
        let broke = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            change(&mut store, |change| {
                change.create_key(&new_key(1))?;
                if change.read().key(&new_key(1).key_id)?.is_some() {
                    panic!("in the middle");
                }
                Ok(())
            });
        }));
        assert!(broke.is_err(), "{}: it panicked", world.name);
        assert_eq!(changes(&mut store, None).0.len(), 1, "{}: nothing of it stays", world.name);
        change(&mut store, |change| change.create_key(&new_key(1)));
    });
}

#[test]
fn neither_errors_nor_debug_repeat_a_password() {
    let tries = [
        "postgres://weir:planted@127.0.0.1:1/weir",
        "postgres://weir:planted@127.0.0.1:1/weir?unheard=planted",
        "postgres://weir:planted@127.0.0.1:99999/weir",
        "postgres://weir:planted@[/weir",
        "mysql://weir:planted@127.0.0.1/weir",
        "postgres://weir:planted@127.0.0.1:1/weir?sslmode=planted",
        "weir:planted",
    ];
    for url in tries {
        let settings = settings(StoreTarget::Postgres(secret(url)), Push::Notify);
        let error = Store::open(&settings).map(drop).expect_err("nobody is there");
        let followed = Store::follow(&settings).map(|store| format!("{store:?}")).unwrap_or_default();
        let text = format!("{error} {error:?} {followed}");
        assert!(!text.contains("planted"), "{text}");
    }
    for url in ["redis://:planted@[/0", "planted", "http://:planted@127.0.0.1/"] {
        let target = StoreTarget::Sqlite("nowhere".into());
        let error = Store::follow(&settings(target, Push::Redis(secret(url)))).map(drop).expect_err("no Redis URL");
        assert!(!format!("{error} {error:?}").contains("planted"), "{error}");
    }
}

#[test]
fn a_follower_of_an_empty_database_is_told_that_it_is_empty() {
    let world = World::postgres();
    let mut follower = Store::follow(&world.settings).expect("made");
    let (rows, _) = changes(&mut follower, None);
    assert!(matches!(rows[..], [Row::Reset]), "a cold start may come before anyone has opened the store: {rows:?}");
}

#[test]
fn the_first_of_several_hosts_that_answers_is_used() {
    let server = crate::servers::Postgres::shared();
    let both = server.database().replace("127.0.0.1", "127.0.0.1:1,127.0.0.1");
    let settings = settings(StoreTarget::Postgres(secret(&both)), Push::None);
    change(&mut Store::open(&settings).expect("opened"), |change| change.create_key(&new_key(1)));
}
