//! Whether usage records have reached the rows: what is in the spool or in a dead process's slot table is still on its
//! way. Decides from file names, file lengths and the writer's read positions; reads no record.

use crate::config::snapshot::Usage;
use crate::io::slots::SLOTS_EXT;
use crate::io::spool::segment;
use crate::io::usage_query::UsageReader;
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What was on its way at an instant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mark {
    /// Spool segments, with their length.
    pub segments: BTreeMap<String, u64>,
    /// Processes that have a slot table: they run, or nobody has recovered yet what they left.
    pub running: BTreeSet<String>,
}

/// Knows what is on its way to the rows.
#[async_trait]
pub trait Arrivals: Send + Sync {
    /// What is on its way now.
    ///
    /// # Errors
    /// In words; then nobody knows.
    async fn mark(&self) -> Result<Mark, String>;

    /// True if all that was in the spool then is in the rows now.
    ///
    /// # Errors
    /// In words; then nobody knows.
    async fn arrived(&self, mark: &Mark) -> Result<bool, String>;
}

/// The spool and the slot tables of this host, and the SQLite file that the writer fills from them.
#[derive(Clone, Debug)]
pub struct SpoolArrivals {
    spool_dir: PathBuf,
    slots_dir: PathBuf,
    reader: UsageReader,
}

impl SpoolArrivals {
    /// Looks where the configuration says that usage goes.
    #[must_use]
    pub fn new(settings: &Usage) -> Self {
        Self {
            spool_dir: settings.spool.dir.clone(),
            slots_dir: settings.slots_dir.clone(),
            reader: UsageReader::new(&settings.sqlite),
        }
    }

    fn mark_now(&self) -> io::Result<Mark> {
        // First the tables, then the segments: a table goes only when its crash records are in a segment.
        Ok(Mark { running: owners(&self.slots_dir)?, segments: lengths(&self.spool_dir)? })
    }

    fn arrived_now(&self, mark: &Mark) -> Result<bool, String> {
        // First which segments are there, then how far they are read: the writer deletes those that it has read.
        let there = lengths(&self.spool_dir).map_err(|error| error.to_string())?;
        let sql = "SELECT segment, read_to FROM spool_position";
        let read = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
        let positions = self.reader.ask(sql, Vec::new(), read).map_err(|error| error.to_string())?;
        let read_to: BTreeMap<String, i64> = positions.into_iter().collect();
        let open = |(name, length): (&String, &u64)| {
            there.contains_key(name) && read_to.get(name).is_none_or(|read| u64::try_from(*read).unwrap_or(0) < *length)
        };
        Ok(!mark.segments.iter().any(open))
    }
}

#[async_trait]
impl Arrivals for SpoolArrivals {
    async fn mark(&self) -> Result<Mark, String> {
        let this = self.clone();
        let looked = tokio::task::spawn_blocking(move || this.mark_now()).await;
        looked.map_err(|ended| ended.to_string())?.map_err(|error| error.to_string())
    }

    async fn arrived(&self, mark: &Mark) -> Result<bool, String> {
        let (this, mark) = (self.clone(), mark.clone());
        let looked = tokio::task::spawn_blocking(move || this.arrived_now(&mark)).await;
        looked.map_err(|ended| ended.to_string())?
    }
}

/// Length of each segment; one that vanishes meanwhile has been read.
fn lengths(dir: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for segment in segment::list(dir)? {
        match std::fs::metadata(&segment.path) {
            Ok(file) => {
                found.insert(segment.name, file.len());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whose slot tables there are.
fn owners(dir: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let (Some(owner), true) = (stem, path.extension().is_some_and(|ext| ext == SLOTS_EXT)) {
            found.insert(owner.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::database::{Batch, Database};

    struct Place {
        folder: tempfile::TempDir,
        arrivals: SpoolArrivals,
        database: Database,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for dir in ["spool", "slots"] {
            std::fs::create_dir(path(dir)).expect("a folder");
        }
        let arrivals = SpoolArrivals {
            spool_dir: path("spool"),
            slots_dir: path("slots"),
            reader: UsageReader::new(&path("usage.db")),
        };
        let database = Database::open(&path("usage.db")).expect("opens");
        Place { folder, arrivals, database }
    }

    impl Place {
        fn write(&self, name: &str, bytes: usize) {
            std::fs::write(self.folder.path().join(name), vec![0; bytes]).expect("a file");
        }

        fn read_to(&mut self, segment: &str, end: u64) {
            self.database.commit(&Batch { segment, start: 0, end, frames: Vec::new() }).expect("commits");
        }

        fn arrived(&self, mark: &Mark) -> bool {
            self.arrivals.arrived_now(mark).expect("readable")
        }
    }

    #[test]
    fn records_have_arrived_when_the_writer_has_read_past_where_they_ended() {
        let mut place = place();
        place.write("spool/a-1.seg", 10);
        let mark = place.arrivals.mark_now().expect("readable");
        assert!(!place.arrived(&mark), "nothing is read");
        place.write("spool/a-1.seg", 30);
        place.read_to("a-1.seg", 9);
        assert!(!place.arrived(&mark), "the last byte is missing");
        place.read_to("a-1.seg", 10);
        assert!(place.arrived(&mark), "what came after the mark is another mark's");
    }

    #[test]
    fn a_segment_that_the_writer_has_deleted_has_arrived() {
        let place = place();
        place.write("spool/a-1.seg", 10);
        let mark = place.arrivals.mark_now().expect("readable");
        std::fs::remove_file(place.folder.path().join("spool/a-1.seg")).expect("removed");
        assert!(place.arrived(&mark), "it is deleted when its rows are committed");
    }

    #[test]
    fn a_process_with_a_slot_table_runs_or_is_not_recovered() {
        let place = place();
        for name in ["slots/p1.slots", "slots/p1.names", "slots/p2.slots.new"] {
            place.write(name, 1);
        }
        let mark = place.arrivals.mark_now().expect("readable");
        assert_eq!(mark.running, BTreeSet::from(["p1".to_owned()]), "the tables alone");
    }
}
