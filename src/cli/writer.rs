//! `weir writer`: the sidecar that moves usage from the spool to the database. Wires configuration, signals and
//! [`crate::writer::run`]; decides only the exit status.

use crate::config::snapshot::Usage;
use crate::writer::{self, WriterError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// `weir writer`
#[derive(clap::Args, Debug)]
pub struct Args {
    /// The configuration file [default: conf/weir.yaml, else /etc/weir/weir.yaml]
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs until TERM or INT, then finishes what is in the spool. Status 0 then, 1 if the writer cannot work.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    super::parent::exit_with_parent();
    let file = args.config.clone().unwrap_or_else(crate::config::default_file);
    let done = load(&file).and_then(|usage| follow(usage).map_err(|error| format!("weir writer: {error}")));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

/// The `usage:` settings of a configuration file, or what is wrong with the file.
fn load(config: &Path) -> Result<Usage, String> {
    crate::config::load(config).map(|loaded| loaded.snapshot.usage.clone()).map_err(|report| report.to_string())
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Writer(#[from] WriterError),
    #[error("the process cannot be set up: {0}")]
    Setup(#[from] io::Error),
    #[error("the writer's thread died")]
    Died,
}

fn follow(usage: Usage) -> Result<(), Failed> {
    let stop = Arc::new(AtomicBool::new(false));
    let (ending, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Before the thread: an early TERM must not end the process in the middle of a batch.
    let signals = {
        let _in_runtime = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let thread = {
        let stop = Arc::clone(&stop);
        std::thread::Builder::new().name("usage-writer".to_owned()).spawn(move || {
            let result = writer::run(&usage, &stop);
            // The other end may be waiting for the join already.
            let _ = ending.send(());
            result
        })?
    };
    runtime.block_on(async move {
        let (mut term, mut int) = signals;
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = ended => {}
        }
    });
    stop.store(true, Ordering::Relaxed);
    let passed = thread.join().map_err(|_| Failed::Died)??;
    tracing::info!(?passed, "the usage writer ends");
    Ok(())
}
