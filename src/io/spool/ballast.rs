//! Space kept for requests in flight on a disk that fills up by others' doing. Decides its size; the spool drops it
//! when a write fails, stops admission, and takes the space back when there is some again.

use super::level::Level;
use super::segment::BALLAST_EXT;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Bytes kept per slot: a record with a usage object and two attempts takes about 2 KiB.
pub const BYTES_PER_RECORD: u64 = 2 << 10;
/// Most of the spool that the ballast may take, percent.
pub const MAX_PERCENT: u64 = 4;

/// A file of zeros, locked while its process lives so that recovery can sweep those of the dead.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The open file holds the space and the lock.
    Held { _file: File },
    /// Given back; to be taken again.
    Spent,
    /// The disk was full from the start: nothing to give, nothing to wait for.
    Without,
}

impl Ballast {
    /// Takes the space, if it is there. Without it the process runs on: only the guarantee for a full disk is weaker,
    /// and a warning says so.
    #[must_use]
    pub fn new(dir: &Path, level: &Level, slots: u32) -> Self {
        let bytes = (u64::from(slots) * BYTES_PER_RECORD).min(level.max() / 100 * MAX_PERCENT);
        let path = dir.join(format!("{}.{BALLAST_EXT}", uuid::Uuid::now_v7()));
        let mut ballast = Self { path, bytes, state: State::Spent };
        ballast.restore();
        if !ballast.is_whole() {
            ballast.state = State::Without;
        }
        ballast
    }

    /// Gives the space back; true if there was some to give.
    pub fn drop_it(&mut self) -> bool {
        if !matches!(self.state, State::Held { .. }) {
            return false;
        }
        self.state = State::Spent;
        self.remove()
    }

    /// Tries to have the space again.
    pub fn restore(&mut self) {
        if !matches!(self.state, State::Spent) {
            return;
        }
        match fill(&self.path, self.bytes) {
            Ok(file) => self.state = State::Held { _file: file },
            Err(error) => {
                tracing::warn!(%error, bytes = self.bytes, "there is no space to keep for requests in flight");
                self.remove();
            }
        }
    }

    /// True while nothing is missing that could be had.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !matches!(self.state, State::Spent)
    }

    fn remove(&self) -> bool {
        match std::fs::remove_file(&self.path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::error!(%error, file = %self.path.display(), "kept space could not be given back");
                false
            }
        }
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.drop_it();
    }
}

fn fill(path: &Path, bytes: u64) -> io::Result<File> {
    let mut file = File::create(path)?;
    file.try_lock()?;
    let zeros = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(zeros.len() as u64);
        file.write_all(&zeros[..now as usize])?;
        left -= now;
    }
    file.sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_space_is_given_back_once_and_taken_again() {
        let dir = tempfile::tempdir().expect("temp dir");
        let size =
            || std::fs::read_dir(dir.path()).expect("dir").map(|e| e.expect("entry").metadata().expect("len").len());
        let mut ballast = Ballast::new(dir.path(), &Level::new(100 << 20), 10);
        assert_eq!(size().sum::<u64>(), 10 * BYTES_PER_RECORD, "space for ten records");
        assert!(ballast.drop_it(), "it was there");
        assert!(!ballast.drop_it() && !ballast.is_whole(), "and is gone now");
        assert_eq!(size().count(), 0, "the file system has it back");
        ballast.restore();
        assert!(ballast.is_whole(), "it is kept again");
        drop(ballast);
        assert_eq!(size().count(), 0, "an end leaves nothing behind");
    }
}
