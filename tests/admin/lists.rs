//! Pages: every entry that was there at the start is on exactly one, whatever is added meanwhile.

use super::api::Api;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Every entry of a list, by pages.
fn walk(api: &Api, who: &str, path: &str, list: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    for _ in 0..500 {
        let page = api.good(who, "GET", &format!("{path}{cursor}"), None);
        all.extend(page[list].as_array().expect("a list").iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
    panic!("the pages of {path} never end");
}

#[test]
fn pages_hold_every_key_once_while_others_are_made() {
    let api = Api::start();
    let ids: Vec<String> = (0..25)
        .map(|_| api.good("acme", "POST", "/keys", Some(&json!({})))["key_id"].as_str().expect("an id").to_owned())
        .collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                api.good("acme", "POST", "/keys", Some(&json!({"name": "later"})));
            }
        });
        for _ in 0..3 {
            let mut seen: BTreeMap<String, u32> = BTreeMap::new();
            for key in walk(&api, "acme", "/keys?limit=4", "keys") {
                *seen.entry(key["key_id"].as_str().expect("an id").to_owned()).or_default() += 1;
            }
            assert!(ids.iter().all(|id| seen.get(id) == Some(&1)), "each once: {seen:?}");
            assert!(seen.values().all(|count| *count == 1), "none twice");
        }
        stop.store(true, Ordering::Relaxed);
    });
    let log = walk(&api, "acme", "/audit?limit=7", "entries");
    let numbers: Vec<i64> = log.iter().filter_map(|entry| entry["id"].as_i64()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] > pair[1]), "newest first, none twice");
}

#[test]
fn a_cursor_is_of_its_list_its_filters_and_its_caller() {
    let api = Api::start();
    for _ in 0..3 {
        api.good("acme", "POST", "/keys", Some(&json!({"team_id": "core"})));
    }
    let cursor = api.good("acme", "GET", "/keys?limit=1", None)["next_cursor"].as_str().expect("more").to_owned();
    for (who, path) in [("acme", "/keys?team=core&"), ("operator", "/keys?"), ("acme", "/plans?"), ("acme", "/audit?")]
    {
        let reply = api.call(who, "GET", &format!("{path}cursor={cursor}"), None);
        assert_eq!((reply.status, reply.param()), (400, "cursor"), "{who} {path}");
    }
    api.good("acme", "GET", &format!("/keys?limit=2&cursor={cursor}"), None);
}
