//! Telling other replicas that the store has changed, and hearing of it. Decides nothing about keys: whoever is woken
//! looks at the store, and whoever is not finds out by their poll.

mod listen;
mod publish;

pub use listen::{Listener, listen};
pub(super) use publish::Publisher;

/// Redis channel.
const REDIS_CHANNEL: &str = "weir:keys";

use super::error::StoreError;

/// A client for a URL, which is not repeated where it cannot be read.
fn redis_client(url: &[u8]) -> Result<redis::Client, StoreError> {
    let refused = || StoreError::Refused("store.push.redis.url cannot be read: write redis://HOST:PORT/0".to_owned());
    let text = std::str::from_utf8(url).map_err(|_| refused())?;
    redis::Client::open(text.trim()).map_err(|_| refused())
}
