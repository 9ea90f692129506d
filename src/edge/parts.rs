//! What `serve` hands to the edge. A type of its own, so that the admin listener does not depend on the server that
//! runs it.

use super::context::OpenRequests;
use super::drain::OnSignal;
use crate::runtime::{Abort, Runtime};
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::watch;

/// Everything that `serve` has wired.
pub struct Parts {
    /// What runs.
    pub runtime: Arc<ArcSwap<Runtime>>,
    /// Open requests.
    pub open: Arc<OpenRequests>,
    /// Ends what still runs after the drain deadline; its receivers are in `Runtime::abort`.
    pub abort: watch::Sender<Abort>,
    /// Renders `/metrics`.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// True once there are keys to answer from.
    pub keys_ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// HUP.
    pub on_reload: OnSignal,
    /// USR1.
    pub on_reopen: OnSignal,
}
