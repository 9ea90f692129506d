//! Wall-clock cost of the wire: one request body, and events of a stream. Prints allocations per operation first.
//! Run: `cargo bench --bench wire`.

#![allow(missing_docs)] // the macros make public items of their own

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;
use weir::domain::surface::Surface;
use weir::logic::usage::stream_meter::{StreamKind, StreamMeter, Strip};
use weir::logic::wire::scan::scan;

// The one way to count allocations on stable Rust is an allocator of one's own, and that trait is unsafe. It
// forwards to the system's and adds one to a counter; it is in no shipped binary.
#[allow(unsafe_code)]
mod counting {
    use std::alloc::{GlobalAlloc, Layout, System};
    use std::sync::atomic::{AtomicU64, Ordering};

    pub static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

    pub struct Counting;

    unsafe impl GlobalAlloc for Counting {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            unsafe { System.alloc(layout) }
        }
        unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
            unsafe { System.dealloc(place, layout) }
        }
        unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
            unsafe { System.realloc(place, layout, size) }
        }
    }
}

#[global_allocator]
static ALLOCATOR: counting::Counting = counting::Counting;

const FIRST: &str = "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const USAGE: &str = "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":1000,\"total_tokens\":1050,\"completion_tokens\":50}}\n\n";

fn body() -> Bytes {
    let text = "the quick brown fox said \\\"no\\\" and left\\n".repeat(24);
    let message = format!("{{\"role\":\"user\",\"content\":\"{text}\"}}");
    let messages = vec![message; 8].join(",");
    Bytes::from(format!("{{\"messages\":[{messages}],\"model\":\"llama-3.1-8b\",\"stream\":true,\"max_tokens\":256}}"))
}

/// Ordinary events in buffers that are shared, as those from a socket are (cloning a static one would be too cheap):
/// of one stream, which differ in their text, or each of another form.
fn ordinary(one_form: bool) -> Vec<Bytes> {
    let texts = [" token", " the", "\\n\\n", " a", " longer", ".", " \\u00e9", "ing"];
    let event = |(at, text): (usize, &&str)| {
        let event = FIRST.replace(" token", text);
        let event = if one_form { event } else { event.replace("abcdef", &format!("{at:06}")) };
        let shared = Bytes::from(event.into_bytes());
        drop(black_box(shared.clone()));
        shared
    };
    texts.iter().enumerate().map(event).collect()
}

/// A meter past its first output and its first ordinary event, for whose form it takes memory once.
fn warm() -> StreamMeter {
    let mut meter = StreamMeter::new(StreamKind::Chat, Strip { usage_event: true, running_usage: true });
    meter.push(Bytes::from_static(USAGE.as_bytes()));
    meter.push(Bytes::from_static(FIRST.as_bytes()));
    meter
}

fn report(name: &str, mut work: impl FnMut()) {
    use std::sync::atomic::Ordering;
    const ROUNDS: u64 = 10_000;
    let before = counting::ALLOCATIONS.load(Ordering::Relaxed);
    (0..ROUNDS).for_each(|_| work());
    let spent = counting::ALLOCATIONS.load(Ordering::Relaxed) - before;
    println!("{name}: {:.4} allocations per operation", spent as f64 / ROUNDS as f64);
    if name.starts_with("ordinary event") {
        assert_eq!(spent, 0, "an ordinary event must not allocate");
    }
}

fn wire(criterion: &mut Criterion) {
    let body = body();
    let usage = Bytes::from_static(USAGE.as_bytes());
    let (alike, others) = (ordinary(true), ordinary(false));
    let mut meter = warm();
    let mut alike = alike.iter().cycle().cloned();
    let mut others = others.iter().cycle().cloned();
    report("request scan", || drop(black_box(scan(Surface::OpenAiChat, body.clone()))));
    report("ordinary event", || drop(black_box(meter.push(alike.next().unwrap_or_default()))));
    report("event with usage, cut out", || drop(black_box(meter.push(usage.clone()))));
    criterion.bench_function(&format!("request scan, {} bytes", body.len()), |bench| {
        bench.iter(|| scan(Surface::OpenAiChat, black_box(body.clone())));
    });
    criterion.bench_function("ordinary event", |bench| {
        bench.iter(|| meter.push(black_box(alike.next().unwrap_or_default())));
    });
    criterion.bench_function("event with usage, cut out", |bench| bench.iter(|| meter.push(black_box(usage.clone()))));
    // Last: a meter that finds no form again stops looking for one.
    report("ordinary event of another form", || drop(black_box(meter.push(others.next().unwrap_or_default()))));
    criterion.bench_function("ordinary event of another form", |bench| {
        bench.iter(|| meter.push(black_box(others.next().unwrap_or_default())));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(30);
    targets = wire
}
criterion_main!(benches);
