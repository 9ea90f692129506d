//! Tokens: what replicas let through by estimate and settle by count stays within the limit.

use super::books::{Allowed, Row, seconds};
use super::fleet::{Fleet, Recipe, Store, alone};
use super::load::{Load, chat};
use super::report::{answers, figure};
use super::verdict::{Verdict, judged};
use crate::client::Ask;
use crate::servers::{Redis, RedisCluster};
use serde_json::json;
use std::time::Duration;

/// What may be used of what is allowed, at most: settled in all, requests that turn out longer than was held included.
const MOST: f64 = 1.02;
/// What is used of what is allowed, at least.
const LEAST: f64 = 0.95;
/// Prompts of different lengths and texts: the engine answers each with a length of its own, 16 to 128 tokens.
const PROMPTS: usize = 48;
/// Some tens of milliseconds per answer: requests overlap.
const SPEED: f64 = 10.0;

struct Case {
    name: &'static str,
    limit: &'static str,
    allowed: Allowed,
}

struct Form {
    cases: [Case; 2],
    /// Requests per second sent to each.
    offered: u32,
    span: Duration,
    /// The spans that the limit is held to, in seconds; shorter ones are the burst's.
    window: f64,
}

fn short() -> Form {
    let case = |name, limit, burst| Case { name, limit, allowed: Allowed { per_second: 5_000.0, burst } };
    Form {
        cases: [case("small", "{ limit: 5k/s, burst: 2k }", 2_000.0), case("default", "5k/s", 5_000.0)],
        offered: 60,
        span: Duration::from_secs(6),
        window: 5.0,
    }
}

fn full() -> Form {
    let case = |name, limit, burst| Case { name, limit, allowed: Allowed { per_second: 4_000.0, burst } };
    Form {
        cases: [case("small", "{ limit: 240k/min, burst: 5k }", 5_000.0), case("default", "240k/min", 240_000.0)],
        offered: 90,
        span: Duration::from_secs(60),
        window: 60.0,
    }
}

fn prompts(key: &str) -> Vec<Ask> {
    let prompt = |number: usize| format!("{number}: {}", "water over the weir ".repeat(10 + number % 20));
    (0..PROMPTS).map(|number| chat(key, &prompt(number), json!({}))).collect()
}

/// From the first admission to the last settlement.
fn span(rows: &[Row]) -> f64 {
    let first = rows.iter().map(|row| row.admitted).min().expect("rows");
    let last = rows.iter().map(|row| row.ended).max().expect("rows");
    seconds(last - first)
}

async fn run(law: &str, store: Store, form: &Form) -> Verdict {
    let recipe = form.cases.iter().fold(Recipe::on(store).speed(SPEED), |recipe, case| {
        recipe.tenant(case.name, &format!("{{ limits: {{ tokens: {} }} }}", case.limit))
    });
    let fleet = Fleet::start(&recipe).await;
    let load = |case: &Case| Load::start(&fleet.addresses(), &prompts(fleet.key(case.name)), form.offered);
    let [first, second] = &form.cases;
    let loads = (load(first).run_for(form.span), load(second).run_for(form.span));
    let (first, second) = tokio::join!(loads.0, loads.1);
    let mut verdict = Verdict::default();
    for (case, shots) in form.cases.iter().zip([first, second]) {
        let said = answers(&shots);
        let rows = fleet.rows(case.name, shots.iter().filter(|shot| shot.admitted()).count()).await;
        let used: u64 = rows.iter().map(|row| row.tokens).sum();
        let told: u64 = shots.iter().map(|shot| shot.tokens).sum();
        assert_eq!(used, told, "{law}, {}: the rows say what the answers said", case.name);
        let share = used as f64 / case.allowed.within(span(&rows));
        let worst = worst_window(&rows, form.window) / case.allowed.within(form.window);
        figure(law, &format!("{} burst: used / allowed", case.name), share, "0.95 .. 1.02");
        figure(law, &format!("{} burst: worst window / allowed", case.name), worst, "<= 1.02");
        verdict.hold(shots.iter().all(|shot| [200, 429].contains(&shot.status)), || said.clone());
        let fits = (LEAST..=MOST).contains(&share);
        verdict.hold(fits, || format!("{} burst: {share:.4} of what is allowed: {said}", case.name));
        verdict.hold(worst <= MOST, || format!("{} burst: {worst:.4} of a window's: {said}", case.name));
    }
    verdict.of(&fleet)
}

async fn hold(law: &str, store: Store, form: &Form) {
    let _machine = alone().await;
    judged(law, || run(law, store.clone(), form)).await;
}

/// The most tokens that were settled within any window of this length.
fn worst_window(rows: &[Row], window: f64) -> f64 {
    let from = |first: &Row| {
        let within = rows.iter().filter(|row| row.ended >= first.ended && seconds(row.ended - first.ended) <= window);
        within.map(|row| row.tokens).sum::<u64>()
    };
    rows.iter().map(from).max().unwrap_or(0) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_four_replicas_stay_within_one_limit() {
    let redis = tokio::task::block_in_place(Redis::start);
    hold("tokens, one Redis", Store::single(&redis).patient(), &short()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: make limits"]
async fn tokens_of_four_replicas_stay_within_one_limit_for_a_minute() {
    let redis = tokio::task::block_in_place(Redis::start);
    hold("tokens, one Redis", Store::single(&redis), &full()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: make limits"]
async fn tokens_of_four_replicas_on_a_cluster_stay_within_one_limit_for_a_minute() {
    let cluster = tokio::task::block_in_place(|| RedisCluster::start(3));
    hold("tokens, cluster of three", Store::cluster(&cluster.urls()), &full()).await;
}
