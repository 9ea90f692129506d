//! Holds a JSON value against a schema of the API's own document, so that what the document says is what is checked.
//! Decides which keywords that takes: those that the document uses, which a test holds.

use super::pattern;
use super::problem::Problem;
use crate::logic::wire::unambiguous::below;
use serde_json::{Map, Value};

/// Where the document keeps its named schemas.
pub const DEFINITIONS: &str = "#/components/schemas/";

/// The keywords that are checked, and those that say nothing about validity.
pub const KEYWORDS: [&str; 23] = [
    "$ref",
    "type",
    "enum",
    "const",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "anyOf",
    "oneOf",
    "format",
    "writeOnly",
    "title",
    "description",
    "default",
    "examples",
];

/// What breaks the schema first, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breach {
    /// JSON pointer to the value.
    pub pointer: String,
    /// What it must be.
    pub must: String,
}

impl From<Breach> for Problem {
    fn from(breach: Breach) -> Self {
        let place = if breach.pointer.is_empty() { "The body".to_owned() } else { format!("`{}`", breach.pointer) };
        Self::member(&breach.pointer, format!("{place} {}.", breach.must))
    }
}

/// Holds `value` against `schema`; `definitions` are what a `$ref` names.
///
/// # Errors
/// The first [`Breach`].
pub fn check(definitions: &Map<String, Value>, schema: &Value, value: &Value) -> Result<(), Breach> {
    Checker { definitions }.check(schema, value, "")
}

struct Checker<'d> {
    definitions: &'d Map<String, Value>,
}

fn breach<T>(pointer: &str, must: impl Into<String>) -> Result<T, Breach> {
    Err(Breach { pointer: pointer.chars().take(256).collect(), must: must.into() })
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), Breach> {
        let Value::Object(schema) = schema else {
            return if schema == &Value::Bool(false) { breach(at, "is not known here") } else { Ok(()) };
        };
        if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
            let named = name.strip_prefix(DEFINITIONS).and_then(|name| self.definitions.get(name));
            let Some(named) = named else { return breach(at, "has no schema") };
            self.check(named, value, at)?;
        }
        self.kind(schema, value, at)?;
        self.choice(schema, value, at)?;
        match value {
            Value::String(text) => string(schema, text, at),
            Value::Number(number) => bounds(schema, number, at),
            Value::Array(items) => self.items(schema, items, at),
            Value::Object(members) => self.members(schema, members, at),
            _ => Ok(()),
        }
    }

    fn kind(&self, schema: &Map<String, Value>, value: &Value, at: &str) -> Result<(), Breach> {
        let Some(kind) = schema.get("type") else { return Ok(()) };
        let kinds: Vec<&str> = match kind {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        if kinds.iter().any(|kind| is_a(value, kind)) {
            return Ok(());
        }
        breach(at, format!("must be of type {}", kinds.join(" or ")))
    }

    /// `enum`, `const`, `anyOf`, and `oneOf`, whose alternatives are never two at once here. Of several alternatives the
    /// first one's breach is told: the others are `null`.
    fn choice(&self, schema: &Map<String, Value>, value: &Value, at: &str) -> Result<(), Breach> {
        if let Some(Value::Array(words)) = schema.get("enum")
            && !words.contains(value)
        {
            let words: Vec<String> = words.iter().map(Value::to_string).collect();
            return breach(at, format!("must be one of {}", words.join(", ")));
        }
        if schema.get("const").is_some_and(|only| only != value) {
            return breach(at, "must be the one value that is allowed");
        }
        let Some(Value::Array(ways)) = schema.get("anyOf").or_else(|| schema.get("oneOf")) else { return Ok(()) };
        let only: Vec<&Value> = ways.iter().filter_map(|way| way.get("const")).collect();
        if only.len() == ways.len() && !only.contains(&value) {
            let words: Vec<String> = only.iter().map(ToString::to_string).collect();
            return breach(at, format!("must be one of {}", words.join(", ")));
        }
        let mut first = None;
        for way in ways {
            match self.check(way, value, at) {
                Ok(()) => return Ok(()),
                Err(breach) => first = first.or(Some(breach)),
            }
        }
        first.map_or(Ok(()), Err)
    }

    fn items(&self, schema: &Map<String, Value>, items: &[Value], at: &str) -> Result<(), Breach> {
        let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
        let count = items.len() as u64;
        if let Some(most) = bound("maxItems").filter(|most| count > *most) {
            return breach(at, format!("may have at most {most} entries"));
        }
        if let Some(least) = bound("minItems").filter(|least| count < *least) {
            return breach(at, format!("must have at least {least} entries"));
        }
        let Some(each) = schema.get("items") else { return Ok(()) };
        items.iter().enumerate().try_for_each(|(index, item)| self.check(each, item, &format!("{at}/{index}")))
    }

    fn members(&self, schema: &Map<String, Value>, members: &Map<String, Value>, at: &str) -> Result<(), Breach> {
        let known = schema.get("properties").and_then(Value::as_object);
        for (name, value) in members {
            let here = below(at, name);
            let own = known.and_then(|known| known.get(name)).or_else(|| schema.get("additionalProperties"));
            own.map_or(Ok(()), |own| self.check(own, value, &here))?;
        }
        let needed = schema.get("required").and_then(Value::as_array);
        let absent = needed.into_iter().flatten().filter_map(Value::as_str).find(|name| !members.contains_key(*name));
        absent.map_or(Ok(()), |name| breach(&below(at, name), "is missing"))
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        _ => false,
    }
}

