use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

struct Freed(Arc<AtomicU32>);

impl Owner for Freed {
    fn written(&self, _slot: u32) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
    fn tick(&self, _durability: Durability) {}
}

struct Bench {
    dir: tempfile::TempDir,
    spool: Spool,
    level: Arc<Level>,
    freed: Arc<AtomicU32>,
}

fn bench(durability: Durability) -> Bench {
    let dir = tempfile::tempdir().expect("temp dir");
    let spool_dir = dir.path().join("spool");
    std::fs::create_dir(&spool_dir).expect("made");
    let (level, freed) = (Arc::new(Level::new(1 << 30)), Arc::new(AtomicU32::new(0)));
    let settings = Settings { dir: spool_dir.clone(), durability, fsync: Duration::from_millis(20), capacity: 8 };
    let segments = SegmentWriter::new(&spool_dir, "owner");
    let spool =
        Spool::start(settings, segments, Arc::clone(&level), Box::new(Freed(Arc::clone(&freed)))).expect("started");
    Bench { dir, spool, level, freed }
}

impl Bench {
    fn append(&self, seq: u64) -> oneshot::Receiver<Result<(), AppendError>> {
        let (ack, told) = oneshot::channel();
        self.spool.append(Item { slot: seq as u32, seq, payload: format!("record {seq}").into_bytes(), ack });
        told
    }

    fn seqs(&self) -> Vec<u64> {
        let mut seqs = Vec::new();
        for found in segment::list(&self.dir.path().join("spool")).expect("list") {
            let bytes = std::fs::read(found.path).expect("read");
            let mut at = 0;
            while let frame::Next::Frame { seq, end, .. } = frame::next(&bytes, at, frame::Tail::Closed) {
                seqs.push(seq);
                at = end;
            }
        }
        seqs
    }
}

#[test]
fn an_acknowledged_record_is_in_the_segment_and_its_slot_is_free() {
    for durability in [Durability::Process, Durability::Power] {
        let bench = bench(durability);
        for seq in 1..=8 {
            assert_eq!(bench.append(seq).blocking_recv(), Ok(Ok(())), "{durability:?}: record {seq} is taken");
            assert_eq!(bench.seqs(), (1..=seq).collect::<Vec<_>>(), "{durability:?}: it can be read at once");
            assert_eq!(u64::from(bench.freed.load(Ordering::SeqCst)), seq, "{durability:?}: its slot is free");
        }
        bench.spool.close().expect("closed");
    }
}

#[test]
fn closing_writes_what_was_handed_over_and_refuses_the_rest() {
    let bench = bench(Durability::Power);
    let told: Vec<_> = (1..=5).map(|seq| bench.append(seq)).collect();
    bench.spool.close().expect("closed");
    assert_eq!(bench.seqs(), [1, 2, 3, 4, 5], "everything handed over is written");
    for told in told {
        assert_eq!(told.blocking_recv(), Ok(Ok(())), "and acknowledged");
    }
    assert_eq!(bench.append(6).blocking_recv(), Ok(Err(AppendError::Closed)), "a closed spool takes nothing");
    bench.spool.close().expect("closing twice does nothing");
}

#[test]
fn a_disk_that_refuses_stops_admission_and_gets_the_records_once_it_is_back() {
    let bench = bench(Durability::Process);
    let (dir, away) = (bench.dir.path().join("spool"), bench.dir.path().join("away"));
    // Nothing is open yet, so without its directory the spool cannot begin a segment.
    std::fs::rename(&dir, &away).expect("moved");
    assert!(matches!(bench.append(1).blocking_recv(), Ok(Err(AppendError::Io(_)))), "the caller is told");
    assert!(!bench.level.admits(), "no new request comes in");
    assert_eq!(bench.freed.load(Ordering::SeqCst), 0, "the slot stays");
    std::fs::rename(&away, &dir).expect("moved back");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !bench.level.admits() {
        assert!(Instant::now() < deadline, "the spool must try again by itself");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(bench.seqs(), [1], "the record was kept and is written");
    assert_eq!(bench.freed.load(Ordering::SeqCst), 1, "now its slot is free");
}
