//! A replica that counts alone.

use super::super::*;
use crate::domain::limit::{Priority, Window};
use crate::domain::money::TokenPrices;
use crate::domain::units::{NanoUsd, Tokens, WallMicros};
use crate::logic::quota::book::Home;
use jiff::tz::TimeZone;

const TTL: Micros = Micros(60_000_000);
/// 2026-11-21T21:20:00Z.
const BEGIN: i64 = 1_795_296_000_000_000;
const DAY: u64 = 86_400_000_000;

pub fn at(micros: u64) -> Moment {
    Moment { mono: Micros(micros), wall: WallMicros(BEGIN + micros as i64) }
}

pub fn ask(rules: Vec<LimitRule>, input: u64) -> QuotaAsk {
    let line = |rule| AskLine { scope: Scope::Tenant("acme".into()), rule: Arc::new(rule) };
    QuotaAsk {
        tenant: "acme".into(),
        zone: TimeZone::UTC,
        lines: rules.into_iter().map(line).collect(),
        max_tokens_per_request: None,
        priority: Priority::Normal,
        prices: Some(TokenPrices { input: 1_000_000, output: 1_000_000, ..TokenPrices::default() }),
        model: "m".into(),
        input_estimate: Some(Tokens(input)),
        max_output: None,
    }
}

fn used(tokens: u64) -> QuotaUse {
    QuotaUse { output: Tokens(tokens), cost: NanoUsd(tokens as i64), ..QuotaUse::default() }
}

fn tokens(limit: u64) -> LimitRule {
    LimitRule::new("p.tokens", Dimension::Tokens, limit, Window::Minute)
}

struct Alone(Book);

impl Alone {
    fn new() -> Self {
        Self(Book::new(Home::Here, TTL, false))
    }

    fn books(&mut self) -> Books<'_> {
        Books { tenant: &mut self.0, shared: None }
    }

    fn reserve(&mut self, ask: &QuotaAsk, now: u64) -> Result<Grant, Stop> {
        self.books().reserve(ask, at(now), Link::Up)
    }

    fn left(&mut self, ask: &QuotaAsk, now: u64) -> u64 {
        let line = &ask.lines[0];
        let now = self.0.now(at(now));
        let place = self.0.find(&line.scope, &line.rule, &now);
        self.0.lease(place).expect("it is there").left(0)
    }
}

#[test]
fn room_that_covers_the_least_clamps_the_hold() {
    let mut alone = Alone::new();
    let ask = ask(vec![tokens(100)], 30);
    let mut first = alone.reserve(&ask, 0).expect("it fits");
    assert_eq!(alone.left(&ask, 0), 6, "30 and the estimate of 64 are held");
    alone.books().settle(&mut first.claim, &used(70), Micros(0));
    let second = alone.reserve(&ask, 0).expect("30 are left");
    assert_eq!(second.standings[0].remaining, 0, "the hold is what is left");
}

#[test]
fn a_rejection_burns_nothing() {
    let mut alone = Alone::new();
    let requests = LimitRule::new("p.requests", Dimension::Requests, 10, Window::Minute);
    let both = ask(vec![requests.clone(), tokens(10)], 10);
    let _held = alone.reserve(&both, 0).expect("it fits");
    let Err(Stop::Denied(denial)) = alone.reserve(&both, 0) else { panic!("no token is left") };
    assert_eq!(&*denial.rule, "p.tokens", "which has no room");
    assert_eq!(alone.left(&ask(vec![requests], 1), 0), 9, "the second request was not counted");
}

