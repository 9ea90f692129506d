//! The body of a call as a JSON document in which no member is there twice, or the problem that the caller is told.

use super::problem::Problem;
use crate::logic::wire::unambiguous::{self, Ambiguous};
use serde_json::Value;

/// Arrays and objects within each other; the deepest body of the document has five.
const MAX_DEPTH: usize = 32;
/// Letters of a pointer that are told.
const MAX_POINTER: usize = 256;

/// The document in `bytes`.
///
/// # Errors
/// 400 `invalid_json`, or 400 `duplicate_parameter` naming the member.
pub fn read(bytes: &[u8]) -> Result<Value, Problem> {
    unambiguous::read(bytes, MAX_DEPTH).map_err(|why| match why {
        Ambiguous::Twice(pointer) => Problem::Invalid {
            status: 400,
            code: "duplicate_parameter",
            message: "A member is given more than once. Send it once.".to_owned(),
            param: Some(pointer.chars().take(MAX_POINTER).collect()),
        },
        other => Problem::Invalid {
            status: 400,
            code: "invalid_json",
            message: format!("The body cannot be read: {other}."),
            param: None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_is_there_twice_is_named_and_what_is_no_json_is_not_told_back() {
        let told = |text: &str| match read(text.as_bytes()) {
            Err(Problem::Invalid { code, param, .. }) => (code, param),
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(told(r#"{"a":{"b":1,"b":1}}"#), ("duplicate_parameter", Some("/a/b".to_owned())), "twice");
        assert_eq!(told("{'a':1}"), ("invalid_json", None), "no JSON");
        assert_eq!(told(&"[".repeat(1000)), ("invalid_json", None), "too deep");
    }
}
