//! Where things lie in JSON text that a parser has already accepted. Parses nothing by itself.

use std::ops::Range;

/// Deepest nesting that a request body may have; `serde_json`'s own recursion limit, which raw values bypass.
pub const MAX_DEPTH: usize = 128;

/// Where `part` lies in `whole`. `part` must be a slice of `whole`; otherwise the range is empty or out of place.
#[must_use]
pub fn span_of(whole: &[u8], part: &[u8]) -> Range<usize> {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    start..start.saturating_add(part.len())
}

/// The range to cut so that the member whose value lies at `value` is gone, its key and one comma included.
/// `None` if the text around the value is not that of an object's member.
#[must_use]
pub fn member_range(text: &[u8], value: Range<usize>) -> Option<Range<usize>> {
    let colon = last_solid(text, value.start)?;
    let key_end = (text[colon] == b':').then(|| last_solid(text, colon)).flatten()?;
    if text[key_end] != b'"' {
        return None;
    }
    let key_start = memchr::memrchr(b'"', &text[..key_end])?;
    let before = last_solid(text, key_start)?;
    match text[before] {
        b',' => Some(before..value.end),
        b'{' => {
            let after = first_solid(text, value.end);
            let end = if text.get(after) == Some(&b',') { first_solid(text, after + 1) } else { value.end };
            Some(key_start..end)
        }
        _ => None,
    }
}

/// Index of the last byte before `end` that is not white space.
fn last_solid(text: &[u8], end: usize) -> Option<usize> {
    text.get(..end)?.iter().rposition(|byte| !is_space(*byte))
}

/// Index of the first byte from `start` on that is not white space; the length if there is none.
#[must_use]
pub fn first_solid(text: &[u8], start: usize) -> usize {
    text[start.min(text.len())..].iter().position(|byte| !is_space(*byte)).map_or(text.len(), |n| start + n)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The text of a JSON string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringText {
    /// Bytes of it when unescaped.
    pub length: u64,
    /// Index of the closing quote.
    pub end: usize,
}

/// The string whose text starts at `body[0]`, just behind the opening quote. `None` if the closing quote is not there.
#[must_use]
pub fn string_text(body: &[u8]) -> Option<StringText> {
    let (mut at, mut length) = (0, 0_u64);
    loop {
        let run = memchr::memchr2(b'"', b'\\', body.get(at..)?)?;
        length += run as u64;
        at += run;
        if body[at] == b'"' {
            return Some(StringText { length, end: at });
        }
        let (bytes, taken) = escape_len(body.get(at..)?)?;
        length += bytes;
        at += taken;
    }
}

/// Length in bytes of that string when unescaped.
#[must_use]
pub fn string_len(body: &[u8]) -> Option<u64> {
    string_text(body).map(|text| text.length)
}

/// `(bytes of the letter in UTF-8, bytes of the escape)`; a surrogate counts two of its pair's four.
fn escape_len(escape: &[u8]) -> Option<(u64, usize)> {
    if *escape.get(1)? != b'u' {
        return Some((1, 2));
    }
    let digits = std::str::from_utf8(escape.get(2..6)?).ok()?;
    let bytes = match u16::from_str_radix(digits, 16).ok()? {
        0..=0x7f => 1,
        0x80..=0x7ff | 0xd800..=0xdfff => 2,
        _ => 3,
    };
    Some((bytes, 6))
}

/// True if valid JSON nests deeper than [`MAX_DEPTH`].
#[must_use]
pub fn too_deep(text: &[u8]) -> bool {
    // Counting brackets, those in strings too, is a few instructions per 16 bytes; most bodies have no more than this.
    // Sums of one byte each, over pieces that cannot overflow them, are what makes it so few.
    let opening = |piece: &[u8]| piece.iter().map(|byte| u8::from(matches!(byte, b'[' | b'{'))).sum::<u8>();
    text.chunks(128).map(|piece| usize::from(opening(piece))).sum::<usize>() > MAX_DEPTH && nests_too_deep(text)
}

fn nests_too_deep(text: &[u8]) -> bool {
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(byte) = text.get(at) {
        at += 1;
        match byte {
            b'"' => at = string_end(text, at),
            b'[' | b'{' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// Index behind the closing quote of the string whose text starts at `at`.
fn string_end(text: &[u8], mut at: usize) -> usize {
    while let Some(run) = text.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        at += run;
        if text[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(text: &str, value: &str) -> String {
        let start = text.find(value).unwrap();
        let cut = member_range(text.as_bytes(), start..start + value.len()).unwrap();
        format!("{}{}", &text[..cut.start], &text[cut.end..])
    }

    #[test]
    fn a_cut_member_takes_one_comma_with_it() {
        assert_eq!(without(r#"{"a":1,"u":{},"b":2}"#, "{}"), r#"{"a":1,"b":2}"#, "in the middle");
        assert_eq!(without(r#"{ "u" : {} , "b":2}"#, "{}"), r#"{ "b":2}"#, "first");
        assert_eq!(without(r#"{"a":1 ,"u":{}}"#, "{}"), r#"{"a":1 }"#, "last");
        assert_eq!(without(r#"{"u":{}}"#, "{}"), "{}", "alone");
    }

    #[test]
    fn a_string_is_as_long_as_its_unescaped_form() {
        for text in ["", "abc", "a\nb", "é", "\u{1F600}", "q\"q\\"] {
            let plain = serde_json::to_string(text).unwrap();
            assert_eq!(string_len(&plain.as_bytes()[1..]), Some(text.len() as u64), "plain {plain}");
        }
        assert_eq!(string_len(br#"\u00e9\ud83d\ude00\u20ac""#), Some(2 + 4 + 3), "escaped letters");
        assert_eq!(string_len(b"abc"), None, "no closing quote");
        assert_eq!(string_len(b"abc\\"), None, "ends in an escape");
    }

    #[test]
    fn depth_counts_brackets_outside_strings_only() {
        let at_limit = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        assert!(!too_deep(at_limit.as_bytes()), "the limit itself is allowed");
        assert!(too_deep(format!("[{at_limit}]").as_bytes()), "one more is not");
        assert!(!too_deep(format!("\"\\\"{}\"", "[".repeat(300)).as_bytes()), "text is not structure");
    }
}
