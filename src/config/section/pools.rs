//! `pools:` – backends that serve one model, and how they are treated.

use super::backends::backends;
use super::credentials::{credentials, identity};
use super::names::check_name;
use super::policy::policy;
use super::rules;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item, fit};
use crate::config::snapshot::{CostConstants, Engine, Health, Keepalive, Policy, Pool, Retry, RetryOn, Timeouts};
use crate::domain::ids::PoolId;
use crate::domain::limit::OnStoreError;
use crate::logic::quota::plan::Plan;
use std::sync::Arc;
use std::time::Duration;

const KNOWN: &[&str] = &[
    "engine",
    "policy",
    "backends",
    "models",
    "health",
    "timeouts",
    "retry",
    "keepalive",
    "queue",
    "kv_isolation",
    "credentials",
    "identity",
    "on_disconnect",
    "limits",
];
const LATER: &[&str] = &["discover", "outlier", "load"];
const ENGINES: &[&str] = &["vllm", "sglang", "trtllm", "dynamo", "openai", "anthropic"];
const ENGINES_LATER: &[&str] = &["gemini", "vertex", "bedrock", "azure", "kserve"];

/// Reads `pools:`, in name order.
#[must_use]
pub fn pools(top: &Fields<'_>, fallback: OnStoreError) -> Vec<Arc<Pool>> {
    let read = top.item("pools").named().into_iter().map(|(entry, item)| {
        check_name(&item, &entry.key, entry.place);
        Arc::new(Pool { limits: Arc::new(limits(&entry.key, &item, fallback)), ..pool(&entry.key, &item) })
    });
    let mut all: Vec<_> = read.collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    all
}

/// `limits` of a pool: what all that goes there may use together.
fn limits(name: &str, item: &Item<'_>, fallback: OnStoreError) -> Plan {
    let item = item.fields_unchecked().item("limits");
    let rules = rules::limits(&format!("pools.{name}"), &item, fallback);
    rules::bounded(&item, &rules);
    Plan { rules, ..Plan::default() }
}

fn pool(name: &str, item: &Item<'_>) -> Pool {
    let fields = item.fields(KNOWN, LATER);
    let engine = fields.need("engine", "for example `engine: vllm`").and_then(|item| engine(&item));
    let engine = engine.unwrap_or(Engine::Vllm);
    let queue = fields.item("queue").fields(&["max_inflight"], &["max_waiting", "max_wait"]);
    let backends = match fields.get("backends") {
        Some(list) => backends(name, &list),
        None if item.node.get("discover").is_some() => Vec::new(),
        None => {
            let hint = Some("add `backends: [{ url: \"http://127.0.0.1:8000\" }]`".to_owned());
            item.error(Code::EmptyPool, "a pool needs at least one backend".into(), hint);
            Vec::new()
        }
    };
    let default_policy = if engine.self_hosted() { Policy::KvAware(CostConstants::default()) } else { Policy::P2c };
    Pool {
        limits: Arc::default(),
        id: PoolId::new(name),
        engine,
        policy: fields.or("policy", policy, default_policy),
        backends,
        models: fields.or("models", texts, Vec::new()),
        health: health(&fields, engine),
        timeouts: timeouts(&fields.item("timeouts")),
        retry: retry(&fields.item("retry")),
        keepalive: keepalive(&fields.item("keepalive")),
        max_inflight: queue.or("max_inflight", |item| item.count().map(|n| fit(n, usize::MAX)), 0),
        isolate_tenants: fields.or("kv_isolation", |item| isolation(item, engine), engine.cache_salt()),
        credential: fields.get("credentials").and_then(|item| credentials(&item)),
        identity: fields.get("identity").and_then(|item| identity(&item)),
        cancel_on_disconnect: fields.or("on_disconnect", on_disconnect, engine.self_hosted()),
    }
}

fn engine(item: &Item<'_>) -> Option<Engine> {
    Some(match item.choice(ENGINES, ENGINES_LATER)? {
        "sglang" => Engine::Sglang,
        "trtllm" => Engine::Trtllm,
        "dynamo" => Engine::Dynamo,
        "openai" => Engine::OpenAi,
        "anthropic" => Engine::Anthropic,
        _ => Engine::Vllm,
    })
}

/// A list of non-empty texts.
#[must_use]
pub fn texts(item: &Item<'_>) -> Option<Vec<String>> {
    let one = |item: &Item<'_>| {
        let text = item.text()?;
        if text.is_empty() {
            item.error(Code::BadWord, "an empty name".into(), None);
        }
        Some(text.to_owned())
    };
    Some(item.list().iter().filter_map(one).collect())
}

