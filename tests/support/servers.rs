//! Real Postgres and Redis for tests, from Debian's packages: each in a temporary folder, on a free port of loopback,
//! ended by its process id. They can be stopped, started again and paused. Data is not kept safe on disk: it is fast,
//! and a test's end is the only crash.

// Each test binary uses its own part.
#![allow(dead_code)]

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to start or to end before the test has failed.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);
/// A port that was free a moment ago may be taken when it is bound.
const START_TRIES: u32 = 5;

/// A Postgres server.
pub struct Postgres {
    server: Server,
    bin: PathBuf,
    databases: AtomicU32,
}

/// A Redis server.
pub struct Redis {
    server: Server,
}

/// A server's process, folder and port.
struct Server {
    name: &'static str,
    /// Holds all of it.
    dir: TempDir,
    port: u16,
    child: Option<Child>,
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
        let server = Server::new("postgres");
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

impl Redis {
    /// Starts one, without a password.
    pub fn start() -> Self {
        let mut this = Self { server: Server::new("redis-server") };
        this.start_again();
        this
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.server.port)
    }

    /// The server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port
    }

    /// Ends the server at once.
    pub fn stop(&mut self) {
        self.server.end(signal::INT);
    }

    /// Starts it on the same port, empty.
    pub fn start_again(&mut self) {
        let dir = self.server.path("");
        self.server.start(|port| {
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.args(["--dir", &dir, "--daemonize", "no"]);
            command
        });
    }

    /// Freezes the server: connections stay, answers do not come.
    pub fn pause(&self) {
        self.server.signal_all(signal::STOP);
    }

    /// Ends [`Redis::pause`].
    pub fn resume(&self) {
        self.server.signal_all(signal::CONT);
    }
}

impl Server {
    fn new(name: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("weir-test-").tempdir().expect("a folder");
        own(dir.path());
        Self { name, dir, port: 0, child: None }
    }

    fn path(&self, file: &str) -> String {
        self.dir.path().join(file).to_str().expect("UTF-8").to_owned()
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it and waits until it listens. A port that it had is its port for good; a new one is tried again.
    fn start(&mut self, command: impl Fn(u16) -> Command) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let had = self.port;
        for _ in 0..START_TRIES {
            if had == 0 {
                self.port = free_port();
            }
            let log = fs::File::create(self.dir.path().join("log")).expect("a log");
            let mut command = command(self.port);
            command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
            self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{} can be started: {error}", self.name)));
            if self.listens() {
                return;
            }
        }
        panic!("{} does not start: {}", self.name, self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// False: it has ended by itself.
    fn listens(&mut self) -> bool {
        let end = Instant::now() + DEADLINE;
        loop {
            let child = self.child.as_mut().expect("it was started");
            if child.try_wait().expect("its state is known").is_some() {
                self.child = None;
                return false;
            }
            // Its own process still runs, so whoever listens there is it, unless the port was taken from it: then it
            // ends, and the next look sees that.
            if TcpStream::connect_timeout(&self.address(), LOOK).is_ok() && self.is_ready() {
                return true;
            }
            assert!(Instant::now() < end, "{} does not listen: {}", self.name, self.log());
            std::thread::sleep(LOOK);
        }
    }

    fn is_ready(&self) -> bool {
        let log = self.log();
        ["ready to accept connections", "Ready to accept connections"].iter().any(|words| log.contains(words))
    }

    /// Asks it to end with `signal`, and waits until it has.
    fn end(&mut self, signal: &str) {
        let Some(mut child) = self.child.take() else { return };
        // One that is paused could not hear it.
        kill(child.id(), signal::CONT);
        for process in family(child.id()) {
            kill(process, signal::CONT);
        }
        kill(child.id(), signal);
        let end = Instant::now() + DEADLINE;
        while child.try_wait().expect("its state is known").is_none() {
            if Instant::now() > end {
                child.kill().expect("it can be killed");
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Signals the process and the children that it has now.
    fn signal_all(&self, signal: &str) {
        let child = self.child.as_ref().expect("it runs");
        // The parent first: it makes no further children then.
        kill(child.id(), signal);
        for process in family(child.id()) {
            kill(process, signal);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(signal::INT);
    }
}

/// Names that `kill` takes.
mod signal {
    pub const INT: &str = "INT";
    pub const STOP: &str = "STOP";
    pub const CONT: &str = "CONT";
}

fn kill(process: u32, signal: &str) {
    // It may have ended in between.
    let _status = Command::new("kill").args(["-s", signal, &process.to_string()]).stderr(Stdio::null()).status();
}

/// Processes whose parent is `parent`.
fn family(parent: u32) -> Vec<u32> {
    let stat = |id: u32| fs::read_to_string(format!("/proc/{id}/stat")).ok();
    // `PID (NAME) STATE PARENT …`, where NAME may contain anything.
    let parent_of = |id: u32| stat(id)?.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok();
    let ids = fs::read_dir("/proc").expect("/proc").filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    ids.filter(|id| parent_of(*id) == Some(parent)).collect()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
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

/// Gives a file or folder to whom `postgres` runs as.
fn own(path: &Path) {
    if is_root() && Command::new("id").arg("postgres").stdout(Stdio::null()).status().is_ok_and(|done| done.success()) {
        run(Command::new("chown").arg("postgres:postgres").arg(path));
    }
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id can be run");
    id.stdout.trim_ascii() == b"0"
}

fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Debian keeps the programs of each version apart.
fn newest_postgres() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql: scripts/setup-tests installs it");
    let number = |path: &PathBuf| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let found = versions.filter_map(|entry| Some(entry.ok()?.path()));
    let with_server = found.filter(|path| path.join("bin/postgres").exists());
    with_server.max_by_key(number).expect("a Postgres server: scripts/setup-tests installs it").join("bin")
}
