//! Reads the source tree for the tests that hold its laws: files, and their code without comments, strings and tests.
//!
//! Not a Rust parser: a lexer that knows where code is. It decides nothing about what the code may say.

use std::fs;
use std::path::PathBuf;

/// One file, with its path relative to the package.
#[derive(Clone, Debug)]
pub struct SourceFile {
    pub path: PathBuf,
    pub text: String,
}

impl SourceFile {
    /// The path with forward slashes.
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Production code only: comments and literals blanked, `#[cfg(test)]` items removed, lines kept.
    pub fn production_code(&self) -> String {
        without_tests(&code_only(&self.text))
    }
}

/// The package's folder. Asked for when a test runs: one that was compiled in another clone must not read that one.
pub fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the package is"))
}

/// All files below `folder` of the package whose name ends in `.EXT`, in path order.
pub fn files(folder: &str, ext: &str) -> Vec<SourceFile> {
    let root = root();
    let mut found = Vec::new();
    let mut waiting = vec![root.join(folder)];
    while let Some(dir) = waiting.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("a readable directory entry").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|found| found == ext) {
                let text = fs::read_to_string(&path).expect("source is UTF-8");
                let path = path.strip_prefix(&root).expect("below the root").to_owned();
                found.push(SourceFile { path, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The text with comments, strings and character literals blanked out; every newline stays.
pub fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        if end == at {
            // Not ASCII: only ever inside an identifier here, where a placeholder is as good.
            out.push(if bytes[at].is_ascii() { bytes[at] as char } else { '_' });
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let word_before = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return block_comment_end(bytes, at);
    }
    match rest[0] {
        b'"' => quoted_end(bytes, at + 1, b'"'),
        b'r' | b'b' | b'c' if !word_before => prefixed_end(bytes, at),
        b'\'' => character_end(bytes, at),
        _ => at,
    }
}

fn block_comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut end) = (0, at);
    while end < bytes.len() {
        if bytes[end..].starts_with(b"/*") {
            (depth, end) = (depth + 1, end + 2);
        } else if bytes[end..].starts_with(b"*/") {
            (depth, end) = (depth - 1, end + 2);
            if depth == 0 {
                return end;
            }
        } else {
            end += 1;
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut end = from;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' => end += 2,
            byte if byte == quote => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `b'…'`, `c"…"`; `at` itself where the letter only begins a word.
fn prefixed_end(bytes: &[u8], at: usize) -> usize {
    let letters = bytes[at..].iter().take(2).take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let after = at + letters;
    let raw = bytes[at..after].contains(&b'r');
    let hashes = bytes[after..].iter().take_while(|byte| **byte == b'#').count();
    match bytes.get(after + hashes) {
        Some(b'"') if raw => {
            let close = [b"\"".as_slice(), "#".repeat(hashes).as_bytes()].concat();
            let body = after + hashes + 1;
            let length = bytes[body..].windows(close.len()).position(|window| window == close);
            length.map_or(bytes.len(), |length| body + length + close.len())
        }
        Some(b'"') if hashes == 0 => quoted_end(bytes, after + 1, b'"'),
        Some(b'\'') if hashes == 0 && bytes[at] == b'b' => quoted_end(bytes, after + 1, b'\''),
        _ => at,
    }
}

/// A character literal, or `at` itself where the quote begins a lifetime.
fn character_end(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        return quoted_end(bytes, at + 1, b'\'');
    }
    let letter = std::str::from_utf8(&bytes[at + 1..bytes.len().min(at + 5)]);
    let valid = match letter {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&bytes[at + 1..at + 1 + error.valid_up_to()]).expect("checked"),
    };
    let width = valid.chars().next().map_or(1, char::len_utf8);
    if bytes.get(at + 1 + width) == Some(&b'\'') { at + width + 2 } else { at }
}

/// Code without its `#[cfg(test)]` items: each from its attribute to its closing brace or semicolon. Lines are kept.
pub fn without_tests(code: &str) -> String {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(ATTRIBUTE) {
        out.push_str(&rest[..start]);
        let item = &rest[start..];
        let end = item_end(item);
        out.extend(item[..end].chars().filter(|letter| *letter == '\n'));
        rest = &item[end..];
    }
    out.push_str(rest);
    out
}

/// The end of the item that `code` begins with: its first `;` outside braces, or its outermost closing brace.
fn item_end(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}
