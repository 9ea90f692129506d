//! A key's secret is rotated under load: nobody is refused before the grace ends, everybody after it, whatever
//! happens to Postgres and Redis meanwhile.

use super::fleet::{CHAT, Fleet, Push, accepted};
use super::load::{Load, Shot};
use super::stack::{Key, alone};
use crate::client::Ask;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// Requests per second on the old secret, over both proxies: light ones, and calls of a model.
const LIGHT: u32 = 950;
const CALLS: u32 = 50;
/// The rate up to the grace's end that counts as 1,000/s: the client makes up for what it is late, but not for the
/// last moment.
const REACHED: f64 = 900.0;
/// Rotations that may miss the rate.
const TRIES: usize = 3;
/// How long the old secret may still be taken after its grace.
const AFTER: SignedDuration = SignedDuration::from_secs(5);
/// How soon the new secret must be taken everywhere.
const NEW: Duration = Duration::from_secs(1);

/// What happens while the old secret ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outage {
    None,
    /// Redis is killed before the rotation: only the poll tells of it.
    RedisKilled,
    /// Postgres hangs from after the rotation until the end.
    PostgresHangs,
    /// Postgres is killed after the rotation.
    PostgresKilled,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_refused_until_the_grace_of_a_rotation_ends_and_everybody_after() {
    rotation(Push::Notify, Outage::None, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_with_changes_pushed_by_redis() {
    rotation(Push::Redis, Outage::None, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_with_redis_killed_in_the_middle() {
    rotation(Push::Redis, Outage::RedisKilled, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_with_postgres_hanging_in_the_middle() {
    rotation(Push::Notify, Outage::PostgresHangs, 3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_with_postgres_killed_in_the_middle() {
    rotation(Push::Notify, Outage::PostgresKilled, 3).await;
}

/// Rotates until the load was what it has to be: a busy machine may not reach it at once. The laws hold at any load.
async fn rotation(push: Push, outage: Outage, grace: u64) {
    let _machine = alone().await;
    let mut rates = Vec::new();
    while rates.len() < TRIES {
        let rate = rotated(push, outage, grace).await;
        if rate >= REACHED {
            return;
        }
        rates.push(rate);
    }
    panic!("the load was only {rates:.0?} requests/s");
}

/// One rotation under load; returns the rate up to the end of its grace.
async fn rotated(push: Push, outage: Outage, grace: u64) -> f64 {
    let mut fleet = Fleet::start(push, "").await;
    let old = fleet.key(&["--name", "rotated"]).await;
    let addresses = fleet.addresses();
    let started = Timestamp::now();
    let light = Load::start(&addresses, &Ask::new("GET", "/light", &old.text).bytes(), LIGHT);
    let calls = Load::start(&addresses, &Ask::chat(&old.text, CHAT).bytes(), CALLS);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    if outage == Outage::RedisKilled {
        fleet.redis.as_mut().expect("a Redis").stop();
    }
    let (new, end) = rotate(&fleet, &old, grace).await;
    match outage {
        Outage::None | Outage::RedisKilled => {}
        Outage::PostgresHangs => fleet.postgres.pause(),
        Outage::PostgresKilled => fleet.postgres.stop(),
    }
    let rest = Timestamp::now().until(end + AFTER + SignedDuration::from_secs(1)).expect("a span of seconds");
    tokio::time::sleep(rest.try_into().expect("the grace has not ended yet")).await;
    let (light, calls) = (light.finish().await, calls.finish().await);
    if outage == Outage::PostgresHangs {
        fleet.postgres.resume();
    }
    let good = light.iter().chain(&calls).filter(|shot| shot.sent < end).count();
    let rate = f64::from(u32::try_from(good).expect("a count")) / end.duration_since(started).as_secs_f64();
    let mut late = SignedDuration::ZERO;
    for shots in [&light, &calls] {
        late = late.max(judge(shots, end));
    }
    println!("{push:?}, {outage:?}: {rate:.0} requests/s, last call on the old secret {late:?} after its grace");
    for proxy in &fleet.proxies {
        let new = accepted(proxy.address, &new.text, Duration::ZERO).await;
        assert!(new.is_some(), "the new secret is good after the old one's end");
    }
    rate
}

/// Rotates, and holds the new secret to its time on both proxies. Returns the new key and when the old secret ends.
async fn rotate(fleet: &Fleet, old: &Key, grace: u64) -> (Key, Timestamp) {
    let before = Timestamp::now();
    let (new, told) = fleet.proxies[1].rotate(old, &format!("{grace}s"));
    let after = Timestamp::now();
    assert_eq!(new.id, old.id, "a rotation keeps the key's id");
    assert_ne!(new.text, old.text, "a rotation makes a new secret");
    assert_eq!(told["secret_gen"], 2, "the second generation: {told}");
    for proxy in &fleet.proxies {
        assert!(accepted(proxy.address, &new.text, NEW).await.is_some(), "the new secret is taken within {NEW:?}");
    }
    let end = fleet_end(fleet, old).await;
    let generations = told["generations"].as_array().cloned().unwrap_or_default();
    let before_last = generations.iter().find(|generation| generation["secret_gen"] == 1);
    let told_end = before_last.and_then(|generation| generation["valid_until"].as_str()?.parse::<Timestamp>().ok());
    // Fractions of a second may be cut off.
    let same = told_end.is_some_and(|told| told.duration_since(end).abs() < SignedDuration::from_secs(1));
    assert!(same, "the command tells the same end as the header, {end}: {told}");
    let grace = SignedDuration::from_secs(i64::try_from(grace).expect("a few seconds"));
    // Milliseconds may be cut off what is told.
    let slack = SignedDuration::from_secs(1);
    assert!(
        end >= before + grace - slack && end <= after + grace + slack,
        "the grace is {grace:?} from {before}: {end}"
    );
    (new, end)
}

/// When the old secret ends, as calls on it are told: the same by both.
async fn fleet_end(fleet: &Fleet, old: &Key) -> Timestamp {
    let mut told = Vec::new();
    for proxy in &fleet.proxies {
        let until = std::time::Instant::now() + Duration::from_secs(3);
        let text = loop {
            let answer = super::fleet::light(proxy.address, &old.text).await;
            assert_eq!(answer.status, 200, "the old secret is good in its grace: {}", answer.text());
            let text = answer.header("x-key-deprecated-until");
            if !text.is_empty() || std::time::Instant::now() > until {
                break text;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        told.push(text.parse::<Timestamp>().unwrap_or_else(|error| panic!("x-key-deprecated-until {text:?}: {error}")));
    }
    assert_eq!(told[0], told[1], "both proxies tell the same end");
    told[0]
}

/// Holds every request on the old secret to its answer. Returns how long after its end the last one was let in.
fn judge(shots: &[Shot], end: Timestamp) -> SignedDuration {
    let (mut before, mut after) = (0, 0);
    let mut last = SignedDuration::ZERO;
    let mut refused = [None::<Timestamp>; 2];
    for shot in shots {
        let sure = shot.sent > end + AFTER;
        match (shot.status, shot.code.as_str()) {
            (200, "") => {
                assert!(!sure, "let in {:?} after the grace: {shot:?}", shot.sent.duration_since(end));
                let back = refused[shot.proxy].is_some_and(|refused| shot.sent > refused);
                assert!(!back, "the old secret came back: {shot:?}");
                let told = shot.deprecated_until.is_empty()
                    || shot.deprecated_until.parse::<Timestamp>().is_ok_and(|told| told == end);
                assert!(told, "every answer tells the same end, {end}: {shot:?}");
                before += u32::from(shot.sent < end);
                last = last.max(shot.sent.duration_since(end));
            }
            (401, "invalid_api_key") => {
                assert!(shot.ended > end, "refused before the grace ended at {end}: {shot:?}");
                refused[shot.proxy].get_or_insert(shot.ended);
                after += u32::from(sure);
            }
            _ => panic!("neither let in nor refused as an invalid key: {shot:?}"),
        }
    }
    assert!(before > 100 && after > 10, "there was load before ({before}) and after ({after}) the end");
    last
}
