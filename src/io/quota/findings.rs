//! What comparisons of counters with usage rows find, for those who want to know. Decides nothing; metrics listen.

use crate::domain::limit::Dimension;
use crate::domain::units::WallMicros;

/// How a comparison of counters with usage rows ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pass {
    /// Every row could be asked, and every correction was taken.
    Done,
    /// Rows may still come, or were seen for the first time: it is done again soon.
    Unsettled,
    /// The rows or the ledger could not be asked.
    Failed,
}

impl Pass {
    /// Every result.
    pub const ALL: [Self; 3] = [Self::Done, Self::Unsettled, Self::Failed];

    /// The label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Unsettled => "unsettled",
            Self::Failed => "failed",
        }
    }
}

/// Somebody who wants to know. Each call is cheap and never waits.
pub trait Findings: Send + Sync {
    /// Counters were compared with the rows.
    fn compared(&self, result: Pass, at: WallMicros);
    /// So far were the counters of a dimension from the rows, all accounts together.
    fn drift(&self, dimension: Dimension, units: u64);
    /// So many units were put right, up or down.
    fn corrected(&self, dimension: Dimension, units: u64);
    /// The ledger that replicas share is asked, or left alone.
    fn store(&self, up: bool);
    /// What is left of every budget that is in use, 1 to 0, with its tenant.
    fn budgets(&self, left: &[(&str, f64)]);
}
