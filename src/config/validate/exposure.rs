//! Warns where a listener that others can reach asks nobody for a key.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::Snapshot;

/// Checks listeners and the admin socket.
pub fn check(root: &Item<'_>, snapshot: &Snapshot) {
    let top = root.fields_unchecked();
    if !snapshot.server.admin.ip().is_loopback() {
        let item = top.item("server").fields_unchecked().item("admin").fields_unchecked().item("bind");
        let hint = Some("bind it to 127.0.0.1, or keep others away by other means".to_owned());
        item.error(Code::OpenToNetwork, "the admin listener asks for no key and is not on loopback".into(), hint);
    }
    if !snapshot.auth.is_empty() {
        return;
    }
    for listener in snapshot.listeners.iter().filter(|listener| listener.bind.iter().any(|at| !at.ip().is_loopback())) {
        let item = top.item("listeners").fields_unchecked().item(&listener.name).fields_unchecked().item("bind");
        let hint = Some("add `auth: { keys: { api_key: {} } }`, or bind to 127.0.0.1".to_owned());
        let message =
            format!("everyone who reaches listener `{}` may use every route: there is no `auth`", listener.name);
        item.error(Code::OpenToNetwork, message, hint);
    }
}
