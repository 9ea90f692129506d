//! `usage:` – where records live. What models cost is `prices`' matter.

use super::server::path;
use crate::config::codes::Code;
use crate::config::field::{Item, fit};
use crate::config::snapshot::{Durability, Server, Spool, Usage};
use std::path::Path;
use std::time::Duration;

/// Slots of 256 bytes: a table of 16 MiB.
const SLOTS: u32 = 65_536;
/// Slots at most: a table of 1 GiB.
const MAX_SLOTS: u64 = 4 << 20;
/// The smallest spool: it must hold a few segments.
const MIN_SPOOL_BYTES: u64 = 1 << 20;

/// Reads `usage:`.
#[must_use]
pub fn usage(item: &Item<'_>, server: &Server) -> Usage {
    let known = ["inject_stream_usage", "record_rejected", "spool", "writer", "slots", "prices"];
    let fields = item.fields(&known, &["bill_delivered", "billing_policy", "currency"]);
    let slots = fields.item("slots").fields(&["dir", "count"], &[]);
    let writer = fields.item("writer").fields(&["sqlite"], &["postgres", "kafka", "cloudevents", "clickhouse"]);
    let state = &server.state_dir;
    Usage {
        inject_stream_usage: fields.or("inject_stream_usage", Item::flag, true),
        record_rejected: fields.or("record_rejected", Item::flag, false),
        spool: spool(&fields.item("spool"), state),
        slots_dir: slots.or("dir", path, state.join("slots")),
        slots: slots.or("count", slot_count, SLOTS),
        sqlite: writer.or("sqlite", path, state.join("usage.db")),
        prices: fields.get("prices").and_then(|item| path(&item)),
    }
}

fn slot_count(item: &Item<'_>) -> Option<u32> {
    let count = item.positive()?;
    if count > MAX_SLOTS {
        item.error(Code::OutOfRange, format!("at most {MAX_SLOTS} slots"), None);
        return None;
    }
    Some(fit(count, u32::MAX))
}

fn spool(item: &Item<'_>, state_dir: &Path) -> Spool {
    let fields = item.fields(&["dir", "durability", "fsync", "max_bytes"], &["segment_bytes"]);
    let durability = match fields.get("durability").and_then(|item| item.choice(&["process", "power"], &[])) {
        Some("power") => Durability::Power,
        _ => Durability::Process,
    };
    // `power` makes every record wait for the next commit, so the commits are close together.
    let fsync = Duration::from_millis(if durability == Durability::Power { 5 } else { 100 });
    let size = |item: &Item<'_>| {
        let size = item.size()?;
        if size < MIN_SPOOL_BYTES {
            item.error(
                Code::OutOfRange,
                format!("`{}` is too small for a spool", item.shown()),
                Some("at least 1MiB".into()),
            );
        }
        Some(size)
    };
    Spool {
        dir: fields.or("dir", path, state_dir.join("spool")),
        durability,
        fsync: fields.or("fsync", Item::wait, fsync),
        max_bytes: fields.or("max_bytes", size, 1 << 30),
    }
}
