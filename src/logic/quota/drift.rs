//! Compares a counter with the usage rows. Decides what the rows may correct: a process that is gone is told from its
//! rows, once they are all there; one that runs knows better than its rows, which come later. This one is told only of
//! rows that it has not counted: of a time before the account was made, or counted by this calendar.

use super::ledger::{Correction, MAX_PAST};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Processes of an account that are told one by one, the youngest of them; what older ones have committed is told as one
/// sum, so that an account's memory is bounded however often a proxy was started.
pub const PARTS_MAX: usize = MAX_PAST / 2;
/// The name of that sum. No process has it: theirs are UUIDs.
pub const EARLIER: &str = "earlier";

/// What the rows said of one account at an instant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Look {
    /// Beginning of the period that they were asked for.
    pub period: i64,
    /// Units by process, in the order of the ids, which is that of their starts.
    pub parts: Vec<(Arc<str>, u64)>,
}

impl Look {
    fn of(&self, process: &str) -> Option<u64> {
        let at = self.parts.binary_search_by(|(name, _)| (**name).cmp(process)).ok()?;
        self.parts.get(at).map(|(_, total)| *total)
    }
}

/// How the counter stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counter<'a> {
    /// The account's id.
    pub account: &'a Arc<str>,
    /// What all replicas have committed, as the ledger last said.
    pub committed: u64,
    /// What this replica has.
    pub total: i64,
    /// This replica.
    pub replica: &'a str,
}

/// What is known of the way that rows take.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Processes that run, or that nobody has recovered yet, when the earlier look was taken.
    pub running: &'a BTreeSet<String>,
    /// All that was written before the earlier look is in the rows by now.
    pub arrived: bool,
}

/// What a comparison says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Compared {
    /// What the ledger is to be told, at most [`PARTS_MAX`] and two; those that are to be forgotten come first.
    pub corrections: Vec<Correction>,
    /// Units between this replica's own count and its rows: open requests, and rows on their way.
    pub own: u64,
    /// False if rows may still come: look again soon.
    pub settled: bool,
}

/// What one process, or the earlier ones together, have committed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its id, or [`EARLIER`].
    pub process: Arc<str>,
    /// Its units.
    pub total: u64,
}

impl Part {
    /// The ledger's word for it.
    #[must_use]
    pub fn correction(self, account: &Arc<str>, period: i64) -> Correction {
        Correction { account: Arc::clone(account), period, starts: None, replica: self.process, total: self.total }
    }
}

/// What an account begins with that nobody knows.
#[must_use]
pub fn parts(look: &Look) -> Vec<Part> {
    let (older, younger) = look.parts.split_at(look.parts.len().saturating_sub(PARTS_MAX));
    let sum = older.iter().map(|(_, total)| *total).fold(0, u64::saturating_add);
    let earlier = Part { process: Arc::from(EARLIER), total: sum };
    let each = younger.iter().map(|(process, total)| Part { process: Arc::clone(process), total: *total });
    std::iter::once(earlier).chain(each).filter(|part| part.total > 0).collect()
}

