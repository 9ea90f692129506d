//! What store, listeners and authenticators ask of each other.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::{Authenticator, PepperSource, Snapshot, StoreTarget};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::path::Path;

/// Tells every authenticator of API keys whose pepper other replicas of the store could not know.
pub fn pepper(root: &Item<'_>, snapshot: &Snapshot) {
    if !matches!(snapshot.store.target, StoreTarget::Postgres(_)) {
        return;
    }
    let auth = root.fields_unchecked().item("auth");
    for (name, authenticator) in &snapshot.auth {
        let Authenticator::ApiKey(keys) = authenticator else { continue };
        let named = auth.fields_unchecked().item(name);
        let item = if named.text_only() { named } else { named.fields_unchecked().item("api_key") };
        let written = item.fields_unchecked().get("pepper").is_some();
        if matches!(keys.pepper, PepperSource::StateFile(_)) && !written {
            let hint = Some("add `pepper: { file: /path }` or `{ env: NAME }`, the same on every replica".to_owned());
            let message = "`pepper` is required with a Postgres store: replicas that share keys must share it";
            item.error(Code::Missing, message.into(), hint);
        }
    }
}

/// Tells every second authenticator of one issuer: a token must lead to one of them only.
pub fn issuers<'t>(root: &Item<'t>, snapshot: &Snapshot) {
    let auth = root.fields_unchecked().item("auth");
    let mut seen: BTreeMap<&str, Item<'t>> = BTreeMap::new();
    for (name, item) in auth.named_quietly() {
        let Some(Authenticator::Jwt(jwt)) = snapshot.auth.get(&name.key) else { continue };
        let item = item.fields_unchecked().item("jwt").fields_unchecked().item("issuer");
        if let Some(first) = seen.get(jwt.issuer.as_str()) {
            let message = format!("the tokens of this issuer are already read by `{}`", first.path);
            let hint = Some("give one authenticator all audiences of an issuer".to_owned());
            item.error(Code::DuplicateName, message, hint);
            continue;
        }
        seen.insert(&jwt.issuer, item);
    }
}

/// Warns of what is configured and never comes into play.
pub fn idle(root: &Item<'_>, snapshot: &Snapshot) {
    let top = root.fields_unchecked();
    let asked = snapshot.listeners.iter().any(|one| one.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some()));
    for (name, item) in top.item("auth").named_quietly() {
        if !asked && matches!(snapshot.auth.get(&name.key), Some(Authenticator::ClientCert(_))) {
            let hint = Some("add `client_ca: FILE` to the `tls` of a listener".to_owned());
            item.error(Code::Idle, "no listener asks for client certificates".into(), hint);
        }
    }
    if snapshot.auth.is_empty() && !snapshot.authorization.is_empty() {
        let hint = Some("add `auth: { keys: { api_key: {} } }`".to_owned());
        let message = "rules are for callers who are known, and there is no `auth`";
        top.item("authorization").error(Code::Idle, message.into(), hint);
    }
}

/// Warns where several authorities may each vouch for identities of several trust domains, or of any: nothing ties a
/// domain to the authority that it belongs to.
pub fn untied(root: &Item<'_>, snapshot: &Snapshot) {
    let authorities = snapshot.listeners.iter().filter_map(|one| one.tls.as_ref()?.client_ca.as_deref());
    if authorities.map(authority_count).max().unwrap_or_default() < 2 {
        return;
    }
    for (name, item) in root.fields_unchecked().item("auth").named_quietly() {
        let Some(Authenticator::ClientCert(certificates)) = snapshot.auth.get(&name.key) else { continue };
        if certificates.trust_domains.len() != 1 {
            let message = "a `client_ca` has several authorities, and each of them may vouch for any identity here";
            let hint = Some("name one trust domain, or put only its own authorities into `client_ca`".to_owned());
            item.error(Code::Untied, message.into(), hint);
        }
    }
}

/// What cannot be read has been told where the listener was.
fn authority_count(file: &Path) -> usize {
    CertificateDer::pem_file_iter(file).map_or(0, |certificates| certificates.filter(Result::is_ok).count())
}
