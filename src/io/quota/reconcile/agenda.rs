//! When which accounts are compared with their rows. Decides from what is told it; time comes with each call.

use crate::io::quota::nudge::{Account, Doubts};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

/// Between a doubt and the comparison, and between two comparisons of rows that may still come.
pub const SOON: Duration = Duration::from_secs(5);
/// How often an account whose rows may still come is compared before it waits for the next round of all.
const TRIES: u32 = 6;
/// Accounts that are compared apart from the others; of more, all are compared.
const SOME_MAX: usize = 1_024;
/// Rounds of all accounts are at least so far apart: each asks the rows once for each account.
const ALL_APART: Duration = Duration::from_secs(10);

/// Until the next round, where some accounts could not be compared however often it was tried.
const FAILED_AGAIN: Duration = Duration::from_secs(60);

/// Which accounts are to be compared now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// All that are open.
    All,
    /// These.
    Some(HashSet<Account>),
}

impl Work {
    /// True if an account is to be compared.
    pub fn includes(&self, account: &Account) -> bool {
        match self {
            Self::All => true,
            Self::Some(accounts) => accounts.contains(account),
        }
    }
}

/// What a comparison has left open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Open {
    /// Accounts whose rows may still come.
    pub unsettled: HashSet<Account>,
    /// Accounts that could not be compared.
    pub failed: HashSet<Account>,
}

/// What is to be compared, and when.
#[derive(Debug)]
pub struct Agenda {
    every: Duration,
    all_at: Instant,
    /// The end of the last round of all.
    all_done: Option<Instant>,
    some_at: Option<Instant>,
    /// Accounts, with the comparisons that are left to them.
    some: HashMap<Account, u32>,
}

impl Agenda {
    /// Everything is compared soon after the start.
    pub fn new(now: Instant, every: Duration) -> Self {
        Self { every, all_at: now + SOON, all_done: None, some_at: None, some: HashMap::new() }
    }

    /// Something may be wrong.
    pub fn doubt(&mut self, doubts: Doubts, now: Instant) {
        if doubts.all {
            self.doubt_all(now);
        }
        for account in doubts.accounts {
            self.add(account, TRIES, now);
        }
    }

    /// Everything may be wrong.
    pub fn doubt_all(&mut self, now: Instant) {
        let apart = self.all_done.map_or(now, |done| done + ALL_APART);
        self.all_at = self.all_at.min((now + SOON).max(apart));
    }

    fn add(&mut self, account: Account, tries: u32, now: Instant) {
        if self.some.len() >= SOME_MAX && !self.some.contains_key(&account) {
            return self.doubt_all(now);
        }
        self.some.insert(account, tries);
        self.some_at.get_or_insert(now + SOON);
    }

    /// What is due.
    pub fn due(&self, now: Instant) -> Option<Work> {
        if self.all_at <= now {
            return Some(Work::All);
        }
        let due = self.some_at.is_some_and(|at| at <= now);
        due.then(|| Work::Some(self.some.keys().cloned().collect()))
    }

