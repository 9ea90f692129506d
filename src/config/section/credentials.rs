//! `pools.*.credentials` and `pools.*.identity` – who we are to a backend, and who we tell it that calls.

use super::names::{OF_THE_MESSAGE, header_name};
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::secret;
use crate::config::snapshot::{Credential, ForwardIdentity, Secret};

/// A shorter signing key can be guessed from one signature.
const MIN_SIGNING_KEY: usize = 32;

/// Reads `credentials:`; all keys absent or null: none.
#[must_use]
pub fn credentials(item: &Item<'_>) -> Option<Credential> {
    let fields = item.fields(&["bearer", "header"], &["api_key", "gcp_service_account", "aws", "azure"]);
    match (fields.get("bearer"), fields.get("header")) {
        (Some(bearer), None) => sendable(&bearer).map(Credential::Bearer),
        (None, Some(header)) => custom(&header),
        (Some(_), Some(header)) => {
            let hint = Some("remove one of them".to_owned());
            header.error(Code::Contradiction, "a pool has one credential, `bearer` or `header`".into(), hint);
            None
        }
        (None, None) => None,
    }
}

/// `header: { name: x-key, value: SECRET }`
fn custom(item: &Item<'_>) -> Option<Credential> {
    let fields = item.fields(&["name", "value"], &["prefix"]);
    let name = fields.need("name", "for example `name: x-api-key`").and_then(|item| free_name(&item));
    let value = fields.need("value", "for example `value: { env: NAME }`").and_then(|item| sendable(&item));
    Some(Credential::Header(name?, value?))
}

fn free_name(item: &Item<'_>) -> Option<String> {
    let name = header_name(item)?;
    if OF_THE_MESSAGE.contains(&name.as_str()) || name.starts_with("x-weir-") {
        let hint = Some("use the header that the backend reads its key from, as `x-api-key`".to_owned());
        item.error(Code::BadWord, format!("`{name}` cannot carry a credential"), hint);
        return None;
    }
    Some(name)
}

/// A secret that can stand in a header.
fn sendable(item: &Item<'_>) -> Option<Secret> {
    let secret = secret::read(item)?;
    if http::HeaderValue::from_bytes(&secret.0).is_err() {
        item.error(Code::BadSecret, "the secret cannot stand in a header".into(), None);
        return None;
    }
    Some(secret)
}

/// Reads `identity:`, `plain` or `signed: { key: SECRET }`.
#[must_use]
pub fn identity(item: &Item<'_>) -> Option<ForwardIdentity> {
    let (kind, settings) = item.variant(&["plain", "signed"], &["jwt"])?;
    if kind == "plain" {
        return Some(ForwardIdentity { sign: None });
    }
    let Some(settings) = settings else {
        let hint = Some("write `signed: { key: { env: NAME } }`".to_owned());
        item.error(Code::Missing, "`signed` needs a key".into(), hint);
        return None;
    };
    let key = settings.fields(&["key"], &["algorithm"]).need("key", "for example `key: { env: NAME }`")?;
    let secret = secret::read(&key)?;
    if secret.0.len() < MIN_SIGNING_KEY {
        let hint = Some("make one with `openssl rand -base64 32`".to_owned());
        key.error(Code::BadSecret, format!("a signing key has at least {MIN_SIGNING_KEY} bytes"), hint);
        return None;
    }
    Some(ForwardIdentity { sign: Some(secret) })
}
