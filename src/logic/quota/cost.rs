//! What a request costs each rule, as far as it can be known before it is sent: what it needs at least, and what it
//! should hold. Knows no figures of accounts.

use super::period::capacity;
use super::plan::{LimitRule, QuotaAsk};
use crate::domain::limit::{Dimension, Priority};
use crate::domain::money::TokenPrices;
use crate::domain::units::Tokens;

/// What a request will take. Tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// Prompt; `None`: no model call, rules on tokens and money do not apply.
    pub input: Option<u64>,
    /// Output to expect, at most `cap`.
    pub expected: u64,
    /// Output that the caller allows.
    pub cap: Option<u64>,
    /// What tokens cost; `None`: nobody knows, money rules do not apply.
    pub prices: Option<TokenPrices>,
}

/// What a rule must give at least, and what it should give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Without this the request is refused.
    pub least: u64,
    /// This is held if there is room, and at least `least`.
    pub full: u64,
}

impl Need {
    /// The need behind an ask, given the output that is usual for its tenant and model.
    #[must_use]
    pub fn of(ask: &QuotaAsk, usual_output: u64) -> Self {
        let cap = ask.max_output.map(|tokens| tokens.0);
        let input = ask.input_estimate.map(|tokens| tokens.0);
        let mut expected = cap.map_or(usual_output, |cap| usual_output.min(cap));
        if let Some(most) = ask.max_tokens_per_request {
            expected = expected.min(most.0.saturating_sub(input.unwrap_or(0)));
        }
        Self { input, expected, cap, prices: ask.prices }
    }

    /// The cost by a rule; `None`: it does not count this request.
    ///
    /// A strict rule reserves the caller's whole cap. Without one there is no "whole": then the estimate, like
    /// everywhere else, but never clamped further than to the capacity.
    #[must_use]
    pub fn cost(&self, rule: &LimitRule) -> Option<Cost> {
        if !rule.dimension.is_settled() {
            return Some(Cost { least: 1, full: 1 });
        }
        let input = self.input?;
        let output = if rule.strict { self.cap.unwrap_or(self.expected) } else { self.expected };
        let (least, full) = match rule.dimension {
            Dimension::InputTokens => (input, input),
            Dimension::OutputTokens => (1, output),
            Dimension::Spend => {
                let prices = self.prices?;
                let price = |output| prices.estimate(Tokens(input), Tokens(output)).0.unsigned_abs();
                (price(0), price(output))
            }
            _ => (input, input.saturating_add(output)),
        };
        // An empty prompt still needs a unit of room, or a tenant in debt would get in for free.
        let least = least.max(1);
        let whole = full.max(least);
        let size = capacity(rule).max(least);
        Some(match (rule.strict, self.cap) {
            (true, Some(_)) => Cost { least: whole, full: whole },
            (true, None) => Cost { least: whole.min(size), full: whole.min(size) },
            (false, _) => Cost { least, full: whole.min(size) },
        })
    }

    /// Refuses what is over a plan's `max_tokens_per_request`: the input and, where the caller named one, the cap on
    /// output.
    ///
    /// # Errors
    /// `(asked, allowed)`.
    pub fn check_size(&self, most: Option<Tokens>) -> Result<(), (u64, u64)> {
        let Some(input) = self.input else { return Ok(()) };
        let asked = input.saturating_add(self.cap.unwrap_or(0));
        match most {
            Some(most) if asked > most.0 => Err((asked, most.0)),
            _ => Ok(()),
        }
    }
}

/// Units of a rule that requests of a priority leave to others.
#[must_use]
pub fn floor(rule: &LimitRule, priority: Priority) -> u64 {
    match priority {
        Priority::High => 0,
        Priority::Normal => rule.reserve,
        Priority::Low => rule.reserve.saturating_mul(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::Window;

    fn rule(dimension: Dimension, strict: bool) -> LimitRule {
        LimitRule { strict, ..LimitRule::new("r", dimension, 1_000, Window::Minute) }
    }

    fn need(input: u64, expected: u64, cap: Option<u64>) -> Need {
        let prices = TokenPrices { input: 2_000_000, output: 10_000_000, ..TokenPrices::default() };
        Need { input: Some(input), expected, cap, prices: Some(prices) }
    }

    fn cost(dimension: Dimension, strict: bool, need: &Need) -> (u64, u64) {
        let cost = need.cost(&rule(dimension, strict)).expect("it counts");
        (cost.least, cost.full)
    }

    #[test]
    fn each_dimension_costs_what_it_counts() {
        let asked = need(20, 64, Some(80));
        for (dimension, relaxed, strict) in [
            (Dimension::Requests, (1, 1), (1, 1)),
            (Dimension::Concurrency, (1, 1), (1, 1)),
            (Dimension::Tokens, (20, 84), (100, 100)),
            (Dimension::InputTokens, (20, 20), (20, 20)),
            (Dimension::OutputTokens, (1, 64), (80, 80)),
            (Dimension::Spend, (40, 680), (840, 840)),
        ] {
            assert_eq!(cost(dimension, false, &asked), relaxed, "{dimension:?}: the input, and the estimate beside it");
            assert_eq!(cost(dimension, true, &asked), strict, "{dimension:?}, strict: the whole cap");
        }
    }

    #[test]
    fn plain_http_has_neither_tokens_nor_a_price() {
        let plain = Need { input: None, expected: 64, cap: None, prices: None };
        for dimension in Dimension::ALL {
            let counts = plain.cost(&rule(dimension, true)).is_some();
            assert_eq!(counts, !dimension.is_settled(), "{dimension:?}");
        }
        let unpriced = Need { prices: None, ..need(20, 64, None) };
        assert_eq!(unpriced.cost(&rule(Dimension::Spend, true)), None, "no price, no cost");
    }

    #[test]
    fn the_hold_is_never_larger_than_the_capacity_unless_a_strict_cap_is() {
        assert_eq!(cost(Dimension::Tokens, false, &need(20, 5_000, None)), (20, 1_000), "clamped");
        assert_eq!(
            cost(Dimension::Tokens, true, &need(20, 5_000, None)),
            (1_000, 1_000),
            "no cap: the estimate, clamped"
        );
        assert_eq!(cost(Dimension::Tokens, true, &need(20, 64, Some(981))), (1_001, 1_001), "a cap that never fits");
        assert_eq!(cost(Dimension::Tokens, false, &need(0, 0, Some(0))), (1, 1), "an empty prompt needs room too");
    }

    #[test]
    fn max_tokens_per_request_counts_input_and_an_explicit_cap() {
        let asked = |need: &Need| need.check_size(Some(Tokens(100)));
        assert_eq!(asked(&need(40, 64, Some(61))), Err((101, 100)), "40 + 61");
        assert_eq!(asked(&need(40, 64, Some(60))), Ok(()), "40 + 60");
        assert_eq!(asked(&need(101, 64, None)), Err((101, 100)), "the input alone");
        assert_eq!(asked(&need(40, 64, None)), Ok(()), "an estimate refuses nobody");
        assert_eq!(asked(&Need { input: None, ..need(0, 64, None) }), Ok(()), "plain HTTP has no tokens");
    }

    #[test]
    fn a_priority_leaves_its_share_of_the_reserve() {
        let rule = LimitRule { reserve: 10, ..rule(Dimension::Requests, false) };
        let floors = [Priority::High, Priority::Normal, Priority::Low].map(|priority| floor(&rule, priority));
        assert_eq!(floors, [0, 10, 20], "high none, normal the reserve, low twice that");
    }
}
