//! A server's process: its folder and port, its start and end, signals to it. Decides nothing about what it serves.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take to start or to end before the test has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks whether it has.
pub const LOOK: Duration = Duration::from_millis(20);
/// A port that was free a moment ago may be taken when it is bound.
const START_TRIES: u32 = 5;

/// A server's process, folder and port.
pub struct Server {
    name: &'static str,
    /// What it logs when it can be used.
    ready: &'static str,
    /// Holds all of it.
    dir: TempDir,
    pub port: u16,
    child: Option<Child>,
}

impl Server {
    /// One that says `ready` in its log when it can be used.
    pub fn new(name: &'static str, ready: &'static str) -> Self {
        let dir = tempfile::Builder::new().prefix("weir-test-").tempdir().expect("a folder");
        own(dir.path());
        Self { name, ready, dir, port: 0, child: None }
    }

    pub fn path(&self, file: &str) -> String {
        self.dir.path().join(file).to_str().expect("UTF-8").to_owned()
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Starts it and waits until it listens. A port that it had is its port for good; a new one is tried again.
    pub fn start(&mut self, command: impl Fn(u16) -> Command) {
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

    pub fn log(&self) -> String {
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
        self.log().contains(self.ready)
    }

    /// Asks it to end with `signal`, and waits until it has.
    pub fn end(&mut self, signal: &str) {
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
    pub fn signal_all(&self, signal: &str) {
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
pub mod signal {
    pub const INT: &str = "INT";
    pub const KILL: &str = "KILL";
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

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// Gives a file or folder to whom `postgres` runs as.
pub fn own(path: &Path) {
    if is_root() && Command::new("id").arg("postgres").stdout(Stdio::null()).status().is_ok_and(|done| done.success()) {
        run(Command::new("chown").arg("postgres:postgres").arg(path));
    }
}

pub fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().expect("id can be run");
    id.stdout.trim_ascii() == b"0"
}

pub fn run(command: &mut Command) {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}
