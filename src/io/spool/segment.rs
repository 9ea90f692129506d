//! Segments: files of frames that one process appends to. Decides naming, rotation, and what is done when the disk
//! says no; knows nothing of records.
//!
//! A segment that is being written is locked (`flock`). It gets its name only once it is locked, so "the lock can be
//! had" means "nobody will ever append to this again", whether its owner rotated, ended or was killed.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Size at which a segment is closed and the next one begun, bytes.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// Extension of segments.
pub const SEGMENT_EXT: &str = "seg";
/// Extension of files that only keep space.
pub const BALLAST_EXT: &str = "ballast";

/// Appends frames for one owner.
#[derive(Debug)]
pub struct SegmentWriter {
    dir: PathBuf,
    owner: String,
    number: u32,
    open: Option<OpenSegment>,
    /// Frames since the last successful sync. Bounded by the caller, who syncs in time or stops admission.
    unsynced: Vec<u8>,
    fresh: u64,
}

#[derive(Debug)]
struct OpenSegment {
    file: File,
    path: PathBuf,
    len: u64,
}

impl SegmentWriter {
    /// A writer that makes its first file with its first frame.
    #[must_use]
    pub fn new(dir: &Path, owner: &str) -> Self {
        Self { dir: dir.to_owned(), owner: owner.to_owned(), number: 0, open: None, unsynced: Vec::new(), fresh: 0 }
    }

    /// Appends whole frames with one `write(2)`.
    ///
    /// # Errors
    /// The disk said no. The segment is given up (its torn end is for readers to see); frames that were written but
    /// not synced are kept and go into the next segment first.
    pub fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        if self.open.as_ref().is_some_and(|open| open.len + frames.len() as u64 > SEGMENT_BYTES) {
            self.sync()?;
            self.open = None;
        }
        if self.open.is_none() {
            self.begin()?;
        }
        let Some(open) = self.open.as_mut() else { return Err(io::Error::other("no segment is open")) };
        if let Err(error) = open.file.write_all(frames) {
            if let Some(OpenSegment { path, len: 0, .. }) = self.open.take() {
                // Nothing whole is in it, and a full disk would otherwise collect one such file per attempt.
                remove_if_there(&path);
            }
            return Err(error);
        }
        open.len += frames.len() as u64;
        self.fresh += frames.len() as u64;
        self.unsynced.extend_from_slice(frames);
        Ok(())
    }

    /// Waits until everything written is on disk. After a failed sync Linux calls the pages clean, so a second sync
    /// of the same file would lie: the frames are written again, to a new segment.
    ///
    /// # Errors
    /// The new segment failed too; the frames are still kept for the next attempt.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        if let Some(open) = &self.open {
            match open.file.sync_data() {
                Ok(()) => {
                    self.unsynced.clear();
                    return Ok(());
                }
                Err(error) => {
                    tracing::error!(segment = %open.path.display(), %error, "a segment could not be synced; its frames go to a new one");
                    self.open = None;
                }
            }
        }
        self.begin()?;
        if let Some(Err(error)) = self.open.as_ref().map(|open| open.file.sync_data()) {
            self.open = None;
            return Err(error);
        }
        self.unsynced.clear();
        Ok(())
    }

    /// Syncs and closes; the next frame begins a new segment.
    ///
    /// # Errors
    /// As [`Self::sync`].
    pub fn close(&mut self) -> io::Result<()> {
        self.sync()?;
        self.open = None;
        Ok(())
    }

    /// Bytes that a crash of the host would lose now.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Bytes written since this was last asked.
    pub fn take_fresh(&mut self) -> u64 {
        std::mem::take(&mut self.fresh)
    }

    /// Makes the next file: locked, then named, then its name synced; leftover frames go in first.
    fn begin(&mut self) -> io::Result<()> {
        self.number += 1;
        let path = self.dir.join(format!("{}-{:08}.{SEGMENT_EXT}", self.owner, self.number));
        let unborn = path.with_extension(format!("{SEGMENT_EXT}.new"));
        let born = (|| {
            let mut file = File::options().append(true).create_new(true).open(&unborn)?;
            file.try_lock()?;
            file.write_all(&self.unsynced)?;
            std::fs::rename(&unborn, &path)?;
            sync_dir(&self.dir)?;
            Ok(file)
        })();
        match born {
            Ok(file) => {
                let len = self.unsynced.len() as u64;
                self.fresh += len;
                self.open = Some(OpenSegment { file, path, len });
                Ok(())
            }
            Err(error) => {
                // Nothing in it was promised to anyone by this file alone; a leftover would only take space.
                remove_if_there(&unborn);
                remove_if_there(&path);
                Err(error)
            }
        }
    }
}

