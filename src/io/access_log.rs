//! The access log: one JSON object per request and line, written by a thread of its own so that no request ever
//! waits for a disk. Decides which requests are logged; what is in a line is [`line`]'s business.
//!
//! The way to the thread is bounded. When it is full, lines are dropped, counted, and said once.

use crate::ports::Ended;
use parking_lot::Mutex;
use prometheus::IntCounter;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

mod line;

/// Lines on their way to the thread at most: at 1 KiB each, 8 MiB, and at 10,000 requests per second most of a
/// second of a disk that does not answer.
const QUEUE_LINES: usize = 8_192;
/// How long a flush waits before it tries again to get into a full queue.
const FLUSH_RETRY: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    /// Nothing to write: look at the reopen flag.
    Wake,
    Flush(SyncSender<()>),
}

/// What writers of lines and the thread both see.
#[derive(Debug)]
struct Shared {
    reopen: AtomicBool,
    said: AtomicBool,
    dropped: IntCounter,
}

impl Shared {
    /// Counts lost lines; only the first loss is said, or a full disk would fill the next one.
    fn lost(&self, lines: u64, why: &str) {
        self.dropped.inc_by(lines);
        if !self.said.swap(true, Ordering::Relaxed) {
            tracing::warn!(why, "Access log lines are being dropped; the metric counts how many.");
        }
    }
}

/// The log's writing end. Dropping it writes what is queued and ends the thread.
#[derive(Debug)]
pub struct AccessLog {
    queue: Option<SyncSender<Message>>,
    shared: Arc<Shared>,
    sample: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AccessLog {
    /// Opens the log and starts its thread. `/dev/stdout` and `/dev/stderr` are this process's own streams;
    /// `dropped` counts lines that were not written (`Metrics::log_dropped`).
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or the thread cannot be started.
    pub fn start(path: &Path, sample: f64, dropped: IntCounter) -> io::Result<Self> {
        let sink = Sink::open(path)?;
        Self::start_with(sink, sample, dropped)
    }

    fn start_with(sink: Sink, sample: f64, dropped: IntCounter) -> io::Result<Self> {
        let (queue, lines) = sync_channel(QUEUE_LINES);
        let shared = Arc::new(Shared { reopen: AtomicBool::new(false), said: AtomicBool::new(false), dropped });
        let seen = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || run(&lines, sink, &seen))?;
        let log = Self { queue: Some(queue), shared, sample: AtomicU64::new(0), thread: Mutex::new(Some(thread)) };
        log.set_sample(sample);
        Ok(log)
    }

    /// Changes the share of requests that are logged, 0 to 1; ones that went wrong always are.
    pub fn set_sample(&self, sample: f64) {
        self.sample.store((sample.clamp(0.0, 1.0) * u64::MAX as f64) as u64, Ordering::Relaxed);
    }

    /// Logs a request that ended. Never waits.
    pub fn write(&self, ended: &Ended) {
        if !self.wanted(ended) {
            return;
        }
        match line::encode(ended) {
            Ok(line) => self.send(Message::Line(line)),
            Err(fault) => self.shared.lost(1, &fault.to_string()),
        }
    }

    /// Opens the path anew before the next line: after a rotation. On failure the old file stays in use.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // A full queue wakes the thread anyway.
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(Message::Wake);
        }
    }

    /// Waits until what was logged so far is handed to the system. False: it took longer than `wait`.
    #[must_use]
    pub fn flush(&self, wait: Duration) -> bool {
        let Some(queue) = &self.queue else { return false };
        let until = Instant::now() + wait;
        let (done, heard) = sync_channel(1);
        let mut message = Message::Flush(done);
        loop {
            match queue.try_send(message) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => message = back,
                Err(_) => return false,
            }
            std::thread::sleep(FLUSH_RETRY);
        }
        heard.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok()
    }

    /// The choice is the request id's own: the same request is logged by every replica or by none. Of a UUIDv7's
    /// low 64 bits the upper two are fixed, the rest is random.
    fn wanted(&self, ended: &Ended) -> bool {
        let (_, low) = ended.record.request_id.0.as_u64_pair();
        line::went_wrong(ended) || low << 2 < self.sample.load(Ordering::Relaxed)
    }

    fn send(&self, message: Message) {
        let Some(queue) = &self.queue else { return };
        match queue.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.shared.lost(1, "the queue is full: the log's disk is too slow"),
            Err(TrySendError::Disconnected(_)) => self.shared.lost(1, "the log's thread has ended"),
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("The access log's thread panicked.");
        }
    }
}

/// Where lines go.
struct Sink {
    out: BufWriter<Box<dyn Write + Send>>,
    /// `None` for the process's own streams, which cannot be rotated.
    path: Option<PathBuf>,
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        // Opened by name, a stream that is a socket (as systemd gives) would be refused.
        let (out, path): (Box<dyn Write + Send>, _) = match path.to_str() {
            Some("/dev/stdout") => (Box::new(io::stdout()), None),
            Some("/dev/stderr") => (Box::new(io::stderr()), None),
            _ => (Box::new(append_to(path)?), Some(path.to_owned())),
        };
        Ok(Self { out: BufWriter::new(out), path })
    }

    fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = append_to(path)?;
        self.out.flush()?;
        self.out = BufWriter::new(Box::new(file));
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Writes until every sender is gone; flushes whenever there is nothing to do.
fn run(lines: &Receiver<Message>, mut sink: Sink, shared: &Shared) {
    loop {
        let message = match lines.try_recv() {
            Ok(message) => message,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                flush(&mut sink, shared);
                let Ok(message) = lines.recv() else { break };
                message
            }
        };
        if shared.reopen.swap(false, Ordering::Acquire)
            && let Err(fault) = sink.reopen()
        {
            tracing::error!(%fault, "The access log could not be reopened; the old file stays in use.");
        }
        match message {
            Message::Line(line) => {
                if let Err(fault) = sink.out.write_all(&line) {
                    shared.lost(1, &fault.to_string());
                }
            }
            Message::Wake => {}
            Message::Flush(done) => {
                flush(&mut sink, shared);
                // Whoever waited may have given up.
                let _ = done.send(());
            }
        }
    }
    flush(&mut sink, shared);
}

/// A failed flush keeps the lines in the buffer for the next try, so it is said and not counted.
fn flush(sink: &mut Sink, shared: &Shared) {
    if let Err(fault) = sink.out.flush() {
        shared.lost(0, &fault.to_string());
    }
}

#[cfg(test)]
mod tests;
