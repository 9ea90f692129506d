//! Thrift: far from its limits a tenant costs the store next to nothing, and a store that is gone costs a request next to
//! nothing.

use super::fleet::{Fleet, Recipe, Store, alone};
use super::load::{Caller, Load, small};
use super::report::{answers, figure, quantile};
use crate::chaos::{Chaos, Weather};
use crate::servers::Redis;
use std::time::Duration;

/// What an admitted request may cost.
const OPERATIONS: f64 = 0.1;
/// Commands that proxies send; what runs within a script is counted under other names.
const COMMANDS: [&str; 4] = ["eval", "evalsha", "ping", "set"];
/// A plan far from its limits at 500 requests per second.
const ROOMY: &str = "{ limits: { requests: 600k/min, tokens: 600M/min, concurrency: 4096 } }";
/// Requests of one round, and rounds of either kind.
const ROUND: usize = 400;
const ROUNDS: usize = 12;
/// What the store's absence may add to the slowest request of a hundred, in milliseconds.
const ADDED: f64 = 1.0;
/// Long enough for the breaker to open, whatever it needs for that.
const OPENS: Duration = Duration::from_secs(2);

/// Commands that the server has carried out for proxies.
fn operations(redis: &Redis) -> u64 {
    let told = redis.cli(&["INFO", "commandstats"]);
    let calls = |line: &str| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        COMMANDS.contains(&name).then(|| figures.split(',').next()?.parse::<u64>().ok())?
    };
    told.lines().filter_map(calls).sum()
}

async fn cost(law: &str, rate: u32, span: Duration) {
    let _machine = alone().await;
    let redis = tokio::task::block_in_place(Redis::start);
    let fleet = Fleet::start(&Recipe::on(Store::single(&redis)).tenant("roomy", ROOMY)).await;
    let load = Load::start(&fleet.addresses(), &[small(fleet.key("roomy"))], rate);
    // Leases have found their size by then.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (from, before) = (tokio::time::Instant::now(), operations(&redis));
    tokio::time::sleep(span).await;
    let (to, after) = (tokio::time::Instant::now(), operations(&redis));
    let shots = load.finish().await;
    assert!(shots.iter().all(|shot| shot.admitted()), "{law}: {}", answers(&shots));
    let admitted = shots.iter().filter(|shot| shot.ended >= from && shot.ended < to).count() as f64;
    let reached = admitted / span.as_secs_f64() / f64::from(rate);
    let each = (after - before) as f64 / admitted;
    figure(law, "sent / wanted", reached, ">= 0.90");
    figure(law, "operations / admitted request", each, "<= 0.10");
    assert!(after > before, "{law}: the store is used: {before} and {after} commands");
    assert!(each <= OPERATIONS, "{law}: {each:.3} operations per admitted request");
    assert!(reached >= 0.9, "{law}: the client and this machine manage {reached:.2} of {rate} requests per second");
}

/// The 99th percentile of a round of requests one after the other, in milliseconds.
async fn round(caller: &mut Caller, request: &[u8]) -> f64 {
    let mut waits = Vec::with_capacity(ROUND);
    for _ in 0..ROUND {
        let shot = caller.shoot(request).await;
        assert!(shot.admitted(), "far from any limit: {shot:?}");
        waits.push(shot.waited().as_secs_f64() * 1e3);
    }
    quantile(waits, 0.99)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_far_from_its_limits_hardly_costs_the_store_anything() {
    cost("operations, 200 requests/s", 200, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an idle machine and a fast build: make limits"]
async fn five_hundred_requests_a_second_cost_the_store_fifty_operations() {
    cost("operations, 500 requests/s", 500, Duration::from_secs(20)).await;
}

/// Rounds on a fleet whose store is in a black hole and on one without a store, in turn, so that whatever else the machine
/// does hits both.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an idle machine and a fast build: make limits"]
async fn a_store_in_a_black_hole_adds_less_than_a_millisecond() {
    let _machine = alone().await;
    let redis = tokio::task::block_in_place(Redis::start);
    let network = Chaos::before(redis.port());
    let fleet = |store: Store| async {
        let mut recipe = Recipe::on(store).tenant("roomy", ROOMY);
        recipe.replicas = 1;
        Fleet::start(&recipe).await
    };
    let near = fleet(Store::none()).await;
    let far = fleet(Store::at(&format!("redis://127.0.0.1:{}/0", network.port()))).await;
    let asks = [small(near.key("roomy")).bytes(), small(far.key("roomy")).bytes()];
    let mut callers = [Caller::to(near.addresses()[0]), Caller::to(far.addresses()[0])];
    round(&mut callers[1], &asks[1]).await;
    network.set(Weather::BlackHole);
    tokio::time::sleep(OPENS).await;
    round(&mut callers[1], &asks[1]).await;
    let mut added = Vec::new();
    for _ in 0..ROUNDS {
        let alone = round(&mut callers[0], &asks[0]).await;
        added.push(round(&mut callers[1], &asks[1]).await - alone);
    }
    let middle = quantile(added, 0.5);
    figure("black hole, breaker open", "added p99, ms, the middle round", middle, "<= 1.0");
    assert!(middle <= ADDED, "{middle:.2} ms are added to the slowest of a hundred");
}
