//! Every section of the effective text but the pools.

use super::{access, auth, map, pools, quota, texts};
use crate::config::snapshot::{
    Action, Durability, Listener, ListenerTls, PathMatch, Route, Server, Snapshot, Telemetry, Usage,
};
use crate::config::tree::Node;
use crate::config::units::{Size, Span};
use serde_yaml::{Mapping, Value};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The whole document.
#[must_use]
pub fn document(snapshot: &Snapshot, root: &Node) -> Value {
    let listeners = snapshot.listeners.iter().map(|one| (one.name.clone(), listener(one)));
    let pools = snapshot.pools.iter().map(|pool| (pool.id.to_string(), pools::pool(pool, root)));
    let authenticators = snapshot.auth.iter().map(|(name, one)| (name.clone(), auth::authenticator(name, one, root)));
    let plans = snapshot.plans.iter().map(|(name, one)| (name.to_string(), quota::plan(one)));
    let tenants = snapshot.tenants.iter().map(|(name, one)| (name.to_string(), access::tenant(one)));
    let routes = snapshot.routes.iter().map(|one| route(one, snapshot));
    map([
        ("version", 1.into()),
        ("server", server(&snapshot.server)),
        ("listeners", named(listeners)),
        ("pools", named(pools)),
        ("routes", Value::Sequence(routes.collect())),
        ("auth", if snapshot.auth.is_empty() { Value::Null } else { named(authenticators) }),
        ("roles", access::roles(&snapshot.roles)),
        ("authorization", access::authorization(&snapshot.authorization)),
        ("plans", named(plans)),
        ("tenants", named(tenants)),
        ("store", access::store(&snapshot.store, root)),
        ("limits", quota::section(&snapshot.limits, root)),
        ("usage", usage(&snapshot.usage)),
        ("telemetry", telemetry(&snapshot.telemetry)),
    ])
}

fn named(entries: impl Iterator<Item = (String, Value)>) -> Value {
    Value::Mapping(entries.map(|(key, value)| (Value::from(key), value)).collect::<Mapping>())
}

fn path(path: &Path) -> Value {
    path.display().to_string().into()
}

fn span(duration: Duration) -> Value {
    Span(duration).to_string().into()
}

fn size(bytes: u64) -> Value {
    Size(bytes).to_string().into()
}

fn server(server: &Server) -> Value {
    let admin_auth = if server.admin_auth.is_empty() { Value::Null } else { texts(&server.admin_auth) };
    map([
        ("workers", server.workers.into()),
        ("state_dir", path(&server.state_dir)),
        ("max_connections", server.max_connections.into()),
        ("drain_timeout", span(server.drain_timeout)),
        ("drain_delay", span(server.drain_delay)),
        ("admin", map([("bind", server.admin.to_string().into()), ("auth", admin_auth)])),
    ])
}

fn listener(listener: &Listener) -> Value {
    let limits = map([
        ("header_bytes", size(listener.header_bytes as u64)),
        ("body_bytes", size(listener.body_bytes)),
        ("header_timeout", span(listener.header_timeout)),
        ("idle_timeout", span(listener.idle_timeout)),
    ]);
    map([
        ("bind", texts(&listener.bind)),
        ("trusted_proxies", texts(&listener.trusted_proxies)),
        ("limits", limits),
        ("tls", listener.tls.as_ref().map_or(Value::Null, tls)),
    ])
}

fn tls(tls: &ListenerTls) -> Value {
    let pair = |(cert, key): &(PathBuf, PathBuf)| map([("cert", path(cert)), ("key", path(key))]);
    let client = if tls.client_required { "required" } else { "optional" };
    map([
        ("certificates", Value::Sequence(tls.certificates.iter().map(pair).collect())),
        ("min_version", if tls.only_tls13 { "1.3" } else { "1.2" }.into()),
        ("client_ca", tls.client_ca.as_ref().map_or(Value::Null, |file| path(file))),
        ("client_cert", if tls.client_ca.is_some() { client.into() } else { Value::Null }),
    ])
}

fn route(route: &Route, snapshot: &Snapshot) -> Value {
    let pool_name = |index: usize| snapshot.pools.get(index).map_or("", |pool| pool.id.as_str());
    let (to, respond) = match &route.action {
        Action::Pools(targets) => {
            let one = |pool: usize, weight: u32| map([("pool", pool_name(pool).into()), ("weight", weight.into())]);
            (Value::Sequence(targets.iter().map(|target| one(target.pool, target.weight)).collect()), Value::Null)
        }
        Action::Respond { status, body } => {
            (Value::Null, map([("status", (*status).into()), ("body", body.as_str().into())]))
        }
    };
    let rewrite = route.rewrite_model.as_ref().map_or(Value::Null, |model| map([("model", model.as_str().into())]));
    map([
        ("name", route.id.as_str().into()),
        ("match", conditions(route)),
        ("auth", if route.auth.is_empty() { "none".into() } else { texts(&route.auth) }),
        ("rewrite", rewrite),
        ("to", to),
        ("respond", respond),
        ("meter", route.meter.into()),
    ])
}

fn conditions(route: &Route) -> Value {
    let matcher = &route.matcher;
    let word = |word: &Option<String>| word.as_ref().map_or(Value::Null, |word| word.as_str().into());
    let path = match &matcher.path {
        PathMatch::Any => Value::Null,
        PathMatch::Exact(path) => map([("exact", path.as_str().into())]),
        PathMatch::Prefix(path) => map([("prefix", path.as_str().into())]),
        PathMatch::Regex(regex) => map([("regex", regex.as_str().into())]),
    };
    map([
        ("listener", word(&matcher.listener)),
        ("host", word(&matcher.host)),
        ("path", path),
        ("method", if matcher.methods.is_empty() { Value::Null } else { texts(&matcher.methods) }),
        ("model", patterns(matcher.models.is_some(), &matcher.model_patterns)),
        ("when", route.when.as_ref().map_or(Value::Null, |when| when.text().into())),
    ])
}

fn patterns(some: bool, written: &[String]) -> Value {
    if some { texts(written) } else { Value::Null }
}

fn usage(usage: &Usage) -> Value {
    let durability = if usage.spool.durability == Durability::Power { "power" } else { "process" };
    let spool = map([
        ("dir", path(&usage.spool.dir)),
        ("durability", durability.into()),
        ("fsync", span(usage.spool.fsync)),
        ("max_bytes", size(usage.spool.max_bytes)),
    ]);
    map([
        ("inject_stream_usage", usage.inject_stream_usage.into()),
        ("record_rejected", usage.record_rejected.into()),
        ("spool", spool),
        ("slots", map([("dir", path(&usage.slots_dir)), ("count", usage.slots.into())])),
        ("writer", map([("sqlite", path(&usage.sqlite))])),
        ("prices", usage.prices.as_ref().map_or(Value::Null, |file| path(file))),
    ])
}

fn telemetry(telemetry: &Telemetry) -> Value {
    let log = telemetry.access_log.as_ref().map_or_else(
        || "none".into(),
        |file| map([("path", path(file)), ("format", "json".into()), ("sample", telemetry.sample.into())]),
    );
    map([
        ("access_log", log),
        ("metrics", map([("tenant_label", format!("top_{}", telemetry.tenant_labels).into())])),
        ("debug_from", texts(&telemetry.debug_from)),
    ])
}
