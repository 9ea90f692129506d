mod alone;
mod begun;
mod crowd;
mod leased;
mod outage;
mod shelf;
mod spend;

use super::*;
use crate::domain::limit::{Dimension, Mode, Priority, Scope, Window};
use crate::domain::units::Tokens;
use crate::logic::quota::plan::{AskLine, LimitRule};
use std::sync::Barrier;

const TTL: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Shadows(std::sync::atomic::AtomicU32);

impl Watch for Shadows {
    fn shadowed(&self, rules: u32) {
        self.0.fetch_add(rules, Ordering::Relaxed);
    }
}

fn settings() -> Settings {
    Settings {
        replica: "r".into(),
        hold_ttl: TTL,
        clock: Arc::new(crate::io::clock::SystemClock::new()),
        rows: None,
        watch: Arc::new(watch::Unwatched),
        nudge: Nudge::default(),
        spend: None,
    }
}

fn watched(watch: Arc<dyn Watch>) -> Arc<Quota> {
    Quota::process(Settings { watch, ..settings() })
}

fn quota() -> Arc<Quota> {
    watched(Arc::new(watch::Unwatched))
}

fn rule(name: &str, dimension: Dimension, limit: u64) -> LimitRule {
    LimitRule::new(name, dimension, limit, Window::Minute)
}

fn ask(rules: Vec<LimitRule>, input: u64) -> QuotaAsk {
    QuotaAsk {
        tenant: "acme".into(),
        zone: jiff::tz::TimeZone::UTC,
        lines: rules
            .into_iter()
            .map(|rule| AskLine { scope: Scope::Tenant("acme".into()), rule: Arc::new(rule) })
            .collect(),
        max_tokens_per_request: None,
        priority: Priority::Normal,
        prices: None,
        model: "m".into(),
        input_estimate: Some(Tokens(input)),
        max_output: Some(Tokens(0)),
    }
}

fn at(mono: u64) -> Moment {
    Moment { mono: Micros(mono), wall: WallMicros(1_795_000_000_000_000 + mono as i64) }
}

fn used(tokens: u64) -> QuotaUse {
    QuotaUse { input: Tokens(tokens), ..QuotaUse::default() }
}

/// Tokens left of 1000, learnt from the standing of a request that takes one.
fn tokens_left(quota: &Quota, rules: &[LimitRule], now: u64) -> u64 {
    let probe = quota.reserve_now(&ask(rules.to_vec(), 1), at(now)).expect("one token is left");
    probe.standings()[0].remaining + 1
}

fn admitted_of_200(rules: Vec<LimitRule>) -> usize {
    let quota = quota();
    let (ask, barrier) = (ask(rules, 1), Barrier::new(200));
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..200)
            .map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    quota.reserve_now(&ask, at(0)).ok()
                })
            })
            .collect();
        let granted: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
        granted.iter().flatten().count()
    })
}

#[test]
fn two_hundred_at_once_against_room_for_ten_admit_ten() {
    for dimension in [Dimension::Requests, Dimension::Tokens, Dimension::Concurrency] {
        assert_eq!(admitted_of_200(vec![rule("p.x", dimension, 10)]), 10, "{dimension:?}");
    }
}

#[test]
fn requests_that_come_and_go_at_once_leave_nothing_held() {
    let quota = quota();
    let rules = vec![rule("p.tokens", Dimension::Tokens, 1_000), rule("p.concurrency", Dimension::Concurrency, 4)];
    let ask = ask(rules, 10);
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let (quota, ask) = (&quota, &ask);
            scope.spawn(move || {
                for turn in 0..200 {
                    let Ok(reservation) = quota.reserve_now(ask, at(turn)) else { continue };
                    if (thread + turn) % 2 == 0 {
                        reservation.settle(used(0), Micros(turn));
                    }
                    quota.sweep(Micros(turn), at(turn).wall);
                }
            });
        }
    });
    let all = quota.reserve_now(&QuotaAsk { input_estimate: Some(Tokens(1_000)), ..ask }, at(200));
    assert!(all.is_ok(), "every token and every slot is back: {all:?}");
}

#[test]
fn settling_twice_or_settling_and_dropping_counts_once() {
    let rules = vec![rule("p.tokens", Dimension::Tokens, 1_000)];
    let quota = quota();
    let reservation = quota.reserve_now(&ask(rules.clone(), 100), at(0)).expect("fits");
    reservation.settle(used(30), Micros(0));
    reservation.settle(used(500), Micros(0));
    drop(reservation);
    assert_eq!(tokens_left(&quota, &rules, 0), 970, "the first word counts");
}

#[test]
fn dropping_gives_tokens_and_slot_back_and_keeps_the_request_counted() {
    let rules = vec![
        rule("p.requests", Dimension::Requests, 2),
        rule("p.tokens", Dimension::Tokens, 100),
        rule("p.concurrency", Dimension::Concurrency, 1),
    ];
    let quota = quota();
    drop(quota.reserve_now(&ask(rules.clone(), 100), at(0)).expect("fits"));
    let second = quota.reserve_now(&ask(rules.clone(), 100), at(0)).expect("all tokens and the slot are back");
    assert_eq!(second.standings()[0].remaining, 0, "both requests are counted");
    drop(second);
    let third = quota.reserve_now(&ask(rules, 1), at(0));
    assert!(matches!(third, Err(ReserveError::Denied(d)) if d.dimension == Dimension::Requests), "two a minute");
}

