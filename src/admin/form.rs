//! The form of names, times and spans in the admin API, written once: the patterns are in the document and in the
//! check. Decides form only; what a name refers to is the handlers'.

use super::problem::Problem;
use crate::config::units::Span;
use crate::domain::units::WallMicros;
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// Tenants, teams, plans, roles, budgets: what the configuration takes for a name.
pub const NAME: &str = "^[A-Za-z0-9._-]{1,64}$";
/// Users and labels: printable, as identity providers and certificates have them.
pub const LABEL: &str = r"^[^\u0000-\u001f\u007f-\u009f]{1,128}$";
/// The public part of an API key.
pub const KEY_ID: &str = "^[0-9A-Za-z]{12}$";
/// A whole key's SHA-256, for import.
pub const SHA256: &str = "^sha256:[0-9a-f]{64}$";
/// A span of time.
pub const SPAN: &str = "^([0-9]{1,9}(ms|s|m|min|h|d)){1,4}$";
/// A network, or a single address.
pub const NETWORK: &str = "^[0-9A-Fa-f.:]{2,45}(/[0-9]{1,3})?$";
/// A path pattern of a key.
pub const ENDPOINT: &str = "^[/*][!-~]{0,255}$";
/// An opaque place in a list.
pub const CURSOR: &str = "^[A-Za-z0-9_-]{1,4096}$";
/// A request header that makes a repetition harmless.
pub const IDEMPOTENCY_KEY: &str = "^[!-~]{1,255}$";
/// An IANA name of a time zone.
pub const ZONE: &str = "^[A-Za-z0-9_+/-]{1,64}$";
/// The id of a request.
pub const REQUEST_ID: &str = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";
/// All of them; `pattern` compiles each once.
pub const PATTERNS: [&str; 11] =
    [NAME, LABEL, KEY_ID, SHA256, SPAN, NETWORK, ENDPOINT, CURSOR, IDEMPOTENCY_KEY, ZONE, REQUEST_ID];

/// Letters of a written time at most.
const MAX_TIME: usize = 40;
/// A key's life at most: beyond it somebody meant "never".
const MAX_LIFE: WallMicros = WallMicros(100 * 365 * 86_400_000_000);

/// True for a time as RFC 3339 writes it.
#[must_use]
pub fn is_time(text: &str) -> bool {
    time(text).is_some()
}

/// A time as RFC 3339 writes it.
#[must_use]
pub fn time(text: &str) -> Option<WallMicros> {
    // The parser takes more than RFC 3339 does: annotations of time zones, dates without a time.
    let plain = text.len() <= MAX_TIME && text.bytes().all(|byte| byte.is_ascii_digit() || b"+-:.TtZz".contains(&byte));
    let parsed = plain.then(|| text.parse::<jiff::Timestamp>().ok()).flatten()?;
    Some(WallMicros(parsed.as_microsecond()))
}

/// A time as the API writes it: RFC 3339 in UTC.
#[must_use]
pub fn written(at: WallMicros) -> String {
    // Beyond the year 9999 there is no such text; nothing that the API takes comes there.
    jiff::Timestamp::from_microsecond(at.0).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// When a key ends, as a caller wrote it.
///
/// # Errors
/// 422 for a time that is over, or more than 100 years away.
pub fn expiry(pointer: &str, text: &str, now: WallMicros) -> Result<WallMicros, Problem> {
    let at = time(text).ok_or_else(|| Problem::member(pointer, "Write a time as RFC 3339 does."))?;
    if at <= now {
        return Err(Problem::member(pointer, "This time is over. Name one to come, or revoke the key."));
    }
    if at > now + MAX_LIFE {
        return Err(Problem::member(pointer, "At most 100 years from now; null for a key that never expires."));
    }
    Ok(at)
}

/// A span of time as a caller wrote it.
///
/// # Errors
/// 422 for what is none, or more than `most`.
pub fn span(pointer: &str, text: &str, most: Duration) -> Result<Duration, Problem> {
    let read = text.parse::<Span>().map_err(|why| Problem::member(pointer, format!("This is {why}.")))?;
    if read.0 > most {
        let hours = most.as_secs() / 3_600;
        return Err(Problem::member(pointer, format!("At most {hours}h.")));
    }
    Ok(read.0)
}

/// Networks as a caller wrote them; a single address is a network of one.
///
/// # Errors
/// 422 that points to the first that is none.
pub fn networks(pointer: &str, list: &[String]) -> Result<Vec<IpNet>, Problem> {
    let one = |(index, text): (usize, &String)| {
        let read = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let what = "Write a network or an address, such as 10.0.0.0/8 or 2001:db8::1.";
        read.map(|net| net.trunc()).map_err(|_| Problem::member(&format!("{pointer}/{index}"), what))
    };
    list.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_what_rfc_3339_says_and_no_more() {
        assert_eq!(time("1970-01-01T00:00:01Z"), Some(WallMicros(1_000_000)), "UTC");
        assert_eq!(time("1970-01-01T01:00:00.5+01:00"), Some(WallMicros(500_000)), "with an offset and a fraction");
        for text in ["", "today", "1970-01-01", "1970-01-01T00:00:00", "1970-01-01T00:00Z[UTC]", "1e9", "0"] {
            assert_eq!(time(text), None, "{text:?}");
        }
        assert_eq!(written(WallMicros(1_000_000)), "1970-01-01T00:00:01Z", "as it was read");
    }

    #[test]
    fn an_address_is_a_network_of_one_and_host_bits_are_cut() {
        let list = ["10.1.2.3", "10.1.2.3/8", "::1"].map(str::to_owned);
        let shown: Vec<String> = networks("/a", &list).expect("networks").iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.1.2.3/32", "10.0.0.0/8", "::1/128"], "as they count");
        let wrong = networks("/a", &["10.0.0.0/8".to_owned(), "10.0.0.0/33".to_owned()]).expect_err("no network");
        assert!(matches!(&wrong, Problem::Invalid { param: Some(at), .. } if at == "/a/1"), "{wrong:?}");
    }

    #[test]
    fn a_key_ends_in_the_future_and_not_in_the_next_millennium() {
        let now = WallMicros(0);
        assert!(expiry("/e", "1970-01-02T00:00:00Z", now).is_ok(), "tomorrow");
        assert!(expiry("/e", "1970-01-01T00:00:00Z", now).is_err(), "now is over");
        assert!(expiry("/e", "2971-01-01T00:00:00Z", now).is_err(), "too far");
    }
}
