//! May a failed attempt be tried again (semantics.md §7)? It decides; whether the cause is one that the pool retries,
//! and who is left to try, the caller has found out.

use crate::domain::units::Micros;

/// Retries that are always allowed at once, however few requests there are.
pub const MIN_RETRIES: u32 = 3;

/// An attempt that failed, and what is known around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Situation {
    /// Model output has been seen: from here on there is no transparent retry.
    pub committed: bool,
    /// The pool's `retry.on` names the cause.
    pub listed: bool,
    /// Attempts so far, the failed one included.
    pub attempts: u32,
    /// Further attempts allowed after the first (`retry.max`).
    pub max_retries: u32,
    /// An eligible backend is left.
    pub backend_left: bool,
    /// When the request must be over.
    pub deadline: Micros,
}

/// What to do with the failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Try another backend; one retry of the budget is taken, to be given back when the attempt ends.
    Retry,
    /// Tell the client.
    GiveUp(Why),
}

/// Why there is no further attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Output has been seen.
    Committed,
    /// The cause is not one to retry.
    NotListed,
    /// All attempts are spent.
    Attempts,
    /// No time is left.
    Deadline,
    /// No other backend.
    NoBackend,
    /// Too many retries are under way already.
    Budget,
}

/// How many of a pool's requests may be retries at once: a share of those in flight, at least [`MIN_RETRIES`].
#[derive(Clone, PartialEq, Debug)]
pub struct RetryBudget {
    share: f64,
    in_flight: u32,
    retrying: u32,
}

impl RetryBudget {
    /// A budget with a share of requests, such as 0.2.
    #[must_use]
    pub fn new(share: f64) -> Self {
        Self { share, in_flight: 0, retrying: 0 }
    }

    /// A request enters the pool.
    pub fn enter(&mut self) {
        self.in_flight += 1;
    }

    /// A request leaves the pool.
    pub fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A retry that [`decide`] allowed is over.
    pub fn retry_ended(&mut self) {
        self.retrying = self.retrying.saturating_sub(1);
    }

    /// Retries under way.
    #[must_use]
    pub fn retrying(&self) -> u32 {
        self.retrying
    }

    fn take(&mut self) -> bool {
        let allowed = ((self.share * f64::from(self.in_flight)) as u32).max(MIN_RETRIES);
        if self.retrying >= allowed {
            return false;
        }
        self.retrying += 1;
        true
    }
}

/// Decides, and takes one retry of the budget if the answer is [`Decision::Retry`].
#[must_use]
pub fn decide(situation: &Situation, budget: &mut RetryBudget, now: Micros) -> Decision {
    if situation.committed {
        return Decision::GiveUp(Why::Committed);
    }
    if !situation.listed {
        return Decision::GiveUp(Why::NotListed);
    }
    if situation.attempts > situation.max_retries {
        return Decision::GiveUp(Why::Attempts);
    }
    if now >= situation.deadline {
        return Decision::GiveUp(Why::Deadline);
    }
    if !situation.backend_left {
        return Decision::GiveUp(Why::NoBackend);
    }
    if !budget.take() {
        return Decision::GiveUp(Why::Budget);
    }
    Decision::Retry
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Situation = Situation {
        committed: false,
        listed: true,
        attempts: 1,
        max_retries: 2,
        backend_left: true,
        deadline: Micros(10),
    };

    fn told(situation: Situation) -> Decision {
        decide(&situation, &mut RetryBudget::new(0.2), Micros(9))
    }

    #[test]
    fn only_an_early_listed_failure_with_time_and_tries_left_is_retried() {
        assert_eq!(told(FINE), Decision::Retry, "first failure");
        assert_eq!(told(Situation { attempts: 2, ..FINE }), Decision::Retry, "second failure");
        let cases = [
            (Situation { committed: true, ..FINE }, Why::Committed),
            (Situation { listed: false, ..FINE }, Why::NotListed),
            (Situation { attempts: 3, ..FINE }, Why::Attempts),
            (Situation { deadline: Micros(9), ..FINE }, Why::Deadline),
            (Situation { backend_left: false, ..FINE }, Why::NoBackend),
        ];
        for (situation, why) in cases {
            assert_eq!(told(situation), Decision::GiveUp(why), "{situation:?}");
        }
    }

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_at_least_three() {
        for (requests, allowed) in [(0, 3), (10, 3), (50, 10)] {
            let mut budget = RetryBudget::new(0.2);
            (0..requests).for_each(|_| budget.enter());
            let granted = (0..100).filter(|_| decide(&FINE, &mut budget, Micros(0)) == Decision::Retry).count();
            assert_eq!(granted, allowed, "of {requests} requests");
            budget.retry_ended();
            assert_eq!(decide(&FINE, &mut budget, Micros(0)), Decision::Retry, "an ended retry makes room");
        }
    }

    #[test]
    fn a_refused_failure_takes_nothing_of_the_budget() {
        let mut budget = RetryBudget::new(0.2);
        let _ = decide(&Situation { committed: true, ..FINE }, &mut budget, Micros(0));
        assert_eq!(budget.retrying(), 0, "nothing was taken");
    }
}
