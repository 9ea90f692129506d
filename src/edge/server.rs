//! Puts the listeners, the admin listener and the signals on one Pingora server and runs it.

use super::admin::Admin;
use super::drain::{Drain, Followed};
use super::head::{self, Door};
use super::parts::Parts;
use super::proxy::Proxy;
use super::tls::{self, Tls, TlsError};
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

/// Of the connections that may be open, one in so many may be within its TLS handshake.
const HANDSHAKE_SHARE: usize = 4;

/// Why the listeners cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// An address that cannot be listened on.
    #[error("cannot listen on {address}: {source}; free the port or change `{key}`")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Where it stands in the configuration.
        key: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Certificates or keys that cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// TLS of each listener, in the snapshot's order.
#[derive(Debug)]
pub struct Ready(Vec<Option<Arc<Tls>>>);

/// Tries every address before Pingora does, which would panic, and reads every certificate.
///
/// # Errors
/// The first address that is taken or not ours, or the first file that cannot be used.
pub fn prepare(runtime: &Runtime) -> Result<Ready, ListenError> {
    let snapshot = &runtime.snapshot;
    let mut wanted = vec![("server.admin.bind".to_owned(), snapshot.server.admin)];
    for listener in &snapshot.listeners {
        wanted.extend(listener.bind.iter().map(|bind| (format!("listeners.{}.bind", listener.name), *bind)));
    }
    for (key, address) in wanted {
        TcpListener::bind(address).map_err(|source| ListenError::Bind { address, key, source })?;
    }
    let tls: Result<Vec<_>, TlsError> =
        snapshot.listeners.iter().map(|one| Ok(tls::load(one)?.map(Arc::new))).collect();
    Ok(Ready(tls?))
}

/// Runs until a signal ends it. `ready` is what [`prepare`] made of the same runtime.
pub fn run(parts: Parts, ready: Ready) {
    let runtime = parts.runtime.load_full();
    let settings = &runtime.snapshot.server;
    let mut server = Server::new_with_opt_and_conf(Some(Opt::default()), server_conf(&runtime));
    server.bootstrap();
    let (stop, stopped) = watch::channel(false);
    let most = settings.max_connections.min(Semaphore::MAX_PERMITS);
    let connections = Arc::new(Semaphore::new(most));
    let handshakes = Arc::new(Semaphore::new((most / HANDSHAKE_SHARE).max(1)));
    let mut started = Vec::new();
    for (listener, tls) in runtime.snapshot.listeners.iter().zip(ready.0) {
        let proxy = Proxy {
            runtime: Arc::clone(&parts.runtime),
            listener: Arc::clone(listener),
            open: Arc::clone(&parts.open),
        };
        let connector = UpstreamConnector::new(ConnectorOptions::from_server_conf(&server.configuration));
        let hook = head::hook(Door {
            listener: Arc::clone(listener),
            tls,
            connections: Arc::clone(&connections),
            handshakes: Arc::clone(&handshakes),
            observer: Arc::clone(&runtime.services.observer),
        });
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
