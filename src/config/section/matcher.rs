//! `routes[].match` – the conditions of a route, compiled.

use super::expression::{CONDITION, expression};
use super::names::{Kind, Names};
use super::patterns::models;
use super::pools::absolute_path;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::{Match, PathMatch};
use crate::config::suggest;
use crate::logic::access::expression::Expression;

/// Bytes that one compiled regular expression may take.
const MAX_REGEX_BYTES: usize = 1 << 20;
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];

/// Reads `match.when`, which is the route's.
#[must_use]
pub fn condition(item: &Item<'_>) -> Option<Expression> {
    expression(&item.fields_unchecked().get("when")?, CONDITION)
}

/// Reads a `match:`.
#[must_use]
pub fn matcher<'t>(item: &Item<'t>, names: &Names<'t>) -> Match {
    let fields = item.fields(&["listener", "host", "path", "method", "model", "when"], &["headers", "query", "client"]);
    let listener = fields.get("listener").and_then(|item| names.refer(&item, Kind::Listener));
    let (models, model_patterns) = fields.get("model").map(|item| models(&item)).unwrap_or_default();
    Match {
        listener: listener.map(str::to_owned),
        host: fields.get("host").and_then(|item| host(&item)),
        path: fields.or("path", path, PathMatch::Any),
        methods: fields.or("method", |item| Some(item.list().iter().filter_map(method).collect()), Vec::new()),
        models,
        model_patterns,
    }
}

fn host(item: &Item<'_>) -> Option<String> {
    let text = item.text()?.to_ascii_lowercase();
    let name = text.strip_prefix("*.").unwrap_or(&text);
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let literal = name.starts_with('[') && name.ends_with(']');
    if !name.is_empty() && (literal || name.bytes().all(fine)) {
        return Some(text);
    }
    let hint = Some("a name without a port: `api.example.com`, or `*.example.com`".to_owned());
    item.error(Code::BadWord, format!("`{}` is not a host", item.shown()), hint);
    None
}

fn path(item: &Item<'_>) -> Option<PathMatch> {
    if item.text_only() {
        return absolute_path(item).map(PathMatch::Exact);
    }
    let (kind, value) = item.variant(&["exact", "prefix", "regex"], &["glob", "template"])?;
    let value = value?;
    match kind {
        "exact" => absolute_path(&value).map(PathMatch::Exact),
        "prefix" => absolute_path(&value).map(PathMatch::Prefix),
        _ => regex(&value).map(PathMatch::Regex),
    }
}

fn regex(item: &Item<'_>) -> Option<regex::Regex> {
    match regex::RegexBuilder::new(item.text()?).size_limit(MAX_REGEX_BYTES).build() {
        Ok(compiled) => Some(compiled),
        Err(error) => {
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            item.error(Code::BadPattern, format!("`{}` is not a regular expression: {reason}", item.shown()), None);
            None
        }
    }
}

fn method(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let upper = text.to_ascii_uppercase();
    let known = METHODS.contains(&upper.as_str());
    if !known {
        let hint = suggest::hint(&upper, METHODS);
        item.error(Code::BadWord, format!("`{}` is not a method that is forwarded", item.shown()), hint);
    }
    known.then_some(upper)
}
