//! Keys whose open streams must end. Decides how long they are told: all of them until every stream has had the time
//! to see it, and then the newest.

use crate::domain::ids::KeyId;
use crate::domain::units::Micros;
use crate::runtime::Abort;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::watch;

/// Keys that are told for ever. Older ones have no streams any more: these were cut when the key was new here.
const MAX_KEYS: usize = 10_000;
/// How long more than these are told. A stream looks as soon as it is told, so this is plenty; until then there may be
/// as many as a store has keys.
const TOLD_FOR: Micros = Micros(30_000_000);

/// The keys, oldest first, and where they are told.
pub(super) struct Cut {
    keys: VecDeque<KeyId>,
    /// Since when the newest are told.
    told_at: Micros,
    abort: watch::Sender<Abort>,
}

impl Cut {
    pub(super) fn new(abort: watch::Sender<Abort>) -> Self {
        Self { keys: VecDeque::new(), told_at: Micros(0), abort }
    }

    /// Ends the streams of some keys more.
    pub(super) fn add(&mut self, keys: impl ExactSizeIterator<Item = KeyId>, now: Micros) {
        if keys.len() == 0 {
            return;
        }
        self.keys.extend(keys);
        self.told_at = now;
        self.tell();
    }

    /// Forgets the oldest, once everybody has been told.
    pub(super) fn trim(&mut self, now: Micros) {
        if self.keys.len() <= MAX_KEYS || now < self.told_at + TOLD_FOR {
            return;
        }
        self.keys.drain(..self.keys.len() - MAX_KEYS);
        self.keys.shrink_to_fit();
        self.tell();
    }

    fn tell(&self) {
        let all = Arc::new(self.keys.iter().cloned().collect());
        self.abort.send_modify(|abort| abort.keys = all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_keys_are_remembered_and_a_drain_stays_one() {
        let (abort, aborted) = watch::channel(Abort { all: true, ..Abort::default() });
        let mut cut = Cut::new(abort);
        let named = |number: usize| KeyId::new(&format!("{number:012}"));
        cut.add((0..MAX_KEYS).map(named), Micros(0));
        cut.add(std::iter::once(named(MAX_KEYS)), Micros(0));
        cut.trim(TOLD_FOR);
        let told = aborted.borrow();
        assert!(told.all, "what else was told is not taken back");
        assert_eq!(told.keys.len(), MAX_KEYS, "bounded");
        assert!(told.keys.contains(&named(MAX_KEYS)), "the newest is there");
        assert!(!told.keys.contains(&named(0)), "the oldest is not");
    }

    #[test]
    fn however_many_keys_are_cut_at_once_each_is_told() {
        let (abort, aborted) = watch::channel(Abort::default());
        let mut cut = Cut::new(abort);
        let named = |number: usize| KeyId::new(&format!("{number:012}"));
        cut.add((0..3 * MAX_KEYS).map(named), Micros(5));
        cut.trim(Micros(4) + TOLD_FOR);
        assert_eq!(aborted.borrow().keys.len(), 3 * MAX_KEYS, "all of them, for long enough");
        cut.trim(Micros(5) + TOLD_FOR);
        assert_eq!(aborted.borrow().keys.len(), MAX_KEYS, "and then no more than are kept");
    }
}
