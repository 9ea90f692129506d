//! `auth.*.jwt` – one issuer of signed tokens: its audiences, keys and algorithms, pinned here and never by a token.

use super::claims::{mapping, with_mapping};
use super::url::trusted_url;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::secret;
use crate::config::snapshot::{JwtAlgorithm, JwtAuth, JwtKeys};
use std::time::Duration;

/// A key set is fetched again so often: a key that is withdrawn is good for so long at most.
const REFRESH: Duration = Duration::from_secs(600);
const MIN_REFRESH: Duration = Duration::from_secs(1);
const MAX_REFRESH: Duration = Duration::from_secs(86_400);
/// Tolerance where nothing is said (semantics.md §4).
const LEEWAY: Duration = Duration::from_secs(60);
/// More is no tolerance between clocks, but a longer life of every token.
const MAX_LEEWAY: Duration = Duration::from_secs(300);
/// A shorter secret can be guessed from one token, without asking anyone.
const MIN_SECRET: usize = 32;

/// Reads `jwt:`.
#[must_use]
pub fn read(item: &Item<'_>) -> Option<JwtAuth> {
    let known = with_mapping(&["issuer", "audiences", "jwks", "secret", "algorithms", "leeway"]);
    let fields = item.fields(&known, &["introspect", "headers", "cookie"]);
    let keys = keys(&fields);
    let named = fields.item("jwks").node.get("url").is_some() || matches!(keys, JwtKeys::Secret(_));
    let issuer = fields.need("issuer", "the `iss` of the tokens, letter by letter");
    let issuer = issuer.and_then(|item| if named { name(&item) } else { address(&item) });
    let audiences = fields.need("audiences", "the `aud` by which tokens are meant for this proxy, as `[llm-api]`");
    let audiences = audiences.and_then(|item| audience_list(&item));
    let algorithms = algorithms(&fields, matches!(keys, JwtKeys::Secret(_)));
    let leeway = fields.or("leeway", leeway, LEEWAY);
    let mapping = mapping(&fields, "claims");
    Some(JwtAuth { issuer: issuer?, audiences: audiences?, keys, algorithms, leeway, mapping })
}

/// Discovery, a key set by address, or a shared secret.
fn keys(fields: &Fields<'_>) -> JwtKeys {
    let jwks = fields.item("jwks").fields(&["url", "refresh"], &["file", "inline"]);
    let url = jwks.get("url").and_then(|item| trusted_url(&item));
    let refresh = jwks.or("refresh", refresh, REFRESH);
    let Some(item) = fields.get("secret") else { return JwtKeys::Jwks { url, refresh } };
    if let Some(jwks) = fields.get("jwks") {
        let hint = Some("an issuer signs with a shared secret or with public keys; remove one of them".to_owned());
        jwks.error(Code::Contradiction, "`jwks` and `secret` exclude each other".into(), hint);
    }
    let secret = secret::read(&item).unwrap_or_else(crate::config::snapshot::Secret::none);
    if !secret.0.is_empty() && secret.0.len() < MIN_SECRET {
        let hint = Some("make one with `openssl rand -base64 32`".to_owned());
        item.error(Code::BadSecret, format!("a shared secret has at least {MIN_SECRET} bytes"), hint);
    }
    JwtKeys::Secret(secret)
}

/// An issuer whose keys are found elsewhere is a name.
fn name(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    if text.is_empty() {
        item.error(Code::BadWord, "an empty issuer".into(), None);
        return None;
    }
    Some(text.to_owned())
}

/// An issuer whose keys are found by discovery is an address too; it is compared as it was written.
fn address(item: &Item<'_>) -> Option<String> {
    trusted_url(item)?;
    item.text().map(str::to_owned)
}

fn audience_list(item: &Item<'_>) -> Option<Vec<String>> {
    let audiences = crate::config::section::pools::texts(item)?;
    if audiences.is_empty() {
        let hint = Some("name the audience of this proxy: tokens for other services must not be good here".to_owned());
        item.error(Code::EmptyPool, "without an audience every token of the issuer would be accepted".into(), hint);
        return None;
    }
    Some(audiences)
}

fn algorithms(fields: &Fields<'_>, symmetric: bool) -> Vec<JwtAlgorithm> {
    // Without a word: what OpenID Connect asks of every provider.
    let default = if symmetric { JwtAlgorithm::HS256 } else { JwtAlgorithm::RS256 };
    let Some(item) = fields.get("algorithms") else { return vec![default] };
    let listed = item.list();
    if listed.is_empty() {
        let hint = Some("leave the key out for the default".to_owned());
        item.error(Code::EmptyPool, "no token could be accepted".into(), hint);
    }
    listed.iter().filter_map(|item| algorithm(item, symmetric)).collect()
}

fn algorithm(item: &Item<'_>, symmetric: bool) -> Option<JwtAlgorithm> {
    if item.text()?.eq_ignore_ascii_case("none") {
        let hint = Some("name what the issuer signs with: RS256, ES256, EdDSA, …".to_owned());
        item.error(Code::UnknownChoice, "`none` means that nobody signed: such tokens are never accepted".into(), hint);
        return None;
    }
    let names = JwtAlgorithm::ALL.map(|(name, _)| name);
    let name = item.choice(&names, &["ES512", "ES256K"])?;
    let algorithm = JwtAlgorithm::ALL.into_iter().find(|(one, _)| *one == name).map(|(_, algorithm)| algorithm)?;
    if algorithm.symmetric() == symmetric {
        return Some(algorithm);
    }
    let (message, hint) = if symmetric {
        ("is checked with a public key, and this issuer has a `secret`", "name HS256, HS384 or HS512, or use `jwks`")
    } else {
        ("needs a shared `secret`; with public keys anyone could sign by it", "name RS256, ES256, EdDSA, …")
    };
    item.error(Code::Contradiction, format!("`{name}` {message}"), Some(hint.to_owned()));
    None
}

fn refresh(item: &Item<'_>) -> Option<Duration> {
    within(item, item.wait()?, (MIN_REFRESH, MAX_REFRESH), "from 1s to 24h; 5m to 15m is usual")
}

fn leeway(item: &Item<'_>) -> Option<Duration> {
    within(item, item.duration()?, (Duration::ZERO, MAX_LEEWAY), "at most 5m: it lengthens the life of every token")
}

/// A span within bounds.
pub(super) fn within(item: &Item<'_>, span: Duration, bounds: (Duration, Duration), hint: &str) -> Option<Duration> {
    if (bounds.0..=bounds.1).contains(&span) {
        return Some(span);
    }
    item.error(Code::OutOfRange, format!("`{}` cannot work here", item.shown()), Some(hint.to_owned()));
    None
}
