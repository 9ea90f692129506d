//! What the limits tell of themselves: how decisions, calls to the ledger and waits went. Decides nothing; metrics
//! listen.

use super::ledgers::LedgerFault;
use std::time::Duration;

/// How a request's limits were decided.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Decided {
    /// It was let in.
    Granted,
    /// A rule said no, or it can never fit.
    Denied,
    /// It was let in, and a rule in shadow mode would have said no.
    Shadow,
    /// It was let in on what rules allow without the store.
    Fallback,
    /// The store was not there and the policy says closed.
    StoreDown,
}

impl Decided {
    /// The label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Granted => "granted",
            Self::Denied => "denied",
            Self::Shadow => "shadow",
            Self::Fallback => "fallback",
            Self::StoreDown => "store_down",
        }
    }
}

/// How a call to the ledger went.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Called {
    /// It answered.
    Ok,
    /// Not in time.
    Timeout,
    /// It failed.
    Error,
    /// It was not asked: the breaker is open.
    Open,
}

impl Called {
    /// The label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Error => "error",
            Self::Open => "open",
        }
    }
}

impl From<&LedgerFault> for Called {
    fn from(fault: &LedgerFault) -> Self {
        match fault {
            LedgerFault::Open => Self::Open,
            LedgerFault::Timeout(_) => Self::Timeout,
            LedgerFault::Failed(_) => Self::Error,
        }
    }
}

/// Somebody who wants to know. Each call is cheap and never waits.
pub trait Watch: Send + Sync {
    /// A request was decided.
    fn decided(&self, how: Decided) {
        let _ = how;
    }
    /// Rules in shadow mode would have refused a request.
    fn shadowed(&self, rules: u32) {
        let _ = rules;
    }
    /// The ledger was called.
    fn called(&self, how: Called, took: Duration) {
        let _ = (how, took);
    }
    /// A request has waited for the ledger.
    fn waited(&self, took: Duration) {
        let _ = took;
    }
    /// So many replicas live, and the ledger answers or not.
    fn replicas(&self, live: u64, up: bool) {
        let _ = (live, up);
    }
}

/// Nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {}
