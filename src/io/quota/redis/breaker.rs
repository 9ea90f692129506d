//! When a store that fails is left alone, and when it is tried again. Decides nothing about what a failure is, and knows
//! no clock.

use crate::domain::units::Micros;

/// Failures that open it.
pub const FAULTS: usize = 3;
/// Within this span.
pub const WITHIN: Micros = Micros(1_000_000);
/// Between two tries while it is open.
pub const PROBE_EACH: Micros = Micros(500_000);

/// Open: nobody is sent to the store but a probe now and then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    state: State,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum State {
    /// When the last failures were; the oldest is overwritten.
    Closed([Option<Micros>; FAULTS]),
    /// When the next probe is due.
    Open(Micros),
}

impl Breaker {
    /// Open until a first probe succeeds, which is due at once: nobody waits for a store that was never there.
    #[must_use]
    pub fn untried() -> Self {
        Self { state: State::Open(Micros(0)) }
    }

    /// True while nobody is to be sent there.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// A call failed. True: that was the one that opened it.
    pub fn fault(&mut self, now: Micros) -> bool {
        let State::Closed(faults) = &mut self.state else { return false };
        faults.rotate_left(1);
        faults[FAULTS - 1] = Some(now);
        let opens = faults.iter().all(|at| at.is_some_and(|at| now - at <= WITHIN));
        if opens {
            self.state = State::Open(now + PROBE_EACH);
        }
        opens
    }

    /// How long until a probe is due; `None` while it is closed.
    #[must_use]
    pub fn probe_in(&self, now: Micros) -> Option<Micros> {
        match self.state {
            State::Open(at) => Some(at - now),
            State::Closed(_) => None,
        }
    }

    /// A probe ended. True: it closed the breaker.
    pub fn probed(&mut self, well: bool, now: Micros) -> bool {
        let State::Open(at) = &mut self.state else { return false };
        *at = now + PROBE_EACH;
        if well {
            self.state = State::Closed([None; FAULTS]);
        }
        well
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn closed() -> Breaker {
        let mut breaker = Breaker::untried();
        assert!(breaker.probed(true, Micros(0)), "a probe that succeeds closes it");
        breaker
    }

    #[test]
    fn it_is_open_until_the_first_probe_succeeds() {
        let mut breaker = Breaker::untried();
        assert_eq!((breaker.is_open(), breaker.probe_in(Micros(7))), (true, Some(Micros(0))), "due at once");
        assert!(!breaker.probed(false, Micros(7)), "one that fails leaves it open");
        assert_eq!(breaker.probe_in(Micros(7)), Some(PROBE_EACH), "the next comes later");
        assert!(breaker.probed(true, PROBE_EACH), "one that succeeds closes it");
        assert_eq!((breaker.is_open(), breaker.probe_in(PROBE_EACH)), (false, None), "and no more are due");
    }

    #[test]
    fn the_third_failure_within_a_second_opens_it_and_a_slower_one_does_not() {
        let at = |ms: u64| Micros(ms * 1_000);
        let mut breaker = closed();
        let opened: Vec<bool> = [0, 500, 1_001, 1_400].map(|ms| breaker.fault(at(ms))).into();
        assert_eq!(opened, [false, false, false, true], "500, 1001 and 1400 are within a second");
        assert!(!breaker.fault(at(1_401)), "it opens once");
        assert_eq!(breaker.probe_in(at(1_500)), Some(at(400)), "half a second after it opened");
    }

    #[test]
    fn failures_from_before_it_closed_do_not_count_again() {
        let mut breaker = closed();
        assert_eq!([0, 1, 2].map(|at| breaker.fault(Micros(at))), [false, false, true], "it opens");
        assert!(breaker.probed(true, Micros(3)), "it closes");
        assert_eq!([4, 5].map(|at| breaker.fault(Micros(at))), [false, false], "three new ones are needed");
    }

    proptest! {
        /// Against the plain words: open from the third failure within a second, until a probe succeeds.
        #[test]
        fn it_does_what_its_words_say(steps in prop::collection::vec((0u64..600_000, 0u8..8), 1..200)) {
            let mut breaker = closed();
            let (mut now, mut faults, mut open) = (Micros(0), Vec::new(), false);
            for (wait, step) in steps {
                now += Micros(wait);
                if step < 2 {
                    let (was, well) = (open, step == 0);
                    open &= !well;
                    prop_assert_eq!(breaker.probed(well, now), was && !open, "told exactly when it closes");
                } else {
                    let was = open;
                    faults.extend((!was).then_some(now));
                    faults.retain(|at| now - *at <= WITHIN);
                    open |= faults.len() >= FAULTS;
                    prop_assert_eq!(breaker.fault(now), open && !was, "told exactly when it opens");
                }
                if open {
                    faults.clear();
                }
                prop_assert_eq!(breaker.is_open(), open, "at {:?} after {:?}", now, faults);
                let due = breaker.probe_in(now);
                prop_assert_eq!(due.is_some(), open, "probes are due while it is open");
                prop_assert!(due.is_none_or(|wait| wait <= PROBE_EACH), "and never later than that");
            }
        }
    }
}
