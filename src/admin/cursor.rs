//! A place in a list, as an opaque text: which list with which filters, and the keys of the last entry that was
//! shown. Decides that a cursor is good only where it came from.

use super::problem::Problem;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Form of the text; another one is refused, not guessed at.
const VERSION: u8 = 1;
/// Bytes of the digest that names a list.
const LIST: usize = 12;

/// One list: an operation with its filters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List([u8; LIST]);

impl List {
    /// The list that an operation shows under some filters, whose tenant is as far as the caller sees.
    #[must_use]
    pub fn of<'a>(operation: &str, filters: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut hash = Sha256::new();
        let mut put = |text: &str| {
            // With its length, so that no two lists of texts read alike.
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text.as_bytes());
        };
        put(operation);
        for (name, value) in filters {
            put(name);
            put(value);
        }
        let mut list = [0; LIST];
        for (to, from) in list.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        Self(list)
    }

    /// The text for the place after an entry with these keys.
    #[must_use]
    pub fn after(self, keys: &[&str]) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.0);
        bytes.extend(serde_json::to_vec(keys).unwrap_or_default());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The keys in a text.
    ///
    /// # Errors
    /// 400 for a text that is broken, of another list, or has not `count` keys.
    pub fn keys(self, text: &str, count: usize) -> Result<Vec<String>, Problem> {
        let wrong = || Problem::parameter("cursor", "This cursor is not of this list. Leave it out to begin anew.");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| wrong())?;
        let rest = bytes.strip_prefix(&[VERSION]).and_then(|rest| rest.strip_prefix(&self.0)).ok_or_else(wrong)?;
        let keys: Vec<String> = serde_json::from_slice(rest).map_err(|_| wrong())?;
        if keys.len() == count { Ok(keys) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_good_for_its_own_list_alone() {
        let list = List::of("listKeys", [("tenant", "a")].into_iter());
        let text = list.after(&["x", "é"]);
        assert_eq!(list.keys(&text, 2), Ok(vec!["x".to_owned(), "é".to_owned()]), "its own");
        assert!(list.keys(&text, 1).is_err(), "another number of keys");
        for other in
            [List::of("listKeys", [("tenant", "b")].into_iter()), List::of("listTeams", [("tenant", "a")].into_iter())]
        {
            assert!(other.keys(&text, 2).is_err(), "another list");
        }
        for broken in ["", "!", "AAAA", &text[..text.len() - 3], &format!("{text}AAA")] {
            assert!(list.keys(broken, 2).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn filters_that_read_alike_when_joined_are_different_lists() {
        let one = List::of("l", [("a", "bc")].into_iter());
        assert_ne!(one, List::of("l", [("ab", "c")].into_iter()), "lengths are in the digest");
    }
}
