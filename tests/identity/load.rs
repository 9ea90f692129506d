//! A load client: requests at a fixed rate over kept connections, each told by when it went, when its answer was
//! there, and what it said.

use crate::client::Wire;
use jiff::Timestamp;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections per proxy.
const CONNECTIONS: usize = 8;

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Shot {
    pub sent: Timestamp,
    pub ended: Timestamp,
    /// Which proxy, by its place in the list.
    pub proxy: usize,
    /// 0: the connection broke.
    pub status: u16,
    /// `x-key-deprecated-until`; empty if absent.
    pub deprecated_until: String,
    /// The error's code; empty if there is none.
    pub code: String,
}

/// A load that runs.
pub struct Load {
    over: Arc<AtomicBool>,
    connections: JoinSet<Vec<Shot>>,
}

impl Load {
    /// Sends these bytes to the proxies in turn, `rate` times a second in all. Requests that are late because an answer
    /// was are made up for.
    pub fn start(proxies: &[SocketAddr], request: &[u8], rate: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut connections = JoinSet::new();
        let (started, all) = (Instant::now(), proxies.len() * CONNECTIONS);
        let step = Duration::from_secs(1) * u32::try_from(all).expect("few connections") / rate;
        for place in 0..all {
            let (proxy, request, over) = (place % proxies.len(), request.to_vec(), Arc::clone(&over));
            let address = proxies[proxy];
            let first =
                started + step * u32::try_from(place).expect("few connections") / u32::try_from(all).expect("few");
            connections.spawn(async move {
                let mut shots = Vec::new();
                let mut wire = None;
                let mut next = first;
                while !over.load(Ordering::Relaxed) {
                    tokio::time::sleep_until(next).await;
                    next += step;
                    shots.push(shoot(&mut wire, address, proxy, &request).await);
                }
                shots
            });
        }
        Self { over, connections }
    }

    /// Ends it; returns every request in the order of sending.
    pub async fn finish(mut self) -> Vec<Shot> {
        self.over.store(true, Ordering::Relaxed);
        let mut shots = Vec::new();
        while let Some(more) = self.connections.join_next().await {
            shots.extend(more.expect("a connection's task does not panic"));
        }
        shots.sort_by_key(|shot| shot.sent);
        shots
    }
}

/// One request; on a new connection where the kept one turns out to be closed.
async fn shoot(wire: &mut Option<Wire>, address: SocketAddr, proxy: usize, request: &[u8]) -> Shot {
    let sent = Timestamp::now();
    for fresh in [false, true] {
        if wire.is_none() || fresh {
            *wire = Some(Wire::open(address).await);
        }
        let Some(open) = wire else { continue };
        open.send(request).await;
        let answer = open.answer().await;
        if answer.status == 0 && !fresh {
            continue;
        }
        if answer.status == 0 || answer.header("connection").eq_ignore_ascii_case("close") {
            *wire = None;
        }
        let (deprecated_until, code) = (answer.header("x-key-deprecated-until"), answer.code());
        return Shot { sent, ended: Timestamp::now(), proxy, status: answer.status, deprecated_until, code };
    }
    Shot { sent, ended: Timestamp::now(), proxy, status: 0, deprecated_until: String::new(), code: String::new() }
}
