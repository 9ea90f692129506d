//! What dead processes left: their open requests become `crash` records in the recovering process's own spool.
//! Decides who is dead (whoever's lock can be had), which open slot already has its record, and what a crash record
//! says: that nobody pays for it, too.

use crate::domain::ids::RequestId;
use crate::domain::record::{Attempt, Status, UsageRecord};
use crate::domain::surface::Surface;
use crate::domain::tokens::{TokenCounts, UsageSource};
use crate::domain::units::{Tokens, WallMicros};
use crate::io::slots::layout::{DeadTable, SlotView, read_table};
use crate::io::slots::{NAMES_EXT, SLOTS_EXT, names, remove_table};
use crate::io::spool::frame::{self, Next, Tail};
use crate::io::spool::payload;
use crate::io::spool::segment::{self, BALLAST_EXT, SegmentWriter};
use crate::logic::money::billing::FAIR_V1;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a recovery did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Dead processes whose tables were read and removed.
    pub tables: u64,
    /// Crash records written.
    pub crashed: u64,
    /// Open slots whose record the dead process had written already.
    pub already_written: u64,
    /// Tables that could not be read; kept as `*.bad`.
    pub unreadable: u64,
    /// Segments whose torn tail was cut off.
    pub torn: u64,
}

/// Recovers every dead process's table. Its files are removed only once their crash records are on disk, so dying
/// here and starting again writes the same records again, and the same request id keeps the table from taking two.
///
/// # Errors
/// A directory cannot be read, or the own spool cannot be written. What is left is there for the next time.
pub fn recover(slots_dir: &Path, spool_dir: &Path, into: &mut SegmentWriter) -> io::Result<Recovered> {
    let mut done = Recovered::default();
    for path in with_extension(slots_dir, SLOTS_EXT)? {
        let Some((_lock, bytes)) = take_dead(&path)? else { continue };
        let table = match read_table(&bytes) {
            Ok(table) => table,
            Err(error) => {
                done.unreadable += 1;
                tracing::error!(file = %path.display(), %error, "a dead process's slot table cannot be read; it is kept as .bad");
                std::fs::rename(&path, path.with_extension("bad"))?;
                continue;
            }
        };
        recover_table(&path, spool_dir, &table, into, &mut done)?;
        remove_table(&path)?;
        done.tables += 1;
    }
    sweep(slots_dir, &format!("{SLOTS_EXT}.new"))?;
    sweep(spool_dir, BALLAST_EXT)?;
    Ok(done)
}

