//! Writes what a caller may know of a request's timing. Decides what is left out for whom, measures nothing.

use crate::domain::units::Micros;
use bytes::Bytes;
use std::fmt::Write;

/// The figures of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing<'a> {
    /// From the head to the first output.
    pub ttft: Option<Micros>,
    /// Per output token after the first.
    pub tpot: Option<Micros>,
    /// In our queue.
    pub queue: Option<Micros>,
    /// Our own work.
    pub overhead: Option<Micros>,
    /// Who answered.
    pub backend: Option<&'a str>,
    /// Input tokens.
    pub input: Option<u64>,
    /// Output tokens.
    pub output: Option<u64>,
    /// Of the input, what came out of a cache.
    pub cached: Option<u64>,
}

/// Who is told. `backend`, `queue_ms` and `cached` tell about others, so only trusted addresses see them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    /// Anyone.
    Caller,
    /// Within `telemetry.debug_from`.
    Operator,
}

impl Timing<'_> {
    fn for_audience(mut self, audience: Audience) -> Self {
        if audience == Audience::Caller {
            (self.backend, self.queue, self.cached) = (None, None, None);
        }
        self
    }
}

fn millis(span: Micros) -> String {
    format!("{}.{:03}", span.0 / 1_000, span.0 % 1_000)
}

/// The comment behind a stream's last event: `: weir ttft_ms=12.345;…` and a blank line. Unknown figures are left out.
#[must_use]
pub fn comment(timing: Timing<'_>, audience: Audience) -> Bytes {
    let timing = timing.for_audience(audience);
    let fields = [
        ("ttft_ms", timing.ttft.map(millis)),
        ("tpot_ms", timing.tpot.map(millis)),
        ("queue_ms", timing.queue.map(millis)),
        ("overhead_us", timing.overhead.map(|span| span.0.to_string())),
        ("backend", timing.backend.map(clean)),
        ("in", timing.input.map(|count| count.to_string())),
        ("out", timing.output.map(|count| count.to_string())),
        ("cached", timing.cached.map(|count| count.to_string())),
    ];
    let known = fields.into_iter().filter_map(|(name, value)| value.map(|value| format!("{name}={value}")));
    Bytes::from(format!(": weir {}\n\n", known.collect::<Vec<_>>().join(";")))
}

/// The value of a `Server-Timing` header, durations in milliseconds.
#[must_use]
pub fn server_timing(timing: Timing<'_>, audience: Audience) -> String {
    let timing = timing.for_audience(audience);
    let mut out = String::new();
    for (name, span) in [("ttft", timing.ttft), ("queue", timing.queue), ("overhead", timing.overhead)] {
        let Some(span) = span else { continue };
        let comma = if out.is_empty() { "" } else { ", " };
        // Writing to a String cannot fail.
        let _ = write!(out, "{comma}{name};dur={}", millis(span));
    }
    if let Some(backend) = timing.backend {
        let comma = if out.is_empty() { "" } else { ", " };
        let _ = write!(out, "{comma}backend;desc=\"{}\"", clean(backend));
    }
    out
}

/// A name without anything that could end a field, a quote or a line.
fn clean(name: &str) -> String {
    name.chars().filter(|letter| letter.is_ascii_graphic() && !matches!(letter, ';' | '"' | '\\' | ',')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Timing<'_> = Timing {
        ttft: Some(Micros(12_345)),
        tpot: Some(Micros(7)),
        queue: Some(Micros(1_000)),
        overhead: Some(Micros(42)),
        backend: Some("gpu\n;1"),
        input: Some(5),
        output: Some(0),
        cached: Some(4),
    };

    #[test]
    fn only_operators_see_backend_queue_and_cache() {
        let full =
            b": weir ttft_ms=12.345;tpot_ms=0.007;queue_ms=1.000;overhead_us=42;backend=gpu1;in=5;out=0;cached=4\n\n";
        assert_eq!(&comment(FULL, Audience::Operator)[..], &full[..], "everything, and nothing breaks the line");
        let part = b": weir ttft_ms=12.345;tpot_ms=0.007;overhead_us=42;in=5;out=0\n\n";
        assert_eq!(&comment(FULL, Audience::Caller)[..], &part[..], "nothing about others");
        assert_eq!(server_timing(FULL, Audience::Caller), "ttft;dur=12.345, overhead;dur=0.042", "header");
        assert!(server_timing(FULL, Audience::Operator).ends_with("backend;desc=\"gpu1\""), "header for operators");
    }
}
