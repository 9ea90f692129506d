//! Which credential does a request carry? Decides which headers and query parameters count and refuses what is not one
//! single credential; whether the credential is any good is not its matter.

use crate::domain::refusal::Refusal;
use http::header::{AUTHORIZATION, HeaderMap};
use std::fmt;

/// Headers that carry a key where the configuration names none (semantics.md §4).
pub const DEFAULT_HEADERS: [&str; 4] = ["authorization", "x-api-key", "api-key", "x-goog-api-key"];

const SCHEME: &[u8] = b"bearer";

/// What a caller presents. `Debug` prints `***`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Presented<'a>(&'a [u8]);

impl<'a> Presented<'a> {
    /// The credential itself: visible ASCII, no comma, never empty.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What a request carries in the places that were looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Found<'a> {
    /// A well-formed credential; of several the last.
    pub presented: Option<Presented<'a>>,
    /// Two are well-formed and differ.
    pub differ: bool,
    /// A place cannot be read as one credential (`Bearer a, Bearer b`, another scheme).
    pub malformed: bool,
}

impl<'a> Found<'a> {
    /// Looks into headers. The same credential given twice is one. An empty header carries none.
    #[must_use]
    pub fn and_headers(mut self, headers: &'a HeaderMap, names: &[String]) -> Self {
        for name in names {
            let bearer = name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
            for value in headers.get_all(name.as_str()) {
                let value = value.as_bytes().trim_ascii();
                if !value.is_empty() {
                    let value = if bearer { behind_scheme(value) } else { Ok(value) };
                    self.add(value.and_then(single));
                }
            }
        }
        self
    }

    /// Looks into the parameters `key` of a query. An escaped one is not read: no key needs escapes.
    #[must_use]
    pub fn and_query(mut self, query: &'a str) -> Self {
        for value in key_parameters(query).filter(|value| !value.is_empty()) {
            self.add(single(value.as_bytes()));
        }
        self
    }

    /// The one credential, if there is one.
    ///
    /// # Errors
    /// [`Refusal::InvalidApiKey`] where a place cannot be read, [`Refusal::AmbiguousCredentials`] where two differ.
    pub fn one(self) -> Result<Option<Presented<'a>>, Refusal> {
        match self {
            Self { malformed: true, .. } => Err(Refusal::InvalidApiKey),
            Self { differ: true, .. } => Err(Refusal::AmbiguousCredentials),
            Self { presented, .. } => Ok(presented),
        }
    }

    fn add(&mut self, value: Result<Presented<'a>, Refusal>) {
        let Ok(presented) = value else {
            self.malformed = true;
            return;
        };
        self.differ |= self.presented.is_some_and(|first| first != presented);
        self.presented = Some(presented);
    }
}

/// Finds the one credential of a request in the headers `names`.
///
/// # Errors
/// As [`Found::one`].
pub fn credentials<'a>(headers: &'a HeaderMap, names: &[String]) -> Result<Option<Presented<'a>>, Refusal> {
    Found::default().and_headers(headers, names).one()
}

/// The raw values of the parameters named `key`, however the name is escaped.
fn key_parameters(query: &str) -> impl Iterator<Item = &str> {
    query
        .split('&')
        .filter(|pair| is_key_parameter(pair))
        .map(|pair| pair.split_once('=').map_or("", |(_, value)| value))
}

fn is_key_parameter(pair: &str) -> bool {
    url::form_urlencoded::parse(pair.as_bytes()).next().is_some_and(|(name, _)| name == "key")
}

/// A query without its parameters `key`; `None`: nothing is left. The other parameters stay as they were written.
#[must_use]
pub fn without_key(query: &str) -> Option<String> {
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_key_parameter(pair)).collect();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// What stands behind `Bearer `; the scheme is case-insensitive (RFC 9110 §11.1).
fn behind_scheme(value: &[u8]) -> Result<&[u8], Refusal> {
    let (scheme, rest) = value.split_at_checked(SCHEME.len()).ok_or(Refusal::InvalidApiKey)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || !rest.starts_with(b" ") {
        return Err(Refusal::InvalidApiKey);
    }
    Ok(rest.trim_ascii())
}

