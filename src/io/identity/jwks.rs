//! The keys of one issuer: fetched, kept, fetched again. Decides when to fetch and how long keys are good for; which
//! keys are usable is decided in `logic::access::jwt`. Requests read a snapshot and wait for a fetch only where a newer
//! key set may hold the key that they name.

mod provider;
mod window;

use crate::domain::units::WallMicros;
use crate::io::fetch::Fetch;
use crate::logic::access::jwt::KeySet;
use crate::ports::Clock;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use provider::{Provider, ProviderError};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::AbortHandle;
use url::Url;
use window::{Wanted, Window};

/// How long keys are good for while their issuer cannot be reached.
const MAX_STALE: Duration = Duration::from_secs(24 * 3600);
/// How long a request waits for a fetch.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Requests that may wait at once; they are held in memory, and whoever makes up a `kid` can send them.
const MAX_WAITING: usize = 256;
/// The first pause after a failed fetch; it doubles up to [`LONGEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause while the issuer fails.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// A key set and its age.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    /// The keys.
    pub(super) keys: KeySet,
    /// Another number where the keys are other ones.
    pub(super) generation: u64,
    /// The issuer said so then.
    said: WallMicros,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The issuer, as in `iss`.
    pub(super) issuer: String,
    /// The key set; `None`: as the issuer's discovery document names it.
    pub(super) url: Option<Url>,
    /// How often it is fetched.
    pub(super) refresh: Duration,
}

/// The keys of one issuer. Fetching ends when it is dropped.
pub(super) struct KeySource {
    shared: Arc<Shared>,
    task: Option<AbortHandle>,
}

struct Shared {
    loaded: ArcSwapOption<Loaded>,
    window: Mutex<Window>,
    wake: Notify,
    /// Fetches that have ended.
    ended: watch::Sender<u64>,
    waiting: Semaphore,
    clock: Arc<dyn Clock>,
}

impl Shared {
    fn new(loaded: Option<Loaded>, window: Window, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            loaded: ArcSwapOption::from_pointee(loaded),
            window: Mutex::new(window),
            wake: Notify::new(),
            ended: watch::Sender::new(0),
            waiting: Semaphore::new(MAX_WAITING),
            clock,
        })
    }
}

impl Drop for KeySource {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl KeySource {
    /// Keys that never change: a shared secret.
    pub(super) fn fixed(keys: KeySet, clock: Arc<dyn Clock>) -> Self {
        let loaded = Loaded { keys, generation: 0, said: WallMicros(i64::MAX) };
        Self { shared: Shared::new(Some(loaded), Window::closed(), clock), task: None }
    }

    /// Starts fetching on `runtime`; does not wait for the first answer.
    pub(super) fn start(place: Place, fetch: Fetch, clock: Arc<dyn Clock>, runtime: &Handle) -> Self {
        let shared = Shared::new(None, Window::fetching(), clock);
        let refresh = place.refresh;
        let provider = Provider::new(place.issuer, place.url, fetch);
        let task = runtime.spawn(keep(Arc::clone(&shared), provider, refresh));
        Self { shared, task: Some(task.abort_handle()) }
    }

    /// The keys, if the issuer has said them and not too long ago.
    pub(super) fn current(&self, now: WallMicros) -> Option<Arc<Loaded>> {
        let loaded = self.shared.loaded.load_full()?;
        let age = now.0.saturating_sub(loaded.said.0);
        (i128::from(age) <= MAX_STALE.as_micros().cast_signed()).then_some(loaded)
    }

    /// True if a fetch is on its way or may be started: [`KeySource::newer`] is worth waiting for.
    pub(super) fn may_have_newer(&self) -> bool {
        self.shared.window.lock().may_fetch(self.shared.clock.mono())
    }

    /// Waits until a fetch that was started for this, or was on its way, has ended; at most [`MAX_WAIT`]. Returns at
    /// once while the window is closed.
    pub(super) async fn newer(&self) {
        let Ok(_place) = self.shared.waiting.try_acquire() else { return };
        // Before the window is looked at, so that an end in between is seen.
        let mut ended = self.shared.ended.subscribe();
        let wanted = self.shared.window.lock().want(self.shared.clock.mono());
        match wanted {
            Wanted::Refused => return,
            Wanted::Started => self.shared.wake.notify_one(),
            Wanted::Joined => {}
        }
        // Whoever waited in vain is told by what they find in the snapshot.
        let _ = tokio::time::timeout(MAX_WAIT, ended.changed()).await;
    }
}

/// Fetches for as long as the source lives.
async fn keep(shared: Arc<Shared>, mut provider: Provider, refresh: Duration) {
    let mut failures = 0_u32;
    let mut scheduled = true;
    loop {
        shared.window.lock().begin();
        let outcome = provider.keys(scheduled).await;
        failures = match outcome {
            Ok(keys) => {
                accept(&shared, &provider, keys);
                0
            }
            Err(error) => {
                complain(&shared, &provider, &error);
                failures.saturating_add(1)
            }
        };
        shared.window.lock().end();
        shared.ended.send_modify(|ended| *ended += 1);
        tokio::select! {
            () = tokio::time::sleep(pause(refresh, failures, fastrand::f64())) => scheduled = true,
            () = shared.wake.notified() => scheduled = false,
        }
    }
}

/// Until the next fetch: `refresh` give or take a tenth, so that replicas do not ask together; sooner after failures.
fn pause(refresh: Duration, failures: u32, chance: f64) -> Duration {
    let base = match failures {
        0 => refresh,
        _ => FIRST_RETRY.saturating_mul(1 << (failures - 1).min(8)).min(LONGEST_RETRY).min(refresh),
    };
    base.mul_f64(0.9 + 0.2 * chance)
}

fn accept(shared: &Shared, provider: &Provider, keys: KeySet) {
    let before = shared.loaded.load_full();
    let generation = match &before {
        Some(before) if before.keys == keys => before.generation,
        Some(before) => before.generation + 1,
        None => 0,
    };
    if before.is_none_or(|before| before.generation != generation) {
        tracing::info!(issuer = provider.issuer(), keys = keys.len(), generation, "The issuer's keys are other ones.");
    }
    let said = shared.clock.wall();
    shared.loaded.store(Some(Arc::new(Loaded { keys, generation, said })));
}

fn complain(shared: &Shared, provider: &Provider, error: &ProviderError) {
    let kept = shared.loaded.load().is_some();
    tracing::warn!(issuer = provider.issuer(), %error, kept, "The issuer's keys could not be fetched.");
}

#[cfg(test)]
pub(super) mod tests;
