//! What is written on a key: the flags that say it, and whether it can be. Decides form, and that names exist; the store
//! decides what fits to what is there.

use super::error::KeysError;
use super::settings::{KeySettings, known};
use crate::domain::units::WallMicros;
use crate::io::store::Store;
use crate::io::store::rows::{MemberKind, Page};
use crate::logic::access::models;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Letters of a name, team or user at most.
const MAX_NAME: usize = 128;
/// Bytes of a path pattern at most.
const MAX_ENDPOINT: usize = 256;
/// Endpoints, addresses or roles on a key at most; each is looked at per request.
const MAX_ITEMS: usize = 64;
/// Teams that are named to who misspells one.
const SHOWN_TEAMS: u32 = 20;
/// A key's life at most: 100 years. More is a slip, and no time stamp can hold much more.
const MAX_LIFE: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What can be written on a key.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Written {
    /// A name for people
    #[arg(long, value_name = "N")]
    pub(super) name: Option<String>,
    /// The team within the tenant; it must exist
    #[arg(long, value_name = "T")]
    pub(super) team: Option<String>,
    /// The person or service within the tenant; need not exist where it has no limits of its own
    #[arg(long, value_name = "U")]
    pub(super) user: Option<String>,
    /// Models that the key may use, with commas; `*` is any letters [default: all that the tenant may use]
    #[arg(long, value_name = "MODELS", value_parser = patterns)]
    pub(super) models: Option<Patterns>,
    /// A path that the key may call; `*` is any letters; repeat for more [default: all]
    #[arg(long = "endpoint", value_name = "PATH", value_parser = endpoint)]
    pub(super) endpoints: Vec<String>,
    /// A network or address that the key may be used from; repeat for more [default: all]
    #[arg(long = "address", value_name = "NET", value_parser = network)]
    pub(super) addresses: Vec<IpNet>,
    /// A role of the configuration; repeat for more [default: member]
    #[arg(long = "role", value_name = "R")]
    pub(super) roles: Vec<String>,
    /// A plan that counts this key alone
    #[arg(long, value_name = "P")]
    pub(super) plan: Option<String>,
    /// How long the key is good: a number and s, m, h, d or w, as in 30d [default: for ever]
    #[arg(long, value_name = "SPAN", value_parser = life)]
    pub(super) expires: Option<Duration>,
}

/// Model patterns of one flag; a type of its own, since clap takes a `Vec` for a flag that is repeated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Patterns(pub(super) Vec<String>);

impl Written {
    /// Checks that every name exists for keys of this tenant.
    pub(super) fn check(&self, settings: &KeySettings, store: &mut Store, tenant: &str) -> Result<(), KeysError> {
        for (what, text) in [("name", &self.name), ("team", &self.team), ("user", &self.user)] {
            check_name(what, text.as_deref())?;
        }
        for (what, count) in
            [("endpoint", self.endpoints.len()), ("address", self.addresses.len()), ("role", self.roles.len())]
        {
            if count > MAX_ITEMS {
                return Err(KeysError::Refused(format!("--{what} can be given {MAX_ITEMS} times")));
            }
        }
        self.roles.iter().try_for_each(|role| known("role", role, &settings.roles))?;
        self.plan.as_deref().map_or(Ok(()), |plan| check_plan(plan, settings, store, tenant))?;
        self.team.as_deref().map_or(Ok(()), |team| check_team(team, settings, store, tenant))
    }

