//! `pools` of the effective text.

use super::{at, map, quota, reference, texts};
use crate::config::snapshot::{
    Backend, CostConstants, Credential, ForwardIdentity, Policy, Pool, Retry, RetryOn, Timeouts,
};
use crate::config::tree::Node;
use crate::config::units::{Size, Span};
use serde_yaml::Value;
use std::time::Duration;

/// One pool.
#[must_use]
pub fn pool(pool: &Pool, root: &Node) -> Value {
    let secret = |path: &[&str]| reference(at(root, &[&["pools", pool.id.as_str()], path].concat()));
    let credentials = match &pool.credential {
        None => Value::Null,
        Some(Credential::Bearer(_)) => map([("bearer", secret(&["credentials", "bearer"]))]),
        Some(Credential::Header(name, _)) => {
            let value = secret(&["credentials", "header", "value"]);
            map([("header", map([("name", name.as_str().into()), ("value", value)]))])
        }
    };
    let identity = match &pool.identity {
        None => Value::Null,
        Some(ForwardIdentity { sign: None }) => "plain".into(),
        Some(ForwardIdentity { sign: Some(_) }) => {
            map([("signed", map([("key", secret(&["identity", "signed", "key"]))]))])
        }
    };
    let models = if pool.models.is_empty() { Value::Null } else { texts(&pool.models) };
    map([
        ("engine", pool.engine.name().into()),
        ("policy", policy(&pool.policy)),
        ("backends", Value::Sequence(pool.backends.iter().map(backend).collect())),
        ("models", models),
        ("health", health(pool)),
        ("timeouts", timeouts(&pool.timeouts)),
        ("retry", retry(&pool.retry)),
        ("keepalive", map([("idle", pool.keepalive.idle.into()), ("timeout", span(pool.keepalive.timeout))])),
        ("queue", map([("max_inflight", pool.max_inflight.into())])),
        ("kv_isolation", if pool.isolate_tenants { "tenant" } else { "none" }.into()),
        ("credentials", credentials),
        ("identity", identity),
        ("on_disconnect", if pool.cancel_on_disconnect { "cancel" } else { "drain" }.into()),
        ("limits", quota::of_all(&pool.limits.rules)),
    ])
}

fn span(duration: Duration) -> Value {
    Span(duration).to_string().into()
}

fn policy(policy: &Policy) -> Value {
    let Policy::KvAware(constants) = policy else { return policy.name().into() };
    let CostConstants { a, p1, p2, c, d, step_budget, kappa, alpha, beta, gamma, ev, kv_tokens, index_budget } =
        *constants;
    let constants = map([
        ("a", a.into()),
        ("p1", p1.into()),
        ("p2", p2.into()),
        ("c", c.into()),
        ("d", d.into()),
        ("step_budget", step_budget.into()),
        ("kappa", kappa.into()),
        ("alpha", alpha.into()),
        ("beta", beta.into()),
        ("gamma", gamma.into()),
        ("ev", ev.into()),
        ("kv_tokens", kv_tokens.into()),
        ("index_budget", Size(index_budget).to_string().into()),
    ]);
    map([("kv_aware", constants)])
}

fn backend(backend: &Backend) -> Value {
    let scheme = if backend.tls { "https" } else { "http" };
    let host = if backend.host.contains(':') { format!("[{}]", backend.host) } else { backend.host.clone() };
    let url = format!("{scheme}://{host}:{}{}", backend.port, backend.prefix);
    map([("name", backend.id.as_str().into()), ("url", url.into()), ("weight", backend.weight.into())])
}

fn health(pool: &Pool) -> Value {
    let Some(health) = &pool.health else { return "none".into() };
    map([
        ("path", health.path.as_str().into()),
        ("every", span(health.every)),
        ("timeout", span(health.timeout)),
        ("rise", health.rise.into()),
        ("fall", health.fall.into()),
    ])
}

fn timeouts(timeouts: &Timeouts) -> Value {
    map([
        ("connect", span(timeouts.connect)),
        ("first_byte", span(timeouts.first_byte)),
        ("between_bytes", span(timeouts.between_bytes)),
        ("total", span(timeouts.total)),
        ("commit_grace", span(timeouts.commit_grace)),
        ("keep_alive", span(timeouts.keep_alive)),
    ])
}

fn retry(retry: &Retry) -> Value {
    let causes = retry.on.iter().map(|cause| match cause {
        RetryOn::Connect => "connect".to_owned(),
        RetryOn::Reset => "reset".to_owned(),
        RetryOn::Eof => "eof".to_owned(),
        RetryOn::FirstByte => "first_byte".to_owned(),
        RetryOn::Status(code) => code.to_string(),
        RetryOn::Any5xx => "5xx".to_owned(),
    });
    map([("if", texts(causes)), ("max", retry.max.into()), ("budget", retry.budget.into())])
}
