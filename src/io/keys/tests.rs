use super::look::tests::Place;
use super::*;
use crate::io::store::rows::{KeyStatus, StoredKey, StoredSecret};
use crate::logic::access::api_key::FreshKey;

pub(super) use crate::io::store::tests::{NOW, pepper};

/// A key whose id is made of one byte and whose secret of another, both below 248.
pub(super) fn key(id: u8, secret: u8) -> FreshKey {
    let mut random = [secret; api_key::RANDOM_BYTES];
    random[..api_key::ID_LEN].fill(id);
    api_key::generate("weir", &random).expect("a key")
}

pub(super) fn secret(key: &FreshKey, generation: u32) -> StoredSecret {
    StoredSecret { generation, hash: pepper().hash(key.text.as_bytes()), created_at: NOW, valid_until: None }
}

/// How a store has a new key of tenant `acme`.
pub(super) fn stored(key: &FreshKey) -> StoredKey {
    StoredKey {
        key_id: key.id.clone(),
        tenant: "acme".into(),
        team: Some("core".into()),
        user: None,
        name: Some("ci".into()),
        models: Some(vec!["llama-*".into()]),
        endpoints: None,
        addresses: Some(vec!["10.0.0.0/8".parse().expect("a network")]),
        plan: Some("gold".into()),
        roles: Some(vec!["member".into()]),
        status: KeyStatus::Active,
        terminate_streams: false,
        created_at: NOW,
        expires_at: None,
        revoked_at: None,
        epoch: 1,
        secrets: vec![secret(key, 1)],
    }
}

/// A process whose thread follows the store of a place.
fn following(place: &Place) -> (Arc<Keys>, Pulse, Follower) {
    let mut started = start(place.settings()).expect("started");
    (started.keys.remove("keys").expect("its authenticator"), started.pulse, started.follower)
}

/// What the two calls of a stage come to, and whether there were two.
async fn verdict(keys: &Keys, key: &FreshKey) -> (Result<(), Rejection>, bool) {
    let headers = http::HeaderMap::new();
    let request = AuthRequest {
        credential: Some(key.text.as_bytes()),
        certificate: None,
        method: "POST",
        target: "/v1/chat/completions",
        host: None,
        headers: &headers,
        client: std::net::Ipv4Addr::LOCALHOST.into(),
        now: NOW,
    };
    let (verdict, asked) = match keys.look(&request) {
        Verdict::Ask => (keys.ask(&request).await, true),
        verdict => (verdict, false),
    };
    match verdict {
        Verdict::Known(_) => (Ok(()), asked),
        Verdict::Rejected(why) => (Err(why), asked),
        other => panic!("{other:?} is no answer"),
    }
}

#[tokio::test]
async fn a_new_key_works_at_once_though_no_look_was_due() {
    let new = key(1, 1);
    let mut place = Place::new(&[]);
    let (keys, pulse, _follower) = following(&place);
    place.create(&new);
    assert_eq!(verdict(&keys, &new).await, (Ok(()), true), "the store was asked once more");
    assert_eq!(verdict(&keys, &new).await, (Ok(()), false), "and not again");
    assert_eq!(pulse.figures().asked, 1, "which is counted");
}

#[tokio::test]
async fn a_refusal_is_remembered_and_forgotten_when_the_key_is_made() {
    let new = key(1, 1);
    let mut place = Place::new(&[]);
    let (keys, pulse, _follower) = following(&place);
    let invalid = Err(Rejection::Invalid);
    assert_eq!(verdict(&keys, &new).await, (invalid, true), "the store does not know it either");
    assert_eq!(verdict(&keys, &new).await, (invalid, false), "that is remembered");
    place.clock.later(Duration::from_secs(2));
    assert_eq!(verdict(&keys, &new).await, (invalid, true), "for less than two seconds");
    assert_eq!(verdict(&keys, &new).await, (invalid, false), "and then again");
    place.create(&new);
    // Another key that is unknown: the look for it brings this one.
    verdict(&keys, &key(2, 1)).await.0.expect_err("nobody has made it");
    assert_eq!(verdict(&keys, &new).await, (Ok(()), false), "a refusal never hides a key that is known");
    assert_eq!(pulse.figures().remembered, 2, "refusals from memory are counted");
}

