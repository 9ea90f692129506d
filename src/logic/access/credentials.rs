//! Which credential does a request carry? Decides which header counts and refuses what is not one single credential;
//! whether the credential is any good is not its matter.

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

/// Finds the one credential of a request in the headers `names`. The same one given twice is one. An empty header
/// carries none.
///
/// # Errors
/// [`Refusal::InvalidApiKey`] where a header cannot be read as one credential (`Bearer a, Bearer b`, another scheme),
/// [`Refusal::AmbiguousCredentials`] where two are well-formed and differ.
pub fn credentials<'a>(headers: &'a HeaderMap, names: &[String]) -> Result<Option<Presented<'a>>, Refusal> {
    let mut found: Option<Presented<'a>> = None;
    let mut differ = false;
    for name in names {
        let bearer = name.eq_ignore_ascii_case(AUTHORIZATION.as_str());
        for value in headers.get_all(name.as_str()) {
            let value = value.as_bytes().trim_ascii();
            if value.is_empty() {
                continue;
            }
            let presented = single(if bearer { behind_scheme(value)? } else { value })?;
            differ |= found.is_some_and(|first| first != presented);
            found = Some(presented);
        }
    }
    if differ { Err(Refusal::AmbiguousCredentials) } else { Ok(found) }
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
