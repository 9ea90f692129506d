//! What a request may carry besides its body: parameters of the path, the query and the head. Decides their form by
//! one table per operation, which is in the document too.

use super::form;
use super::pattern;
use super::problem::Problem;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Entries of a list where the caller does not say.
pub const DEFAULT_LIMIT: u32 = 100;
/// Entries of a list at most.
pub const MAX_LIMIT: u32 = 1_000;
/// Parameters that are read at most; the query itself is bounded by the head.
const MAX_PARAMETERS: usize = 64;

/// What a parameter's value looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A text of this pattern.
    Text(&'static str),
    /// A time as RFC 3339 writes it.
    Time,
    /// Entries per page.
    Limit,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Some of these words, with commas.
    Words(&'static [&'static str]),
}

/// One parameter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// What it means.
    pub about: &'static str,
    /// Its form.
    pub kind: Kind,
}

impl Parameter {
    /// A parameter.
    #[must_use]
    pub const fn new(name: &'static str, kind: Kind, about: &'static str) -> Self {
        Self { name, about, kind }
    }

    /// Its schema.
    #[must_use]
    pub fn schema(&self) -> Value {
        match self.kind {
            Kind::Text(pattern) => json!({"type": "string", "pattern": pattern}),
            Kind::Time => json!({"type": "string", "format": "date-time"}),
            Kind::Limit => json!({"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT}),
            Kind::Word(words) => json!({"type": "string", "enum": words}),
            Kind::Words(words) => json!({"type": "array", "items": {"type": "string", "enum": words}, "minItems": 1,
                "maxItems": words.len(), "uniqueItems": true}),
        }
    }

    /// Checks a value of it.
    ///
    /// # Errors
    /// 400 that names it.
    pub fn check(&self, value: &str) -> Result<(), Problem> {
        let fits = match self.kind {
            Kind::Text(pattern) => pattern::fits(pattern, value),
            Kind::Time => form::is_time(value),
            Kind::Limit => value.parse().is_ok_and(|limit| (1..=MAX_LIMIT).contains(&limit)) && !value.starts_with('+'),
            Kind::Word(words) => words.contains(&value),
            Kind::Words(words) => distinct(value).is_some_and(|given| given.iter().all(|word| words.contains(word))),
        };
        if fits { Ok(()) } else { Err(Problem::parameter(self.name, self.expected())) }
    }

    fn expected(&self) -> String {
        match self.kind {
            Kind::Text(pattern) => format!("`{}` must match {pattern}.", self.name),
            Kind::Time => format!("`{}` must be a time such as 2026-11-20T12:00:00Z.", self.name),
            Kind::Limit => format!("`{}` must be a number from 1 to {MAX_LIMIT}.", self.name),
            Kind::Word(words) => format!("`{}` must be one of {}.", self.name, words.join(", ")),
            Kind::Words(words) => format!("`{}` must be some of {}, with commas.", self.name, words.join(", ")),
        }
    }
}

/// The words of a list with commas; `None` where one is there twice.
fn distinct(list: &str) -> Option<Vec<&str>> {
    let mut words: Vec<&str> = list.split(',').collect();
    let count = words.len();
    words.sort_unstable();
    words.dedup();
    (words.len() == count).then_some(words)
}

/// Checked parameters by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query(BTreeMap<&'static str, String>);

impl Query {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 for a parameter that is not known, given twice, or of the wrong form.
    pub fn read(text: Option<&str>, known: &'static [Parameter]) -> Result<Self, Problem> {
        let mut found = BTreeMap::new();
        let text = text.unwrap_or_default();
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()).take(MAX_PARAMETERS) {
            let Some(parameter) = known.iter().find(|parameter| parameter.name == name) else {
                let names: Vec<&str> = known.iter().map(|parameter| parameter.name).collect();
                let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
                return Err(Problem::parameter(&name, format!("This is no parameter here. Known: {known}.")));
            };
            parameter.check(&value)?;
            if found.insert(parameter.name, value.into_owned()).is_some() {
                return Err(Problem::parameter(parameter.name, format!("`{}` is given twice.", parameter.name)));
            }
        }
        Ok(Self(found))
    }

    /// A text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A time.
    #[must_use]
    pub fn time(&self, name: &str) -> Option<crate::domain::units::WallMicros> {
        self.text(name).and_then(form::time)
    }

    /// Entries per page.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.text("limit").and_then(|limit| limit.parse().ok()).unwrap_or(DEFAULT_LIMIT)
    }

    /// Everything that decides which list it is.
    pub fn filters(&self) -> impl Iterator<Item = (&str, &str)> {
        let filters = self.0.iter().filter(|(name, _)| !matches!(**name, "limit" | "cursor"));
        filters.map(|(name, value)| (*name, value.as_str()))
    }
}

/// A path's segment without its percent signs; `None` where it is no UTF-8.
#[must_use]
pub fn decoded(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Parameter] = &[
        Parameter::new("limit", Kind::Limit, "n"),
        Parameter::new("by", Kind::Words(&["day", "key"]), "g"),
        Parameter::new("from", Kind::Time, "t"),
        Parameter::new("team", Kind::Text(form::NAME), "t"),
    ];

    #[test]
    fn a_parameter_is_known_once_and_of_its_form() {
        let query = Query::read(Some("limit=7&by=key,day&team=a%2Eb&from=2026-11-20T12%3A00%3A00Z"), KNOWN);
        let query = query.expect("all are fine");
        assert_eq!((query.limit(), query.text("team")), (7, Some("a.b")), "as they were given");
        assert!(query.time("from").is_some(), "a time");
        assert_eq!(query.filters().count(), 3, "the limit does not decide which list it is");
        for text in [
            "limit=0",
            "limit=1001",
            "limit=+1",
            "limit=",
            "by=day,day",
            "by=hour",
            "by=",
            "from=now",
            "team=a b",
            "team=a&team=a",
            "teem=a",
        ] {
            assert_eq!(Query::read(Some(text), KNOWN).expect_err(text).status(), 400, "{text}");
        }
    }

    #[test]
    fn a_segment_is_decoded_once() {
        assert_eq!(decoded("a%2Fb+%25c"), Some("a/b+%c".to_owned()), "a slash, a plus, a percent sign");
        for broken in ["%", "%2", "%zz", "%ff", "%+1"] {
            assert_eq!(decoded(broken), None, "{broken}");
        }
    }
}
