//! A race for the last money: many requests at one moment against a budget for a few.

use super::fleet::{Fleet, Recipe, Store, alone};
use super::load::{Shot, chat, volley};
use super::report::{answers, figure};
use super::verdict::{Verdict, judged};
use crate::servers::{Redis, RedisCluster};
use serde_json::json;

/// Requests at one moment.
const CALLERS: usize = 200;
/// Requests that the budget pays for.
const PAID: usize = 10;
/// Output of each: all that it may have.
const OUTPUT: u64 = 100;
/// What is expected of an answer of which nothing is known.
const EXPECTED: u64 = 64;
/// Nano-dollars per output token: 10 USD per million.
const PRICE: u64 = 10_000;
/// Long enough that all are in flight together.
const SPEED: f64 = 0.5;
/// Times that a caller repeats what was answered 503.
const REPEATS: usize = 5;

/// A fleet whose tenant has a budget for [`PAID`] requests a day.
async fn fleet(store: Store, strict: bool) -> Fleet {
    // 10 requests of 100 tokens for 10 USD a million.
    let budget = format!("{{ limits: {{}}, budget: {{ usd: 0.01/day, strict: {strict} }} }}");
    let recipe = Recipe::on(store).tenant("buyer", &budget).prices("sim-8b: { input: 0, output: 10 }").speed(SPEED);
    Fleet::start(&recipe).await
}

/// All answers, once nobody is told 503 any more; and how often somebody was.
async fn race(fleet: &Fleet) -> (Vec<Shot>, usize) {
    let ask = chat(fleet.key("buyer"), "Buy", json!({"max_tokens": OUTPUT, "ignore_eos": true}));
    let answers = volley(&fleet.addresses(), &ask, CALLERS, REPEATS).await;
    let repeats = answers.iter().map(|(_, repeats)| repeats).sum();
    (answers.into_iter().map(|(shot, _)| shot).collect(), repeats)
}

async fn exact(law: &str, store: Store) -> Verdict {
    let fleet = fleet(store, true).await;
    let (shots, repeats) = race(&fleet).await;
    let said = answers(&shots);
    let admitted = shots.iter().filter(|shot| shot.admitted()).count();
    let refused = shots.iter().filter(|shot| shot.status == 429 && shot.code == "insufficient_quota").count();
    figure(law, "strict: admitted / paid for", admitted as f64 / PAID as f64, "1.00");
    figure(law, "strict: repeated after 503 / callers", repeats as f64 / CALLERS as f64, "-");
    let mut verdict = Verdict::default();
    verdict.hold((admitted, refused) == (PAID, CALLERS - PAID), || said.clone());
    let rows = fleet.rows("buyer", admitted).await;
    assert!(rows.iter().all(|row| row.output == OUTPUT), "each used its whole max_tokens: {rows:?}");
    let spent: u64 = rows.iter().map(|row| row.cost).sum();
    assert_eq!(spent, admitted as u64 * OUTPUT * PRICE, "{law}: each is billed what it used, to the nano-dollar");
    verdict.of(&fleet)
}

async fn bounded(law: &str, store: Store) -> Verdict {
    let fleet = fleet(store, false).await;
    let (shots, repeats) = race(&fleet).await;
    let said = answers(&shots);
    let admitted = shots.iter().filter(|shot| shot.admitted()).count() as u64;
    let rows = fleet.rows("buyer", usize::try_from(admitted).expect("few")).await;
    let spent: u64 = rows.iter().map(|row| row.cost).sum();
    let budget = PAID as u64 * OUTPUT * PRICE;
    let over = spent.saturating_sub(budget) as f64;
    // Each was let in for its estimate at least, but for the last, whose hold is what was left, and one for each replica
    // whose callers have waited long enough for the store: theirs is the grace.
    let clamped = 1 + fleet.replicas.len() as u64;
    let bound = ((admitted * (OUTPUT - EXPECTED) + clamped * EXPECTED) * PRICE) as f64;
    figure(law, "estimate: overshoot / budget", over / budget as f64, "-");
    figure(law, "estimate: overshoot / bound", over / bound, "<= 1.00");
    figure(law, "estimate: repeated after 503 / callers", repeats as f64 / CALLERS as f64, "-");
    let mut verdict = Verdict::default();
    verdict.hold(spent >= budget, || format!("{spent} of {budget} nano-dollars are used: {said}"));
    verdict.hold(over <= bound, || format!("{over} nano-dollars over the budget, {bound} are explained: {said}"));
    let clear = shots.iter().all(|shot| shot.admitted() || shot.code == "insufficient_quota");
    verdict.hold(clear, || said.clone());
    verdict.of(&fleet)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_budget_for_ten_lets_ten_of_two_hundred_in() {
    let redis = tokio::task::block_in_place(Redis::start);
    let _machine = alone().await;
    let law = "200 callers, one Redis";
    judged(law, || exact(law, Store::single(&redis).patient())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_budget_for_ten_lets_ten_of_two_hundred_in_on_a_cluster() {
    let cluster = tokio::task::block_in_place(|| RedisCluster::start(3));
    let _machine = alone().await;
    let law = "200 callers, cluster of three";
    judged(law, || exact(law, Store::cluster(&cluster.urls()).patient())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_by_estimate_is_overshot_by_no_more_than_the_estimates_miss() {
    let redis = tokio::task::block_in_place(Redis::start);
    let _machine = alone().await;
    let law = "200 callers, one Redis";
    judged(law, || bounded(law, Store::single(&redis).patient())).await;
}
