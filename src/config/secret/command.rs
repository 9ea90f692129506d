//! A secret as the output of a program: run without a shell, bounded in time and output. Knows no keys.

use std::io::Read;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// Bytes of output at most: as a secret's file.
pub const MAX_OUTPUT: usize = 64 << 10;
/// How often a program that has closed its output is asked whether it has ended.
const ASK: Duration = Duration::from_millis(5);

/// Why a program gave no secret. What it wrote is in none of them: it may hold the secret.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It cannot be started or read.
    #[error("cannot be run: {0}")]
    Start(#[from] std::io::Error),
    /// It ended badly.
    #[error("failed with {0}")]
    Failed(ExitStatus),
    /// It did not end in time, and was killed.
    #[error("did not end within {0:?}")]
    TooSlow(Duration),
    /// It wrote too much, and was killed.
    #[error("wrote more than {MAX_OUTPUT} bytes")]
    TooLong,
}

/// Runs a program with an empty standard input and gives what it wrote to standard output. Its standard error goes
/// nowhere. A process that the program leaves behind is not ended with it.
///
/// # Errors
/// [`CommandError`].
pub fn run(program: &str, arguments: &[&str], timeout: Duration) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let deadline = Instant::now() + timeout;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let outcome = output(&mut child, deadline, timeout);
    if outcome.is_err() {
        // It may have ended by itself; then there is nothing to kill, and `wait` gives what is known already.
        let _ = child.kill();
        let _ = child.wait();
    }
    outcome
}

fn output(child: &mut Child, deadline: Instant, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no standard output"))?;
    let read = reader(stdout)?.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    let bytes = match read {
        Ok(read) => read?,
        Err(RecvTimeoutError::Timeout) => return Err(CommandError::TooSlow(timeout)),
        Err(RecvTimeoutError::Disconnected) => return Err(std::io::Error::other("its output was lost").into()),
    };
    if bytes.len() > MAX_OUTPUT {
        return Err(CommandError::TooLong);
    }
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(bytes),
            Some(status) => return Err(CommandError::Failed(status)),
            None if Instant::now() >= deadline => return Err(CommandError::TooSlow(timeout)),
            None => std::thread::sleep(ASK),
        }
    }
}

/// Reads on a thread of its own, because a pipe has no deadline. It ends with the pipe, or at the bound.
fn reader(stdout: ChildStdout) -> std::io::Result<Receiver<std::io::Result<Zeroizing<Vec<u8>>>>> {
    let (sender, receiver) = sync_channel(1);
    std::thread::Builder::new().name("secret".to_owned()).spawn(move || {
        // The whole room at once: a buffer that grows would leave copies of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_OUTPUT + 2));
        let read = stdout.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut bytes);
        // Nobody listens any more where the time is over.
        let _ = sender.send(read.map(|_| bytes));
    })?;
    Ok(receiver)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Result<Vec<u8>, CommandError> {
        run("sh", &["-c", script], timeout).map(|bytes| bytes.to_vec())
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn a_program_gives_its_output_and_nothing_of_its_errors() {
        assert_eq!(shell("printf hush; echo loud >&2", LONG).expect("a secret"), b"hush", "standard output alone");
        assert_eq!(run("printf", &["%s", "$HOME;x"], LONG).expect("a secret").as_slice(), b"$HOME;x", "no shell");
        assert_eq!(shell("cat; echo end", LONG).expect("a secret"), b"end\n", "standard input is empty");
    }

    #[test]
    fn a_program_that_fails_gives_its_status_and_not_its_output() {
        let failed = shell("echo hush; exit 3", LONG).expect_err("a bad end");
        assert!(matches!(&failed, CommandError::Failed(status) if status.code() == Some(3)), "{failed:?}");
        assert!(!format!("{failed} {failed:?}").contains("hush"), "what it wrote is not told");
        assert!(matches!(run("/no/such/program", &[], LONG), Err(CommandError::Start(_))), "one that is not there");
    }

    #[test]
    fn a_program_has_bounds_in_time_and_output_and_is_ended_at_them() {
        let short = Duration::from_millis(50);
        assert!(matches!(shell("exec sleep 60", short), Err(CommandError::TooSlow(_))), "it never writes");
        assert!(matches!(shell("exec sleep 60 >&-", short), Err(CommandError::TooSlow(_))), "it never ends");
        assert!(matches!(shell("exec cat /dev/zero", LONG), Err(CommandError::TooLong)), "it never stops");
        let most = format!("head -c {MAX_OUTPUT} /dev/zero");
        assert_eq!(shell(&most, LONG).expect("a long secret").len(), MAX_OUTPUT, "the bound itself is allowed");
    }
}
