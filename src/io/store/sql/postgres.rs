//! The Postgres side: one session on a runtime of its own, every answer waited for with a deadline. Decides what of an
//! error may be told: never the URL, never the content of a row.
//!
//! Blocks, so it must not be used on a thread that runs async code.

use super::super::error::StoreError;
use super::{Columns, Fault, Mode, Value, tls};
use bytes::BytesMut;
use futures_util::TryStreamExt;
use std::cell::Cell;
use std::error::Error as _;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::form_urlencoded::parse;

/// How long a connection, and each answer, is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the server works on one statement at most: after that nobody waits any more.
const STATEMENT_TIMEOUT: &str = "SET statement_timeout = 5000; SET idle_in_transaction_session_timeout = 30000;";
/// The same where everything is read: a million keys are sorted before the first one comes.
const READ_ANSWER: Duration = Duration::from_secs(60);
const READ_TIMEOUT: &str = "SET LOCAL statement_timeout = 120000;";
/// A peer that vanished is noticed after about this long.
const KEEPALIVE: Duration = Duration::from_secs(10);

type Encrypted = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;
/// The half that does the work; it must be polled for anything to happen.
pub(crate) type Wire = Connection<Socket, Encrypted>;

/// Where a server is. `Debug` shows nothing.
#[derive(Clone)]
pub(crate) struct Address {
    config: Config,
    root: Option<PathBuf>,
}

impl Address {
    /// Reads a URL. `sslmode` is `disable`, `prefer` (plain only where the server has no TLS), `require` or
    /// `verify-full`; without it `prefer` within this machine, else `require`: a word on the wire could take the
    /// encryption away from `prefer`. A certificate is checked whenever there is one, against the system's roots and
    /// `sslrootcert`.
    pub(crate) fn parse(url: &[u8]) -> Result<Self, StoreError> {
        let refused = |fault: &str| StoreError::Refused(format!("store.postgres.url cannot be used: {fault}"));
        let text = std::str::from_utf8(url).map_err(|_| refused("it is not UTF-8"))?.trim();
        if !["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            return Err(refused("it does not begin with postgres:// or postgresql://"));
        }
        // By hand: an address may name several hosts with their ports, which is no URL to the rest of the world.
        let (mut address, query) =
            text.split_once('?').map_or((text.to_owned(), ""), |(left, right)| (left.to_owned(), right));
        let mut root = None;
        let mut mode_is_said = false;
        let mut mark = '?';
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            if let Some((_, path)) = parse(pair.as_bytes()).find(|(name, _)| name == "sslrootcert") {
                root = Some(PathBuf::from(path.into_owned()));
                continue;
            }
            mode_is_said |= parse(pair.as_bytes()).any(|(name, _)| name == "sslmode");
            // Stricter than libpq's `require` and `verify-ca`: whoever asks for TLS gets a checked name.
            let strict = matches!(pair, "sslmode=verify-full" | "sslmode=verify-ca");
            address.extend([mark.to_string().as_str(), if strict { "sslmode=require" } else { pair }]);
            mark = '&';
        }
        // Its errors name options, never values.
        let mut config: Config = address.parse().map_err(|error: tokio_postgres::Error| refused(&told(&error)))?;
        if !mode_is_said && !within_this_machine(&config) {
            config.ssl_mode(SslMode::Require);
        }
        config.connect_timeout(ANSWER).tcp_user_timeout(2 * ANSWER);
        config.keepalives_idle(KEEPALIVE).keepalives_interval(KEEPALIVE / 2).keepalives_retries(2);
        if config.get_application_name().is_none() {
            config.application_name("weir");
        }
        Ok(Self { config, root })
    }

    /// Connects. The second half must be polled by the caller.
    pub(crate) async fn connect(&self) -> Result<(Client, Wire), StoreError> {
        let tls = tls::connector(self.root.as_deref())?;
        match timeout(ANSWER, self.config.connect(tls)).await {
            Err(_late) => Err(StoreError::Timeout(ANSWER)),
            Ok(done) => done.map_err(|error| StoreError::Postgres(told(&error))),
        }
    }
}

/// True where every host is a socket or a loopback address.
fn within_this_machine(config: &Config) -> bool {
    let near = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
    };
    config.get_hosts().iter().all(near) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Address(***)")
    }
}

/// A connection with the runtime that drives it.
pub(crate) struct Session {
    client: Client,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
    /// An answer did not come: nobody knows what the server did.
    lost: Cell<bool>,
    /// The transaction that is open.
    open: Option<Mode>,
}

impl Session {
    pub(crate) fn connect(address: &Address) -> Result<Self, StoreError> {
        let runtime = runtime()?;
        let (client, wire) = runtime.block_on(address.connect())?;
        runtime.spawn(async move {
            // Whoever waits for an answer hears of it.
            let _ended = wire.await;
        });
        let mut session = Self { client, runtime: Some(runtime), lost: Cell::new(false), open: None };
        session.batch(STATEMENT_TIMEOUT)?;
        Ok(session)
    }

    pub(super) fn usable(&self) -> bool {
        !self.lost.get() && self.open.is_none() && !self.client.is_closed()
    }

    pub(super) fn execute(&mut self, sql: &str, values: &[Value<'_>]) -> Result<u64, StoreError> {
        let bound: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (value as &(dyn ToSql + Sync), value.kind())).collect();
        self.wait(self.client.execute_typed(sql, &bound))
    }

