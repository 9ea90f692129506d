//! Connections to the store for the admin API. Decides how many calls wait for a store at once, and that a connection
//! which does not answer is not used again; blocking work runs on threads made for it.

use super::problem::Problem;
use crate::config::snapshot::Store as Settings;
use crate::domain::fault::RETRY_SOON;
use crate::domain::refusal::Refusal;
use crate::io::store::Store;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Calls that are in a database at once: more would wait for its lock anyway.
const MAX_IN_FLIGHT: usize = 16;
/// How long a call waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Connections that are kept open between calls.
const MAX_IDLE: usize = 4;

/// Work that may block, a bounded number at once.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Self {
        Self::new(MAX_IN_FLIGHT)
    }
}

impl Turns {
    /// As many at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)))
    }

    /// Does blocking work on a thread for it.
    ///
    /// # Errors
    /// The work's own; `Overloaded` where no turn came in time; `Internal` where the work panicked.
    pub async fn run<T, F>(&self, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Problem> + Send + 'static,
    {
        let overloaded = || Problem::Refused(Refusal::Overloaded { retry_after: RETRY_SOON });
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.0).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(overloaded()) };
        let done = tokio::task::spawn_blocking(move || {
            // Held to the work's end, also when nobody waits for it any more.
            let _turn = turn;
            work()
        });
        done.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a call of the admin API ended in a panic");
            Err(Problem::Refused(Refusal::Internal))
        })
    }
}

/// The stores of one configuration.
pub struct Stores {
    settings: Settings,
    idle: Mutex<Vec<Store>>,
    turns: Turns,
}

impl Stores {
    /// No connection yet; the first call makes one.
    #[must_use]
    pub fn new(settings: &Settings) -> Arc<Self> {
        Arc::new(Self { settings: settings.clone(), idle: Mutex::new(Vec::new()), turns: Turns::default() })
    }

    /// Gets something ready, and does it with a store: what is not ready needs no store to be refused.
    ///
    /// # Errors
    /// The work's own; 503 where the store does not answer.
    pub async fn run<A, T, R, F>(self: &Arc<Self>, ready: R, work: F) -> Result<T, Problem>
    where
        T: Send + 'static,
        R: FnOnce() -> Result<A, Problem> + Send + 'static,
        F: FnOnce(A, &mut Store) -> Result<T, Problem> + Send + 'static,
    {
        let stores = Arc::clone(self);
        let job = move || {
            let asked = ready()?;
            let mut store = stores.take()?;
            let done = work(asked, &mut store);
            if !matches!(&done, Err(Problem::Refused(_))) {
                stores.put_back(store);
            }
            done
        };
        self.turns.run(job).await
    }

    /// A connection that answers: a kept one, else a new one.
    fn take(&self) -> Result<Store, Problem> {
        loop {
            let kept = self.idle.lock().pop();
            let Some(mut store) = kept else { break };
            if store.stamp().is_ok() {
                return Ok(store);
            }
        }
        Store::open(&self.settings).map_err(|error| {
            tracing::warn!(%error, "the admin API cannot open the store");
            Problem::unavailable("store")
        })
    }

    fn put_back(&self, store: Store) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push(store);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::snapshot::{Push, StoreTarget};

    #[tokio::test]
    async fn what_a_caller_sent_is_checked_beside_the_listeners_thread_and_before_the_store_is_asked() {
        let settings = Settings {
            target: StoreTarget::Sqlite("/dev/null/nowhere.db".into()),
            push: Push::None,
            poll: Duration::from_secs(1),
            replica: "/dev/null/replica.db".into(),
        };
        let here = std::thread::current().id();
        let ready = move || {
            assert_ne!(std::thread::current().id(), here, "the listener's thread goes on meanwhile");
            Err::<(), _>(Problem::MediaType)
        };
        let done = Stores::new(&settings).run(ready, |(), _| Ok(())).await;
        assert_eq!(done, Err(Problem::MediaType), "the store is not there, and was not needed");
    }
}
