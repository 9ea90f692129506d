//! Ties a process's life to its parent's: what `weir quickstart` starts must not outlive it, not even when it is killed.
//!
//! Decides only when to ask for the end; how a process ends (drain, last batch) stays its own matter, so the request
//! is an ordinary TERM. Knows nothing of who the parent is: the pipe on standard input is the only tie.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// The environment variable by which a parent asks for the tie; its value is `1`.
pub const EXIT_WITH_PARENT: &str = "WEIR_EXIT_WITH_PARENT";

/// How long an orphan may take to end in order before it is cut off.
const ORPHAN_GRACE: Duration = Duration::from_secs(15);

/// Starts the watch on standard input, if the environment asks for it: at its end, which comes when the parent is
/// gone for whatever reason, this process gets TERM, and after [`ORPHAN_GRACE`] exits with status 1.
pub fn exit_with_parent() {
    if std::env::var_os(EXIT_WITH_PARENT).is_none_or(|value| value != "1") {
        return;
    }
    let watch = thread::Builder::new().name("parent-watch".into()).spawn(|| {
        wait_for_end(std::io::stdin().lock());
        eprintln!("weir: the process that started this one is gone; ending");
        if let Err(error) = terminate(std::process::id()) {
            eprintln!("weir: cannot signal myself, so I exit at once: {error}");
            std::process::exit(1);
        }
        thread::sleep(ORPHAN_GRACE);
        std::process::exit(1);
    });
    if let Err(error) = watch {
        eprintln!("weir: cannot watch the parent process: {error}");
    }
}

/// Returns once `pipe` is at its end or broken. What arrives on it means nothing.
fn wait_for_end(mut pipe: impl Read) {
    let mut ignored = [0_u8; 64];
    loop {
        match pipe.read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Sends TERM to one process.
///
/// By the shell's `kill`, which every POSIX system has: the system call would need `unsafe` or one more crate.
///
/// # Errors
/// The shell cannot be started, or there is no such process.
pub fn terminate(pid: u32) -> std::io::Result<()> {
    let status = Command::new("/bin/sh")
        .args(["-c", "kill -TERM \"$0\"", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if status.success() {
        return Ok(());
    }
    Err(std::io::Error::other(format!("kill -TERM {pid} failed: {status}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn the_watch_ends_with_the_pipe_and_not_before() {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let watch = thread::spawn(move || wait_for_end(reader));
        std::io::Write::write_all(&mut &writer, b"noise").expect("the pipe takes bytes");
        thread::sleep(Duration::from_millis(50));
        assert!(!watch.is_finished(), "bytes on the pipe must not end the watch");
        drop(writer);
        watch.join().expect("the watch returns at the end of the pipe");
    }

    #[test]
    fn terminate_reaches_exactly_the_named_process() {
        let mut sleeper = Command::new("sleep").arg("30").spawn().expect("sleep starts");
        terminate(sleeper.id()).expect("the process exists");
        let status = sleeper.wait().expect("it ends");
        assert_eq!(status.signal(), Some(15), "TERM, not KILL, and not an exit of its own: {status}");
    }

    #[test]
    fn terminate_reports_a_process_that_is_not_there() {
        let mut gone = Command::new("true").spawn().expect("true starts");
        gone.wait().expect("it ends");
        assert!(terminate(gone.id()).is_err(), "a reaped process cannot be signalled");
    }
}
