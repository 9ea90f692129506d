//! Meters an answer that is one JSON document, while it streams by: `usage`, `model`, the reason to stop and the
//! amount of text. Keeps at most [`MAX_CAPTURE`] bytes of it and judges its form only as far as it must.

use super::counts::RawCounts;
use super::tally::{MAX_RAW_USAGE, Tally, word};
use crate::domain::surface::Surface;
use crate::domain::tokens::UsageSource;
use crate::domain::units::Tokens;

/// Bytes of one member that are captured; a longer one is not read.
pub const MAX_CAPTURE: usize = MAX_RAW_USAGE;
/// Bytes of a member's name that are compared.
const MAX_KEY: usize = 24;

/// The members that are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Member {
    Usage,
    Model,
    Finish,
}

/// A value being captured.
#[derive(Debug)]
struct Capture {
    member: Member,
    text: Vec<u8>,
    /// Depth at which the member stands.
    depth: usize,
    too_long: bool,
}

/// The meter of one document.
#[derive(Debug)]
pub struct JsonMeter {
    surface: Surface,
    /// Read `usage` and `model` within `response` as well.
    in_event: bool,
    depth: usize,
    /// Bit n: the container at depth n + 1 is an object; deeper ones are not told apart and not needed.
    objects: u128,
    in_string: bool,
    escaped: bool,
    /// The next string is a member's name.
    name_next: bool,
    /// The string that is being read is a member's name.
    in_name: bool,
    name: Vec<u8>,
    /// The names at depth 1 and 2 that are open are `choices` or `response`.
    below: [u8; 2],
    started: bool,
    capture: Option<Capture>,
    raw_usage: Option<String>,
    model: Option<String>,
    finish: Option<String>,
    text_bytes: u64,
}

const CHOICES: u8 = 1;
const RESPONSE: u8 = 2;

impl JsonMeter {
    /// A meter for an answer on this surface.
    #[must_use]
    pub fn new(surface: Surface) -> Self {
        Self {
            surface,
            in_event: false,
            depth: 0,
            objects: 0,
            in_string: false,
            escaped: false,
            name_next: false,
            in_name: false,
            name: Vec::with_capacity(MAX_KEY + 1),
            below: [0; 2],
            started: false,
            capture: None,
            raw_usage: None,
            model: None,
            finish: None,
            text_bytes: 0,
        }
    }

