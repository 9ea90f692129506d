use super::*;
use crate::domain::ids::{PlanId, TeamId};
use crate::io::store::rows::NewKey;
use crate::io::store::tests::{NOW, fresh, pepper, row};
use crate::logic::access::api_key::FreshKey;
use crate::logic::access::digest::{self, SecretHash, plain};
use std::path::PathBuf;
use std::time::Instant;
use tempfile::TempDir;

const MAX_STALE: Duration = Duration::from_secs(900);

/// A clock that stands until it is set.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn wall(&self) -> WallMicros {
        NOW
    }
    fn mono(&self) -> Micros {
        Micros(self.0.load(Ordering::SeqCst))
    }
}

/// A store on disk, a way to change it, and the keys that follow it.
struct World {
    dir: TempDir,
    store: Store,
    clock: Arc<Hand>,
    keys: Arc<Keys>,
}

impl World {
    fn new(rows: &[NewKey]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("weir.db");
        let mut store = Store::open(&path).expect("made");
        store.create(rows, NOW).expect("created");
        let clock = Arc::new(Hand::default());
        let keys = Keys::load(&path, pepper(), MAX_STALE, Arc::clone(&clock) as Arc<dyn Clock>).expect("loaded");
        Self { dir, store, clock, keys }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("weir.db")
    }

    fn ask(&self, key: &FreshKey) -> Result<Principal, KeyRejection> {
        self.keys.authenticate(key.text.as_bytes(), NOW)
    }

    fn sql(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.path()).expect("opened");
        connection
            .execute_batch(&format!("BEGIN; {sql}; UPDATE key_epoch SET value = value + 1; COMMIT;"))
            .expect("ran");
    }
}

/// Same id as `fresh(1)`, another secret.
fn other_secret() -> FreshKey {
    let mut random = [2; api_key::RANDOM_BYTES];
    random[..api_key::ID_LEN].fill(1);
    let key = api_key::generate("weir", &random).expect("a key");
    assert_eq!(key.id, fresh(1).id, "the test is about an id that exists");
    key
}

#[test]
fn a_created_key_is_let_in_as_whom_it_was_made_for() {
    let key = fresh(1);
    let world = World::new(&[row(&key, &pepper())]);
    let principal = world.ask(&key).expect("let in");
    assert_eq!(principal.tenant.as_str(), "acme", "its tenant");
    assert_eq!(principal.team.as_ref().map(TeamId::as_str), Some("core"), "its team");
    assert_eq!(principal.key, Some(key.id), "its id");
    assert_eq!(principal.secret_gen, 1, "its generation");
    assert_eq!(principal.models.as_deref(), Some(&["llama-*".to_owned()][..]), "its models");
    assert_eq!(principal.plan.as_ref().map(PlanId::as_str), Some("gold"), "its plan");
}

#[test]
fn unknown_wrong_and_malformed_keys_get_the_same_answer() {
    let world = World::new(&[row(&fresh(1), &pepper())]);
    assert_eq!(world.ask(&other_secret()).err(), Some(KeyRejection::Invalid), "wrong secret");
    assert_eq!(world.ask(&fresh(3)).err(), Some(KeyRejection::Invalid), "unknown id");
    assert_eq!(world.keys.authenticate(b"sk-x", NOW).err(), Some(KeyRejection::Invalid), "malformed");
}

#[test]
fn a_key_under_another_pepper_is_refused() {
    let key = fresh(1);
    let world = World::new(&[row(&key, &Pepper::new(b"other").expect("a pepper"))]);
    assert_eq!(world.ask(&key).err(), Some(KeyRejection::Invalid), "it cannot be checked");
}

#[test]
fn a_plain_hash_that_was_imported_lets_its_key_in() {
    let key = fresh(1);
    let hash = SecretHash::Plain(plain(key.text.as_bytes()));
    let world = World::new(&[NewKey { hash, ..row(&key, &pepper()) }]);
    assert!(world.ask(&key).is_ok(), "SHA-256 of the whole key");
    assert_eq!(world.ask(&fresh(2)).err(), Some(KeyRejection::Invalid), "and no other");
}

#[test]
fn each_generation_of_a_key_lets_in_and_says_which_it_is() {
    let (first, second) = (fresh(1), other_secret());
    let world = World::new(&[row(&first, &pepper())]);
    let hash = digest::hex(&pepper().digest(second.text.as_bytes()));
    world.sql(&format!(
        "INSERT INTO api_key_secrets SELECT key_id, 2, kind, X'{hash}', pepper_id, created_at FROM api_key_secrets"
    ));
    world.keys.tick();
    let generation = |key| world.ask(key).map(|principal| principal.secret_gen);
    assert_eq!((generation(&first), generation(&second)), (Ok(1), Ok(2)), "both secrets of one key");
}

