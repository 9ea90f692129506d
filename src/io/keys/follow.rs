//! The thread that follows the store. Decides when the store is looked at: when somebody rings or it is time; what a
//! look finds and does is `keys::look`'s.

use super::look::{Looker, Settings};
use super::{Keys, Pulse};
use crate::io::store::error::StoreError;
use crate::io::store::push::{self, Listener};
use crate::logic::access::directory::Directory;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two looks at the store, whoever rings: a storm of junk costs ten cheap queries a second.
const GAP: Duration = Duration::from_millis(100);

/// What was started.
pub struct Started {
    /// An authenticator for each name.
    pub keys: BTreeMap<String, Arc<Keys>>,
    /// Everyone; swapped whole when the store changes.
    pub directory: Arc<ArcSwap<Directory>>,
    /// How the keys stand, for `/ready` and metrics.
    pub pulse: Pulse,
    /// The thread.
    pub follower: Follower,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be used, now or later.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// More peppers than an entry can tell apart.
    #[error("at most {MAX_PEPPERS} `api_key` authenticators can have a pepper of their own")]
    TooManyPeppers,
    /// The system gives no thread.
    #[error("no thread to follow the key store: {0}")]
    Thread(#[from] std::io::Error),
}

/// Peppers of one configuration at most: their number is a byte in each entry.
const MAX_PEPPERS: usize = 256;

/// Opens the store (made where absent), reads it, and starts the thread that follows it. A store that is down is no
/// error: its copy serves, and without one every key is unavailable until the store answers.
///
/// # Errors
/// [`StartError`].
pub fn start(settings: Settings) -> Result<Started, StartError> {
    if settings.authenticators.len() > MAX_PEPPERS {
        return Err(StartError::TooManyPeppers);
    }
    let (bell, rung) = mpsc::sync_channel(1);
    let poll = settings.store.poll;
    let listener = push::listen(&settings.store, bell.clone())?;
    let (mut looker, keys) = Looker::new(settings, bell.clone());
    looker.first()?;
    let (directory, pulse) = (looker.directory(), looker.pulse());
    let stop = Arc::new(AtomicBool::new(false));
    let ringing = Ringing { rung, poll, stop: Arc::clone(&stop) };
    let thread = thread::Builder::new().name("weir-keys".to_owned()).spawn(move || ringing.run(&mut looker))?;
    let follower = Follower { stop, bell, thread: Some(thread), _listener: listener };
    Ok(Started { keys, directory, pulse, follower })
}

/// What the thread waits for.
struct Ringing {
    rung: Receiver<()>,
    poll: Duration,
    stop: Arc<AtomicBool>,
}

impl Ringing {
    fn run(self, looker: &mut Looker) {
        let mut last = Instant::now();
        loop {
            let woken = self.rung.recv_timeout(self.poll);
            if self.stop.load(Ordering::Acquire) || woken == Err(RecvTimeoutError::Disconnected) {
                return;
            }
            thread::sleep(GAP.saturating_sub(last.elapsed()));
            // Rings from before the look are answered by it. Taken before it begins: who rings later gets another.
            while self.rung.try_recv().is_ok() {}
            last = Instant::now();
            // Without this the keys would stay as they are until max_stale, and then every request would be refused.
            if catch_unwind(AssertUnwindSafe(|| looker.look())).is_err() {
                looker.after_panic();
            }
        }
    }
}

/// Owns the following thread; dropping it stops the thread and waits for it (at most one look at the store).
#[must_use = "dropping it stops the following"]
pub struct Follower {
    stop: Arc<AtomicBool>,
    bell: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
    _listener: Listener,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Full: the thread is about to wake anyway.
        let _rung = self.bell.try_send(());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that follows the key store had panicked");
        }
    }
}
