//! `weir explain`: which route a request would take and why each earlier one would not, and how the pool's
//! candidates score, from the configuration alone. The pool is taken as it is at rest: nothing in flight, every
//! cache empty; a running proxy's own scores come with `x-weir-explain: 1`. And which limits would count it.
//!
//! `weir explain REQUEST_ID` asks the running proxy why it refused that request.

mod denial;
mod limits;

use crate::config::snapshot::{Action, Listener, Pool, Route, Snapshot};
use crate::domain::surface::Surface;
use crate::domain::units::{Micros, Tokens};
use crate::logic::routing::book::Ask;
use crate::logic::routing::eligible::Eligible;
use crate::logic::routing::prefix;
use crate::runtime::LivePool;
use crate::stages::accept::{Head, host_name, mismatch};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Flags of `weir explain`.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// `POST`, or the `x-request-id` of a 429 that the proxy is asked about (with the key in WEIR_ADMIN_KEY)
    #[arg(value_name = "METHOD | REQUEST_ID")]
    what: String,
    /// `/v1/chat/completions`
    path: Option<String>,
    /// The model that the body would name
    #[arg(long)]
    model: Option<String>,
    /// A header, `name: value`; may be given again
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The prompt, for the prefix index
    #[arg(long, default_value = "")]
    prompt: String,
    /// The caller's tenant, for its limits [default: default]
    #[arg(long)]
    tenant: Option<String>,
    /// The caller's team
    #[arg(long)]
    team: Option<String>,
    /// The caller's user
    #[arg(long)]
    user: Option<String>,
    /// A plan on the caller's key
    #[arg(long, value_name = "PLAN")]
    key_plan: Option<String>,
    /// The admin listener that is asked about a request [default: the configuration's]
    #[arg(long, value_name = "URL")]
    admin: Option<url::Url>,
    /// The listener that the request comes in by [default: the first]
    #[arg(long)]
    listener: Option<String>,
    /// Configuration file [default: conf/weir.yaml, else /etc/weir/weir.yaml]
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command. Status 1 where no route would take the request, or the proxy does not know the request.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    let Some(loaded) = super::loaded(args.config.as_deref()) else { return ExitCode::FAILURE };
    if args.path.is_none() {
        return refusal(args, &loaded.snapshot);
    }
    match explain(args, &loaded.snapshot) {
        Ok(told) => {
            let said = say(args, &told, words);
            if told["route"].is_null() { ExitCode::FAILURE } else { said }
        }
        Err(why) => wrong(&why),
    }
}

/// Why a running proxy refused a request.
fn refusal(args: &Args, snapshot: &Snapshot) -> ExitCode {
    let Ok(request) = uuid::Uuid::parse_str(&args.what) else {
        return wrong(&format!("`{}` is no request id; a method needs a path behind it", args.what));
    };
    match denial::ask(request, args.admin.as_ref(), snapshot) {
        Ok(told) => say(args, &told, denial::words),
        Err(why) => {
            eprintln!("weir explain: {why}");
            ExitCode::FAILURE
        }
    }
}

