//! `auth.*.api_key` – keys of Weir's own: where they may stand, their tag and pepper.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::secret;
use crate::config::section::names::credential_header;
use crate::config::snapshot::{ApiKeyAuth, PepperSource};
use std::path::Path;
use std::time::Duration;

/// Headers that may carry a key (semantics.md §4).
pub const KEY_HEADERS: &[&str] = &["authorization", "x-api-key", "api-key", "x-goog-api-key"];
/// A tag has at most so many letters (semantics.md §4).
const MAX_TAG: usize = 16;

/// Reads `api_key:`.
#[must_use]
pub fn read(item: &Item<'_>, state_dir: &Path) -> ApiKeyAuth {
    let fields = item.fields(&["headers", "tag", "pepper", "max_stale"], &["negative_cache", "query"]);
    let pepper = fields.get("pepper").and_then(|item| secret::read(&item)).map(PepperSource::Value);
    ApiKeyAuth {
        headers: fields.or("headers", headers, KEY_HEADERS.iter().map(|name| (*name).to_owned()).collect()),
        tag: fields.or("tag", tag, "weir".to_owned()),
        pepper: pepper.unwrap_or_else(|| PepperSource::StateFile(state_dir.join("pepper"))),
        max_stale: fields.or("max_stale", Item::wait, Duration::from_secs(900)),
    }
}

fn headers(item: &Item<'_>) -> Option<Vec<String>> {
    if item.list().is_empty() {
        item.error(
            Code::EmptyPool,
            "no header could carry a key".into(),
            Some("leave the key out for the default".into()),
        );
    }
    Some(item.list().iter().filter_map(credential_header).collect())
}

fn tag(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if (1..=MAX_TAG).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Some(text.to_owned());
    }
    let hint = Some(format!("use 1 to {MAX_TAG} letters or digits"));
    item.error(Code::BadWord, format!("`{}` cannot be a tag", item.shown()), hint);
    None
}
