//! `usage.prices` – a file of its own: what models cost, in US dollars per million tokens. Digits to nano-dollars,
//! exactly; what a request costs is `domain/money`'s.

use super::patterns::model_pattern;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::include;
use crate::config::tree::Entry;
use crate::config::units::Usd;
use crate::domain::money::TokenPrices;
use crate::logic::money::price_book::PriceBook;
use crate::logic::quota::plan::ModelPattern;
use std::path::Path;
use std::sync::Arc;

/// Entries of one file: each request looks through them until one names its model.
pub const MAX_PRICES: usize = 1_000;
/// Letters of a version: each usage row has it.
const MAX_VERSION: usize = 64;

/// Reads a file of prices; `named` is where the configuration names it. Where it is wrong, entries are missing: the
/// result is of use only if nothing was found.
#[must_use]
pub fn price_book(named: &Item<'_>, file: &Path) -> PriceBook {
    let text = match include::read_text(file) {
        Ok(text) => text,
        Err(fault) => {
            let hint = Some("a path that does not begin with `/` starts where Weir is started".to_owned());
            named.error(Code::Unreadable, format!("`{}`: {fault}", file.display()), hint);
            return PriceBook::default();
        }
    };
    let alone = include::alone(&file.display().to_string(), &text, named.findings);
    let root = Item { findings: named.findings, node: &alone.root, path: String::new() };
    let fields = root.fields(&["version", "models"], &["currency"]);
    let written = |key: &str, hint: &str| if alone.broken { fields.get(key) } else { fields.need(key, hint) };
    PriceBook {
        version: written("version", "for example `version: 2026-11`")
            .and_then(|item| version(&item))
            .unwrap_or_default(),
        entries: written("models", "for example `models: { \"llama-*\": { input: 0.20, output: 0.80 } }`")
            .map(|item| entries(&item))
            .unwrap_or_default(),
    }
}

fn version(item: &Item<'_>) -> Option<Arc<str>> {
    let text = item.text()?;
    if !text.is_empty() && text.len() <= MAX_VERSION && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some(Arc::from(text));
    }
    let hint = Some(format!("use 1 to {MAX_VERSION} letters without blanks, such as `2026-11`"));
    item.error(Code::BadWord, format!("`{}` cannot be a version", item.shown()), hint);
    None
}

fn entries(item: &Item<'_>) -> Vec<(ModelPattern, TokenPrices)> {
    let named = item.named();
    if named.is_empty() || named.len() > MAX_PRICES {
        item.error(Code::OutOfRange, format!("from 1 to {MAX_PRICES} entries, not {}", named.len()), None);
        return Vec::new();
    }
    let mut read: Vec<(ModelPattern, TokenPrices)> = Vec::new();
    for (entry, item) in named {
        let (pattern, prices) = (model_pattern(&item, entry), prices(&item));
        if let Some(pattern) = pattern {
            unreachable(&item, entry, &read);
            read.push((pattern, prices));
        }
    }
    read
}

/// Warns of a model by its whole name behind a pattern that names it too: the first entry holds.
fn unreachable(item: &Item<'_>, entry: &Entry, earlier: &[(ModelPattern, TokenPrices)]) {
    if entry.key.contains(['*', '?', '[', '{', '\\']) {
        return;
    }
    if let Some((first, _)) = earlier.iter().find(|(pattern, _)| pattern.matches(&entry.key)) {
        let message = format!("these prices never hold: `{}` before them names the model too", first.text());
        let hint = Some("move them before that entry".to_owned());
        item.findings.add(Code::Unreachable, (entry.place, &item.path), message, hint);
    }
}

/// Cached input costs what other input costs unless it has a price of its own.
fn prices(item: &Item<'_>) -> TokenPrices {
    let fields = item.fields(&["input", "cached_input", "cache_write", "output"], &["per_request", "image", "audio"]);
    let price = |item: &Item<'_>| item.parse::<Usd>().map(|usd| usd.0);
    let need = |key: &str, hint: &str| fields.need(key, hint).and_then(|item| price(&item)).unwrap_or_default();
    let input = need("input", "US dollars per million tokens: `input: 0.20`");
    TokenPrices {
        input,
        cache_read: fields.or("cached_input", price, input),
        cache_write: fields.or("cache_write", price, input),
        output: need("output", "US dollars per million tokens; `output: 0` for a model that has none"),
    }
}
