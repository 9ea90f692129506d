//! `weir quickstart`: simulated engines, the proxy, the usage writer, one tenant and one key, from nothing.
//!
//! Decides the order in which things start and end. The engines live in this process; `serve` and `writer` are
//! children, so that what runs is what runs in production, down to the signals.

mod children;
mod engines;
mod files;
mod key;
mod ports;
mod ready;

use children::{ChildEnded, Children};
use engines::{Engines, MAX_ENGINES};
use files::Facts;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The model that the engines serve: a name that nobody takes for a real one.
const MODEL: &str = "sim-8b";
/// For the engines; the proxy has its own.
const ENGINE_THREADS: usize = 2;

/// Flags of `weir quickstart`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Port of the proxy on 127.0.0.1; 0 picks a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// Port of the admin listener on 127.0.0.1; 0 picks a free one
    #[arg(long, default_value_t = 9901)]
    pub admin_port: u16,
    /// How many simulated engines
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_ENGINES)))]
    pub engines: u16,
    /// Where configuration, keys, usage and logs go; made when absent
    #[arg(long, default_value = "var")]
    pub state_dir: PathBuf,
}

/// Why a quickstart ended with status 1.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Port(#[from] ports::PortError),
    #[error("{doing}: {source}")]
    System { doing: String, source: io::Error },
    #[error("{0}")]
    Key(#[from] key::KeyError),
    #[error("{0}")]
    NotReady(#[from] ready::NotReady),
    #[error("{0}")]
    Ended(#[from] ChildEnded),
}

fn doing(what: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let doing = what.into();
    move |source| Failure::System { doing, source }
}

/// Runs until TERM or INT (status 0), or until something that it started ends by itself (status 1).
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(ENGINE_THREADS).enable_all().build();
    let outcome = runtime.map_err(doing("cannot start a runtime")).and_then(|runtime| runtime.block_on(live(args)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("weir quickstart: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Start, run, end. The engines outlive the proxy, so that its last streams can finish.
async fn live(args: &Args) -> Result<(), Failure> {
    let mut end = EndSignals::install().map_err(doing("cannot listen for signals"))?;
    let ports = ports::choose(args.port, args.admin_port)?;
    let state_dir = make_state_dir(&args.state_dir)?;
    let _alone = alone(&state_dir)?;
    let engines = Engines::start(args.engines, MODEL).map_err(doing("cannot start the engines"))?;
    let facts = Facts { state_dir, ports, engines: engines.urls(), model: MODEL.to_owned() };
    let mut children = Children::default();
    let outcome = tokio::select! {
        failure = start_and_watch(&facts, &mut children) => failure,
        () = end.received() => Ok(()),
    };
    children.stop().await;
    drop(engines);
    outcome
}

/// Never returns without a failure: once all runs, it waits for the first child that ends.
async fn start_and_watch(facts: &Facts, children: &mut Children) -> Result<(), Failure> {
    let exe = std::env::current_exe().map_err(doing("cannot find this program"))?;
    let config = facts.config();
    let earlier = files::earlier_key(&facts.state_dir);
    // Away with the old one: a script that waits for this file must not read the ports of yesterday.
    remove_if_there(&facts.env_file()).map_err(doing("cannot remove the old quickstart.env"))?;
    files::put(&config, &facts.config_text()).map_err(doing(format!("cannot write {}", config.display())))?;
    let key = key::obtain(&exe, &config, earlier)?;
    // The proxy first: children are ended in this order, and the writer must see the proxy's last records.
    for name in ["serve", "writer"] {
        children.start(&exe, name, &config, &facts.state_dir).map_err(doing(format!("cannot start `weir {name}`")))?;
    }
    tokio::select! {
        ended = children.first_end() => return Err(ended.into()),
        ready = ready::wait(facts.ports.admin) => ready?,
    }
    let env_file = facts.env_file();
    files::put(&env_file, &facts.env_text(&key)).map_err(doing(format!("cannot write {}", env_file.display())))?;
    println!("{}", greeting(facts, &key));
    Err(children.first_end().await.into())
}

fn make_state_dir(asked: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(asked)
        .and_then(|()| fs::canonicalize(asked))
        .map_err(doing(format!("cannot use the state directory {}", asked.display())))
}

/// Held while this quickstart runs: a second one in the same directory would take away the names and the process ids of
/// the first.
fn alone(state_dir: &Path) -> Result<fs::File, Failure> {
    let path = state_dir.join("quickstart.lock");
    let taken = || format!("cannot use {}: another quickstart runs there; name another --state-dir", path.display());
    let lock = fs::File::create(&path).map_err(doing(format!("cannot make {}", path.display())))?;
    lock.try_lock().map_err(io::Error::from).map_err(doing(taken()))?;
    Ok(lock)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What a person sees.
fn greeting(facts: &Facts, key: &str) -> String {
    let Facts { state_dir, ports, engines, model } = facts;
    let dir = state_dir.display();
    format!(
        "Weir is running.\n\
         \n  proxy    http://{proxy}\n  admin    http://{admin}   /ready /metrics /pools\
         \n  engines  {count} simulated, model {model}: {engines}\
         \n  usage    {dir}/usage.db, table usage_records\
         \n  config   {config}\
         \n  logs     {dir}/serve.log {dir}/writer.log {dir}/access.log\
         \n  scripts  {env}\n\
         \nStream a completion:\n\
         \n  curl -N http://{proxy}/v1/chat/completions \\\
         \n    -H 'authorization: Bearer {key}' -H 'content-type: application/json' \\\
         \n    -d '{{\"model\":\"{model}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\
         \nCtrl-C ends all of it.",
        proxy = ports.proxy,
        admin = ports.admin,
        count = engines.len(),
        engines = engines.join(" "),
        config = facts.config().display(),
        env = facts.env_file().display(),
    )
}

/// TERM and INT, from before the first thing starts.
struct EndSignals {
    term: Signal,
    int: Signal,
}

impl EndSignals {
    fn install() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let args = Cli::parse_from(["quickstart"]).args;
        let defaults = (args.port, args.admin_port, args.engines, args.state_dir);
        assert_eq!(defaults, (8080, 9901, 4, PathBuf::from("var")), "scripts and the README rely on them");
    }

    #[test]
    fn no_engines_and_too_many_are_wrong_usage() {
        for count in ["0", "65"] {
            assert!(Cli::try_parse_from(["quickstart", "--engines", count]).is_err(), "{count} engines make no pool");
        }
    }

    #[test]
    fn the_curl_line_is_whole_and_names_what_runs() {
        let ports = ports::choose(0, 0).expect("free ports");
        let facts =
            Facts { state_dir: "/tmp/w".into(), ports, engines: vec!["http://127.0.0.1:1".into()], model: "m".into() };
        let text = greeting(&facts, "sk-weir-k");
        let (_, curl) = text.split_once("  curl -N ").expect("a curl line");
        assert!(
            curl.starts_with(&format!("http://{}/v1/chat/completions \\\n", ports.proxy)),
            "the chosen port: {curl}"
        );
        assert!(curl.contains("Bearer sk-weir-k'") && curl.contains(r#"{"model":"m","stream":true,"#), "{curl}");
    }
}
