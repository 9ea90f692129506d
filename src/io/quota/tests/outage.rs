//! Laws of replicas whose ledger is away, fails, or has forgotten everything.

use super::leased::{Fleet, ask, rule, used};
use super::shelf::Ill;
use crate::domain::limit::{Dimension, OnStoreError, Window};
use crate::domain::units::Micros;
use crate::logic::quota::plan::LimitRule;
use crate::ports::{Clock, ReserveError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn calls_that_fail_now_and_then_give_nobody_more_than_the_limit() {
    for burst in [20, 1_000] {
        let fleet = Fleet::of(4).await;
        fleet.shelf.fall(Ill::Flaps(2));
        let ask = ask(vec![LimitRule { burst, ..rule("p.requests", Dimension::Requests, 1_000) }], 1);
        let admitted = fleet.saturate(&ask, 2, Duration::from_secs(60)).await;
        let most = 1_000 + burst + 1_000 / 10;
        assert!((1_000..=most).contains(&admitted), "burst {burst}: {admitted} of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_ledger_is_down_replicas_admit_their_shares_and_none_waits() {
    for ill in [Ill::Down, Ill::Fails, Ill::Slow(Duration::from_secs(3))] {
        let fleet = Fleet::of(4).await;
        let ask = ask(vec![rule("p.requests", Dimension::Requests, 1_000)], 1);
        fleet.saturate(&ask, 2, Duration::from_secs(10)).await;
        fleet.shelf.fall(ill);
        if matches!(ill, Ill::Slow(_)) {
            // It takes a while until the breaker opens; no longer than this does anybody wait.
            let begun = Instant::now();
            let _ = fleet.reserve(0, &ask).await;
            assert!(begun.elapsed() <= Duration::from_millis(21), "waited for {:?}", begun.elapsed());
            fleet.shelf.fall(Ill::Down);
        }
        let admitted = fleet.saturate(&ask, 2, Duration::from_secs(60)).await;
        assert!((900..=1_250).contains(&admitted), "{ill:?}: {admitted} of 1000 in the minute without the ledger");
    }
}

#[tokio::test(start_paused = true)]
async fn who_keeps_to_half_the_rate_is_never_refused_whatever_happens_to_the_ledger() {
    let fleet = Fleet::of(4).await;
    let ask = ask(
        vec![
            rule("p.requests", Dimension::Requests, 1_200),
            rule("p.tokens", Dimension::Tokens, 12_000),
            rule("p.concurrency", Dimension::Concurrency, 40),
        ],
        10,
    );
    for turn in 0..24_000u64 {
        // Ten a second, of twenty; an outage of ten seconds every thirty.
        match turn % 3_000 {
            1_000 => fleet.shelf.fall([Ill::Down, Ill::Fails, Ill::Deaf][turn as usize / 3_000 % 3]),
            1_500 if turn / 3_000 % 2 == 0 => fleet.shelf.wipe(),
            2_000 => fleet.shelf.fall(Ill::Well),
            _ => {}
        }
        if turn % 10 == 0 {
            let open = fleet.reserve(turn as usize / 10 % 4, &ask).await;
            let open = open.unwrap_or_else(|error| panic!("turn {turn}: {error:?}"));
            open.settle(used(10), fleet.clock.mono());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rules_without_the_ledger_do_what_they_say() {
    let fleet = Fleet::of(1).await;
    let of = |on_store_error| ask(vec![LimitRule { on_store_error, ..rule("p.requests", Dimension::Requests, 10) }], 1);
    fleet.shelf.fall(Ill::Down);
    let mut let_in = 0;
    for _ in 0..100 {
        let_in += usize::from(fleet.reserve(0, &of(OnStoreError::Open)).await.is_ok());
    }
    assert_eq!(let_in, 100, "open refuses nothing");
    let closed = fleet.reserve(0, &of(OnStoreError::Closed)).await.err();
    assert_eq!(closed, Some(ReserveError::StoreDown), "closed says 503");
}

#[tokio::test(start_paused = true)]
async fn a_budget_lives_on_its_grace_and_then_says_503() {
    let fleet = Fleet::of(1).await;
    let budget = ask(vec![LimitRule::new("p.budget", Dimension::Spend, 10_000, Window::Month)], 10);
    fleet.reserve(0, &budget).await.expect("it fits").settle(used(10), fleet.clock.mono());
    sleep(Duration::from_secs(3)).await;
    fleet.shelf.fall(Ill::Down);
    let mut let_in = 0;
    let refused = loop {
        match fleet.reserve(0, &budget).await {
            Ok(open) => open.settle(used(10), fleet.clock.mono()),
            Err(refused) => break refused,
        }
        let_in += 1;
    };
    assert_eq!((let_in, refused), (10, ReserveError::StoreDown), "1 % of 10,000, ten at a time");
    fleet.shelf.fall(Ill::Well);
    sleep(Duration::from_secs(2)).await;
    let whole = ask(vec![LimitRule::new("p.budget", Dimension::Spend, 10_000, Window::Month)], 9_890);
    assert!(fleet.reserve(0, &whole).await.is_ok(), "the ledger knows of all 110, and of no more");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_was_emptied_hears_all_again() {
    let fleet = Fleet::of(2).await;
    let credit = ask(vec![LimitRule::new("p.budget", Dimension::Spend, 1_000, Window::Month)], 400);
    for replica in 0..2 {
        fleet.reserve(replica, &credit).await.expect("it fits").settle(used(400), fleet.clock.mono());
    }
    sleep(Duration::from_secs(2)).await;
    fleet.shelf.fall(Ill::Down);
    sleep(Duration::from_secs(1)).await;
    fleet.shelf.wipe();
    fleet.shelf.fall(Ill::Well);
    sleep(Duration::from_secs(3)).await;
    assert!(fleet.reserve(0, &credit).await.is_err(), "800 of 1000 are spent");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_the_ledger_says_so_and_what_this_replica_had() {
    let fleet = Fleet::of(4).await;
    let day = ask(vec![LimitRule::new("p.day", Dimension::Requests, 1_000, Window::Day)], 1);
    for _ in 0..500 {
        fleet.reserve(0, &day).await.expect("500 fit");
    }
    sleep(Duration::from_secs(3)).await;
    fleet.shelf.fall(Ill::Down);
    let denial = loop {
        match fleet.reserve(0, &day).await {
            Ok(open) => drop(open),
            Err(ReserveError::Denied(denial)) => break denial,
            Err(other) => panic!("a limit refuses: {other:?}"),
        }
    };
    let figure = &denial.figures[0];
    assert!(figure.without_store, "the ledger was away: {figure:?}");
    assert_eq!((figure.remaining, figure.needed), (0, 1), "its own part is used up");
    assert_eq!(denial.retry_after, Some(Micros(1_000_000)), "the ledger may be back soon");
}

#[tokio::test(start_paused = true)]
async fn a_closed_rule_still_gives_what_the_ledger_gave_before() {
    let fleet = Fleet::of(1).await;
    let closed = LimitRule { on_store_error: OnStoreError::Closed, ..rule("p.requests", Dimension::Requests, 600_000) };
    let ask = ask(vec![closed], 1);
    fleet.reserve(0, &ask).await.expect("it fits").settle(used(1), fleet.clock.mono());
    fleet.shelf.fall(Ill::Down);
    fleet.reserve(0, &ask).await.expect("a lease has more than one").settle(used(1), fleet.clock.mono());
    let refused = loop {
        match fleet.reserve(0, &ask).await {
            Ok(open) => open.settle(used(1), fleet.clock.mono()),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, ReserveError::StoreDown, "and no more");
}
