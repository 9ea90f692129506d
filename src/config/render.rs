//! How a report is written: text with snippets, JSON, or GitHub annotations. Secrets are masked before (`secret`).

use super::codes::Code;
use super::diagnostic::{Diagnostic, Report, Source};
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde_json::{Value, json};
use std::fmt::Write;

/// What a snippet's line may have before and behind the fault, in bytes: a minified file is no snippet.
const MAX_LINE: usize = 2_000;

impl Report {
    /// True if the configuration may be used.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.errors.is_empty()
    }

    /// For people: `FILE:LINE:COL: error[E012]: path: message`, the source line with carets, a hint.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        for found in self.errors.iter().chain(&self.warnings) {
            write_text(&mut out, found, self.sources.get(found.place.file));
        }
        out
    }

    /// For scripts: one JSON document.
    #[must_use]
    pub fn to_json(&self) -> String {
        let list = |list: &[Diagnostic]| list.iter().map(as_json).collect::<Vec<_>>();
        let errors = list(&self.errors);
        json!({ "file": self.file, "ok": self.ok(), "errors": errors, "warnings": list(&self.warnings) }).to_string()
    }

    /// For GitHub Actions: one annotation a line.
    #[must_use]
    pub fn to_github(&self) -> String {
        let mut out = String::new();
        for found in self.errors.iter().chain(&self.warnings) {
            let Diagnostic { code, file, place, .. } = found;
            let (file, title) = (property(file), code.id());
            let message = command(&sentence(found));
            let (word, line, col) = (severity(*code), place.line, place.col);
            let _ = writeln!(out, "::{word} file={file},line={line},col={col},title={title}::{message}");
        }
        out
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_text())
    }
}

impl std::error::Error for Report {}

fn severity(code: Code) -> &'static str {
    if code.id().starts_with('W') { "warning" } else { "error" }
}

fn as_json(found: &Diagnostic) -> Value {
    let Diagnostic { code, file, place, path, message, hint } = found;
    json!({
        "code": code.id(), "file": file, "line": place.line, "col": place.col,
        "path": path, "message": message, "hint": hint,
    })
}

fn sentence(found: &Diagnostic) -> String {
    let hint = found.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
    let path = if found.path.is_empty() { String::new() } else { format!("{}: ", found.path) };
    format!("{path}{}{hint}", found.message)
}

fn write_text(out: &mut String, found: &Diagnostic, source: Option<&Source>) {
    let Diagnostic { code, file, place, path, message, hint } = found;
    let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let (word, id) = (severity(*code), code.id());
    let _ = writeln!(out, "{file}:{}:{}: {word}[{id}]: {path}{message}", place.line, place.col);
    if let Some(snippet) = source.and_then(|source| snippet(found, &source.shown)) {
        out.push_str(&snippet);
    }
    if let Some(hint) = hint {
        let _ = writeln!(out, "  help: {hint}");
    }
    out.push('\n');
}

/// The line of the fault with carets under it.
fn snippet(found: &Diagnostic, text: &str) -> Option<String> {
    let start = found.place.start.min(text.len());
    let from = text.get(..start)?.rfind('\n').map_or(0, |at| at + 1);
    let to = text.get(start..)?.find('\n').map_or(text.len(), |at| start + at);
    let line = text.get(from..to)?;
    if line.trim().is_empty() || line.len() > MAX_LINE {
        return None;
    }
    let begin = start - from;
    let end = found.place.end.clamp(start, to) - from;
    let mark = line.get(begin..end).map_or(begin..begin, |piece| begin..begin + piece.trim_end().len());
    let shown = Snippet::source(line).line_start(found.place.line).annotation(AnnotationKind::Primary.span(mark));
    let level = if severity(found.code) == "error" { Level::ERROR } else { Level::WARNING };
    let rendered = Renderer::plain().render(&[Group::with_level(level).element(shown)]);
    let lines: Vec<&str> = rendered.lines().filter(|line| !line.trim_start().starts_with("-->")).collect();
    Some(lines.join("\n") + "\n")
}

/// Escapes the message of a workflow command.
fn command(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property of a workflow command.
fn property(text: &str) -> String {
    command(text).replace(':', "%3A").replace(',', "%2C")
}
