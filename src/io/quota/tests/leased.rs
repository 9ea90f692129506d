//! Laws of replicas that share a ledger, each with an engine of its own, on the model of the ledger and a clock that
//! stands still until somebody waits.

use super::shelf::{Hands, Ill, Shelf};
use crate::domain::limit::{Dimension, Mode, OnStoreError, Priority, QuotaUse, Scope, Window};
use crate::domain::money::TokenPrices;
use crate::domain::units::{Micros, NanoUsd, Tokens};
use crate::io::quota::ledgers::Ledgers;
use crate::io::quota::sync::Running;
use crate::io::quota::watch::Unwatched;
use crate::io::quota::{Quota, Settings};
use crate::logic::quota::plan::{AskLine, LimitRule, QuotaAsk};
use crate::ports::{Clock, QuotaStore, Reservation, ReserveError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

pub(super) const TTL: Duration = Duration::from_secs(60);

/// Replicas on one ledger.
pub(super) struct Fleet {
    pub clock: Arc<Hands>,
    pub shelf: Arc<Shelf>,
    pub replicas: Vec<(Arc<Quota>, Running)>,
}

impl Fleet {
    pub async fn of(count: u64) -> Self {
        let clock = Hands::new();
        let shelf = Shelf::new(&clock);
        shelf.replicas.store(count, Ordering::SeqCst);
        let mut fleet = Self { clock, shelf, replicas: Vec::new() };
        for nth in 0..count {
            fleet.join(&format!("r{nth}"));
        }
        // The first signs of life.
        sleep(Duration::from_millis(250)).await;
        fleet
    }

    pub fn join(&mut self, name: &str) {
        let settings = Settings {
            replica: name.into(),
            hold_ttl: TTL,
            clock: self.clock.clone(),
            rows: None,
            watch: Arc::new(Unwatched),
            nudge: crate::io::quota::nudge::Nudge::default(),
            spend: None,
        };
        let quota = Quota::leased(self.shelf.clone(), settings);
        let running = quota.spawn(&tokio::runtime::Handle::current());
        self.replicas.push((quota, running));
    }

    pub async fn reserve(&self, replica: usize, ask: &QuotaAsk) -> Result<Box<dyn Reservation>, ReserveError> {
        let (now, wall) = (self.clock.mono(), self.clock.wall());
        self.replicas[replica].0.reserve(ask.clone(), now, wall).await
    }

    /// Each replica tries so often every 10 ms; each request that is let in uses its input at once.
    pub async fn saturate(&self, ask: &QuotaAsk, tries: usize, span: Duration) -> u64 {
        let until = Instant::now() + span;
        let mut admitted = 0;
        while Instant::now() < until {
            for replica in 0..self.replicas.len() {
                for _ in 0..tries {
                    if let Ok(open) = self.reserve(replica, ask).await {
                        open.settle(used(ask.input_estimate.map_or(0, |tokens| tokens.0)), self.clock.mono());
                        admitted += 1;
                    }
                }
            }
            sleep(Duration::from_millis(10)).await;
        }
        admitted
    }
}

pub(super) fn rule(name: &str, dimension: Dimension, limit: u64) -> LimitRule {
    LimitRule::new(name, dimension, limit, Window::Minute)
}

pub(super) fn ask(rules: Vec<LimitRule>, input: u64) -> QuotaAsk {
    let line = |rule| AskLine { scope: Scope::Tenant("acme".into()), rule: Arc::new(rule) };
    QuotaAsk {
        tenant: "acme".into(),
        zone: jiff::tz::TimeZone::UTC,
        lines: rules.into_iter().map(line).collect(),
        max_tokens_per_request: None,
        priority: Priority::Normal,
        prices: Some(TokenPrices { input: 1_000_000, output: 1_000_000, ..TokenPrices::default() }),
        model: "m".into(),
        input_estimate: Some(Tokens(input)),
        max_output: Some(Tokens(0)),
    }
}

pub(super) fn used(tokens: u64) -> QuotaUse {
    QuotaUse { input: Tokens(tokens), cost: NanoUsd(tokens as i64), ..QuotaUse::default() }
}

fn assert_within(admitted: u64, limit: u64, burst: u64, what: &str) {
    let most = limit + burst;
    let least = most * 97 / 100;
    assert!((least..=most).contains(&admitted), "{what}: {admitted} of {least}..={most}");
}

#[tokio::test(start_paused = true)]
async fn four_replicas_at_saturation_admit_the_limit_and_its_burst() {
    for burst in [20, 1_000] {
        let fleet = Fleet::of(4).await;
        let ask = ask(vec![LimitRule { burst, ..rule("p.requests", Dimension::Requests, 1_000) }], 1);
        let admitted = fleet.saturate(&ask, 2, Duration::from_secs(60)).await;
        assert_within(admitted, 1_000, burst, "requests in a minute");
    }
}

#[tokio::test(start_paused = true)]
async fn four_replicas_at_saturation_use_the_tokens_and_no_more() {
    let fleet = Fleet::of(4).await;
    let ask = ask(vec![rule("p.tokens", Dimension::Tokens, 100_000)], 100);
    let admitted = fleet.saturate(&ask, 2, Duration::from_secs(60)).await;
    assert_within(admitted * 100, 100_000, 100_000, "tokens in a minute");
}

#[tokio::test(start_paused = true)]
async fn what_a_replica_takes_back_is_there_for_all() {
    let fleet = Fleet::of(2).await;
    let ask = ask(vec![LimitRule::new("p.requests", Dimension::Requests, 10, Window::Day)], 1);
    for _ in 0..20 {
        let refused = fleet.reserve(0, &ask).await.unwrap_or_else(|error| panic!("nothing is used: {error:?}"));
        refused.cancel(fleet.clock.mono());
        refused.settle(QuotaUse::default(), fleet.clock.mono());
        sleep(Duration::from_millis(150)).await;
    }
    sleep(Duration::from_secs(2)).await;
    let mut open = Vec::new();
    for _ in 0..11 {
        open.extend(fleet.reserve(1, &ask).await);
    }
    assert_eq!(open.len(), 10, "the other replica has them all, and no more");
}

#[tokio::test(start_paused = true)]
async fn a_budget_for_ten_admits_ten_of_two_hundred() {
    let fleet = Fleet::of(4).await;
    let budget = LimitRule { strict: true, ..LimitRule::new("p.budget", Dimension::Spend, 1_000, Window::Month) };
    let ask = ask(vec![budget], 100);
    let mut open = Vec::new();
    for nth in 0..200 {
        open.extend(fleet.reserve(nth % 4, &ask).await);
    }
    assert_eq!(open.len(), 10, "ten times 100 of 1000");
    open.into_iter().for_each(|open| open.settle(used(100), fleet.clock.mono()));
    sleep(Duration::from_secs(90)).await;
    assert!(fleet.reserve(1, &ask).await.is_err(), "spent is spent");
}

#[tokio::test(start_paused = true)]
async fn far_from_the_limit_the_ledger_is_hardly_called() {
    let fleet = Fleet::of(4).await;
    let rules = vec![
        rule("p.requests", Dimension::Requests, 300_000),
        rule("p.tokens", Dimension::Tokens, 300_000_000),
        rule("p.concurrency", Dimension::Concurrency, 10_000),
        LimitRule::new("p.budget", Dimension::Spend, 1_000_000_000, Window::Month),
    ];
    let ask = ask(rules, 100);
    fleet.saturate(&ask, 1, Duration::from_secs(2)).await;
    let before = fleet.shelf.calls.load(Ordering::SeqCst);
    let admitted = fleet.saturate(&ask, 1, Duration::from_secs(10)).await;
    let calls = fleet.shelf.calls.load(Ordering::SeqCst) - before;
    assert_eq!(admitted, 4_000, "nothing is refused");
    assert!(calls * 10 <= admitted, "{calls} calls for {admitted} requests: at most one for ten");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_frees_its_places_in_time_and_what_it_used_stays() {
    let mut fleet = Fleet::of(2).await;
    let places = ask(vec![rule("p.concurrency", Dimension::Concurrency, 4)], 1);
    let credit = ask(vec![LimitRule::new("p.budget", Dimension::Spend, 1_000, Window::Month)], 400);
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(fleet.reserve(0, &places).await.expect("there are four places"));
    }
    fleet.reserve(0, &credit).await.expect("it fits").settle(used(400), fleet.clock.mono());
    sleep(Duration::from_secs(2)).await;
    assert!(fleet.reserve(1, &places).await.is_err(), "all places are taken");
    // Its holds outlive it: nobody says any more that they do.
    drop(fleet.replicas.remove(0).1);
    sleep(TTL + Duration::from_millis(200)).await;
    for _ in 0..4 {
        open.push(fleet.reserve(0, &places).await.expect("its places are free again"));
    }
    fleet.reserve(0, &credit).await.expect("600 are left").settle(used(400), fleet.clock.mono());
    assert!(fleet.reserve(0, &credit).await.is_err(), "800 of 1000 are spent, whoever lives");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_runs_long_keeps_its_place() {
    let fleet = Fleet::of(2).await;
    let places = ask(vec![rule("p.concurrency", Dimension::Concurrency, 1)], 1);
    let open = fleet.reserve(0, &places).await.expect("it is free");
    for minute in 1..5 {
        sleep(TTL + Duration::from_secs(1)).await;
        assert!(fleet.reserve(1, &places).await.is_err(), "minute {minute}: it still runs");
    }
    open.settle(QuotaUse::default(), fleet.clock.mono());
    drop(open);
    sleep(Duration::from_millis(1_200)).await;
    assert!(fleet.reserve(1, &places).await.is_ok(), "and frees it when it ends");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_used_is_given_back() {
    let fleet = Fleet::of(2).await;
    let many = ask(vec![rule("p.tokens", Dimension::Tokens, 60_000)], 10);
    fleet.reserve(0, &many).await.expect("it fits").settle(used(10), fleet.clock.mono());
    sleep(Duration::from_secs(3)).await;
    let all = ask(vec![rule("p.tokens", Dimension::Tokens, 60_000)], 60_000);
    assert!(fleet.reserve(1, &all).await.is_ok(), "the other replica can have it all");
}

#[tokio::test(start_paused = true)]
async fn closing_gives_everything_back_at_once() {
    let fleet = Fleet::of(2).await;
    let many = ask(vec![rule("p.tokens", Dimension::Tokens, 60_000)], 10);
    fleet.reserve(0, &many).await.expect("it fits").settle(used(0), fleet.clock.mono());
    fleet.replicas[0].0.close().await;
    let all = ask(vec![rule("p.tokens", Dimension::Tokens, 60_000)], 60_000);
    assert!(fleet.reserve(1, &all).await.is_ok(), "all is left");
}

#[tokio::test(start_paused = true)]
async fn requests_that_wait_together_share_a_call() {
    let fleet = Fleet::of(1).await;
    let ask = ask(vec![rule("p.tokens", Dimension::Tokens, 100_000)], 100);
    fleet.shelf.fall(Ill::Slow(Duration::from_millis(2)));
    let before = fleet.shelf.calls.load(Ordering::SeqCst);
    let all = futures_util::future::join_all((0..200).map(|_| fleet.reserve(0, &ask))).await;
    let let_in = all.iter().filter(|one| one.is_ok()).count();
    let calls = fleet.shelf.calls.load(Ordering::SeqCst) - before;
    assert_eq!(let_in, 200, "there is room for all");
    assert!(calls <= 4, "{calls} calls for 200 requests at once");
}

#[tokio::test(start_paused = true)]
async fn a_shared_limit_and_a_tenants_are_taken_together_or_not_at_all() {
    let fleet = Fleet::of(1).await;
    let mut both = ask(vec![rule("p.requests", Dimension::Requests, 10)], 1);
    let global = LimitRule { mode: Mode::Enforce, ..rule("limits.global.requests", Dimension::Requests, 3) };
    both.lines.push(AskLine { scope: Scope::Global, rule: Arc::new(global) });
    for _ in 0..3 {
        fleet.reserve(0, &both).await.expect("three fit");
    }
    let Err(ReserveError::Denied(denial)) = fleet.reserve(0, &both).await else { panic!("only three a minute") };
    assert_eq!((&*denial.rule, denial.scope), ("limits.global.requests", "global"), "which, and where");
    assert_eq!(denial.retry_after.map(|wait| wait <= Micros(20_000_000)), Some(true), "{:?}", denial.retry_after);
    assert_eq!(denial.figures[0].remaining, 7, "the tenant's own was not burnt: {:?}", denial.figures);
    assert!(fleet.shelf.is_up(), "and the ledger is well");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_rule_that_only_watches() {
    let fleet = Fleet::of(1).await;
    let watching = LimitRule { mode: Mode::Shadow, ..rule("p.tokens", Dimension::Tokens, 100) };
    let mut both = ask(vec![watching], 10);
    let closed = LimitRule { on_store_error: OnStoreError::Closed, ..rule("limits.global", Dimension::Requests, 100) };
    both.lines.push(AskLine { scope: Scope::Global, rule: Arc::new(closed) });
    fleet.reserve(0, &both).await.expect("it fits").settle(used(10), fleet.clock.mono());
    fleet.shelf.fall(Ill::Slow(Duration::from_secs(3)));
    let begun = Instant::now();
    let large = QuotaAsk { input_estimate: Some(Tokens(90)), ..both.clone() };
    let only = QuotaAsk { lines: large.lines[..1].to_vec(), ..large };
    fleet.reserve(0, &only).await.expect("a rule that watches refuses nothing").settle(used(90), fleet.clock.mono());
    assert_eq!(begun.elapsed(), Duration::ZERO, "nor does it ask anybody");
    fleet.shelf.fall(Ill::Well);
    sleep(Duration::from_secs(5)).await;
    let before = fleet.shelf.calls.load(Ordering::SeqCst);
    fleet.reserve(0, &only).await.expect("it watches").settle(used(0), fleet.clock.mono());
    assert_eq!(fleet.shelf.calls.load(Ordering::SeqCst), before, "not even where nothing is left");
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_serves_nobody_soon_tells_what_others_have_used() {
    let fleet = Fleet::of(2).await;
    let day = ask(vec![LimitRule::new("p.day", Dimension::Requests, 100, Window::Day)], 1);
    let told = || {
        let (now, wall) = (fleet.clock.mono(), fleet.clock.wall());
        fleet.replicas[1].0.standings(&day, now, wall)[0].remaining
    };
    assert_eq!(told(), 100, "nothing is used");
    for _ in 0..100 {
        fleet.reserve(0, &day).await.expect("100 fit").settle(used(1), fleet.clock.mono());
    }
    sleep(Duration::from_secs(30)).await;
    told();
    sleep(Duration::from_millis(1_300)).await;
    assert_eq!(told(), 0, "all are used, by the other one");
    sleep(Duration::from_secs(5)).await;
    let before = fleet.shelf.calls.load(Ordering::SeqCst);
    for _ in 0..1_000 {
        told();
    }
    sleep(Duration::from_millis(900)).await;
    for _ in 0..1_000 {
        told();
    }
    sleep(Duration::from_millis(900)).await;
    let calls = fleet.shelf.calls.load(Ordering::SeqCst) - before;
    assert!(calls <= 3, "{calls} calls for 2,000 looks within two seconds");
}
