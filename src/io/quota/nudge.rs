//! A word to the reconciler that a counter may be wrong: one account's, or all. Decides nothing; words said before they
//! are heard count as one.

use super::ledgers::Group;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Notify;

/// Accounts that are remembered one by one; with more it is all of them.
const ACCOUNTS_MAX: usize = 1_024;

/// An account of a group.
pub type Account = (Group, Arc<str>);

/// What may be wrong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Doubts {
    /// Everything.
    pub all: bool,
    /// These accounts.
    pub accounts: HashSet<Account>,
}

/// Cheap to clone; never waits.
#[derive(Clone, Debug, Default)]
pub struct Nudge(Arc<Heard>);

#[derive(Debug, Default)]
struct Heard {
    doubts: Mutex<Doubts>,
    said: Notify,
}

impl Nudge {
    /// The ledger may have lost something, or a replica has gone (`swept`).
    pub fn all(&self) {
        self.0.doubts.lock().all = true;
        self.0.said.notify_one();
    }

    /// One account was begun from rows, or a replica that counted in it has gone.
    pub fn about(&self, group: &Group, account: &Arc<str>) {
        {
            let mut doubts = self.0.doubts.lock();
            doubts.all |= doubts.accounts.len() >= ACCOUNTS_MAX;
            if !doubts.all {
                doubts.accounts.insert((group.clone(), Arc::clone(account)));
            }
        }
        self.0.said.notify_one();
    }

    /// Waits for the next word, or for one that nobody has heard yet, and takes it.
    pub async fn heard(&self) -> Doubts {
        self.0.said.notified().await;
        std::mem::take(&mut *self.0.doubts.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn words_said_before_anyone_listens_are_heard_once() {
        let nudge = Nudge::default();
        let account: Arc<str> = "tenant|p.tokens".into();
        nudge.about(&Group::Shared, &account);
        nudge.about(&Group::Shared, &account);
        assert_eq!(nudge.heard().await.accounts, HashSet::from([(Group::Shared, account)]), "one account");
        let again = tokio::time::timeout(std::time::Duration::from_millis(5), nudge.heard()).await;
        assert!(again.is_err(), "it was taken: {again:?}");
        nudge.all();
        assert_eq!(nudge.heard().await, Doubts { all: true, ..Doubts::default() }, "and is not said again");
    }

    #[tokio::test]
    async fn more_accounts_than_can_be_remembered_are_all() {
        let nudge = Nudge::default();
        for n in 0..=ACCOUNTS_MAX {
            nudge.about(&Group::Shared, &Arc::from(n.to_string()));
        }
        let doubts = nudge.heard().await;
        assert!(doubts.all && doubts.accounts.len() <= ACCOUNTS_MAX, "bounded: {}", doubts.accounts.len());
    }
}
