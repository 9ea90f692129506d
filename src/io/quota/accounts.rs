//! The open accounts of a replica as others may see them: what the rows must be asked, and where the answer goes. Decides
//! nothing; the books behind it do.

use super::ledgers::{AccountRows, Group, LedgerFault};
use crate::logic::quota::ledger::{Correction, Kind};
use async_trait::async_trait;
use std::sync::Arc;

/// An account that this replica counts in, and that usage rows can speak for: its rule has no `when`.
#[derive(Clone, Debug)]
pub struct OpenAccount {
    /// Where it lives.
    pub group: Group,
    /// Its id within the group.
    pub account: Arc<str>,
    /// Which rows it counts.
    pub rows: AccountRows,
    /// How it counts.
    pub kind: Kind,
    /// Most units: the bucket's size, the period's limit.
    pub capacity: u64,
    /// Beginning (ms since 1970) of the period that counts now; 0 for buckets and for prepaid credit.
    pub period: i64,
    /// What is committed, all replicas together, as the ledger last said.
    pub committed: u64,
    /// What this replica itself has committed in that period, or since it started.
    pub total: i64,
}

/// The books of a replica, for those who compare them with the usage rows.
#[async_trait]
pub trait Books: Send + Sync {
    /// Every calendar account that this replica counts in at the moment.
    fn calendars(&self) -> Vec<OpenAccount>;

    /// Every group that this replica has accounts of, or had lately.
    fn groups(&self) -> Vec<Group> {
        self.calendars().into_iter().map(|open| open.group).collect()
    }

    /// Says what processes that are gone have committed, to whichever ledger the books have: it leaves live replicas
    /// alone. Gives, for each correction, by how much the account's sum has changed.
    ///
    /// # Errors
    /// [`LedgerFault`]; then nobody knows, and it may be repeated.
    async fn correct(&self, group: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault>;

    /// The ledger has lost something: all that this replica has committed or has out is to be said again.
    fn restate(&self) {}
}