    /// It was done, as far as nothing is left open.
    pub fn passed(&mut self, work: Work, open: Open, now: Instant) {
        if work == Work::All {
            self.all_at = now + self.every;
            self.all_done = Some(now);
        }
        let done: HashMap<Account, u32> = match &work {
            Work::All => std::mem::take(&mut self.some),
            Work::Some(accounts) => accounts.iter().filter_map(|one| self.some.remove_entry(one)).collect(),
        };
        self.some_at = (!self.some.is_empty()).then_some(now + SOON);
        let left = |account: &Account| done.get(account).map_or(TRIES, |left| left.saturating_sub(1));
        for account in open.unsettled {
            let tries = left(&account);
            if tries > 0 {
                self.add(account, tries, now);
            }
        }
        for account in open.failed {
            match left(&account) {
                0 => self.all_at = self.all_at.min(now + FAILED_AGAIN),
                tries => self.add(account, tries, now),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::quota::ledgers::Group;
    use std::sync::Arc;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn account(n: usize) -> Account {
        (Group::Shared, Arc::from(n.to_string()))
    }

    fn unsettled(accounts: &[Account]) -> Open {
        Open { unsettled: accounts.iter().cloned().collect(), ..Open::default() }
    }

    fn doubts(accounts: &[Account]) -> Doubts {
        Doubts { all: false, accounts: accounts.iter().cloned().collect() }
    }

    #[test]
    fn all_are_compared_soon_after_the_start_then_at_their_interval() {
        let start = Instant::now();
        let mut agenda = Agenda::new(start, HOUR);
        assert_eq!(agenda.due(start + SOON - Duration::from_millis(1)), None, "not yet");
        assert_eq!(agenda.due(start + SOON), Some(Work::All), "soon");
        agenda.passed(Work::All, Open::default(), start + SOON);
        assert_eq!(agenda.due(start + HOUR), None, "an hour after the last time");
        assert_eq!(agenda.due(start + SOON + HOUR), Some(Work::All), "then again");
        agenda.doubt_all(start + HOUR);
        assert_eq!(agenda.due(start + HOUR + SOON), Some(Work::All), "a doubt does not wait for it");
    }

    #[test]
    fn one_account_in_doubt_is_compared_alone_until_it_is_settled() {
        let start = Instant::now();
        let mut agenda = Agenda::new(start, HOUR);
        agenda.passed(Work::All, Open::default(), start);
        agenda.doubt(doubts(&[account(1)]), start);
        let mut now = start;
        for turn in 0..TRIES {
            now += SOON;
            let work = agenda.due(now);
            assert_eq!(work, Some(Work::Some(HashSet::from([account(1)]))), "turn {turn}");
            agenda.passed(work.expect("due"), unsettled(&[account(1)]), now);
        }
        assert_eq!(agenda.due(now + SOON), None, "then it waits for the round of all");
        agenda.doubt(doubts(&[account(1)]), now);
        agenda.passed(Work::Some(HashSet::from([account(1)])), Open::default(), now + SOON);
        assert_eq!(agenda.due(now + 2 * SOON), None, "settled");
    }

    #[test]
    fn what_could_not_be_compared_is_tried_again_soon_then_each_minute() {
        let start = Instant::now();
        let mut agenda = Agenda::new(start, HOUR);
        let mut tried = 0;
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            if let Some(work) = agenda.due(now) {
                tried += 1;
                let failed = Open { failed: HashSet::from([account(1)]), ..Open::default() };
                agenda.passed(work, failed, now);
            }
            match second {
                30 => assert_eq!(tried, 6, "each five seconds"),
                120 => assert!((8..=20).contains(&tried), "{tried}: it goes on"),
                _ => {}
            }
        }
        assert!((20..=80).contains(&tried), "{tried}: it does not give up, and leaves the rows alone between");
    }

    #[test]
    fn doubts_without_end_neither_fill_memory_nor_keep_the_rows_busy() {
        let start = Instant::now();
        let mut agenda = Agenda::new(start, HOUR);
        agenda.passed(Work::All, Open::default(), start);
        agenda.doubt(doubts(&(0..2 * SOME_MAX).map(account).collect::<Vec<_>>()), start);
        assert_eq!(agenda.some.len(), SOME_MAX, "accounts are bounded");
        assert_eq!(agenda.due(start + SOON).map(|work| work == Work::All), Some(false), "all of them are not due yet");
        assert_eq!(agenda.due(start + ALL_APART), Some(Work::All), "but soon");
        agenda.passed(Work::All, Open::default(), start + ALL_APART);
        for second in 0..10 {
            agenda.doubt_all(start + ALL_APART + Duration::from_secs(second));
        }
        assert_eq!(agenda.due(start + 2 * ALL_APART - Duration::from_millis(1)), None, "rounds of all are apart");
    }
}
