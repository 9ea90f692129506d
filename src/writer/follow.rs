//! Follows segments. Decides where a batch ends, what a damaged frame costs, and when a file may be deleted.

use super::database::{Batch, Database};
use super::error::WriterError;
use super::passed::Passed;
use crate::io::spool::frame::{self, Next, Tail};
use crate::io::spool::segment::{self, SegmentFile};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Most frames in one transaction.
pub const BATCH_FRAMES: usize = 1_000;
/// Most bytes read of a segment at once: a whole one and its last frame fit.
pub const READ_BYTES: u64 = segment::SEGMENT_BYTES + (frame::HEADER + frame::MAX_PAYLOAD) as u64;

/// Reads every segment from its position to its present end, as long as `go_on` says so.
///
/// # Errors
/// The disk or the database; the batch at hand is not committed then.
pub fn pass(spool_dir: &Path, database: &mut Database, go_on: &dyn Fn() -> bool) -> Result<Passed, WriterError> {
    let mut total = Passed::default();
    for found in segment::list(spool_dir).map_err(WriterError::io(spool_dir))? {
        if !go_on() {
            break;
        }
        total.add(follow(&found, database, go_on)?);
    }
    Ok(total)
}

fn follow(found: &SegmentFile, database: &mut Database, go_on: &dyn Fn() -> bool) -> Result<Passed, WriterError> {
    let at_fault = || WriterError::io(&found.path);
    let start = database.position(&found.name)?;
    // First whether anyone still writes, then the bytes: the other way round a frame could come in between.
    let (closed, bytes) = read(&found.path, start).map_err(at_fault())?;
    let whole = (bytes.len() as u64) < READ_BYTES;
    let tail = if closed && whole { Tail::Closed } else { Tail::Open };
    let mut done = Passed::default();
    let mut at = 0;
    loop {
        let mut batch = Batch { segment: &found.name, start: start + at as u64, end: 0, frames: Vec::new() };
        let mut finished = false;
        while batch.frames.len() < BATCH_FRAMES {
            match frame::next(&bytes, at, tail) {
                Next::Frame { payload, end, .. } => {
                    batch.frames.push((start + at as u64, payload));
                    at = end;
                }
                Next::Corrupt { end } => {
                    set_aside(found, start + at as u64, &bytes[at..end]).map_err(at_fault())?;
                    done.corrupt += 1;
                    at = end;
                }
                Next::Torn => {
                    done.torn += 1;
                    finished = true;
                    break;
                }
                Next::End => {
                    finished = true;
                    break;
                }
            }
        }
        batch.end = start + at as u64;
        if batch.end > batch.start {
            done.add(database.commit(&batch)?);
        }
        if finished {
            break;
        }
        if !go_on() {
            return Ok(done);
        }
    }
    if tail == Tail::Closed {
        // The commit is on disk (synchronous=FULL), so the rows no longer need the file.
        std::fs::remove_file(&found.path).map_err(at_fault())?;
        database.forget(&found.name)?;
        done.deleted += 1;
    }
    Ok(done)
}

fn read(path: &Path, start: u64) -> io::Result<(bool, Vec<u8>)> {
    let mut file = File::open(path)?;
    let closed = segment::is_closed(&file)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(READ_BYTES).read_to_end(&mut bytes)?;
    Ok((closed, bytes))
}

/// Keeps damaged bytes beside the segment; the name has the offset, so doing it again changes nothing.
fn set_aside(found: &SegmentFile, offset: u64, bytes: &[u8]) -> io::Result<()> {
    let path = found.path.with_extension(format!("{offset}.bad"));
    tracing::error!(segment = %found.name, offset, bytes = bytes.len(), kept = %path.display(), "a damaged piece of the spool was set aside");
    std::fs::write(&path, bytes)
}