    pub(super) fn query_each(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
        each: &mut dyn FnMut(&dyn Columns) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let bound: Vec<(&(dyn ToSql + Sync), Type)> =
            values.iter().map(|value| (value as &(dyn ToSql + Sync), value.kind())).collect();
        let rows = self.wait(self.client.query_typed_raw(sql, bound))?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = self.wait(rows.try_next())? {
            each(&row)?;
        }
        Ok(())
    }

    pub(super) fn batch(&mut self, sql: &str) -> Result<(), StoreError> {
        self.wait(self.client.batch_execute(sql))
    }

    pub(super) fn begin(&mut self, mode: Mode) -> Result<(), StoreError> {
        self.open = Some(mode);
        self.batch(match mode {
            Mode::Read => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            // Said, and not left to the server's default: the statements of a change see what the change before it,
            // for which they waited, has done.
            Mode::Write => "BEGIN ISOLATION LEVEL READ COMMITTED",
        })?;
        if mode == Mode::Read { self.batch(READ_TIMEOUT) } else { Ok(()) }
    }

    pub(super) fn end(&mut self, how: &str) -> Result<(), StoreError> {
        self.batch(how)?;
        self.open = None;
        Ok(())
    }

    /// Waits for an answer. Without one nobody knows what the server did: the session is then of no more use.
    fn wait<T>(&self, answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
        let Some(runtime) = &self.runtime else { return Err(StoreError::Postgres("the session has ended".into())) };
        let patience = if self.open == Some(Mode::Read) { READ_ANSWER } else { ANSWER };
        match runtime.block_on(async { timeout(patience, answer).await }) {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                self.lost.set(self.lost.get() || error.as_db_error().is_none());
                Err(failed(&error))
            }
            Err(_late) => {
                self.lost.set(true);
                Err(StoreError::Timeout(patience))
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits for nothing: a session may be dropped where waiting is not allowed.
            runtime.shutdown_background();
        }
    }
}

/// A runtime for one connection; it costs no thread.
pub(crate) fn runtime() -> Result<Runtime, StoreError> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StoreError::Postgres(format!("runtime: {error}")))
}

/// Sorts an error by what the server said.
fn failed(error: &tokio_postgres::Error) -> StoreError {
    match error.code() {
        Some(code) if *code == SqlState::QUERY_CANCELED => StoreError::Timeout(ANSWER),
        // Class 22: a value that no column can hold, such as a text with a zero byte; 23: a constraint.
        Some(code) if code.code().starts_with("22") || code.code().starts_with("23") => {
            StoreError::Refused(format!("the key store refuses a value: {}", told(error)))
        }
        _ => StoreError::Postgres(told(error)),
    }
}

/// What an error may say. Postgres's details repeat the row at fault, so they are left out.
pub(crate) fn told(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), error.source()) {
        (Some(said), _) => format!("{} (SQLSTATE {})", said.message(), said.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

impl Value<'_> {
    /// A null has no type of its own: Postgres takes it from where it stands.
    fn kind(&self) -> Type {
        match self {
            Self::Null => Type::UNKNOWN,
            Self::Int(_) => Type::INT8,
            Self::Text(_) => Type::TEXT,
            Self::Bytes(_) => Type::BYTEA,
        }
    }
}

impl ToSql for Value<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(number) => number.to_sql(kind, out),
            Self::Text(text) => text.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(_kind: &Type) -> bool {
        // `Value::kind` says which it is.
        true
    }

    to_sql_checked!();
}

impl Columns for tokio_postgres::Row {
    fn int(&self, at: usize) -> Result<Option<i64>, Fault> {
        self.try_get(at).map_err(|_| wrong(self, at))
    }

    fn text(&self, at: usize) -> Result<Option<&str>, Fault> {
        self.try_get(at).map_err(|_| wrong(self, at))
    }

    fn bytes(&self, at: usize) -> Result<Option<&[u8]>, Fault> {
        self.try_get(at).map_err(|_| wrong(self, at))
    }
}

/// Names the column, never its content.
fn wrong(row: &tokio_postgres::Row, at: usize) -> Fault {
    format!("column {} has a wrong value", row.columns().get(at).map_or("?", |column| column.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_told_otherwise() {
        let mode = |url: &str| Address::parse(url.as_bytes()).expect(url).config.get_ssl_mode();
        for near in [
            "postgres://weir@localhost/weir",
            "postgres://weir@127.0.0.1:5433/weir?connect_timeout=5",
            "postgres://weir@[::1]/weir",
            "postgres://weir@%2Fvar%2Frun%2Fpostgresql/weir",
            "postgres:///weir?host=/run/postgresql",
        ] {
            assert_eq!(mode(near), SslMode::Prefer, "within this machine: {near}");
        }
        for far in [
            "postgres://weir@db.example/weir",
            "postgres://weir@10.0.0.5/weir?connect_timeout=5",
            "postgres://weir@127.0.0.1,db.example/weir",
            "postgres://weir@localhost/weir?hostaddr=10.0.0.5",
            "postgres://weir@db.example/weir?sslrootcert=/ca.pem",
        ] {
            assert_eq!(mode(far), SslMode::Require, "over a network: {far}");
        }
        for (said, as_said) in [("prefer", SslMode::Prefer), ("disable", SslMode::Disable)] {
            let url = format!("postgres://weir@db.example/weir?sslmode={said}");
            assert_eq!(mode(&url), as_said, "whoever says so gets it: {url}");
        }
    }
}
