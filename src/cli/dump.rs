//! `weir dump`: the configuration in force, with the origin of every value and without secrets.

use crate::config;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// `weir dump [-c FILE]`
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Args {
    /// Configuration file; default conf/weir.yaml, else /etc/weir/weir.yaml.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Runs the command: 0 if the file may be used, 1 if not.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    ExitCode::from(dump(args, &mut std::io::stdout().lock(), &mut std::io::stderr().lock()))
}

/// The command with its two outputs given; the exit status as a number.
pub fn dump(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let path = args.config.clone().unwrap_or_else(config::default_file);
    let (report, loaded) = config::examine(&path);
    let told = write!(err, "{}", report.to_text());
    let Some(loaded) = loaded else { return 1 };
    let version = &loaded.snapshot.version;
    let written = write!(out, "# effective configuration {version}\n{}", loaded.effective.annotated);
    u8::from(told.is_err() || written.is_err())
}
