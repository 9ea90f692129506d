use super::*;
use crate::domain::limit::{Mode, Window};
use crate::domain::units::Tokens;
use proptest::prelude::*;

const TTL: Micros = Micros(60_000_000);
const MINUTE: u64 = 60_000_000;

fn rule(name: &str, dimension: Dimension, limit: u64) -> LimitRule {
    LimitRule {
        name: name.into(),
        dimension,
        limit,
        window: Window::Minute,
        burst: limit,
        strict: false,
        mode: Mode::Enforce,
    }
}

fn plan(rules: Vec<LimitRule>) -> Arc<Plan> {
    Arc::new(Plan { rules, max_tokens_per_request: None })
}

fn tenant() -> Scope {
    Scope::Tenant("acme".into())
}

fn key(name: &str) -> Scope {
    Scope::Key(name.into())
}

fn ask(plans: Vec<(Scope, Arc<Plan>)>, input: u64, max_output: Option<u64>) -> QuotaAsk {
    QuotaAsk {
        tenant: "acme".into(),
        plans,
        model: "m".into(),
        input_estimate: Some(Tokens(input)),
        max_output: max_output.map(Tokens),
    }
}

fn at(mono: u64) -> Moment {
    Moment { mono: Micros(mono), wall: WallMicros(1_795_000_000_000_000 + mono as i64) }
}

fn used(tokens: u64) -> QuotaUse {
    QuotaUse { tokens: Some(Tokens(tokens)), output: None, refund: false }
}

/// What is left of a rule, learnt without taking anything.
fn left(book: &mut TenantBook, ask: &QuotaAsk, dimension: Dimension, now: u64) -> u64 {
    for (scope, plan) in &ask.plans {
        book.follow(scope, plan, at(now));
    }
    let lines = book.lines(&ask.plans);
    lines
        .iter()
        .find(|line| line.rule.dimension == dimension)
        .map(|line| line.state.available(line.rule))
        .expect("rule")
}

#[test]
fn a_request_of_a_key_must_fit_the_tenant_and_the_key() {
    let both = |key_name: &str| {
        ask(
            vec![
                (tenant(), plan(vec![rule("big.requests", Dimension::Requests, 3)])),
                (key(key_name), plan(vec![rule("small.requests", Dimension::Requests, 2)])),
            ],
            1,
            None,
        )
    };
    let mut book = TenantBook::default();
    let mut reserve = |key_name: &str| book.reserve(&both(key_name), TTL, at(0)).map(|_| ());
    let scope_of = |refused: Result<(), Refused>| match refused {
        Err(Refused::Denied(denial)) => denial.scope,
        other => panic!("expected a denial, got {other:?}"),
    };
    assert_eq!([reserve("a"), reserve("a")], [Ok(()), Ok(())], "key a has two");
    assert_eq!(scope_of(reserve("a")), "key", "key a is spent, the tenant is not");
    assert_eq!(reserve("b"), Ok(()), "key b counts alone; the refusal of a burnt nothing of the tenant");
    assert_eq!(scope_of(reserve("b")), "tenant", "all keys together have three");
}

#[test]
fn a_refusal_by_one_rule_burns_nothing_of_the_others() {
    let rules = vec![rule("p.requests", Dimension::Requests, 10), rule("p.concurrency", Dimension::Concurrency, 1)];
    let ask = ask(vec![(tenant(), plan(rules))], 1, None);
    let mut book = TenantBook::default();
    let grant = book.reserve(&ask, TTL, at(0)).expect("first");
    for _ in 0..5 {
        let Err(Refused::Denied(denial)) = book.reserve(&ask, TTL, at(0)) else { panic!("one at a time") };
        assert_eq!(denial.dimension, Dimension::Concurrency, "the slot is taken");
        assert_eq!(denial.retry_after, Some(Micros(1_000_000)), "concurrency says one second");
        assert_eq!(denial.standings[0].remaining, 9, "five refusals later one request is spent");
    }
    book.release(&grant.claim);
    let again = book.reserve(&ask, TTL, at(0)).expect("the slot is free");
    assert_eq!(again.standings[0].remaining, 8, "two admitted in all");
}

