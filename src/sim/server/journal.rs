//! Remembers what requests came, for tests: `GET /sim/requests`. Bounded; headers and body are kept in full (secrets
//! included: the point is to see what a proxy sent), so this is no place for real ones.

use hyper::HeaderMap;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// Different paths that are counted.
const MAX_PATHS: usize = 256;
/// Requests whose body size is kept.
const LAST_SIZES: usize = 64;
/// Bytes of the last body that are kept.
const LAST_BODY: usize = 256 * 1024;

#[derive(Default, Debug)]
struct Pages {
    paths: BTreeMap<String, u64>,
    total: u64,
    aborted: u64,
    faults: u64,
    sizes: VecDeque<usize>,
    last: Value,
}

/// The requests of one engine.
#[derive(Default, Debug)]
pub(super) struct Journal(Mutex<Pages>);

impl Journal {
    /// A request for a model came.
    pub(super) fn came(&self, method: &str, path: &str, headers: &HeaderMap, body: &[u8]) {
        let mut pages = self.0.lock();
        pages.total += 1;
        if pages.paths.contains_key(path) || pages.paths.len() < MAX_PATHS {
            *pages.paths.entry(path.to_owned()).or_default() += 1;
        }
        if pages.sizes.len() == LAST_SIZES {
            pages.sizes.pop_front();
        }
        pages.sizes.push_back(body.len());
        let headers: Vec<Value> = headers
            .iter()
            .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
            .collect();
        let kept = String::from_utf8_lossy(&body[..body.len().min(LAST_BODY)]);
        pages.last = json!({"method": method, "path": path, "headers": headers, "body": kept,
                            "body_bytes": body.len()});
    }

    /// A client left before its answer was complete.
    pub(super) fn aborted(&self) {
        self.0.lock().aborted += 1;
    }

    /// A fault was asked for and struck.
    pub(super) fn struck(&self) {
        self.0.lock().faults += 1;
    }

    /// The pages as JSON.
    pub(super) fn read(&self) -> Value {
        let pages = self.0.lock();
        json!({"paths": pages.paths, "total": pages.total, "aborted": pages.aborted, "faults": pages.faults,
               "body_bytes": pages.sizes, "last": pages.last})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_does_not_grow_without_bound() {
        let journal = Journal::default();
        for i in 0..1_000 {
            journal.came("POST", &format!("/{i}"), &HeaderMap::new(), &vec![b'x'; 2 * LAST_BODY]);
            journal.aborted();
        }
        let pages = journal.read();
        assert_eq!(pages["paths"].as_object().map(serde_json::Map::len), Some(MAX_PATHS), "paths");
        assert_eq!(pages["body_bytes"].as_array().map(Vec::len), Some(LAST_SIZES), "sizes");
        assert_eq!(pages["last"]["body"].as_str().map(str::len), Some(LAST_BODY), "the last body is cut");
        assert_eq!((&pages["total"], &pages["aborted"]), (&json!(1_000), &json!(1_000)), "counts stay exact");
    }
}
