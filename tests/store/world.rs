//! A store in each of the databases, and what every test needs to use it.

use crate::servers::Postgres;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use weir::config::snapshot::{Push, Secret, Store as Settings, StoreTarget};
use weir::domain::units::WallMicros;
use weir::io::store::Store;
use weir::io::store::change::Change;
use weir::io::store::error::StoreError;
use weir::io::store::rows::{Actor, NewKey, Page, Row, Stamp};
use weir::logic::access::api_key::{self, FreshKey};
use weir::logic::access::digest::Pepper;

pub const NOW: WallMicros = WallMicros(1_795_000_000_000_000);
pub const HOUR: WallMicros = WallMicros(3_600_000_000);
/// A page that holds all that a test makes.
pub const ALL: Page = Page { after: None, limit: 1_000 };

/// Runs a law on both databases.
pub fn both(law: impl Fn(&World)) {
    law(&World::sqlite());
    law(&World::postgres());
}

/// An empty store.
pub struct World {
    /// Which database, for messages.
    pub name: &'static str,
    pub settings: Settings,
    pub dir: TempDir,
    /// The server, and the name of the database.
    pub postgres: Option<(Arc<Postgres>, String)>,
}

impl World {
    pub fn sqlite() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let target = StoreTarget::Sqlite(dir.path().join("var/weir.db"));
        Self { name: "SQLite", settings: settings(target, Push::None), dir, postgres: None }
    }

    pub fn postgres() -> Self {
        let server = Postgres::shared();
        let url = server.database();
        let database = url.rsplit('/').next().expect("a name").to_owned();
        let target = StoreTarget::Postgres(secret(&url));
        Self {
            name: "Postgres",
            settings: settings(target, Push::Notify),
            dir: tempfile::tempdir().expect("a folder"),
            postgres: Some((server, database)),
        }
    }

    pub fn file(&self) -> PathBuf {
        match &self.settings.target {
            StoreTarget::Sqlite(path) => path.clone(),
            StoreTarget::Postgres(_) => panic!("this store is in no file"),
        }
    }

    pub fn open(&self) -> Store {
        Store::open(&self.settings).expect("opened")
    }

    /// Runs SQL behind the store's back; what the database said where it refuses.
    pub fn sql(&self, sql: &str) -> Result<(), String> {
        if let Some((server, database)) = &self.postgres {
            return server.try_sql(database, sql).map(drop);
        }
        let connection = rusqlite::Connection::open(self.file()).expect("opened");
        connection.busy_timeout(Duration::from_secs(5)).expect("set");
        connection.execute_batch(sql).map_err(|error| error.to_string())
    }
}

pub fn settings(target: StoreTarget, push: Push) -> Settings {
    Settings { target, push, poll: Duration::from_secs(2), replica: PathBuf::new() }
}

pub fn secret(text: &str) -> Secret {
    Secret(Arc::new(text.as_bytes().to_vec().into()))
}

pub fn actor() -> Actor {
    Actor {
        kind: "api_key".into(),
        id: "0123456789AB".into(),
        tenant: Some("acme".into()),
        request_id: Some("r-1".into()),
    }
}

/// A key made of one repeated byte below 248.
pub fn fresh(byte: u8) -> FreshKey {
    api_key::generate("weir", &[byte; api_key::RANDOM_BYTES]).expect("a key")
}

pub fn pepper() -> Pepper {
    Pepper::new(b"pepper").expect("a pepper")
}

/// A key of tenant `acme`.
pub fn new_key(byte: u8) -> NewKey {
    let key = fresh(byte);
    NewKey::of(key.id.clone(), pepper().hash(key.text.as_bytes()), "acme")
}

/// One change at `now`.
pub fn change_at<T>(
    store: &mut Store,
    now: WallMicros,
    work: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    store.change(&actor(), now, work)
}

/// One change at [`NOW`] that must succeed.
pub fn change<T>(store: &mut Store, work: impl FnOnce(&mut Change<'_>) -> Result<T, StoreError>) -> T {
    change_at(store, NOW, work).expect("changed")
}

/// What a follower is told, and the stamp that it has then.
pub fn changes(store: &mut Store, since: Option<&Stamp>) -> (Vec<Row>, Stamp) {
    let mut rows = Vec::new();
    let stamp = store.changes(since, &mut |row| rows.push(row)).expect("read");
    (rows, stamp)
}

/// `reset`, `key ID`, `tenant ID`, `tenant ID deleted`, …
pub fn said(rows: &[Row]) -> Vec<String> {
    let gone = |deleted: bool| if deleted { " deleted" } else { "" };
    rows.iter()
        .map(|row| match row {
            Row::Reset => "reset".to_owned(),
            Row::Key(key) => format!("key {}", key.key_id),
            Row::Tenant(tenant) => format!("tenant {}{}", tenant.tenant, gone(tenant.deleted)),
            Row::Team(team) => format!("team {}/{}{}", team.tenant, team.id, gone(team.deleted)),
            Row::User(user) => format!("user {}/{}{}", user.tenant, user.id, gone(user.deleted)),
            Row::Plan(plan) => format!("plan {}{}", plan.plan, gone(plan.deleted)),
            Row::Budget(budget) => format!("budget {}/{}{}", budget.spec.tenant, budget.id, gone(budget.deleted)),
            Row::Broken(broken) => format!("broken {} {}", broken.what, broken.id),
        })
        .collect()
}
