//! Keeps the way to Redis open: connects, looks whether it is well, opens and closes the breaker, and says so in the log
//! when that changes. Decides when; works in the background, so that no request waits for a connection.

use super::Shared;
use super::connect::{Dialer, Wire};
use super::trouble::Trouble;
use crate::domain::units::Micros;
use redis::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between two looks at a store that is well.
const LOOK_EACH: Duration = Duration::from_secs(1);
/// The same after one that failed: three of them open the breaker, and no request has to suffer for it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Looks at a store that is well between two questions to the sentinels whether its master is still the master.
const LOOKS_PER_MASTER: u32 = 3;
/// How long the question for the store's settings may take.
const SETTINGS: Duration = Duration::from_millis(500);
/// How long the probe's key lives, in milliseconds.
const PROBE_TTL_MS: u64 = 60_000;
/// A pause that is due already is taken all the same: a store that fails at once must not be hammered.
const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// What runs in the background.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    dialer: Dialer,
    looks: u32,
    /// What was said last of the memory policy.
    policy: Option<String>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, dialer: Dialer) -> Self {
        Self { shared, dialer, looks: 0, policy: None }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let pause = self.turn().await.max(LEAST_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    /// One look; gives when the next is due.
    async fn turn(&mut self) -> Duration {
        let due = self.shared.breaker.lock().probe_in(self.shared.now());
        if let Some(wait) = due.filter(|wait| *wait > Micros(0) && self.shared.wire.load().is_some()) {
            return Duration::from_micros(wait.0);
        }
        let Some(wire) = self.wire().await else { return self.until_probe() };
        match due {
            Some(_) => self.probe(&wire).await,
            None => self.look(&wire).await,
        }
    }

    /// The connection, made anew if there is none.
    async fn wire(&mut self) -> Option<Arc<Wire>> {
        let had = self.shared.wire.load_full();
        if had.is_some() {
            return had;
        }
        match self.dialer.connect().await {
            Ok(wire) => {
                let wire = Arc::new(wire);
                self.shared.counts.connections.fetch_add(1, Ordering::Relaxed);
                self.shared.wire.store(Some(Arc::clone(&wire)));
                self.shared.generation.fetch_add(1, Ordering::AcqRel);
                self.look_at_settings(&wire).await;
                Some(wire)
            }
            Err(trouble) => {
                self.shared.probed(Err(&trouble));
                None
            }
        }
    }

    /// While the breaker is open: may it close? Writes, where the last call failed: a store that only answers, or only
    /// elsewhere, is of no use.
    async fn probe(&mut self, wire: &Arc<Wire>) -> Duration {
        let key = self.shared.probe_key.lock().clone();
        let mut command = redis::cmd("SET");
        command.arg(key).arg(1).arg("PX").arg(PROBE_TTL_MS);
        let done = self.shared.timed(wire.ask(&command)).await;
        self.shared.probed(done.as_ref().map(|_| ()));
        match done {
            Ok(_) => LOOK_EACH,
            Err(trouble) => {
                if trouble.wants_new_connection() {
                    self.shared.forget(wire);
                }
                self.until_probe()
            }
        }
    }

    /// After a failure.
    fn until_probe(&self) -> Duration {
        let due = self.shared.breaker.lock().probe_in(self.shared.now());
        due.map_or(LOOK_AGAIN, |wait| Duration::from_micros(wait.0))
    }

    /// While it is closed: is it well, and the master?
    async fn look(&mut self, wire: &Arc<Wire>) -> Duration {
        let done = self.shared.timed(wire.ask(&redis::cmd("PING"))).await;
        if let Err(trouble) = done {
            self.shared.failed(&trouble);
            if let Trouble::Connection(_) | Trouble::ReadOnly = trouble {
                self.shared.forget(wire);
            }
            return LOOK_AGAIN;
        }
        self.looks += 1;
        if self.looks >= LOOKS_PER_MASTER {
            self.looks = 0;
            if self.dialer.has_moved().await {
                tracing::warn!(store = self.shared.place, "the limit store has a new master");
                self.shared.forget(wire);
                return Duration::ZERO;
            }
        }
        LOOK_EACH
    }

    /// A store that may drop counters to make room would give quota away.
    async fn look_at_settings(&mut self, wire: &Wire) {
        let mut command = redis::cmd("INFO");
        command.arg("memory");
        let Ok(Ok(answer)) = tokio::time::timeout(SETTINGS, wire.ask(&command)).await else { return };
        let mut found = BTreeSet::new();
        evicting(&answer, &mut found);
        let policy = found.into_iter().next();
        if let Some(policy) = policy.as_ref().filter(|policy| self.policy.as_ref() != Some(policy)) {
            tracing::warn!(
                store = self.shared.place,
                policy,
                "the limit store may drop counters when its memory is full: set maxmemory-policy to noeviction"
            );
        }
        self.policy = policy;
    }
}

/// Policies other than `noeviction` of servers with a bound on memory, out of `INFO memory` of one or of many.
fn evicting(answer: &Value, found: &mut BTreeSet<String>) {
    let text = match answer {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.into(),
        Value::Array(all) => return all.iter().for_each(|one| evicting(one, found)),
        Value::Map(nodes) => return nodes.iter().for_each(|(_node, one)| evicting(one, found)),
        _ => return,
    };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let unbounded = field("maxmemory").is_none_or(|bytes| bytes.trim() == "0");
    if let Some(policy) =
        field("maxmemory_policy").map(str::trim).filter(|policy| *policy != "noeviction" && !unbounded)
    {
        found.insert(policy.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(memory: &str, policy: &str) -> Value {
        Value::BulkString(format!("# Memory\r\nmaxmemory:{memory}\r\nmaxmemory_policy:{policy}\r\n").into_bytes())
    }

    #[test]
    fn only_servers_that_would_evict_are_found_one_by_one_or_among_a_clusters() {
        let found = |answer: &Value| {
            let mut found = BTreeSet::new();
            evicting(answer, &mut found);
            found.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(found(&info("1024", "allkeys-lru")), ["allkeys-lru"], "bounded, and may evict");
        assert!(found(&info("1024", "noeviction")).is_empty(), "it refuses writes instead");
        assert!(found(&info("0", "allkeys-lru")).is_empty(), "it has no bound to reach");
        let node = |name: &str, answer| (Value::BulkString(name.as_bytes().to_vec()), answer);
        let nodes =
            vec![node("a:1", info("0", "noeviction")), node("b:1", info("9", "volatile-ttl")), node("c:1", Value::Nil)];
        assert_eq!(found(&Value::Map(nodes)), ["volatile-ttl"], "one node of three is enough");
    }
}
