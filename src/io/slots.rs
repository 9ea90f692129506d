//! The slot table: one mapped file per process with a place for every request in flight. Decides who gets which slot
//! and in which order words are stored; what a dead process's slots mean for the bill is `io/recovery`.
//!
//! Progress is a few plain stores and no system call, and it survives `kill -9` because the pages belong to the
//! kernel. The file is locked (`flock`) for as long as its process lives: who gets the lock may recover it.

pub mod layout;
pub mod map;
pub mod names;

use crate::domain::ids::{BackendId, PoolId};
use crate::domain::units::WallMicros;
use crate::ports::{AdmitError, Birth, Progress};
use layout as at;
use layout::{KeyWords, SLOT_BYTES, SLOT_WORDS, SlotView, pair};
use map::WordMap;
use names::{Names, Origin};
use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, fence};
use uuid::Uuid;

/// Extension of slot files.
pub const SLOTS_EXT: &str = "slots";
/// Extension of names files.
pub const NAMES_EXT: &str = "names";
/// How often a reader tries again while a writer is inside; a writer is inside for nanoseconds.
const READ_TRIES: usize = 64;

/// One process's table.
#[derive(Debug)]
pub struct SlotTable {
    path: PathBuf,
    /// Holds the lock: closing it says that the owner is dead.
    _lock: File,
    map: WordMap,
    names: Names,
    free: Mutex<Free>,
    slots: u32,
}

#[derive(Debug)]
struct Free {
    slots: Vec<u32>,
    /// How many slots were open when the table was retired.
    retired: Option<u32>,
}

impl SlotTable {
    /// Makes the table of a new process: `OWNER.slots` and `OWNER.names` in `dir`.
    ///
    /// # Errors
    /// The files cannot be made, filled, locked or mapped.
    pub fn create(dir: &Path, owner: Uuid, slots: u32) -> io::Result<Self> {
        let path = dir.join(format!("{owner}.{SLOTS_EXT}"));
        let unborn = dir.join(format!("{owner}.{SLOTS_EXT}.new"));
        let names = Names::create(&path.with_extension(NAMES_EXT))?;
        let mut file = File::options().read(true).write(true).create_new(true).open(&unborn)?;
        file.try_lock()?;
        // Real zeros, not a hole: on a full disk a store into a hole would kill the process with SIGBUS.
        for _ in 0..=slots {
            file.write_all(&[0; SLOT_BYTES])?;
        }
        file.sync_all()?;
        let map = WordMap::new(&file)?;
        let header = map.words();
        let (high, low) = owner.as_u64_pair();
        header[at::H_SLOTS].store(u64::from(slots), Ordering::Relaxed);
        header[at::H_OWNER].store(high, Ordering::Relaxed);
        header[at::H_OWNER + 1].store(low, Ordering::Relaxed);
        header[0].store(at::MAGIC, Ordering::Release);
        // Only a locked and complete table gets the name that recovery looks for.
        std::fs::rename(&unborn, &path)?;
        let free = Mutex::new(Free { slots: (0..slots).rev().collect(), retired: None });
        Ok(Self { path, _lock: file, map, names, free, slots })
    }

    /// Takes a free slot and writes the request's identity into it. `seq` is asked for only once nothing can fail.
    ///
    /// # Errors
    /// No slot is free, or the disk takes no new name.
    pub fn admit(&self, birth: &Birth, seq: impl FnOnce() -> u64) -> Result<(u32, u64), AdmitError> {
        let identity = self.identity(birth).map_err(|error| {
            tracing::error!(%error, file = %self.names.path().display(), "a name could not be written; admission refused");
            AdmitError::SpoolFull
        })?;
        let slot = self.free.lock().slots.pop().ok_or(AdmitError::TableFull)?;
        let seq = seq();
        let words = self.slot(slot);
        enter(words);
        for word in &words[at::STATE..] {
            word.store(0, Ordering::Relaxed);
        }
        for (word, value) in identity {
            words[word].store(value, Ordering::Relaxed);
        }
        words[at::SEQ].store(seq, Ordering::Relaxed);
        // Last, and released: a slot that a crash leaves live has its identity in full.
        words[at::STATE].store(1, Ordering::Release);
        leave(words);
        Ok((slot, seq))
    }

    fn identity(&self, birth: &Birth) -> io::Result<[(usize, u64); 14]> {
        let name = |name: &str| self.names.number(name, Origin::Operator);
        let maybe = |text: &Option<String>| text.as_deref().map_or(Ok(0), name);
        let key = match &birth.key {
            None => KeyWords([0; 2]),
            Some(key) => match KeyWords::inline(key.as_str()) {
                Some(words) => words,
                None => KeyWords::named(name(key.as_str())?),
            },
        };
        let flags = if birth.stream { at::FLAG_STREAM } else { 0 } | if birth.key.is_some() { at::FLAG_KEY } else { 0 };
        let model = self.names.number(&birth.model, Origin::Caller)?;
        let (high, low) = birth.request_id.0.as_u64_pair();
        let admitted = birth.admitted.0.cast_unsigned();
        Ok([
            (at::REQUEST, high),
            (at::REQUEST + 1, low),
            (at::RECEIVED, birth.received.0.cast_unsigned()),
            (at::ADMITTED, admitted),
            (at::TENANT_TEAM, pair(name(birth.tenant.as_str())?, maybe(&birth.team)?)),
            (at::USER_MODEL, pair(maybe(&birth.user)?, model)),
            (at::KEY, key.0[0]),
            (at::KEY + 1, key.0[1]),
            (at::ROUTE_CONFIG, pair(name(birth.route.as_str())?, name(&birth.config_version)?)),
            (at::SURFACE_AUTH, pair(name(birth.surface.name())?, name(birth.auth_method)?)),
            (at::SECRET_FLAGS, pair(birth.secret_gen, flags)),
            (at::BYTES_IN, birth.bytes_in),
            (at::LAST, admitted),
            (at::DISPATCHED, 0),
        ])
    }

