//! `weir check`: validates a configuration and says everything that is wrong with it.

use crate::config;
use crate::config::diagnostic::Report;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// How findings are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// For people, on standard error.
    #[default]
    Text,
    /// One JSON document on standard output.
    Json,
    /// Annotations of GitHub Actions on standard output.
    Github,
}

/// `weir check [-c FILE] [--format text|json|github]`
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Args {
    /// Configuration file; default conf/weir.yaml, else /etc/weir/weir.yaml.
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How findings are written.
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Runs the command: 0 if the file may be used, 1 if not.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let code = check(args, &mut std::io::stdout().lock(), &mut std::io::stderr().lock());
    ExitCode::from(code)
}

/// The command with its two outputs given; the exit status as a number.
pub fn check(args: &Args, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    let path = args.config.clone().unwrap_or_else(config::default_file);
    let (report, _) = config::examine(&path);
    let written = match args.format {
        Format::Json => writeln!(out, "{}", report.to_json()),
        Format::Github => write!(out, "{}", report.to_github()).and_then(|()| write_verdict(&report, err)),
        Format::Text => write!(err, "{}", report.to_text()).and_then(|()| write_verdict(&report, err)),
    };
    u8::from(written.is_err() || !report.ok())
}

/// nginx's last line.
fn write_verdict(report: &Report, err: &mut dyn Write) -> std::io::Result<()> {
    let file = &report.file;
    if report.ok() {
        return writeln!(err, "configuration file {file} test is successful");
    }
    let count = report.errors.len();
    let word = if count == 1 { "error" } else { "errors" };
    writeln!(err, "configuration file {file} test failed: {count} {word}")
}