#[test]
fn a_claim_that_is_cancelled_was_never_there() {
    let mut alone = Alone::new();
    let rule = |name: &str, dimension, window| LimitRule::new(name, dimension, 2, window);
    let rules = [
        rule("p.minute", Dimension::Requests, Window::Minute),
        rule("p.day", Dimension::Requests, Window::Day),
        LimitRule { mode: Mode::Shadow, ..rule("p.shadow", Dimension::Requests, Window::Minute) },
        rule("p.slots", Dimension::Concurrency, Window::Ever),
        LimitRule { limit: 200, ..rule("p.tokens", Dimension::Tokens, Window::Day) },
    ];
    let all = ask(rules.to_vec(), 30);
    for turn in 0..10 {
        let mut claim = alone.reserve(&all, turn).expect("the others were cancelled").claim;
        alone.books().cancel(&mut claim, Micros(turn));
    }
    for rule in rules {
        let limit = rule.limit;
        assert_eq!(alone.left(&ask(vec![rule.clone()], 1), 10), limit, "{}: nothing is gone", rule.name);
    }
    let mut late = alone.reserve(&all, 10).expect("nothing is gone").claim;
    let _next_day = alone.reserve(&all, DAY).expect("a new day, and a second slot");
    alone.books().cancel(&mut late, Micros(DAY));
    assert_eq!(
        alone.left(&ask(vec![all.lines[1].rule.as_ref().clone()], 1), DAY),
        1,
        "yesterday's is no gift to today"
    );
}

#[test]
fn the_rule_that_waits_longest_is_named_and_its_wait_is_true() {
    let mut alone = Alone::new();
    let slow = LimitRule { name: "slow".into(), ..tokens(60) };
    let fast = LimitRule { name: "fast".into(), ..tokens(6_000) };
    let both = ask(vec![fast, slow], 10);
    let whole = QuotaAsk { input_estimate: Some(Tokens(60)), ..both.clone() };
    let mut open = alone.reserve(&whole, 0).expect("it fits");
    alone.books().settle(&mut open.claim, &used(6_000), Micros(0));
    let Err(Stop::Denied(denial)) = alone.reserve(&both, 0) else { panic!("both are empty") };
    assert_eq!(&*denial.rule, "slow", "6000 of 60 a minute takes the longest");
    let wait = denial.retry_after.expect("it comes back").0;
    assert!(alone.reserve(&both, wait - 1_000).is_err(), "not a millisecond before");
    assert!(alone.reserve(&both, wait).is_ok(), "but then");
}

#[test]
fn a_request_that_is_larger_than_the_capacity_never_fits() {
    let mut alone = Alone::new();
    assert_eq!(alone.reserve(&ask(vec![tokens(10)], 11), 0).err(), Some(Stop::NeverFits(11, 10)), "11 tokens of 10");
    let budget = LimitRule::new("p.budget", Dimension::Spend, 10, Window::Month);
    let Err(Stop::Denied(denial)) = alone.reserve(&ask(vec![budget], 11), 0) else { panic!("money is no size") };
    assert_eq!(denial.retry_after, None, "11 of a budget of 10 is never there");
}

#[test]
fn what_a_stream_has_used_counts_while_it_runs_and_once() {
    let mut alone = Alone::new();
    let ask = ask(vec![tokens(1_000)], 36);
    let mut open = alone.reserve(&ask, 0).expect("it fits");
    assert_eq!(alone.left(&ask, 0), 900, "36 + 64 are held");
    alone.books().progress(&mut open.claim, &used(60), Micros(0));
    assert_eq!(alone.left(&ask, 0), 900, "60 of the 100 are committed, the rest is held");
    alone.books().progress(&mut open.claim, &used(150), Micros(0));
    assert_eq!(alone.left(&ask, 0), 850, "more than the hold counts as well");
    alone.books().settle(&mut open.claim, &used(140), Micros(0));
    assert_eq!(alone.left(&ask, 0), 860, "in the end it was 140");
}