/// On at `/health` for engines, off for providers; `health: none` turns it off.
fn health(fields: &Fields<'_>, engine: Engine) -> Option<Health> {
    let item = fields.item("health");
    if item.text_only() {
        let _ = item.choice(&["none"], &[]);
        return None;
    }
    if item.node.is_null() && !engine.self_hosted() {
        return None;
    }
    let fields = item.fields(&["path", "every", "timeout", "rise", "fall"], &["slow_start", "interval_jitter"]);
    let times = |item: &Item<'_>| item.positive().map(|n| fit(n, usize::MAX));
    Some(Health {
        path: fields.or("path", absolute_path, "/health".to_owned()),
        every: fields.or("every", Item::wait, Duration::from_secs(2)),
        timeout: fields.or("timeout", Item::wait, Duration::from_secs(1)),
        rise: fields.or("rise", times, 2),
        fall: fields.or("fall", times, 3),
    })
}

/// A URL path that starts with `/`.
#[must_use]
pub fn absolute_path(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let clean = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'?' && byte != b'#');
    if text.starts_with('/') && clean {
        return Some(text.to_owned());
    }
    let hint = Some("a path starts with `/` and has no blanks, `?` or `#`".to_owned());
    item.error(Code::BadWord, format!("`{}` is not a path", item.shown()), hint);
    None
}

fn timeouts(item: &Item<'_>) -> Timeouts {
    let known = ["connect", "first_byte", "between_bytes", "total", "commit_grace", "keep_alive"];
    let fields = item.fields(&known, &[]);
    let wait = |key, seconds| fields.or(key, Item::wait, Duration::from_secs(seconds));
    Timeouts {
        connect: wait("connect", 1),
        first_byte: wait("first_byte", 60),
        between_bytes: wait("between_bytes", 60),
        total: wait("total", 900),
        commit_grace: wait("commit_grace", 10),
        keep_alive: wait("keep_alive", 10),
    }
}

/// Retries are between backends before the commit point; more than this is a storm.
const MAX_RETRIES: u32 = 10;

fn retry(item: &Item<'_>) -> Retry {
    let fields = item.fields(&["if", "max", "budget"], &["backoff"]);
    let default =
        [RetryOn::Connect, RetryOn::Reset, RetryOn::Eof, RetryOn::FirstByte, RetryOn::Status(429), RetryOn::Any5xx];
    let max = |item: &Item<'_>| {
        let max = fit(item.count()?, u32::MAX);
        if max > MAX_RETRIES {
            item.error(Code::OutOfRange, format!("at most {MAX_RETRIES} further attempts"), None);
        }
        Some(max)
    };
    Retry {
        on: fields.or("if", |item| Some(item.list().iter().filter_map(cause).collect()), default.to_vec()),
        max: fields.or("max", max, 2),
        budget: fields.or("budget", Item::share, 0.2),
    }
}

fn cause(item: &Item<'_>) -> Option<RetryOn> {
    let status = item.text()?.parse::<u16>().ok().filter(|code| (400..600).contains(code));
    if let Some(code) = status {
        return Some(RetryOn::Status(code));
    }
    Some(match item.choice(&["connect", "reset", "eof", "first_byte", "5xx", "429", "503"], &[])? {
        "connect" => RetryOn::Connect,
        "reset" => RetryOn::Reset,
        "eof" => RetryOn::Eof,
        "first_byte" => RetryOn::FirstByte,
        _ => RetryOn::Any5xx,
    })
}

fn keepalive(item: &Item<'_>) -> Keepalive {
    let fields = item.fields(&["idle", "timeout"], &[]);
    Keepalive {
        idle: fields.or("idle", |item| item.count().map(|n| fit(n, usize::MAX)), 128),
        timeout: fields.or("timeout", Item::wait, Duration::from_secs(60)),
    }
}

fn isolation(item: &Item<'_>, engine: Engine) -> Option<bool> {
    let tenant = item.choice(&["tenant", "none"], &[])? == "tenant";
    if tenant && !engine.cache_salt() {
        let message =
            format!("engine `{}` knows no `cache_salt`: tenants would share its cache all the same", engine.name());
        item.error(Code::Contradiction, message, Some("use `kv_isolation: none`".into()));
    }
    Some(tenant)
}

fn on_disconnect(item: &Item<'_>) -> Option<bool> {
    item.choice(&["cancel", "drain"], &[]).map(|word| word == "cancel")
}
