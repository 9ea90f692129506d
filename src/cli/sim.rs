//! `weir sim`: simulated engines on successive ports until TERM or INT.

use crate::domain::units::Tokens;
use crate::sim::engine::{EngineLimits, SLOTS, STEP_TOKENS};
use crate::sim::profile::{PROFILES, Profile};
use crate::sim::server::{EngineSettings, FAULTS_HELP, Running, Server};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Simulated GPU engines that speak the engines' wire.
///
/// Each engine is a model of continuous batching with a prefix cache, behind the HTTP routes of vLLM:
/// /v1/chat/completions, /v1/completions, /v1/embeddings, /v1/responses, /v1/messages, /v1/models, /health, /metrics.
/// Four bytes of prompt count as one token. Without `max_tokens`, or above it, an answer has 16 to 128 tokens as the
/// prompt's hash says; `ignore_eos` gives exactly `max_tokens`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = FAULTS_HELP)]
pub struct Args {
    /// Address of the first engine; engine i listens on port + i (port 0: all take free ports)
    #[arg(long, default_value = "127.0.0.1:8000")]
    pub bind: SocketAddr,
    /// Number of engines
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub engines: u16,
    /// Hardware: 8b-h100, 8b-h200 or 70b-h100x4
    #[arg(long, default_value = PROFILES[0].name, value_parser = profile)]
    pub profile: Profile,
    /// Name of the served model
    #[arg(long, default_value = "sim-8b")]
    pub model: String,
    /// Virtual seconds per second; from 1000 on answers come as fast as they can be computed
    #[arg(long, default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,
    /// Size of the KV cache in tokens, instead of the profile's
    #[arg(long, value_parser = clap::value_parser!(u64).range(64..))]
    pub kv_tokens: Option<u64>,
    /// Sequences that run at once; a step's token budget is twice that, at least 2048
    #[arg(long, default_value_t = SLOTS, value_parser = slots)]
    pub slots: usize,
}

fn profile(text: &str) -> Result<Profile, String> {
    let names: Vec<&str> = PROFILES.iter().map(|profile| profile.name).collect();
    Profile::named(text).ok_or_else(|| format!("unknown profile; known: {}", names.join(", ")))
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if speed > 0.0 && speed.is_finite() { Ok(speed) } else { Err("must be above 0".to_owned()) }
}

fn slots(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=65_536).contains(n)).ok_or_else(|| "must be between 1 and 65536".to_owned())
}

impl Args {
    fn settings(&self) -> EngineSettings {
        let defaults = EngineLimits::of(self.profile);
        let limits = EngineLimits {
            kv_tokens: self.kv_tokens.map_or(defaults.kv_tokens, Tokens),
            slots: self.slots,
            // Decodes must not use up the whole budget.
            step_tokens: STEP_TOKENS.max(2 * self.slots as u64),
            ..defaults
        };
        EngineSettings { model: self.model.clone(), limits, speed: self.speed }
    }

    fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        (0..self.engines)
            .map(|i| {
                let port = if self.bind.port() == 0 { Some(0) } else { self.bind.port().checked_add(i) };
                let port = port.ok_or_else(|| io::Error::other(format!("engine {i} has no port left above 65535")))?;
                Ok(SocketAddr::new(self.bind.ip(), port))
            })
            .collect()
    }
}

/// Runs the engines until TERM or INT.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    match tokio::runtime::Runtime::new().and_then(|runtime| runtime.block_on(serve(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "the engines could not run");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: &Args) -> io::Result<()> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let engines = args
        .addresses()?
        .into_iter()
        .map(|addr| {
            Server::start(args.settings(), addr)
                .map_err(|error| io::Error::new(error.kind(), format!("engine on {addr}: {error}")))
        })
        .collect::<io::Result<Vec<Running>>>()?;
    let mut out = io::stdout().lock();
    for (i, engine) in engines.iter().enumerate() {
        let (url, profile, model, speed) = (engine.url(), args.profile.name, &args.model, args.speed);
        writeln!(out, "engine {i} {url} profile={profile} model={model} speed={speed}")?;
    }
    out.flush()?;
    drop(out);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    for engine in engines {
        engine.stop().await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn engines_listen_on_successive_ports_or_all_on_free_ones() {
        let ports = |bind: &str| {
            let args = Command::parse_from(["sim", "--bind", bind, "--engines", "3"]).args;
            args.addresses().map(|all| all.iter().map(SocketAddr::port).collect::<Vec<_>>()).ok()
        };
        assert_eq!(ports("127.0.0.1:9000"), Some(vec![9000, 9001, 9002]), "port + i");
        assert_eq!(ports("127.0.0.1:0"), Some(vec![0, 0, 0]), "free ports");
        assert_eq!(ports("127.0.0.1:65534"), None, "there is no port 65536");
    }

    #[test]
    fn wrong_values_are_refused_by_the_command_line() {
        for wrong in
            [["--profile", "abacus"], ["--speed", "0"], ["--speed", "NaN"], ["--slots", "0"], ["--engines", "0"]]
        {
            assert!(Command::try_parse_from(["sim", wrong[0], wrong[1]]).is_err(), "{wrong:?} must be refused");
        }
    }
}