#[test]
fn a_budget_that_stops_streams_names_itself_when_nothing_is_left() {
    let mut alone = Alone::new();
    let budget = LimitRule::new("p.budget", Dimension::Spend, 1_000, Window::Month);
    for stop_streams in [true, false] {
        let ask = ask(vec![LimitRule { stop_streams, ..budget.clone() }], 100);
        let mut open = alone.reserve(&ask, 0).expect("it fits");
        assert_eq!(alone.books().progress(&mut open.claim, &used(900), Micros(0)), None, "100 are left");
        let stopped = alone.books().progress(&mut open.claim, &used(1_000), Micros(0));
        assert_eq!(stopped.is_some(), stop_streams, "nothing is left");
        alone.books().settle(&mut open.claim, &used(0), Micros(0));
    }
}

#[test]
fn tokens_belong_to_the_day_in_which_a_request_ends() {
    let mut alone = Alone::new();
    let ask = ask(vec![LimitRule::new("p.tokens", Dimension::Tokens, 1_000, Window::Day)], 100);
    let mut open = alone.reserve(&ask, 0).expect("it fits");
    alone.books().progress(&mut open.claim, &used(300), Micros(0));
    alone.books().settle(&mut open.claim, &used(400), Micros(DAY));
    assert_eq!(alone.left(&ask, DAY), 600, "all 400 belong to the day of the end");
}

#[test]
fn a_day_ends_in_the_tenants_time_zone_and_a_shared_one_in_utc() {
    let mut alone = Alone::new();
    let mut tokyo = ask(vec![LimitRule::new("p.requests", Dimension::Requests, 1, Window::Day)], 1);
    tokyo.zone = TimeZone::get("Asia/Tokyo").expect("a zone");
    let _one = alone.reserve(&tokyo, 0).expect("one a day");
    let Err(Stop::Denied(denial)) = alone.reserve(&tokyo, 0) else { panic!("one a day") };
    let left = denial.retry_after.expect("tomorrow").0 as i64;
    assert_eq!((BEGIN + left).rem_euclid(DAY as i64), 15 * 3_600_000_000, "Tokyo's day begins at 15:00 UTC");
}

#[test]
fn a_shadow_rule_counts_and_never_refuses_and_piles_up_no_debt() {
    let mut alone = Alone::new();
    let shadow = ask(vec![LimitRule { mode: Mode::Shadow, ..tokens(100) }], 90);
    for _ in 0..5 {
        let mut grant = alone.reserve(&shadow, 0).expect("it never refuses");
        alone.books().settle(&mut grant.claim, &used(90), Micros(0));
    }
    assert_eq!(alone.reserve(&shadow, 0).expect("it never refuses").shadowed, 1, "it says that it would have");
    let enforced = ask(vec![tokens(100)], 50);
    assert!(alone.reserve(&enforced, 30_000_000).is_ok(), "half a minute gives back half: there is no debt");
}

#[test]
fn low_priority_leaves_twice_the_reserve_and_high_none() {
    let mut alone = Alone::new();
    let rule = LimitRule { reserve: 2, ..LimitRule::new("p.requests", Dimension::Requests, 10, Window::Minute) };
    for (priority, fit) in [(Priority::Low, 6), (Priority::Normal, 2), (Priority::High, 2)] {
        let ask = QuotaAsk { priority, ..ask(vec![rule.clone()], 1) };
        let mut let_in = 0;
        while alone.reserve(&ask, 0).is_ok() {
            let_in += 1;
        }
        assert_eq!(let_in, fit, "{priority:?}");
    }
}

#[test]
fn the_most_constrained_rule_of_a_dimension_is_told() {
    let mut alone = Alone::new();
    let input = LimitRule { name: "p.input".into(), dimension: Dimension::InputTokens, ..tokens(200) };
    let shadow = LimitRule { name: "p.shadow".into(), mode: Mode::Shadow, ..tokens(101) };
    let grant = alone.reserve(&ask(vec![tokens(1_000), input, shadow], 100), 0).expect("it fits");
    assert_eq!(grant.standings.len(), 1, "one line for tokens, none for requests: {:?}", grant.standings);
    assert_eq!((grant.standings[0].limit, grant.standings[0].remaining), (200, 100), "half is less than 836 of 1000");
}

