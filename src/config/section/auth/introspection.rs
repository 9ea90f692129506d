//! `auth.*.introspection` – opaque OAuth 2 tokens, which their provider is asked about (RFC 7662).

use super::claims::{mapping, with_mapping};
use super::jwt::within;
use super::url::trusted_url;
use crate::config::codes::Code;
use crate::config::field::{Item, fit};
use crate::config::secret;
use crate::config::section::pools::texts;
use crate::config::snapshot::IntrospectionAuth;
use std::time::Duration;

/// A client waits so long for an answer of the provider.
const TIMEOUT: Duration = Duration::from_secs(2);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// A token that its provider ends is good for so long yet.
const TTL: Duration = Duration::from_secs(30);
const MAX_TTL: Duration = Duration::from_secs(3600);
/// Answers kept: some hundred bytes each.
const ENTRIES: usize = 100_000;
const MAX_ENTRIES: usize = 10_000_000;

/// Reads `introspection:`.
#[must_use]
pub fn read(item: &Item<'_>) -> Option<IntrospectionAuth> {
    let own = ["url", "client_id", "client_secret", "timeout", "ttl", "entries", "audiences"];
    let fields = item.fields(&with_mapping(&own), &["headers", "token_type_hint"]);
    let url = fields.need("url", "the provider's introspection endpoint").and_then(|item| trusted_url(&item));
    let client_id = fields.need("client_id", "our name at the provider").and_then(|item| client_id(&item));
    let client_secret = fields.need("client_secret", "for example `client_secret: { env: NAME }`");
    let client_secret = client_secret.and_then(|item| secret::read(&item));
    let timeout = |item: &Item<'_>| within(item, item.wait()?, (Duration::ZERO, MAX_TIMEOUT), "at most 30s");
    let ttl = |item: &Item<'_>| {
        within(
            item,
            item.wait()?,
            (Duration::ZERO, MAX_TTL),
            "at most 1h: a token that is ended is good for so long yet",
        )
    };
    let timeout = fields.or("timeout", timeout, TIMEOUT);
    let ttl = fields.or("ttl", ttl, TTL);
    let entries = fields.or("entries", entries, ENTRIES);
    let audiences = fields.or("audiences", texts, Vec::new());
    let mapping = mapping(&fields, "claims");
    let (url, client_id, client_secret) = (url?, client_id?, client_secret?);
    Some(IntrospectionAuth { url, client_id, client_secret, timeout, ttl, entries, audiences, mapping })
}

fn client_id(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if text.is_empty() {
        item.error(Code::BadWord, "an empty client id".into(), None);
        return None;
    }
    Some(text.to_owned())
}

fn entries(item: &Item<'_>) -> Option<usize> {
    let entries = fit(item.positive()?, usize::MAX);
    if entries > MAX_ENTRIES {
        item.error(Code::OutOfRange, format!("at most {MAX_ENTRIES} answers"), None);
        return None;
    }
    Some(entries)
}
