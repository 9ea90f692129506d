//! The callers: requests at a fixed rate over kept connections, or many at one moment; each told by when it went, when
//! its answer came, and what it said.

use super::fleet::MODEL;
use crate::client::{Answer, Ask, Wire};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections per replica of a steady load.
const CONNECTIONS: usize = 8;

/// The longest that a caller waits before it repeats a request.
const RETRY: Duration = Duration::from_secs(2);

/// One request and its answer.
#[derive(Clone, Debug)]
pub struct Shot {
    pub sent: Instant,
    /// When the answer's head was there.
    pub first: Instant,
    pub ended: Instant,
    /// 0: there was none.
    pub status: u16,
    /// The error's code; empty if there is none.
    pub code: String,
    /// `retry-after-ms`.
    pub retry_after: Option<Duration>,
    /// Tokens that a good answer says it took.
    pub tokens: u64,
}

impl Shot {
    /// It was let through.
    pub fn admitted(&self) -> bool {
        self.status == 200
    }

    /// From sending to the answer's head.
    pub fn waited(&self) -> Duration {
        self.first - self.sent
    }
}

/// A chat completion with this prompt, and with more members.
pub fn chat(key: &str, prompt: &str, more: Value) -> Ask {
    let mut body = json!({"model": MODEL, "messages": [{"role": "user", "content": prompt}]});
    let members = body.as_object_mut().expect("an object");
    members.extend(more.as_object().cloned().unwrap_or_default());
    Ask::chat(key, body.to_string())
}

/// The cheapest one: a word in, a token out.
pub fn small(key: &str) -> Ask {
    chat(key, "Hello", json!({"max_tokens": 1}))
}

/// A load that runs.
pub struct Load {
    over: Arc<AtomicBool>,
    connections: JoinSet<Vec<Shot>>,
}

impl Load {
    /// Sends requests to the replicas in turn, `rate` times a second in all; each connection goes round the list of
    /// requests by itself. One that is late because an answer was is made up for, so at most `rate` are late by less than
    /// an answer.
    pub fn start(replicas: &[SocketAddr], asks: &[Ask], rate: u32) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut connections = JoinSet::new();
        let all = u32::try_from(replicas.len() * CONNECTIONS).expect("few connections");
        let step = Duration::from_secs(1) * all / rate;
        let bytes: Arc<Vec<Vec<u8>>> = Arc::new(asks.iter().map(Ask::bytes).collect());
        let started = Instant::now();
        for place in 0..all {
            let address = replicas[place as usize % replicas.len()];
            let (over, bytes) = (Arc::clone(&over), Arc::clone(&bytes));
            let mut next = started + step * place / all;
            connections.spawn(async move {
                let (mut shots, mut caller) = (Vec::new(), Caller::to(address));
                // Neighbours begin at different places of the list, so that its requests are mixed in time.
                for request in bytes.iter().cycle().skip(place as usize) {
                    tokio::time::sleep_until(next).await;
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    next += step;
                    shots.push(caller.shoot(request).await);
                }
                shots
            });
        }
        Self { over, connections }
    }

    /// Lets it run for so long; returns every request in the order of sending.
    pub async fn run_for(self, span: Duration) -> Vec<Shot> {
        tokio::time::sleep(span).await;
        self.finish().await
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

/// Sends `count` requests at one moment, over connections that are open by then, to the replicas in turn. What is answered
/// 503 is repeated as the answer says, so often at most: each last answer, with the number of repeats before it.
pub async fn volley(replicas: &[SocketAddr], ask: &Ask, count: usize, repeats: usize) -> Vec<(Shot, usize)> {
    let bytes = Arc::new(ask.bytes());
    let ready = Arc::new(Barrier::new(count));
    let mut open = Vec::new();
    for place in 0..count {
        let mut caller = Caller::to(replicas[place % replicas.len()]);
        caller.wire = Some(Wire::open(caller.address).await);
        open.push(caller);
    }
    let mut callers = JoinSet::new();
    for mut caller in open {
        let (bytes, ready) = (Arc::clone(&bytes), Arc::clone(&ready));
        callers.spawn(async move {
            ready.wait().await;
            let mut shot = caller.shoot(&bytes).await;
            for repeat in 0..repeats {
                if shot.status != 503 {
                    return (shot, repeat);
                }
                tokio::time::sleep(shot.retry_after.unwrap_or(RETRY).min(RETRY)).await;
                shot = caller.shoot(&bytes).await;
            }
            (shot, repeats)
        });
    }
    callers.join_all().await
}

/// One request alone.
pub async fn one(address: SocketAddr, ask: &Ask) -> Shot {
    Caller::to(address).shoot(&ask.bytes()).await
}

/// A kept connection.
pub struct Caller {
    address: SocketAddr,
    wire: Option<Wire>,
}

impl Caller {
    /// To a replica.
    pub fn to(address: SocketAddr) -> Self {
        Self { address, wire: None }
    }

    /// One request; on a new connection where the kept one turns out to be closed.
    pub async fn shoot(&mut self, request: &[u8]) -> Shot {
        let sent = Instant::now();
        for fresh in [false, true] {
            if self.wire.is_none() || fresh {
                self.wire = open(self.address).await;
            }
            let Some(wire) = &mut self.wire else { break };
            let begun = Instant::now();
            wire.send(request).await;
            let answer = wire.answer().await;
            if answer.status == 0 && !fresh {
                continue;
            }
            if answer.status == 0 || answer.header("connection").eq_ignore_ascii_case("close") {
                self.wire = None;
            }
            return Self::told(sent, begun, &answer);
        }
        self.wire = None;
        let now = Instant::now();
        let (code, retry_after) = (String::new(), None);
        Shot { sent, first: now, ended: now, status: 0, code, retry_after, tokens: 0 }
    }

    fn told(sent: Instant, begun: Instant, answer: &Answer) -> Shot {
        let usage: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Shot {
            sent,
            first: begun + answer.first,
            ended: begun + answer.whole,
            status: answer.status,
            code: answer.code(),
            retry_after: answer.header("retry-after-ms").parse().ok().map(Duration::from_millis),
            tokens: usage["usage"]["total_tokens"].as_u64().unwrap_or(0),
        }
    }
}

/// `None`: nobody listens there, as after a kill.
async fn open(address: SocketAddr) -> Option<Wire> {
    tokio::net::TcpStream::connect(address).await.ok()?;
    Some(Wire::open(address).await)
}