#[test]
fn settling_replaces_the_hold_by_what_was_used() {
    let ask = ask(vec![(tenant(), plan(vec![rule("p.tokens", Dimension::Tokens, 1_000)]))], 100, None);
    let mut book = TenantBook::default();
    let grant = book.reserve(&ask, TTL, at(0)).expect("fits");
    assert_eq!(grant.standings[0].remaining, 1_000 - 164, "input and the floor of the output are held");
    book.settle(&grant.claim, used(130), Micros(0));
    assert_eq!(left(&mut book, &ask, Dimension::Tokens, 0), 870, "130 are committed, nothing is held");
    let unknown = book.reserve(&ask, TTL, at(0)).expect("fits");
    book.settle(&unknown.claim, QuotaUse::default(), Micros(0));
    assert_eq!(left(&mut book, &ask, Dimension::Tokens, 0), 870 - 164, "no count: the hold is committed");
    let refunded = book.reserve(&ask, TTL, at(0)).expect("fits");
    book.settle(&refunded.claim, QuotaUse { refund: true, ..used(500) }, Micros(0));
    assert_eq!(left(&mut book, &ask, Dimension::Tokens, 0), 870 - 164, "a refund commits nothing");
}

#[test]
fn a_hold_expires_and_a_late_settle_still_commits() {
    let rules = vec![rule("p.tokens", Dimension::Tokens, 1_000), rule("p.concurrency", Dimension::Concurrency, 1)];
    let ask = ask(vec![(tenant(), plan(rules))], 100, None);
    let mut book = TenantBook::default();
    let grant = book.reserve(&ask, TTL, at(0)).expect("fits");
    book.expire(Micros(TTL.0 - 1), TTL, |_| false);
    assert_eq!(book.held(&tenant(), "p.concurrency"), 1, "a microsecond too early");
    book.expire(TTL, TTL, |_| false);
    assert_eq!((book.held(&tenant(), "p.tokens"), book.open()), (0, 0), "the dead owner's hold is gone");
    let _second = book.reserve(&ask, TTL, at(TTL.0)).expect("the slot is free");
    book.settle(&grant.claim, used(150), TTL);
    assert_eq!(left(&mut book, &ask, Dimension::Tokens, TTL.0), 1_000 - 164 - 150, "what was used is used");
    assert_eq!(book.held(&tenant(), "p.concurrency"), 1, "the second request's slot is not given back by the first");
}

#[test]
fn a_hold_that_is_refreshed_or_whose_owner_lives_does_not_expire() {
    let ask = ask(vec![(tenant(), plan(vec![rule("p.tokens", Dimension::Tokens, 1_000)]))], 100, None);
    let mut book = TenantBook::default();
    let grant = book.reserve(&ask, TTL, at(0)).expect("fits");
    assert!(book.refresh(&grant.claim, Micros(TTL.0 + 10)), "it was live");
    book.expire(TTL, TTL, |_| false);
    assert_eq!(book.open(), 1, "refreshed beyond its first term");
    book.expire(Micros(TTL.0 + 10), TTL, |_| true);
    assert_eq!(book.open(), 1, "its owner lives");
    book.expire(Micros(2 * TTL.0 + 10), TTL, |_| false);
    assert!(!book.refresh(&grant.claim, Micros(3 * TTL.0)), "too late: it is gone");
}

#[test]
fn the_estimate_follows_what_the_tenant_gets_from_the_model() {
    let ask = ask(vec![(tenant(), plan(vec![rule("p.tokens", Dimension::Tokens, 100_000)]))], 100, Some(2_000));
    let mut book = TenantBook::default();
    for _ in 0..20 {
        let grant = book.reserve(&ask, TTL, at(0)).expect("fits");
        let output = Some(Tokens(700));
        book.settle(&grant.claim, QuotaUse { tokens: Some(Tokens(0)), output, refund: false }, Micros(0));
    }
    let _open = book.reserve(&ask, TTL, at(0)).expect("fits");
    assert_eq!(book.held(&tenant(), "p.tokens"), 800, "input and what answers have been");
    let capped = QuotaAsk { max_output: Some(Tokens(10)), ..ask };
    let _open = book.reserve(&capped, TTL, at(0)).expect("fits");
    assert_eq!(book.held(&tenant(), "p.tokens"), 800 + 110, "never more than the caller's own cap");
}

#[test]
fn plain_http_takes_no_tokens_and_is_not_stopped_by_them() {
    let rules = vec![rule("p.tokens", Dimension::Tokens, 100), rule("p.requests", Dimension::Requests, 2)];
    let llm = ask(vec![(tenant(), plan(rules))], 100, None);
    let plain = QuotaAsk { input_estimate: None, ..llm.clone() };
    let mut book = TenantBook::default();
    let _all = book.reserve(&llm, TTL, at(0)).expect("the whole bucket");
    let grant = book.reserve(&plain, TTL, at(0)).expect("tokens are spent, but it needs none");
    assert_eq!(grant.standings[0].remaining, 0, "it counts as a request");
    assert_eq!(book.held(&tenant(), "p.tokens"), 100, "the model call's hold alone");
}