fn recover_table(
    path: &Path,
    spool_dir: &Path,
    table: &DeadTable,
    into: &mut SegmentWriter,
    done: &mut Recovered,
) -> io::Result<()> {
    let (written, torn) = written_requests(spool_dir, table)?;
    done.torn += torn;
    if table.live.is_empty() {
        return Ok(());
    }
    let names = match std::fs::read(path.with_extension(NAMES_EXT)) {
        Ok(text) => names::parse(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
        Err(error) => return Err(error),
    };
    let proxy_id = table.owner.to_string();
    let mut frames = Vec::new();
    for slot in &table.live {
        // The record was written and the process died before it freed the slot. The whole record must win, whichever
        // of the two the writer would meet first.
        if written.contains(&slot.request_id) {
            done.already_written += 1;
            continue;
        }
        let record = crash_record(slot, &proxy_id, &names);
        let payload = payload::encode(record).map_err(io::Error::other)?;
        frame::encode(slot.seq, &payload, &mut frames);
        done.crashed += 1;
        if frames.len() >= segment::SEGMENT_BYTES as usize / 4 {
            into.write(&frames)?;
            frames.clear();
        }
    }
    if !frames.is_empty() {
        into.write(&frames)?;
    }
    into.sync()
}

/// Request ids of open slots that have a whole record in the dead process's segments. A segment that vanishes
/// meanwhile was deleted by the writer after its rows were committed: then the database has the record already, and
/// takes no second one. Torn tails of those segments are cut off on the way.
fn written_requests(spool_dir: &Path, table: &DeadTable) -> io::Result<(HashSet<uuid::Uuid>, u64)> {
    let open: HashMap<u64, uuid::Uuid> = table.live.iter().map(|slot| (slot.seq, slot.request_id)).collect();
    let (mut written, mut torn) = (HashSet::new(), 0);
    let prefix = format!("{}-", table.owner);
    let mut segments = segment::list(spool_dir)?;
    segments.retain(|found| found.name.starts_with(&prefix));
    if open.is_empty() {
        // Nothing to look for: only the last segment can have a torn tail, and a start must not read a full spool.
        segments.drain(..segments.len().saturating_sub(1));
    }
    for found in segments {
        // No lock is asked for: the caller holds the dead table's, and the writer may hold this one for an instant.
        let file = match File::options().read(true).write(true).open(&found.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let bytes = read_all(&file)?;
        let mut at = 0;
        loop {
            match frame::next(&bytes, at, Tail::Closed) {
                Next::Frame { seq, payload, end } => {
                    at = end;
                    let Some(request) = open.get(&seq) else { continue };
                    if payload::decode(payload).is_ok_and(|record| record.request_id.0 == *request) {
                        written.insert(*request);
                    }
                }
                // The writer sets damaged bytes aside and counts them.
                Next::Corrupt { end } => at = end,
                Next::Torn => {
                    file.set_len(at as u64)?;
                    torn += 1;
                    break;
                }
                Next::End => break,
            }
        }
    }
    Ok((written, torn))
}

/// What is known of a request that was open when its process died (semantics.md §5, rules on `crash`).
fn crash_record(slot: &SlotView, proxy_id: &str, names: &HashMap<u32, String>) -> UsageRecord {
    let name = |number: u32| (number != 0).then(|| names.get(&number).cloned()).flatten();
    let surface = name(slot.surface).unwrap_or_else(|| Surface::Http.name().to_owned());
    let is_llm = surface != Surface::Http.name();
    let mut record = UsageRecord::new(RequestId(slot.request_id), proxy_id, slot.seq, &surface);
    record.status = Status::Crash;
    record.config_version = name(slot.config);
    record.ts_received = slot.received;
    record.ts_admitted = Some(slot.admitted);
    record.ts_first_token = (slot.progress.first_token != 0).then_some(WallMicros(slot.progress.first_token));
    record.ts_end = slot.last;
    record.tenant_id = name(slot.tenant);
    record.team_id = name(slot.team);
    record.user_id = name(slot.user);
    record.key_id = slot.key.and_then(|key| key.resolve(name));
    record.secret_gen = record.key_id.is_some().then_some(slot.secret_gen);
    record.auth_method = name(slot.auth);
    record.stream = slot.stream;
    record.route_id = name(slot.route);
    record.model_requested = name(slot.model).filter(|model| !model.is_empty());
    record.pool = name(slot.pool);
    record.backend_id = name(slot.backend);
    record.bytes_in = slot.bytes_in;
    record.bytes_out = slot.progress.bytes_out;
    record.sse_events = slot.progress.sse_events;
    if is_llm {
        let (counts, source) = counts_of(slot);
        record.set_counts(counts, source);
        record.delivered_output = Some(Tokens(slot.progress.delivered));
        // Whatever the prices are, nobody pays for our crash; what it cost is not known here.
        record.billable_cost_nano_usd = Some(0);
        record.billing_policy = Some(FAIR_V1.to_owned());
    }
    record.attempts = record
        .backend_id
        .iter()
        .map(|backend_id| Attempt {
            n: u32::try_from(slot.attempts).unwrap_or(u32::MAX),
            backend_id: backend_id.clone(),
            outcome: "crash".to_owned(),
            http_status: None,
            started: slot.dispatched,
            ended: slot.last,
        })
        .collect();
    record
}

/// The upstream's own counts where they were seen; never more than it said.
fn counts_of(slot: &SlotView) -> (TokenCounts, UsageSource) {
    let said = |plus_one: u64| plus_one.checked_sub(1).map(Tokens);
    let counts = TokenCounts {
        input_total: said(slot.progress.input_plus_one),
        output_total: said(slot.progress.output_plus_one),
        ..TokenCounts::default()
    };
    let source = match (counts.input_total, counts.output_total, slot.progress.delivered) {
        (_, Some(_), _) => UsageSource::UpstreamContinuous,
        (Some(_), None, _) => UsageSource::UpstreamPartial,
        (None, None, 0) => UsageSource::None,
        (None, None, _) => UsageSource::ChunkCount,
    };
    (counts, source)
}

/// The file with its lock and its bytes, if its owner is dead and it is still there.
fn take_dead(path: &Path) -> io::Result<Option<(File, Vec<u8>)>> {
    let file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(error)) => return Err(error),
    }
    // Another recovery may have been first: then this is a file without a name, and its work is done.
    if file.metadata()?.nlink() == 0 {
        return Ok(None);
    }
    let bytes = read_all(&file)?;
    Ok(Some((file, bytes)))
}

fn read_all(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes files of dead processes that hold nothing: tables that were never named, kept space.
fn sweep(dir: &Path, extension: &str) -> io::Result<()> {
    for path in with_extension(dir, extension)? {
        // A process that starts right now makes its file and then locks it; a minute is far more than it needs.
        let young = path
            .metadata()
            .and_then(|found| found.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age.as_secs() < 60));
        let Ok(file) = File::open(&path) else { continue };
        if young || file.try_lock().is_err() {
            continue;
        }
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if extension != BALLAST_EXT
            && let Err(error) = std::fs::remove_file(path.with_extension("").with_extension(NAMES_EXT))
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Files of a directory whose name ends with `.EXTENSION`, oldest first.
fn with_extension(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let suffix = format!(".{extension}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(&suffix)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
