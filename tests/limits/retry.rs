//! Retry-After: what a caller is told to wait is what it takes, and not much more.

use super::fleet::{Fleet, Recipe, Store, alone};
use super::load::{Caller, Shot, chat};
use super::report::figure;
use super::verdict::{Verdict, judged};
use crate::client::Ask;
use crate::servers::Redis;
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// What a timer and a clock of milliseconds may add.
const GRAIN: Duration = Duration::from_millis(15);
/// Part of the wait after which it is still too early.
const EARLY: f64 = 0.7;
/// Requests until a bucket is empty.
const TRIES: usize = 40;

/// The cases: each bucket is empty after a few requests, and has room for the next one after 1 to 3 seconds.
fn recipe(store: Store) -> Recipe {
    Recipe::on(store)
        .tenant("requests", "{ limits: { requests: { limit: 30/min, burst: 3 } } }")
        .tenant("tokens", "{ limits: { tokens: { limit: 6k/min, burst: 400 } } }")
        .tenant("strict", "{ limits: { tokens: { limit: 6k/min, burst: 400, strict: true } } }")
}

fn ask(fleet: &Fleet, tenant: &str) -> Ask {
    chat(fleet.key(tenant), &"a weir ".repeat(100), json!({"max_tokens": 20, "ignore_eos": true}))
}

/// The first refusal of a row of requests to one replica.
async fn refused(caller: &mut Caller, ask: &Ask) -> Shot {
    for _ in 0..TRIES {
        let shot = caller.shoot(&ask.bytes()).await;
        if shot.status == 429 {
            return shot;
        }
        assert_eq!(shot.status, 200, "let in or refused: {shot:?}");
    }
    panic!("{TRIES} requests, and none was refused");
}

async fn held_to(law: &str, fleet: &Fleet, tenant: &str) -> Result<(), String> {
    let ask = ask(fleet, tenant);
    let mut caller = Caller::to(fleet.addresses()[0]);
    let first = refused(&mut caller, &ask).await;
    let wait = first.retry_after.unwrap_or_else(|| panic!("{law}, {tenant}: a 429 says when to come back: {first:?}"));
    let due = first.ended + wait;
    tokio::time::sleep(wait.mul_f64(EARLY)).await;
    let early = caller.shoot(&ask.bytes()).await;
    let Some(left) = early.retry_after.filter(|_| early.status == 429) else {
        return Err(format!("{tenant}: {EARLY} of {wait:?} is too early, and {} is answered", early.status));
    };
    let drift = (early.ended + left).max(due) - (early.ended + left).min(due);
    figure(law, &format!("{tenant}: drift of the promise / wait"), drift.as_secs_f64() / wait.as_secs_f64(), "<= 0.05");
    if drift > GRAIN.max(wait.mul_f64(0.05)) {
        return Err(format!("{tenant}: a refusal burns nothing: {wait:?}, and then {left:?}"));
    }
    tokio::time::sleep_until(Instant::max(due, early.ended + left) + GRAIN).await;
    let late = caller.shoot(&ask.bytes()).await;
    if late.status != 200 {
        return Err(format!("{tenant}: let in after {wait:?}, as promised: {late:?}"));
    }
    Ok(())
}

async fn run(law: &str, store: Store, replicas: usize) -> Verdict {
    let mut recipe = recipe(store);
    recipe.replicas = replicas;
    let fleet = Fleet::start(&recipe).await;
    let all = ["requests", "tokens", "strict"].map(|tenant| held_to(law, &fleet, tenant));
    let mut verdict = Verdict::default();
    for held in futures_util::future::join_all(all).await {
        verdict.hold(held.is_ok(), || held.err().unwrap_or_default());
    }
    verdict.of(&fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_waits_as_told_is_let_in() {
    let redis = tokio::task::block_in_place(Redis::start);
    let _machine = alone().await;
    let law = "Retry-After, one Redis";
    judged(law, || run(law, Store::single(&redis).patient(), 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_one_replica_alone_who_waits_as_told_is_let_in() {
    let _machine = alone().await;
    let law = "Retry-After, in process";
    judged(law, || run(law, Store::none(), 1)).await;
}

/// A day of the tenant's own: in Tokyo, which has no summer time, it begins at 15:00 UTC.
#[tokio::test(flavor = "multi_thread")]
async fn a_day_ends_at_midnight_where_the_tenant_is() {
    let _machine = alone().await;
    let plan = "{ limits: { requests: 2/day } }";
    let mut recipe =
        Recipe::on(Store::none()).tenant("greenwich", plan).tenant_with("tokyo", plan, "time_zone: Asia/Tokyo");
    recipe.replicas = 1;
    let fleet = Fleet::start(&recipe).await;
    for (tenant, midnight) in [("greenwich", 0), ("tokyo", 15 * 3_600)] {
        let mut caller = Caller::to(fleet.addresses()[0]);
        let shot = refused(&mut caller, &ask(&fleet, tenant)).await;
        let second = jiff::Timestamp::now().as_second();
        let left = 86_400 - (second - midnight).rem_euclid(86_400);
        let told = shot.retry_after.map_or(0, |wait| wait.as_secs().cast_signed());
        assert!((told - left).abs() <= 5, "{tenant}: the day ends in {left} s, and the caller is told {told} s");
    }
}
