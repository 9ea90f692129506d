//! Where an attempt connects to, and by which of the two upstream paths: model calls through Weir's own connector,
//! everything else through Pingora's.

use crate::config::snapshot::{Backend, Pool};
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CustomALPN;
use pingora_core::upstreams::peer::HttpPeer;
use std::sync::LazyLock;
use std::time::Duration;

/// How long one write to a backend may block.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Keeps the two paths' idle connections apart: Pingora looks for a pooled HTTP/1 connection of the same key before it
/// asks Weir's connector, and a model call on one that plain HTTP left would go around the connector: its body would
/// never be sent.
const OWN_POOL: u64 = 1;

/// Marks a peer for Weir's connector; never sent on the wire.
static OWN_CONNECTOR: LazyLock<ALPN> = LazyLock::new(|| ALPN::Custom(CustomALPN::new(b"weir".to_vec())));

/// Keeps idle connections of the two paths apart. Pingora looks for one of its own before it asks Weir's connector;
/// on that path nobody sends the buffered body, and both sides would wait for ever.
const OWN_GROUP: u64 = 1;

/// A peer for a model call: `edge/upstream.rs` owns its deadlines.
#[must_use]
pub fn for_call(pool: &Pool, backend: &Backend) -> Box<HttpPeer> {
    let mut peer = base(pool, backend);
    peer.group_key = OWN_GROUP;
    peer.options.alpn = OWN_CONNECTOR.clone();
    peer.group_key = OWN_POOL;
    peer
}

/// A peer for plain HTTP: Pingora reads with a deadline between two reads.
#[must_use]
pub fn for_http(pool: &Pool, backend: &Backend) -> Box<HttpPeer> {
    let mut peer = base(pool, backend);
    peer.options.alpn = ALPN::H1;
    peer.options.read_timeout = Some(pool.timeouts.between_bytes);
    peer
}

/// Only resolved addresses come here: `HttpPeer::new` would resolve, block and panic on a name.
fn base(pool: &Pool, backend: &Backend) -> Box<HttpPeer> {
    let mut peer = HttpPeer::new(backend.addr, backend.tls, backend.host.clone());
    peer.options.connection_timeout = Some(pool.timeouts.connect);
    peer.options.total_connection_timeout = Some(pool.timeouts.connect * 2);
    peer.options.write_timeout = Some(WRITE_TIMEOUT);
    peer.options.idle_timeout = Some(pool.keepalive.timeout);
    Box::new(peer)
}