    /// Notes where an attempt went. Every word is whole by itself, so this takes no lock.
    ///
    /// # Errors
    /// A new name could not be written; the slot says nothing of this backend then.
    pub fn dispatched(&self, slot: u32, pool: &PoolId, backend: &BackendId, now: WallMicros) -> io::Result<()> {
        let names = pair(
            self.names.number(pool.as_str(), Origin::Operator)?,
            self.names.number(backend.as_str(), Origin::Operator)?,
        );
        let words = self.slot(slot);
        words[at::ATTEMPTS].fetch_add(1, Ordering::Relaxed);
        words[at::DISPATCHED].store(now.0.cast_unsigned(), Ordering::Relaxed);
        words[at::LAST].store(now.0.cast_unsigned(), Ordering::Relaxed);
        words[at::POOL_BACKEND].store(names, Ordering::Release);
        Ok(())
    }

    /// Notes how far a request has come. One caller per slot at a time: the request's own task.
    pub fn progress(&self, slot: u32, progress: &Progress, now: WallMicros) {
        let words = self.slot(slot);
        enter(words);
        // In this order and released one by one: a crash in between never shows more delivered than received.
        for (word, value) in [
            (at::INPUT, progress.input_plus_one),
            (at::OUTPUT, progress.output_plus_one),
            (at::FIRST_TOKEN, progress.first_token.cast_unsigned()),
            (at::DELIVERED, progress.delivered),
            (at::BYTES_OUT, progress.bytes_out),
            (at::EVENTS, progress.sse_events),
            (at::LAST, now.0.cast_unsigned()),
        ] {
            words[word].store(value, Ordering::Release);
        }
        leave(words);
    }

    /// Frees a slot: its record is written.
    pub fn release(&self, slot: u32) {
        let words = self.slot(slot);
        enter(words);
        words[at::STATE].store(0, Ordering::Release);
        leave(words);
        let mut free = self.free.lock();
        if free.retired.is_none() {
            free.slots.push(slot);
        }
    }

    /// What a slot says now: one consistent moment of it. `None` if it is free.
    #[must_use]
    pub fn read(&self, slot: u32) -> Option<SlotView> {
        let words = self.slot(slot);
        for _ in 0..READ_TRIES {
            let before = words[at::LOCK].load(Ordering::Acquire);
            let mut copy = [0; SLOT_WORDS];
            for (to, from) in copy.iter_mut().zip(words) {
                *to = from.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && words[at::LOCK].load(Ordering::Relaxed) == before {
                return SlotView::of(&copy);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Slots that are taken.
    #[must_use]
    pub fn open(&self) -> u32 {
        let free = self.free.lock();
        free.retired.unwrap_or_else(|| self.slots.saturating_sub(free.slots.len() as u32))
    }

    /// Slots in all.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Writes names and slots to disk and waits: what `durability: power` keeps of open requests.
    ///
    /// # Errors
    /// The disk said no.
    pub fn sync(&self) -> io::Result<()> {
        self.names.sync()?;
        self.map.flush()
    }

    /// Ends the table: no slot is given from here on. Without open slots its files are removed; with some they stay
    /// for recovery, and their number is returned. Further calls change nothing.
    ///
    /// # Errors
    /// A file could not be removed.
    pub fn retire(&self) -> io::Result<u32> {
        let mut free = self.free.lock();
        if let Some(open) = free.retired {
            return Ok(open);
        }
        let open = self.slots.saturating_sub(free.slots.len() as u32);
        free.slots.clear();
        free.retired = Some(open);
        if open == 0 {
            remove_table(&self.path)?;
        }
        Ok(open)
    }

    fn slot(&self, slot: u32) -> &[AtomicU64] {
        let start = (slot as usize + 1) * SLOT_WORDS;
        &self.map.words()[start..start + SLOT_WORDS]
    }
}

/// Removes a slot file and its names. The names go last: slots without names would be crash records of nobody.
///
/// # Errors
/// A file could not be removed; an absent names file is none.
pub fn remove_table(slots: &Path) -> io::Result<()> {
    std::fs::remove_file(slots)?;
    match std::fs::remove_file(slots.with_extension(NAMES_EXT)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the lock odd. There is one writer per slot, so a plain store will do.
fn enter(words: &[AtomicU64]) {
    let lock = words[at::LOCK].load(Ordering::Relaxed);
    words[at::LOCK].store(lock.wrapping_add(1) | 1, Ordering::Relaxed);
    fence(Ordering::Release);
}

/// Makes the lock even again, after every store before it.
fn leave(words: &[AtomicU64]) {
    let lock = words[at::LOCK].load(Ordering::Relaxed);
    words[at::LOCK].store(lock.wrapping_add(1), Ordering::Release);
}

#[cfg(test)]
mod tests;
