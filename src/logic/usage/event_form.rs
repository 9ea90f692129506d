//! Remembers the form of the last ordinary event: the events of a stream mostly differ in nothing but their text, so
//! the next one is read by comparing bytes. It only says "the same but for the text", and only where the long way
//! (`StreamMeter::passes_unparsed`) would come to the same result; what that means for the tally is the meter's.

use crate::logic::wire::json;
use std::ops::Range;

/// Bytes of an event whose form is remembered.
pub(super) const MAX_FORM: usize = 1024;

/// Forms learnt in a row without any use, after which no more are learnt: these events differ in more than text.
const MAX_IN_VAIN: u8 = 16;

/// A text that ends in one of these may look like a member's name together with the quote behind it.
const NAMES: [&[u8]; 3] = [b"usage", b"error", b"finish_reason"];

/// An ordinary event without its text.
#[derive(Debug, Default)]
pub(super) struct EventForm {
    /// All bytes before the text, then all behind it from the closing quote on; empty: none is known.
    bytes: Vec<u8>,
    /// Where the text was.
    cut: usize,
    in_vain: u8,
}

impl EventForm {
    /// Remembers a whole block whose text, without its quotes, lies at `text`.
    pub(super) fn learn(&mut self, block: &[u8], text: Range<usize>) {
        // A block that ends in CR may owe an LF to the next piece; only the framer can tell.
        if block.len() > MAX_FORM || !block.ends_with(b"\n") || self.in_vain == MAX_IN_VAIN {
            return;
        }
        self.in_vain += 1;
        self.cut = text.start;
        self.bytes.clear();
        // Once and for all: later forms may be longer.
        self.bytes.reserve_exact(MAX_FORM);
        self.bytes.extend_from_slice(&block[..text.start]);
        self.bytes.extend_from_slice(&block[text.end..]);
    }

    /// If `bytes`, which start where an event starts, begin with a whole event of this form and with some text:
    /// `(its length, bytes of its text when unescaped)`.
    pub(super) fn begins(&mut self, bytes: &[u8]) -> Option<(usize, u64)> {
        let (head, tail) = self.bytes.split_at(self.cut);
        let rest = bytes.strip_prefix(head).filter(|_| !head.is_empty())?;
        let text = json::string_text(rest)?;
        let (raw, behind) = rest.split_at(text.end);
        let plain = text.length > 0 && memchr::memchr2(b'\n', b'\r', raw).is_none();
        if !plain || !behind.starts_with(tail) || NAMES.iter().any(|name| raw.ends_with(name)) {
            return None;
        }
        self.in_vain = 0;
        Some((head.len() + raw.len() + tail.len(), text.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &[u8] = b"data: {\"content\":\"a\",\"x\":1}\n\n";

    fn learnt() -> EventForm {
        let mut form = EventForm::default();
        form.learn(BLOCK, 18..19);
        form
    }

    #[test]
    fn only_the_text_may_differ() {
        let of = |block: &str| learnt().begins(block.as_bytes());
        assert_eq!(
            of("data: {\"content\":\"b \\n\",\"x\":1}\n\nmore"),
            Some((32, 3)),
            "text and what follows are free"
        );
        assert_eq!(of("data: {\"content\":\"b\",\"x\":2}\n\n"), None, "a later member differs");
        assert_eq!(of("data: {\"Content\":\"b\",\"x\":1}\n\n"), None, "an earlier one differs");
        assert_eq!(of("data: {\"content\":\"\",\"x\":1}\n\n"), None, "no text is no output");
        assert_eq!(of("data: {\"content\":\"b\nc\",\"x\":1}\n\n"), None, "a line end ends the data");
        assert_eq!(of("data: {\"content\":\"b\\\"usage\",\"x\":1}\n\n"), None, "this looks like a name");
        assert_eq!(of("data: {\"content\":\"b\",\"x\":1}\n"), None, "an event that goes on");
        assert_eq!(EventForm::default().begins(BLOCK), None, "nothing is known yet");
    }

    #[test]
    fn forms_that_never_return_are_no_longer_learnt() {
        let mut form = learnt();
        (0..MAX_IN_VAIN).for_each(|_| form.learn(BLOCK, 18..19));
        form.learn(b"data: {\"text\":\"a\"}\n\n", 15..16);
        assert!(form.begins(BLOCK).is_some(), "the last one learnt in time is kept");
        form.learn(b"data: {\"text\":\"a\"}\n\n", 15..16);
        assert!(form.begins(b"data: {\"text\":\"a\"}\n\n").is_some(), "a use opens the way again");
    }
}
