//! Telling other replicas: Postgres NOTIFY and Redis.

use crate::servers::{Postgres, Redis};
use crate::world::{World, change, new_key, secret, settings};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;
use weir::config::snapshot::{Push, Store as Settings, StoreTarget};
use weir::io::store::Store;
use weir::io::store::push::{Listener, listen};

/// Long enough for the busiest machine: what is shown is that the push comes, not when.
const SOON: Duration = Duration::from_secs(30);
/// Short enough to wait for nothing.
const QUIET: Duration = Duration::from_millis(300);

/// Listens, and waits until that works: the first wake says so.
fn hear(settings: &Settings) -> (Listener, Receiver<()>) {
    let (wake, woken) = sync_channel(1);
    let listener = listen(settings, wake).expect("listening");
    woken.recv_timeout(SOON).expect("woken once at the beginning");
    (listener, woken)
}

fn with_redis(world: &World, redis: &Redis) -> Settings {
    settings(world.settings.target.clone(), Push::Redis(secret(&redis.url())))
}

#[test]
fn each_change_wakes_who_listens_and_reading_does_not() {
    let redis = Redis::start();
    let (sqlite, postgres) = (World::sqlite(), World::postgres());
    let settings = [
        ("Postgres notifies", postgres.settings.clone()),
        ("Redis for Postgres", with_redis(&World::postgres(), &redis)),
        ("Redis for SQLite", with_redis(&sqlite, &redis)),
    ];
    for (what, settings) in settings {
        let mut store = Store::open(&settings).expect("opened");
        let (_listener, woken) = hear(&settings);
        for byte in [1, 2] {
            change(&mut store, |change| change.create_key(&new_key(byte)));
            woken.recv_timeout(SOON).unwrap_or_else(|error| panic!("{what}: change {byte}: {error}"));
        }
        store.stamp().expect("read");
        change(&mut store, |change| change.read().key(&new_key(1).key_id).map(drop));
        assert!(woken.recv_timeout(QUIET).is_err(), "{what}: nothing has changed");
        assert_eq!(store.lost_pushes(), 0, "{what}: none was lost");
    }
}

#[test]
fn without_a_push_nobody_is_woken() {
    let world = World::sqlite();
    let (wake, woken) = sync_channel(1);
    let _listener = listen(&world.settings, wake).expect("listening");
    change(&mut world.open(), |change| change.create_key(&new_key(1)));
    assert!(woken.recv_timeout(QUIET).is_err(), "the poll will find out");
}

#[test]
fn a_change_is_done_without_redis_and_the_lost_push_is_counted() {
    let mut redis = Redis::start();
    let world = World::sqlite();
    let settings = with_redis(&world, &redis);
    let mut store = Store::open(&settings).expect("opened");
    change(&mut store, |change| change.create_key(&new_key(1)));
    redis.stop();
    change(&mut store, |change| change.create_key(&new_key(2)));
    assert_eq!(store.lost_pushes(), 1, "it could not be told");
    redis.start_again();
    let (_listener, woken) = hear(&settings);
    change(&mut store, |change| change.create_key(&new_key(3)));
    woken.recv_timeout(SOON).expect("told again, on a new connection");
    assert_eq!(store.lost_pushes(), 1, "and nothing more was lost");
    redis.pause();
    change(&mut store, |change| change.create_key(&new_key(4)));
    assert_eq!(store.lost_pushes(), 2, "a frozen Redis keeps nobody waiting for ever");
    redis.resume();
}

#[test]
fn who_listens_comes_back_after_an_outage_and_is_woken_for_what_was_missed() {
    let mut redis = Redis::start();
    let world = World::sqlite();
    let settings = with_redis(&world, &redis);
    let mut store = Store::open(&settings).expect("opened");
    let (_listener, woken) = hear(&settings);
    redis.stop();
    change(&mut store, |change| change.create_key(&new_key(1)));
    redis.start_again();
    woken.recv_timeout(SOON).expect("Redis: woken when it is back");

    let mut server = Postgres::start();
    let settings = self::settings(StoreTarget::Postgres(secret(&server.database())), Push::Notify);
    let mut store = Store::open(&settings).expect("opened");
    let (_listener, woken) = hear(&settings);
    server.stop();
    server.start_again();
    woken.recv_timeout(SOON).expect("Postgres: woken when it is back");
    change(&mut store, |change| change.create_key(&new_key(1)));
    woken.recv_timeout(SOON).expect("and by the next change");
}

/// Passes bytes on between a listener and Redis, until those who are connected are forgotten: then nobody hears of
/// anybody any more, as when a router between them has lost its table.
struct Middle {
    address: std::net::SocketAddr,
    forgotten: Arc<AtomicUsize>,
}

impl Middle {
    fn before(redis: &Redis) -> Self {
        let url = redis.url();
        let server = url.trim_start_matches("redis://").split('/').next().expect("an address").to_owned();
        let door = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = door.local_addr().expect("bound");
        let forgotten = Arc::new(AtomicUsize::new(0));
        let now = Arc::clone(&forgotten);
        // Ends with the test's process: nothing tells it that the last caller has come.
        std::thread::spawn(move || {
            for client in door.incoming() {
                let (client, server) = (client.expect("a caller"), TcpStream::connect(&server).expect("Redis"));
                let since = now.load(Ordering::SeqCst);
                let twin = |stream: &TcpStream| stream.try_clone().expect("a handle");
                for (mut from, mut to) in [(twin(&client), twin(&server)), (server, client)] {
                    let now = Arc::clone(&now);
                    std::thread::spawn(move || {
                        let mut piece = [0; 4096];
                        while let Ok(read @ 1..) = from.read(&mut piece) {
                            if now.load(Ordering::SeqCst) == since && to.write_all(&piece[..read]).is_err() {
                                return;
                            }
                        }
                    });
                }
            }
        });
        Self { address, forgotten }
    }
}

#[test]
fn a_redis_that_vanished_without_a_word_is_missed() {
    let redis = Redis::start();
    let middle = Middle::before(&redis);
    let world = World::sqlite();
    let url = format!("redis://{}/0", middle.address);
    let settings = settings(world.settings.target.clone(), Push::Redis(secret(&url)));
    let (_listener, woken) = hear(&settings);
    middle.forgotten.fetch_add(1, Ordering::SeqCst);
    woken.recv_timeout(SOON).expect("woken by a new connection, for what was missed on the old one");
    let mut store = Store::open(&settings).expect("opened");
    change(&mut store, |change| change.create_key(&new_key(1)));
    woken.recv_timeout(SOON).expect("and by the next change");
}

#[test]
fn a_listener_ends_when_it_is_dropped_whether_anyone_is_there_or_not() {
    let world = World::postgres();
    let (listener, woken) = hear(&world.settings);
    drop(listener);
    assert!(woken.recv().is_err(), "its end of the channel is gone with its thread");
    for push in [Push::Notify, Push::Redis(secret("redis://127.0.0.1:1/0"))] {
        let nobody = settings(StoreTarget::Postgres(secret("postgres://127.0.0.1:1/x")), push);
        let (wake, woken) = sync_channel(1);
        drop(listen(&nobody, wake).expect("listening"));
        assert!(woken.recv().is_err(), "also while it waits to connect again");
    }
}
