//! A store with a million keys of ten thousand users, written row by row: what a change costs is another bench's.

use super::Failure;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use weir::config::snapshot::{Push, Store as Settings, StoreTarget};
use weir::domain::units::{Micros, WallMicros};
use weir::io::store::Store;
use weir::logic::access::api_key::{self, FreshKey};
use weir::logic::access::digest::{Pepper, SecretHash};
use weir::ports::Clock;

/// Keys of the store.
pub const KEYS: usize = 1_000_000;
/// Tenants, and users of each, in turn.
const TENANTS: usize = 1_000;
const USERS: usize = 10;
/// Keys whose text is kept, to be presented: in 20 MB, so the text is as cold as the table.
const SAMPLE: usize = 200_000;
/// The time of the bench.
pub const NOW: WallMicros = WallMicros(1_795_176_000_000_000);

/// A store, and some of its keys.
pub struct Filled {
    _dir: TempDir,
    /// Its file.
    pub path: PathBuf,
    /// Texts of keys that are in it.
    pub known: Vec<Box<[u8]>>,
    /// As many texts of keys that are not: another id, or another secret under an id that is.
    pub unknown: Vec<Box<[u8]>>,
    pub wrong: Vec<Box<[u8]>>,
}

/// The real monotonic clock: reading it is part of the cost.
pub struct Running(pub Instant);

impl Clock for Running {
    fn wall(&self) -> WallMicros {
        NOW
    }
    fn mono(&self) -> Micros {
        Micros::from(self.0.elapsed())
    }
}

pub fn clock() -> Arc<dyn Clock> {
    Arc::new(Running(Instant::now()))
}

pub fn pepper() -> Result<Pepper, Failure> {
    Ok(Pepper::new(b"0123456789abcdef0123456789abcdef")?)
}

pub fn settings(path: &Path) -> Settings {
    Settings {
        target: StoreTarget::Sqlite(path.to_owned()),
        push: Push::None,
        poll: Duration::from_millis(100),
        replica: PathBuf::new(),
    }
}

fn draw(random: &mut fastrand::Rng, keep_id: Option<&[u8]>) -> Result<(FreshKey, Vec<u8>), Failure> {
    let mut bytes = vec![0; api_key::RANDOM_BYTES];
    random.fill(&mut bytes);
    // An id is made of the first bytes that can be used: the same ones give the same id.
    if let Some(id) = keep_id {
        bytes.iter_mut().zip(id).for_each(|(byte, kept)| *byte = *kept);
    }
    Ok((api_key::generate("weir", &bytes)?, bytes))
}

/// Makes the store, and says how long that took.
pub fn fill() -> Result<Filled, Failure> {
    let start = Instant::now();
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("weir.db");
    drop(Store::open(&settings(&path))?);
    let (mut random, pepper) = (fastrand::Rng::with_seed(1), pepper()?);
    let mut filled = Filled { _dir: dir, path, known: Vec::new(), unknown: Vec::new(), wrong: Vec::new() };
    let mut connection = rusqlite::Connection::open(&filled.path)?;
    let tx = connection.transaction()?;
    for number in 0..KEYS {
        let (key, bytes) = draw(&mut random, None)?;
        insert(&tx, &key, &pepper, number)?;
        // From all over the table: the first ones of each part would be warmer than the rest.
        if number.is_multiple_of(KEYS / SAMPLE) {
            filled.known.push(key.text.as_bytes().into());
            filled.unknown.push(draw(&mut random, None)?.0.text.as_bytes().into());
            // Enough bytes for the id, skipped ones included, and other ones behind.
            filled.wrong.push(draw(&mut random, bytes.get(..24))?.0.text.as_bytes().into());
        }
    }
    tx.execute("UPDATE meta SET key_count = ?1, mark = mark + 1", [KEYS as i64])?;
    tx.commit()?;
    println!("store: {KEYS} keys written in {:.1?}", start.elapsed());
    Ok(filled)
}

fn insert(tx: &rusqlite::Connection, key: &FreshKey, pepper: &Pepper, number: usize) -> Result<(), Failure> {
    let SecretHash::Peppered { pepper_id, digest } = pepper.hash(key.text.as_bytes()) else {
        return Err("a pepper gives a peppered hash".into());
    };
    let (tenant, user) = (format!("tenant-{}", number % TENANTS), format!("user-{}", number / TENANTS % USERS));
    tx.prepare_cached(
        "INSERT INTO api_keys (key_id, tenant_id, team_id, user_id, plan, status, created_at)
         VALUES (?1, ?2, 'core', ?3, 'gold', 'active', ?4)",
    )?
    .execute((key.id.as_str(), tenant, user, NOW.0))?;
    tx.prepare_cached(
        "INSERT INTO api_key_secrets (key_id, generation, kind, hash, pepper_id, created_at)
         VALUES (?1, 1, 'hmac-sha256', ?2, ?3, ?4)",
    )?
    .execute((key.id.as_str(), digest.0, pepper_id, NOW.0))?;
    Ok(())
}

/// Has every follower read everything anew.
pub fn reset(path: &Path) -> Result<(), Failure> {
    let connection = rusqlite::Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute("UPDATE meta SET mark = mark + 1", [])?;
    Ok(())
}