    /// When a key that is made now ends.
    pub(super) fn expires_at(&self, now: WallMicros) -> Option<WallMicros> {
        self.expires.map(|span| now + WallMicros(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// What was given at least once.
pub(super) fn given<T: Clone>(items: &[T]) -> Option<Vec<T>> {
    (!items.is_empty()).then(|| items.to_vec())
}

/// A plan of the configuration, or one of the store that this tenant may use.
fn check_plan(plan: &str, settings: &KeySettings, store: &mut Store, tenant: &str) -> Result<(), KeysError> {
    let configured = known("plan", plan, &settings.plans);
    if configured.is_ok() {
        return Ok(());
    }
    let stored = store.read()?.plan(plan)?.filter(|stored| stored.tenant.as_deref().is_none_or(|own| own == tenant));
    stored.map_or(configured, |_| Ok(()))
}

/// A team of this tenant, configured or stored: a misspelt one would have no plan and no model list. Users may be
/// unknown: a key may name somebody who has no limits of their own.
fn check_team(team: &str, settings: &KeySettings, store: &mut Store, tenant: &str) -> Result<(), KeysError> {
    let configured = settings.teams.get(tenant).into_iter().flatten();
    if configured.clone().any(|name| name == team) || store.read()?.member(MemberKind::Team, tenant, team)?.is_some() {
        return Ok(());
    }
    let stored = store.read()?.members(MemberKind::Team, tenant, &Page { after: None, limit: SHOWN_TEAMS })?;
    let names: BTreeSet<&str> =
        configured.map(String::as_str).chain(stored.rows.iter().map(|row| row.id.as_str())).collect();
    let shown: Vec<&str> = names.iter().take(SHOWN_TEAMS as usize).copied().collect();
    let hint = match shown.len() {
        0 => format!(": the tenant `{tenant}` has no teams"),
        _ if names.len() > shown.len() || stored.next.is_some() => {
            format!("; among those of the tenant `{tenant}`: {}", shown.join(", "))
        }
        _ => format!("; the tenant `{tenant}` has: {}", shown.join(", ")),
    };
    Err(KeysError::Unknown { what: "team", name: team.escape_debug().to_string(), hint })
}

/// A name is printed in tables and logs, so it has no line ends and an end.
pub(super) fn check_name(what: &str, text: Option<&str>) -> Result<(), KeysError> {
    let Some(text) = text else { return Ok(()) };
    if text.is_empty() || text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(KeysError::Refused(format!("--{what} takes 1 to {MAX_NAME} printable letters")));
    }
    Ok(())
}

fn patterns(list: &str) -> Result<Patterns, String> {
    let list: Vec<String> = list.split(',').map(|one| one.trim().to_owned()).collect();
    models::check_patterns(&list).map_err(|fault| fault.to_string())?;
    Ok(Patterns(list))
}

fn endpoint(text: &str) -> Result<String, String> {
    let path = text.starts_with(['/', '*']) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if path && text.len() <= MAX_ENDPOINT && !text.contains(['?', '#']) {
        return Ok(text.to_owned());
    }
    Err(format!("a path of at most {MAX_ENDPOINT} visible ASCII letters, as in /v1/chat/*"))
}

/// A single address is a network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let read = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    read.map(|net| net.trunc()).map_err(|_| "a network or an address, as in 10.0.0.0/8 or 2001:db8::1".to_owned())
}

/// Reads `30d`, for a life.
fn life(text: &str) -> Result<Duration, String> {
    match span(text)? {
        Duration::ZERO => Err("a key that has expired already is of no use".to_owned()),
        span if span <= MAX_LIFE => Ok(span),
        _ => Err("at most 100 years; leave it out for a key that never expires".to_owned()),
    }
}

/// Reads `30d`; `0s` is none at all.
pub(super) fn span(text: &str) -> Result<Duration, String> {
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
    let digits = text.strip_suffix(unit).unwrap_or_default();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let span = digits.parse().ok().and_then(|count: u64| count.checked_mul(seconds)).map(Duration::from_secs);
    span.ok_or_else(|| "that is longer than any time".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_a_number_and_a_unit() {
        for (text, seconds) in [("1s", 1), ("2m", 120), ("3h", 10_800), ("30d", 2_592_000), ("1w", 604_800)] {
            assert_eq!(life(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "d", "30", "-1d", "+1d", "1.5d", "1 d", "30é", "0d", "101w7", "99999999999999999999d", "6000w"]
        {
            assert!(life(text).is_err(), "{text:?} is no life");
        }
        assert_eq!(span("0s"), Ok(Duration::ZERO), "a grace may be none");
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

    #[test]
    fn an_endpoint_is_a_path_and_an_address_a_network() {
        assert!(endpoint("/v1/chat/*").is_ok() && endpoint("*").is_ok(), "paths with stars");
        for text in ["v1", "", "/a b", "/é", "/a?b=c", &"/".repeat(300)] {
            assert!(endpoint(text).is_err(), "{text:?}");
        }
        let shown = |text| network(text).map(|net| net.to_string());
        assert_eq!(shown("10.1.2.3"), Ok("10.1.2.3/32".into()), "one address");
        assert_eq!(shown("10.1.2.3/8"), Ok("10.0.0.0/8".into()), "host bits mean nothing");
        assert!(shown("10.0.0.0/33").is_err() && shown("example.com").is_err(), "names are no networks");
    }
}
