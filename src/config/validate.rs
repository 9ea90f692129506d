//! What must hold between sections: sockets, names, reach of routes, exposure, what nothing refers to or comes to nothing.

pub mod binds;
pub mod exposure;
pub mod identity;
pub mod names;
pub mod quota;
pub mod reach;

use super::field::Item;
use super::snapshot::Snapshot;

/// Checks a compiled configuration; `root` knows the places. Where sections are missing because of their
/// syntax, only what needs no other section is checked.
pub fn check(root: &Item<'_>, snapshot: &Snapshot, broken: bool) {
    binds::check(root, snapshot);
    names::backends(root, snapshot);
    identity::pepper(root, snapshot);
    identity::issuers(root, snapshot);
    if broken || root.findings.failed() {
        return;
    }
    names::unused(root, snapshot);
    reach::check(root, snapshot);
    exposure::check(root, snapshot);
    identity::idle(root, snapshot);
    identity::untied(root, snapshot);
    quota::apart(root, snapshot);
    quota::idle(root, snapshot);
    quota::crowded(root, snapshot);
}
