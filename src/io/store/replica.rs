//! A copy of a store for cold starts while the store is down: an SQLite file of the same schema. Decides that a key that
//! was once seen revoked is remembered as such, whatever the store says later, and that a file that is of no use is put
//! aside for a new one.

use super::error::StoreError;
use super::rows::{BrokenRow, KeyStatus, Row, Stamp, StoredKey};
use super::sql::{Mode, Sql, sqlite};
use super::{budgets, follow, keys, migrate, plans, tenancy};
use crate::domain::ids::KeyId;
use crate::domain::units::WallMicros;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Between two writes of the time of the last look: more often would only wear the disk.
pub const TOUCH_EVERY: WallMicros = WallMicros(10_000_000);

/// What only a copy has.
const TABLES: &str =
    "CREATE TABLE IF NOT EXISTS copy_meta (id INTEGER PRIMARY KEY CHECK (id = 1), read_at INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS revoked_keys (key_id TEXT PRIMARY KEY NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS broken_budgets
        (budget_id TEXT PRIMARY KEY NOT NULL, tenant_id TEXT NOT NULL, fault TEXT NOT NULL) STRICT, WITHOUT ROWID;";

/// An open copy.
pub struct Replica {
    sql: Sql,
    /// The time that is written down.
    read_at: Option<WallMicros>,
}

/// What a copy is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// The state of the store that it holds.
    pub stamp: Stamp,
    /// Wall time of the last successful look at the store, at most [`TOUCH_EVERY`] too old.
    pub read_at: WallMicros,
}

impl Replica {
    /// Opens the copy, makes it (mode 0600) where it is absent. One that is damaged, or of a newer version, is put
    /// aside ([`put_aside`]) and a new one made.
    ///
    /// # Errors
    /// [`StoreError`]: the file cannot be used.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        match Self::try_open(path) {
            Err(error) if error.is_for_good() => {
                put_aside(path, &error)?;
                Self::try_open(path)
            }
            done => done,
        }
    }

    fn try_open(path: &Path) -> Result<Self, StoreError> {
        sqlite::make(path)?;
        let mut sql = Sql::Sqlite(sqlite::File::open(path)?);
        migrate::check(&mut sql)?;
        sql.batch(TABLES)?;
        let read_at = read_at(&mut sql)?;
        Ok(Self { sql, read_at })
    }

    /// Hands over all that was copied; `None` where nothing ever was.
    ///
    /// # Errors
    /// [`StoreError`]; what was handed over until then is to be forgotten.
    pub fn load(&mut self, each: &mut dyn FnMut(Row)) -> Result<Option<Copied>, StoreError> {
        let Some(read_at) = self.read_at else { return Ok(None) };
        self.sql.begin(Mode::Read)?;
        let done = follow::changes(&mut self.sql, None, each).and_then(|stamp| {
            broken_budgets(&mut self.sql, each)?;
            Ok(stamp)
        });
        let stamp = super::finish(&mut self.sql, done)?;
        Ok(Some(Copied { stamp, read_at }))
    }

    /// Hands over every key that was ever seen revoked, also if the store has forgotten it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn revoked(&mut self, each: &mut dyn FnMut(KeyId)) -> Result<(), StoreError> {
        self.sql.query_each("SELECT key_id FROM revoked_keys", &[], &mut |row| {
            if let Ok(Some(id)) = row.text(0) {
                each(KeyId::new(id));
            }
            Ok(())
        })
    }

    /// Begins to copy. Nothing is changed until [`Copying::commit`]; dropped before, it is all taken back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn begin(&mut self) -> Result<Copying<'_>, StoreError> {
        self.sql.begin(Mode::Write)?;
        Ok(Copying { replica: self, fault: None, committed: false })
    }

    /// Writes down that the store was looked at and had not changed; at most each [`TOUCH_EVERY`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn touch(&mut self, now: WallMicros) -> Result<(), StoreError> {
        let Some(before) = self.read_at else { return Ok(()) };
        if now >= before && now - before < TOUCH_EVERY {
            return Ok(());
        }
        write_read_at(&mut self.sql, now)?;
        self.read_at = Some(now);
        Ok(())
    }
}

/// Renames a copy that is of no use, with what SQLite keeps beside it, to `….aside`; one that was put aside before is
/// replaced. What it knew of revocations that the store has forgotten is lost with it, and the log says so.
///
/// # Errors
/// [`StoreError::File`]: it cannot be renamed.
pub fn put_aside(path: &Path, why: &StoreError) -> Result<(), StoreError> {
    let beside = |name: &Path, tail: &str| {
        let mut name = OsString::from(name);
        name.push(tail);
        PathBuf::from(name)
    };
    let aside = beside(path, ".aside");
    // The log of changes first: left behind alone it would be taken for the new file's.
    for tail in ["-wal", "-shm", ""] {
        let (from, to) = (beside(path, tail), beside(&aside, tail));
        match std::fs::rename(&from, &to) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound || tail.is_empty() => {
                return Err(StoreError::File { path: from, source });
            }
            _ => {}
        }
    }
    tracing::error!(
        error = %why, aside = %aside.display(),
        "the copy of the key store is put aside and made anew; which keys it knew as revoked is known from the store only"
    );
    Ok(())
}

/// A copy that is being brought up to date.
#[must_use = "dropped without a commit nothing is copied"]
pub struct Copying<'a> {
    replica: &'a mut Replica,
    /// The first thing that went wrong.
    fault: Option<StoreError>,
    committed: bool,
}

