//! One way to say SQL to SQLite and to Postgres: the same statements, three kinds of column. Decides nothing about keys;
//! statements write `$1`, `$2`, … for their values and contain no other `$`.

pub(super) mod postgres;
pub(super) mod sqlite;
mod tls;

use super::error::StoreError;
use super::rows::BrokenRow;

/// A value that is bound to a statement.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Self::Int(i64::from(yes))
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// What is wrong with a column: its name and no more, for faults end in logs.
pub(super) type Fault = String;

/// A row that was read. Borrowed: a million keys are not held twice.
pub(super) trait Columns {
    fn int(&self, at: usize) -> Result<Option<i64>, Fault>;
    fn text(&self, at: usize) -> Result<Option<&str>, Fault>;
    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, Fault>;
}

impl dyn Columns + '_ {
    pub(super) fn need_int(&self, at: usize) -> Result<i64, Fault> {
        self.int(at)?.ok_or_else(|| format!("column {at} is null"))
    }

    pub(super) fn need_text(&self, at: usize) -> Result<String, Fault> {
        Ok(self.text(at)?.ok_or_else(|| format!("column {at} is null"))?.to_owned())
    }

    pub(super) fn owned(&self, at: usize) -> Result<Option<String>, Fault> {
        Ok(self.text(at)?.map(str::to_owned))
    }

    pub(super) fn flag(&self, at: usize) -> Result<bool, Fault> {
        Ok(self.need_int(at)? != 0)
    }
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// One consistent look at everything.
    Read,
    /// Changes; one at a time.
    Write,
}

/// An open connection to either.
pub(super) enum Sql {
    Sqlite(sqlite::File),
    Postgres(Box<postgres::Session>),
}

impl Sql {
    /// Runs a statement; how many rows it touched.
    pub(super) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(file) => file.execute(sql, values),
            Self::Postgres(session) => session.execute(sql, values),
        }
    }

    /// Hands each row to `each` as it comes.
    pub(super) fn query_each(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn Columns) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => file.query_each(sql, values, each),
            Self::Postgres(session) => session.query_each(sql, values, each),
        }
    }

    /// The first row, if there is one.
    pub(super) fn query_one<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&dyn Columns) -> Result<T, Fault>,
    ) -> Result<Option<T>, StoreError> {
        let mut found = None;
        self.query_each(sql, values, &mut |row| {
            if found.is_none() {
                found = Some(read(row).map_err(unreadable)?);
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// What a key names, if it names anything. A row that cannot be read is an error.
    pub(super) fn one<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&dyn Columns) -> Result<T, BrokenRow>,
    ) -> Result<Option<T>, StoreError> {
        let mut found = None;
        self.query_each(sql, values, &mut |row| {
            found = Some(read(row).map_err(StoreError::BrokenRow)?);
            Ok(())
        })?;
        Ok(found)
    }

    /// Every row, in the statement's order. One that cannot be read takes no other with it.
    pub(super) fn all<T>(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        read: impl Fn(&dyn Columns) -> Result<T, BrokenRow>,
    ) -> Result<Vec<Result<T, BrokenRow>>, StoreError> {
        let mut found = Vec::new();
        self.query_each(sql, values, &mut |row| {
            found.push(read(row));
            Ok(())
        })?;
        Ok(found)
    }

    /// Statements without values, one after the other: a migration.
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => file.batch(sql),
            Self::Postgres(session) => session.batch(sql),
        }
    }

    pub(super) fn begin(&mut self, mode: Mode) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => file.begin(mode),
            Self::Postgres(session) => session.begin(mode),
        }
    }

    pub(super) fn commit(&mut self) -> Result<(), StoreError> {
        self.end("COMMIT")
    }

    pub(super) fn rollback(&mut self) -> Result<(), StoreError> {
        self.end("ROLLBACK")
    }

    fn end(&mut self, how: &str) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(file) => file.end(how),
            Self::Postgres(session) => session.end(how),
        }
    }

    /// False: open a new one. The file was replaced, the connection is gone, or a transaction was left open.
    pub(super) fn usable(&self) -> bool {
        match self {
            Self::Sqlite(file) => file.usable(),
            Self::Postgres(session) => session.usable(),
        }
    }

    /// Asks a server whether it is there; a file is.
    pub(super) fn ping(&mut self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(session) => session.batch(""),
        }
    }

    pub(super) fn is_postgres(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

/// A row of our own bookkeeping that is not as we wrote it.
fn unreadable(fault: Fault) -> StoreError {
    StoreError::Damaged(fault)
}
