//! The ledger in Redis: names of keys, scripts, and the way to the server. Decides no amounts: the scripts do, with the
//! arithmetic of `logic/quota/ledger`. Decides how long a call may take, and that nobody is sent to a store that fails.

pub mod breaker;
pub mod connect;
mod keeper;
pub mod names;
pub mod script;
pub mod trouble;

use self::breaker::Breaker;
use self::connect::{Dialer, Unusable, Wire};
use self::keeper::Keeper;
use self::names::Names;
use self::script::Invocation;
use self::trouble::Trouble;
use crate::config::snapshot::{LimitBackend, RedisServers};
use crate::domain::units::Micros;
use crate::io::quota::ledgers::{Group, LedgerFault, Ledgers};
use crate::logic::quota::ledger::{Call, Correction, Reply};
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{ErrorKind, ServerErrorKind, Value};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// More than this no call may take, whatever is configured (semantics.md §3).
pub const MAX_TIMEOUT: Duration = Duration::from_millis(20);

/// For whom a call is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    /// A request waits: what is late is a fault.
    Request,
    /// Nobody waits: it may take the longest that any call may, and if it is late the keeper looks whether the store is
    /// well.
    Background,
}

/// The ledgers of all groups, in Redis. Dropping it ends what it runs in the background and closes its connections.
pub struct RedisLedgers {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

/// How calls went, since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Calls that were answered.
    pub answered: AtomicU64,
    /// Calls that were not answered in time.
    pub timeouts: AtomicU64,
    /// Calls that failed in another way.
    pub failed: AtomicU64,
    /// Calls that were not made because the breaker was open.
    pub left_alone: AtomicU64,
    /// How often the breaker has opened.
    pub opened: AtomicU64,
    /// Connections that were made.
    pub connections: AtomicU64,
}

/// What calls and the keeper share.
struct Shared {
    prefix: Arc<str>,
    timeout: Duration,
    /// Hosts and ports, for the log.
    place: String,
    started: Instant,
    wire: ArcSwapOption<Wire>,
    breaker: Mutex<Breaker>,
    /// The breaker is closed.
    up: AtomicBool,
    /// The same, for those who wait for it.
    ups: watch::Sender<bool>,
    /// There is something to do for the keeper.
    wake: Notify,
    /// Grows with each new connection: it may lead to another server.
    generation: AtomicU64,
    /// Nodes fail over behind one connection.
    is_cluster: bool,
    /// Where a probe writes: in the hash slot that failed last.
    probe_key: Mutex<String>,
    /// Troubles that were told since the breaker opened.
    told: Mutex<BTreeSet<&'static str>>,
    counts: Counts,
}

impl RedisLedgers {
    /// Begins to connect, on a runtime whose threads do nothing that blocks. Until that is done the breaker is open.
    ///
    /// # Errors
    /// [`Unusable`]: what is configured cannot be read.
    pub fn start(backend: &LimitBackend, runtime: &Handle) -> Result<Arc<Self>, Unusable> {
        let timeout = backend.timeout.min(MAX_TIMEOUT);
        let dialer = Dialer::new(&backend.servers, MAX_TIMEOUT)?;
        let shared = Arc::new(Shared {
            prefix: Arc::clone(&backend.prefix),
            timeout,
            place: dialer.place().to_owned(),
            started: Instant::now(),
            wire: ArcSwapOption::empty(),
            breaker: Mutex::new(Breaker::untried()),
            up: AtomicBool::new(false),
            ups: watch::Sender::new(false),
            wake: Notify::new(),
            generation: AtomicU64::new(0),
            is_cluster: matches!(backend.servers, RedisServers::Cluster(_)),
            probe_key: Mutex::new(Names::new(&backend.prefix, &Group::Shared).probe()),
            told: Mutex::default(),
            counts: Counts::default(),
        });
        let keeper = runtime.spawn(Keeper::new(Arc::clone(&shared), dialer).run()).abort_handle();
        Ok(Arc::new(Self { shared, keeper }))
    }

    /// Waits until the store can be used, or for so long. False: it cannot yet.
    pub async fn ready(&self, within: Duration) -> bool {
        let mut ups = self.shared.ups.subscribe();
        tokio::time::timeout(within, ups.wait_for(|up| *up)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// How calls went.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }
}

impl Drop for RedisLedgers {
    fn drop(&mut self) {
        self.keeper.abort();
        self.shared.wire.store(None);
    }
}

impl std::fmt::Debug for RedisLedgers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisLedgers").field("place", &self.shared.place).finish_non_exhaustive()
    }
}

#[async_trait]
impl Ledgers for RedisLedgers {
    async fn state(&self, group: &Group, call: &Call<'_>) -> Result<Vec<Reply>, LedgerFault> {
        self.shared.state(group, call, Caller::Request).await
    }

    async fn tell(&self, group: &Group, call: &Call<'_>) -> Result<Vec<Reply>, LedgerFault> {
        self.shared.state(group, call, Caller::Background).await
    }

    async fn correct(&self, group: &Group, corrections: &[Correction]) -> Result<Vec<i64>, LedgerFault> {
        let answer = self.shared.tell(group, &script::correct(&self.shared.prefix, group, corrections)).await?;
        script::deltas(&answer, corrections.len())
    }

    async fn beat(&self, replica: &str, ttl: Duration) -> Result<u64, LedgerFault> {
        let answer = self.shared.tell(&Group::Shared, &script::beat(&self.shared.prefix, replica, ttl)).await?;
        script::count(&answer)
    }

