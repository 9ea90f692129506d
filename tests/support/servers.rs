//! Real Postgres and Redis for tests, from Debian's packages: each in a temporary folder, on a free port of loopback,
//! ended by its process id. They can be stopped, started again and paused. Data is not kept safe on disk: it is fast,
//! and a test's end is the only crash.

// Each test binary uses its own part.
#![allow(dead_code)]

#[path = "servers/cluster.rs"]
mod cluster;
#[path = "servers/process.rs"]
mod process;
#[path = "servers/redis.rs"]
mod redis;
#[path = "servers/sentinel.rs"]
mod sentinel;

#[allow(unused_imports)]
pub use cluster::RedisCluster;
#[allow(unused_imports)]
pub use redis::Redis;
#[allow(unused_imports)]
pub use sentinel::RedisSentinels;

use process::{DEADLINE, LOOK, Server, is_root, own, run, signal};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// A Postgres server.
pub struct Postgres {
    server: Server,
    bin: PathBuf,
    databases: AtomicU32,
}

impl Postgres {
    /// The one that all tests of this binary share while any of them runs: to start one takes a second or two.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        // A test that failed while it started one leaves nothing half made.
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::start());
            *shared = Arc::downgrade(&started);
            started
        })
    }

    /// Starts one: user `postgres`, database `postgres`, no password.
    pub fn start() -> Self {
        let bin = newest_postgres();
        let server = Server::new("postgres", "ready to accept connections");
        run(as_postgres(&bin.join("initdb")).args(["-D", &server.path("data")]).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
        ]));
        let mut this = Self { server, bin, databases: AtomicU32::new(0) };
        this.start_again();
        this
    }

    /// URL of the database `postgres`.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// URL of a new, empty database: tests of one server do not see each other's rows.
    pub fn database(&self) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.url_of(&name)
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.server.port)
    }

    /// Runs SQL in a database by `psql`; what it printed, unaligned. Fails where the SQL does.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let done = self.try_sql(database, sql);
        done.unwrap_or_else(|said| panic!("psql {database}: {sql}: {said}"))
    }

    /// The same; what psql said where the SQL fails.
    pub fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let out = Command::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"])
            .args(["-p", &self.server.port.to_string(), "-d", database, "-c", sql])
            .output()
            .expect("psql can be run");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if out.status.success() { Ok(text(out.stdout)) } else { Err(text(out.stderr)) }
    }

    /// The server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// Ends the server at once, clients or not; its data stay for [`Postgres::start_again`].
    pub fn stop(&mut self) {
        self.server.end(signal::INT);
    }

    /// Starts it on the same port with the same data.
    pub fn start_again(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with TLS: a certificate and its key, in PEM.
    pub fn start_with_tls(&mut self, certificate: &str, key: &str) {
        let (cert_file, key_file) = (self.server.path("tls.pem"), self.server.path("tls.key"));
        fs::write(&cert_file, certificate).expect("written");
        fs::write(&key_file, key).expect("written");
        run(Command::new("chmod").args(["600", &key_file]));
        own(Path::new(&cert_file));
        own(Path::new(&key_file));
        let (cert, key) = (format!("ssl_cert_file={cert_file}"), format!("ssl_key_file={key_file}"));
        self.start_with(&["-c", "ssl=on", "-c", &cert, "-c", &key]);
    }

    fn start_with(&mut self, more: &[&str]) {
        let (data, sockets) = (self.server.path("data"), self.server.path(""));
        let bin = self.bin.clone();
        self.server.start(|port| {
            let mut command = as_postgres(&bin.join("postgres"));
            command.args(["-D", &data, "-k", &sockets, "-h", "127.0.0.1", "-p", &port.to_string()]);
            command.args(["-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200"]);
            command.args(more);
            command
        });
        // It listens before it answers.
        let end = Instant::now() + DEADLINE;
        while let Err(said) = self.try_sql("postgres", "SELECT 1") {
            assert!(Instant::now() < end, "postgres does not answer: {said}");
            std::thread::sleep(LOOK);
        }
    }

    /// Freezes the server: connections stay, answers do not come.
    pub fn pause(&self) {
        // Each connection has a process of its own.
        self.server.signal_all(signal::STOP);
    }

    /// Ends [`Postgres::pause`].
    pub fn resume(&self) {
        self.server.signal_all(signal::CONT);
    }
}

/// `postgres` refuses to run as root, so root runs it as the user that Debian's package made.
fn as_postgres(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    // It must be able to be there.
    command.current_dir("/");
    command
}

/// Debian keeps the programs of each version apart.
fn newest_postgres() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql: scripts/setup-tests installs it");
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let found = versions.filter_map(|entry| Some(entry.ok()?.path()));
    let with_server = found.filter(|path| path.join("bin/postgres").exists());
    with_server.max_by_key(number).expect("a Postgres server: scripts/setup-tests installs it").join("bin")
}
