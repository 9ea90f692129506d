use super::*;
use crate::config::snapshot::{Push, Secret};
use crate::io::keys::tests::{NOW, key, pepper};
use crate::io::store::rows::{NewKey, Streams, TenantSpec};
use crate::io::store::tests::actor;
use crate::logic::access::api_key::FreshKey;
use crate::logic::access::digest::{self, SecretHash};
use crate::ports::Rejection;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use tempfile::TempDir;

pub(in crate::io::keys) const MAX_STALE: Duration = Duration::from_secs(900);

/// Clocks that stand until they are set: microseconds since [`NOW`], and since the start.
#[derive(Default)]
pub(in crate::io::keys) struct Hand {
    wall: AtomicI64,
    mono: AtomicU64,
    /// So many times the following thread falls over it.
    traps: AtomicU64,
}

impl Hand {
    pub(in crate::io::keys) fn trap(&self, times: u64) {
        self.traps.store(times, Ordering::SeqCst);
    }

    /// True once the following thread has fallen over every trap.
    pub(in crate::io::keys) fn trapped(&self) -> bool {
        self.traps.load(Ordering::SeqCst) == 0
    }

    pub(in crate::io::keys) fn later(&self, span: Duration) {
        let micros = Micros::from(span).0;
        self.mono.fetch_add(micros, Ordering::SeqCst);
        self.wall.fetch_add(i64::try_from(micros).expect("a short span"), Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn wall(&self) -> WallMicros {
        WallMicros(NOW.0 + self.wall.load(Ordering::SeqCst))
    }
    fn mono(&self) -> Micros {
        let follower = std::thread::current().name() == Some("weir-keys");
        let trap = |left: u64| left.checked_sub(1);
        if follower && self.traps.fetch_update(Ordering::SeqCst, Ordering::SeqCst, trap).is_ok() {
            panic!("a trap");
        }
        Micros(self.mono.load(Ordering::SeqCst))
    }
}

/// A folder with a store, and a way to change it.
pub(in crate::io::keys) struct Place {
    dir: TempDir,
    pub(in crate::io::keys) store: Store,
    pub(in crate::io::keys) clock: Arc<Hand>,
    abort: watch::Sender<Abort>,
}

impl Place {
    pub(in crate::io::keys) fn new(keys: &[&FreshKey]) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open_file(&dir.path().join("weir.db")).expect("made");
        let mut place = Self { dir, store, clock: Arc::default(), abort: watch::Sender::new(Abort::default()) };
        keys.iter().for_each(|key| place.create(key));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(in crate::io::keys) fn create(&mut self, key: &FreshKey) {
        let row = NewKey::of(key.id.clone(), pepper().hash(key.text.as_bytes()), "acme");
        self.store.change(&actor(), NOW, |change| change.create_key(&row)).expect("created");
    }

    pub(in crate::io::keys) fn revoke(&mut self, key: &FreshKey, streams: Streams) {
        self.store.change(&actor(), NOW, |change| change.revoke_key(&key.id, streams)).expect("revoked");
    }

    fn sql(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.path("weir.db")).expect("opened");
        connection.execute_batch(sql).expect("ran");
    }

    fn change_history(&self) {
        self.sql("UPDATE meta SET mark = mark + 1; UPDATE change_marks SET mark = mark + 1");
    }

    /// A backup is put back that knows nothing of a revocation: another history with the same names.
    fn forget_revocations(&self) {
        self.sql("UPDATE api_keys SET status = 'active', revoked_at = NULL");
        self.change_history();
    }

    pub(in crate::io::keys) fn settings(&self) -> Settings {
        Settings {
            store: StoreSettings {
                target: StoreTarget::Sqlite(self.path("weir.db")),
                push: Push::None,
                poll: Duration::from_millis(500),
                replica: self.path("replica.db"),
            },
            configured: Configured::default(),
            authenticators: vec![("keys".to_owned(), pepper(), MAX_STALE)],
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            abort: self.abort.clone(),
        }
    }

    fn of(settings: Settings) -> Process {
        let (looker, mut keys) = Looker::new(settings, mpsc::sync_channel(1).0);
        Process { looker, keys: keys.remove("keys").expect("its authenticator") }
    }

    /// A process that has looked once.
    fn process(&self) -> Process {
        let mut process = Self::of(self.settings());
        process.looker.first().expect("the store is there");
        process
    }

    /// The same, and it keeps a copy: what a process with Postgres does, shown on SQLite.
    fn copying(&self) -> Process {
        let mut process = Self::of(self.settings());
        process.looker.copy = Some(Copier::new(self.settings().store));
        process.looker.first().expect("the store is there");
        process
    }

    /// A process that starts while its Postgres is down.
    fn without_store(&self) -> Process {
        let url = Secret(Arc::new(zeroize::Zeroizing::new(b"postgres://weir@127.0.0.1:1/weir".to_vec())));
        let settings = self.settings();
        let store = StoreSettings { target: StoreTarget::Postgres(url), ..settings.store };
        let mut process = Self::of(Settings { store, ..settings });
        process.looker.first().expect("a store that is down is no error");
        process
    }
}

struct Process {
    looker: Looker,
    keys: Arc<Keys>,
}

impl Process {
    fn ask(&self, key: &FreshKey) -> Result<u32, Rejection> {
        let now = self.looker.shared.clock.wall();
        self.keys.authenticate(key.text.as_bytes(), now).map(|principal| principal.secret_gen)
    }
}

const INVALID: Result<u32, Rejection> = Err(Rejection::Invalid);
const UNAVAILABLE: Result<u32, Rejection> = Err(Rejection::Unavailable("key store"));

#[test]
fn a_look_brings_new_keys_and_takes_revoked_ones() {
    let (old, new) = (key(1, 1), key(2, 1));
    let mut place = Place::new(&[&old]);
    let mut process = place.process();
    assert_eq!((process.ask(&old), process.ask(&new)), (Ok(1), INVALID), "as the store was");
    place.create(&new);
    place.revoke(&old, Streams::Finish);
    process.looker.look();
    assert_eq!((process.ask(&old), process.ask(&new)), (INVALID, Ok(1)), "as the store is");
}

#[test]
fn a_revoked_key_stays_so_when_a_backup_of_its_store_is_put_back() {
    let revoked = key(1, 1);
    let mut place = Place::new(&[&revoked]);
    let mut process = place.process();
    place.revoke(&revoked, Streams::Finish);
    process.looker.look();
    place.forget_revocations();
    process.looker.look();
    assert_eq!(process.ask(&revoked), INVALID, "a backup does not bring it back");
}

#[test]
fn a_key_that_a_store_put_back_does_not_have_is_gone() {
    let (lost, kept) = (key(1, 1), key(2, 1));
    let place = Place::new(&[&lost, &kept]);
    let mut process = place.process();
    let id = &lost.id;
    place
        .sql(&format!("DELETE FROM api_key_secrets WHERE key_id = '{id}'; DELETE FROM api_keys WHERE key_id = '{id}'"));
    process.looker.look();
    assert_eq!(process.ask(&lost), Ok(1), "nothing says that the store has changed");
    place.change_history();
    process.looker.look();
    assert_eq!((process.ask(&lost), process.ask(&kept)), (INVALID, Ok(1)), "another history is read whole");
}

#[test]
fn a_revocation_that_was_seen_outlives_the_process_and_a_backup() {
    let (revoked, other) = (key(1, 1), key(2, 1));
    let mut place = Place::new(&[&revoked, &other]);
    let mut before = place.copying();
    place.revoke(&revoked, Streams::Finish);
    before.looker.look();
    place.forget_revocations();
    before.looker.look();
    drop(before);
    let after = place.copying();
    assert_eq!((after.ask(&revoked), after.ask(&other)), (INVALID, Ok(1)), "the copy remembers");
    assert_eq!(place.without_store().ask(&revoked), INVALID, "also where the copy is all there is");
}

#[test]
fn without_its_store_a_snapshot_serves_until_max_stale() {
    let known = key(1, 1);
    let place = Place::new(&[&known]);
    let mut process = place.process();
    std::fs::rename(place.path("weir.db"), place.path("hidden.db")).expect("taken away");
    place.clock.later(MAX_STALE);
    process.looker.look();
    assert!(!place.path("weir.db").exists(), "following makes no store");
    assert_eq!(process.ask(&known), Ok(1), "still good at max_stale");
    assert!(process.looker.pulse().ready(), "so the process is ready");
    place.clock.later(Duration::from_micros(1));
    process.looker.look();
    assert!(!process.looker.pulse().ready(), "and who would refuse everybody is not ready");
    assert_eq!(process.ask(&known), UNAVAILABLE, "then the store is missed");
    assert_eq!(process.ask(&key(2, 1)), UNAVAILABLE, "also for keys that are not known");
    assert_eq!(process.keys.authenticate(b"junk", NOW).err(), Some(Rejection::Invalid), "junk needs no store");
    assert_eq!(process.looker.pulse().figures().failed, 2, "both looks are counted");
    std::fs::rename(place.path("hidden.db"), place.path("weir.db")).expect("put back");
    process.looker.look();
    assert_eq!(process.ask(&known), Ok(1), "and it is good again when the store is back");
}

#[test]
fn a_start_without_store_serves_from_the_copy_and_its_age_counts_from_the_last_look() {
    let (known, revoked) = (key(1, 1), key(2, 1));
    let mut place = Place::new(&[&known, &revoked]);
    let mut before = place.copying();
    place.revoke(&revoked, Streams::Finish);
    before.looker.look();
    drop(before);
    place.clock.later(MAX_STALE - Duration::from_secs(60));
    let process = place.without_store();
    assert!(process.looker.pulse().ready(), "there is a snapshot");
    assert_eq!((process.ask(&known), process.ask(&revoked)), (Ok(1), INVALID), "as it was seen last");
    place.clock.later(Duration::from_secs(61));
    assert_eq!(process.ask(&known), UNAVAILABLE, "the time before the start counts");
}

#[test]
fn a_start_with_neither_store_nor_copy_is_unavailable_and_not_ready() {
    let known = key(1, 1);
    let process = Place::new(&[&known]).without_store();
    assert_eq!(process.ask(&known), UNAVAILABLE, "nobody is told that their key is wrong");
    assert!(!process.looker.pulse().ready(), "there is no snapshot");
    assert_eq!(process.looker.pulse().figures().age, None, "so it has no age");
}

#[test]
fn a_copy_that_cannot_be_written_keeps_no_revocation_from_being_in_force() {
    let revoked = key(1, 1);
    let mut place = Place::new(&[&revoked]);
    std::fs::create_dir(place.path("replica.db")).expect("a folder in the way");
    let mut process = place.copying();
    place.revoke(&revoked, Streams::Finish);
    process.looker.look();
    assert_eq!(process.ask(&revoked), INVALID, "the copy is not worth a revocation");
    std::fs::remove_dir(place.path("replica.db")).expect("out of the way");
    place.clock.later(Duration::from_secs(31));
    process.looker.look();
    drop(process);
    assert_eq!(place.without_store().ask(&revoked), INVALID, "and is made up for later");
    assert!(place.without_store().looker.pulse().ready(), "it is there");
}

#[test]
fn a_copy_that_hangs_keeps_no_revocation_from_being_in_force() {
    let (first, second) = (key(1, 1), key(2, 1));
    let mut place = Place::new(&[&first, &second]);
    let mut process = place.process();
    let (release, released) = mpsc::channel::<()>();
    let (began, begun) = mpsc::channel();
    let (gave_up, given_up) = mpsc::channel();
    let settings = place.settings().store;
    process.looker.copy = Some(Copier::with(settings, move |job: &Job| {
        began.send(job.stamp.epoch).expect("the test is there");
        if released.recv_timeout(Duration::from_secs(20)) == Err(mpsc::RecvTimeoutError::Timeout) {
            gave_up.send(()).expect("the test is there");
        }
    }));
    place.revoke(&first, Streams::Finish);
    process.looker.look();
    assert_eq!(process.ask(&first), INVALID, "though its copy is not written");
    place.revoke(&second, Streams::Finish);
    process.looker.look();
    assert_eq!(process.ask(&second), INVALID, "nor was the one after it");
    assert!(given_up.try_recv().is_err(), "while the copy hung");
    drop(release);
    drop(process);
    let copied: Vec<_> = begun.iter().collect();
    let now = place.store.stamp().expect("read").epoch;
    assert_eq!(copied, [now - 1, now], "and both are made up for before the process ends");
}

#[test]
fn only_keys_that_are_revoked_from_now_on_have_their_streams_cut() {
    let (before, finished, cut) = (key(1, 1), key(2, 1), key(3, 1));
    let mut place = Place::new(&[&before, &finished, &cut]);
    place.revoke(&before, Streams::Terminate);
    let mut process = place.process();
    assert!(place.abort.borrow().keys.is_empty(), "there was no stream before the start");
    place.revoke(&finished, Streams::Finish);
    place.revoke(&cut, Streams::Terminate);
    process.looker.look();
    let told = place.abort.borrow().keys.clone();
    assert_eq!(told.iter().collect::<Vec<_>>(), [&cut.id], "the one that was asked for");
}

/// What LiteLLM makes: `sk-` and 22 letters of URL-safe base 64.
const FOREIGN: &[u8] = b"sk-4Hs8_kQz-1aBcDeFgHiJkLm";

#[test]
fn the_key_of_another_system_is_found_by_its_hash() {
    let mut place = Place::new(&[&key(1, 1)]);
    let mut process = place.process();
    let ask = |process: &Process, text: &[u8]| process.keys.authenticate(text, NOW).map(|principal| principal.key);
    assert_eq!(ask(&process, FOREIGN), Err(Rejection::Invalid), "nobody has imported it");
    let hash = digest::plain(FOREIGN);
    let id = key_id(&api_key::id_of_hash(&hash));
    let row = NewKey::of(id.clone(), SecretHash::Plain(hash), "acme");
    place.store.change(&actor(), NOW, |change| change.create_key(&row)).expect("imported");
    process.looker.look();
    assert_eq!(ask(&process, FOREIGN), Ok(Some(id.clone())), "under the id of its hash");
    assert_eq!(ask(&process, b"sk-4Hs8_kQz-1aBcDeFgHiJkLn"), Err(Rejection::Invalid), "and no other");
    assert_eq!(process.ask(&key(1, 1)), Ok(1), "beside the keys of our own");
    place.clock.later(MAX_STALE + Duration::from_secs(1));
    assert_eq!(ask(&process, FOREIGN), Err(Rejection::Unavailable("key store")), "as stale as the others");
    place.store.change(&actor(), NOW, |change| change.revoke_key(&id, Streams::Finish)).expect("revoked");
    process.looker.look();
    assert_eq!(ask(&process, FOREIGN), Err(Rejection::Invalid), "and revoked like them");
}

#[test]
fn before_the_first_snapshot_the_key_of_another_system_is_not_called_wrong() {
    let process = Place::new(&[]).without_store();
    let answer = process.keys.authenticate(FOREIGN, NOW).err();
    assert_eq!(answer, Some(Rejection::Unavailable("key store")), "it may have been imported");
    let answer = process.keys.authenticate(b"eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl", NOW).err();
    assert_eq!(answer, Some(Rejection::Invalid), "a token has not");
}

#[test]
fn tenants_of_the_store_come_and_go_with_the_looks() {
    let mut place = Place::new(&[]);
    let mut process = place.process();
    let there = |process: &Process| process.looker.directory.load().tenants.contains_key(&"acme".into());
    assert!(!there(&process), "nobody has made it");
    let put =
        |store: &mut Store| store.change(&actor(), NOW, |change| change.put_tenant("acme", &TenantSpec::default()));
    put(&mut place.store).expect("put");
    process.looker.look();
    assert!(there(&process), "it was made");
    place.store.change(&actor(), NOW, |change| change.delete_tenant("acme")).expect("deleted");
    process.looker.look();
    assert!(!there(&process), "it was deleted");
}

#[test]
fn a_row_that_is_no_key_is_refused_and_takes_no_other_with_it() {
    let (broken, other) = (key(1, 1), key(2, 1));
    let place = Place::new(&[&broken, &other]);
    let mut process = place.process();
    assert_eq!(process.ask(&broken), Ok(1), "it was good");
    place.sql(&format!("UPDATE api_keys SET models = '[1]' WHERE key_id = '{}'", broken.id));
    place.sql("UPDATE api_keys SET epoch = (SELECT epoch + 1 FROM meta); UPDATE meta SET epoch = epoch + 1");
    process.looker.look();
    assert_eq!((process.ask(&broken), process.ask(&other)), (INVALID, Ok(1)), "only what is broken");
}

#[test]
fn more_tenants_than_fit_hold_up_no_key_and_the_last_directory_stays_until_they_fit_again() {
    let (first, second) = (key(1, 1), key(2, 2));
    let mut place = Place::new(&[&first]);
    let tenant = |place: &mut Place, name: &str| {
        let spec = TenantSpec::default();
        place.store.change(&actor(), NOW, |change| change.put_tenant(name, &spec)).expect("put");
    };
    tenant(&mut place, "acme");
    let mut process = place.process();
    let knows = |process: &Process, name: &str| process.looker.directory.load().tenants.contains_key(&name.into());
    assert!(knows(&process, "acme"), "as the store says");
    place.sql(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})
         INSERT INTO users (tenant_id, id, created_at, deleted, epoch) SELECT 'big', 'u' || i, 0, 0, 2 FROM n",
        MAX_ROWS + 1
    ));
    place.change_history();
    place.create(&second);
    process.looker.look();
    assert_eq!((process.ask(&first), process.ask(&second)), (Ok(1), Ok(1)), "keys are followed on");
    assert!(knows(&process, "acme"), "the last directory stays");
    place.clock.later(MAX_STALE);
    place.revoke(&first, Streams::Finish);
    process.looker.look();
    assert_eq!(process.ask(&first), Err(Rejection::Invalid), "a revocation is seen");
    assert_eq!(process.ask(&second), Ok(1), "and nothing is stale");
    place.sql("DELETE FROM users");
    tenant(&mut place, "other");
    process.looker.look();
    process.looker.look();
    assert!(knows(&process, "other"), "there is room again");
}
