//! Backend names are unique in the whole configuration; what nothing refers to is told.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::section::plans::is_used;
use crate::config::snapshot::{Action, Snapshot};
use crate::domain::ids::BackendId;
use std::collections::BTreeMap;

/// Tells every backend whose name is taken.
pub fn backends<'t>(root: &Item<'t>, snapshot: &Snapshot) {
    let pools = root.fields_unchecked().item("pools");
    let mut seen: BTreeMap<&BackendId, Item<'t>> = BTreeMap::new();
    for pool in &snapshot.pools {
        let list = pools.fields_unchecked().item(pool.id.as_str()).fields_unchecked().item("backends").list();
        if list.len() != pool.backends.len() {
            continue; // some were refused, so the rest cannot be told apart by place
        }
        for (backend, item) in pool.backends.iter().zip(list) {
            if let Some(first) = seen.get(&backend.id) {
                let spot = item.findings.spot(first.node.place);
                let message = format!("a backend `{}` is already defined at {spot}", backend.id);
                item.error(Code::DuplicateName, message, Some("a backend's name is its id everywhere".into()));
            }
            seen.insert(&backend.id, item);
        }
    }
}

/// Warns of pools that no route leads to. Plans may also be on keys, so only a lone typing error is likely there.
pub fn unused(root: &Item<'_>, snapshot: &Snapshot) {
    let top = root.fields_unchecked();
    for (index, pool) in snapshot.pools.iter().enumerate() {
        let used = snapshot.routes.iter().any(|route| match &route.action {
            Action::Pools(targets) => targets.iter().any(|target| target.pool == index),
            Action::Respond { .. } => false,
        });
        if !used {
            let item = top.item("pools").fields_unchecked().item(pool.id.as_str());
            let hint = Some("add a route to it, or remove it".to_owned());
            item.error(Code::Unused, format!("no route leads to pool `{}`", pool.id), hint);
        }
    }
    if snapshot.auth.is_empty() {
        for plan in snapshot.plans.keys().filter(|plan| !is_used(snapshot, plan)) {
            let item = top.item("plans").fields_unchecked().item(plan.as_str());
            let hint = Some(
                "name it at a tenant, team or user; without `auth` there are no keys that could have it".to_owned(),
            );
            item.error(Code::Unused, format!("no tenant has plan `{plan}`"), hint);
        }
    }
}