#[test]
fn only_whole_answers_teach_the_estimate() {
    let mut alone = Alone::new();
    let ask = ask(vec![tokens(10_000)], 0);
    for (complete, expected) in [(false, 64), (true, 500)] {
        let mut grant = alone.reserve(&ask, 0).expect("it fits");
        alone.books().settle(&mut grant.claim, &QuotaUse { complete, ..used(500) }, Micros(0));
        assert_eq!(alone.0.estimates.output("m"), expected, "complete: {complete}");
    }
}

#[test]
fn a_changed_limit_keeps_what_was_committed_and_a_changed_window_starts_anew() {
    let mut alone = Alone::new();
    let rule = |limit, window| ask(vec![LimitRule::new("p.tokens", Dimension::Tokens, limit, window)], 40);
    let mut grant = alone.reserve(&rule(100, Window::Minute), 0).expect("it fits");
    alone.books().settle(&mut grant.claim, &used(40), Micros(0));
    assert_eq!(alone.left(&rule(50, Window::Minute), 0), 10, "40 of 50 are spent");
    assert_eq!(alone.left(&rule(50, Window::Day), 0), 50, "a day is another count");
}

#[test]
fn each_rule_of_a_request_charges_its_own_account_however_many_there_are() {
    use crate::logic::quota::book::SCOPES_SOFT_MAX;
    let mut alone = Alone::new();
    let team = |name: String| Scope::Team("acme".into(), name.as_str().into());
    let both = |nth: usize| {
        let mut both =
            ask(vec![tokens(1_000), LimitRule::new("p.open", Dimension::Concurrency, 9, Window::Minute)], 90);
        both.lines[0].scope = team(format!("a{nth}"));
        both.lines[1].scope = team(format!("b{nth}"));
        both
    };
    // The second scope of a request is one too many.
    let mut odd = both(0);
    odd.lines.truncate(1);
    odd.lines[0].scope = team("odd".to_owned());
    let mut open = alone.reserve(&odd, 0).expect("it fits");
    alone.books().release(&mut open.claim, Micros(0));
    // Every one of them is unused by the time that there are too many.
    for nth in 0..SCOPES_SOFT_MAX {
        let mut open = alone.reserve(&both(nth), 0).expect("it fits");
        let held: Vec<_> =
            open.claim.parts.iter().map(|(_, place, hold)| (*place, Arc::clone(&hold.rule.name))).collect();
        assert_eq!(held.len(), 2, "request {nth}: both rules are charged");
        for (place, rule) in held {
            let lease = alone.0.lease(place).expect("it is there");
            assert_eq!(lease.rule.name, rule, "request {nth}: what is held of a rule is held of its account");
            assert!(lease.held() > 0, "request {nth}: {rule} is charged");
        }
        alone.books().release(&mut open.claim, Micros(0));
    }
}

#[test]
fn what_running_requests_hold_is_waited_for_shortly_and_what_is_used_until_the_period_ends() {
    for dimension in [Dimension::Tokens, Dimension::Spend] {
        let mut alone = Alone::new();
        let rule = LimitRule { strict: true, ..LimitRule::new("p.x", dimension, 1_000, Window::Day) };
        let ask = QuotaAsk { max_output: Some(Tokens(0)), ..ask(vec![rule], 600) };
        let mut open = alone.reserve(&ask, 0).expect("it fits");
        let wait = |stop| match stop {
            Err(Stop::Denied(denial)) => denial.retry_after,
            other => panic!("600 of 1000 are taken: {other:?}"),
        };
        assert_eq!(
            wait(alone.reserve(&ask, 0)),
            Some(Micros(1_000_000)),
            "{dimension:?}: it may soon be settled for less"
        );
        alone.books().settle(&mut open.claim, &used(600), Micros(0));
        let rest = wait(alone.reserve(&ask, 0)).expect("tomorrow");
        assert!(rest > Micros(3_600_000_000), "{dimension:?}: now only the next day helps: {rest:?}");
    }
}

