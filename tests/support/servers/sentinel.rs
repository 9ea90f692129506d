//! A primary, its replica, and sentinels that watch over them. Decides how soon they find that the primary is gone.

use super::process::{Server, signal};
use super::redis::Redis;
use std::process::Command;

/// What a sentinel logs when it can be used.
const READY: &str = "+monitor master";
/// The primary's name.
const MASTER: &str = "weir";

/// Two servers and their sentinels.
pub struct RedisSentinels {
    /// The primary at first, and its replica.
    pub servers: [Redis; 2],
    sentinels: Vec<Server>,
}

impl RedisSentinels {
    /// So many sentinels; more than half of them must agree, and each has found all others when this returns.
    pub fn start(sentinels: usize) -> Self {
        let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port().to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        replica.wait_until(&["INFO", "replication"], |said| said.contains("master_link_status:up"));
        let started = (0..sentinels).map(|_| sentinel(primary.port(), sentinels / 2 + 1)).collect();
        let this = Self { servers: [primary, replica], sentinels: started };
        let others = format!("num-other-sentinels\n{}\n", sentinels - 1);
        for place in 0..sentinels {
            let known = |said: &str| said.contains(&others) && said.contains("num-slaves\n1\n");
            this.wait_until(place, &["SENTINEL", "MASTER", MASTER], known);
        }
        this
    }

    /// The name that the sentinels know the primary by.
    pub fn master(&self) -> &'static str {
        MASTER
    }

    /// The sentinels' URLs.
    pub fn urls(&self) -> Vec<String> {
        self.sentinels.iter().map(|sentinel| format!("redis://127.0.0.1:{}", sentinel.port)).collect()
    }

    /// The server that all sentinels name now: its place in `servers`.
    pub fn current(&self) -> usize {
        let said = self.ask(0, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]);
        let place = self.servers.iter().position(|server| said.ends_with(&format!("\n{}", server.port())));
        place.unwrap_or_else(|| panic!("the sentinel names a stranger: {said}"))
    }

    /// Waits until the sentinels name `place`, and it takes writes.
    pub fn wait_for_master(&self, place: usize) {
        let port = format!("\n{}", self.servers[place].port());
        for sentinel in 0..self.sentinels.len() {
            let command = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER];
            self.wait_until(sentinel, &command, |said| said.ends_with(&port));
        }
        self.servers[place].wait_until(&["ROLE"], |said| said.starts_with("master"));
    }

    /// Makes the replica the primary, while both live.
    pub fn fail_over(&self) {
        let said = self.ask(0, &["SENTINEL", "FAILOVER", MASTER]);
        assert_eq!(said, "OK", "the sentinel begins a failover");
    }

    /// Makes the replica a primary of its own, which all sentinels take for the only one; the other does not hear of it.
    pub fn divide(&self) {
        self.servers[1].cli(&["REPLICAOF", "NO", "ONE"]);
        let port = self.servers[1].port().to_string();
        for place in 0..self.sentinels.len() {
            assert_eq!(self.ask(place, &["SENTINEL", "REMOVE", MASTER]), "OK", "the sentinel forgets the old one");
            let monitor = ["SENTINEL", "MONITOR", MASTER, "127.0.0.1", &port, "1"];
            assert_eq!(self.ask(place, &monitor), "OK", "and takes the new one");
        }
    }

    /// Ends a sentinel.
    pub fn stop_sentinel(&mut self, place: usize) {
        self.sentinels[place].end(signal::KILL);
    }

    fn ask(&self, sentinel: usize, command: &[&str]) -> String {
        let port = self.sentinels[sentinel].port.to_string();
        let out = Command::new("redis-cli").args(["-h", "127.0.0.1", "-p", &port]).args(command).output();
        String::from_utf8_lossy(&out.expect("redis-cli can be run").stdout).trim_end().to_owned()
    }

    fn wait_until(&self, sentinel: usize, command: &[&str], wanted: impl Fn(&str) -> bool) {
        let end = std::time::Instant::now() + super::process::DEADLINE;
        loop {
            // A line's end after the last line, too: a figure is looked for with what follows it.
            let said = self.ask(sentinel, command);
            if wanted(&said) {
                return;
            }
            assert!(std::time::Instant::now() < end, "{command:?} still says: {said}");
            std::thread::sleep(super::process::LOOK);
        }
    }
}

fn sentinel(primary: u16, quorum: usize) -> Server {
    let mut server = Server::new("redis-server --sentinel", READY);
    let file = server.path("sentinel.conf");
    let settings = format!(
        "sentinel monitor {MASTER} 127.0.0.1 {primary} {quorum}\n\
         sentinel down-after-milliseconds {MASTER} 600\n\
         sentinel failover-timeout {MASTER} 3000\n\
         sentinel parallel-syncs {MASTER} 1\n"
    );
    std::fs::write(&file, settings).expect("written");
    let dir = server.path("");
    server.start(|port| {
        let mut command = Command::new("redis-server");
        command.args([&file, "--sentinel", "--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", &dir]);
        command
    });
    server
}