fn say(args: &Args, told: &Value, words: impl Fn(&Value) -> String) -> ExitCode {
    let text = if args.json { format!("{told}\n") } else { words(told) };
    // `print!` would panic where the reader has left (`weir explain … | head`).
    let written = std::io::stdout().lock().write_all(text.as_bytes());
    if written.is_err() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn wrong(why: &str) -> ExitCode {
    eprintln!("weir explain: {why}");
    ExitCode::from(2)
}

fn explain(args: &Args, snapshot: &Snapshot) -> Result<Value, String> {
    let headers = headers(&args.headers)?;
    let listener = listener(args, snapshot)?;
    let path = args.path.as_deref().unwrap_or_default();
    let head = Head {
        method: &args.what,
        path,
        query: None,
        host: headers.get("host").and_then(|value| value.to_str().ok()),
        headers: &headers,
        peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let host = head.host.map(host_name);
    let surface = Surface::of(&args.what, path);
    let mut considered = Vec::new();
    for route in &snapshot.routes {
        let why = mismatch(&route.matcher, &head, host.as_deref(), &listener.name);
        let why = why.or_else(|| model_mismatch(snapshot, route, surface, args.model.as_deref()));
        considered.push(json!({"route": route.id, "taken": why.is_none(), "because_of": why}));
        if why.is_none() {
            return told(args, snapshot, (route, host.as_deref()), &considered);
        }
    }
    Ok(json!({"surface": surface.name(), "route": null, "considered": considered}))
}

fn told(
    args: &Args,
    snapshot: &Snapshot,
    (route, host): (&Arc<Route>, Option<&str>),
    considered: &[Value],
) -> Result<Value, String> {
    let targets: &[_] = match &route.action {
        Action::Pools(targets) => targets,
        Action::Respond { .. } => &[],
    };
    let targets: Vec<_> =
        targets.iter().filter_map(|target| snapshot.pools.get(target.pool).map(|pool| (pool, target.weight))).collect();
    let pools: Vec<_> = targets.iter().map(|(pool, _)| *pool).collect();
    let limits = limits::rules(args, host, (&route.action, &pools), snapshot)?;
    let pool = |(pool, weight): &(&Arc<Pool>, u32)| json!({"pool": pool.id, "weight": weight, "policy": pool.policy.name(), "candidates": candidates(args, pool)});
    Ok(json!({
        "surface": Surface::of(&args.what, args.path.as_deref().unwrap_or_default()).name(), "route": route.id,
        "auth": route.auth, "model_routed": route.rewrite_model.as_ref().or(args.model.as_ref()),
        "pools": targets.iter().map(pool).collect::<Vec<_>>(), "limits": limits, "considered": considered,
    }))
}

/// The pool's candidates with their scores, lowest first wins.
fn candidates(args: &Args, config: &Arc<Pool>) -> Vec<Value> {
    let pool = LivePool::new(config);
    let model = args.model.as_deref().unwrap_or_default();
    let chain = prefix::chain(&[model.as_bytes(), b""], std::iter::once(args.prompt.as_bytes()));
    let input_tokens = Tokens::of_bytes(args.prompt.len() as u64);
    let ask = Ask { chain: &chain, input_tokens, affinity: chain.first().copied() };
    let everyone = Eligible::all(config.backends.len());
    let scores = pool.book.lock().explain(&ask, &everyone, Micros(0));
    let name = |index: usize| config.backends.get(index).map(|backend| backend.id.to_string());
    scores.iter().map(|score| json!({"backend": name(score.backend), "score": score})).collect()
}

fn model_mismatch(snapshot: &Snapshot, route: &Route, surface: Surface, model: Option<&str>) -> Option<&'static str> {
    if !surface.is_llm() {
        return route.matcher.models.is_some().then_some("model");
    }
    let model = model.unwrap_or_default();
    let Action::Pools(targets) = &route.action else {
        return route.matcher.models.as_ref().is_some_and(|models| !models.is_match(model)).then_some("model");
    };
    let routed = route.rewrite_model.as_deref().unwrap_or(model);
    let serves = match &route.matcher.models {
        Some(models) => models.is_match(model),
        None => targets
            .iter()
            .filter_map(|target| snapshot.pools.get(target.pool))
            .any(|pool| pool.models.is_empty() || pool.models.iter().any(|name| name == routed)),
    };
    (!serves).then_some("model")
}

fn listener<'a>(args: &Args, snapshot: &'a Snapshot) -> Result<&'a Arc<Listener>, String> {
    let found = match &args.listener {
        Some(name) => snapshot.listeners.iter().find(|listener| listener.name == *name),
        None => snapshot.listeners.first(),
    };
    found.ok_or_else(|| format!("no listener {}", args.listener.as_deref().unwrap_or("at all")))
}

fn headers(given: &[String]) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in given {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("header `{line}` has no colon"))?;
        let name: HeaderName = name.trim().parse().map_err(|_| format!("`{name}` is no header name"))?;
        let value: HeaderValue =
            value.trim().parse().map_err(|_| format!("the value of `{name}` is no header value"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// The same for people.
fn words(told: &Value) -> String {
    let mut text = String::new();
    for step in told["considered"].as_array().into_iter().flatten() {
        let name = step["route"].as_str().unwrap_or_default();
        match step["because_of"].as_str() {
            Some(why) => text.push_str(&format!("route {name}: no, its {why} does not match\n")),
            None => text.push_str(&format!("route {name}: taken\n")),
        }
    }
    for pool in told["pools"].as_array().into_iter().flatten() {
        text.push_str(&format!("pool {} ({}):\n", plain(&pool["pool"]), plain(&pool["policy"])));
        for candidate in pool["candidates"].as_array().into_iter().flatten() {
            text.push_str(&format!("  {}  score {}\n", plain(&candidate["backend"]), candidate["score"]["total"]));
        }
    }
    text.push_str(&limits::words(told["limits"].as_array().map(Vec::as_slice).unwrap_or_default()));
    if told["route"].is_null() {
        text.push_str("no route takes this request\n");
    }
    text
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
