//! The names that sections refer to, and the check of a reference. A section that could not be read proves nothing.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::suggest;
use crate::config::tree::Node;
use crate::logic::access::claims::{MAX_NAME, is_name};
use crate::logic::access::models::{MAX_PATTERNS, check_patterns};
use std::sync::Arc;

/// What is defined.
#[derive(Debug)]
pub struct Names<'t> {
    /// Pools in name order: the order of `Snapshot::pools`.
    pub pools: Vec<&'t str>,
    /// Listeners.
    pub listeners: Vec<&'t str>,
    /// Authenticators.
    pub auth: Vec<&'t str>,
    /// Plans.
    pub plans: Vec<&'t str>,
    broken: bool,
}

/// What a reference may point to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `pools.NAME`
    Pool,
    /// `listeners.NAME`
    Listener,
    /// `auth.NAME`
    Auth,
    /// `plans.NAME`
    Plan,
}

impl<'t> Names<'t> {
    /// The names of a tree.
    #[must_use]
    pub fn of(root: &'t Node, broken: bool) -> Self {
        let of = |section: &str| -> Vec<&'t str> {
            let mut names: Vec<_> = root
                .get(section)
                .map(|node| node.entries().iter().map(|entry| entry.key.as_str()).collect())
                .unwrap_or_default();
            names.sort_unstable();
            names
        };
        Self { pools: of("pools"), listeners: of("listeners"), auth: of("auth"), plans: of("plans"), broken }
    }

    /// The name that an item refers to; told if it is not defined.
    #[must_use]
    pub fn refer(&self, item: &Item<'t>, kind: Kind) -> Option<&'t str> {
        let name = item.text()?;
        let (code, word, known) = match kind {
            Kind::Pool => (Code::UnknownPool, "pool", &self.pools),
            Kind::Listener => (Code::UnknownListener, "listener", &self.listeners),
            Kind::Auth => (Code::UnknownAuth, "authenticator", &self.auth),
            Kind::Plan => (Code::UnknownPlan, "plan", &self.plans),
        };
        if known.contains(&name) || self.broken {
            return Some(name);
        }
        let hint = suggest::hint(name, known);
        item.error(code, format!("unknown {word} `{}`", item.shown()), hint);
        None
    }

    /// Where a pool stands in `Snapshot::pools`.
    #[must_use]
    pub fn pool_index(&self, name: &str) -> Option<usize> {
        self.pools.iter().position(|pool| *pool == name)
    }
}

/// Tells a name that could not be used in metrics, paths and records as it stands.
pub fn check_name(item: &Item<'_>, name: &str, place: crate::config::diagnostic::Place) {
    let fine = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 64 && name.chars().all(fine) {
        return;
    }
    let hint = Some("use 1 to 64 letters, digits, `-`, `_` or `.`".to_owned());
    item.findings.add(Code::BadWord, (place, &item.path), format!("`{name}` cannot be a name"), hint);
}

/// Tells a user's name that no credential could carry: users are named by identity providers, so they may be
/// addresses, have a `|` in them, or be the subject of a certificate.
pub fn check_user(item: &Item<'_>, name: &str, place: crate::config::diagnostic::Place) {
    if is_name(name) {
        return;
    }
    let hint = Some(format!("use 1 to {MAX_NAME} bytes, no control letters, no blanks around it"));
    item.findings.add(Code::BadWord, (place, &item.path), format!("`{name}` cannot be a user"), hint);
}

/// Model patterns as keys have them, of roles, teams and users.
#[must_use]
pub fn model_list(item: &Item<'_>) -> Arc<[String]> {
    let listed = item.list();
    if listed.is_empty() {
        let hint = Some("leave the key out for every model, or name some".to_owned());
        item.error(Code::EmptyPool, "an empty list allows no model".into(), hint);
    }
    let one = |item: &Item<'_>| {
        let pattern = item.text()?.to_owned();
        if let Err(fault) = check_patterns(std::slice::from_ref(&pattern)) {
            item.error(Code::BadPattern, format!("`{}`: {fault}", item.shown()), None);
        }
        Some(pattern)
    };
    let patterns: Vec<String> = listed.iter().filter_map(one).collect();
    if patterns.len() > MAX_PATTERNS {
        item.error(Code::OutOfRange, format!("at most {MAX_PATTERNS} model names"), None);
    }
    patterns.into()
}

/// A header's name, in lower case.
#[must_use]
pub fn header_name(item: &Item<'_>) -> Option<String> {
    let name = item.text()?.to_ascii_lowercase();
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        item.error(Code::BadWord, format!("`{}` is not a header name", item.shown()), None);
        return None;
    }
    Some(name)
}

/// Headers of a connection or a body: they tell of the message that they stand in, not of who sends it.
pub const OF_THE_MESSAGE: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "expect",
    "content-type",
    "content-encoding",
];

/// A header that may carry a caller's credential, in lower case.
#[must_use]
pub fn credential_header(item: &Item<'_>) -> Option<String> {
    let name = header_name(item)?;
    if OF_THE_MESSAGE.contains(&name.as_str()) {
        let hint = Some("use the header that callers are known by, as `authorization`".to_owned());
        item.error(Code::BadWord, format!("`{name}` belongs to the message and cannot carry a credential"), hint);
        return None;
    }
    Some(name)
}
