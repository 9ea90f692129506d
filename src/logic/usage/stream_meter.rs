//! Meters an event stream while it passes: takes bytes in any pieces, gives out whole events, counts what they say,
//! and takes out what only Weir asked for. Decides nothing about retries or money.

use super::counts::RawCounts;
use super::event_form::EventForm;
use super::events::{self, Reading, Stage};
use super::json_meter::JsonMeter;
use super::outbox::Outbox;
use super::tally::{MAX_RAW_USAGE, UpstreamFault, word};
use crate::domain::tokens::UsageSource;
use crate::logic::wire::json;
use crate::logic::wire::sse::{self, Event, Framer, MAX_EVENT};
use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

pub use super::tally::Tally;
pub use crate::logic::wire::stream_kind::StreamKind;

/// What to take out because the client did not ask for it. Concerns chat and text completions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Strip {
    /// Drop events whose `choices` is `[]` and whose `usage` is an object.
    pub usage_event: bool,
    /// Cut the `usage` object out of events that have choices.
    pub running_usage: bool,
}

/// What one piece gave.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// Whole events, ready to send. (Of an event over [`MAX_EVENT`] parts are passed as they come.)
    pub out: Bytes,
    /// Model output is in `out`.
    pub output: bool,
    /// The answer's own end is in `out`.
    pub terminal: bool,
    /// The upstream told an error: `out` ends before it, and nothing follows.
    pub error: bool,
}

struct Finders {
    usage: Finder<'static>,
    error: Finder<'static>,
    finish: Finder<'static>,
    content: Finder<'static>,
    text: Finder<'static>,
    delta: Finder<'static>,
}

// A quote inside of a JSON string is escaped, so `"usage"` can only be a whole string: a member, or a text that is
// just this word; then the event is parsed for nothing.
static FINDERS: LazyLock<Finders> = LazyLock::new(|| Finders {
    usage: Finder::new(b"\"usage\""),
    error: Finder::new(b"\"error\""),
    finish: Finder::new(b"\"finish_reason\""),
    content: Finder::new(b"\"content\""),
    text: Finder::new(b"\"text\""),
    delta: Finder::new(b"\"delta\""),
});

/// What becomes of a block.
enum Verdict {
    Keep,
    Drop,
    Replace(Vec<u8>),
    Stop,
}

/// The meter of one stream.
#[derive(Debug)]
pub struct StreamMeter {
    kind: StreamKind,
    strip: Strip,
    framer: Framer,
    /// The open block's bytes, at most [`MAX_EVENT`].
    carry: BytesMut,
    /// Reads the usage out of an event that is too long to be carried.
    long: Option<Box<JsonMeter>>,
    long_ends: bool,
    form: EventForm,
    usage: RawCounts,
    tally: Tally,
    first_block: bool,
    last_kept: bool,
    stopped: bool,
}

impl StreamMeter {
    /// A meter at the start of a stream.
    #[must_use]
    pub fn new(kind: StreamKind, strip: Strip) -> Self {
        Self {
            kind,
            strip,
            framer: Framer::default(),
            carry: BytesMut::new(),
            long: None,
            long_ends: false,
            form: EventForm::default(),
            usage: RawCounts::default(),
            tally: Tally::default(),
            first_block: true,
            last_kept: true,
            stopped: false,
        }
    }

    /// What the stream has told so far.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// True if everything that was given out ends at an event's end, so that a comment or an event may follow.
    #[must_use]
    pub fn at_boundary(&self) -> bool {
        self.long.is_none()
    }

