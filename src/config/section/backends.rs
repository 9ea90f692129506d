//! `pools.*.backends` – the replicas: URL, name, weight, address. Resolves host names (the only wait of a load).

use super::names::check_name;
use crate::config::codes::Code;
use crate::config::field::{Item, fit};
use crate::config::snapshot::Backend;
use crate::domain::ids::BackendId;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// The largest relative share.
const MAX_WEIGHT: u32 = 1_000_000;

/// Reads `backends:` of one pool.
#[must_use]
pub fn backends(pool: &str, item: &Item<'_>) -> Vec<Backend> {
    let numbered = item.list().into_iter().enumerate();
    let all: Vec<_> = numbered.filter_map(|(index, item)| backend(&format!("{pool}-{index}"), &item)).collect();
    let asked = item.list().len();
    if asked == 0 {
        item.error(Code::EmptyPool, "a pool needs at least one backend".into(), None);
    } else if all.len() == asked && all.iter().all(|backend| backend.weight == 0) {
        let hint = Some("give at least one backend a weight of 1".to_owned());
        item.error(Code::NoWeight, "all weights are 0: nothing can be sent".into(), hint);
    }
    all
}

fn backend(default_name: &str, item: &Item<'_>) -> Option<Backend> {
    let (name, url, share) = if item.text_only() {
        (None, Some(item.clone()), 1)
    } else {
        let fields = item.fields(&["name", "url", "weight"], &["kv_events", "zone", "tls", "sni"]);
        let name = fields.get("name").and_then(|name| {
            let text = name.text()?;
            check_name(&name, text, name.node.place);
            Some(text)
        });
        (name, fields.need("url", "for example `url: \"http://127.0.0.1:8000\"`"), fields.or("weight", weight, 1))
    };
    let url = url?;
    let target = Target::of(&url)?;
    let addr = resolve(&url, &target)?;
    Some(Backend {
        id: BackendId::new(name.unwrap_or(default_name)),
        tls: target.tls,
        host: target.host,
        port: target.port,
        prefix: target.prefix,
        weight: share,
        addr,
    })
}

/// A relative share; 0 is allowed.
#[must_use]
pub fn weight(item: &Item<'_>) -> Option<u32> {
    let weight = fit(item.count()?, u32::MAX);
    if weight > MAX_WEIGHT {
        item.error(Code::OutOfRange, format!("a weight is at most {MAX_WEIGHT}"), None);
        return None;
    }
    Some(weight)
}

struct Target {
    tls: bool,
    host: String,
    port: u16,
    prefix: String,
}

impl Target {
    fn of(item: &Item<'_>) -> Option<Self> {
        let text = item.text()?;
        let wrong = |message: &str, hint: &str| {
            item.error(Code::BadUrl, message.to_owned(), Some(hint.to_owned()));
            None
        };
        let example = "write `http://10.0.0.1:8000` or `https://api.example.com`";
        let Ok(uri) = text.parse::<http::Uri>() else {
            return wrong("not a URL", example);
        };
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return wrong("not an http or https URL", example),
        };
        let Some(authority) = uri.authority() else { return wrong("a URL without a host", example) };
        if authority.as_str().contains('@') {
            item.findings.mask(item.node.place);
            return wrong("a URL with a user or password in it", "use the pool's `credentials`");
        }
        if uri.query().is_some() {
            return wrong("a URL with a query", "leave everything from the `?` on away");
        }
        let tail = authority.as_str().rsplit(']').next().unwrap_or_default();
        if tail.contains(':') && uri.port_u16().is_none_or(|port| port == 0) {
            return wrong("a URL with a port that is none", "use a port from 1 to 65535");
        }
        let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
        if host.is_empty() {
            return wrong("a URL without a host", example);
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Self { tls, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

/// The address behind a host name; literals and `localhost` need no resolver.
fn resolve(item: &Item<'_>, target: &Target) -> Option<SocketAddr> {
    if let Ok(ip) = target.host.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, target.port));
    }
    if target.host == "localhost" {
        return Some(SocketAddr::from((Ipv4Addr::LOCALHOST, target.port)));
    }
    let found = (target.host.as_str(), target.port).to_socket_addrs();
    let fault = match found.map(|mut addresses| addresses.next()) {
        Ok(Some(address)) => return Some(address),
        Ok(None) => "no address".to_owned(),
        Err(error) => error.to_string(),
    };
    let hint =
        Some("host names are resolved when the configuration is loaded; use an address if there is no DNS".into());
    item.error(Code::Unresolvable, format!("host `{}` cannot be resolved: {fault}", target.host), hint);
    None
}