#[tokio::test]
async fn unknown_wrong_and_revoked_keys_go_the_same_way() {
    let (known, revoked) = (key(1, 1), key(2, 1));
    let mut place = Place::new(&[&known, &revoked]);
    place.revoke(&revoked, crate::io::store::rows::Streams::Finish);
    let (keys, _, _follower) = following(&place);
    for (key, name) in [(&key(3, 1), "unknown"), (&key(1, 2), "wrong"), (&revoked, "revoked")] {
        assert_eq!(verdict(&keys, key).await, (Err(Rejection::Invalid), true), "{name}: asked");
        assert_eq!(verdict(&keys, key).await, (Err(Rejection::Invalid), false), "{name}: remembered");
    }
}

#[tokio::test]
async fn a_storm_of_unknown_keys_shares_its_looks() {
    let place = Place::new(&[]);
    let (keys, pulse, _follower) = following(&place);
    let before = pulse.figures().looks;
    let storm = (0..200u8).map(|id| {
        let keys = Arc::clone(&keys);
        async move { verdict(&keys, &key(id, 1)).await }
    });
    for (answer, asked) in futures_util::future::join_all(storm).await {
        assert_eq!((answer, asked), (Err(Rejection::Invalid), true), "each of them has asked");
    }
    // One that was running or rung for, one for those who came meanwhile, and one by the clock.
    let looks = pulse.figures().looks - before;
    assert!((1..=3).contains(&looks), "200 unknown keys cost {looks} looks");
}

#[tokio::test]
async fn a_look_that_never_comes_ends_the_wait_with_the_snapshots_answer() {
    let known = key(1, 1);
    let place = Place::new(&[&known]);
    let (keys, _, follower) = following(&place);
    drop(follower);
    assert_eq!(verdict(&keys, &key(2, 1)).await, (Err(Rejection::Invalid), true), "nobody looks any more");
    assert_eq!(verdict(&keys, &known).await, (Ok(()), false), "who is known is not held up");
}

#[tokio::test]
async fn a_refusal_that_the_store_did_not_confirm_is_not_remembered() {
    let place = Place::new(&[]);
    let (keys, _, follower) = following(&place);
    drop(follower);
    let (new, invalid) = (key(1, 1), Err(Rejection::Invalid));
    for look in ["none in time", "none in time either"] {
        assert_eq!(verdict(&keys, &new).await, (invalid, true), "{look}: asked");
    }
    let look = async |failures| {
        keys.shared.looks.begin();
        keys.shared.counts.failed.fetch_add(failures, Ordering::Relaxed);
        keys.shared.looks.end();
    };
    let (answer, ()) = tokio::join!(verdict(&keys, &new), look(1));
    assert_eq!(answer, (invalid, true), "the look fails");
    let (answer, ()) = tokio::join!(verdict(&keys, &new), look(0));
    assert_eq!(answer, (invalid, true), "so the next caller has the store asked again");
    assert_eq!(verdict(&keys, &new).await, (invalid, false), "and what the store has said is remembered");
}

#[test]
fn a_look_that_panics_does_not_end_the_following() {
    let revoked = key(1, 1);
    let mut place = Place::new(&[&revoked]);
    let (keys, _, _follower) = following(&place);
    place.clock.trap(2);
    place.revoke(&revoked, crate::io::store::rows::Streams::Finish);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let gone = |keys: &Keys| keys.authenticate(revoked.text.as_bytes(), NOW).is_err();
    while !(place.clock.trapped() && gone(&keys)) && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(place.clock.trapped(), "the looks fell");
    assert!(gone(&keys), "and the one after them was made");
}

#[test]
fn the_thread_sees_a_revocation_by_itself_and_ends_when_dropped() {
    let revoked = key(1, 1);
    let mut place = Place::new(&[&revoked]);
    let (keys, _, follower) = following(&place);
    place.revoke(&revoked, crate::io::store::rows::Streams::Finish);
    // Ten times what is promised: the machine may be busy, the law is that it happens by itself.
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while keys.authenticate(revoked.text.as_bytes(), NOW).is_ok() && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    let answer = keys.authenticate(revoked.text.as_bytes(), NOW);
    assert_eq!(answer.map(|_| ()), Err(Rejection::Invalid), "the thread follows the store");
    drop(follower);
    assert_eq!(Arc::strong_count(&keys.shared), 1, "the thread is gone and holds nothing");
}
