//! Laws of many accounts, and of a store that hesitates: requests stand behind little, ask again while there is time, and
//! do without the store only when there is none left.

use super::leased::{Fleet, TTL, ask, rule, used};
use super::shelf::Ill;
use crate::domain::limit::{Dimension, OnStoreError, Scope, Window};
use crate::io::quota::ledgers::Ledgers;
use crate::io::quota::sync::STATEMENTS_AT_ONCE;
use crate::logic::quota::plan::{LimitRule, QuotaAsk};
use crate::ports::Clock;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A budget of 1000 of a user of a tenant, and a request for some of it.
fn of_user(tenant: usize, user: usize, cost: u64) -> QuotaAsk {
    let budget = LimitRule::new("p.budget", Dimension::Spend, 1_000, Window::Month);
    let mut ask = ask(vec![LimitRule { on_store_error: OnStoreError::Closed, ..budget }], cost);
    ask.tenant = format!("t{tenant}").as_str().into();
    ask.lines[0].scope = Scope::User(ask.tenant.clone(), format!("u{user}").as_str().into());
    ask
}

impl Fleet {
    /// Users spend 400 each, and the ledger learns it.
    async fn spend(&self, tenants: usize, users: usize) {
        for tenant in 0..tenants {
            for user in 0..users {
                let open = self.reserve(0, &of_user(tenant, user, 400)).await.expect("it fits");
                open.settle(used(400), self.clock.mono());
            }
        }
        sleep(Duration::from_secs(2)).await;
    }

    /// The ledger goes away and loses all, and is back with another illness.
    async fn lose(&self, ill: Ill) {
        self.shelf.fall(Ill::Down);
        sleep(Duration::from_secs(1)).await;
        self.shelf.wipe();
        self.shelf.fall(ill);
    }
}

#[tokio::test(start_paused = true)]
async fn however_much_is_to_be_said_requests_stand_behind_few_statements() {
    let fleet = Fleet::of(2).await;
    fleet.spend(40, 40).await;
    fleet.shelf.most_under_way.store(0, Ordering::SeqCst);
    fleet.lose(Ill::Slow(Duration::from_millis(1))).await;
    sleep(Duration::from_secs(2)).await;
    let most = fleet.shelf.most_under_way.load(Ordering::SeqCst);
    assert!((1..=STATEMENTS_AT_ONCE as u64).contains(&most), "{most} statements at once");
    for tenant in 0..40 {
        for user in 0..40 {
            let more = fleet.reserve(1, &of_user(tenant, user, 700)).await;
            assert!(more.is_err(), "all is known again: user {user} of tenant {tenant}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_stands_behind_one_call_of_its_desk_and_not_behind_all_that_is_to_be_said() {
    let fleet = Fleet::of(1).await;
    fleet.spend(1, 400).await;
    let before = fleet.shelf.calls.load(Ordering::SeqCst);
    fleet.lose(Ill::Slow(Duration::from_millis(5))).await;
    while fleet.shelf.calls.load(Ordering::SeqCst) == before {
        sleep(Duration::from_millis(1)).await;
    }
    let begun = Instant::now();
    let open = fleet.reserve(0, &of_user(0, 1_000, 400)).await;
    assert!(open.is_ok(), "its rule would refuse without the ledger: {:?}", open.err());
    assert!(begun.elapsed() <= Duration::from_millis(12), "its own call and one more, not {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_calls_for_others_when_their_own_call_is_done() {
    let fleet = Fleet::of(1).await;
    fleet.shelf.fall(Ill::Slow(Duration::from_millis(6)));
    let after = |ms: u64| {
        let (fleet, ask) = (&fleet, of_user(0, ms as usize, 10));
        async move {
            sleep(Duration::from_millis(ms)).await;
            let begun = Instant::now();
            assert!(fleet.reserve(0, &ask).await.is_ok(), "there is room");
            begun.elapsed()
        }
    };
    let (_, _, third, _) = tokio::join!(after(0), after(1), after(2), after(8));
    assert!(third <= Duration::from_millis(11), "one call before its own, and its own: {third:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_moment_is_asked_again() {
    for ill in [Ill::Fails, Ill::Deaf] {
        let fleet = Fleet::of(4).await;
        let ask = ask(vec![LimitRule { strict: true, ..rule("p.tokens", Dimension::Tokens, 1_000) }], 100);
        fleet.shelf.fall(ill);
        let requests = futures_util::future::join_all((0..200).map(|nth| fleet.reserve(nth % 4, &ask)));
        let heals = async {
            sleep(Duration::from_millis(8)).await;
            fleet.shelf.fall(Ill::Well);
        };
        let (open, ()) = tokio::join!(requests, heals);
        let admitted = open.iter().filter(|one| one.is_ok()).count();
        assert_eq!(admitted, 10, "{ill:?}: ten of 200 fit, and no replica takes a share of its own");
        assert!(fleet.shelf.is_up(), "nobody has left it alone");
    }
}

#[tokio::test(start_paused = true)]
async fn leases_are_given_back_at_the_end_whoever_was_at_work_on_them() {
    let fleet = Fleet::of(2).await;
    let whole = |tenant: usize, tokens| {
        let mut ask = ask(vec![rule("p.tokens", Dimension::Tokens, 60_000)], tokens);
        ask.tenant = format!("t{tenant}").as_str().into();
        ask
    };
    for tenant in 0..40 {
        fleet.reserve(0, &whole(tenant, 10)).await.expect("it fits").settle(used(0), fleet.clock.mono());
    }
    // As a task does that ends while it has them in hand.
    fleet.replicas[0].0.hall.errands.telling.lock().clear();
    fleet.replicas[0].0.close().await;
    for tenant in 0..40 {
        assert!(fleet.reserve(1, &whole(tenant, 60_000)).await.is_ok(), "all of tenant {tenant}'s is left");
    }
}

#[tokio::test(start_paused = true)]
async fn replicas_do_not_forget_each_other_because_the_store_has() {
    let fleet = Fleet::of(4).await;
    fleet.shelf.replicas.store(0, Ordering::SeqCst);
    fleet.lose(Ill::Well).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(fleet.shelf.signs.lock().len(), 4, "each gives a sign at once");
    let believed = || -> Vec<u64> {
        fleet.replicas.iter().map(|(quota, _)| quota.hall.replicas.load(Ordering::Relaxed)).collect()
    };
    assert_eq!(believed(), [4; 4], "the first to give one does not believe that it is alone");
    fleet.shelf.replicas.store(3, Ordering::SeqCst);
    sleep(TTL + TTL / 2).await;
    assert_eq!(believed(), [3; 4], "in the end one is gone");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_another_one_all_at_once_hears_all_again() {
    let fleet = Fleet::of(2).await;
    let credit = of_user(0, 0, 400);
    for replica in 0..2 {
        fleet.reserve(replica, &credit).await.expect("it fits").settle(used(400), fleet.clock.mono());
    }
    sleep(Duration::from_secs(2)).await;
    // Nobody had to fail for that.
    fleet.shelf.wipe();
    fleet.shelf.generation.fetch_add(1, Ordering::SeqCst);
    sleep(Duration::from_secs(1)).await;
    assert!(fleet.reserve(0, &credit).await.is_err(), "800 of 1000 are spent");
}