/// A comma or a blank would make it a list: a proxy in front may have joined two headers into one.
fn single(value: &[u8]) -> Result<Presented<'_>, Refusal> {
    let one = !value.is_empty() && value.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',');
    if one { Ok(Presented(value)) } else { Err(Refusal::InvalidApiKey) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    fn defaults() -> Vec<String> {
        DEFAULT_HEADERS.iter().map(ToString::to_string).collect()
    }

    fn of(lines: &[(&str, &str)]) -> Result<Option<String>, Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                HeaderValue::from_bytes(value.as_bytes()).expect("a value"),
            );
        }
        let found = credentials(&headers, &defaults())?;
        Ok(found.map(|presented| String::from_utf8(presented.bytes().to_vec()).expect("ASCII")))
    }

    #[test]
    fn each_of_the_four_headers_carries_a_key() {
        for (name, value) in
            [("authorization", "Bearer k1"), ("x-api-key", "k1"), ("api-key", "k1"), ("x-goog-api-key", "k1")]
        {
            assert_eq!(of(&[(name, value)]), Ok(Some("k1".into())), "{name}");
        }
    }

    #[test]
    fn the_scheme_is_case_insensitive_and_may_be_followed_by_blanks() {
        for value in ["bearer k1", "BEARER   k1", "Bearer k1 "] {
            assert_eq!(of(&[("authorization", value)]), Ok(Some("k1".into())), "{value:?}");
        }
    }

    #[test]
    fn no_header_and_an_empty_header_carry_nothing() {
        assert_eq!(of(&[]), Ok(None), "no header");
        assert_eq!(of(&[("x-api-key", "")]), Ok(None), "an empty one");
        assert_eq!(of(&[("x-api-key", ""), ("api-key", "k1")]), Ok(Some("k1".into())), "an empty one beside a key");
        assert_eq!(of(&[("cookie", "k1")]), Ok(None), "a header that carries no keys");
    }

    #[test]
    fn what_is_not_one_credential_is_an_invalid_key() {
        for value in ["Bearer k1, Bearer k2", "Bearer k1,k2", "Bearer", "Bearer k1 k2", "Basic azE6", "k1", "Bearerk1"]
        {
            assert_eq!(of(&[("authorization", value)]), Err(Refusal::InvalidApiKey), "{value:?}");
        }
        for value in ["k1, k2", "k1 k2", "k1,k1"] {
            assert_eq!(of(&[("x-api-key", value)]), Err(Refusal::InvalidApiKey), "{value:?}");
        }
    }

    #[test]
    fn two_different_credentials_are_ambiguous_and_the_same_twice_is_one() {
        let different = [("authorization", "Bearer k1"), ("x-api-key", "k2")];
        assert_eq!(of(&different), Err(Refusal::AmbiguousCredentials), "two headers that differ");
        let twice = [("x-api-key", "k1"), ("x-api-key", "k2")];
        assert_eq!(of(&twice), Err(Refusal::AmbiguousCredentials), "one header twice that differs");
        let there_and_back = [("x-api-key", "k1"), ("x-api-key", "k2"), ("x-api-key", "k1")];
        assert_eq!(of(&there_and_back), Err(Refusal::AmbiguousCredentials), "the first and the last agree");
        let same = [("authorization", "Bearer k1"), ("x-api-key", "k1"), ("x-api-key", "k1")];
        assert_eq!(of(&same), Ok(Some("k1".into())), "the same everywhere");
    }

    #[test]
    fn only_configured_headers_count() {
        let mut headers = HeaderMap::new();
        headers.append("authorization", HeaderValue::from_static("Basic azE6"));
        headers.append("x-api-key", HeaderValue::from_static("k1"));
        let found = credentials(&headers, &["x-api-key".to_owned()]);
        assert_eq!(found.map(|presented| presented.map(|p| p.bytes().to_vec())), Ok(Some(b"k1".to_vec())));
    }

    fn in_query(query: &str) -> Result<Option<String>, Refusal> {
        let found = Found::default().and_query(query).one()?;
        Ok(found.map(|presented| String::from_utf8(presented.bytes().to_vec()).expect("ASCII")))
    }

    #[test]
    fn a_query_carries_a_key_however_its_name_is_escaped() {
        assert_eq!(in_query("alt=sse&key=k1"), Ok(Some("k1".into())), "plain");
        assert_eq!(in_query("k%65y=k1"), Ok(Some("k1".into())), "escaped");
        assert_eq!(in_query("alt=sse&key=&keys=k2"), Ok(None), "an empty one, and another name");
        assert_eq!(in_query("key=k1&key=k2"), Err(Refusal::AmbiguousCredentials), "two that differ");
        assert_eq!(in_query("key=k1,k2"), Err(Refusal::InvalidApiKey), "a list");
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static("x-goog-api-key"), HeaderValue::from_static("k2"))]);
        let both = Found::default().and_headers(&headers, &defaults()).and_query("key=k1").one();
        assert_eq!(both, Err(Refusal::AmbiguousCredentials), "a header and a query that differ");
    }

    #[test]
    fn a_query_loses_its_keys_and_nothing_else() {
        assert_eq!(without_key("a=%20b&key=k1&k%65y=k2&c"), Some("a=%20b&c".into()), "the rest as it was written");
        assert_eq!(without_key("key=k1"), None, "nothing is left");
        assert_eq!(without_key("keys=1&monkey=2"), Some("keys=1&monkey=2".into()), "other names stay");
    }

    #[test]
    fn debug_shows_no_credential() {
        assert_eq!(format!("{:?}", Presented(b"secret")), "***", "a credential is not for logs");
    }

    proptest! {
        #[test]
        fn any_header_bytes_are_read_without_panic(value in prop::collection::vec(32u8..=255, 0..64)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.append("authorization", value.clone());
            headers.append("x-api-key", value);
            let _either = credentials(&headers, &defaults());
        }
    }
}
