//! The spool: a bounded queue into one named thread that owns the process's segments. Decides what is written
//! together, when it is synced, who is told, and when admission must stop; the form on disk is in `spool/`.

pub mod ballast;
pub mod frame;
pub mod level;
pub mod payload;
pub mod segment;

use crate::config::snapshot::Durability;
use crate::ports::AppendError;
use ballast::Ballast;
use level::Level;
use parking_lot::Mutex;
use segment::SegmentWriter;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Most bytes of frames in one `write(2)`.
pub const BATCH_BYTES: usize = 1 << 20;
/// Unsynced bytes that force a sync before its time, so that the copies in memory stay bounded.
pub const UNSYNCED_BYTES: usize = 4 << 20;
/// With `durability: power`: how long a record waits for others to share its sync.
pub const POWER_WINDOW: Duration = Duration::from_millis(5);
/// How often the directory is measured, a failed write is tried again, and open slots are synced.
pub const TICK: Duration = Duration::from_secs(1);
/// How long `close` waits for the thread.
pub const CLOSE_WAIT: Duration = Duration::from_secs(10);

/// What the spool needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its folder.
    pub dir: PathBuf,
    /// Whether an acknowledgement waits for the disk.
    pub durability: Durability,
    /// Group commit interval.
    pub fsync: Duration,
    /// Most records that can be on their way at once: the slots of the table.
    pub capacity: u32,
}

/// One record on its way to the disk.
#[derive(Debug)]
pub struct Item {
    /// The slot that it owns until it is written.
    pub slot: u32,
    /// Its number.
    pub seq: u64,
    /// What the frame carries.
    pub payload: Vec<u8>,
    /// Who waits for it.
    pub ack: oneshot::Sender<Result<(), AppendError>>,
}

/// What the spool's thread does for its owner.
pub trait Owner: Send {
    /// The record of this slot is written (or on disk, with `power`).
    fn written(&self, slot: u32);
    /// Called each [`TICK`], from the spool's thread.
    fn tick(&self, durability: Durability);
}

enum Message {
    Append(Item),
    Close,
}

/// The queue's near end.
#[derive(Debug)]
pub struct Spool {
    sender: SyncSender<Message>,
    thread: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

impl Spool {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread can be made, or the directory cannot be read.
    pub fn start(
        settings: Settings,
        segments: SegmentWriter,
        level: Arc<Level>,
        owner: Box<dyn Owner>,
    ) -> io::Result<Self> {
        level.measure(&settings.dir)?;
        let ballast = Ballast::new(&settings.dir, &level, settings.capacity);
        // A record in the queue owns a live slot, a slot is freed only after its record has left the queue, and a
        // slot has one record: there are never more records in the queue than slots. The one place more is `Close`'s,
        // which is sent once. So `try_send` never finds the queue full.
        let (sender, items) = sync_channel(settings.capacity as usize + 1);
        let (ending, ended) = sync_channel(1);
        let pump = Pump {
            items,
            settings,
            segments,
            level,
            owner,
            ballast,
            batch: Vec::new(),
            batched: Vec::new(),
            waiting: Vec::new(),
            sync_due: None,
            tick_due: Instant::now() + TICK,
        };
        let handle = std::thread::Builder::new().name("usage-spool".to_owned()).spawn(move || {
            pump.run();
            // The other end may have stopped waiting; that is its right.
            let _ = ending.send(());
        })?;
        Ok(Self { sender, thread: Mutex::new(Some(Running { handle, ended })) })
    }

    /// Hands a record over; never waits. If the thread is gone the record's ack says so.
    pub fn append(&self, item: Item) {
        use std::sync::mpsc::TrySendError;
        let Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) =
            self.sender.try_send(Message::Append(item))
        else {
            return;
        };
        if let Message::Append(item) = message {
            // Nobody listening is no fault: the receiver may be dropped.
            let _ = item.ack.send(Err(AppendError::Closed));
        }
    }

    /// Writes and syncs what was handed over, ends the thread, and waits for it at most [`CLOSE_WAIT`]. Further
    /// calls do nothing.
    ///
    /// # Errors
    /// The thread did not end in time, or it died.
    pub fn close(&self) -> io::Result<()> {
        let Some(running) = self.thread.lock().take() else { return Ok(()) };
        // An error says that the thread is gone already: the join below tells how.
        let _ = self.sender.send(Message::Close);
        match running.ended.recv_timeout(CLOSE_WAIT) {
            Err(RecvTimeoutError::Timeout) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the spool did not end in time"))
            }
            _ => running.handle.join().map_err(|_| io::Error::other("the spool's thread panicked")),
        }
    }
}

type Ack = Option<oneshot::Sender<Result<(), AppendError>>>;