#[test]
fn a_day_that_ends_during_a_request_is_charged_to_the_new_day() {
    let daily = LimitRule { window: Window::Day, ..rule("p.tokens", Dimension::Tokens, 1_000) };
    let ask = ask(vec![(tenant(), plan(vec![daily]))], 100, None);
    let day = 86_400_000_000i64;
    let before = Moment { mono: Micros(0), wall: WallMicros(20_000 * day - 10) };
    let mut book = TenantBook::default();
    let first = book.reserve(&ask, TTL, before).expect("fits");
    book.settle(&first.claim, used(1_000), Micros(5));
    let Err(Refused::Denied(denial)) = book.reserve(&ask, TTL, before) else { panic!("the day is spent") };
    assert_eq!(denial.retry_after, Some(Micros(10)), "until midnight");
    let after = Moment { mono: Micros(10), wall: WallMicros(20_000 * day) };
    let second = book.reserve(&ask, TTL, after).expect("a new day");
    book.settle(&second.claim, used(300), Micros(20));
    let third = book.reserve(&ask, TTL, after).expect("fits");
    assert_eq!(third.standings[0].remaining, 1_000 - 300 - 164, "only the new day's use counts");
}

#[test]
fn sweeping_forgets_what_is_full_and_nothing_else() {
    let requests = plan(vec![rule("p.requests", Dimension::Requests, 10)]);
    let of = |name: &str| ask(vec![(key(name), Arc::clone(&requests))], 1, None);
    let mut book = TenantBook::default();
    for name in ["a", "b"] {
        let grant = book.reserve(&of(name), TTL, at(0)).expect("fits");
        book.release(&grant.claim);
    }
    let again = book.reserve(&of("b"), TTL, at(MINUTE / 10)).expect("fits");
    book.release(&again.claim);
    assert!(!book.sweep(at(MINUTE / 10 + 1)), "b is in use");
    assert_eq!(book.scopes.len(), 1, "a is full again and forgotten");
    assert!(book.sweep(at(MINUTE)), "b is full too: the book can go");
}

#[test]
fn scopes_in_use_are_never_evicted_and_unused_ones_are() {
    let requests = plan(vec![rule("p.requests", Dimension::Requests, 1)]);
    let of = |n: usize| ask(vec![(key(&n.to_string()), Arc::clone(&requests))], 1, None);
    let mut book = TenantBook::default();
    let used_keys = SCOPES_SOFT_MAX + 10;
    for n in 0..used_keys {
        let _grant = book.reserve(&of(n), TTL, at(0)).expect("fits");
    }
    for n in 0..used_keys {
        assert!(book.reserve(&of(n), TTL, at(0)).is_err(), "key {n} has spent its one request");
    }
    for n in 0..2 * used_keys {
        let grant = book.reserve(&of(used_keys + n), TTL, at(MINUTE * (n as u64 + 1))).expect("fits");
        book.release(&grant.claim);
    }
    assert!(book.scopes.len() <= 2 * used_keys, "{} scopes: unused ones were dropped", book.scopes.len());
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { input: u64, max_output: Option<u64> },
    Settle { which: usize, tokens: Option<u64>, refund: bool },
    Release { which: usize },
    Wait { micros: u64 },
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..300, proptest::option::of(0u64..300))
            .prop_map(|(input, max_output)| Step::Reserve { input, max_output }),
        3 => (0usize..8, proptest::option::of(0u64..600), any::<bool>())
            .prop_map(|(which, tokens, refund)| Step::Settle { which, tokens, refund }),
        1 => (0usize..8).prop_map(|which| Step::Release { which }),
        2 => (0u64..40_000_000).prop_map(|micros| Step::Wait { micros }),
        1 => Just(Step::Expire),
    ]
}

/// The hold of tokens that a claim took.
fn token_hold(claim: &Claim) -> u64 {
    claim.parts().filter(|(_, rule, _)| rule.dimension == Dimension::Tokens).map(|(_, _, held)| held).sum()
}

