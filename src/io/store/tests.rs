use super::*;
use crate::io::store::rows::KeyStatus;
use crate::io::store::watch::{Seen, Watch};
use crate::logic::access::api_key::{self, FreshKey};
use crate::logic::access::digest::Pepper;
use std::os::unix::fs::MetadataExt;
use std::sync::Barrier;
use std::thread;

pub(crate) const NOW: WallMicros = WallMicros(1_795_000_000_000_000);

/// A key made of one repeated byte below 248, for tenant `acme`.
pub(crate) fn fresh(byte: u8) -> FreshKey {
    api_key::generate("weir", &[byte; api_key::RANDOM_BYTES]).expect("a key")
}

pub(crate) fn row(key: &FreshKey, pepper: &Pepper) -> NewKey {
    NewKey {
        key_id: key.id.clone(),
        hash: pepper.hash(key.text.as_bytes()),
        tenant: "acme".into(),
        team: Some("core".into()),
        user: None,
        name: Some("ci".into()),
        models: Some(vec!["llama-*".into()]),
        plan: Some("gold".into()),
        role: None,
        expires_at: None,
    }
}

pub(crate) fn pepper() -> Pepper {
    Pepper::new(b"pepper").expect("a pepper")
}

fn changed(watch: &mut Watch) -> bool {
    matches!(watch.poll().expect("the store can be read"), Seen::Changed(_))
}

#[test]
fn what_was_created_is_found() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("var/weir.db");
    let key = fresh(1);
    Store::open(&path).expect("made").create(&[row(&key, &pepper())], NOW).expect("created");
    let found = Store::open(&path).expect("opened again").find(&key.id).expect("read").expect("there");
    assert_eq!(found.tenant, "acme", "its tenant");
    assert_eq!(found.models, Some(vec!["llama-*".to_owned()]), "its models");
    assert_eq!((found.generation(), found.created_at), (1, NOW), "its first secret and its time");
    assert_eq!(found.secrets[0].hash, pepper().hash(key.text.as_bytes()), "its hash");
    assert_eq!(std::fs::metadata(&path).expect("a file").mode() & 0o777, 0o600, "for its owner alone");
}

#[test]
fn the_file_holds_no_plaintext() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("weir.db");
    let key = fresh(1);
    Store::open(&path).expect("made").create(&[row(&key, &pepper())], NOW).expect("created");
    let secret = &key.text.as_bytes()[21..];
    let bytes = std::fs::read(&path).expect("a file");
    assert!(bytes.windows(12).any(|part| part == key.id.as_str().as_bytes()), "the id is in the file");
    assert!(!bytes.windows(secret.len()).any(|part| part == secret), "the secret is not");
}

#[test]
fn keys_are_created_all_or_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&dir.path().join("weir.db")).expect("made");
    let twice = [row(&fresh(1), &pepper()), row(&fresh(2), &pepper()), row(&fresh(1), &pepper())];
    assert!(store.create(&twice, NOW).is_err(), "an id exists once");
    assert_eq!(store.list().expect("read").keys.len(), 0, "nothing of a failed change stays");
}

#[test]
fn revoking_twice_keeps_the_first_and_an_unknown_key_is_none() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&dir.path().join("weir.db")).expect("made");
    let key = fresh(1);
    store.create(&[row(&key, &pepper())], NOW).expect("created");
    for _ in 0..2 {
        let revoked = store.revoke(&key.id, NOW).expect("done").expect("there");
        assert_eq!((revoked.status, revoked.standing(NOW)), (KeyStatus::Revoked, "revoked"), "ended for good");
    }
    assert!(store.revoke(&fresh(2).id, NOW).expect("done").is_none(), "no such key");
}

#[test]
fn every_change_is_seen_by_a_watch_and_nothing_else_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("weir.db");
    let mut store = Store::open(&path).expect("made");
    let mut watch = Watch::new(&path);
    let key = fresh(1);
    assert!(changed(&mut watch), "the first poll reads everything");
    assert!(!changed(&mut watch), "nothing has happened");
    store.create(&[row(&key, &pepper())], NOW).expect("created");
    assert!(changed(&mut watch), "a new key");
    store.list().expect("read");
    assert!(!changed(&mut watch), "reading is no change");
    store.revoke(&key.id, NOW).expect("revoked");
    assert!(changed(&mut watch), "a revocation");
}

#[test]
fn a_watch_makes_no_file_and_sees_one_that_was_replaced() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("weir.db");
    let mut watch = Watch::new(&path);
    assert!(watch.poll().is_err(), "there is no store");
    assert!(!path.exists(), "and watching makes none");
    drop(Store::open(&path).expect("made"));
    assert!(changed(&mut watch), "now there is one");
    let other = dir.path().join("other.db");
    Store::open(&other).expect("made").create(&[row(&fresh(1), &pepper())], NOW).expect("created");
    for end in ["-wal", "-shm"] {
        // Present or not, depending on who closed last.
        let _gone = std::fs::remove_file(dir.path().join(format!("weir.db{end}")));
    }
    std::fs::rename(&other, &path).expect("replaced");
    match watch.poll().expect("read") {
        Seen::Changed(rows) => assert_eq!(rows.keys.len(), 1, "the key of the new file"),
        Seen::Same => panic!("a replaced file must be read anew"),
    }
}

#[test]
fn processes_that_open_a_new_store_at_once_all_succeed() {
    const RACERS: u8 = 6;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("weir.db");
    let start = Barrier::new(usize::from(RACERS));
    thread::scope(|scope| {
        for byte in 0..RACERS {
            let (start, path) = (&start, &path);
            scope.spawn(move || {
                start.wait();
                let mut store = Store::open(path).expect("opened");
                store.create(&[row(&fresh(byte), &pepper())], NOW).expect("created");
            });
        }
    });
    let rows = Store::open(&path).expect("opened").list().expect("read");
    assert_eq!(rows.keys.len(), usize::from(RACERS), "nobody's key is lost");
}

#[test]
fn a_store_of_a_newer_version_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("weir.db");
    let store = Store::open(&path).expect("made");
    store.connection.execute("INSERT INTO key_schema_version VALUES (99)", []).expect("written");
    assert!(matches!(Store::open(&path), Err(StoreError::Newer { found: 99, .. })), "not ours to write");
    assert!(matches!(Watch::new(&path).poll(), Err(StoreError::Newer { found: 99, .. })), "nor to read");
}

#[test]
fn a_row_that_is_no_key_takes_no_other_key_with_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(&dir.path().join("weir.db")).expect("made");
    store.create(&[row(&fresh(1), &pepper()), row(&fresh(2), &pepper())], NOW).expect("created");
    let broken = fresh(1).id;
    store.connection.execute("UPDATE api_keys SET models = '[1]' WHERE key_id = ?1", [broken.as_str()]).expect("set");
    let rows = store.list().expect("read");
    assert_eq!((rows.keys.len(), rows.broken.len()), (1, 1), "one is good, one is reported");
    assert!(store.find(&broken).is_err(), "and asked for by name it is an error");
}
