//! Death: kill -9 of a proxy that holds reservations. What it held is free again within `hold_ttl`, what it had used
//! stays used, and nothing else does.

use super::fleet::{Fleet, Recipe, Store, alone};
use super::load::{Load, Shot, chat, one, small};
use super::report::{answers, figure};
use super::standing;
use super::verdict::{Verdict, judged};
use crate::client::{Ask, Wire};
use crate::servers::Redis;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Places for streams.
const PLACES: usize = 8;
/// Places that the proxy that dies holds.
const LOST: usize = 6;
/// Requests of the day.
const DAILY: usize = 200;
/// How much later than `hold_ttl` a place may be free: a statement and a look.
const MARGIN: Duration = Duration::from_millis(1_500);
/// How long the rows may take to correct what the dead proxy had not said any more.
const CORRECTED: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Streams that stay open, each with a few tokens said.
async fn streams(address: SocketAddr, key: &str, count: usize) -> Vec<Wire> {
    let mut open = Vec::new();
    for _ in 0..count {
        let ask = chat(key, "Flow", json!({"stream": true, "max_tokens": 500, "ignore_eos": true}));
        let mut wire = Wire::open(address).await;
        wire.send(&ask.field("x-sim-fault", "stall_after=3").bytes()).await;
        assert!(wire.until("data:").await, "a stream begins");
        open.push(wire);
    }
    open
}

/// Asks one replica until it lets a request in; how long that took.
async fn until_admitted(address: SocketAddr, ask: &Ask, limit: Duration) -> Result<Duration, String> {
    let started = Instant::now();
    loop {
        let shot = one(address, ask).await;
        if shot.admitted() {
            return Ok(started.elapsed());
        }
        if started.elapsed() > limit {
            return Err(format!("nothing is free after {:?}: {} {}", started.elapsed(), shot.status, shot.code));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// True, or in words what is not.
fn so(holds: bool, otherwise: &str, shots: &[Shot]) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("{otherwise}: {}", answers(shots))) }
}

struct Form {
    hold_ttl: Duration,
}

async fn run(law: &str, store: Store, form: &Form) -> Verdict {
    let recipe = Recipe::on(store)
        .limits(&format!("hold_ttl: {}s", form.hold_ttl.as_secs()))
        .limits("reconcile: 10s")
        .tenant("places", &format!("{{ limits: {{ concurrency: {PLACES} }} }}"))
        .tenant("daily", &format!("{{ limits: {{ requests: {DAILY}/day }} }}"))
        .tenant("tokens", "{ limits: { tokens: 100k/day } }");
    let mut fleet = Fleet::start(&recipe).await;
    let mut verdict = Verdict::default();
    let held = die(law, &mut fleet, form.hold_ttl).await;
    verdict.hold(held.is_ok(), || held.err().unwrap_or_default());
    verdict.of(&fleet)
}

async fn die(law: &str, fleet: &mut Fleet, ttl: Duration) -> Result<(), String> {
    let all = fleet.addresses();
    let dying = streams(all[0], fleet.key("places"), LOST).await;
    let living = streams(all[1], fleet.key("places"), PLACES - LOST).await;
    let counted = streams(all[0], fleet.key("tokens"), 2).await;
    let place = small(fleet.key("places"));
    for address in &all[1..] {
        let shot = one(*address, &place).await;
        so(shot.code == "concurrency_limit_exceeded", "all places are taken", &[shot])?;
    }
    let before = Load::start(&all, &[small(fleet.key("daily"))], 80).run_for(Duration::from_secs(1)).await;
    fleet.replicas[0].kill();
    let died = Instant::now();
    drop((dying, counted));

    let freed = until_admitted(all[1], &place, ttl + MARGIN).await?;
    figure(law, "a place is free again after / hold_ttl", freed.as_secs_f64() / ttl.as_secs_f64(), "<= 1 (+ 1.5 s)");
    tokio::time::sleep_until(died + ttl + MARGIN).await;
    let again = streams(all[2], fleet.key("places"), LOST).await;
    let shot = one(all[3], &place).await;
    so(shot.status == 429, "these places, and no more", &[shot])?;
    drop((living, again));
    for _ in 0..PLACES {
        until_admitted(all[3], &place, Duration::from_secs(5)).await?;
    }

    // The rows know what the dead proxy had let in and not said.
    let admitted = before.iter().filter(|shot| shot.admitted()).count();
    fleet.rows("daily", admitted).await;
    so(admitted < DAILY, "something is left of the day", &before)?;
    let agreed = standing::agree(ttl + CORRECTED, || standing::counted(fleet, 1, "tokens")).await;
    figure(law, "counter = rows, seconds after the places", agreed.as_secs_f64(), "<= 30 s after hold_ttl");
    let after = Load::start(&all[1..], &[small(fleet.key("daily"))], 60).run_for(Duration::from_secs(3)).await;
    let admitted = admitted + after.iter().filter(|shot| shot.admitted()).count();
    figure(law, "requests of the day: admitted / limit", admitted as f64 / DAILY as f64, "1.00");
    so(admitted == DAILY, &format!("{admitted} of the day's {DAILY}: no phantom and no gift"), &after)?;
    fleet.rows("daily", DAILY).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_proxy_held_is_free_again_and_what_it_used_stays_used() {
    let redis = tokio::task::block_in_place(Redis::start);
    let _machine = alone().await;
    let (law, form) = ("kill -9, hold_ttl 3 s", Form { hold_ttl: Duration::from_secs(3) });
    judged(law, || run(law, Store::single(&redis).patient(), &form)).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: make limits"]
async fn what_a_killed_proxy_held_is_free_again_within_a_minute() {
    let redis = tokio::task::block_in_place(Redis::start);
    let _machine = alone().await;
    let (law, form) = ("kill -9, hold_ttl 60 s", Form { hold_ttl: Duration::from_secs(60) });
    judged(law, || run(law, Store::single(&redis), &form)).await;
}
