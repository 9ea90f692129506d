//! Frames an event stream (WHATWG HTML §9.2): where a block of lines ends, and what it says. Keeps no bytes and
//! knows no dialect.

use std::borrow::Cow;

/// Bytes of one event that may be carried over from piece to piece. A longer event passes unread.
pub const MAX_EVENT: usize = 64 * 1024;

/// Finds the ends of blocks in bytes that come in any pieces: LF, CR and CRLF, mixed.
#[derive(Clone, Debug)]
pub struct Framer {
    /// Nothing but a line end has been seen since the last line end.
    line_empty: bool,
    /// The last byte was a CR; an LF now belongs to it.
    after_cr: bool,
}

impl Default for Framer {
    fn default() -> Self {
        Self { line_empty: true, after_cr: false }
    }
}

impl Framer {
    /// The offset behind the first blank line's end, or `None` if all of `bytes` belongs to a block that goes on.
    /// Bytes up to the offset (or all of them) are consumed. An LF that completes a CR at which a block has ended
    /// is left to [`Framer::owes_lf`].
    pub fn block_end(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if std::mem::take(&mut self.after_cr) && bytes[at] == b'\n' {
                at += 1;
                continue;
            }
            let Some(run) = memchr::memchr2(b'\n', b'\r', &bytes[at..]) else {
                self.line_empty = false;
                return None;
            };
            let blank = run == 0 && self.line_empty;
            at += run + 1;
            self.line_empty = true;
            self.after_cr = bytes[at - 1] == b'\r';
            if blank {
                if self.after_cr && bytes.get(at) == Some(&b'\n') {
                    self.after_cr = false;
                    at += 1;
                }
                return Some(at);
            }
        }
        None
    }

    /// True if `next` completes the CRLF of which the last byte was the CR; then it is consumed.
    pub fn owes_lf(&mut self, next: u8) -> bool {
        let owed = self.after_cr && next == b'\n';
        if owed {
            self.after_cr = false;
        }
        owed
    }

    /// What must be added to end the block that is open.
    #[must_use]
    pub fn completion(&self) -> &'static [u8] {
        if self.line_empty && !self.after_cr { b"\n" } else { b"\n\n" }
    }
}

/// One event as it would be dispatched.
#[derive(Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// `event:`, if there is one.
    pub name: Option<&'a [u8]>,
    /// `data:`, several lines joined by LF.
    pub data: Cow<'a, [u8]>,
}

/// Reads a whole block. `None` if it holds no data: comments, `retry:`, blank lines.
#[must_use]
pub fn read(block: &[u8]) -> Option<Event<'_>> {
    let (mut name, mut data): (_, Option<Cow<'_, [u8]>>) = (None, None);
    let mut rest = block;
    while !rest.is_empty() {
        let end = memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let (field, value) = field(&rest[..end]);
        rest = rest.get(end + 1..).unwrap_or_default();
        match field {
            b"data" => match &mut data {
                None => data = Some(Cow::Borrowed(value)),
                Some(lines) => {
                    lines.to_mut().push(b'\n');
                    lines.to_mut().extend_from_slice(value);
                }
            },
            b"event" => name = Some(value),
            _ => {}
        }
    }
    data.map(|data| Event { name, data })
}

/// Name and value of a line; one space behind the colon is not part of the value. A comment has an empty name.
fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let Some(colon) = memchr::memchr(b':', line) else { return (line, b"") };
    let value = &line[colon + 1..];
    (&line[..colon], value.strip_prefix(b" ").unwrap_or(value))
}

/// A byte order mark, allowed at the very start of a stream only.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events(stream: &[u8], cuts: &[usize]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (mut framer, mut carry, mut out, mut last) = (Framer::default(), Vec::new(), Vec::new(), 0);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (stream.len() + 1)).chain([stream.len()]).collect();
        ends.sort_unstable();
        for end in ends {
            let mut piece = &stream[last..end];
            last = end;
            while let Some(at) = framer.block_end(piece) {
                carry.extend_from_slice(&piece[..at]);
                out.extend(read(&carry).map(|e| (e.name.unwrap_or_default().to_vec(), e.data.to_vec())));
                carry.clear();
                piece = &piece[at..];
            }
            carry.extend_from_slice(piece);
        }
        out
    }

    /// The standard's algorithm, word for word, on the whole text.
    fn oracle(stream: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let text = stream.replace("\r\n", "\n").replace('\r', "\n");
        let (mut out, mut name, mut data) = (Vec::new(), String::new(), None::<String>);
        let mut lines: Vec<&str> = text.split('\n').collect();
        lines.pop(); // what follows the last line end is an incomplete line
        for line in lines {
            if line.is_empty() {
                if let Some(data) = data.take() {
                    out.push((std::mem::take(&mut name).into_bytes(), data.into_bytes()));
                }
                name.clear();
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" => data = Some(data.map_or(value.to_owned(), |old| format!("{old}\n{value}"))),
                "event" => name = value.to_owned(),
                _ => {}
            }
        }
        out
    }

    #[test]
    fn a_split_inside_a_utf8_letter_changes_nothing() {
        let stream = "data: {\"t\":\"é\"}\n\n".as_bytes();
        assert_eq!(events(stream, &[13]), events(stream, &[]), "byte boundaries must not be visible");
        assert_eq!(events(stream, &[]).len(), 1, "one event");
    }

    #[test]
    fn exactly_one_space_is_stripped() {
        for (line, data) in [("data:x", "x"), ("data: x", "x"), ("data:  x", " x"), ("data", "")] {
            let block = format!("{line}\n\n");
            assert_eq!(&*read(block.as_bytes()).unwrap().data, data.as_bytes(), "{line}");
        }
        assert_eq!(read(b": comment\nid: 1\n\n"), None, "no data, no event");
    }

    proptest! {
        #[test]
        fn the_standard_is_followed_at_any_split(
            parts in proptest::collection::vec(prop_oneof![
                Just("data"), Just(":"), Just(" "), Just("\n"), Just("\r"), Just("\r\n"), Just("\n\n"), Just("event: e"),
                Just("data: a"), Just("é"), Just("data:b\r"), Just(": c\n"),
            ], 0..24),
            cuts in proptest::collection::vec(0..200_usize, 0..8),
        ) {
            let stream = parts.concat();
            prop_assert_eq!(events(stream.as_bytes(), &cuts), oracle(&stream), "{:?} cut at {:?}", stream, cuts);
        }
    }
}