#[test]
fn accounts_in_use_are_never_dropped_and_unused_ones_are_but_not_from_under_a_request() {
    let mut alone = Alone::new();
    let of = |key: usize| {
        let mut ask = ask(vec![LimitRule::new("p.concurrency", Dimension::Concurrency, 1, Window::Minute)], 1);
        let tenant = AskLine { scope: Scope::Tenant("acme".into()), rule: Arc::new(tokens(1_000_000)) };
        ask.lines[0].scope = Scope::Key(format!("key{key}").as_str().into());
        ask.lines.insert(0, tenant);
        ask
    };
    let mut kept = Vec::new();
    for key in 0..3 * crate::logic::quota::book::SCOPES_SOFT_MAX {
        let mut grant = alone.reserve(&of(key), 0).expect("each key has its place");
        if key % 100 == 0 {
            kept.push(key);
            std::mem::forget(grant);
        } else {
            alone.books().settle(&mut grant.claim, &used(0), Micros(0));
        }
    }
    let accounts = alone.0.leases().count();
    assert!(accounts <= 2 * crate::logic::quota::book::SCOPES_SOFT_MAX + 1, "{accounts} accounts are kept");
    for key in kept {
        assert!(alone.reserve(&of(key), 0).is_err(), "key{key} has a request open");
    }
    let held: u64 = alone.0.leases().map(|lease| lease.held()).sum();
    assert_eq!(held, 31 * (1 + 65), "a place and 65 tokens for each that is open");
}

proptest::proptest! {
    #[test]
    fn a_refused_request_fits_after_its_own_retry_time(spent in 1_u64..2_000, input in 1_u64..500) {
        let mut alone = Alone::new();
        let requests = LimitRule::new("p.requests", Dimension::Requests, 1, Window::Minute);
        let ask = ask(vec![tokens(500), requests], input);
        let mut first = alone.reserve(&ask, 0).expect("an unused bucket");
        alone.books().settle(&mut first.claim, &used(spent), Micros(0));
        let Err(Stop::Denied(denial)) = alone.reserve(&ask, 0) else { panic!("one request a minute") };
        let wait = denial.retry_after.expect("it will fit").0;
        proptest::prop_assert!(alone.reserve(&ask, wait - 1).is_err(), "not a microsecond earlier than {}", wait);
        proptest::prop_assert!(alone.reserve(&ask, wait).is_ok(), "and not later than {}", wait);
    }

    #[test]
    fn any_window_commits_at_most_limit_plus_burst_if_nobody_uses_more_than_was_held(
        limit in 100_u64..1_000,
        burst in 100_u64..1_000,
        steps in proptest::collection::vec((0_u64..15_000_000, 1_u64..100, 0_u64..5, proptest::bool::ANY), 1..100),
    ) {
        let rule = LimitRule { burst, ..tokens(limit) };
        let (mut alone, mut now) = (Alone::new(), 0);
        let (mut open, mut committed) = (Vec::<Claim>::new(), Vec::<(u64, u64)>::new());
        for (pause, input, share, settle) in steps {
            now += pause;
            if settle && !open.is_empty() {
                let mut claim = open.swap_remove(0);
                let actual = claim.parts.iter().map(|(_, _, hold)| hold.held).sum::<u64>() * share / 4;
                alone.books().settle(&mut claim, &used(actual), Micros(now));
                committed.push((now, actual));
            } else if let Ok(grant) = alone.reserve(&ask(vec![rule.clone()], input), now) {
                open.push(grant.claim);
            }
        }
        for (start, _) in &committed {
            let in_window = committed.iter().filter(|(at, _)| at >= start && *at < start + 60_000_000);
            let sum: u64 = in_window.map(|(_, tokens)| tokens).sum();
            proptest::prop_assert!(sum <= limit + burst, "{} tokens in a minute, limit {} burst {}", sum, limit, burst);
        }
    }
}
