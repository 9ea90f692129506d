//! The child processes of a quickstart: started with a log file and a pid file, watched, ended by pid.
//!
//! Decides nothing about what they do. Each child sits in a process group of its own, so that Ctrl-C reaches only
//! the parent, which then ends them in order; and each watches its standard input (`cli::parent`), so that it ends
//! even when the parent is killed.

use crate::cli::parent::{EXIT_WITH_PARENT, terminate};
use futures_util::future::select_all;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, ChildStdin, Command};

/// How long a child may take to end after TERM before it is killed: its drain (5 s in the template) and some.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How much of a dead child's log is shown, in lines.
const LOG_TAIL_LINES: usize = 20;
/// How much of a log is read for that, in bytes.
const LOG_TAIL_BYTES: usize = 16 * 1024;

/// One running child.
struct Running {
    name: &'static str,
    pid: u32,
    child: Child,
    /// Held open: its end tells the child that this process is gone.
    tie: Option<ChildStdin>,
    log: PathBuf,
    pid_file: PathBuf,
}

/// The children, in the order in which they are to be ended.
#[derive(Default)]
pub struct Children {
    running: Vec<Running>,
}

/// A child that ended by itself.
#[derive(Debug, thiserror::Error)]
#[error("`weir {name}` ended ({status}); the end of {log}:\n{tail}", log = log.display())]
pub struct ChildEnded {
    /// Its command.
    pub name: &'static str,
    /// How it ended.
    pub status: String,
    /// Its log file.
    pub log: PathBuf,
    /// The last lines of it.
    pub tail: String,
}

impl Children {
    /// Starts `<exe> <name> -c <config>`, with its output in STATE_DIR/NAME.log and its pid in STATE_DIR/NAME.pid.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(&mut self, exe: &Path, name: &'static str, config: &Path, state_dir: &Path) -> io::Result<()> {
        let log = state_dir.join(format!("{name}.log"));
        let output = File::create(&log)?;
        let mut child = Command::new(exe)
            .arg(name)
            .arg("-c")
            .arg(config)
            .env(EXIT_WITH_PARENT, "1")
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().ok_or_else(|| io::Error::other(format!("`weir {name}` has no pid")))?;
        let pid_file = state_dir.join(format!("{name}.pid"));
        fs::write(&pid_file, format!("{pid}\n"))?;
        // Taken out: waiting for a child closes the standard input that it still owns.
        let tie = child.stdin.take();
        self.running.push(Running { name, pid, child, tie, log, pid_file });
        Ok(())
    }

    /// Waits until one of them ends by itself. Never returns while all run.
    pub async fn first_end(&mut self) -> ChildEnded {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        let (status, index, _) =
            select_all(self.running.iter_mut().map(|running| Box::pin(running.child.wait()))).await;
        let ended = &self.running[index];
        ChildEnded { name: ended.name, status: told(status), log: ended.log.clone(), tail: tail(&ended.log) }
    }

    /// Ends all of them, one after the other: TERM, then after [`STOP_WITHIN`] KILL. Tells what did not go well.
    pub async fn stop(mut self) {
        for running in &mut self.running {
            if let Err(error) = running.stop().await {
                eprintln!("weir quickstart: cannot end `weir {}` (pid {}): {error}", running.name, running.pid);
            }
        }
    }
}

impl Running {
    async fn stop(&mut self) -> io::Result<()> {
        if self.child.try_wait()?.is_none() {
            terminate(self.pid)?;
            if tokio::time::timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
                eprintln!("weir quickstart: `weir {}` did not end within {STOP_WITHIN:?}; killing it", self.name);
                self.child.kill().await?;
            }
        }
        self.tie = None;
        fs::remove_file(&self.pid_file)
    }
}

fn told(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The last lines of a log, indented.
fn tail(log: &Path) -> String {
    let bytes = match fs::read(log) {
        Ok(bytes) => bytes,
        Err(error) => return format!("  (cannot be read: {error})"),
    };
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
    if shown.is_empty() {
        return "  (empty)".into();
    }
    shown.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by another process: an open write handle of this one, inherited by a test that forks just then, would
    /// make the start fail with "text file busy".
    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("weir");
        let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
        let status = std::process::Command::new("/bin/sh").args(["-c", write]).arg(&path).arg(text).status();
        assert!(status.expect("a shell").success(), "the directory is writable");
        path
    }

    #[tokio::test]
    async fn a_child_that_ends_is_reported_with_its_status_and_the_end_of_its_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let exe = script(dir.path(), "echo \"cannot bind $3\"; exit 7");
        let mut children = Children::default();
        children.start(&exe, "serve", Path::new("x.yaml"), dir.path()).expect("the script starts");
        let ended = children.first_end().await.to_string();
        assert!(ended.contains("`weir serve` ended (exit status: 7)"), "names the child and its status: {ended}");
        assert!(ended.contains("  cannot bind x.yaml"), "shows the log: {ended}");
        children.stop().await;
        assert!(!dir.path().join("serve.pid").exists(), "no pid file stays behind");
    }

    #[tokio::test]
    async fn stop_ends_a_running_child_by_term() {
        let dir = tempfile::tempdir().expect("a directory");
        let exe = script(dir.path(), "trap 'echo got TERM; exit 0' TERM; while :; do sleep 0.05; done");
        let mut children = Children::default();
        children.start(&exe, "writer", Path::new("x.yaml"), dir.path()).expect("the script starts");
        tokio::time::sleep(Duration::from_millis(200)).await;
        children.stop().await;
        let log = fs::read_to_string(dir.path().join("writer.log")).expect("the log stays");
        assert_eq!(log, "got TERM\n", "the child could end in order");
    }

    #[test]
    fn the_tail_shows_the_last_lines_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("serve.log");
        let text: String = (0..50).map(|n| format!("line {n}\n")).collect();
        fs::write(&log, text).expect("the directory is writable");
        let shown = tail(&log);
        assert!(shown.starts_with("  line 30\n") && shown.ends_with("line 49"), "the last 20 lines: {shown}");
    }
}
