//! What Pingora carries per request: the phase it is in, and a guard that settles whatever nothing else settled.

use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::exchange::Exchange;
use crate::runtime::Runtime;
use crate::stages::accept::Facts;
use crate::stages::settle::{self, Ending};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Requests that are open on this process, for the drain.
#[derive(Debug, Default)]
pub struct OpenRequests(AtomicUsize);

impl OpenRequests {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// Counts a request as open while it lives.
pub struct OpenGuard(Arc<OpenRequests>);

impl OpenGuard {
    fn new(open: &Arc<OpenRequests>) -> Self {
        open.0.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(open))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Where a request is on its way.
pub enum Phase {
    /// Nothing is known yet.
    Fresh,
    /// The head was read; nothing is owed.
    Known(Box<Facts>),
    /// Admitted; a settlement is owed.
    Admitted(Arc<Exchange>),
    /// Answered by ourselves and logged.
    Closed(Box<Facts>),
}

/// Pingora's per-request context.
pub struct Context {
    /// The configuration that the request runs under.
    pub runtime: Arc<Runtime>,
    /// Where it is.
    pub phase: Phase,
    /// Why no backend could be chosen, on its way from `upstream_peer` to `fail_to_proxy`.
    pub refusal: Option<Refusal>,
    _open: OpenGuard,
}

impl Context {
    /// A request that has just begun.
    #[must_use]
    pub fn new(runtime: Arc<Runtime>, open: &Arc<OpenRequests>) -> Self {
        Self { runtime, phase: Phase::Fresh, refusal: None, _open: OpenGuard::new(open) }
    }

    /// The facts, once the head was read.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        match &self.phase {
            Phase::Fresh => None,
            Phase::Known(facts) | Phase::Closed(facts) => Some(facts),
            Phase::Admitted(exchange) => Some(&exchange.facts),
        }
    }

    /// The exchange, once it was admitted.
    #[must_use]
    pub fn exchange(&self) -> Option<&Arc<Exchange>> {
        match &self.phase {
            Phase::Admitted(exchange) => Some(exchange),
            _ => None,
        }
    }

    /// Notes a refusal before admission: one log line, nothing owed.
    pub fn refuse(&mut self, principal: Option<&Principal>, refusal: &Refusal) {
        if let Phase::Known(facts) = std::mem::replace(&mut self.phase, Phase::Fresh) {
            settle::refused(&self.runtime, &facts, principal, refusal);
            self.phase = Phase::Closed(facts);
        }
    }
}

impl Drop for Context {
    /// Pingora skips `logging` on a panic and when its runtime is dropped; a settlement is owed all the same.
    /// Where one was made already, this does nothing.
    fn drop(&mut self) {
        if let Phase::Admitted(exchange) = &self.phase {
            let _ = settle::settle(exchange, &Ending::Dropped);
        }
    }
}
