//! Two proxies beside each other on one Postgres, with what pushes the changes of keys to them.

use super::stack::{Key, Recipe, Weir};
use crate::backend::Backends;
use crate::client::{Answer, Ask};
use crate::servers::{Postgres, Redis};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Body of a chat completion that the backend answers.
pub const CHAT: &str = r#"{"model":"m","messages":[{"role":"user","content":"Hello"}]}"#;

/// How changes reach the proxies at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Push {
    Notify,
    Redis,
}

/// The two proxies and their servers.
pub struct Fleet {
    pub proxies: Vec<Weir>,
    pub postgres: Postgres,
    /// The database's name.
    pub database: String,
    pub redis: Option<Redis>,
    pub backends: Backends,
}

impl Fleet {
    /// Starts everything; `more` are further top-level sections.
    pub async fn start(push: Push, more: &str) -> Self {
        let postgres = Postgres::start();
        let redis = (push == Push::Redis).then(Redis::start);
        let backends = Backends::start(1).await;
        let url = postgres.database();
        let database = url.rsplit('/').next().expect("a path").to_owned();
        let recipe = recipe(&backends, &url, redis.as_ref(), more);
        let proxies = (0..2).map(|_| Weir::start(&recipe)).collect();
        Self { proxies, postgres, database, redis, backends }
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.proxies.iter().map(|proxy| proxy.address).collect()
    }

    /// Makes a key and waits until both proxies take it.
    pub async fn key(&self, flags: &[&str]) -> Key {
        let key = self.proxies[0].create(flags);
        for proxy in &self.proxies {
            assert!(accepted(proxy.address, &key.text, Duration::from_secs(5)).await.is_some(), "a new key is taken");
        }
        key
    }
}

/// A proxy's recipe on these servers.
pub fn recipe(backends: &Backends, url: &str, redis: Option<&Redis>, more: &str) -> Recipe {
    let mut env = vec![("DATABASE_URL".to_owned(), url.to_owned())];
    let push = match redis {
        None => "notify",
        Some(redis) => {
            env.push(("REDIS_URL".to_owned(), redis.url()));
            "{ redis: { url: { env: REDIS_URL } } }"
        }
    };
    let store = format!(
        "store: {{ postgres: {{ url: {{ env: DATABASE_URL }} }}, push: {push}, poll: 2s, replica: \"@folder@/replica.db\" }}\n"
    );
    Recipe { rest: format!("{store}{more}"), env, ..Recipe::to(backends.addresses[0]) }
}

/// One light request.
pub async fn light(address: SocketAddr, key: &str) -> Answer {
    Ask::new("GET", "/light", key).send(address).await
}

/// Asks until a light request with this key is answered 200; how long that took, `None` if it took longer than `limit`.
pub async fn accepted(address: SocketAddr, key: &str, limit: Duration) -> Option<Duration> {
    until(address, key, 200, limit).await
}

/// Asks until a light request with this key has this status; how long that took, `None` if it took longer than `limit`.
pub async fn until(address: SocketAddr, key: &str, status: u16, limit: Duration) -> Option<Duration> {
    let started = Instant::now();
    loop {
        let asked = started.elapsed();
        if light(address, key).await.status == status {
            // The answer is of what was known when it was asked, or of later.
            return Some(asked);
        }
        if asked > limit {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
