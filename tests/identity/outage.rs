//! Starts and goes on without the store: from the copy while it is young enough, else 503 and never 401; and comes
//! back by itself.

use super::fleet::{accepted, light, recipe, until};
use super::stack::{Key, Weir, alone, beside};
use crate::backend::Backends;
use crate::client::Answer;
use crate::servers::Postgres;
use std::time::{Duration, Instant};

/// How soon a proxy must see that Postgres is back.
const BACK: Duration = Duration::from_secs(15);

/// A proxy with these `api_key` settings, prepared, and what it stands on.
async fn stand(settings: &str) -> (Weir, Postgres, Backends, Key) {
    let postgres = Postgres::start();
    let backends = Backends::start(1).await;
    let mut recipe = recipe(&backends, &postgres.url(), None, "");
    recipe.auth = format!("keys: {{ api_key: {{ pepper: {{ env: PEPPER }}{settings} }} }}");
    let proxy = Weir::prepare(&recipe);
    let key = proxy.create(&[]);
    (proxy, postgres, backends, key)
}

fn assert_unavailable(answer: &Answer, when: &str) {
    assert_eq!((answer.status, answer.code().as_str()), (503, "dependency_unavailable"), "{when}: {}", answer.text());
    assert!(!answer.header("retry-after").is_empty(), "{when}: a 503 says when to try again: {}", answer.head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_without_store_and_copy_is_unavailable_and_never_unauthorised() {
    let _machine = beside().await;
    let (mut proxy, mut postgres, _backends, key) = stand("").await;
    postgres.stop();
    proxy.spawn();
    proxy.wait(503).expect("it lives, and is not ready");
    // The listener may open a moment after the admin's.
    let listening = crate::cases::eventually(|| std::net::TcpStream::connect(proxy.address).is_ok()).await;
    assert!(listening, "it listens: {}", proxy.log());
    for _ in 0..20 {
        assert_unavailable(&light(proxy.address, &key.text).await, "without keys");
    }
    assert_eq!(proxy.ready(), 503, "not ready without keys");
    postgres.start_again();
    assert!(accepted(proxy.address, &key.text, BACK).await.is_some(), "it recovers by itself: {}", proxy.log());
    proxy.wait(200).expect("ready with keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_start_without_store_serves_from_the_copy() {
    let _machine = beside().await;
    let (mut proxy, mut postgres, _backends, key) = stand("").await;
    proxy.run();
    assert!(accepted(proxy.address, &key.text, Duration::from_secs(5)).await.is_some(), "the key is taken");
    let other = proxy.create(&[]);
    assert!(accepted(proxy.address, &other.text, Duration::from_secs(5)).await.is_some(), "so is the next");
    proxy.kill();
    postgres.stop();
    proxy.run();
    for key in [&key, &other] {
        let answer = light(proxy.address, &key.text).await;
        assert_eq!(answer.status, 200, "from the copy: {}", answer.text());
    }
    let junk = light(proxy.address, "sk-weir-junk").await;
    assert_eq!(junk.status, 401, "junk is junk without a store too: {}", junk.text());
    postgres.start_again();
    let made = Instant::now();
    let third = loop {
        let output = proxy.output(&["keys", "create", "--json"]);
        if output.status.success() {
            let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            break value["key"].as_str().expect("a key").to_owned();
        }
        assert!(made.elapsed() < BACK, "the store is back: {}", String::from_utf8_lossy(&output.stderr));
    };
    assert!(accepted(proxy.address, &third, BACK).await.is_some(), "it follows the store again by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_that_are_too_old_are_unavailable_and_never_unauthorised() {
    let _machine = alone().await;
    let (mut proxy, mut postgres, _backends, key) = stand(", max_stale: 3s").await;
    proxy.run();
    assert!(accepted(proxy.address, &key.text, Duration::from_secs(5)).await.is_some(), "the key is taken");
    postgres.stop();
    let stopped = Instant::now();
    let mut statuses = Vec::new();
    while stopped.elapsed() < Duration::from_secs(8) {
        let answer = light(proxy.address, &key.text).await;
        if answer.status != 200 {
            assert_unavailable(&answer, "with keys that are too old");
        }
        statuses.push((stopped.elapsed(), answer.status));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let young = |at: &Duration| *at < Duration::from_millis(800);
    assert!(statuses.iter().filter(|(at, _)| young(at)).all(|(_, status)| *status == 200), "it goes on for a while");
    assert_eq!(statuses.last().map(|(_, status)| *status), Some(503), "and stops when its keys are too old");
    let served = statuses.iter().filter(|(_, status)| *status == 200).count();
    assert!(statuses[..served].iter().all(|(_, status)| *status == 200), "first all are served, then none");
    postgres.start_again();
    let back = until(proxy.address, &key.text, 200, BACK).await;
    assert!(back.is_some(), "it recovers by itself: {}", proxy.log());
}
