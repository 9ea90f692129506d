//! The life of the process by signals (pingora.md §14.5): TERM drains and exits as soon as idle, INT is fast, HUP
//! and USR1 never kill. Pingora's own graceful stop sleeps its whole grace period; this one ends when the work does.

use super::context::OpenRequests;
use crate::runtime::Abort;
use async_trait::async_trait;
use pingora_core::server::{ListenFds, ShutdownSignal, ShutdownSignalWatch, ShutdownWatch};
use pingora_core::services::{ServiceReadyNotifier, ServiceWithDependents};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// How often the drain looks whether it is done.
const LOOK: Duration = Duration::from_millis(5);
/// After the drain deadline: time for terminal error events to go out.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What a signal asks for, beyond ending.
pub type OnSignal = Box<dyn Fn() + Send + Sync>;

/// Owns the end of the process.
pub struct Drain {
    /// `/ready` fails and connections are not kept while this is true.
    pub draining: Arc<AtomicBool>,
    /// Open requests.
    pub open: Arc<OpenRequests>,
    /// True stops the listeners.
    pub stop: watch::Sender<bool>,
    /// True ends what still runs.
    pub abort: watch::Sender<Abort>,
    /// How long new connections are still taken after TERM.
    pub delay: Duration,
    /// How long running requests may take after that.
    pub timeout: Duration,
    /// HUP.
    pub on_reload: OnSignal,
    /// USR1.
    pub on_reopen: OnSignal,
}

impl Drain {
    /// Refuses readiness, waits for the work, ends what is left with a terminal event.
    async fn drain(&self) {
        let started = Instant::now();
        self.draining.store(true, Ordering::SeqCst);
        tracing::info!(open = self.open.count(), "Draining.");
        tokio::time::sleep(self.delay).await;
        self.stop.send_replace(true);
        self.wait_idle(Instant::now() + self.timeout).await;
        if self.open.count() > 0 {
            tracing::warn!(open = self.open.count(), "The drain deadline has passed; ending what still runs.");
            self.abort.send_modify(|abort| abort.all = true);
            self.wait_idle(Instant::now() + LAST_WORDS).await;
        }
        let took = started.elapsed();
        tracing::info!(
            took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            open = self.open.count(),
            "Drained."
        );
    }

    async fn wait_idle(&self, deadline: Instant) {
        while self.open.count() > 0 && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// A signal's stream; one that cannot be had never fires, and says so.
fn listen(kind: SignalKind, name: &str) -> Option<Signal> {
    signal(kind).map_err(|error| tracing::error!(%error, name, "This signal cannot be received.")).ok()
}

async fn next(signal: &mut Option<Signal>) {
    let fired = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if fired.is_none() {
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl ShutdownSignalWatch for Drain {
    /// Always ends in `FastShutdown`: the waiting was done here.
    async fn recv(&self) -> ShutdownSignal {
        let mut hup = listen(SignalKind::hangup(), "HUP");
        let mut reopen = listen(SignalKind::user_defined1(), "USR1");
        let mut term = listen(SignalKind::terminate(), "TERM");
        let mut quit = listen(SignalKind::quit(), "QUIT");
        let mut int = listen(SignalKind::interrupt(), "INT");
        loop {
            tokio::select! {
                () = next(&mut hup) => (self.on_reload)(),
                () = next(&mut reopen) => (self.on_reopen)(),
                () = next(&mut int) => return ShutdownSignal::FastShutdown,
                () = async { tokio::select! { () = next(&mut term) => {}, () = next(&mut quit) => {} } } => break,
            }
        }
        // INT cuts the waiting short; a second TERM changes nothing.
        tokio::select! {
            () = self.drain() => {}
            () = next(&mut int) => {}
        }
        ShutdownSignal::FastShutdown
    }
}

/// A service that follows our own stop signal instead of Pingora's.
pub struct Followed<S> {
    /// The service.
    pub service: S,
    /// Our signal.
    pub stop: ShutdownWatch,
    /// Set once the service runs.
    pub started: Arc<AtomicBool>,
}

#[async_trait]
impl<S: ServiceWithDependents> ServiceWithDependents for Followed<S> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        _shutdown: ShutdownWatch,
        listeners_per_fd: usize,
        ready: ServiceReadyNotifier,
    ) {
        self.started.store(true, Ordering::SeqCst);
        self.service.start_service(fds, self.stop.clone(), listeners_per_fd, ready).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads()
    }
}