    /// Takes the next bytes of the upstream's body.
    pub fn push(&mut self, piece: Bytes) -> Step {
        let mut step = Step::default();
        if self.stopped || piece.is_empty() {
            return step;
        }
        let mut out = Outbox::new(&piece);
        let mut at = 0;
        if self.carry.is_empty() && self.long.is_none() && self.framer.owes_lf(piece[0]) {
            at = 1;
            if self.last_kept {
                out.keep(0..1);
            }
        }
        while at < piece.len() && !self.stopped {
            if let Some(length) = self.same_again(&piece[at..]) {
                out.keep(at..at + length);
                step.output = true;
                at += length;
                continue;
            }
            let end = self.framer.block_end(&piece[at..]).map(|length| at + length);
            let part = at..end.unwrap_or(piece.len());
            at = part.end;
            self.take(part, end.is_some(), &mut out, &mut step);
        }
        step.out = out.done();
        step
    }

    /// Ends the stream at the upstream's EOF. An event that lacks only its blank line counts and is completed; one
    /// that breaks off is dropped.
    pub fn finish(&mut self) -> Step {
        let mut step = Step::default();
        if self.stopped {
            return step;
        }
        self.stopped = true;
        let completion = Bytes::from_static(self.framer.completion());
        if self.long.is_some() {
            self.end_long(&mut step);
            step.out = completion;
            return step;
        }
        if self.carry.is_empty() {
            return step;
        }
        let mut block = std::mem::take(&mut self.carry);
        block.extend_from_slice(&completion);
        step.out = match self.meter_block(&block, true, &mut step) {
            Verdict::Keep => block.freeze(),
            Verdict::Replace(text) => text.into(),
            Verdict::Drop | Verdict::Stop => Bytes::new(),
        };
        step
    }

    /// Takes a part of a block; `whole` if the block ends with it.
    fn take(&mut self, part: Range<usize>, whole: bool, out: &mut Outbox<'_>, step: &mut Step) {
        let bytes = &out.piece()[part.clone()];
        if let Some(long) = &mut self.long {
            long.push(bytes);
            self.tally.text_bytes += bytes.len() as u64;
            out.keep(part);
        } else if self.carry.len() + bytes.len() > MAX_EVENT {
            self.begin_long(bytes, step);
            out.emit(&std::mem::take(&mut self.carry));
            out.keep(part);
        } else if !whole {
            self.carry.extend_from_slice(bytes);
        } else if self.carry.is_empty() {
            match self.meter_block(bytes, false, step) {
                Verdict::Keep => out.keep(part),
                Verdict::Replace(text) => out.emit(&text),
                Verdict::Drop | Verdict::Stop => {}
            }
        } else {
            let mut block = std::mem::take(&mut self.carry);
            block.extend_from_slice(bytes);
            match self.meter_block(&block, false, step) {
                Verdict::Keep => out.emit(&block),
                Verdict::Replace(text) => out.emit(&text),
                Verdict::Drop | Verdict::Stop => {}
            }
            block.clear();
            self.carry = block;
        }
        if whole && self.long.is_some() {
            self.end_long(step);
        }
    }

    /// The open block (carried bytes, then `bytes`) is over the limit: from here it passes as it comes.
    fn begin_long(&mut self, bytes: &[u8], step: &mut Step) {
        let mut long = JsonMeter::of_event();
        long.push(&self.carry);
        long.push(bytes);
        self.long = Some(Box::new(long));
        self.tally.text_bytes += (self.carry.len() + bytes.len()) as u64;
        self.tally.unread_events += 1;
        self.tally.sse_events += 1;
        self.first_block = false;
        self.last_kept = true;
        // The name stands in the first line, if anywhere.
        let start = [&self.carry[..], bytes].concat();
        let line = start.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
        let name = line.strip_prefix(b"event:").and_then(|name| std::str::from_utf8(name).ok());
        self.long_ends = name.is_some_and(|name| events::is_responses_end(name.trim()));
        step.output |= !self.long_ends;
    }

    fn end_long(&mut self, step: &mut Step) {
        let told = self.long.take().map(|long| long.finish()).unwrap_or_default();
        if told.source == UsageSource::UpstreamFinal {
            self.tally.counts = told.counts;
            self.tally.source = told.source;
            self.tally.raw_usage = told.raw_usage;
        }
        self.tally.model_reported = self.tally.model_reported.take().or(told.model_reported);
        if std::mem::take(&mut self.long_ends) {
            self.tally.terminal_seen = true;
            step.terminal = true;
        }
        self.tally.deliver();
    }