/// Compares. A counter that is too low lets callers exceed their limit, so it is raised at the first look; that it is
/// too high is believed only where two looks say the same and nothing is on its way.
#[must_use]
pub fn compare(counter: &Counter<'_>, earlier: Option<&Look>, now: &Look, way: &Way<'_>) -> Compared {
    let earlier = earlier.filter(|earlier| earlier.period == now.period);
    let mine = u64::try_from(counter.total).unwrap_or(0);
    let own_rows = now.of(counter.replica).unwrap_or(0);
    let rows = now.parts.iter().map(|(_, total)| *total).fold(0, u64::saturating_add);
    let low = counter.committed < rows.saturating_sub(own_rows).saturating_add(mine);
    let lives = |process: &str| process == counter.replica || way.running.contains(process);
    let steady = |(process, total): &(Arc<str>, u64)| {
        way.arrived && earlier.and_then(|earlier| earlier.of(process)) == Some(*total)
    };
    let mut compared = Compared { own: mine.abs_diff(own_rows), settled: true, corrections: Vec::new() };
    let mut tell = |part: Part, is_steady: bool| {
        compared.settled &= is_steady;
        if is_steady || low {
            compared.corrections.push(part.correction(counter.account, now.period));
        }
    };
    let (older, younger) = now.parts.split_at(now.parts.len().saturating_sub(PARTS_MAX));
    if !older.is_empty() && !older.iter().any(|(process, _)| lives(process)) {
        let all_steady = older.iter().all(steady);
        // They may have been told one by one before.
        for (process, _) in older.iter().rev().take(PARTS_MAX - 1) {
            tell(Part { process: Arc::clone(process), total: 0 }, all_steady);
        }
        let sum = older.iter().map(|(_, total)| *total).fold(0, u64::saturating_add);
        tell(Part { process: Arc::from(EARLIER), total: sum }, all_steady);
    }
    for part in younger.iter().filter(|(process, _)| !lives(process)) {
        tell(Part { process: Arc::clone(&part.0), total: part.1 }, steady(part));
    }
    if own_rows > mine {
        let own = Part { process: Arc::from(counter.replica), total: own_rows };
        compared.corrections.push(own.correction(counter.account, now.period));
        compared.settled = false;
    }
    compared
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(period: i64, parts: &[(&str, u64)]) -> Look {
        Look { period, parts: parts.iter().map(|(name, total)| (Arc::from(*name), *total)).collect() }
    }

    /// Corrections of a counter of 100, 10 of which are this replica's (`me`), after two looks.
    fn corrected(earlier: Option<&Look>, now: &Look, arrived: bool) -> (Vec<(String, u64)>, bool) {
        let account: Arc<str> = "tenant|p.tokens".into();
        let counter = Counter { account: &account, committed: 100, total: 10, replica: "me" };
        let running = BTreeSet::from(["me".to_owned(), "runs".to_owned()]);
        let compared = compare(&counter, earlier, now, &Way { running: &running, arrived });
        let told = compared.corrections.iter().map(|one| (one.replica.to_string(), one.total)).collect();
        (told, compared.settled)
    }

    #[test]
    fn a_process_that_is_gone_is_corrected_when_two_looks_agree_and_nothing_is_on_its_way() {
        let now = look(7, &[("gone", 30)]);
        let told = vec![("gone".to_owned(), 30)];
        assert_eq!(corrected(Some(&now), &now, true), (told, true), "both agree");
        assert_eq!(corrected(None, &now, true), (vec![], false), "the first look");
        assert_eq!(corrected(Some(&look(7, &[("gone", 29)])), &now, true), (vec![], false), "rows still come");
        assert_eq!(corrected(Some(&look(6, &[("gone", 30)])), &now, true), (vec![], false), "another period's rows");
        assert_eq!(corrected(Some(&now), &now, false), (vec![], false), "records are on their way");
    }

    #[test]
    fn processes_that_run_know_better() {
        let now = look(7, &[("me", 3), ("runs", 4)]);
        assert_eq!(corrected(Some(&now), &now, true), (vec![], true), "they speak for themselves");
    }

    #[test]
    fn a_counter_below_the_rows_is_raised_at_once() {
        let exact = look(7, &[("gone", 90)]);
        assert_eq!(corrected(None, &exact, false).0, vec![], "90 and 10 are the counter's 100");
        let more = look(7, &[("gone", 91)]);
        assert_eq!(corrected(None, &more, false), (vec![("gone".to_owned(), 91)], false), "and it is looked at again");
    }

    #[test]
    fn own_rows_that_were_not_counted_are() {
        let more = look(7, &[("me", 12)]);
        assert_eq!(corrected(None, &more, false), (vec![("me".to_owned(), 12)], false), "and it is looked at again");
    }

    #[test]
    fn the_own_difference_is_told_and_not_corrected() {
        let account: Arc<str> = "tenant|p.tokens".into();
        let counter = Counter { account: &account, committed: 10, total: 10, replica: "me" };
        let way = Way { running: &BTreeSet::new(), arrived: true };
        let compared = compare(&counter, None, &look(7, &[("me", 4)]), &way);
        assert_eq!((compared.own, compared.corrections.len()), (6, 0), "six units are open or on their way");
        assert!(compared.settled, "nothing else is to be seen");
    }

    #[test]
    fn more_processes_than_an_account_remembers_are_told_as_one_sum_and_each_once() {
        let mut ledger = Ledger::default();
        let account: Arc<str> = "tenant|p.tokens".into();
        let mut now = look(7, &[]);
        for n in 0..3 * PARTS_MAX {
            now.parts.push((format!("{n:08}").into(), 1));
            if n % 100 != 0 {
                continue;
            }
            let counter = Counter { account: &account, committed: 0, total: 0, replica: "me" };
            let way = Way { running: &BTreeSet::new(), arrived: true };
            let compared = compare(&counter, Some(&now.clone()), &now, &way);
            assert!(compared.corrections.len() <= MAX_CORRECTIONS, "{} at once", compared.corrections.len());
            ledger.correct(&compared.corrections, 8);
            let replies =
                ledger.state(&Call { replica: "me", ttl_ms: 1, replicas: 1, statements: &[statement(&account)] }, 9);
            assert_eq!(replies[0].committed, n as u64 + 1, "one of each process");
        }
    }

    #[test]
    fn what_begins_from_rows_is_what_a_comparison_would_say() {
        for processes in [0, 1, PARTS_MAX, PARTS_MAX + 1, 2 * PARTS_MAX] {
            let parts_of = |n: usize| (Arc::from(format!("{n:08}")), n as u64);
            let now = Look { period: 7, parts: (1..=processes).map(parts_of).collect() };
            let sum: u64 = parts(&now).iter().map(|part| part.total).sum();
            assert_eq!(sum, now.parts.iter().map(|(_, total)| total).sum::<u64>(), "{processes}: nothing is left out");
            assert!(parts(&now).len() <= MAX_CORRECTIONS, "{processes}: one call");
            let account: Arc<str> = "a".into();
            let counter = Counter { account: &account, committed: sum, total: 0, replica: "me" };
            let way = Way { running: &BTreeSet::new(), arrived: true };
            let mut told = compare(&counter, Some(&now.clone()), &now, &way).corrections;
            told.retain(|one| one.total > 0);
            let begun: Vec<_> = parts(&now).into_iter().map(|part| part.correction(&account, 7)).collect();
            assert_eq!(told, begun, "{processes}: the same parts");
        }
    }

    fn statement(account: &Arc<str>) -> Statement {
        Statement {
            account: Arc::clone(account),
            kind: Kind::Calendar { starts: [7, 7, i64::MAX, i64::MAX] },
            capacity: 1_000_000,
            total: 0,
            acked: 0,
            period: 7,
            outstanding: 0,
            least: 0,
            want: 0,
            spare: 0,
            floor: 0,
            seed: Some(0),
        }
    }

    use super::super::ledger::{Call, Kind, Ledger, MAX_CORRECTIONS, Statement};
}
