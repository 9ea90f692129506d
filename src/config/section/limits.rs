//! `limits:` – what all requests together may use, where replicas count, and who is told of spent budgets.

use super::redis::backend;
use super::rules;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::secret;
use crate::config::section::auth::url::is_trusted;
use crate::config::snapshot::{AlertHook, Limits, Secret};
use crate::domain::limit::OnStoreError;
use crate::logic::quota::plan::Plan;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// How often counters are compared with usage rows.
const RECONCILE: Duration = Duration::from_secs(3_600);
/// A comparison reads the rows of a month: more often than this is load, and more seldom finds a drift too late.
const RECONCILE_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// How long one delivery of an alert may take.
const DELIVERY: Duration = Duration::from_secs(5);
/// One that takes longer holds up the others.
const MAX_DELIVERY: Duration = Duration::from_secs(30);
/// How long what a silent replica has out stays its own.
const HOLD_TTL: Duration = Duration::from_secs(60);
/// A replica restates what it has out each half of this, and a slow store takes its time: in less than a second it would
/// lose it to others and both would use it. In more than ten minutes a dead one would keep its callers out too long.
const HOLD_TTL_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
/// A shorter signing key can be guessed from one signature.
const MIN_SIGNING_KEY: usize = 32;

/// Reads `limits:`.
#[must_use]
pub fn limits(item: &Item<'_>) -> Limits {
    let known = ["headers", "hold_ttl", "estimate", "backend", "global", "models", "reconcile", "alerts"];
    let fields = item.fields(&known, &[]);
    let estimate = fields.item("estimate").fields(&["tokenizer"], &[]);
    if let Some(tokenizer) = estimate.get("tokenizer") {
        let _ = tokenizer.choice(&["bytes"], &["auto"]);
    }
    let backend = fields.get("backend").and_then(|item| backend(&item));
    let fallback = backend.as_ref().map_or_else(OnStoreError::default, |backend| backend.on_store_error);
    Limits {
        headers: fields.or("headers", Item::flag, true),
        hold_ttl: fields.or("hold_ttl", hold_ttl, HOLD_TTL),
        shared: Arc::new(shared(&fields, fallback)),
        backend,
        reconcile: fields.or("reconcile", reconcile, RECONCILE),
        alerts: fields.get("alerts").and_then(|item| alerts(&item)),
    }
}

/// `limits.global` and `limits.models`.
fn shared(fields: &Fields<'_>, fallback: OnStoreError) -> Plan {
    let mut all = rules::limits("limits.global", &fields.item("global"), fallback);
    all.extend(rules::by_model("limits", &fields.item("models"), fallback));
    rules::bounded(&fields.item, &all);
    Plan { rules: all, ..Plan::default() }
}

fn reconcile(item: &Item<'_>) -> Option<Duration> {
    let every = item.wait()?;
    if RECONCILE_RANGE.contains(&every) {
        return Some(every);
    }
    item.error(Code::OutOfRange, format!("`{}` cannot be an interval", item.shown()), Some("from 1s to 24h".into()));
    None
}

fn hold_ttl(item: &Item<'_>) -> Option<Duration> {
    let ttl = item.wait()?;
    if HOLD_TTL_RANGE.contains(&ttl) {
        return Some(ttl);
    }
    let hint = Some("from 1s to 10m".to_owned());
    item.error(Code::OutOfRange, format!("replicas cannot hold anything for `{}`", item.shown()), hint);
    None
}

fn alerts(item: &Item<'_>) -> Option<AlertHook> {
    let hook = item.fields(&["webhook"], &["email", "slack"]).need("webhook", "for example `webhook: { url: … }`")?;
    let fields = hook.fields(&["url", "secret", "timeout"], &["headers", "retries"]);
    let url = fields.need("url", "for example `url: { env: ALERT_URL }`").and_then(|item| hook_url(&item));
    let secret = fields.need("secret", "for example `secret: { env: ALERT_SECRET }`").and_then(|item| key(&item));
    let timeout = fields.or("timeout", delivery, DELIVERY);
    Some(AlertHook { url: url?, secret: secret?, timeout })
}

/// Whoever knows the address of a webhook can often use it, so it is a secret.
fn hook_url(item: &Item<'_>) -> Option<Secret> {
    let secret = secret::read(item)?;
    let url = std::str::from_utf8(&secret.0).ok().and_then(|text| url::Url::parse(text).ok());
    if url.is_some_and(|url| is_trusted(&url)) {
        return Some(secret);
    }
    let hint = Some("it must read `https://…`; `http` only within this machine".to_owned());
    item.error(Code::BadUrl, "the secret is not a URL that alerts can be posted to".into(), hint);
    None
}

fn key(item: &Item<'_>) -> Option<Secret> {
    let secret = secret::read(item)?;
    if secret.0.len() < MIN_SIGNING_KEY {
        let hint = Some("make one with `openssl rand -base64 32`".to_owned());
        item.error(Code::BadSecret, format!("a signing key has at least {MIN_SIGNING_KEY} bytes"), hint);
        return None;
    }
    Some(secret)
}

fn delivery(item: &Item<'_>) -> Option<Duration> {
    let timeout = item.wait()?;
    if timeout > MAX_DELIVERY {
        item.error(Code::OutOfRange, "at most 30s: others wait behind it".into(), None);
        return None;
    }
    Some(timeout)
}