fn remove_if_there(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(file = %path.display(), %error, "an empty segment could not be removed");
    }
}

/// Makes a directory's entries durable.
///
/// # Errors
/// The disk said no.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A segment on disk.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SegmentFile {
    /// `OWNER-NUMBER.seg`: sorts by owner's start and number.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// Every segment of a spool, oldest owner first, each owner's in order.
///
/// # Errors
/// The directory cannot be read.
pub fn list(dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let named = path.file_name().and_then(|name| name.to_str());
        if let (Some(name), Some(SEGMENT_EXT)) = (named, path.extension().and_then(|ext| ext.to_str())) {
            found.push(SegmentFile { name: name.to_owned(), path: path.clone() });
        }
    }
    found.sort();
    Ok(found)
}

/// True if nobody will append to this file again.
///
/// # Errors
/// The lock could not be asked for.
pub fn is_closed(file: &File) -> io::Result<bool> {
    match file.try_lock_shared() {
        Ok(()) => {
            file.unlock()?;
            Ok(true)
        }
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Bytes in a spool's directory, quarantined ones included, space that is only kept (`*.ballast`) not.
///
/// # Errors
/// The directory cannot be read. A file that vanishes meanwhile is none: the writer deletes segments.
pub fn bytes_in(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|ext| ext == BALLAST_EXT) {
            continue;
        }
        match entry.metadata() {
            Ok(found) => bytes += found.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_open_while_it_is_written_and_closed_afterwards() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut writer = SegmentWriter::new(dir.path(), "owner");
        assert!(list(dir.path()).expect("list").is_empty(), "no frame, no file");
        writer.write(b"abc").expect("written");
        let segment = list(dir.path()).expect("list").remove(0);
        let file = File::open(&segment.path).expect("open");
        assert!(!is_closed(&file).expect("asked"), "its writer lives");
        writer.close().expect("closed");
        assert!(is_closed(&file).expect("asked"), "its writer let go");
        writer.write(b"def").expect("written");
        let names: Vec<_> = list(dir.path()).expect("list").into_iter().map(|segment| segment.name).collect();
        assert_eq!(names, ["owner-00000001.seg", "owner-00000002.seg"], "a closed segment is never reopened");
        assert_eq!(bytes_in(dir.path()).expect("bytes"), 6, "three bytes each");
    }

    #[test]
    fn a_full_segment_is_followed_by_the_next() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut writer = SegmentWriter::new(dir.path(), "owner");
        let half = vec![1; SEGMENT_BYTES as usize / 2];
        for _ in 0..3 {
            writer.write(&half).expect("written");
        }
        let sizes: Vec<u64> =
            list(dir.path()).expect("list").iter().map(|found| found.path.metadata().expect("size").len()).collect();
        assert_eq!(sizes, [SEGMENT_BYTES, SEGMENT_BYTES / 2], "two halves fill a segment");
        assert_eq!(writer.unsynced(), half.len(), "rotation synced the first");
    }

    #[test]
    fn frames_of_a_segment_that_failed_are_written_again_to_the_next() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut writer = SegmentWriter::new(dir.path(), "owner");
        writer.write(b"first").expect("written");
        // A file opened for reading refuses every write, as a broken disk would.
        let open = writer.open.as_mut().expect("open");
        open.file = File::open(&open.path).expect("open");
        assert!(writer.write(b"second").is_err(), "the disk says no");
        writer.write(b"second").expect("the next segment takes it");
        let last = list(dir.path()).expect("list").pop().expect("segment");
        assert_eq!(std::fs::read(last.path).expect("read"), b"firstsecond", "what was not synced stands again");
    }

    #[test]
    fn nothing_is_left_behind_when_no_segment_can_be_begun() {
        let dir = tempfile::tempdir().expect("temp dir");
        let gone = dir.path().join("gone");
        let mut writer = SegmentWriter::new(&gone, "owner");
        assert!(writer.write(b"x").is_err(), "there is no directory");
        std::fs::create_dir(&gone).expect("made");
        writer.write(b"x").expect("now there is");
        assert_eq!(bytes_in(&gone).expect("bytes"), 1, "and only the frame is in it");
    }
}
