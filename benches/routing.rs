//! What routing costs a request: `cargo bench --bench routing`.
//!
//! 64 backends, one million different blocks in the index, prompts of 40 KB (10,000 tokens, 156 blocks) of which half
//! is shared by up to four backends. The last lines are a hand loop with p50 and p99 of a whole decision, hashing
//! included: first at a million blocks (the bound is p99 ≤ 100 µs there), then with full mirrors that evict. On a busy
//! machine most of a p99 is the scheduler, so it is also told of the spans in which the thread was not switched out.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::{Duration, Instant};
use weir::domain::cost::CostConstants;
use weir::domain::units::{Micros, Tokens};
use weir::logic::routing::index::{Fate, Index};
use weir::logic::routing::policy::mix;
use weir::logic::routing::prefix::chain;
use weir::logic::routing::{Ask, BackendFacts, Book, Eligible, Ending, PolicyKind};

const BACKENDS: usize = 64;
const PROMPT_BYTES: usize = 40_000;
const DOCUMENTS: u64 = 6_400;
const DONE: Ending = Ending::Done { input: None, output: None, cached_tokens: None };

/// A prompt whose first half is one of [`DOCUMENTS`], and whose second half is its own.
fn prompt(document: u64, own: u64) -> Vec<u8> {
    let words = (0..PROMPT_BYTES as u64 / 8)
        .map(|at| if at < PROMPT_BYTES as u64 / 16 { mix(document << 20 | at) } else { mix(own << 40 | at) });
    words.flat_map(u64::to_le_bytes).collect()
}

fn hash(prompt: &[u8]) -> Vec<u64> {
    // Twelve messages.
    chain(&[b"llama-3.1-8b", b"acme"], prompt.chunks(PROMPT_BYTES / 12 + 1))
}

/// A book that has served one whole prompt of each document.
fn warm_book() -> Book {
    let facts: Vec<_> =
        (0..BACKENDS as u64).map(|identity| BackendFacts { weight: 1, kv_tokens: 2_000_000, identity }).collect();
    let mut book = Book::new(&PolicyKind::KvAware(CostConstants::default()), &facts);
    let all = Eligible::all(BACKENDS);
    for document in 0..DOCUMENTS + DOCUMENTS / 2 {
        let blocks = hash(&prompt(document % DOCUMENTS, document));
        let ask = Ask { chain: &blocks, input_tokens: Tokens(10_000), affinity: None };
        let now = Micros(document * 1_000);
        let mut booking = book.choose(&ask, &all, now, mix(document)).unwrap();
        book.first_output(&mut booking, now);
        book.release(booking, DONE, now);
    }
    assert!(book.totals().index_blocks >= 1_000_000, "a million blocks: {}", book.totals().index_blocks);
    book
}

/// An index of a million blocks in which a document's first half is on four backends, at four depths.
fn warm_index() -> Index {
    let mut index = Index::new(&[31_250; BACKENDS], 256 << 20).unwrap();
    for document in 0..DOCUMENTS + DOCUMENTS / 2 {
        let blocks = hash(&prompt(document % DOCUMENTS, document));
        for (holder, depth) in [blocks.len(), 78, 40, 20].into_iter().enumerate() {
            let backend = mix(document + ((holder as u64) << 32)) as usize % BACKENDS;
            let pins = index.pin(backend, &blocks[..depth]);
            index.unpin(backend, pins, Fate::Keep, Micros(document));
        }
    }
    assert!(index.blocks() >= 1_000_000, "a million blocks: {}", index.blocks());
    index
}

fn routing(criterion: &mut Criterion) {
    let prompts: Vec<Vec<u8>> = (0..256).map(|at| prompt(mix(at) % DOCUMENTS, 1 << 20 | at)).collect();
    let chains: Vec<Vec<u64>> = prompts.iter().map(|prompt| hash(prompt)).collect();
    let all = Eligible::all(BACKENDS);
    let mut turn = 0_usize;
    let mut next = move || {
        turn += 1;
        turn % 256
    };

    criterion.bench_function("chain hash of 40 KB", |bencher| bencher.iter(|| hash(black_box(&prompts[next()]))));

    let index = warm_index();
    let mut depths = vec![0; BACKENDS];
    criterion.bench_function("index look-up, 156 blocks, 1M blocks held, 64 backends", |bencher| {
        bencher.iter(|| {
            index.depths(black_box(&chains[next()]), &all, &mut depths);
            depths[0]
        })
    });
    drop(index);

    let mut book = warm_book();
    let mut now = 100_000_000;
    criterion.bench_function("choose and release, 1M blocks held, 64 backends", |bencher| {
        bencher.iter_batched(
            &mut next,
            |at| {
                now += 100;
                let ask = Ask { chain: &chains[at], input_tokens: Tokens(10_000), affinity: None };
                let booking = book.choose(&ask, &all, Micros(now), now).unwrap();
                book.release(booking, Ending::Failed, Micros(now));
            },
            BatchSize::SmallInput,
        )
    });
    percentiles(&mut book, &all, 0..3_000);
    // By now the mirrors are nearly full, so that most insertions evict.
    percentiles(&mut book, &all, 3_000..20_000);
}

/// How often this thread was given a processor (Linux; else always 0): the third number of its `schedstat`.
fn turns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().nth(2).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// How long the work took, and whether the thread kept its processor.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration, bool) {
    let before = turns();
    let start = Instant::now();
    let made = work();
    let span = start.elapsed();
    (made, span, turns() == before)
}

/// Fresh prompts, so that every decision also inserts; 64 requests are in flight.
fn percentiles(book: &mut Book, all: &Eligible, requests: std::ops::Range<u64>) {
    let (mut decide, mut release) = (Vec::new(), Vec::new());
    let mut running = std::collections::VecDeque::new();
    for at in requests {
        let text = prompt(mix(at) % DOCUMENTS, 1 << 21 | at);
        let now = Micros(200_000_000 + at * 1_000);
        let (booking, span, kept) = timed(|| {
            let ask = Ask { chain: &hash(&text), input_tokens: Tokens(10_000), affinity: None };
            book.choose(&ask, all, now, mix(at)).unwrap()
        });
        decide.push((span, kept));
        running.push_back(booking);
        if running.len() > BACKENDS {
            let mut booking = running.pop_front().unwrap();
            let ((), span, kept) = timed(|| {
                book.first_output(&mut booking, now);
                book.release(booking, DONE, now);
            });
            release.push((span, kept));
        }
    }
    running.into_iter().for_each(|booking| book.release(booking, DONE, Micros(300_000_000)));
    println!("{} blocks held", book.totals().index_blocks);
    for (what, spans) in [("hash + choose + book", decide), ("first output + release", release)] {
        print_percentiles(what, spans.iter().map(|(span, _)| *span).collect());
        let kept = spans.iter().filter(|(_, kept)| *kept).map(|(span, _)| *span);
        print_percentiles(&format!("{what}, not switched out"), kept.collect());
    }
}

fn print_percentiles(what: &str, mut spans: Vec<Duration>) {
    spans.sort_unstable();
    let at = |share: f64| spans[(spans.len() as f64 * share) as usize];
    let [p50, p95, p99, p999] = [0.5, 0.95, 0.99, 0.999].map(at);
    println!("  {what}: p50 {p50:?}  p95 {p95:?}  p99 {p99:?}  p99.9 {p999:?}  (of {})", spans.len());
}

criterion_group!(benches, routing);
criterion_main!(benches);