    async fn claim(&self, group: &Group, name: &str, by: &str, ttl: Duration) -> Result<bool, LedgerFault> {
        let mut command = redis::cmd("SET");
        command.arg(Names::new(&self.shared.prefix, group).claim(name)).arg(by).arg("NX");
        command.arg("PX").arg(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1));
        let ask = |wire: Arc<Wire>| async move { wire.ask(&command).await };
        let answer = self.shared.call(group, Caller::Background, ask).await?;
        Ok(!matches!(answer, Value::Nil))
    }

    async fn renew(&self, group: &Group, name: &str, by: &str, ttl: Duration) -> Result<bool, LedgerFault> {
        let answer = self.shared.tell(group, &script::renew(&self.shared.prefix, group, (name, by), ttl)).await?;
        script::kept(&answer)
    }

    fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Acquire)
    }

    fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    fn changes_unseen(&self) -> bool {
        self.shared.is_cluster
    }
}

impl Shared {
    fn now(&self) -> Micros {
        Micros::from(self.started.elapsed())
    }

    async fn state(&self, group: &Group, call: &Call<'_>, by: Caller) -> Result<Vec<Reply>, LedgerFault> {
        let answer = self.invoke(group, by, &script::state(&self.prefix, group, call)).await?;
        script::replies(&answer, call.statements.len())
    }

    async fn tell(&self, group: &Group, invocation: &Invocation) -> Result<Value, LedgerFault> {
        self.invoke(group, Caller::Background, invocation).await
    }

    async fn invoke(&self, group: &Group, by: Caller, invocation: &Invocation) -> Result<Value, LedgerFault> {
        self.call(group, by, |wire| async move {
            match wire.ask(&named(invocation, "EVALSHA", &invocation.script.sha1)).await {
                // The server was started anew, or is another one: it keeps what is sent once.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                    wire.ask(&named(invocation, "EVAL", invocation.script.text)).await
                }
                answer => answer,
            }
        })
        .await
    }

    /// One call, in bounded time whatever the client library does.
    async fn call<F>(&self, group: &Group, by: Caller, ask: impl FnOnce(Arc<Wire>) -> F) -> Result<Value, LedgerFault>
    where
        F: Future<Output = Result<Value, redis::RedisError>>,
    {
        if !self.up.load(Ordering::Acquire) {
            self.counts.left_alone.fetch_add(1, Ordering::Relaxed);
            return Err(LedgerFault::Open);
        }
        let wire = self.wire.load_full();
        let timeout = match by {
            Caller::Request => self.timeout,
            Caller::Background => MAX_TIMEOUT,
        };
        let done = match &wire {
            Some(wire) => timed(timeout, ask(Arc::clone(wire))).await,
            None => Err(Trouble::Connection("there is no connection".to_owned())),
        };
        let trouble = match done {
            Ok(answer) => {
                self.counts.answered.fetch_add(1, Ordering::Relaxed);
                return Ok(answer);
            }
            Err(trouble) => trouble,
        };
        if (by, &trouble) == (Caller::Background, &Trouble::Timeout) {
            self.wake.notify_one();
        } else {
            *self.probe_key.lock() = Names::new(&self.prefix, group).probe();
            self.failed(&trouble);
        }
        if let Some(wire) = wire.filter(|_| matches!(trouble, Trouble::Connection(_) | Trouble::ReadOnly)) {
            self.forget(&wire);
            self.wake.notify_one();
        }
        Err(match trouble {
            Trouble::Timeout => {
                self.counts.timeouts.fetch_add(1, Ordering::Relaxed);
                LedgerFault::Timeout(timeout)
            }
            other => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                LedgerFault::Failed(other.to_string())
            }
        })
    }

    async fn timed(&self, ask: impl Future<Output = Result<Value, redis::RedisError>>) -> Result<Value, Trouble> {
        timed(self.timeout, ask).await
    }

    /// Counts what failed: a call, a look or a probe.
    fn failed(&self, trouble: &Trouble) {
        let now = self.now();
        let opened = {
            let mut breaker = self.breaker.lock();
            let opened = breaker.fault(now);
            if opened {
                self.up.store(false, Ordering::Release);
            } else if !breaker.is_open() {
                return;
            }
            opened
        };
        if opened {
            self.ups.send_replace(false);
            self.counts.opened.fetch_add(1, Ordering::Relaxed);
            self.wake.notify_one();
        }
        // Once for each thing that is wrong, not for each call.
        if self.told.lock().insert(trouble.word()) {
            let (store, fault) = (&self.place, trouble.to_string());
            tracing::warn!(store, fault, "the limit store is left alone; each rule does what its on_store_error says");
        }
    }

    /// A probe ended.
    fn probed(&self, done: Result<(), &Trouble>) {
        let closed = {
            let mut breaker = self.breaker.lock();
            let closed = breaker.probed(done.is_ok(), self.now());
            if closed {
                self.up.store(true, Ordering::Release);
            }
            closed
        };
        if closed {
            self.told.lock().clear();
            self.ups.send_replace(true);
            tracing::info!(store = self.place, "the limit store is in use");
        }
        if let Err(trouble) = done {
            self.failed(trouble);
        }
    }

    /// This connection is of no more use.
    fn forget(&self, wire: &Arc<Wire>) {
        self.wire.rcu(|current| current.clone().filter(|current| !Arc::ptr_eq(current, wire)));
    }
}

async fn timed(
    timeout: Duration,
    ask: impl Future<Output = Result<Value, redis::RedisError>>,
) -> Result<Value, Trouble> {
    match tokio::time::timeout(timeout, ask).await {
        Ok(done) => done.map_err(|error| Trouble::of(&error)),
        Err(_late) => Err(Trouble::Timeout),
    }
}

fn named(invocation: &Invocation, command: &str, script: &str) -> redis::Cmd {
    let mut called = redis::cmd(command);
    called.arg(script).arg(invocation.keys.len()).arg(&invocation.keys).arg(&invocation.args);
    called
}