#[test]
fn a_key_ends_at_its_expiry_to_the_microsecond() {
    let key = fresh(1);
    let world = World::new(&[NewKey { expires_at: Some(NOW), ..row(&key, &pepper()) }]);
    assert_eq!(world.ask(&key).err(), Some(KeyRejection::Expired), "over at its end");
    let before = WallMicros(NOW.0 - 1);
    assert!(world.keys.authenticate(key.text.as_bytes(), before).is_ok(), "good just before it");
}

#[test]
fn disabled_and_expired_are_told_only_to_who_has_the_secret() {
    let key = fresh(1);
    let world = World::new(&[NewKey { expires_at: Some(NOW), ..row(&key, &pepper()) }]);
    let wrong = other_secret();
    assert_eq!(world.ask(&wrong).err(), Some(KeyRejection::Invalid), "expired, wrong secret");
    world.sql("UPDATE api_keys SET status = 'disabled'");
    world.keys.tick();
    assert_eq!(world.ask(&key).err(), Some(KeyRejection::Disabled), "disabled, right secret");
    assert_eq!(world.ask(&wrong).err(), Some(KeyRejection::Invalid), "disabled, wrong secret");
}

#[test]
fn a_tick_brings_new_keys_and_takes_revoked_ones() {
    let (old, new) = (fresh(1), fresh(2));
    let mut world = World::new(&[row(&old, &pepper())]);
    assert_eq!(world.ask(&new).err(), Some(KeyRejection::Invalid), "tried before it exists");
    world.store.create(&[row(&new, &pepper())], NOW).expect("created");
    world.store.revoke(&old.id, NOW).expect("revoked");
    world.keys.tick();
    assert!(world.ask(&new).is_ok(), "a new key works, though it was tried before");
    assert_eq!(world.ask(&old).err(), Some(KeyRejection::Invalid), "a revoked key does not");
}

#[test]
fn a_revoked_key_stays_revoked_when_the_store_forgets_it() {
    let key = fresh(1);
    let mut world = World::new(&[row(&key, &pepper())]);
    world.store.revoke(&key.id, NOW).expect("revoked");
    world.keys.tick();
    world.sql("UPDATE api_keys SET status = 'active', revoked_at = NULL");
    world.keys.tick();
    assert_eq!(world.ask(&key).err(), Some(KeyRejection::Invalid), "a backup does not bring it back");
}

#[test]
fn without_its_store_a_snapshot_serves_until_max_stale() {
    let key = fresh(1);
    let world = World::new(&[row(&key, &pepper())]);
    let hidden = world.dir.path().join("hidden.db");
    std::fs::rename(world.path(), &hidden).expect("taken away");
    let at = |after: Duration| world.clock.0.store(Micros::from(after).0, Ordering::SeqCst);
    at(MAX_STALE);
    world.keys.tick();
    assert!(!world.path().exists(), "following makes no store");
    assert!(world.ask(&key).is_ok(), "still good at max_stale");
    at(MAX_STALE + Duration::from_micros(1));
    world.keys.tick();
    assert_eq!(world.ask(&key).err(), Some(KeyRejection::StoreDown), "then the store is missed");
    assert_eq!(world.ask(&fresh(2)).err(), Some(KeyRejection::StoreDown), "also for keys that are not known");
    assert_eq!(world.keys.authenticate(b"junk", NOW).err(), Some(KeyRejection::Invalid), "junk needs no store");
    std::fs::rename(&hidden, world.path()).expect("put back");
    world.keys.tick();
    assert!(world.ask(&key).is_ok(), "and it is good again when the store is back");
}

#[test]
fn the_follower_sees_a_revocation_and_stops_when_dropped() {
    let key = fresh(1);
    let mut world = World::new(&[row(&key, &pepper())]);
    let follower = world.keys.follow().expect("a thread");
    world.store.revoke(&key.id, NOW).expect("revoked");
    // Ten times what is promised: the machine may be busy, the law is that it happens by itself.
    let end = Instant::now() + Duration::from_secs(10);
    while world.ask(&key).is_ok() && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(world.ask(&key).err(), Some(KeyRejection::Invalid), "the thread follows the store");
    drop(follower);
    assert_eq!(Arc::strong_count(&world.keys), 1, "the thread is gone and holds nothing");
}
