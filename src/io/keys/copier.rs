//! The thread that keeps the copy of a Postgres store. Decides how long a look waits for it: what was read is copied
//! before it counts, unless the disk is slow or hangs. Then it counts, and the copy is made up for by a later look.

use super::copy::{Copy, Job};
use crate::config::snapshot::Store as StoreSettings;
use crate::domain::ids::KeyId;
use crate::io::store::error::StoreError;
use crate::io::store::replica::Copied;
use crate::io::store::rows::Row;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

/// How long a look waits for its copy: enough for what usually changes, and far less than a revocation may take.
const MAX_WAIT: Duration = Duration::from_millis(100);
/// How long the end of the process waits for a copy that is being written.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// The copy, and the thread that writes it once there is something to write.
pub(super) struct Copier {
    path: PathBuf,
    settings: StoreSettings,
    /// Until the thread has it.
    copy: Option<Copy>,
    worker: Option<Worker>,
    /// What the busy thread could not be told.
    missed: Option<Job>,
    slow: bool,
}

impl Copier {
    pub(super) fn new(settings: StoreSettings) -> Self {
        let path = settings.replica.clone();
        Self { copy: Some(Copy::new(&path)), path, settings, worker: None, missed: None, slow: false }
    }

    /// Hands over what an earlier process has kept, and which keys were ever seen revoked. Only before the first
    /// [`Copier::keep`].
    pub(super) fn load(
        &mut self,
        row: &mut dyn FnMut(Row),
        revoked: &mut dyn FnMut(KeyId),
    ) -> Result<Option<Copied>, StoreError> {
        self.copy.as_mut().map_or(Ok(None), |copy| copy.load(row, revoked))
    }

    /// Has the copy brought up to date, and waits for it, but not for long.
    pub(super) fn keep(&mut self, job: Job) {
        if let Err(error) = self.start() {
            tracing::error!(%error, "no thread to write the copy of the key store: a restart would know less");
            return;
        }
        let Some(worker) = &mut self.worker else { return };
        if !worker.idle(Duration::ZERO) {
            self.missed = Some(job);
            return;
        }
        self.missed = None;
        match worker.give(job) {
            Ok(()) => {
                let slow = !worker.idle(MAX_WAIT);
                if slow && !self.slow {
                    tracing::warn!(path = %self.path.display(), "the copy of the key store is behind: nothing waits for it");
                }
                self.slow = slow;
            }
            Err(Gone) => {
                tracing::error!("the thread that writes the copy of the key store is gone; another one is started");
                self.worker = None;
            }
        }
    }

    fn start(&mut self) -> std::io::Result<()> {
        if self.worker.is_none() {
            let mut copy = self.copy.take().unwrap_or_else(|| Copy::new(&self.path));
            let settings = self.settings.clone();
            let mut store = None;
            self.worker = Some(Worker::start(move |job| copy.follow(&mut store, &settings, job))?);
        }
        Ok(())
    }
}

impl Drop for Copier {
    fn drop(&mut self) {
        let Some(worker) = &mut self.worker else { return };
        if worker.idle(LAST_WAIT)
            && let Some(job) = self.missed.take()
        {
            let _gone = worker.give(job);
        }
        if !worker.idle(LAST_WAIT) {
            tracing::warn!(path = %self.path.display(), "the copy of the key store is left behind");
        }
    }
}

/// The thread has ended.
struct Gone;

/// A thread that does one job at a time. Dropping it lets the thread end by itself: who hangs is not waited for.
struct Worker {
    jobs: SyncSender<Job>,
    done: Receiver<()>,
    busy: bool,
}

impl Worker {
    fn start(mut work: impl FnMut(&Job) + Send + 'static) -> std::io::Result<Self> {
        // One job is under way at most, so neither end ever waits for room.
        let (jobs, given) = mpsc::sync_channel::<Job>(1);
        let (finished, done) = mpsc::sync_channel(1);
        thread::Builder::new().name("weir-copy".to_owned()).spawn(move || {
            for job in given {
                work(&job);
                if finished.send(()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { jobs, done, busy: false })
    }

    /// Only who is idle is given something.
    fn give(&mut self, job: Job) -> Result<(), Gone> {
        self.jobs.try_send(job).map_err(|_| Gone)?;
        self.busy = true;
        Ok(())
    }

    /// True if it has nothing to do, at the latest after `wait`. A thread that is gone has nothing to do.
    fn idle(&mut self, wait: Duration) -> bool {
        if self.busy {
            self.busy = self.done.recv_timeout(wait) == Err(RecvTimeoutError::Timeout);
        }
        !self.busy
    }
}

#[cfg(test)]
impl Copier {
    /// One whose jobs are done by `work`.
    pub(super) fn with(settings: StoreSettings, work: impl FnMut(&Job) + Send + 'static) -> Self {
        let mut copier = Self::new(settings);
        copier.worker = Some(Worker::start(work).expect("a thread"));
        copier
    }
}