    /// A meter for the data of one event of a stream, framing included.
    pub(super) fn of_event() -> Self {
        Self { in_event: true, ..Self::new(Surface::OpenAiResponses) }
    }

    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if self.in_string && !self.escaped {
                let run = memchr::memchr2(b'"', b'\\', &bytes[at..]).unwrap_or(bytes.len() - at);
                self.string_run(&bytes[at..at + run]);
                at += run;
            }
            let Some(byte) = bytes.get(at).copied() else { break };
            at += 1;
            if self.in_string { self.string_byte(byte) } else { self.structure(byte) }
        }
    }

    /// Ends the document and says what it told.
    #[must_use]
    pub fn finish(mut self) -> Tally {
        self.end_capture();
        let mut tally = Tally {
            finish_reason: self.finish,
            model_reported: self.model,
            text_bytes: self.text_bytes,
            terminal_seen: self.started && self.depth == 0,
            ..Tally::default()
        };
        let Some(raw) = self.raw_usage else { return tally };
        let Ok(counts) = serde_json::from_str::<RawCounts>(&raw) else { return tally };
        tally.counts = if self.surface == Surface::AnthropicMessages { counts.anthropic() } else { counts.openai() };
        if self.surface == Surface::OpenAiEmbeddings {
            tally.counts.output_total = tally.counts.output_total.or(Some(Tokens(0)));
        }
        tally.source = UsageSource::UpstreamFinal;
        tally.raw_usage = Some(raw);
        tally.deliver();
        tally
    }

    fn string_run(&mut self, run: &[u8]) {
        if self.in_name {
            let room = (MAX_KEY + 1).saturating_sub(self.name.len());
            self.name.extend_from_slice(&run[..run.len().min(room)]);
        } else if matches!(&self.name[..], b"content" | b"text" | b"reasoning_content" | b"arguments" | b"thinking") {
            self.text_bytes += run.len() as u64;
        }
        self.record(run);
    }

    fn string_byte(&mut self, byte: u8) {
        if self.escaped {
            self.escaped = false;
            self.string_run(&[byte]);
            return;
        }
        self.record(&[byte]);
        match byte {
            b'\\' => {
                self.escaped = true;
                if self.in_name && self.name.len() <= MAX_KEY {
                    self.name.push(byte);
                }
            }
            _ => {
                self.in_string = false;
                self.in_name = false;
            }
        }
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b'"' => {
                self.in_string = true;
                self.in_name = self.name_next;
                if self.in_name {
                    self.name.clear();
                }
                self.record(&[byte]);
            }
            b'{' | b'[' => {
                self.record(&[byte]);
                self.open(byte == b'{');
            }
            b'}' | b']' => self.close(byte),
            b',' => {
                self.end_capture_at(self.depth);
                self.name_next = self.in_object();
                self.record(&[byte]);
            }
            b':' => {
                self.record(&[byte]);
                self.name_next = false;
                self.begin_member();
            }
            _ => self.record(&[byte]),
        }
    }

    fn open(&mut self, object: bool) {
        if self.depth == 0 && self.started {
            return;
        }
        // Before the document begins there may be an event's framing; it holds no brackets.
        self.started = true;
        if self.depth < 128 {
            let bit = 1_u128 << self.depth;
            self.objects = if object { self.objects | bit } else { self.objects & !bit };
        }
        self.depth += 1;
        self.name_next = object;
    }

    fn close(&mut self, byte: u8) {
        self.end_capture_at(self.depth);
        self.record(&[byte]);
        self.depth = self.depth.saturating_sub(1);
        self.name_next = false;
        if let Some(kind) = self.below.get_mut(self.depth) {
            *kind = 0;
        }
    }

    fn in_object(&self) -> bool {
        self.depth > 0 && self.depth <= 128 && self.objects & (1 << (self.depth - 1)) != 0
    }

    /// A colon was read: `name` is the member's.
    fn begin_member(&mut self) {
        if !self.in_object() || self.capture.is_some() {
            return;
        }
        if self.depth <= self.below.len() {
            self.below[self.depth - 1] = match &self.name[..] {
                b"choices" if self.depth == 1 => CHOICES,
                b"response" if self.depth == 1 => RESPONSE,
                _ => 0,
            };
        }
        let own = self.depth == 1 || (self.in_event && self.depth == 2 && self.below[0] == RESPONSE);
        let choice = self.depth == 3 && self.below[0] == CHOICES;
        let member = match &self.name[..] {
            b"usage" if own => Member::Usage,
            b"model" if own => Member::Model,
            b"stop_reason" | b"status" if own => Member::Finish,
            b"finish_reason" if choice => Member::Finish,
            _ => return,
        };
        self.capture = Some(Capture { member, text: Vec::new(), depth: self.depth, too_long: false });
    }

    fn record(&mut self, bytes: &[u8]) {
        let Some(capture) = &mut self.capture else { return };
        if capture.text.len() + bytes.len() > MAX_CAPTURE {
            capture.too_long = true;
            capture.text.clear();
        } else if !capture.too_long {
            capture.text.extend_from_slice(bytes);
        }
    }

    fn end_capture_at(&mut self, depth: usize) {
        if self.capture.as_ref().is_some_and(|capture| capture.depth == depth) {
            self.end_capture();
        }
    }

    fn end_capture(&mut self) {
        let Some(capture) = self.capture.take().filter(|capture| !capture.too_long) else { return };
        let Ok(text) = std::str::from_utf8(&capture.text) else { return };
        let text = text.trim();
        let string = || serde_json::from_str::<String>(text).ok().map(|text| word(&text));
        match capture.member {
            Member::Usage if text.starts_with('{') => self.raw_usage = Some(text.to_owned()),
            Member::Usage => {}
            Member::Model => self.model = string().or(self.model.take()),
            Member::Finish => self.finish = string().or(self.finish.take()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tally(surface: Surface, body: &str, cut: usize) -> Tally {
        let mut meter = JsonMeter::new(surface);
        let (head, tail) = body.as_bytes().split_at(cut);
        meter.push(head);
        meter.push(tail);
        meter.finish()
    }

    const CHAT: &str = r#"{"id":"x","object":"chat.completion","model":"m\u00e9","choices":[{"index":0,"message":
        {"role":"assistant","content":"a \"usage\": {\"prompt_tokens\":9}","usage":{"prompt_tokens":1}},
        "finish_reason":"stop"}],"usage":{"prompt_tokens":5,"completion_tokens":7,"prompt_tokens_details":
        {"cached_tokens":0}},"z":[{"model":"no"}]}"#;

    #[test]
    fn every_split_gives_the_same_tally() {
        let whole = tally(Surface::OpenAiChat, CHAT, 0);
        for cut in 0..=CHAT.len() {
            assert_eq!(tally(Surface::OpenAiChat, CHAT, cut), whole, "cut at {cut}");
        }
        assert_eq!(whole.counts.input_total, Some(Tokens(5)), "only the top-level usage counts");
        assert_eq!(whole.counts.input_cache_read, Some(Tokens(0)), "an explicit zero is kept");
        assert_eq!(whole.delivered, Tokens(7), "output");
        assert_eq!(whole.finish_reason.as_deref(), Some("stop"), "of the choice");
        assert_eq!(whole.model_reported.as_deref(), Some("mé"), "top level, unescaped");
        assert!(whole.terminal_seen, "the document is complete");
        assert_eq!(whole.source, UsageSource::UpstreamFinal, "source");
    }

    #[test]
    fn other_dialects_are_read() {
        let body = r#"{"type":"message","model":"c","stop_reason":"end_turn","usage":{"input_tokens":1,
            "cache_read_input_tokens":2,"output_tokens":3}}"#;
        let told = tally(Surface::AnthropicMessages, body, 0);
        assert_eq!(
            (told.counts.input_total, told.finish_reason.as_deref()),
            (Some(Tokens(3)), Some("end_turn")),
            "sum"
        );
        let told = tally(Surface::OpenAiEmbeddings, r#"{"data":[],"usage":{"prompt_tokens":4,"total_tokens":4}}"#, 0);
        assert_eq!(told.counts.output_total, Some(Tokens(0)), "embeddings have no output");
    }

    #[test]
    fn a_truncated_document_tells_what_it_can() {
        let told = tally(Surface::OpenAiChat, r#"{"choices":[{"message":{"content":"hello wo"#, 0);
        assert!(!told.terminal_seen, "not complete");
        assert_eq!(told.settled(false).1, UsageSource::BytesEstimate, "bytes are all there is");
        assert_eq!(told.settled(false).0.output_total, Some(Tokens(2)), "eight bytes are two tokens");
    }

    #[test]
    fn a_huge_usage_is_not_kept() {
        let body = format!(r#"{{"usage":{{"x":"{}"}},"model":"m"}}"#, "a".repeat(MAX_CAPTURE));
        let told = tally(Surface::OpenAiChat, &body, 9);
        assert_eq!((told.raw_usage, told.model_reported.as_deref()), (None, Some("m")), "bounded, and goes on");
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(text in r#"[\[\]{}",:a\\]{0,64}"#) {
            let mut meter = JsonMeter::new(Surface::OpenAiChat);
            meter.push(text.as_bytes());
            let _ = meter.finish();
        }
    }
}
