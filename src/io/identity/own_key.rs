//! Is a credential one of Weir's own keys, or meant to be? Such a one is shown to nobody else, right or wrong: with a
//! letter mistyped it is still nearly a secret.

use crate::logic::access::api_key::{ID_LEN, MAX_TAG_LEN};
use url::form_urlencoded;

/// True for `sk-<tag>-<id>-…`, whatever follows.
#[must_use]
pub fn resembles(credential: &[u8]) -> bool {
    let mut parts = credential.splitn(4, |byte| *byte == b'-');
    let mut part = || parts.next().filter(|part| part.iter().all(u8::is_ascii_alphanumeric));
    let prefix = part() == Some(b"sk");
    let tag = part().is_some_and(|tag| (1..=MAX_TAG_LEN).contains(&tag.len()));
    let id = part().is_some_and(|id| id.len() == ID_LEN);
    prefix && tag && id
}

/// The same of anything in a header's value: behind a scheme, in a list, in a cookie.
#[must_use]
pub fn is_in_header(value: &[u8]) -> bool {
    value.split(|byte| b" \t,;=\"".contains(byte)).any(resembles)
}

/// The same of anything in a target: a part of its path or a value of its query, however it is encoded.
#[must_use]
pub fn is_in_target(target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    // A path is no form, but its letters are encoded the same way.
    let parts = path.split('/').flat_map(|part| form_urlencoded::parse(part.as_bytes()));
    parts
        .chain(form_urlencoded::parse(query.as_bytes()))
        .any(|(name, value)| [name, value].iter().any(|text| is_in_header(text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::access::api_key::{RANDOM_BYTES, generate};

    #[test]
    fn every_key_and_every_mistyped_key_is_known() {
        let key = generate("weir", &[7; RANDOM_BYTES]).expect("a key").text;
        assert!(resembles(key.as_bytes()), "a key");
        assert!(resembles(&key.as_bytes()[..key.len() - 3]), "one cut off");
        let key = key.as_str();
        for value in [format!("Bearer {key}"), format!("a,{key}"), format!("a=b; k={key}"), format!("k=\"{key}\"")] {
            assert!(is_in_header(value.as_bytes()), "{value}");
        }
        let encoded = key.replace('-', "%2D");
        for target in
            [format!("/a?key={key}"), format!("/a?b&key={encoded}"), format!("/{key}/a"), format!("/a/{encoded}")]
        {
            assert!(is_in_target(&target), "{target}");
        }
    }

    #[test]
    fn other_credentials_are_not_taken_for_keys() {
        for other in [
            "",
            "sk-",
            "sk-proj-abc",
            "2YotnFZFEjr1zCsicMWpAA",
            "eyJhbGciOiJub25lIn0.e30.",
            "sk-a-b-c",
            "pk-weir-000000000000-x",
        ] {
            assert!(!resembles(other.as_bytes()), "{other}");
            assert!(!is_in_header(format!("Bearer {other}").as_bytes()), "{other} in a header");
            assert!(!is_in_target(&format!("/a/{other}?key={other}")), "{other} in a target");
        }
    }
}
