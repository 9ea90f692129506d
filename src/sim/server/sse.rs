//! Frames server-sent events and says what every API's writer of events must be able to say.

use super::ask::Answer;
use crate::domain::units::Tokens;
use std::fmt::Write;

/// Events, framed, until they go out.
#[derive(Debug)]
pub(super) struct Sse {
    out: String,
    crlf: bool,
}

impl Sse {
    pub(super) fn new(crlf: bool) -> Self {
        Self { out: String::new(), crlf }
    }

    /// Adds an event; `write` writes its data, which must be one line.
    pub(super) fn event(&mut self, name: Option<&str>, write: impl FnOnce(&mut String)) {
        let eol = if self.crlf { "\r\n" } else { "\n" };
        if let Some(name) = name {
            // Writing to a String cannot fail.
            let _ = write!(self.out, "event: {name}{eol}");
        }
        self.out.push_str("data: ");
        write(&mut self.out);
        self.out.push_str(eol);
        self.out.push_str(eol);
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// Drops the second half of what waits.
    pub(super) fn halve(&mut self) {
        let mut half = self.out.len() / 2;
        while !self.out.is_char_boundary(half) {
            half -= 1;
        }
        self.out.truncate(half);
    }

    /// Hands the bytes over.
    pub(super) fn take(&mut self) -> String {
        std::mem::take(&mut self.out)
    }
}

/// One token of an answer on its way to the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Which choice.
    pub(super) choice: usize,
    /// Which token of it.
    pub(super) index: u64,
}

/// Writes one API's events. Every call may write any number of them.
pub(super) trait Scribe: Send {
    /// What comes before the first token: no model output.
    fn preamble(&mut self, answer: &Answer, cached: Tokens, sse: &mut Sse);
    /// One token; the last one of a choice also says how it ended, if the API says that there.
    fn token(&mut self, answer: &Answer, piece: Piece, sse: &mut Sse);
    /// What comes after the last token: ends and usage, but not the terminal event.
    fn closing(&mut self, answer: &Answer, sse: &mut Sse);
    /// The terminal event.
    fn done(&mut self, answer: &Answer, sse: &mut Sse);
    /// An error inside a 200.
    fn error(&mut self, answer: &Answer, sse: &mut Sse);
}

/// Appends `text` as the inside of a JSON string. Answers are made of our own words: only quotes need care.
pub(super) fn push_escaped(out: &mut String, text: &str) {
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_framed_with_the_line_end_asked_for() {
        let mut sse = Sse::new(true);
        sse.event(Some("ping"), |out| out.push_str("{}"));
        assert_eq!(sse.take(), "event: ping\r\ndata: {}\r\n\r\n", "CR LF");
        let mut sse = Sse::new(false);
        sse.event(None, |out| out.push_str("[DONE]"));
        assert_eq!(sse.take(), "data: [DONE]\n\n", "LF");
    }

    #[test]
    fn quotes_are_escaped() {
        let mut out = String::new();
        push_escaped(&mut out, "{\"a\": \"\\");
        assert_eq!(out, r#"{\"a\": \"\\"#, "as inside a JSON string");
    }
}
