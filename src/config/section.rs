//! Sections of the file to the types of the snapshot, one file each. What holds between sections is in `validate`.

pub mod auth;
pub mod authorization;
pub mod backends;
pub mod budgets;
pub mod credentials;
pub mod expression;
pub mod limits;
pub mod listeners;
pub mod matcher;
pub mod names;
pub mod patterns;
pub mod plans;
pub mod policy;
pub mod pools;
pub mod prices;
pub mod redis;
pub mod roles;
pub mod routes;
pub mod rules;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tenants;
pub mod tls;
pub mod usage;

use super::codes::Code;
use super::field::Item;
use super::snapshot::Snapshot;
use names::Names;
use std::path::Path;
use std::sync::Arc;

/// Top-level keys; `x-…` are allowed too.
const KNOWN: &[&str] = &[
    "version",
    "include",
    "server",
    "listeners",
    "pools",
    "routes",
    "auth",
    "roles",
    "authorization",
    "plans",
    "tenants",
    "store",
    "limits",
    "usage",
    "telemetry",
];
/// Top-level keys of later versions.
const LATER: &[&str] = &["plugins"];

/// Compiles a tree. Where it is wrong, defaults stand in: the result is of use only if nothing was found.
#[must_use]
pub fn compile(root: &Item<'_>, broken: bool, file: &Path) -> Snapshot {
    let extra: Vec<&str> = root.node.entries().iter().map(|entry| entry.key.as_str()).collect();
    let known: Vec<&str> = KNOWN.iter().copied().chain(extra.into_iter().filter(|key| key.starts_with("x-"))).collect();
    let top = root.fields(&known, LATER);
    if broken || top.get("version").is_some() {
        version(&top.item("version"), broken);
    } else {
        let hint = Some("add `version: 1` as the first line".to_owned());
        root.error(Code::Missing, "`version` is required".into(), hint);
    }
    let names = Names::of(root.node, broken);
    let server = server::server(&top.item("server"), &names);
    let state = &server.state_dir;
    let limits = limits::limits(&top.item("limits"));
    let fallback = limits.on_store_error();
    let pools = pools::pools(&top, fallback);
    let usage = usage::usage(&top.item("usage"), &server);
    let prices = usage.prices.as_deref().map(|file| {
        let named = top.item("usage").fields_unchecked().item("prices");
        Arc::new(prices::price_book(&named, file))
    });
    Snapshot {
        version: "".into(),
        file: file.to_owned(),
        listeners: listeners::listeners(&top, broken),
        routes: routes::routes(&top, &names, broken),
        auth: auth::authenticators(&top.item("auth"), state),
        plans: plans::plans(&top.item("plans"), fallback),
        tenants: tenants::tenants(&top.item("tenants"), &names, fallback),
        store: store::store(&top.item("store"), state),
        limits,
        usage,
        telemetry: telemetry::telemetry(&top.item("telemetry")),
        roles: roles::roles(&top.item("roles")),
        authorization: authorization::rules(&top.item("authorization")),
        prices: prices.unwrap_or_default(),
        pools,
        server,
    }
}

fn version(item: &Item<'_>, broken: bool) {
    if item.node.is_null() && broken {
        return;
    }
    if item.count().is_some_and(|version| version != 1) {
        let hint = Some("this program reads `version: 1`".to_owned());
        item.error(Code::UnknownChoice, format!("unknown version `{}`", item.shown()), hint);
    }
}
