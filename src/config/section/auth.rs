//! `auth:` – who proves how who they are. Decides which kind each authenticator is; the kinds are in files of their own.

pub mod api_key;
pub mod claims;
pub mod client_cert;
pub mod ext_authz;
pub mod introspection;
pub mod jwt;
pub mod url;

use super::names::check_name;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::Authenticator;
use crate::config::tree::ABSENT;
use std::collections::BTreeMap;
use std::path::Path;

const KINDS: &[&str] = &["api_key", "jwt", "introspection", "client_cert", "ext_authz"];

/// Reads `auth:`.
#[must_use]
pub fn authenticators(item: &Item<'_>, state_dir: &Path) -> BTreeMap<String, Authenticator> {
    let read = item.named().into_iter().filter_map(|(entry, item)| {
        check_name(&item, &entry.key, entry.place);
        if entry.key == "none" {
            let hint = Some("`auth: none` means that everyone may; choose another name".to_owned());
            item.findings.add(Code::BadWord, (entry.place, &item.path), "`none` cannot be a name here".into(), hint);
        }
        Some((entry.key.clone(), authenticator(&item, state_dir)?))
    });
    read.collect()
}

fn authenticator(item: &Item<'_>, state_dir: &Path) -> Option<Authenticator> {
    let (kind, settings) = item.variant(KINDS, &["basic", "hmac"])?;
    if settings.is_none() && !matches!(kind, "api_key" | "client_cert") {
        item.error(Code::Missing, format!("`{kind}` needs settings"), Some(format!("write `{kind}: {{ … }}`")));
        return None;
    }
    let settings = settings.unwrap_or(Item { node: &ABSENT, ..item.clone() });
    match kind {
        "jwt" => jwt::read(&settings).map(|auth| Authenticator::Jwt(Box::new(auth))),
        "introspection" => introspection::read(&settings).map(|auth| Authenticator::Introspection(Box::new(auth))),
        "client_cert" => Some(Authenticator::ClientCert(Box::new(client_cert::read(&settings)))),
        "ext_authz" => ext_authz::read(&settings).map(|auth| Authenticator::ExtAuthz(Box::new(auth))),
        _ => Some(Authenticator::ApiKey(api_key::read(&settings, state_dir))),
    }
}
