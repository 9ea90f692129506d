//! `server:` – process-wide settings.

use super::names::{Kind, Names};
use crate::config::codes::Code;
use crate::config::field::{Fields, Item, fit};
use crate::config::snapshot::Server;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Open client connections where nothing is said.
pub const MAX_CONNECTIONS: usize = 65_536;
/// Worker threads at most.
const MAX_WORKERS: usize = 1_024;

/// Reads `server:`.
#[must_use]
pub fn server<'t>(item: &Item<'t>, names: &Names<'t>) -> Server {
    let known = ["workers", "state_dir", "max_connections", "drain_timeout", "drain_delay", "reload", "admin"];
    let fields = item.fields(&known, &[]);
    reload(&fields);
    let admin = fields.item("admin").fields(&["bind", "auth"], &["token", "tls"]);
    Server {
        workers: fields.or("workers", workers, automatic()),
        state_dir: fields.or("state_dir", path, PathBuf::from("var")),
        max_connections: fields.or(
            "max_connections",
            |item| item.positive().map(|n| fit(n, usize::MAX)),
            MAX_CONNECTIONS,
        ),
        drain_timeout: fields.or("drain_timeout", Item::duration, Duration::from_secs(600)),
        drain_delay: fields.or("drain_delay", Item::duration, Duration::ZERO),
        admin: admin.or("bind", address, SocketAddr::from((Ipv4Addr::LOCALHOST, 9901))),
        admin_auth: admin.or("auth", |item| Some(admin_auth(item, names)), Vec::new()),
    }
}

/// Who may use the admin API; the key is absent where that is who has an API key.
fn admin_auth<'t>(item: &Item<'t>, names: &Names<'t>) -> Vec<String> {
    let listed = item.list();
    if listed.is_empty() {
        let hint = Some("leave the key out for API keys, or name some authenticators".to_owned());
        item.error(Code::EmptyPool, "an empty list says neither nobody nor everybody".into(), hint);
    }
    listed.iter().filter_map(|item| names.refer(item, Kind::Auth)).map(str::to_owned).collect()
}

/// `reload: { watch, debounce }` is part of the schema; this version reads its configuration at its start only.
fn reload(fields: &Fields<'_>) {
    let reload = fields.item("reload").fields(&["watch", "debounce"], &[]);
    let watch = reload.or("watch", Item::flag, false);
    let _ = reload.get("debounce").and_then(|item| item.wait());
    if watch {
        let hint = Some("restart Weir to bring changes into force".to_owned());
        reload.item("watch").error(Code::NoEffect, "files are not watched by this version".into(), hint);
    }
}

fn automatic() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn workers(item: &Item<'_>) -> Option<usize> {
    if item.text()? == "auto" {
        return Some(automatic());
    }
    let count = fit(item.positive()?, usize::MAX);
    if count > MAX_WORKERS {
        item.error(Code::OutOfRange, format!("at most {MAX_WORKERS} workers"), Some("use `auto`: one per core".into()));
        return None;
    }
    Some(count)
}

/// A file or folder name that is not empty.
#[must_use]
pub fn path(item: &Item<'_>) -> Option<PathBuf> {
    let text = item.text()?;
    if text.is_empty() {
        item.error(Code::BadWord, "a path must not be empty".into(), None);
        return None;
    }
    Some(PathBuf::from(text))
}

/// An address with a port: `127.0.0.1:8080`, `[::]:443`.
#[must_use]
pub fn address(item: &Item<'_>) -> Option<SocketAddr> {
    let text = item.text()?;
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let port = text.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
    let hint = match port {
        Some(port) if text.starts_with("localhost:") => format!("write `127.0.0.1:{port}`"),
        Some(port) => format!("write `0.0.0.0:{port}` for all interfaces, `127.0.0.1:{port}` for this host alone"),
        None => "write address and port: `0.0.0.0:8080`, `[::]:8080`".to_owned(),
    };
    item.error(Code::BadAddress, format!("`{}` is not an address with a port", item.shown()), Some(hint));
    None
}
