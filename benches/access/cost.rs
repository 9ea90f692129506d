//! What one look at a key costs, and whether the time tells an unknown id from a wrong secret.

use super::Failure;
use super::store::{self, Filled, NOW};
use std::hint::black_box;
use std::time::{Duration, Instant};
use weir::io::keys::Keys;

/// Looks that are timed one by one, of each kind.
const SAMPLES: usize = 200_000;
/// Looks that are timed together, where one alone would be the clock's cost.
const ROUNDS: usize = 1_000_000;
/// Texts that are copied before they are presented.
const BATCH: usize = 64;

/// Prints all of them.
pub fn figures(filled: &Filled) -> Result<(), Failure> {
    let keys =
        Keys::load(&store::settings(&filled.path), store::pepper()?, Duration::from_secs(3_600), store::clock())?;
    let hot = filled.known.first().ok_or("no key")?;
    let junk: Box<[u8]> = Box::from(*b"sk-weir-junk");
    mean("known, hot", &keys, std::iter::repeat_n(hot, ROUNDS));
    mean("known, cold", &keys, scattered(&filled.known));
    mean("unknown id", &keys, scattered(&filled.unknown));
    mean("wrong secret", &keys, scattered(&filled.wrong));
    mean("junk", &keys, std::iter::repeat_n(&junk, ROUNDS));
    told_apart(&keys, filled);
    Ok(())
}

/// A prime step visits all of them in an order that no prefetcher guesses.
fn scattered(texts: &[Box<[u8]>]) -> impl Iterator<Item = &Box<[u8]>> {
    (0..ROUNDS).filter_map(|round| texts.get(round * 7_919 % texts.len()))
}

/// Texts are copied in small batches outside of what is timed: a request has just been read, so its key is not cold.
fn mean<'t>(what: &str, keys: &Keys, mut texts: impl Iterator<Item = &'t Box<[u8]>>) {
    let (mut spent, mut timed) = (Duration::ZERO, 0.0);
    loop {
        let batch: Vec<Box<[u8]>> = texts.by_ref().take(BATCH).cloned().collect();
        if batch.is_empty() {
            break;
        }
        let start = Instant::now();
        for text in &batch {
            let _answer = black_box(keys.authenticate(black_box(text), NOW));
        }
        spent += start.elapsed();
        timed += batch.len() as f64;
    }
    println!("one look, {what}: {:.0} ns", spent.as_nanos() as f64 / timed);
}

/// Interleaved, so that whatever else the machine does happens to both. |t| < 4.5: no difference can be seen.
fn told_apart(keys: &Keys, filled: &Filled) {
    let (mut unknown, mut wrong) = (Spread::default(), Spread::default());
    for round in 0..SAMPLES {
        let at = round * 7_919 % filled.unknown.len().max(1);
        for (texts, spread) in [(&filled.unknown, &mut unknown), (&filled.wrong, &mut wrong)] {
            let Some(text) = texts.get(at) else { continue };
            // A copy, as its place in memory would tell more than its id.
            let text = black_box(text.clone());
            let start = Instant::now();
            let _answer = black_box(keys.authenticate(&text, NOW));
            spread.add(start.elapsed().as_nanos() as f64);
        }
    }
    let (difference, t) = (unknown.mean - wrong.mean, unknown.welch(&wrong));
    println!("unknown id against wrong secret, {SAMPLES} each: {difference:.1} ns apart on average, Welch t {t:.2}");
}

/// Mean and variance, one value at a time.
#[derive(Default)]
struct Spread {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let off = value - self.mean;
        self.mean += off / self.count;
        self.squares += off * (value - self.mean);
    }

    fn welch(&self, other: &Self) -> f64 {
        let part = |spread: &Self| spread.squares / (spread.count - 1.0) / spread.count;
        (self.mean - other.mean) / (part(self) + part(other)).sqrt()
    }
}
