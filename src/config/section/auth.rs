//! `auth:` – who proves how who they are.

use super::names::check_name;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::secret;
use crate::config::snapshot::{ApiKeyAuth, Authenticator, PepperSource};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Headers that may carry a key (semantics.md §4).
pub const KEY_HEADERS: &[&str] = &["authorization", "x-api-key", "api-key", "x-goog-api-key"];
/// A tag has at most so many letters (semantics.md §4).
const MAX_TAG: usize = 16;

/// Reads `auth:`.
#[must_use]
pub fn authenticators(item: &Item<'_>, state_dir: &Path) -> BTreeMap<String, Authenticator> {
    let read = item.named().into_iter().filter_map(|(entry, item)| {
        check_name(&item, &entry.key, entry.place);
        if entry.key == "none" {
            let hint = Some("`auth: none` means that everyone may; choose another name".to_owned());
            item.findings.add(Code::BadWord, (entry.place, &item.path), "`none` cannot be a name here".into(), hint);
        }
        let (_, settings) = item.variant(&["api_key"], &["jwt", "oidc", "mtls", "basic", "ext_authz"])?;
        let settings = settings.unwrap_or(Item { node: &crate::config::tree::ABSENT, ..item });
        Some((entry.key.clone(), Authenticator::ApiKey(api_key(&settings, state_dir))))
    });
    read.collect()
}

fn api_key(item: &Item<'_>, state_dir: &Path) -> ApiKeyAuth {
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
    let one = |item: &Item<'_>| {
        let name = item.text()?.to_ascii_lowercase();
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            item.error(Code::BadWord, format!("`{}` is not a header name", item.shown()), None);
            return None;
        }
        Some(name)
    };
    if item.list().is_empty() {
        item.error(
            Code::EmptyPool,
            "no header could carry a key".into(),
            Some("leave the key out for the default".into()),
        );
    }
    Some(item.list().iter().filter_map(one).collect())
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
