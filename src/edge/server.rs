//! Puts the listeners, the admin listener and the signals on one Pingora server and runs it.

use super::admin::Admin;
use super::drain::{Drain, Followed};
use super::head;
use super::parts::Parts;
use super::proxy::Proxy;
use super::upstream::UpstreamConnector;
use crate::runtime::Runtime;
use pingora_core::apps::HttpServerOptions;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::listeners::ListenerConfig;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::configuration::{Opt, ServerConf};
use pingora_core::server::{RunArgs, Server};
use pingora_core::services::listening::Service;
use pingora_proxy::ProxyServiceBuilder;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::{Semaphore, watch};

/// No read buffer under the client's connection: heads are read by `edge/head.rs` and bodies into buffers of their
/// own, and Pingora's default is 64 KiB for as long as the connection lives (26 KiB of it touched per open stream).
const CLIENT_BUFFERS: L4BufferSettings = L4BufferSettings { read: Some(0), write: None };

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}; free the port or change `{key}`")]
pub struct BindError {
    address: SocketAddr,
    key: String,
    source: std::io::Error,
}

/// Tries every address before Pingora does, which would panic.
///
/// # Errors
/// The first address that is taken or not ours.
pub fn try_bind(runtime: &Runtime) -> Result<(), BindError> {
    let snapshot = &runtime.snapshot;
    let mut wanted = vec![("server.admin.bind".to_owned(), snapshot.server.admin)];
    for listener in &snapshot.listeners {
        wanted.extend(listener.bind.iter().map(|bind| (format!("listeners.{}.bind", listener.name), *bind)));
    }
    for (key, address) in wanted {
        TcpListener::bind(address).map_err(|source| BindError { address, key, source })?;
    }
    Ok(())
}

/// Runs until a signal ends it.
pub fn run(parts: Parts) {
    let runtime = parts.runtime.load_full();
    let settings = &runtime.snapshot.server;
    let mut server = Server::new_with_opt_and_conf(Some(Opt::default()), server_conf(&runtime));
    server.bootstrap();
    let (stop, stopped) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut started = Vec::new();
    for listener in &runtime.snapshot.listeners {
        let proxy = Proxy {
            runtime: Arc::clone(&parts.runtime),
            listener: Arc::clone(listener),
            open: Arc::clone(&parts.open),
        };
        let connector = UpstreamConnector::new(ConnectorOptions::from_server_conf(&server.configuration));
        let hook = head::hook(listener, &connections, &runtime.services.observer);
        let mut options = HttpServerOptions::default();
        options.force_custom = true;
        let mut service = ProxyServiceBuilder::new(&server.configuration, proxy)
            .name(format!("weir {}", listener.name))
            .custom(connector, hook)
            .server_options(options)
            .build();
        for bind in &listener.bind {
            service.add_listener(ListenerConfig::tcp(bind.to_string()).l4_buffer(CLIENT_BUFFERS));
        }
        let flag = Arc::new(AtomicBool::new(false));
        started.push(Arc::clone(&flag));
        server.add_service(Followed { service, stop: stopped.clone(), started: flag });
    }
    let mut admin = Service::new("weir admin".to_owned(), Admin::new(&parts, started));
    admin.threads = Some(1);
    admin.add_tcp(&settings.admin.to_string());
    // The admin listener outlives the drain: `/ready` must say 503 and `/metrics` be read to the end.
    server.add_service(admin);
    let drain = Drain {
        draining: Arc::clone(&runtime.draining),
        open: parts.open,
        stop,
        abort: parts.abort,
        delay: settings.drain_delay,
        timeout: settings.drain_timeout,
        on_reload: parts.on_reload,
        on_reopen: parts.on_reopen,
    };
    server.run(RunArgs { shutdown_signal: Box::new(drain) });
}

/// Pingora's own settings. Its pid file and upgrade socket have fixed names in the temporary folder by default.
fn server_conf(runtime: &Runtime) -> ServerConf {
    let settings = &runtime.snapshot.server;
    let idle = runtime.snapshot.pools.iter().map(|pool| pool.keepalive.idle).max().unwrap_or(128);
    ServerConf {
        threads: settings.workers,
        upstream_keepalive_pool_size: idle.max(128),
        max_retries: 8,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(1),
        pid_file: settings.state_dir.join("pingora.pid").to_string_lossy().into_owned(),
        upgrade_sock: settings.state_dir.join("upgrade.sock").to_string_lossy().into_owned(),
        ..ServerConf::default()
    }
}
