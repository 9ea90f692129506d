//! The way of usage out of the proxy: a slot at admission, a frame at the end. Puts slot table, spool and recovery
//! together behind [`ports::UsageLog`]; decides only when admission is refused and in which order things end.

use crate::config::snapshot::{Durability, Usage};
use crate::domain::ids::{BackendId, PoolId};
use crate::domain::record::UsageRecord;
use crate::io::recovery::{self, Recovered};
use crate::io::slots::SlotTable;
use crate::io::spool::level::Level;
use crate::io::spool::segment::SegmentWriter;
use crate::io::spool::{self, Item, Owner, Spool, payload};
use crate::ports::{self, AdmitError, AppendError, Birth, Clock, Progress, Ticket};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Why usage cannot be kept; the process must not serve then.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct OpenError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Usage on disk: slot table and spool of this process.
pub struct UsageLog {
    proxy_id: String,
    next_seq: AtomicU64,
    slots: Arc<SlotTable>,
    spool: Spool,
    level: Arc<Level>,
    clock: Arc<dyn Clock>,
    recovered: Recovered,
    written: Arc<AtomicU64>,
}

impl std::fmt::Debug for UsageLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageLog").field("proxy_id", &self.proxy_id).field("open", &self.slots.open()).finish()
    }
}

impl UsageLog {
    /// Makes the folders, recovers what dead processes left, and starts this process's own table and spool.
    ///
    /// # Errors
    /// [`OpenError`] names the file or folder and what was wrong with it.
    pub fn open(settings: &Usage, clock: Arc<dyn Clock>) -> Result<Arc<Self>, OpenError> {
        let spool_dir = &settings.spool.dir;
        for dir in [spool_dir, &settings.slots_dir] {
            std::fs::create_dir_all(dir).map_err(failed("the folder cannot be made:", dir))?;
        }
        let owner = Uuid::now_v7();
        let mut segments = SegmentWriter::new(spool_dir, &owner.to_string());
        let recovered = recovery::recover(&settings.slots_dir, spool_dir, &mut segments)
            .map_err(failed("what the last process left cannot be recovered in", &settings.slots_dir))?;
        if recovered != Recovered::default() {
            tracing::info!(?recovered, "usage of dead processes was recovered");
        }
        let slots = SlotTable::create(&settings.slots_dir, owner, settings.slots)
            .map_err(failed("the slot table cannot be made in", &settings.slots_dir))?;
        let slots = Arc::new(slots);
        let level = Arc::new(Level::new(settings.spool.max_bytes));
        let spool_settings = spool::Settings {
            dir: spool_dir.clone(),
            durability: settings.spool.durability,
            fsync: settings.spool.fsync,
            capacity: settings.slots,
        };
        let written = Arc::new(AtomicU64::new(0));
        let table = Box::new(Table { slots: Arc::clone(&slots), written: Arc::clone(&written) });
        let spool = Spool::start(spool_settings, segments, Arc::clone(&level), table)
            .map_err(failed("the spool cannot be started in", spool_dir))?;
        let next_seq = AtomicU64::new(1);
        Ok(Arc::new(Self { proxy_id: owner.to_string(), next_seq, slots, spool, level, clock, recovered, written }))
    }

    /// Bytes in the spool's folder, all processes together.
    #[must_use]
    pub fn spool_bytes(&self) -> u64 {
        self.level.bytes()
    }

    /// Requests that are open: slots taken.
    #[must_use]
    pub fn open_slots(&self) -> u32 {
        self.slots.open()
    }

    /// Records that are in the spool, written since the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// True while the spool takes new requests.
    #[must_use]
    pub fn admits(&self) -> bool {
        self.level.admits()
    }

    /// What `open` recovered.
    #[must_use]
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Writes and syncs every record that was handed over, ends the thread (at most [`spool::CLOSE_WAIT`]) and
    /// removes the slot table, unless requests are still open: then it stays for recovery. Further calls do nothing.
    ///
    /// # Errors
    /// The spool did not end in time, or a file could not be removed.
    pub fn close(&self) -> io::Result<()> {
        self.spool.close()?;
        let open = self.slots.retire()?;
        if open > 0 {
            tracing::warn!(open, "requests were open at the end; recovery will write crash records for them");
        }
        Ok(())
    }
}

impl Drop for UsageLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the usage log did not end well");
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError { what, path, source }
}

/// What the spool's thread does with the slot table.
struct Table {
    slots: Arc<SlotTable>,
    written: Arc<AtomicU64>,
}

impl Owner for Table {
    fn written(&self, slot: u32) {
        self.slots.release(slot);
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    fn tick(&self, durability: Durability) {
        // Killing the process loses no page of the mapping; only a host's end does, and only `power` promises that.
        if durability == Durability::Power
            && let Err(error) = self.slots.sync()
        {
            tracing::warn!(%error, "open slots could not be synced");
        }
    }
}

impl ports::UsageLog for UsageLog {
    fn admit(&self, birth: &Birth) -> Result<Ticket, AdmitError> {
        if !self.level.admits() {
            return Err(AdmitError::SpoolFull);
        }
        let (slot, seq) = self.slots.admit(birth, || self.next_seq.fetch_add(1, Ordering::Relaxed))?;
        Ok(Ticket { slot, seq })
    }

    fn dispatched(&self, ticket: &Ticket, pool: &PoolId, backend: &BackendId) {
        if let Err(error) = self.slots.dispatched(ticket.slot, pool, backend, self.clock.wall()) {
            tracing::warn!(%error, %backend, "a name could not be written; a crash record would not say the backend");
        }
    }

    fn progress(&self, ticket: &Ticket, progress: &Progress) {
        self.slots.progress(ticket.slot, progress, self.clock.wall());
    }

    fn append(&self, ticket: Ticket, mut record: UsageRecord) -> oneshot::Receiver<Result<(), AppendError>> {
        let (ack, told) = oneshot::channel();
        // The ticket is the authority on who numbers records: a gap in `seq` must mean a lost record.
        record.seq = ticket.seq;
        if record.proxy_id != self.proxy_id {
            record.proxy_id.clone_from(&self.proxy_id);
        }
        match payload::encode(record) {
            Ok(payload) => self.spool.append(Item { slot: ticket.slot, seq: ticket.seq, payload, ack }),
            Err(error) => {
                // Nobody listening is no fault; the slot stays and recovery writes a crash record.
                let _ = ack.send(Err(AppendError::Io(error.to_string())));
            }
        }
        told
    }

    fn proxy_id(&self) -> &str {
        &self.proxy_id
    }
}
