//! Weighs all rules of one request at once: every rule gives its share, or the request is refused and nothing is
//! taken. Reads figures, changes none; `book` applies the answer.

use super::rule::{Moment, RuleState, capacity};
use crate::domain::limit::{Denial, Dimension, LimitRule, Mode, Plan, QuotaAsk, Scope, Standing};
use crate::domain::units::Micros;
use std::cmp::Ordering;

/// One rule of a request: where it counts, what it says, how it stands.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// Key or tenant.
    pub scope: &'a Scope,
    /// The rule as the plan has it now.
    pub rule: &'a LimitRule,
    /// Its figures, brought to the present.
    pub state: &'a RuleState,
}

/// What a request will take, as far as it can be known before it is sent. Tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Need {
    /// Prompt; `None`: no model call, token rules do not apply.
    pub input: Option<u64>,
    /// Output to expect, at most `cap`.
    pub expected: u64,
    /// Output that the caller allows.
    pub cap: Option<u64>,
}

/// Why a request is not let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refused {
    /// It can never fit: `(asked, allowed)` tokens.
    NeverFits(u64, u64),
    /// Not now.
    Denied(Denial),
}

/// What each rule gives, in the order of the lines.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shares {
    /// Units per line: 1 for requests and concurrency, the hold for tokens.
    pub amounts: Vec<u64>,
    /// Lines in shadow mode that would have refused.
    pub shadowed: u32,
}

/// What a rule must give at least, and what it should give.
#[derive(Clone, Copy)]
struct Cost {
    least: u64,
    full: u64,
}

impl Need {
    /// The need behind an ask, given the output that is usual for its tenant and model.
    #[must_use]
    pub fn of(ask: &QuotaAsk, usual_output: u64) -> Self {
        let cap = ask.max_output.map(|tokens| tokens.0);
        let input = ask.input_estimate.map(|tokens| tokens.0);
        let mut expected = cap.map_or(usual_output, |cap| usual_output.min(cap));
        for (_, plan) in &ask.plans {
            if let Some(room) = output_room(plan, input) {
                expected = expected.min(room);
            }
        }
        Self { input, expected, cap }
    }

    /// A strict rule reserves the caller's whole cap. Without one there is no "whole": then the estimate, like
    /// everywhere else, but never clamped further than to the bucket's size.
    fn cost(&self, rule: &LimitRule) -> Option<Cost> {
        if rule.dimension != Dimension::Tokens {
            return Some(Cost { least: 1, full: 1 });
        }
        let input = self.input?;
        // An empty prompt still needs a token of room, or a tenant in debt would get in for free.
        let least = input.max(1);
        let size = capacity(rule).max(least);
        Some(match (rule.strict, self.cap) {
            (true, Some(cap)) => exactly(input.saturating_add(cap).max(1)),
            (true, None) => exactly(input.saturating_add(self.expected).clamp(least, size)),
            (false, _) => Cost { least, full: input.saturating_add(self.expected).clamp(least, size) },
        })
    }
}

fn exactly(amount: u64) -> Cost {
    Cost { least: amount, full: amount }
}

fn output_room(plan: &Plan, input: Option<u64>) -> Option<u64> {
    plan.max_tokens_per_request.map(|most| most.0.saturating_sub(input.unwrap_or(0)))
}

/// Refuses what is over a plan's `max_tokens_per_request`: the input and, where the caller named one, the cap on
/// output.
///
/// # Errors
/// [`Refused::NeverFits`].
pub fn check_size<'a>(plans: impl Iterator<Item = &'a Plan>, need: &Need) -> Result<(), Refused> {
    let Some(input) = need.input else { return Ok(()) };
    let asked = input.saturating_add(need.cap.unwrap_or(0));
    let most = plans.filter_map(|plan| plan.max_tokens_per_request).min();
    match most {
        Some(most) if asked > most.0 => Err(Refused::NeverFits(asked, most.0)),
        _ => Ok(()),
    }
}

