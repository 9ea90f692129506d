//! Globs of model names: of routes and tenants, which models they are for, and of limits and prices, which are named by
//! them.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::tree::Entry;
use crate::logic::quota::plan::ModelPattern;
use globset::{Glob, GlobBuilder, GlobSet, GlobSetBuilder};

/// Letters of a pattern that names rules.
const MAX_PATTERN: usize = 128;

/// A glob of model names that is a key: rules and prices are named by it, in headers too.
#[must_use]
pub fn model_pattern(item: &Item<'_>, entry: &Entry) -> Option<ModelPattern> {
    let text = &entry.key;
    let fault = match glob(text) {
        _ if text.is_empty() || text.len() > MAX_PATTERN => format!("a pattern has 1 to {MAX_PATTERN} letters"),
        _ if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            "a pattern has only letters that can stand in a header, and no blanks".to_owned()
        }
        Ok(glob) => return Some(ModelPattern(glob.compile_matcher())),
        Err(error) => format!("`{text}` is not a pattern: {}", error.kind()),
    };
    let hint = Some("`*` stands for any letters: `llama-*`".to_owned());
    item.findings.add(Code::BadPattern, (entry.place, &item.path), fault, hint);
    None
}

/// `*` also crosses `/`, as model names have it.
fn glob(text: &str) -> Result<Glob, globset::Error> {
    GlobBuilder::new(text).literal_separator(false).build()
}

/// Globs of model names: compiled, and as they were written.
#[must_use]
pub fn models(item: &Item<'_>) -> (Option<GlobSet>, Vec<String>) {
    let mut set = GlobSetBuilder::new();
    let mut written = Vec::new();
    for item in item.list() {
        let Some(text) = item.text() else { continue };
        match glob(text) {
            Ok(glob) if !text.is_empty() => {
                set.add(glob);
                written.push(text.to_owned());
            }
            Ok(_) => item.error(Code::BadPattern, "an empty model name".into(), None),
            Err(error) => {
                let message = format!("`{}` is not a pattern: {}", item.shown(), error.kind());
                item.error(Code::BadPattern, message, Some("`*` stands for any letters: `llama-*`".into()));
            }
        }
    }
    if written.is_empty() && item.list().is_empty() {
        let hint = Some("leave the key out for every model, or name some".to_owned());
        item.error(Code::EmptyPool, "an empty list matches no model".into(), hint);
    }
    match set.build() {
        Ok(set) => (Some(set), written),
        Err(error) => {
            item.error(Code::BadPattern, format!("these patterns do not compile: {}", error.kind()), None);
            (None, written)
        }
    }
}
