//! A revoked key is refused everywhere at once, and nothing brings it back: neither requests in flight, nor a restart,
//! nor a store that is down, nor one that was restored from an older copy.

use super::fleet::{CHAT, Fleet, Push, accepted, light, until};
use super::load::Load;
use super::stack::{Key, Recipe, Weir, alone, beside};
use crate::backend::{Act, Backends};
use crate::client::{Answer, Ask, Wire};
use crate::say;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// How soon a revocation is seen by push.
const PUSHED: SignedDuration = SignedDuration::from_secs(1);
/// How soon it is seen by the poll alone.
const POLLED: SignedDuration = SignedDuration::from_secs(5);
/// Requests per second on the key that is revoked, over both proxies.
const RATE: u32 = 400;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_is_seen_everywhere_within_a_second_by_postgres() {
    let _machine = alone().await;
    let fleet = Fleet::start(Push::Notify, "").await;
    seen(&fleet, PUSHED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_is_seen_everywhere_within_a_second_by_redis_and_within_five_without_it() {
    let _machine = alone().await;
    let mut fleet = Fleet::start(Push::Redis, "").await;
    seen(&fleet, PUSHED).await;
    fleet.redis.as_mut().expect("a Redis").stop();
    seen(&fleet, POLLED).await;
}

/// Revokes a key under load and holds both proxies to the time.
async fn seen(fleet: &Fleet, limit: SignedDuration) {
    let key = fleet.key(&[]).await;
    let load = Load::start(&fleet.addresses(), &Ask::new("GET", "/light", &key.text).bytes(), RATE);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let shown = fleet.proxies[0].keys(&["revoke", &key.id]);
    let revoked = Timestamp::now();
    assert_eq!(shown["status"], "revoked", "what revoke prints: {shown}");
    for proxy in &fleet.proxies {
        let refused = until(proxy.address, &key.text, 401, Duration::from_secs(10)).await;
        assert!(refused.is_some(), "the revocation never arrives");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let shots = load.finish().await;
    let mut last = SignedDuration::MIN;
    let mut refused = [None::<Timestamp>; 2];
    for shot in &shots {
        match (shot.status, shot.code.as_str()) {
            (200, "") => {
                let back = refused[shot.proxy].is_some_and(|refused| shot.sent > refused);
                assert!(!back, "a request in flight brought the key back: {shot:?}");
                last = last.max(shot.sent.duration_since(revoked));
            }
            (401, "invalid_api_key") => {
                refused[shot.proxy].get_or_insert(shot.ended);
            }
            _ => panic!("neither let in nor refused: {shot:?}"),
        }
    }
    println!("a revoked key was last let in {last:?} after the command (limit {limit:?}, {} requests)", shots.len());
    assert!(last <= limit, "let in {last:?} after the revocation, {limit:?} at most");
    assert!(refused.iter().all(Option::is_some), "both proxies refused under load");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_in_flight_end_well_and_bring_nothing_back() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let proxy = Weir::start(&Recipe::to(backends.addresses[0]));
    let key = proxy.create(&[]);
    assert!(accepted(proxy.address, &key.text, Duration::from_secs(5)).await.is_some(), "a new key is taken");
    let slow = vec![say::pause(1500), Act::Say(say::json(200, say::OK))];
    let mut flying = Vec::new();
    for number in 0..8 {
        let case = format!("flight {number}");
        backends.script(&case, vec![slow.clone()]);
        let (ask, address) = (Ask::chat(&key.text, CHAT).case(&case), proxy.address);
        flying.push(tokio::spawn(async move { ask.send(address).await }));
    }
    let arrived = crate::cases::eventually(|| backends.total() == 8).await;
    assert!(arrived, "all are on their way: {}", backends.total());
    proxy.keys(&["revoke", &key.id]);
    refused_soon(&proxy, &key).await;
    for flight in flying {
        let answer = flight.await.expect("no panic");
        assert_eq!((answer.status, answer.text().as_str()), (200, say::OK), "what was admitted ends as if nothing was");
    }
    for _ in 0..5 {
        assert_invalid(&light(proxy.address, &key.text).await, "after the requests in flight ended");
    }
}

async fn refused_soon(proxy: &Weir, key: &Key) {
    let refused = until(proxy.address, &key.text, 401, Duration::from_secs(5)).await;
    assert!(refused.is_some(), "the revocation arrives within 5 s");
}

fn assert_invalid(answer: &Answer, when: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (401, "invalid_api_key"), "{when}: {}", answer.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revoked_key_never_comes_back_by_a_restart_even_with_postgres_down() {
    let _machine = beside().await;
    let mut fleet = Fleet::start(Push::Notify, "").await;
    let (gone, kept) = (fleet.key(&[]).await, fleet.key(&[]).await);
    fleet.proxies[0].keys(&["revoke", &gone.id]);
    for proxy in &fleet.proxies {
        refused_soon(proxy, &gone).await;
    }
    let first = &mut fleet.proxies[0];
    first.kill();
    first.run();
    assert_invalid(&light(first.address, &gone.text).await, "the first request after a restart");
    fleet.postgres.stop();
    for proxy in &mut fleet.proxies {
        proxy.kill();
        proxy.run();
        assert_invalid(&light(proxy.address, &gone.text).await, "after a restart without Postgres");
        let answer = light(proxy.address, &kept.text).await;
        assert_eq!(answer.status, 200, "a good key is served from the copy: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_store_restored_from_an_older_copy_brings_no_revoked_key_back() {
    let _machine = beside().await;
    let backends = Backends::start(1).await;
    let proxy = Weir::start(&Recipe::to(backends.addresses[0]));
    let (gone, kept) = (proxy.create(&[]), proxy.create(&[]));
    for key in [&gone, &kept] {
        assert!(accepted(proxy.address, &key.text, Duration::from_secs(5)).await.is_some(), "a new key is taken");
    }
    let (store, copy) = (proxy.folder().join("state/weir.db"), proxy.folder().join("older.db"));
    let database = rusqlite::Connection::open(&store).expect("the store");
    database.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).expect("a copy of it");
    drop(database);
    proxy.keys(&["revoke", &gone.id]);
    refused_soon(&proxy, &gone).await;
    for file in ["state/weir.db-wal", "state/weir.db-shm"] {
        // They are of the file that goes away; they may be gone already.
        let _ = std::fs::remove_file(proxy.folder().join(file));
    }
    std::fs::rename(&copy, &store).expect("the copy in its place");
    // The copy is being read once a key that only it knows works.
    let later = proxy.create(&["--name", "later"]);
    assert!(accepted(proxy.address, &later.text, Duration::from_secs(5)).await.is_some(), "the copy is read");
    for _ in 0..100 {
        assert_invalid(&light(proxy.address, &gone.text).await, "from an older copy of the store");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(light(proxy.address, &kept.text).await.status, 200, "a good key stays good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_postgres_restored_from_an_older_copy_brings_no_revoked_key_back() {
    let _machine = beside().await;
    let fleet = Fleet::start(Push::Notify, "").await;
    let (gone, kept) = (fleet.key(&[]).await, fleet.key(&[]).await);
    let name = &fleet.database;
    // A database is copied while nobody is connected to it.
    let alone = |then: &[String]| {
        fleet.postgres.sql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"));
        let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
        fleet.postgres.sql("postgres", &end);
        for step in then {
            fleet.postgres.sql("postgres", step);
        }
        fleet.postgres.sql("postgres", &format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"));
    };
    alone(&[format!("CREATE DATABASE older TEMPLATE {name}")]);
    fleet.proxies[0].keys(&["revoke", &gone.id]);
    for proxy in &fleet.proxies {
        let refused = until(proxy.address, &gone.text, 401, Duration::from_secs(10)).await;
        assert!(refused.is_some(), "the revocation arrives after the outage: {}", proxy.log());
    }
    alone(&[format!("DROP DATABASE {name} WITH (FORCE)"), format!("ALTER DATABASE older RENAME TO {name}")]);
    // The copy is being read once a key that only it knows works.
    let later = fleet.proxies[0].create(&["--name", "later"]);
    for proxy in &fleet.proxies {
        let read = accepted(proxy.address, &later.text, Duration::from_secs(10)).await;
        assert!(read.is_some(), "the copy is read: {}", proxy.log());
    }
    for _ in 0..50 {
        for proxy in &fleet.proxies {
            assert_invalid(&light(proxy.address, &gone.text).await, "from an older copy of the store");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for proxy in &fleet.proxies {
        assert_eq!(light(proxy.address, &kept.text).await.status, 200, "a good key stays good");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn terminate_streams_cuts_an_open_stream_with_one_terminal_event_and_one_usage_row() {
    let _machine = beside().await;
    let fleet = Fleet::start(Push::Notify, "").await;
    let (gone, other) = (fleet.key(&["--name", "gone"]).await, fleet.key(&["--name", "other"]).await);
    let delta = say::delta("He");
    let mut open = say::open_stream(&[say::ROLE, &delta]);
    open.push(Act::Hold);
    let mut goes_on = say::open_stream(&[say::ROLE, &delta]);
    goes_on.push(say::pause(3000));
    goes_on.extend([Act::Say(say::chunk(say::USAGE)), Act::Say(say::chunk(say::DONE)), Act::Say(say::last_chunk())]);
    fleet.backends.script("cut", vec![open.clone()]);
    fleet.backends.script("other", vec![goes_on]);
    // The stream is on the proxy that is not asked to revoke.
    let address = fleet.proxies[1].address;
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"Hello"}]}"#;
    let (mut cut, mut lives) = (Wire::open(address).await, Wire::open(address).await);
    cut.send(&Ask::chat(&gone.text, body).case("cut").bytes()).await;
    lives.send(&Ask::chat(&other.text, body).case("other").bytes()).await;
    assert!(cut.until("He").await && lives.until("He").await, "both streams are open");
    fleet.proxies[0].keys(&["revoke", &gone.id, "--terminate-streams"]);
    let revoked = std::time::Instant::now();
    let answer = cut.answer().await;
    let took = revoked.elapsed();
    assert!(answer.complete, "the stream has its proper end: {}", answer.text());
    assert!(took < Duration::from_secs(2), "the stream was cut after {took:?}");
    let text = answer.text();
    let last = text.trim_end().rsplit("\n\n").next().unwrap_or_default();
    let event: serde_json::Value = serde_json::from_str(last.trim_start_matches("data: ")).unwrap_or_default();
    assert_eq!(event["error"]["code"], "key_revoked", "the last event says why: {text}");
    assert_eq!(text.matches("\"error\"").count(), 1, "one error event: {text}");
    assert!(!text.contains("[DONE]"), "a cut stream is not a finished one: {text}");
    let answer = lives.answer().await;
    assert!(answer.text().ends_with(say::DONE), "another key's stream goes on: {}", answer.text());
    let rows = fleet.proxies[1].usage(2);
    let row = rows.iter().find(|row| row["key_id"] == gone.id.as_str()).expect("a row of the cut stream");
    assert_eq!(row["error_code"], "key_revoked", "the row says why: {row:?}");
    assert_ne!(row["status"], "completed", "a cut stream is not a completed one: {row:?}");
}