/// Asks every rule for its share. Where room is short of the estimate but covers the input, the hold is clamped
/// to the room, unless the rule is strict.
///
/// # Errors
/// [`Refused`]; of several rules that say no, the one that will say it longest is named: waiting for another
/// would be in vain.
pub fn decide(lines: &[Line<'_>], need: &Need, at: Moment) -> Result<Shares, Refused> {
    let mut shares = Shares { amounts: Vec::with_capacity(lines.len()), shadowed: 0 };
    let mut worst: Option<(Option<Micros>, &Line<'_>)> = None;
    for line in lines {
        let Some(cost) = need.cost(line.rule) else {
            shares.amounts.push(0);
            continue;
        };
        let enforced = line.rule.mode == Mode::Enforce;
        if enforced && line.rule.dimension == Dimension::Tokens && cost.least > capacity(line.rule) {
            return Err(Refused::NeverFits(cost.least, capacity(line.rule)));
        }
        let room = line.state.available(line.rule);
        if room < cost.least && enforced {
            let wait = line.state.wait(line.rule, cost.least, at);
            if worst.as_ref().is_none_or(|(longest, _)| longer(wait, *longest)) {
                worst = Some((wait, line));
            }
        } else if room < cost.least {
            shares.shadowed += 1;
        }
        shares.amounts.push(share(line.rule, cost, room));
    }
    match worst {
        None => Ok(shares),
        Some((wait, line)) => Err(Refused::Denied(Denial {
            dimension: line.rule.dimension,
            rule: std::sync::Arc::clone(&line.rule.name),
            scope: line.scope.name(),
            retry_after: wait,
            standings: standings(lines, at),
        })),
    }
}

/// Concurrency and requests count one even under a shadow rule that has no room; tokens hold what there is.
fn share(rule: &LimitRule, cost: Cost, room: u64) -> u64 {
    if rule.dimension == Dimension::Tokens { cost.full.min(room) } else { cost.full }
}

/// `None` is for ever.
fn longer(wait: Option<Micros>, than: Option<Micros>) -> bool {
    match (wait, than) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(wait), Some(than)) => wait > than,
    }
}

