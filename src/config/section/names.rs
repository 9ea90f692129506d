//! The names that sections refer to, and the check of a reference. A section that could not be read proves nothing.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::suggest;
use crate::config::tree::Node;

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
