//! `listeners:` – sockets and what is accepted on them.

use super::names::check_name;
use super::server::address;
use super::tls::tls;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item, fit};
use crate::config::snapshot::Listener;
use crate::config::tree::Kind;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Reads `listeners:`, in name order.
#[must_use]
pub fn listeners(top: &Fields<'_>, broken: bool) -> Vec<Arc<Listener>> {
    let item = top.item("listeners");
    let named = item.named();
    if named.is_empty() && !broken && matches!(item.node.kind, Kind::Null | Kind::Map(_)) {
        let hint = Some("add `listeners: { http: { bind: [\"127.0.0.1:8080\"] } }`".to_owned());
        top.item.error(Code::Missing, "`listeners` is required, with at least one".into(), hint);
    }
    let mut all: Vec<_> = named
        .iter()
        .map(|(entry, item)| {
            check_name(item, &entry.key, entry.place);
            Arc::new(listener(&entry.key, item))
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn listener(name: &str, item: &Item<'_>) -> Listener {
    let fields =
        item.fields(&["bind", "protocols", "trusted_proxies", "limits", "tls"], &["redirect_https", "proxy_protocol"]);
    let limits = fields.item("limits").fields(&["header_bytes", "body_bytes", "header_timeout", "idle_timeout"], &[]);
    if let Some(protocols) = fields.get("protocols") {
        for protocol in protocols.list() {
            let _ = protocol.choice(&["http1"], &["h2", "h2c", "h3"]);
        }
    }
    let bind = fields.need("bind", "for example `bind: [\"127.0.0.1:8080\"]`").map(|bind| {
        let addresses: Vec<_> = bind.list().iter().filter_map(address).collect();
        if bind.list().is_empty() {
            bind.error(Code::EmptyPool, "a listener needs an address".into(), None);
        }
        addresses
    });
    Listener {
        name: name.to_owned(),
        bind: bind.unwrap_or_default(),
        trusted_proxies: fields.or("trusted_proxies", networks, Vec::new()),
        header_bytes: limits.or("header_bytes", |item| item.size().map(|size| fit(size, usize::MAX)), 64 << 10),
        body_bytes: limits.or("body_bytes", Item::size, 20 << 20),
        header_timeout: limits.or("header_timeout", Item::wait, Duration::from_secs(10)),
        idle_timeout: limits.or("idle_timeout", Item::wait, Duration::from_secs(75)),
        tls: fields.get("tls").and_then(|item| tls(&item)),
    }
}

/// A list of networks; an address alone is the network of that address.
#[must_use]
pub fn networks(item: &Item<'_>) -> Option<Vec<IpNet>> {
    let one = |item: &Item<'_>| -> Option<IpNet> {
        let text = item.text()?;
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if network.is_none() {
            let hint = Some("write `10.0.0.0/8` or `::1/128`".to_owned());
            item.error(Code::BadAddress, format!("`{}` is not a network", item.shown()), hint);
        }
        network
    };
    Some(item.list().iter().filter_map(one).collect())
}
