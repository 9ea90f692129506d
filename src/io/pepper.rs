//! The pepper: a configured value, or a file of the state folder that is made on first use. Decides that one file
//! wins when two processes make it at once, and refuses one that others may read.

use crate::config::snapshot::{PepperSource, Secret};
use crate::logic::access::digest::{EmptyPepper, Pepper};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// Random bytes of a pepper that is made here; twice as many hex letters are in the file.
const RANDOM_BYTES: usize = 32;
/// Bytes of a pepper file at most.
const MAX_FILE_BYTES: u64 = 4096;
/// Permission bits that let others in.
const OTHERS: u32 = 0o077;

/// Why there is no pepper.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    /// The file cannot be read or made.
    #[error("pepper {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than its owner may use the file.
    #[error(
        "pepper {path} has mode {mode:04o}, so others may read it: run `chmod 600 {path}`; \
             if somebody may have read it, make a new pepper and new keys"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is larger than any pepper.
    #[error("pepper {path} is larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no randomness.
    #[error("no random bytes for a new pepper: {0}")]
    Random(getrandom::Error),
    /// There is nothing in it.
    #[error(transparent)]
    Empty(#[from] EmptyPepper),
}

/// The pepper, ready to hash with.
///
/// # Errors
/// [`PepperError`].
pub fn load(source: &PepperSource) -> Result<Pepper, PepperError> {
    Ok(Pepper::new(&secret(source)?.0)?)
}

/// The pepper's bytes, without blanks and line ends behind them (for other uses than keys: `cache_salt`). Made on
/// first use where the source is a state file.
///
/// # Errors
/// [`PepperError`].
pub fn secret(source: &PepperSource) -> Result<Secret, PepperError> {
    let bytes = match source {
        PepperSource::Value(secret) => Zeroizing::new(secret.0.trim_ascii_end().to_vec()),
        PepperSource::StateFile(path) => {
            let failed = |source| PepperError::File { path: path.clone(), source };
            if !path.try_exists().map_err(failed)? {
                make(path)?;
            }
            read(path)?
        }
    };
    if bytes.is_empty() {
        return Err(EmptyPepper.into());
    }
    Ok(Secret(Arc::new(bytes)))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, PepperError> {
    let failed = |source| PepperError::File { path: path.to_owned(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & OTHERS != 0 {
        return Err(PepperError::Exposed { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_FILE_BYTES as usize + 1));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(PepperError::TooLarge { path: path.to_owned() });
    }
    let end = text.trim_ascii_end().len();
    text.truncate(end);
    Ok(text)
}

/// Writes a file of our own in full, then gives it the name, unless somebody else was faster: a hard link, unlike a
/// rename, never replaces. So nobody sees half a pepper, and all see the same one.
fn make(path: &Path) -> Result<(), PepperError> {
    let failed = |source| PepperError::File { path: path.to_owned(), source };
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    let pepper = random_hex(RANDOM_BYTES)?;
    let draft = dir.join(format!(".pepper.{}", random_hex(8)?.as_str()));
    let made = write_new(&draft, pepper.as_bytes()).and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => File::open(dir)?.sync_all(),
    });
    // The draft goes in either case; if it was never made there is nothing to remove.
    match fs::remove_file(&draft) {
        Err(error) if made.is_ok() => Err(failed(error)),
        _ => made.map_err(failed),
    }
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn random_hex(bytes: usize) -> Result<Zeroizing<String>, PepperError> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut random = Zeroizing::new(vec![0; bytes]);
    getrandom::fill(&mut random).map_err(PepperError::Random)?;
    let mut text = Zeroizing::new(String::with_capacity(2 * bytes));
    for byte in random.iter() {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn a_missing_pepper_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("var/pepper");
        let source = PepperSource::StateFile(path.clone());
        let first = load(&source).expect("made on first use");
        let again = load(&source).expect("read on the second");
        assert_eq!(first.id(), again.id(), "the same pepper both times");
        assert_eq!(fs::metadata(&path).expect("a file").mode() & 0o7777, 0o600, "nobody else may read it");
        assert_eq!(fs::read(&path).expect("its text").len(), 64, "32 random bytes in hex");
        assert_eq!(fs::read_dir(dir.path().join("var")).expect("a folder").count(), 1, "no draft is left behind");
    }

    #[test]
    fn processes_that_race_for_the_pepper_end_with_the_same_one() {
        const RACERS: usize = 8;
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pepper");
        let start = Barrier::new(RACERS);
        let racer = || {
            start.wait();
            // Straight to `make`, so that each of them believes that there is no file yet.
            make(&path).expect("made, or found made");
            load(&PepperSource::StateFile(path.clone())).expect("read").id().to_owned()
        };
        let ids: Vec<String> = thread::scope(|scope| {
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(racer)).collect();
            racers.into_iter().map(|one| one.join().expect("no panic")).collect()
        });
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "all have one pepper: {ids:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "no draft is left behind");
    }

    #[test]
    fn a_pepper_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("pepper");
        fs::write(&path, "secret").expect("written");
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let error = load(&PepperSource::StateFile(path.clone())).expect_err("must be refused");
            assert!(error.to_string().contains("chmod 600"), "mode {mode:o} says the remedy: {error}");
        }
    }

    #[test]
    fn an_empty_pepper_is_refused_and_a_line_end_is_not_part_of_one() {
        let of = |text: &str| load(&PepperSource::Value(Secret(Arc::new(Zeroizing::new(text.into())))));
        assert!(matches!(of("\n"), Err(PepperError::Empty(_))), "an empty line is no pepper");
        let (bare, lined) = (of("abc").expect("a pepper"), of("abc\n").expect("a pepper"));
        assert_eq!(bare.id(), lined.id(), "an editor's line end changes nothing");
    }
}