    /// The fastest path: where a block begins, an event that differs from the last ordinary one in its text only.
    fn same_again(&mut self, bytes: &[u8]) -> Option<usize> {
        if !self.carry.is_empty() || self.long.is_some() {
            return None;
        }
        let (length, text) = self.form.begins(bytes).filter(|(length, _)| *length <= MAX_EVENT)?;
        self.framer = Framer::default();
        self.last_kept = true;
        self.tally.content_events += 1;
        self.tally.text_bytes += text;
        self.tally.sse_events += 1;
        self.tally.deliver();
        Some(length)
    }

    fn meter_block(&mut self, block: &[u8], last: bool, step: &mut Step) -> Verdict {
        let body = if std::mem::take(&mut self.first_block) { block.strip_prefix(sse::BOM) } else { None };
        let Some(event) = sse::read(body.unwrap_or(block)) else {
            self.last_kept = !last;
            return if last { Verdict::Drop } else { Verdict::Keep };
        };
        let verdict = if !last && self.passes_unparsed(block, &event) {
            step.output = true;
            Verdict::Keep
        } else {
            self.read_event(block, &event, last, step)
        };
        self.last_kept = matches!(verdict, Verdict::Keep | Verdict::Replace(_));
        if self.last_kept {
            self.tally.sse_events += 1;
            self.tally.deliver();
        }
        verdict
    }

    /// The fast path: after the first output, an event with text and none of the words that need a parse.
    fn passes_unparsed(&mut self, block: &[u8], event: &Event<'_>) -> bool {
        let (data, finders) = (&*event.data, &*FINDERS);
        if self.tally.content_events == 0 || event.name == Some(b"error") {
            return false;
        }
        let (text, ends) = match self.kind {
            StreamKind::Chat => (&finders.content, true),
            StreamKind::Completions => (&finders.text, true),
            StreamKind::Responses => (&finders.delta, false),
            StreamKind::Anthropic => (&finders.text, false),
        };
        if finders.usage.find(data).is_some() || finders.error.find(data).is_some() {
            return false;
        }
        if ends && member_value(&finders.finish, data).is_some_and(|value| value.first() != Some(&b'n')) {
            return false;
        }
        let value = member_value(text, data).and_then(|value| value.strip_prefix(b"\""));
        let Some((value, text)) = value.and_then(|value| Some((value, json::string_text(value)?))) else {
            return false;
        };
        if text.length == 0 {
            return false;
        }
        if let Cow::Borrowed(_) = event.data {
            self.form.learn(block, json::span_of(block, &value[..text.end]));
        }
        self.tally.content_events += 1;
        self.tally.text_bytes += text.length;
        true
    }

    fn read_event(&mut self, block: &[u8], event: &Event<'_>, last: bool, step: &mut Step) -> Verdict {
        let unread = if last { Verdict::Drop } else { Verdict::Keep };
        let Ok(data) = std::str::from_utf8(&event.data) else { return unread };
        if data.trim() == "[DONE]" {
            self.tally.terminal_seen = true;
            step.terminal = true;
            return Verdict::Keep;
        }
        let name = event.name.and_then(|name| std::str::from_utf8(name).ok());
        let reading = match self.kind {
            StreamKind::Chat | StreamKind::Completions => events::chunk(data),
            StreamKind::Responses => events::responses(name, data),
            StreamKind::Anthropic => events::anthropic(name, data),
        };
        if name == Some("error") || reading.as_ref().is_some_and(|reading| reading.broken) {
            let told = reading.and_then(|reading| reading.error).map_or(data, |error| error.get());
            self.tally.error = Some(UpstreamFault::read(told));
            self.stopped = true;
            step.error = true;
            return Verdict::Stop;
        }
        let Some(reading) = reading else { return unread };
        self.apply(&reading);
        step.output |= reading.output;
        step.terminal |= reading.terminal;
        self.strip_usage(block, event, &reading)
    }

