//! What a key costs on the request path: `cargo bench --bench access`. Target: at most 1 µs for a known key with
//! 100 000 keys loaded.

use criterion::{Criterion, criterion_group, criterion_main};
use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use weir::domain::units::{Micros, WallMicros};
use weir::io::keys::Keys;
use weir::io::store::Store;
use weir::io::store::rows::NewKey;
use weir::logic::access::api_key::{self, FreshKey};
use weir::logic::access::digest::Pepper;
use weir::ports::{Clock, KeyStore};

const KEYS: usize = 100_000;
const NOW: WallMicros = WallMicros(1_795_176_000_000_000);

/// The real monotonic clock: reading it is part of the cost.
struct Running(Instant);

impl Clock for Running {
    fn wall(&self) -> WallMicros {
        NOW
    }
    fn mono(&self) -> Micros {
        Micros::from(self.0.elapsed())
    }
}

fn fresh(seed: &mut fastrand::Rng) -> Result<FreshKey, api_key::GenerateError> {
    let mut random = [0; api_key::RANDOM_BYTES];
    seed.fill(&mut random);
    api_key::generate("weir", &random)
}

fn row(key: &FreshKey, pepper: &Pepper) -> NewKey {
    NewKey {
        key_id: key.id.clone(),
        hash: pepper.hash(key.text.as_bytes()),
        tenant: "acme".to_owned(),
        team: Some("core".to_owned()),
        user: Some("ann".to_owned()),
        name: None,
        models: None,
        plan: Some("gold".to_owned()),
        role: None,
        expires_at: None,
    }
}

/// Time for `rounds` authentications, each with another of the keys. Texts are copied in small batches outside of it.
fn asked_in_turn(keys: &Keys, known: &[FreshKey], rounds: u64) -> Duration {
    const BATCH: usize = 64;
    let mut spent = Duration::ZERO;
    let mut at = 0;
    for _ in 0..rounds.div_ceil(BATCH as u64) {
        let batch: Vec<String> = (0..BATCH)
            .map(|_| {
                // A prime step visits all of them in an order that no prefetcher guesses.
                at = (at + 7919) % known.len();
                known[at].text.to_string()
            })
            .collect();
        let start = Instant::now();
        for text in &batch {
            let _answer = black_box(keys.authenticate(black_box(text.as_bytes()), NOW));
        }
        spent += start.elapsed();
    }
    // Whole batches were timed; criterion wants the time of `rounds`.
    let timed = rounds.div_ceil(BATCH as u64) * BATCH as u64;
    spent.mul_f64(rounds as f64 / timed as f64)
}

fn authenticate(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("weir.db");
    let pepper = Pepper::new(b"0123456789abcdef0123456789abcdef")?;
    let mut seed = fastrand::Rng::with_seed(1);
    let known = (0..KEYS).map(|_| fresh(&mut seed)).collect::<Result<Vec<_>, _>>()?;
    let rows: Vec<NewKey> = known.iter().map(|key| row(key, &pepper)).collect();
    Store::open(&path)?.create(&rows, NOW)?;
    let start = Instant::now();
    let keys = Keys::load(&path, pepper, Duration::from_secs(3600), Arc::new(Running(start)))?;
    eprintln!("loading {KEYS} keys took {:?}", start.elapsed());
    let stranger = fresh(&mut seed)?;

    let mut group = criterion.benchmark_group("access");
    // The map's memory is as cold as it is with many callers; the key's own text is not: a request has just been read.
    group.bench_function("authenticate_known_of_100k", |bencher| {
        bencher.iter_custom(|rounds| asked_in_turn(&keys, &known, rounds));
    });
    group.bench_function("authenticate_one_known", |bencher| {
        bencher.iter(|| keys.authenticate(black_box(known[0].text.as_bytes()), NOW));
    });
    group.bench_function("authenticate_unknown", |bencher| {
        bencher.iter(|| keys.authenticate(black_box(stranger.text.as_bytes()), NOW));
    });
    group.bench_function("authenticate_junk", |bencher| {
        bencher.iter(|| keys.authenticate(black_box(b"sk-weir-junk"), NOW));
    });
    group.finish();
    Ok(())
}

fn all(criterion: &mut Criterion) {
    if let Err(error) = authenticate(criterion) {
        eprintln!("bench access: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
