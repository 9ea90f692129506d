//! `store:` – where keys and tenants live, and how their changes reach other replicas. Checks the form of the URLs;
//! connects to nothing.

use super::server::path;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::secret;
use crate::config::snapshot::{Push, Secret, Store, StoreTarget};
use std::path::Path;
use std::time::Duration;

/// Looks at a store in a file: a look costs microseconds.
const SQLITE_POLL: Duration = Duration::from_millis(500);
/// Looks at a store on a server, beside the push.
const POSTGRES_POLL: Duration = Duration::from_secs(2);
/// A poll is the floor under a lost push: a revocation must be seen within 5 s (semantics.md §4).
const MAX_POLL: Duration = Duration::from_secs(5);
/// More looks than this are load and nothing else.
const MIN_POLL: Duration = Duration::from_millis(10);

/// Reads `store:`.
#[must_use]
pub fn store(item: &Item<'_>, state_dir: &Path) -> Store {
    let fields = item.fields(&["sqlite", "postgres", "push", "poll", "replica"], &["mysql", "etcd"]);
    let postgres = fields.get("postgres");
    if let (Some(postgres), true) = (&postgres, fields.get("sqlite").is_some()) {
        let hint = Some("remove one of them".to_owned());
        postgres.error(Code::Contradiction, "a store is `sqlite` or `postgres`, not both".into(), hint);
    }
    let target = match &postgres {
        Some(item) => StoreTarget::Postgres(postgres_url(item)),
        None => StoreTarget::Sqlite(fields.or("sqlite", path, state_dir.join("weir.db"))),
    };
    let server = postgres.is_some();
    Store {
        push: push(&fields, server),
        poll: fields.or("poll", poll, if server { POSTGRES_POLL } else { SQLITE_POLL }),
        replica: fields.or("replica", path, state_dir.join("replica.db")),
        target,
    }
}

fn postgres_url(item: &Item<'_>) -> Secret {
    let fields = item.fields(&["url"], &["schema", "pool"]);
    let url = fields.need("url", "for example `url: { env: DATABASE_URL }`");
    url.and_then(|item| secret_url(&item, &["postgres", "postgresql"])).unwrap_or_else(Secret::none)
}

/// What a store that is no other tells: a file nobody, a server its listeners.
fn push(fields: &Fields<'_>, server: bool) -> Push {
    let default = if server { Push::Notify } else { Push::None };
    let Some(item) = fields.get("push") else { return default };
    let Some((kind, settings)) = item.variant(&["none", "notify", "redis"], &["nats", "kafka"]) else { return default };
    match kind {
        "redis" => {
            let Some(settings) = settings else {
                let hint = Some("for example `push: { redis: { url: { env: REDIS_URL } } }`".to_owned());
                item.error(Code::Missing, "`redis` needs settings".into(), hint);
                return default;
            };
            let url = settings.fields(&["url"], &["channel"]).need("url", "for example `url: { env: REDIS_URL }`");
            Push::Redis(url.and_then(|item| secret_url(&item, &["redis", "rediss"])).unwrap_or_else(Secret::none))
        }
        "notify" if !server => {
            let hint = Some("use `push: { redis: { url: … } }`, or leave the key out: the poll finds out".to_owned());
            item.error(Code::Contradiction, "`notify` is Postgres's, and the store is SQLite".into(), hint);
            Push::None
        }
        "notify" => Push::Notify,
        _ => Push::None,
    }
}

fn poll(item: &Item<'_>) -> Option<Duration> {
    let poll = item.wait()?;
    if (MIN_POLL..=MAX_POLL).contains(&poll) {
        return Some(poll);
    }
    let hint = Some("from 10ms to 5s: a revocation must be seen within 5s where no push comes".to_owned());
    item.error(Code::OutOfRange, format!("`{}` cannot be a poll interval", item.shown()), hint);
    None
}

/// A URL that is a secret, because it may hold a password: nothing of it is in a message.
#[must_use]
pub fn secret_url(item: &Item<'_>, schemes: &[&str]) -> Option<Secret> {
    let secret = secret::read(item)?;
    let url = std::str::from_utf8(&secret.0).ok().and_then(|text| url::Url::parse(text).ok());
    if url.is_some_and(|url| schemes.contains(&url.scheme())) {
        return Some(secret);
    }
    let scheme = schemes.first().copied().unwrap_or_default();
    let hint = Some(format!("it must read `{scheme}://USER:PASSWORD@HOST/…`"));
    item.error(Code::BadUrl, format!("the secret is not a URL of `{}`", schemes.join("` or `")), hint);
    None
}
