//! L5: the sidecar writer: spool to database. Decides what is read next and when a segment may go; the rows are
//! `writer/row`, the database is `writer/database`.
//!
//! One transaction has a batch's rows, the roll-ups of the rows really inserted, and the read position. So dying at
//! any instant loses nothing and doubles nothing, and the proxy never waits for a database.

pub mod database;
pub mod error;
pub mod follow;
pub mod passed;
pub mod row;
pub mod schema;

pub use error::WriterError;
pub use passed::Passed;

use crate::config::snapshot::Usage;
use crate::io::recovery;
use crate::io::spool::segment::SegmentWriter;
use database::Database;
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Pause between two looks at an idle spool; a row is visible within this and one commit.
pub const POLL: Duration = Duration::from_millis(100);
/// Pause after the database refused a batch.
pub const RETRY: Duration = Duration::from_secs(1);
/// How often dead processes are looked for.
pub const RECOVER_EVERY: Duration = Duration::from_secs(5);
/// How long the last pass may go on after the order to stop.
pub const LAST_PASS: Duration = Duration::from_secs(5);
/// The lock file of a spool's one writer.
pub const LOCK_FILE: &str = "writer.lock";

/// A writer at work: holds the spool's lock and the database.
#[derive(Debug)]
pub struct Writer {
    spool_dir: PathBuf,
    slots_dir: PathBuf,
    _lock: File,
    database: Database,
    /// Crash records of processes that nobody restarted go through a spool of the writer's own.
    recovered: SegmentWriter,
}

impl Writer {
    /// Takes the spool and opens the database.
    ///
    /// # Errors
    /// [`WriterError`]: another writer is there, or a file cannot be opened.
    pub fn open(settings: &Usage) -> Result<Self, WriterError> {
        let spool_dir = settings.spool.dir.clone();
        for dir in [&spool_dir, &settings.slots_dir] {
            std::fs::create_dir_all(dir).map_err(WriterError::io(dir))?;
        }
        let path = spool_dir.join(LOCK_FILE);
        let lock =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(WriterError::io(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(WriterError::AlreadyRunning(spool_dir)),
            Err(TryLockError::Error(source)) => return Err(WriterError::Io { path, source }),
        }
        let mut database = Database::open(&settings.sqlite)?;
        database.forget_deleted(&spool_dir)?;
        let recovered = SegmentWriter::new(&spool_dir, &uuid::Uuid::now_v7().to_string());
        Ok(Self { spool_dir, slots_dir: settings.slots_dir.clone(), _lock: lock, database, recovered })
    }

    /// Turns what dead processes left into crash records.
    ///
    /// # Errors
    /// A directory cannot be read or the spool not be written; the next call tries again.
    pub fn recover(&mut self) -> Result<recovery::Recovered, WriterError> {
        let done = recovery::recover(&self.slots_dir, &self.spool_dir, &mut self.recovered)
            .map_err(WriterError::io(&self.slots_dir))?;
        // Closed at once, so that it can be deleted like any other that is read to its end.
        self.recovered.close().map_err(WriterError::io(&self.spool_dir))?;
        if done != recovery::Recovered::default() {
            tracing::info!(recovered = ?done, "usage of dead processes was recovered");
        }
        Ok(done)
    }

    /// Reads every segment to its present end and deletes those that are done.
    ///
    /// # Errors
    /// The database or the disk refused a batch; it is whole in the spool and the next pass begins with it.
    pub fn pass(&mut self) -> Result<Passed, WriterError> {
        self.pass_until(None)
    }

    fn pass_until(&mut self, deadline: Option<Instant>) -> Result<Passed, WriterError> {
        let go_on = || deadline.is_none_or(|deadline| Instant::now() < deadline);
        follow::pass(&self.spool_dir, &mut self.database, &go_on)
    }
}

/// Follows the spool until `stop`; then reads what is there (at most [`LAST_PASS`]) and ends. A database that refuses
/// is tried again each [`RETRY`]: the spool keeps everything meanwhile.
///
/// # Errors
/// [`WriterError`], only for what is wrong from the start.
pub fn run(settings: &Usage, stop: &AtomicBool) -> Result<Passed, WriterError> {
    let mut writer = Writer::open(settings)?;
    let mut total = Passed::default();
    let mut recover_due = Instant::now();
    tracing::info!(spool = %settings.spool.dir.display(), database = %settings.sqlite.display(), "the usage writer is at work");
    while !stop.load(Ordering::Relaxed) {
        if recover_due <= Instant::now() {
            recover_due = Instant::now() + RECOVER_EVERY;
            if let Err(error) = writer.recover() {
                tracing::error!(%error, "dead processes' usage could not be recovered; it stays and is tried again");
            }
        }
        let stopped = || !stop.load(Ordering::Relaxed);
        match follow::pass(&writer.spool_dir, &mut writer.database, &stopped) {
            Ok(passed) => {
                total.add(passed);
                if passed.frames == 0 {
                    std::thread::sleep(POLL);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a batch was refused; it stays in the spool and is tried again");
                wait(RETRY, stop);
            }
        }
    }
    total.add(writer.pass_until(Some(Instant::now() + LAST_PASS))?);
    Ok(total)
}

/// Waits, but no longer than until the order to stop.
fn wait(span: Duration, stop: &AtomicBool) {
    let until = Instant::now() + span;
    while Instant::now() < until && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(POLL.min(span));
    }
}
