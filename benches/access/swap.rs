//! What a swap of the whole snapshot does to those who call meanwhile: time from one call's end to the next one's end,
//! with and without swaps, by one thread and by two.

use super::Failure;
use super::store::{self, Filled, NOW};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use weir::io::directory::Configured;
use weir::io::keys::{self, Keys, Pulse, Settings};
use weir::runtime::Abort;

/// How long it is measured without swaps.
const CALM: Duration = Duration::from_secs(6);
/// Swaps while it is measured with them.
const SWAPS: u64 = 3;
/// A swap that takes longer than this is no swap.
const PATIENCE: Duration = Duration::from_secs(60);

/// Prints pauses of both.
pub fn figures(filled: &Filled) -> Result<(), Failure> {
    let started = keys::start(Settings {
        store: store::settings(&filled.path),
        configured: Configured::default(),
        authenticators: vec![("keys".to_owned(), store::pepper()?, Duration::from_secs(3_600))],
        clock: store::clock(),
        abort: watch::Sender::new(Abort::default()),
    })?;
    let keys = started.keys.get("keys").ok_or("no authenticator")?;
    for threads in [1, 2] {
        let calm = under_load(threads, keys, filled, || {
            thread::sleep(CALM);
            Ok(())
        })?;
        let start = Instant::now();
        let swapping = under_load(threads, keys, filled, || (0..SWAPS).try_for_each(|_| swap(filled, &started.pulse)))?;
        let each = start.elapsed() / u32::try_from(SWAPS)?;
        println!("{threads} thread(s) calling, no swap:   {calm}");
        println!("{threads} thread(s) calling, {SWAPS} swaps:  {swapping} ({each:.1?} from a swap to the next)");
    }
    Ok(())
}

/// Has everything read anew, and waits until it is in force and what was before is let go.
fn swap(filled: &Filled, pulse: &Pulse) -> Result<(), Failure> {
    let (before, end) = (pulse.figures(), Instant::now() + PATIENCE);
    store::reset(&filled.path)?;
    while pulse.figures().snapshots == before.snapshots {
        if Instant::now() > end {
            return Err("the snapshot was not swapped".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    // The look after the one that swapped begins when the old snapshot has been freed.
    let looks = pulse.figures().looks;
    while pulse.figures().looks <= looks && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn under_load(
    threads: usize,
    keys: &Arc<Keys>,
    filled: &Filled,
    meanwhile: impl FnOnce() -> Result<(), Failure>,
) -> Result<Pauses, Failure> {
    let stop = &AtomicBool::new(false);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..threads).map(|start| scope.spawn(move || calls(keys, filled, start, stop))).collect();
        let done = meanwhile();
        stop.store(true, Ordering::Relaxed);
        let mut all = Pauses::default();
        for caller in callers {
            all.add(&caller.join().map_err(|_| "a caller panicked")?);
        }
        done.map(|()| all)
    })
}

fn calls(keys: &Keys, filled: &Filled, start: usize, stop: &AtomicBool) -> Pauses {
    let mut pauses = Pauses::default();
    let (mut last, mut at) = (Instant::now(), start);
    while !stop.load(Ordering::Relaxed) {
        at = (at + 7_919) % filled.known.len().max(1);
        if let Some(text) = filled.known.get(at) {
            let _answer = black_box(keys.authenticate(black_box(text), NOW));
        }
        let now = Instant::now();
        pauses.note(now - last);
        last = now;
    }
    pauses
}

/// Times between two ends of calls, counted by their power of 2^(1/8) nanoseconds.
struct Pauses {
    counts: Vec<u64>,
    longest: Duration,
    over: u64,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { counts: vec![0; 320], longest: Duration::ZERO, over: 0 }
    }
}

impl Pauses {
    fn note(&mut self, pause: Duration) {
        let place = ((pause.as_nanos() as f64).max(1.0).log2() * 8.0) as usize;
        if let Some(count) = self.counts.get_mut(place) {
            *count += 1;
        }
        self.longest = self.longest.max(pause);
        self.over += u64::from(pause > Duration::from_millis(5));
    }

    fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.longest = self.longest.max(other.longest);
        self.over += other.over;
    }

    fn quantile(&self, part: f64) -> Duration {
        let wanted = (self.counts.iter().sum::<u64>() as f64 * part) as u64;
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen > wanted
        });
        Duration::from_nanos(((place.unwrap_or_default() + 1) as f64 / 8.0).exp2() as u64)
    }
}

impl std::fmt::Display for Pauses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let calls: u64 = self.counts.iter().sum();
        let (p50, p999, p99999) = (self.quantile(0.5), self.quantile(0.999), self.quantile(0.99999));
        let (longest, over) = (self.longest, self.over);
        write!(f, "{calls} calls, p50 {p50:.1?}, p99.9 {p999:.1?}, p99.999 {p99999:.1?}, ")?;
        write!(f, "longest {longest:.1?}, {over} over 5 ms")
    }
}
