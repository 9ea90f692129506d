//! Instructions spent on the wire, steady where wall clocks are not. Needs valgrind and a `gungraun-runner` of the
//! same version as the crate. Run: `cargo bench --bench wire_instructions`.

#![allow(missing_docs)] // the macros make public items of their own

use bytes::Bytes;
use gungraun::{library_benchmark, library_benchmark_group, main};
use std::hint::black_box;
use weir::domain::call::Call;
use weir::domain::refusal::Refusal;
use weir::domain::surface::Surface;
use weir::logic::usage::stream_meter::{Step, StreamKind, StreamMeter, Strip};
use weir::logic::wire::scan::scan;

const ORDINARY: &[u8] = b"data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const ANOTHER_FORM: &[u8] = b"data: {\"id\":\"chatcmpl-fedcba9876543210\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
const USAGE: &[u8] = b"data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"llama-3.1-8b\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":{\"prompt_tokens\":1000,\"total_tokens\":1050,\"completion_tokens\":50}}\n\n";

fn body() -> Bytes {
    let text = "the quick brown fox said \\\"no\\\" and left\\n".repeat(24);
    let message = format!("{{\"role\":\"user\",\"content\":\"{text}\"}}");
    let messages = vec![message; 8].join(",");
    Bytes::from(format!("{{\"messages\":[{messages}],\"model\":\"llama-3.1-8b\",\"stream\":true,\"max_tokens\":256}}"))
}

/// A meter past its first output, and the piece to push.
fn warm(piece: &'static [u8]) -> (StreamMeter, Bytes) {
    let mut meter = StreamMeter::new(StreamKind::Chat, Strip { usage_event: true, running_usage: true });
    meter.push(Bytes::from_static(USAGE));
    meter.push(Bytes::from_static(ORDINARY));
    (meter, Bytes::from_static(piece))
}

#[library_benchmark]
#[bench::eight_kib(body())]
fn request_scan(body: Bytes) -> Result<Call, Refusal> {
    scan(Surface::OpenAiChat, black_box(body))
}

#[library_benchmark]
#[bench::ordinary(warm(ORDINARY))]
#[bench::another_form(warm(ANOTHER_FORM))]
#[bench::with_usage(warm(USAGE))]
fn event((mut meter, piece): (StreamMeter, Bytes)) -> (StreamMeter, Step) {
    let step = meter.push(black_box(piece));
    (meter, step)
}

library_benchmark_group!(name = wire; benchmarks = request_scan, event);
main!(library_benchmark_groups = wire);
