//! L6: composition roots, one file per command. Nothing but wiring lives here.

pub mod check;
pub mod dump;
pub mod explain;
pub mod keys;
pub mod parent;
pub mod quickstart;
pub mod serve;
pub mod sim;
pub mod writer;

use crate::config;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A programmable edge proxy for LLM inference.
#[derive(Parser, Debug)]
#[command(name = "weir", version, arg_required_else_help = true)]
struct Weir {
    /// Test the configuration and exit (as `weir check`)
    #[arg(short = 't', conflicts_with = "dump")]
    test: bool,
    /// Test the configuration, print it as it takes effect, and exit (as `weir dump`)
    #[arg(short = 'T')]
    dump: bool,
    /// Configuration file for -t and -T [default: conf/weir.yaml, else /etc/weir/weir.yaml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// How -t writes its findings [default: text]
    #[arg(long, value_enum, requires = "test")]
    format: Option<check::Format>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run the proxy
    Serve(serve::Args),
    /// Test a configuration: every error at once, with file, line and column
    Check(check::Args),
    /// Print a configuration as it takes effect
    Dump(dump::Args),
    /// Say which route, pool and backend a request would take, and why
    Explain(explain::Args),
    /// Make, list, show and revoke API keys
    Keys(keys::Args),
    /// Run the usage writer: spool to database
    Writer(writer::Args),
    /// Run simulated GPU engines
    Sim(sim::Args),
    /// Run everything on this machine: engines, proxy, writer, one key
    Quickstart(quickstart::Args),
}

/// Loads the configuration that a command names, or the default one; what is wrong with it is said here.
fn loaded(named: Option<&Path>) -> Option<config::Loaded> {
    let file = named.map_or_else(config::default_file, Path::to_owned);
    config::load(&file).inspect_err(|report| eprint!("{report}")).ok()
}

/// Runs the command line. Status: 0 done, 1 refused or failed, 2 wrong usage.
#[must_use]
pub fn run() -> ExitCode {
    let weir = Weir::parse();
    // Two crates bring a provider of their own; where none is the process's, rustls would panic at the first use.
    // Pingora's is the one. An error says that it is installed already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    if weir.test {
        return check::run(&check::Args { config: weir.config, format: weir.format.unwrap_or_default() });
    }
    if weir.dump {
        return dump::run(&dump::Args { config: weir.config });
    }
    match weir.command {
        Some(Command::Serve(args)) => serve::run(&args),
        Some(Command::Check(args)) => check::run(&args),
        Some(Command::Dump(args)) => dump::run(&args),
        Some(Command::Explain(args)) => explain::run(&args),
        Some(Command::Keys(args)) => keys::run(&args),
        Some(Command::Writer(args)) => writer::run(&args),
        Some(Command::Sim(args)) => sim::run(&args),
        Some(Command::Quickstart(args)) => quickstart::run(&args),
        None => {
            eprintln!("weir: no command; see `weir --help`");
            ExitCode::from(2)
        }
    }
}
