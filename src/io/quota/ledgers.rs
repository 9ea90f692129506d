//! Where ledgers live: the port between a replica's books and the ledger that replicas share. Decides how accounts are
//! grouped, and what may be wrong with a ledger.

use crate::domain::ids::TenantId;
use crate::logic::quota::ledger::{Call, Correction, Reply};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;

/// Accounts that live together, in one hash slot of a cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Group {
    /// All of a tenant: `{t:TENANT}`.
    Tenant(TenantId),
    /// Pools and the installation as a whole: `{shared}`.
    Shared,
}

/// Why a ledger did not answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LedgerFault {
    /// It failed too often; it is not asked for a while.
    #[error("the limit store is left alone after failures")]
    Open,
    /// It did not answer in time.
    #[error("the limit store did not answer within {0:?}")]
    Timeout(Duration),
    /// It refused, or the connection broke.
    #[error("the limit store failed: {0}")]
    Failed(String),
}

/// A ledger. Each call is bounded in time by itself.
#[async_trait]
pub trait Ledgers: Send + Sync {
    /// States and asks; replies in the order of the statements.
    ///
    /// # Errors
    /// [`LedgerFault`]; the call may have been applied all the same, and may be repeated.
    async fn state(&self, group: &Group, call: &Call<'_>) -> Result<Vec<Reply>, LedgerFault>;

    /// The same from the background: no request waits for it, so it may take longer, and being late says nothing of how
    /// well the ledger is.
    ///
    /// # Errors
    /// As of [`Self::state`].
    async fn tell(&self, group: &Group, call: &Call<'_>) -> Result<Vec<Reply>, LedgerFault> {
        self.state(group, call).await
    }

    /// Puts right what replicas that are gone have committed. Gives, for each correction, by how much the account's sum
    /// has changed.
    ///
    /// # Errors
    /// [`LedgerFault`].
    async fn correct(&self, group: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault>;

    /// Says that a replica lives; gives how many do.
    ///
    /// # Errors
    /// [`LedgerFault`].
    async fn beat(&self, replica: &str, ttl: Duration) -> Result<u64, LedgerFault>;

    /// Takes a name that nobody else holds, for a while. False: somebody has it.
    ///
    /// # Errors
    /// [`LedgerFault`].
    async fn claim(&self, group: &Group, name: &str, by: &str, ttl: Duration) -> Result<bool, LedgerFault>;

    /// Keeps a name that one holds for `ttl` from now on. False: one does not hold it; unless told otherwise nothing can
    /// be kept.
    ///
    /// # Errors
    /// [`LedgerFault`].
    async fn renew(&self, group: &Group, name: &str, by: &str, ttl: Duration) -> Result<bool, LedgerFault> {
        let _ = (group, name, by, ttl);
        Ok(false)
    }

    /// True while it is asked at all (the breaker is closed).
    fn is_up(&self) -> bool;

    /// Changes when the ledger may be another one than before, which knows less: a new connection, a new master.
    fn generation(&self) -> u64 {
        0
    }

    /// True if it may become such a one and [`Self::generation`] does not tell.
    fn changes_unseen(&self) -> bool {
        false
    }
}

/// What rows say of one account.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RowTotal {
    /// The process that wrote them.
    pub proxy_id: Arc<str>,
    /// Their sum in the account's unit.
    pub total: u64,
}

/// The usage rows as the limits see them.
#[async_trait]
pub trait UsageRows: Send + Sync {
    /// Sums, per process, of the rows of an account from an instant (ms since 1970) on.
    ///
    /// # Errors
    /// In words; then nobody knows.
    async fn totals(&self, account: &AccountRows, from_ms: i64) -> Result<Vec<RowTotal>, String>;

    /// The same for a bucket: amounts by second, oldest first.
    ///
    /// # Errors
    /// In words.
    async fn recent(&self, account: &AccountRows, from_ms: i64) -> Result<Vec<(i64, u64)>, String>;
}

/// Which rows an account counts.
#[derive(Clone, Debug)]
pub struct AccountRows {
    /// Whose; `None`: everybody's.
    pub tenant: Option<TenantId>,
    /// At which level.
    pub scope: crate::domain::limit::Scope,
    /// What.
    pub dimension: crate::domain::limit::Dimension,
    /// Only these models, as `model_requested` names them.
    pub model: Option<crate::logic::quota::plan::ModelPattern>,
}
