//! A Postgres that is stopped, started again, frozen, encrypted.

use crate::servers::Postgres;
use crate::world::{change, changes, new_key, secret, settings};
use std::time::{Duration, Instant};
use weir::config::snapshot::{Push, Store as Settings, StoreTarget};
use weir::io::store::Store;
use weir::io::store::error::Kind;

fn at(url: &str) -> Settings {
    settings(StoreTarget::Postgres(secret(url)), Push::Notify)
}

#[test]
fn a_store_that_was_away_is_used_again_without_anyone_opening_it() {
    let mut server = Postgres::start();
    let mut store = Store::open(&at(&server.database())).expect("opened");
    change(&mut store, |change| change.create_key(&new_key(1)));
    let stamp = store.stamp().expect("read");
    server.stop();
    for _ in 0..2 {
        assert_eq!(store.stamp().expect_err("nobody is there").kind(), Kind::Unavailable, "said, not hung");
    }
    server.start_again();
    assert_eq!(store.stamp().expect("read"), stamp, "the same store in the same state");
    change(&mut store, |change| change.create_key(&new_key(2)));
    assert_eq!(changes(&mut store, Some(&stamp)).0.len(), 1, "and what came after");
}

#[test]
fn a_store_that_does_not_answer_is_given_up_and_later_used_again() {
    let server = Postgres::start();
    let mut store = Store::open(&at(&server.database())).expect("opened");
    let stamp = store.stamp().expect("read");
    server.pause();
    let begun = Instant::now();
    assert_eq!(store.stamp().expect_err("frozen").kind(), Kind::Unavailable, "an open connection");
    assert_eq!(store.stamp().expect_err("frozen").kind(), Kind::Unavailable, "a new one");
    // 5 s each are promised; five times that is not a slow machine any more.
    assert!(begun.elapsed() < Duration::from_secs(50), "nobody waits for ever");
    server.resume();
    assert_eq!(store.stamp().expect("read"), stamp, "and it is well again");
}

/// A certificate for `localhost` of an authority that nobody knows, its key, and the authority.
fn certificate() -> (String, String, String) {
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let mut authority = rcgen::CertificateParams::new(vec![]).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).expect("signed").pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let own = rcgen::CertificateParams::new(vec!["localhost".into()]).expect("parameters");
    let own = own.signed_by(&key, &issuer).expect("signed").pem();
    (own, key.serialize_pem(), pem)
}

#[test]
fn tls_is_used_where_it_is_asked_for_and_never_with_a_stranger() {
    let mut server = Postgres::start();
    let url = server.database().replace("127.0.0.1", "localhost");
    let asks = |mode: &str| Store::open(&at(&format!("{url}?{mode}"))).map(|_store| ()).map_err(|error| error.kind());
    assert_eq!(asks("sslmode=prefer"), Ok(()), "a server without TLS is served plain, where that is allowed");
    assert_eq!(asks("sslmode=require"), Err(Kind::Unavailable), "and not where it is not");
    server.stop();
    let (own, key, authority) = certificate();
    server.start_with_tls(&own, &key);
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("root.pem");
    std::fs::write(&root, authority).expect("written");
    let known = format!("sslrootcert={}", root.display());
    for mode in ["sslmode=require", "sslmode=verify-full", "sslmode=prefer"] {
        assert_eq!(asks(mode), Err(Kind::Unavailable), "{mode}: nobody vouches for the server");
        assert_eq!(asks(&format!("{mode}&{known}")), Ok(()), "{mode}: with its authority it is trusted");
    }
    assert_eq!(asks("sslmode=disable"), Ok(()), "plain where that is asked for");
    let other_name = url.replace("localhost", "127.0.0.1");
    let done = Store::open(&at(&format!("{other_name}?sslmode=require&{known}"))).map(|_store| ());
    assert!(done.is_err(), "the name in the certificate counts");
    let mut encrypted = Store::open(&at(&format!("{url}?sslmode=require&{known}"))).expect("opened");
    change(&mut encrypted, |change| change.create_key(&new_key(1)));
    let seen = server.sql(
        "postgres",
        "SELECT count(*) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid) \
                           WHERE s.ssl AND a.application_name = 'weir'",
    );
    assert_eq!(seen.trim(), "1", "the server says that this connection is encrypted");
}