fn string(schema: &Map<String, Value>, text: &str, at: &str) -> Result<(), Breach> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
    let count = text.chars().count() as u64;
    if let Some(most) = bound("maxLength").filter(|most| count > *most) {
        return breach(at, format!("may have at most {most} letters"));
    }
    if let Some(least) = bound("minLength").filter(|least| count < *least) {
        return breach(at, format!("must have at least {least} letters"));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !pattern::fits(pattern, text)
    {
        return breach(at, format!("must match {pattern}"));
    }
    if schema.get("format").and_then(Value::as_str) == Some("date-time") && !super::form::is_time(text) {
        return breach(at, "must be a time as RFC 3339 writes it, such as 2026-11-20T12:00:00Z");
    }
    Ok(())
}

fn bounds(schema: &Map<String, Value>, number: &serde_json::Number, at: &str) -> Result<(), Breach> {
    let Some(number) = number.as_i128() else { return Ok(()) };
    let bound = |name: &str| schema.get(name).and_then(Value::as_i64).map(i128::from);
    if let Some(most) = bound("maximum").filter(|most| number > *most) {
        return breach(at, format!("may be at most {most}"));
    }
    if let Some(least) = bound("minimum").filter(|least| number < *least) {
        return breach(at, format!("must be at least {least}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn told(schema: Value, value: Value) -> Option<(String, String)> {
        let definitions = json!({"Name": {"type": "string", "maxLength": 3, "pattern": crate::admin::form::NAME}});
        let definitions = definitions.as_object().expect("an object");
        check(definitions, &schema, &value).err().map(|breach| (breach.pointer, breach.must))
    }

    #[test]
    fn what_breaks_a_schema_is_named_by_its_pointer() {
        let schema = json!({
            "type": "object", "required": ["name"], "additionalProperties": false,
            "properties": {
                "name": {"$ref": "#/components/schemas/Name"},
                "list": {"type": ["array", "null"], "maxItems": 1, "items": {"type": "integer", "minimum": 1, "maximum": 2}},
                "at": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]},
                "by": {"type": "string", "enum": ["a", "b"]},
                "level": {"oneOf": [{"type": "string", "const": "a"}, {"type": "string", "const": "b"}]},
            },
        });
        for (value, pointer) in [
            (json!([]), ""),
            (json!({}), "/name"),
            (json!({"name": 1}), "/name"),
            (json!({"name": "abcd"}), "/name"),
            (json!({"name": "a b"}), "/name"),
            (json!({"name": "a", "nmae": 1}), "/nmae"),
            (json!({"name": "a", "list": [1, 1]}), "/list"),
            (json!({"name": "a", "list": [0]}), "/list/0"),
            (json!({"name": "a", "list": [3]}), "/list/0"),
            (json!({"name": "a", "list": [1.5]}), "/list/0"),
            (json!({"name": "a", "at": "today"}), "/at"),
            (json!({"name": "a", "by": "c"}), "/by"),
            (json!({"name": "a", "level": "c"}), "/level"),
        ] {
            assert_eq!(told(schema.clone(), value.clone()).map(|(at, _)| at), Some(pointer.to_owned()), "{value}");
        }
        let good = json!({"name": "abc", "list": null, "at": "2026-11-20T12:00:00+01:00", "by": "a", "level": "b"});
        assert_eq!(told(schema, good), None, "what fits passes");
    }
}