/// The queue's far end: owns the segments.
struct Pump {
    items: Receiver<Message>,
    settings: Settings,
    segments: SegmentWriter,
    level: Arc<Level>,
    owner: Box<dyn Owner>,
    ballast: Ballast,
    /// Frames to write next; more than one batch only while the disk refuses, and then bounded by the slots.
    batch: Vec<u8>,
    /// Slot and ack of each frame in `batch`.
    batched: Vec<(u32, Ack)>,
    /// Written, not yet on disk (`power`).
    waiting: Vec<(u32, Ack)>,
    sync_due: Option<Instant>,
    tick_due: Instant,
}

impl Pump {
    fn run(mut self) {
        let mut open = true;
        while open {
            let due = self.sync_due.map_or(self.tick_due, |sync| sync.min(self.tick_due));
            match self.items.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(first) => open = self.collect(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
            if !self.batch.is_empty() {
                self.write();
            }
            let now = Instant::now();
            if self.sync_due.is_some_and(|due| due <= now) || self.segments.unsynced() > UNSYNCED_BYTES {
                self.sync();
            }
            if self.tick_due <= now {
                self.tick(now);
            }
        }
        self.write();
        self.sync();
        if let Err(error) = self.segments.close() {
            tracing::error!(%error, "the spool ended with frames that are not on disk");
        }
        for (_, ack) in self.batched.drain(..).chain(self.waiting.drain(..)) {
            tell(ack, Err(AppendError::Closed));
        }
    }

    /// Takes the first message and whatever else is queued; false once the owner wants the end.
    fn collect(&mut self, first: Message) -> bool {
        let mut message = first;
        loop {
            match message {
                Message::Append(item) => {
                    frame::encode(item.seq, &item.payload, &mut self.batch);
                    self.batched.push((item.slot, Some(item.ack)));
                }
                Message::Close => return false,
            }
            if self.batch.len() >= BATCH_BYTES {
                return true;
            }
            message = match self.items.try_recv() {
                Ok(next) => next,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return true,
            };
        }
    }

    fn write(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut written = self.segments.write(&self.batch);
        if written.is_err() && self.ballast.drop_it() {
            written = self.segments.write(&self.batch);
        }
        self.level.add(self.segments.take_fresh());
        if let Err(error) = written {
            self.level.set_failing(true);
            tracing::error!(%error, records = self.batched.len(), "the spool cannot be written; admission stops, the records are kept and tried again");
            for (_, ack) in &mut self.batched {
                tell(ack.take(), Err(AppendError::Io(error.to_string())));
            }
            return;
        }
        self.batch.clear();
        if self.batch.capacity() > 2 * BATCH_BYTES {
            self.batch.shrink_to(BATCH_BYTES);
        }
        match self.settings.durability {
            Durability::Process => {
                for (slot, ack) in self.batched.drain(..) {
                    self.owner.written(slot);
                    tell(ack, Ok(()));
                }
            }
            Durability::Power => self.waiting.append(&mut self.batched),
        }
        let window = match self.settings.durability {
            Durability::Process => self.settings.fsync,
            Durability::Power => POWER_WINDOW.min(self.settings.fsync),
        };
        self.sync_due.get_or_insert_with(|| Instant::now() + window);
    }

    fn sync(&mut self) {
        self.sync_due = None;
        if let Err(error) = self.segments.sync() {
            self.level.set_failing(true);
            tracing::error!(%error, bytes = self.segments.unsynced(), "the spool cannot be synced; admission stops, the frames are kept and tried again");
            for (_, ack) in &mut self.waiting {
                tell(ack.take(), Err(AppendError::Io(error.to_string())));
            }
            return;
        }
        for (slot, ack) in self.waiting.drain(..) {
            self.owner.written(slot);
            tell(ack, Ok(()));
        }
        if self.batch.is_empty() && self.ballast.is_whole() {
            self.level.set_failing(false);
        }
    }

    fn tick(&mut self, now: Instant) {
        self.tick_due = now + TICK;
        if self.level.failing() {
            self.write();
            self.sync();
            self.ballast.restore();
            if self.ballast.is_whole() && self.batch.is_empty() && self.segments.unsynced() == 0 {
                self.level.set_failing(false);
            }
        }
        if let Err(error) = self.level.measure(&self.settings.dir) {
            tracing::warn!(%error, dir = %self.settings.dir.display(), "the spool's size could not be measured");
        }
        self.owner.tick(self.settings.durability);
    }
}

fn tell(ack: Ack, result: Result<(), AppendError>) {
    if let Some(ack) = ack {
        // The receiver may be dropped: nobody has to wait.
        let _ = ack.send(result);
    }
}

#[cfg(test)]
mod tests;