impl Copying<'_> {
    /// Copies a row. What goes wrong is told by [`Copying::commit`].
    pub fn row(&mut self, row: &Row) {
        if self.fault.is_none() {
            self.fault = write(&mut self.replica.sql, row).err();
        }
    }

    /// Ends the copying: the copy is of `stamp`, as it was at `now`.
    ///
    /// # Errors
    /// [`StoreError`], also of any row before: then the copy is as it was.
    pub fn commit(mut self, stamp: &Stamp, now: WallMicros) -> Result<(), StoreError> {
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        let sql = &mut self.replica.sql;
        sql.execute(
            "UPDATE meta SET store = $1, epoch = $2, mark = $3 WHERE id = 1",
            &[(&stamp.store).into(), stamp.epoch.into(), stamp.mark.into()],
        )?;
        write_read_at(sql, now)?;
        sql.commit()?;
        self.committed = true;
        self.replica.read_at = Some(now);
        Ok(())
    }
}

impl Drop for Copying<'_> {
    fn drop(&mut self) {
        if !self.committed && self.replica.sql.rollback().is_err() {
            tracing::warn!("the copy of the key store could not be taken back to what it was");
        }
    }
}

fn read_at(sql: &mut Sql) -> Result<Option<WallMicros>, StoreError> {
    sql.query_one("SELECT read_at FROM copy_meta WHERE id = 1", &[], |row| row.need_int(0).map(WallMicros))
}

fn write_read_at(sql: &mut Sql, now: WallMicros) -> Result<(), StoreError> {
    sql.execute(
        "INSERT INTO copy_meta (id, read_at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET read_at = excluded.read_at",
        &[now.0.into()],
    )?;
    Ok(())
}

fn write(sql: &mut Sql, row: &Row) -> Result<(), StoreError> {
    match row {
        Row::Reset => {
            // What was revoked stays known.
            for table in
                ["api_key_secrets", "api_keys", "tenants", "teams", "users", "plans", "budgets", "broken_budgets"]
            {
                sql.execute(&format!("DELETE FROM {table}"), &[])?;
            }
            Ok(())
        }
        Row::Key(key) => write_key(sql, key),
        Row::Tenant(tenant) => tenancy::write_tenant(sql, tenant),
        Row::Team(team) => tenancy::write_member(sql, super::rows::MemberKind::Team, team),
        Row::User(user) => tenancy::write_member(sql, super::rows::MemberKind::User, user),
        Row::Plan(plan) => plans::write(sql, plan),
        Row::Budget(budget) => {
            sql.execute("DELETE FROM broken_budgets WHERE budget_id = $1", &[(&budget.id).into()])?;
            budgets::write(sql, budget)
        }
        Row::Broken(broken) => forget(sql, broken),
    }
}

/// Hands over the budgets that could not be read when they were copied, as the store itself would.
fn broken_budgets(sql: &mut Sql, each: &mut dyn FnMut(Row)) -> Result<(), StoreError> {
    let every = "SELECT tenant_id, budget_id, fault FROM broken_budgets ORDER BY budget_id";
    sql.query_each(every, &[], &mut |row| {
        // One whose mark is torn as well can be anybody's: the copy is of no use.
        let torn = |fault| StoreError::Damaged(format!("a budget of the copy: {fault}"));
        let text = |column| row.need_text(column).map_err(torn);
        let id = format!("{}/{}", text(0)?, text(1)?);
        each(Row::Broken(BrokenRow { what: "budget", id, fault: text(2)? }));
        Ok(())
    })
}

fn write_key(sql: &mut Sql, key: &StoredKey) -> Result<(), StoreError> {
    keys::write(sql, key, key.epoch)?;
    keys::forget_before(sql, &key.key_id, u32::MAX)?;
    for secret in &key.secrets {
        keys::insert_secret(sql, &key.key_id, secret)?;
    }
    if key.status == KeyStatus::Revoked {
        sql.execute(
            "INSERT INTO revoked_keys (key_id) VALUES ($1) ON CONFLICT (key_id) DO NOTHING",
            &[key.key_id.as_str().into()],
        )?;
    }
    Ok(())
}

/// What cannot be read is refused, so the copy does not have it either. Without a budget more would be allowed, not less:
/// that there is one stays known.
fn forget(sql: &mut Sql, broken: &BrokenRow) -> Result<(), StoreError> {
    if let ("budget", Some((tenant, id))) = (broken.what, broken.id.split_once('/')) {
        sql.execute("DELETE FROM budgets WHERE budget_id = $1", &[id.into()])?;
        sql.execute(
            "INSERT INTO broken_budgets (budget_id, tenant_id, fault) VALUES ($1, $2, $3)
             ON CONFLICT (budget_id) DO UPDATE SET tenant_id = excluded.tenant_id, fault = excluded.fault",
            &[id.into(), tenant.into(), broken.fault.as_str().into()],
        )?;
        return Ok(());
    }
    let statements: &[&str] = match broken.what {
        "key" => &["DELETE FROM api_key_secrets WHERE key_id = $1", "DELETE FROM api_keys WHERE key_id = $1"],
        "tenant" => &["DELETE FROM tenants WHERE tenant_id = $1"],
        "plan" => &["DELETE FROM plans WHERE plan = $1"],
        "team" => &["DELETE FROM teams WHERE tenant_id || '/' || id = $1"],
        "user" => &["DELETE FROM users WHERE tenant_id || '/' || id = $1"],
        _ => &[],
    };
    statements.iter().try_for_each(|statement| sql.execute(statement, &[broken.id.as_str().into()]).map(|_| ()))
}