    fn apply(&mut self, reading: &Reading<'_>) {
        let tally = &mut self.tally;
        tally.text_bytes += reading.text;
        tally.content_events += u64::from(reading.output);
        tally.terminal_seen |= reading.terminal;
        if tally.model_reported.is_none() {
            tally.model_reported = reading.model.and_then(|raw| text_of(raw.get()));
        }
        if let Some(finish) = reading.finish {
            tally.finish_reason = text_of(finish.get()).or_else(|| tally.finish_reason.take());
        }
        if let Some(error) = reading.error {
            tally.error = Some(UpstreamFault::read(error.get()));
        }
        let Some(raw) = reading.usage else { return };
        let Ok(counts) = serde_json::from_str::<RawCounts>(raw.get()) else { return };
        self.usage.update(&counts);
        tally.counts = if self.kind == StreamKind::Anthropic { self.usage.anthropic() } else { self.usage.openai() };
        tally.source = match reading.stage {
            Stage::Final => UsageSource::UpstreamFinal,
            Stage::Running => UsageSource::UpstreamContinuous,
            Stage::Opening => UsageSource::UpstreamPartial,
        };
        keep_raw(&mut tally.raw_usage, raw.get());
    }

    fn strip_usage(&self, block: &[u8], event: &Event<'_>, reading: &Reading<'_>) -> Verdict {
        let Some(usage) = reading.usage else { return Verdict::Keep };
        match reading.choices {
            Some(false) if self.strip.usage_event => Verdict::Drop,
            Some(true) if self.strip.running_usage => cut_usage(block, event, usage.get()),
            _ => Verdict::Keep,
        }
    }
}

/// The text behind `"member":`, white space skipped; `None` if the word is absent or no member's name.
fn member_value<'a>(member: &Finder<'_>, data: &'a [u8]) -> Option<&'a [u8]> {
    let colon = json::first_solid(data, member.find(data)? + member.needle().len());
    (data.get(colon) == Some(&b':')).then(|| &data[json::first_solid(data, colon + 1)..])
}

/// The block without its `usage` member. Data of several lines is written as one: its line ends are white space.
fn cut_usage(block: &[u8], event: &Event<'_>, usage: &str) -> Verdict {
    let value = json::span_of(&event.data, usage.as_bytes());
    let Some(cut) = json::member_range(&event.data, value) else { return Verdict::Keep };
    if let Cow::Borrowed(data) = event.data {
        let start = json::span_of(block, data).start;
        return Verdict::Replace([&block[..start + cut.start], &block[start + cut.end..]].concat());
    }
    let mut out = Vec::with_capacity(block.len());
    if let Some(name) = event.name {
        out.extend_from_slice(&[b"event: ", name, b"\n"].concat());
    }
    out.extend_from_slice(b"data: ");
    let kept = event.data[..cut.start].iter().chain(&event.data[cut.end..]);
    out.extend(kept.map(|byte| if *byte == b'\n' { b' ' } else { *byte }));
    out.extend_from_slice(b"\n\n");
    Verdict::Replace(out)
}

/// Keeps a usage object verbatim in the buffer that is there, so that running usage allocates nothing.
fn keep_raw(slot: &mut Option<String>, raw: &str) {
    if raw.len() > MAX_RAW_USAGE {
        *slot = None;
        return;
    }
    let text = slot.get_or_insert_default();
    text.clear();
    text.push_str(raw);
}

/// A JSON string's text, shortened as all words are.
fn text_of(raw: &str) -> Option<String> {
    serde_json::from_str::<String>(raw).ok().map(|text| word(&text))
}

#[cfg(test)]
mod tests;
