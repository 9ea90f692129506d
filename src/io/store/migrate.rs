//! Brings a store's schema up to date, one embedded file per version. Decides only which files are still to run.

use super::error::StoreError;
use super::follow;
use super::sql::{Mode, Sql};

/// Version n is file n - 1. Files are never changed once released; a change is a further file.
const SQLITE: &[&str] = &[
    include_str!("migrations/sqlite/0001_keys.sql"),
    include_str!("migrations/sqlite/0002_identity.sql"),
    include_str!("migrations/sqlite/0003_budgets.sql"),
];
const POSTGRES: &[&str] =
    &[include_str!("migrations/postgres/0001_identity.sql"), include_str!("migrations/postgres/0002_budgets.sql")];

/// Held while the schema changes: Postgres has no lock that a table could give before there is one. The number means
/// nothing, it only has to be the same in every version.
const ADVISORY_LOCK: i64 = 0x7765_6972;

fn files(sql: &Sql) -> &'static [&'static str] {
    if sql.is_postgres() { POSTGRES } else { SQLITE }
}

/// Runs what is missing, all or none. Two processes that do it at once do it once.
fn migrate(sql: &mut Sql) -> Result<(), StoreError> {
    sql.begin(Mode::Write)?;
    let done = missing(sql);
    super::finish(sql, done)
}

/// Refuses a store that a newer version has changed, which we would misunderstand, and brings an older one up to date.
pub(super) fn check(sql: &mut Sql) -> Result<(), StoreError> {
    let known = files(sql).len() as i64;
    match version(sql) {
        Ok(found) if found == known => Ok(()),
        Ok(found) if found > known => Err(StoreError::Newer { found, known }),
        Ok(_older) => migrate(sql),
        // An empty database has no such table yet.
        Err(StoreError::Sqlite(_) | StoreError::Postgres(_)) if sql.usable() => migrate(sql),
        Err(error) => Err(error),
    }
}

fn missing(sql: &mut Sql) -> Result<(), StoreError> {
    if sql.is_postgres() {
        sql.query_each("SELECT 1 FROM pg_advisory_xact_lock($1)", &[ADVISORY_LOCK.into()], &mut |_| Ok(()))?;
    }
    sql.batch("CREATE TABLE IF NOT EXISTS key_schema_version (version BIGINT PRIMARY KEY NOT NULL);")?;
    let found = version(sql)?;
    let files = files(sql);
    let known = files.len() as i64;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (version, file) in (1i64..).zip(files).filter(|(version, _)| *version > found) {
        sql.batch(file)?;
        sql.execute("INSERT INTO key_schema_version (version) VALUES ($1)", &[version.into()])?;
    }
    name(sql)
}

fn version(sql: &mut Sql) -> Result<i64, StoreError> {
    let found =
        sql.query_one("SELECT coalesce(max(version), 0) FROM key_schema_version", &[], |row| row.need_int(0))?;
    Ok(found.unwrap_or_default())
}

/// A store without a name gets one: no file can draw a random one.
fn name(sql: &mut Sql) -> Result<(), StoreError> {
    let drawn = format!("{:016x}{:016x}", follow::random()?, follow::random()?);
    sql.execute(
        "UPDATE meta SET store = $1, mark = $2 WHERE id = 1 AND store = ''",
        &[(&drawn).into(), follow::random()?.into()],
    )?;
    sql.execute(
        "INSERT INTO change_marks (epoch, mark) SELECT epoch, mark FROM meta WHERE id = 1 ON CONFLICT (epoch) DO NOTHING",
        &[],
    )?;
    Ok(())
}