proptest! {
    #[test]
    fn reserved_is_settled_plus_released_plus_outstanding(steps in proptest::collection::vec(step(), 1..120)) {
        let daily = LimitRule { window: Window::Month, ..rule("p.tokens", Dimension::Tokens, 5_000) };
        let rules = vec![
            daily,
            rule("p.requests", Dimension::Requests, 20),
            rule("p.concurrency", Dimension::Concurrency, 5),
        ];
        let plan = plan(rules);
        let (mut book, mut now, mut open) = (TenantBook::default(), 0u64, Vec::<Arc<Claim>>::new());
        let (mut reserved, mut settled, mut released, mut committed) = (0u64, 0u64, 0u64, 0u64);
        for step in steps {
            match step {
                Step::Reserve { input, max_output } => {
                    let ask = ask(vec![(tenant(), Arc::clone(&plan))], input, max_output);
                    let before = (book.held(&tenant(), "p.tokens"), book.open());
                    match book.reserve(&ask, TTL, at(now)) {
                        Ok(grant) => {
                            reserved += token_hold(&grant.claim);
                            open.push(grant.claim);
                        }
                        Err(_) => prop_assert_eq!(before, (book.held(&tenant(), "p.tokens"), book.open()),
                            "a refusal holds nothing"),
                    }
                }
                Step::Settle { which, tokens, refund } if which < open.len() => {
                    let claim = open.swap_remove(which);
                    let hold = token_hold(&claim);
                    settled += hold;
                    committed += if refund { 0 } else { tokens.unwrap_or(hold) };
                    book.settle(&claim, QuotaUse { tokens: tokens.map(Tokens), output: None, refund }, Micros(now));
                }
                Step::Release { which } if which < open.len() => {
                    let claim = open.swap_remove(which);
                    released += token_hold(&claim);
                    book.release(&claim);
                }
                Step::Wait { micros } => now += micros,
                // Everybody lives: expiry must not disturb the sum.
                Step::Expire => book.expire(Micros(now), TTL, |_| true),
                Step::Settle { .. } | Step::Release { .. } => {}
            }
            let outstanding = book.held(&tenant(), "p.tokens");
            prop_assert_eq!(reserved, settled + released + outstanding, "holds are neither lost nor made");
            prop_assert_eq!(book.held(&tenant(), "p.concurrency"), open.len() as u64, "one slot per open request");
            prop_assert!(open.len() <= 5, "concurrency holds");
            let probe = ask(vec![(tenant(), Arc::clone(&plan))], 1, None);
            let left = left(&mut book, &probe, Dimension::Tokens, now);
            prop_assert_eq!(left, 5_000u64.saturating_sub(committed).saturating_sub(outstanding),
                "available = limit - committed - held");
        }
        for claim in &open {
            book.release(claim);
        }
        prop_assert_eq!(book.held(&tenant(), "p.tokens"), 0, "nothing is held when nobody is there");
    }

    #[test]
    fn a_refused_request_fits_after_its_own_retry_time(
        spent in 1u64..2_000,
        input in 1u64..500,
    ) {
        let rules = vec![rule("p.tokens", Dimension::Tokens, 500), rule("p.requests", Dimension::Requests, 1)];
        let ask = ask(vec![(tenant(), plan(rules))], input, None);
        let mut book = TenantBook::default();
        let first = book.reserve(&ask, TTL, at(0)).expect("an unused bucket");
        book.settle(&first.claim, used(spent), Micros(0));
        let Err(Refused::Denied(denial)) = book.reserve(&ask, TTL, at(0)) else { panic!("one request a minute") };
        let wait = denial.retry_after.expect("it will fit").0;
        prop_assert!(book.reserve(&ask, TTL, at(wait - 1)).is_err(), "not a microsecond earlier than {}", wait);
        prop_assert!(book.reserve(&ask, TTL, at(wait)).is_ok(), "and not later than {}", wait);
    }

    #[test]
    fn any_window_commits_at_most_limit_plus_burst_if_nobody_uses_more_than_was_held(
        limit in 100u64..1_000,
        burst in 100u64..1_000,
        steps in proptest::collection::vec((0u64..15_000_000, 0u64..100, 0u64..5, any::<bool>()), 1..100),
    ) {
        let tokens = LimitRule { burst, ..rule("p.tokens", Dimension::Tokens, limit) };
        let ask_of = |input| ask(vec![(tenant(), plan(vec![tokens.clone()]))], input, None);
        let (mut book, mut now) = (TenantBook::default(), 0u64);
        let (mut open, mut committed) = (Vec::<Arc<Claim>>::new(), Vec::<(u64, u64)>::new());
        for (pause, input, share, settle) in steps {
            now += pause;
            if settle && !open.is_empty() {
                let claim = open.swap_remove(0);
                let actual = token_hold(&claim) * share / 4;
                book.settle(&claim, used(actual), Micros(now));
                committed.push((now, actual));
            } else if let Ok(grant) = book.reserve(&ask_of(input), TTL, at(now)) {
                open.push(grant.claim);
            }
        }
        for (start, _) in &committed {
            let in_window = committed.iter().filter(|(t, _)| t >= start && *t < start + MINUTE);
            let sum: u64 = in_window.map(|(_, tokens)| tokens).sum();
            prop_assert!(sum <= limit + burst, "{} tokens in a minute, limit {} burst {}", sum, limit, burst);
        }
    }
}
