//! `limits.backend` – the Redis in which replicas count together. Checks the form of the URLs; connects to nothing.

use super::rules::on_store_error;
use super::store::secret_url;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::snapshot::{LimitBackend, RedisServers, Secret};
use crate::domain::limit::OnStoreError;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// One command within a data centre takes a tenth of this.
const TIMEOUT: Duration = Duration::from_millis(5);
/// No Redis answers sooner than in a fraction of a millisecond, and no request waits longer than 20 ms (semantics.md §3).
const TIMEOUT_RANGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_millis(20);
/// Nodes or sentinels that are named; a cluster's other nodes are found.
const MAX_SERVERS: usize = 32;
/// Letters of what every key begins with: keys are many.
const MAX_PREFIX: usize = 32;

/// Reads `limits.backend`.
#[must_use]
pub fn backend(item: &Item<'_>) -> Option<LimitBackend> {
    let example = "for example `redis: { url: { env: REDIS_URL } }`";
    let redis = item.fields(&["redis"], &["postgres", "valkey"]).need("redis", example)?;
    let known = ["url", "cluster", "sentinel", "timeout", "on_store_error", "prefix"];
    let fields = redis.fields(&known, &["pool", "database"]);
    Some(LimitBackend {
        servers: servers(&fields),
        timeout: fields.or("timeout", timeout, TIMEOUT),
        on_store_error: fields.or("on_store_error", on_store_error, OnStoreError::Local),
        prefix: fields.or("prefix", prefix, Arc::from("weir")),
    })
}

fn servers(fields: &Fields<'_>) -> RedisServers {
    let found: Vec<Item<'_>> = ["url", "cluster", "sentinel"].iter().filter_map(|key| fields.get(key)).collect();
    if let [_, second, ..] = &found[..] {
        let hint = Some("remove one of them".to_owned());
        let message = "Redis is reached by one of `url`, `cluster` and `sentinel`";
        second.error(Code::Contradiction, message.into(), hint);
    }
    if let Some(nodes) = fields.get("cluster") {
        return RedisServers::Cluster(urls(&nodes));
    }
    if let Some(sentinel) = fields.get("sentinel") {
        let fields = sentinel.fields(&["master", "sentinels"], &["password"]);
        let master = fields.need("master", "the name by which the sentinels know it").and_then(|item| master(&item));
        let sentinels = fields.need("sentinels", "for example `sentinels: [{ env: SENTINEL_URL }]`");
        return RedisServers::Sentinel {
            sentinels: sentinels.map(|item| urls(&item)).unwrap_or_default(),
            master: master.unwrap_or_default(),
        };
    }
    let url = fields.need("url", "for example `url: { env: REDIS_URL }`");
    RedisServers::Single(url.and_then(|item| url_of(&item)).unwrap_or_else(Secret::none))
}

fn url_of(item: &Item<'_>) -> Option<Secret> {
    secret_url(item, &["redis", "rediss"])
}

fn urls(item: &Item<'_>) -> Vec<Secret> {
    let listed = item.list();
    if listed.is_empty() || listed.len() > MAX_SERVERS {
        item.error(Code::OutOfRange, format!("from 1 to {MAX_SERVERS} servers, not {}", listed.len()), None);
    }
    listed.iter().filter_map(url_of).collect()
}

fn master(item: &Item<'_>) -> Option<String> {
    let name = item.text()?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        item.error(Code::BadWord, format!("`{}` is not the name of a master", item.shown()), None);
        return None;
    }
    Some(name.to_owned())
}

fn timeout(item: &Item<'_>) -> Option<Duration> {
    let timeout = item.wait()?;
    if TIMEOUT_RANGE.contains(&timeout) {
        return Some(timeout);
    }
    let hint = Some("from 1ms to 20ms: Redis needs some time, and no request waits for it any longer".to_owned());
    item.error(Code::OutOfRange, format!("`{}` is no time for one command", item.shown()), hint);
    None
}

/// Braces would say in which slot of a cluster a key is.
fn prefix(item: &Item<'_>) -> Option<Arc<str>> {
    let text = item.text()?;
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if !text.is_empty() && text.len() <= MAX_PREFIX && text.bytes().all(fine) {
        return Some(Arc::from(text));
    }
    let hint = Some(format!("use 1 to {MAX_PREFIX} letters, digits, `-`, `_`, `.` or `:`"));
    item.error(Code::BadWord, format!("`{}` cannot begin the keys", item.shown()), hint);
    None
}
