//! `weir keys create`: checks what is asked for against the configuration, then makes the key and stores its hash.
//! Decides what may be on a key.

use super::error::KeysError;
use super::settings::{KeySettings, known};
use super::view::Output;

use crate::domain::units::WallMicros;
use crate::io::pepper;
use crate::io::store::Store;
use crate::io::store::rows::{NewKey, StoredKey};
use crate::logic::access::{api_key, models};
use std::time::Duration;
use zeroize::Zeroizing;

/// Letters of a name, team or user at most.
const MAX_NAME: usize = 128;
/// A key's life at most: 100 years. More is a slip, and no time stamp can hold much more.
const MAX_LIFE: Duration = Duration::from_secs(100 * 365 * 86_400);

/// `weir keys create`
#[derive(clap::Args, Debug)]
pub(super) struct Args {
    /// Who pays; a tenant of the configuration [default: default]
    #[arg(long, value_name = "T")]
    tenant: Option<String>,
    /// A name for people
    #[arg(long, value_name = "N")]
    name: Option<String>,
    /// The team within the tenant
    #[arg(long, value_name = "T")]
    team: Option<String>,
    /// The person or service within the tenant
    #[arg(long, value_name = "U")]
    user: Option<String>,
    /// Models that the key may use, with commas; `*` is any letters [default: all that the tenant may use]
    #[arg(long, value_name = "MODELS")]
    models: Option<String>,
    /// A role of the configuration
    #[arg(long, value_name = "R")]
    role: Option<String>,
    /// A plan of the configuration that counts this key alone
    #[arg(long, value_name = "P")]
    plan: Option<String>,
    /// How long the key is good: a number and s, m, h, d or w, as in 30d [default: for ever]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    expires: Option<Duration>,
    /// The authenticator, where the configuration has several that take API keys
    #[arg(long, value_name = "NAME")]
    auth: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// A key that was made.
pub(super) struct Made {
    pub(super) stored: StoredKey,
    /// The plaintext.
    pub(super) text: Zeroizing<String>,
}

/// Makes a key. Nothing is stored unless everything that is asked for exists.
pub(super) fn create(args: &Args, settings: &KeySettings, now: WallMicros) -> Result<Made, KeysError> {
    let auth = settings.authenticator(args.auth.as_deref())?;
    let tenant = settings.tenant(args.tenant.as_deref())?;
    if let Some(plan) = &args.plan {
        known("plan", plan, &settings.plans)?;
    }
    if let Some(role) = &args.role {
        known("role", role, &settings.roles)?;
    }
    for (what, text) in [("name", &args.name), ("team", &args.team), ("user", &args.user)] {
        check_name(what, text.as_deref())?;
    }
    let models = args.models.as_deref().map(patterns).transpose()?;
    let pepper = pepper::load(&auth.pepper)?;
    let mut random = Zeroizing::new([0; api_key::RANDOM_BYTES]);
    getrandom::fill(random.as_mut_slice()).map_err(KeysError::Random)?;
    let fresh = api_key::generate(&auth.tag, random.as_slice())?;
    let new = NewKey {
        key_id: fresh.id.clone(),
        hash: pepper.hash(fresh.text.as_bytes()),
        tenant: tenant.as_str().to_owned(),
        team: args.team.clone(),
        user: args.user.clone(),
        name: args.name.clone(),
        models,
        plan: args.plan.clone(),
        role: args.role.clone(),
        expires_at: args.expires.map(|span| after(now, span)),
    };
    let mut store = Store::open(&settings.store)?;
    store.create(std::slice::from_ref(&new), now)?;
    // What is printed is what is in the store.
    let stored = store.find(&fresh.id)?.ok_or(KeysError::NoSuchKey(fresh.id))?;
    Ok(Made { stored, text: fresh.text })
}

fn after(now: WallMicros, span: Duration) -> WallMicros {
    now + WallMicros(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
}

/// A name is printed in tables and logs, so it has no line ends and an end.
fn check_name(what: &str, text: Option<&str>) -> Result<(), KeysError> {
    let Some(text) = text else { return Ok(()) };
    if text.is_empty() || text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(KeysError::Refused(format!("--{what} takes 1 to {MAX_NAME} printable letters")));
    }
    Ok(())
}

fn patterns(list: &str) -> Result<Vec<String>, KeysError> {
    let list: Vec<String> = list.split(',').map(|one| one.trim().to_owned()).collect();
    models::check_patterns(&list).map_err(|fault| KeysError::Refused(format!("--models: {fault}")))?;
    Ok(list)
}

/// Reads `30d`.
fn span(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number and s, m, h, d or w, as in 30d".to_owned();
    let unit = text.chars().next_back().ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let span = digits.parse().ok().and_then(|count: u64| count.checked_mul(seconds)).map(Duration::from_secs);
    match span {
        Some(Duration::ZERO) => Err("a key that has expired already is of no use".to_owned()),
        Some(span) if span <= MAX_LIFE => Ok(span),
        _ => Err("at most 100 years; leave it out for a key that never expires".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_a_number_and_a_unit() {
        for (text, seconds) in [("1s", 1), ("2m", 120), ("3h", 10_800), ("30d", 2_592_000), ("1w", 604_800)] {
            assert_eq!(span(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "30", "-1d", "+1d", "1.5d", "1 d", "30é", "0d", "101w7", "99999999999999999999d", "6000w"]
        {
            assert!(span(text).is_err(), "{text:?} is no span");
        }
    }

    #[test]
    fn a_name_that_would_break_a_table_is_refused() {
        assert!(check_name("name", Some("ci")).is_ok(), "a word");
        assert!(check_name("name", None).is_ok(), "no name at all");
        let long = "x".repeat(MAX_NAME + 1);
        for text in ["", "a\nb", "\u{1b}[2J", &long] {
            assert!(check_name("name", Some(text)).is_err(), "{text:?}");
        }
    }
}
