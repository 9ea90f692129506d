//! JSON that means one thing only: a member that is there twice is refused, where other readers keep the first or the
//! last of them. Decides nothing about what the members mean.

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// What the reader says of a member that is there twice; the pointer follows.
const TWICE: &str = "member twice: ";
/// What it says of too much nesting.
const DEEP: &str = "too deep";

/// Why a text is not read. Says nothing of its content but the names of members.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ambiguous {
    /// A member is there twice; its JSON pointer (RFC 6901).
    #[error("a member is there twice")]
    Twice(String),
    /// More arrays and objects within each other than were allowed.
    #[error("the nesting is too deep")]
    TooDeep,
    /// It is no JSON.
    #[error("not JSON, at line {line}, column {column}")]
    Syntax {
        /// Counts from 1.
        line: usize,
        /// Counts from 1.
        column: usize,
    },
}

/// Reads one value and nothing behind it, with at most `depth` arrays and objects within each other.
///
/// # Errors
/// [`Ambiguous`].
pub fn read(text: &[u8], depth: usize) -> Result<Value, Ambiguous> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Here { pointer: String::new(), depth }.deserialize(&mut reader);
    value.and_then(|value| reader.end().map(|()| value)).map_err(|error| {
        let said = error.to_string();
        let what = said.rsplit_once(" at line ").map_or(said.as_str(), |(what, _)| what);
        match what.strip_prefix(TWICE) {
            Some(pointer) => Ambiguous::Twice(pointer.to_owned()),
            None if what == DEEP => Ambiguous::TooDeep,
            None => Ambiguous::Syntax { line: error.line(), column: error.column() },
        }
    })
}

/// Appends a member's name to a JSON pointer.
#[must_use]
pub fn below(pointer: &str, name: &str) -> String {
    format!("{pointer}/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// Reads the value at this pointer, which may nest `depth` more times.
struct Here {
    pointer: String,
    depth: usize,
}

impl Here {
    /// An array or object is entered.
    fn enter<E: Error>(mut self) -> Result<Self, E> {
        self.depth = self.depth.checked_sub(1).ok_or_else(|| E::custom(DEEP))?;
        Ok(self)
    }

    fn below(&self, name: &str) -> Self {
        Self { pointer: below(&self.pointer, name), depth: self.depth }
    }
}

impl<'de> DeserializeSeed<'de> for Here {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Here {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let here = self.enter()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(here.below(&list.len().to_string()))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let here = self.enter()?;
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            let member = here.below(&name);
            if map.contains_key(&name) {
                return Err(A::Error::custom(format!("{TWICE}{}", member.pointer)));
            }
            let value = members.next_value_seed(member)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DEPTH: usize = 16;

    #[test]
    fn everything_reads_as_it_always_does() {
        let text = r#"{"a":[1,-2,3.5,true,null,"x\n\ud83d\ude00"],"b":{"c":18446744073709551615,"a":{}},"":0}"#;
        let usual: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(read(text.as_bytes(), DEPTH), Ok(usual), "the same value");
    }

    #[test]
    fn a_member_that_is_there_twice_is_named_however_deep_and_however_written() {
        for (text, pointer) in [
            (r#"{"a":1,"a":1}"#, "/a"),
            (r#"{"a":[0,{"b~/c":1,"b~/c":2}]}"#, "/a/1/b~0~1c"),
            (r#"{"ab":1,"a\u0062":2}"#, "/ab"),
            (r#"{"a":{"b at line 1":1,"b at line 1":1}}"#, "/a/b at line 1"),
        ] {
            assert_eq!(read(text.as_bytes(), DEPTH), Err(Ambiguous::Twice(pointer.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_told_by_its_place_alone() {
        for text in [
            "",
            "{",
            "{} {}",
            "{'a':1}",
            "\u{feff}{}",
            "NaN",
            "[1,]",
            "1e999",
            r#"{"a":1}x"#,
            r#"{"a":01}"#,
            r#"{"a":"\ud800"}"#,
        ] {
            assert!(matches!(read(text.as_bytes(), DEPTH), Err(Ambiguous::Syntax { .. })), "{text}");
        }
        assert!(read(b"{\"a\":\"\xff\"}", DEPTH).is_err(), "not UTF-8");
        let error = read(br#"{"key": sk-secret}"#, DEPTH).expect_err("no JSON");
        assert!(!format!("{error:?} {error}").contains("secret"), "nothing of the content is told back");
    }

    #[test]
    fn nesting_has_a_bound() {
        let nested = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
        assert_eq!(read(b"1", 0), Ok(json!(1)), "a plain value is no nesting");
        assert!(read(nested(DEPTH).as_bytes(), DEPTH).is_ok(), "as deep as allowed");
        assert_eq!(read(nested(DEPTH + 1).as_bytes(), DEPTH), Err(Ambiguous::TooDeep), "deeper");
    }
}