#[test]
fn a_reservation_that_is_alive_outlasts_the_holds_ttl() {
    let rules = vec![rule("p.concurrency", Dimension::Concurrency, 1)];
    let quota = quota();
    let long = quota.reserve_now(&ask(rules.clone(), 1), at(0)).expect("fits");
    for minute in 1..5 {
        let second = quota.reserve_now(&ask(rules.clone(), 1), at(minute * 61_000_000));
        assert!(second.is_err(), "minute {minute}: the slot is still taken");
    }
    long.settle(QuotaUse::default(), Micros(300_000_000));
    assert!(quota.reserve_now(&ask(rules, 1), at(300_000_000)).is_ok(), "and free when it ends");
}

#[test]
fn books_are_dropped_when_unused_and_only_then() {
    let rules = vec![rule("p.requests", Dimension::Requests, 10)];
    let quota = quota();
    let open = quota.reserve_now(&ask(rules, 1), at(0)).expect("fits");
    quota.sweep(Micros(1), at(1).wall);
    assert_eq!(quota.books(), 1, "a request is open");
    drop(open);
    quota.sweep(Micros(2), at(2).wall);
    assert_eq!(quota.books(), 1, "its request is not refilled yet");
    quota.sweep(Micros(120_000_000), at(120_000_000).wall);
    assert_eq!(quota.books(), 0, "nothing is left to know");
}

#[test]
fn a_tenant_without_a_plan_costs_nothing() {
    let quota = quota();
    let free = quota.reserve_now(&ask(vec![], 1), at(0)).expect("no limits");
    free.settle(used(1), Micros(0));
    assert_eq!((free.standings().len(), quota.books()), (0, 0), "no headers, no book");
}

#[test]
fn shadow_refusals_are_counted() {
    let shadows = Arc::new(Shadows::default());
    let quota = watched(shadows.clone());
    let rules = vec![LimitRule { mode: Mode::Shadow, ..rule("p.requests", Dimension::Requests, 1) }];
    let open: Vec<_> = (0..3).map(|_| quota.reserve_now(&ask(rules.clone(), 1), at(0))).collect();
    assert!(open.iter().all(Result::is_ok), "shadow never refuses");
    assert_eq!(shadows.0.load(Ordering::Relaxed), 2, "the second and the third");
}

#[tokio::test]
async fn the_port_tells_denials_and_hopeless_requests_apart() {
    let quota = quota();
    let ask = ask(vec![rule("p.tokens", Dimension::Tokens, 10)], 10);
    let at = at(0);
    let too_large = QuotaAsk { input_estimate: Some(Tokens(11)), ..ask.clone() };
    let hopeless = quota.reserve(too_large, at.mono, at.wall).await.err();
    assert_eq!(hopeless, Some(ReserveError::NeverFits(11, 10)), "larger than the bucket");
    let open = quota.reserve(ask.clone(), at.mono, at.wall).await.map_err(|e| format!("{e:?}")).expect("fits");
    open.settle(used(10), at.mono);
    let denied = quota.reserve(ask, at.mono, at.wall).await.err();
    let Some(ReserveError::Denied(denial)) = denied else { panic!("expected a denial, got {denied:?}") };
    assert_eq!((&*denial.rule, denial.scope), ("p.tokens", "tenant"), "which rule, and where");
    assert_eq!(denial.retry_after, Some(Micros(60_000_000)), "ten tokens at ten a minute");
}

/// Rows that know of nothing.
struct Blank;

#[async_trait]
impl UsageRows for Blank {
    async fn totals(&self, _: &ledgers::AccountRows, _: i64) -> Result<Vec<ledgers::RowTotal>, String> {
        Ok(Vec::new())
    }
    async fn recent(&self, _: &ledgers::AccountRows, _: i64) -> Result<Vec<(i64, u64)>, String> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn a_tenant_whose_day_was_asked_of_the_rows_is_forgotten_like_any_other() {
    let clock = shelf::Hands::new();
    let settings = Settings { rows: Some(Arc::new(Blank)), clock: clock.clone(), ..settings() };
    let quota = Quota::process(settings);
    let _running = quota.spawn(&tokio::runtime::Handle::current());
    let tokens = LimitRule { window: Window::Day, ..rule("p.tokens", Dimension::Tokens, 10) };
    let moment = || Moment { mono: clock.mono(), wall: clock.wall() };
    let at = moment();
    let open = quota.reserve(ask(vec![tokens], 1), at.mono, at.wall).await.map_err(|_| "refused").expect("fits");
    open.settle(used(0), clock.mono());
    drop(open);
    tokio::time::sleep(Duration::from_millis(50)).await;
    quota.sweep(clock.mono(), clock.wall());
    assert_eq!(quota.books(), 0, "nothing was used, and nobody asks any more");
}
