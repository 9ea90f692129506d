use super::*;
use crate::domain::ids::{KeyId, RequestId, RouteId, TenantId};
use crate::domain::surface::Surface;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn birth() -> Birth {
    Birth {
        request_id: RequestId(Uuid::now_v7()),
        received: WallMicros(10),
        admitted: WallMicros(20),
        tenant: TenantId::new("acme"),
        team: None,
        user: Some("ann".to_owned()),
        key: Some(KeyId::new("a1B2c3D4e5F6")),
        secret_gen: 3,
        auth_method: "api_key",
        surface: Surface::OpenAiChat,
        stream: true,
        route: RouteId::new("chat"),
        model: "llama".to_owned(),
        bytes_in: 99,
        config_version: "0123456789ab".into(),
    }
}

fn table(slots: u32) -> (tempfile::TempDir, SlotTable) {
    let dir = tempfile::tempdir().expect("temp dir");
    let table = SlotTable::create(dir.path(), Uuid::now_v7(), slots).expect("table");
    (dir, table)
}

#[test]
fn what_is_written_into_a_slot_can_be_read_from_the_file() {
    let (_dir, table) = table(4);
    let birth = birth();
    let (slot, seq) = table.admit(&birth, || 41).expect("admitted");
    table.dispatched(slot, &PoolId::new("p"), &BackendId::new("p-0"), WallMicros(30)).expect("dispatched");
    let progress =
        Progress { input_plus_one: 8, output_plus_one: 5, delivered: 4, bytes_out: 77, sse_events: 6, first_token: 35 };
    table.progress(slot, &progress, WallMicros(40));

    let dead = layout::read_table(&std::fs::read(&table.path).expect("file")).expect("a slot file");
    let names = names::parse(&std::fs::read(table.names.path()).expect("names"));
    assert_eq!(dead.live.len(), 1, "one slot is live");
    let view = dead.live[0];
    assert_eq!(table.read(slot), Some(view), "the mapping and the file are the same");
    assert_eq!((view.seq, seq, view.request_id), (41, 41, birth.request_id.0), "identity");
    assert_eq!((view.progress, view.last, view.attempts), (progress, WallMicros(40), 1), "progress");
    for (number, name) in [(view.tenant, "acme"), (view.user, "ann"), (view.model, "llama"), (view.backend, "p-0")] {
        assert_eq!(names.get(&number).map(String::as_str), Some(name), "every number has its name on file");
    }
    assert_eq!(view.team, 0, "no team is no name");
    assert_eq!(view.key.and_then(|key| key.resolve(|_| None)).as_deref(), Some("a1B2c3D4e5F6"), "the key is inline");
}

#[test]
fn the_table_gives_exactly_its_slots_and_takes_them_back() {
    let (_dir, table) = table(2);
    let first = table.admit(&birth(), || 1).expect("first").0;
    table.admit(&birth(), || 2).expect("second");
    let mut asked = false;
    let third = table.admit(&birth(), || {
        asked = true;
        3
    });
    assert_eq!(third, Err(AdmitError::TableFull), "two slots are two requests");
    assert!(!asked, "a refused request burns no sequence number");
    table.release(first);
    assert_eq!(table.open(), 1, "one is still open");
    assert_eq!(table.admit(&birth(), || 3).expect("again").0, first, "the freed slot is given again");
    let view = table.read(first).expect("live");
    assert_eq!((view.progress, view.attempts), (Progress::default(), 0), "nothing of the old request is left");
}

#[test]
fn a_reader_never_sees_half_a_progress() {
    let (_dir, table) = table(1);
    let (slot, _) = table.admit(&birth(), || 1).expect("admitted");
    let (table, stop) = (Arc::new(table), Arc::new(AtomicBool::new(false)));
    let writer = {
        let (table, stop) = (Arc::clone(&table), Arc::clone(&stop));
        std::thread::spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                let now = WallMicros(i64::try_from(n).expect("small"));
                let first_token = now.0;
                let progress = Progress {
                    input_plus_one: n,
                    output_plus_one: n,
                    delivered: n,
                    bytes_out: n,
                    sse_events: n,
                    first_token,
                };
                table.progress(slot, &progress, now);
                // A writer that is inside all the time would leave a reader no moment at all.
                (0..50).for_each(|_| std::hint::spin_loop());
            }
        })
    };
    // Only reads that meet new progress count: others would pass with no lock at all.
    let (mut seen, mut last) = (0, WallMicros(0));
    while seen < 500 {
        let Some(view) = table.read(slot).filter(|view| view.last != last) else { continue };
        last = view.last;
        let progress = view.progress;
        assert_eq!(progress.input_plus_one, progress.sse_events, "first and last word are of one moment");
        assert_eq!(progress.delivered, progress.output_plus_one, "and so are those between");
        seen += 1;
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().expect("writer thread");
}

#[test]
fn a_table_without_open_slots_leaves_no_file_and_one_with_some_stays() {
    let (dir, table) = table(2);
    let (slot, _) = table.admit(&birth(), || 1).expect("admitted");
    assert_eq!(table.retire().expect("retired"), 1, "one slot is open");
    assert!(table.path.exists() && table.names.path().exists(), "open slots are recovery's work");
    assert_eq!(table.admit(&birth(), || 2), Err(AdmitError::TableFull), "a retired table admits nobody");
    drop(table);
    let other = SlotTable::create(dir.path(), Uuid::now_v7(), 1).expect("table");
    let path = other.path.clone();
    assert_eq!(other.retire().expect("retired"), 0, "nothing is open in the other");
    assert!(!path.exists() && !path.with_extension(NAMES_EXT).exists(), "a clean end leaves nothing behind");
    let _ = slot;
}

#[test]
fn a_living_owner_holds_its_lock() {
    let (_dir, table) = table(1);
    let other = File::options().read(true).write(true).open(&table.path).expect("open");
    assert!(matches!(other.try_lock(), Err(std::fs::TryLockError::WouldBlock)), "the owner lives");
    drop(table);
    assert!(other.try_lock().is_ok(), "the owner is gone");
}
