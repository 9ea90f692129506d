//! The count of changes, and what has changed since a given one. Decides whether a stamp is of this store's history.

use super::error::StoreError;
use super::rows::{Row, Stamp};
use super::sql::Sql;
use super::{budgets, keys, plans, tenancy};

/// Marks of the last changes are kept, so that a follower that is not further behind is told only what has changed.
pub(super) const KEPT_MARKS: i64 = 10_000;

/// The channel of Postgres's notifications.
pub(super) const CHANNEL: &str = "weir_keys";

pub(super) fn stamp(sql: &mut Sql) -> Result<Stamp, StoreError> {
    let found = sql.query_one("SELECT store, epoch, mark FROM meta WHERE id = 1", &[], |row| {
        Ok(Stamp { store: row.need_text(0)?, epoch: row.need_int(1)?, mark: row.need_int(2)? })
    })?;
    found.ok_or_else(|| StoreError::Damaged("its own row is missing".to_owned()))
}

/// Counts one more change. Holds until the transaction ends, so that changes happen one after another and whoever reads
/// an epoch has all that came before it.
pub(super) fn count(sql: &mut Sql) -> Result<i64, StoreError> {
    let mark = random()?;
    let counted = sql.query_one(
        "UPDATE meta SET epoch = epoch + 1, mark = $1 WHERE id = 1 RETURNING epoch",
        &[mark.into()],
        |row| row.need_int(0),
    )?;
    let epoch = counted.ok_or_else(|| StoreError::Damaged("its own row is missing".to_owned()))?;
    sql.execute("INSERT INTO change_marks (epoch, mark) VALUES ($1, $2)", &[epoch.into(), mark.into()])?;
    sql.execute("DELETE FROM change_marks WHERE epoch <= $1", &[(epoch - KEPT_MARKS).into()])?;
    Ok(epoch)
}

/// Tells those who listen, when the transaction commits.
pub(super) fn notify(sql: &mut Sql, epoch: i64) -> Result<(), StoreError> {
    if sql.is_postgres() {
        let epoch = epoch.to_string();
        sql.query_each("SELECT pg_notify($1, $2)", &[CHANNEL.into(), (&epoch).into()], &mut |_| Ok(()))?;
    }
    Ok(())
}

/// Hands over everything, or what has changed. Inside a transaction.
pub(super) fn changes(sql: &mut Sql, since: Option<&Stamp>, each: &mut dyn FnMut(Row)) -> Result<Stamp, StoreError> {
    let stamp = stamp(sql)?;
    if since == Some(&stamp) {
        return Ok(stamp);
    }
    let since = match since {
        Some(since) if is_history(sql, since, &stamp)? => Some(since.epoch),
        _ => None,
    };
    if since.is_none() {
        each(Row::Reset);
    }
    // Plans, tenants and teams first: a follower that builds as it reads knows them when their keys come.
    plans::changed(sql, since, &mut |read| each(read.map_or_else(Row::Broken, Row::Plan)))?;
    tenancy::changed(sql, since, each)?;
    budgets::changed(sql, since, &mut |read| each(read.map_or_else(Row::Broken, Row::Budget)))?;
    keys::changed(sql, since, &mut |read| {
        each(read.map_or_else(Row::Broken, Row::Key));
        Ok(())
    })?;
    Ok(stamp)
}

fn is_history(sql: &mut Sql, since: &Stamp, stamp: &Stamp) -> Result<bool, StoreError> {
    if since.store != stamp.store || since.epoch > stamp.epoch {
        return Ok(false);
    }
    let mark =
        sql.query_one("SELECT mark FROM change_marks WHERE epoch = $1", &[since.epoch.into()], |row| row.need_int(0))?;
    Ok(mark == Some(since.mark))
}

/// Any number, drawn by the system.
pub(super) fn random() -> Result<i64, StoreError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(StoreError::Random)?;
    Ok(i64::from_le_bytes(bytes))
}
