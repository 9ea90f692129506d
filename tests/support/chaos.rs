//! A bad network between a client and a server on loopback: a TCP proxy that passes, delays, falls silent, resets or
//! refuses, as a test says while it runs. Decides nothing about what is carried.

// Each test binary uses its own part.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, watch};

/// Connections at a time; more wait.
const MAX_CONNECTIONS: usize = 512;
/// Bytes that are carried at a time.
const CHUNK: usize = 16 * 1024;
/// Connections that wait to be accepted.
const BACKLOG: u32 = 128;

/// What the network does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// It carries.
    Fair,
    /// What the server says comes so much later.
    Delay(Duration),
    /// Connections are accepted and stay, and nothing is carried; what was sent meanwhile comes when it is over, as after
    /// a cut cable.
    BlackHole,
    /// The same, but a connection that had something to carry stays silent for ever, as after a router has forgotten it.
    Forgotten,
    /// Connections are reset, new ones as soon as they are made.
    Cut,
    /// Connections are reset, and nobody listens.
    Refuse,
}

/// The proxy; dropping it ends all of its connections.
pub struct Chaos {
    port: u16,
    weather: watch::Sender<Weather>,
    accepted: Arc<AtomicU64>,
    runtime: Option<Runtime>,
}

impl Chaos {
    /// A proxy to a port of loopback, in fair weather.
    pub fn before(server: u16) -> Self {
        let builder = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        // A runtime may be made, but not waited for, within another: so it is made in a thread of its own.
        let runtime = std::thread::spawn(builder).join().expect("no panic").expect("a runtime");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let (weather, _) = watch::channel(Weather::Fair);
        let accepted = Arc::new(AtomicU64::new(0));
        let listener = {
            let _within = runtime.enter();
            listen(port)
        };
        runtime.spawn(accept(listener, server, weather.clone(), Arc::clone(&accepted)));
        Self { port, weather, accepted, runtime: Some(runtime) }
    }

    /// The port that clients connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the weather, for open connections too.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Connections that were accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

impl Drop for Chaos {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn listen(port: u16) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], port))).expect("the port is still free");
    socket.listen(BACKLOG).expect("it listens")
}

async fn accept(first: TcpListener, server: u16, weather: watch::Sender<Weather>, accepted: Arc<AtomicU64>) {
    let port = first.local_addr().expect("an address").port();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut listener = Some(first);
    let mut changes = weather.subscribe();
    loop {
        let now = *changes.borrow_and_update();
        if now == Weather::Refuse {
            listener = None;
            // The sender lives as long as this task.
            let _changed = changes.changed().await;
            continue;
        }
        let open = listener.get_or_insert_with(|| listen(port));
        let client = tokio::select! {
            _changed = changes.changed() => continue,
            client = open.accept() => client,
        };
        let Ok((client, _)) = client else { continue };
        accepted.fetch_add(1, Ordering::Relaxed);
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let changes = weather.subscribe();
        tokio::spawn(async move {
            carry(client, server, changes).await;
            drop(place);
        });
    }
}

/// One connection, until an end closes or the weather cuts it.
async fn carry(client: TcpStream, server: u16, mut weather: watch::Receiver<Weather>) {
    if !passable(&mut weather).await {
        return reset(&client);
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return reset(&client) };
    // Small messages are what is carried here.
    let _at_once = (client.set_nodelay(true), server.set_nodelay(true));
    for end in [&client, &server] {
        // Dropped, each sends a reset; a clean end shuts down first.
        linger(end);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut cut = weather.clone();
    tokio::select! {
        () = pump(from_client, to_server, weather.clone(), Way::Out) => {}
        () = pump(from_server, to_client, weather, Way::Back) => {}
        _cut = cut.wait_for(|now| matches!(now, Weather::Cut | Weather::Refuse)) => {}
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    Back,
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut weather: watch::Receiver<Weather>, way: Way) {
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = match from.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        if *weather.borrow() == Weather::Forgotten {
            return std::future::pending().await;
        }
        if !passable(&mut weather).await {
            return;
        }
        let late = match *weather.borrow() {
            Weather::Delay(late) if way == Way::Back => late,
            _ => Duration::ZERO,
        };
        if !late.is_zero() {
            tokio::time::sleep(late).await;
        }
        if to.write_all(&chunk[..read]).await.is_err() {
            return;
        }
    }
    let _gone = to.shutdown().await;
}

/// Waits while nothing is carried. False: the connection is to be reset.
async fn passable(weather: &mut watch::Receiver<Weather>) -> bool {
    let seen = weather.wait_for(|now| !matches!(now, Weather::BlackHole | Weather::Forgotten)).await;
    seen.is_ok_and(|now| !matches!(*now, Weather::Cut | Weather::Refuse))
}

fn linger(end: &TcpStream) {
    let _set = socket2::SockRef::from(end).set_linger(Some(Duration::ZERO));
}

fn reset(client: &TcpStream) {
    linger(client);
}
