//! Instructions of one routing decision, which do not depend on the machine's load:
//! `cargo bench --bench routing_instructions` (needs valgrind and gungraun-runner of the same version as gungraun).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use gungraun::{library_benchmark, library_benchmark_group, main};
use std::hint::black_box;
use weir::domain::cost::CostConstants;
use weir::domain::units::{Micros, Tokens};
use weir::logic::routing::index::{Fate, Index};
use weir::logic::routing::policy::mix;
use weir::logic::routing::prefix::chain;
use weir::logic::routing::{Ask, BackendFacts, Book, Booking, Eligible, Ending, PolicyKind};

const BACKENDS: usize = 64;
const BLOCKS: u64 = 156;

fn text() -> Vec<u8> {
    (0..5_000_u64).flat_map(|at| mix(at).to_le_bytes()).collect()
}

fn blocks(document: u64) -> Vec<u64> {
    (0..BLOCKS).map(|depth| mix(document << 32 | depth)).collect()
}

/// A book that holds `documents` of 156 blocks each, and a chain of which it holds the first half.
fn warm(documents: u64) -> (Book, Vec<u64>) {
    let facts: Vec<_> =
        (0..BACKENDS as u64).map(|identity| BackendFacts { weight: 1, kv_tokens: 2_000_000, identity }).collect();
    let mut book = Book::new(&PolicyKind::KvAware(CostConstants::default()), &facts);
    for document in 0..documents {
        let booking = choose(&mut book, &blocks(document));
        book.release(booking, Ending::Done { input: None, output: None, cached_tokens: None }, Micros(document));
    }
    let mut asked = blocks(documents / 2);
    asked.truncate(BLOCKS as usize / 2);
    asked.extend(&blocks(u64::from(u32::MAX))[..BLOCKS as usize / 2]);
    (book, asked)
}

fn choose(book: &mut Book, chain: &[u64]) -> Booking {
    let ask = Ask { chain, input_tokens: Tokens(10_000), affinity: None };
    book.choose(&ask, &Eligible::all(BACKENDS), Micros(1_000_000), 7).unwrap()
}

#[library_benchmark]
#[bench::forty_kb(text())]
fn hash(text: Vec<u8>) -> Vec<u64> {
    chain(&[b"llama-3.1-8b", b"acme"], std::iter::once(black_box(&text[..])))
}

/// An index of 100,000 blocks with the first half of the asked document at four depths, and what it is asked.
fn warm_index() -> (Index, Vec<u64>, Vec<u32>) {
    let mut index = Index::new(&[31_250; BACKENDS], 256 << 20).unwrap();
    for document in 0..650 {
        let blocks = blocks(document);
        for (holder, depth) in [blocks.len(), 78, 40, 20].into_iter().enumerate() {
            let backend = (document as usize + 16 * holder) % BACKENDS;
            let pins = index.pin(backend, &blocks[..depth]);
            index.unpin(backend, pins, Fate::Keep, Micros(document));
        }
    }
    (index, blocks(325), vec![0; BACKENDS])
}

#[library_benchmark]
#[bench::hundred_thousand_blocks(warm_index())]
fn look_up(given: (Index, Vec<u64>, Vec<u32>)) -> (Index, Vec<u64>, Vec<u32>) {
    let (index, chain, mut depths) = given;
    index.depths(black_box(&chain), &Eligible::all(BACKENDS), &mut depths);
    (index, chain, depths)
}

#[library_benchmark]
#[bench::thousand_blocks(warm(7))]
#[bench::million_blocks(warm(6_500))]
fn choose_and_book(given: (Book, Vec<u64>)) -> (Book, Booking) {
    let (mut book, asked) = given;
    let booking = choose(&mut book, black_box(&asked));
    (book, booking)
}

library_benchmark_group!(name = routing; benchmarks = hash, look_up, choose_and_book);
main!(library_benchmark_groups = routing);