/// The most constrained enforced rule of requests and of tokens; a dimension without a rule is left out.
#[must_use]
pub fn standings(lines: &[Line<'_>], at: Moment) -> Vec<Standing> {
    let mut told = Vec::with_capacity(2);
    for dimension in [Dimension::Requests, Dimension::Tokens] {
        let of_dimension = lines.iter().filter(|l| l.rule.dimension == dimension && l.rule.mode == Mode::Enforce);
        if let Some(line) = of_dimension.min_by(|a, b| by_share_left(a, b)) {
            told.push(Standing {
                dimension,
                limit: line.rule.limit,
                remaining: line.state.available(line.rule),
                reset: line.state.full_in(at),
            });
        }
    }
    told
}

/// Compares remaining / limit by cross-multiplication.
fn by_share_left(a: &Line<'_>, b: &Line<'_>) -> Ordering {
    let (left_a, left_b) = (a.state.available(a.rule), b.state.available(b.rule));
    let left = u128::from(left_a) * u128::from(b.rule.limit);
    let right = u128::from(left_b) * u128::from(a.rule.limit);
    left.cmp(&right).then(left_a.cmp(&left_b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::Window;
    use crate::domain::units::WallMicros;

    const NOW: Moment = Moment { mono: Micros(0), wall: WallMicros(0) };

    fn tokens(name: &str, limit: u64, strict: bool) -> LimitRule {
        LimitRule {
            name: name.into(),
            dimension: Dimension::Tokens,
            limit,
            window: Window::Minute,
            burst: limit,
            strict,
            mode: Mode::Enforce,
        }
    }

    fn need(input: u64, expected: u64, cap: Option<u64>) -> Need {
        Need { input: Some(input), expected, cap }
    }

    fn decide_one(rule: &LimitRule, spent: u64, need: &Need) -> Result<Shares, Refused> {
        let mut state = RuleState::new(rule, NOW);
        state.commit(rule, spent);
        let scope = Scope::Tenant("acme".into());
        decide(&[Line { scope: &scope, rule, state: &state }], need, NOW)
    }

    #[test]
    fn room_that_covers_the_input_clamps_the_hold() {
        let shares = decide_one(&tokens("t", 100, false), 70, &need(20, 64, None)).expect("20 of 30 left");
        assert_eq!(shares.amounts, [30], "the hold is what is left");
    }

    #[test]
    fn a_strict_rule_reserves_the_whole_cap_and_never_clamps() {
        let rule = tokens("t", 100, true);
        let shares = decide_one(&rule, 0, &need(20, 64, Some(80))).expect("20 + 80 of 100");
        assert_eq!(shares.amounts, [100], "input plus the caller's cap");
        let refused = decide_one(&rule, 1, &need(20, 64, Some(80))).expect_err("99 left");
        assert!(matches!(refused, Refused::Denied(_)), "a strict rule does not clamp: {refused:?}");
    }

    #[test]
    fn what_is_larger_than_the_bucket_never_fits() {
        let refused = decide_one(&tokens("t", 100, false), 0, &need(101, 64, None));
        assert_eq!(refused, Err(Refused::NeverFits(101, 100)), "the input alone is too large");
        let refused = decide_one(&tokens("t", 100, true), 0, &need(20, 64, Some(81)));
        assert_eq!(refused, Err(Refused::NeverFits(101, 100)), "a strict rule counts the cap");
        let admitted = decide_one(&tokens("t", 100, false), 0, &need(20, 64, Some(81)));
        assert!(admitted.is_ok(), "a rule that clamps looks at the input alone");
    }

    #[test]
    fn an_empty_prompt_does_not_get_past_an_empty_bucket() {
        let refused = decide_one(&tokens("t", 100, false), 100, &need(0, 64, None));
        assert!(matches!(refused, Err(Refused::Denied(_))), "no room at all: {refused:?}");
    }

    #[test]
    fn max_tokens_per_request_counts_input_and_an_explicit_cap() {
        let plan = Plan { rules: vec![], max_tokens_per_request: Some(crate::domain::units::Tokens(100)) };
        let asked = |need: &Need| check_size([&plan].into_iter(), need);
        assert_eq!(asked(&need(40, 64, Some(61))), Err(Refused::NeverFits(101, 100)), "40 + 61");
        assert_eq!(asked(&need(40, 64, Some(60))), Ok(()), "40 + 60");
        assert_eq!(asked(&need(101, 64, None)), Err(Refused::NeverFits(101, 100)), "the input alone");
        assert_eq!(asked(&need(40, 64, None)), Ok(()), "an estimate refuses nobody");
        assert_eq!(asked(&Need { input: None, expected: 64, cap: None }), Ok(()), "plain HTTP has no tokens");
    }

    #[test]
    fn the_rule_that_waits_longest_is_named() {
        let (fast, slow) = (tokens("fast", 6_000, false), tokens("slow", 60, false));
        let spend = |rule: &LimitRule| {
            let mut state = RuleState::new(rule, NOW);
            state.commit(rule, rule.limit);
            state
        };
        let (a, b) = (spend(&fast), spend(&slow));
        let scope = Scope::Tenant("acme".into());
        let lines = [Line { scope: &scope, rule: &slow, state: &b }, Line { scope: &scope, rule: &fast, state: &a }];
        let Err(Refused::Denied(denial)) = decide(&lines, &need(10, 64, None), NOW) else { panic!("both are empty") };
        assert_eq!(&*denial.rule, "slow", "fast is there again in 100 ms, slow in 10 s");
        assert_eq!(denial.retry_after, Some(Micros(10_000_000)), "10 tokens at 60 a minute");
    }

    #[test]
    fn a_shadow_rule_counts_and_never_refuses() {
        let rule = LimitRule { mode: Mode::Shadow, ..tokens("t", 100, false) };
        let shares = decide_one(&rule, 100, &need(20, 64, None)).expect("shadow");
        assert_eq!((shares.amounts.as_slice(), shares.shadowed), (&[0][..], 1), "no room, said so, let in");
        assert!(decide_one(&rule, 0, &need(1_000, 64, None)).is_ok(), "not even what never fits is refused");
    }

    #[test]
    fn the_most_constrained_rule_of_a_dimension_is_told() {
        let (wide, tight) = (tokens("wide", 1_000, false), tokens("tight", 100, false));
        let mut half = RuleState::new(&wide, NOW);
        half.commit(&wide, 500);
        let mut most = RuleState::new(&tight, NOW);
        most.commit(&tight, 40);
        let scope = Scope::Tenant("acme".into());
        let lines =
            [Line { scope: &scope, rule: &tight, state: &most }, Line { scope: &scope, rule: &wide, state: &half }];
        let told = standings(&lines, NOW);
        assert_eq!(told.len(), 1, "no rule on requests, no line for requests");
        assert_eq!((told[0].limit, told[0].remaining), (1_000, 500), "half is less than six tenths");
        assert_eq!(told[0].reset, Micros(30_000_000), "500 at 1000 a minute");
    }
}
