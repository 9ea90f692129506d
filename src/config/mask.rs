//! What must never be shown of a source text. Pure; knows texts, not trees (`secret` knows those).

use std::ops::Range;
use std::sync::LazyLock;

/// Text that looks like a secret: behind a secret's key, or between `//` and `@` of a URL.
static LOOKS_SECRET: LazyLock<Option<regex::Regex>> = LazyLock::new(|| {
    regex::Regex::new(
        r#"(?:\b(?:bearer|pepper|password|secret|client_secret|token)["']?[ \t]*:[ \t]*([^\s{\[#][^#\n]*))|(?:\b(?:signed["']?[ \t]*:[ \t]*\{[ \t]*key|header["']?[ \t]*:[ \t]*\{[^}\n]*\bvalue)["']?[ \t]*:[ \t]*([^\s{\[#][^#\n]*))|//([^/\s@"']+)@"#,
    )
    .ok()
});

/// The text with everything that looks like a secret starred out; bytes keep their places.
#[must_use]
pub fn mask_text(text: &str) -> String {
    let mut shown = text.to_owned();
    let Some(pattern) = LOOKS_SECRET.as_ref() else { return "*".repeat(text.len()) };
    for found in pattern.captures_iter(text) {
        for group in found.iter().skip(1).flatten() {
            mask_range(&mut shown, group.range());
        }
    }
    shown
}

/// Stars a range out, line ends excepted, so that bytes and lines keep their places.
pub fn mask_range(text: &mut String, range: Range<usize>) {
    let Some(piece) = text.get(range.clone()) else { return };
    let stars: String = piece.bytes().map(|byte| if byte == b'\n' { '\n' } else { '*' }).collect();
    text.replace_range(range, &stars);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_out_secret_is_starred_and_its_neighbours_stay() {
        let text = "a: 1\ncredentials: { bearer: sk-123 }\nurl: http://me:pw@host/\n";
        let shown = mask_text(text);
        assert_eq!(shown.len(), text.len(), "bytes keep their places");
        assert!(!shown.contains("sk-123") && !shown.contains("pw"), "no secret is left: {shown}");
        assert!(shown.contains("a: 1") && shown.contains("@host/"), "the rest is: {shown}");
        for text in ["signed: { key: hush }", "header: { name: x-key, value: hush }", "client_secret: hush"] {
            let shown = mask_text(text);
            assert!(!shown.contains("hush") && shown.len() == text.len(), "the value of {text}: {shown}");
        }
        assert!(mask_text("bearer: { env: KEY }").contains("KEY"), "a reference is no secret");
    }
}
