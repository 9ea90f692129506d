//! `telemetry:` – access log, labels, and who may ask for explanations.

use super::listeners::networks;
use super::server::path;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::Telemetry;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

/// Tenant names in metrics where nothing is said.
const TENANT_LABELS: usize = 1_000;
/// Tenant names in metrics at most: each is a time series of its own.
const MAX_TENANT_LABELS: usize = 100_000;

/// Reads `telemetry:`.
#[must_use]
pub fn telemetry(item: &Item<'_>) -> Telemetry {
    let fields = item.fields(&["access_log", "metrics", "debug_from"], &["tracing"]);
    let metrics = fields.item("metrics").fields(&["path", "tenant_label"], &[]);
    if let Some(path) = metrics.get("path").filter(|path| path.text() != Some("/metrics")) {
        path.error(Code::Unsupported, "another path than `/metrics` is not supported by this version".into(), None);
    }
    let (access_log, sample) = access_log(&fields.item("access_log"));
    Telemetry {
        access_log,
        sample,
        debug_from: fields.or("debug_from", networks, loopback()),
        tenant_labels: metrics.or("tenant_label", tenant_labels, TENANT_LABELS),
    }
}

/// Path and sample; `access_log: none` turns it off.
fn access_log(item: &Item<'_>) -> (Option<PathBuf>, f64) {
    if item.text_only() {
        let off = item.text() == Some("none");
        return (if off { None } else { path(item) }, 1.0);
    }
    let fields = item.fields(&["path", "format", "sample", "bodies"], &[]);
    if let Some(format) = fields.get("format") {
        let _ = format.choice(&["json"], &["text", "combined"]);
    }
    if let Some(bodies) = fields.get("bodies") {
        let _ = bodies.choice(&["never"], &["errors", "always", "sampled"]);
    }
    (Some(fields.or("path", path, PathBuf::from("/dev/stdout"))), fields.or("sample", Item::share, 1.0))
}

fn tenant_labels(item: &Item<'_>) -> Option<usize> {
    let count = item.text()?.strip_prefix("top_").and_then(|count| count.parse().ok());
    if let Some(count) = count.filter(|count| *count <= MAX_TENANT_LABELS) {
        return Some(count);
    }
    let hint = Some(format!("write `top_1000`; at most `top_{MAX_TENANT_LABELS}`"));
    item.error(Code::BadUnit, format!("`{}` is not a number of tenants", item.shown()), hint);
    None
}

fn loopback() -> Vec<IpNet> {
    let v4 = Ipv4Net::new(Ipv4Addr::new(127, 0, 0, 0), 8).map(IpNet::V4);
    let v6 = Ipv6Net::new(Ipv6Addr::LOCALHOST, 128).map(IpNet::V6);
    [v4, v6].into_iter().flatten().collect()
}
