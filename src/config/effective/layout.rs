//! How the effective text is laid out: one value a line, its origin behind it. Scalars are written by `serde_yaml`.

use crate::config::diagnostic::Findings;
use crate::config::secret::is_reference;
use crate::config::tree::{Kind, Node};
use serde_yaml::Value;
use std::fmt::Write;

/// Origins: the tree, and the names of its files.
type Origins<'o> = Option<(&'o Node, &'o Findings)>;

/// Writes a document.
#[must_use]
pub fn text(value: &Value, origins: Origins<'_>) -> String {
    let mut out = String::new();
    match value {
        Value::Mapping(_) => write_map(&mut out, value, 0, Trail::of(origins)),
        other => out.push_str(&scalar(other)),
    }
    out
}

/// Where in the tree the writer is: the node itself, or the nearest one above that was written.
#[derive(Clone, Copy)]
struct Trail<'o> {
    node: Option<&'o Node>,
    near: Option<&'o Node>,
    findings: Option<&'o Findings>,
    secret: bool,
}

impl<'o> Trail<'o> {
    fn of(origins: Origins<'o>) -> Self {
        let (node, findings) = origins.unzip();
        Self { node, near: None, findings, secret: false }
    }

    fn key(self, key: &str) -> Self {
        let node = self.node.and_then(|node| node.get(key));
        let secret = self.secret || node.is_some_and(is_reference);
        Self { secret, ..self.step(node) }
    }

    fn index(self, index: usize) -> Self {
        let node = match self.node.map(|node| &node.kind) {
            Some(Kind::List(items)) => items.get(index),
            Some(Kind::Scalar { .. } | Kind::Map(_)) if index == 0 => self.node,
            _ => None,
        };
        let secret = self.secret || node.is_some_and(is_reference);
        Self { secret, ..self.step(node) }
    }

    /// A short form (`policy: p2c`) is one node above all that it stands for.
    fn step(self, node: Option<&'o Node>) -> Self {
        let short = self.node.filter(|above| matches!(above.kind, Kind::Scalar { .. } | Kind::List(_)));
        let node = node.filter(|node| !node.is_null());
        Self { node, near: if node.is_some() { None } else { short.or(self.near) }, ..self }
    }

    fn comment(self) -> String {
        let Some(findings) = self.findings else { return String::new() };
        match self.node.or(self.near) {
            Some(node) if self.secret => format!("  # *** {}", findings.spot(node.place)),
            Some(node) => format!("  # {}", findings.spot(node.place)),
            None => "  # default".to_owned(),
        }
    }
}

fn write_map(out: &mut String, value: &Value, depth: usize, trail: Trail<'_>) {
    let Value::Mapping(entries) = value else { return };
    for (key, value) in entries {
        let name = key.as_str().unwrap_or_default();
        let _ = write!(out, "{:indent$}{}:", "", scalar(key), indent = depth * 2);
        write_value(out, value, depth + 1, trail.key(name));
    }
}

/// What stands behind a key.
fn write_value(out: &mut String, value: &Value, depth: usize, trail: Trail<'_>) {
    match value {
        Value::Mapping(entries) if !entries.is_empty() => {
            let origin = if trail.node.is_some() { trail.comment() } else { String::new() };
            let _ = writeln!(out, "{origin}");
            write_map(out, value, depth, trail);
        }
        Value::Sequence(items) if items.iter().any(Value::is_mapping) => {
            let _ = writeln!(out, "{}", trail.comment());
            for (index, item) in items.iter().enumerate() {
                write_item(out, item, depth, trail.index(index));
            }
        }
        Value::Sequence(items) => {
            let words: Vec<String> = items.iter().map(flow).collect();
            let _ = writeln!(out, " [{}]{}", words.join(", "), trail.comment());
        }
        Value::Mapping(_) => {
            let _ = writeln!(out, " {{}}{}", trail.comment());
        }
        other => {
            let _ = writeln!(out, " {}{}", scalar(other), trail.comment());
        }
    }
}

/// A mapping in a list: its first key stands behind the dash.
fn write_item(out: &mut String, item: &Value, depth: usize, trail: Trail<'_>) {
    let mut block = String::new();
    write_map(&mut block, item, depth + 1, trail);
    let indent = depth * 2;
    let body = block.get(indent + 2..).unwrap_or_default();
    let _ = write!(out, "{:indent$}- {body}", "");
}

/// A scalar within `[…]`: quoted whenever a letter of it could be read as structure.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_') => {
            quoted(&text.replace("${", "$${"))
        }
        other => scalar(other),
    }
}

/// A scalar in one line.
fn scalar(value: &Value) -> String {
    if let Value::String(text) = value
        && text.contains(['\n', '\r', '#', '$'])
    {
        return quoted(&text.replace("${", "$${"));
    }
    serde_yaml::to_string(value).map(|text| text.trim_end().to_owned()).unwrap_or_default()
}

/// Double quotes with JSON's escapes, which YAML reads alike.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
