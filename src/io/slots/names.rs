//! Names by number: what a slot's 32-bit numbers stand for. Decides numbering and its bounds; knows nothing of slots.
//!
//! The file beside the slot table has a line per name, `CRC32C(hex) NUMBER JSON-STRING`, appended with one `write`
//! before the number is first used, so that a dead process's numbers can always be read.

use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Most names that the operator gives (tenants, teams, users, routes, pools, backends, configuration versions).
pub const MAX_NAMES: usize = 1 << 18;
/// Most names that callers can invent (models behind a glob): a share, so that they cannot crowd out the others.
pub const MAX_CALLER_NAMES: usize = 1 << 14;
/// Longest name in bytes; the rest is cut.
pub const MAX_NAME_BYTES: usize = 512;
/// The number of the name that stands for all names beyond the bounds.
pub const OTHER: u32 = 1;
/// The name that stands for all names beyond the bounds.
pub const OTHER_NAME: &str = "other";

/// Who thought of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Configuration or key store.
    Operator,
    /// The request.
    Caller,
}

/// The numbering of one process.
#[derive(Debug)]
pub struct Names {
    path: PathBuf,
    numbers: RwLock<HashMap<Box<str>, u32>>,
    file: Mutex<NamesFile>,
}

#[derive(Debug)]
struct NamesFile {
    file: File,
    by_caller: usize,
    torn: bool,
}

impl Names {
    /// Starts an empty names file.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::options().append(true).create_new(true).open(path)?;
        let names = Self {
            path: path.to_owned(),
            numbers: RwLock::new(HashMap::new()),
            file: Mutex::new(NamesFile { file, by_caller: 0, torn: false }),
        };
        names.number(OTHER_NAME, Origin::Operator)?;
        Ok(names)
    }

    /// The number of a name; a new one is on file before this returns.
    ///
    /// # Errors
    /// The file could not be written; the name has no number then.
    pub fn number(&self, name: &str, origin: Origin) -> io::Result<u32> {
        let name = cut(name);
        if let Some(number) = self.numbers.read().get(name) {
            return Ok(*number);
        }
        let mut file = self.file.lock();
        if let Some(number) = self.numbers.read().get(name) {
            return Ok(*number);
        }
        let known = self.numbers.read().len();
        if known >= MAX_NAMES || (origin == Origin::Caller && file.by_caller >= MAX_CALLER_NAMES) {
            return Ok(OTHER);
        }
        let number = known as u32 + 1;
        file.append(&line(number, name))?;
        if origin == Origin::Caller {
            file.by_caller += 1;
        }
        self.numbers.write().insert(name.into(), number);
        Ok(number)
    }

    /// Waits until every name is on disk.
    ///
    /// # Errors
    /// The disk said no.
    pub fn sync(&self) -> io::Result<()> {
        self.file.lock().file.sync_data()
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl NamesFile {
    fn append(&mut self, line: &str) -> io::Result<()> {
        // A write that failed may have left half a line; a newline first keeps it from spoiling this one.
        let text = if self.torn { format!("\n{line}") } else { line.to_owned() };
        self.torn = true;
        self.file.write_all(text.as_bytes())?;
        self.torn = false;
        Ok(())
    }
}

/// The longest start of `name` within [`MAX_NAME_BYTES`].
fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_NAME_BYTES)]
}

fn line(number: u32, name: &str) -> String {
    let body = format!("{number} {}", serde_json::Value::from(name));
    format!("{:08x} {body}\n", crc32c::crc32c(body.as_bytes()))
}

/// Reads a names file; a damaged line is left out.
#[must_use]
pub fn parse(text: &[u8]) -> HashMap<u32, String> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<(u32, String)> {
    let (crc, body) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    if u32::from_str_radix(crc, 16).ok()? != crc32c::crc32c(body.as_bytes()) {
        return None;
    }
    let (number, name) = body.split_once(' ')?;
    Some((number.parse().ok()?, serde_json::from_str(name).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> (tempfile::TempDir, Names) {
        let dir = tempfile::tempdir().expect("temp dir");
        let names = Names::create(&dir.path().join("x.names")).expect("names file");
        (dir, names)
    }

    #[test]
    fn a_name_is_on_file_before_its_number_is_given() {
        let (_dir, names) = names();
        for name in ["acme", "we\nird \"é\"", ""] {
            let number = names.number(name, Origin::Operator).expect("number");
            let read = parse(&std::fs::read(names.path()).expect("file"));
            assert_eq!(read.get(&number).map(String::as_str), Some(name), "number {number} must be readable at once");
            assert_eq!(names.number(name, Origin::Operator).expect("again"), number, "a name keeps its number");
        }
    }

    #[test]
    fn callers_cannot_crowd_out_the_operators_names() {
        let (_dir, names) = names();
        for i in 0..MAX_CALLER_NAMES {
            names.number(&format!("m{i}"), Origin::Caller).expect("number");
        }
        assert_eq!(names.number("one-more", Origin::Caller).expect("number"), OTHER, "callers have a share");
        assert!(names.number("acme", Origin::Operator).expect("number") > OTHER, "operators still get numbers");
    }

    #[test]
    fn a_damaged_line_is_left_out_and_the_others_survive() {
        let text = format!("{}{}{}", line(1, "a"), line(2, "b").replace('b', "c"), line(3, "d"));
        let read = parse(&text.as_bytes()[..text.len() - 1]);
        assert_eq!(read.get(&1).map(String::as_str), Some("a"), "the first line is whole");
        assert_eq!(read.get(&2), None, "the CRC of the second is wrong");
        assert_eq!(read.get(&3).map(String::as_str), Some("d"), "the third is whole");
    }
}
