//! The patterns of the admin API, each compiled once: a body of a mebibyte has a hundred thousand texts to hold against
//! them. Decides nothing about what they are; `form` writes them down.

use super::form;
use regex::Regex;
use std::sync::LazyLock;

static COMPILED: LazyLock<Vec<(&'static str, Regex)>> = LazyLock::new(|| {
    let compiled = |pattern: &&'static str| Regex::new(pattern).ok().map(|regex| (*pattern, regex));
    form::PATTERNS.iter().filter_map(compiled).collect()
});

/// True where `text` is what `pattern` asks for. Nothing fits a pattern that is not one of [`form::PATTERNS`].
#[must_use]
pub fn fits(pattern: &str, text: &str) -> bool {
    COMPILED.iter().any(|(known, regex)| *known == pattern && regex.is_match(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::operation::PATH;
    use crate::admin::operations::{DOCUMENT, OPERATIONS};
    use crate::admin::query::{Kind, Parameter};
    use serde_json::Value;

    fn collect<'d>(schema: &'d Value, found: &mut Vec<&'d str>) {
        match schema {
            Value::Object(members) => {
                found.extend(members.get("pattern").and_then(Value::as_str));
                members.values().for_each(|below| collect(below, found));
            }
            Value::Array(items) => items.iter().for_each(|below| collect(below, found)),
            _ => {}
        }
    }

    #[test]
    fn every_pattern_of_the_document_and_of_a_parameter_was_compiled_before_a_request() {
        let mut found = Vec::new();
        collect(&DOCUMENT.whole, &mut found);
        DOCUMENT.requests.values().for_each(|schema| collect(schema, &mut found));
        let text = |parameter: &Parameter| match parameter.kind {
            Kind::Text(pattern) => Some(pattern),
            _ => None,
        };
        found.extend(OPERATIONS.iter().flat_map(|operation| operation.query).chain(PATH).filter_map(text));
        assert!(found.len() > 20, "the document has patterns: {found:?}");
        for pattern in found {
            assert!(COMPILED.iter().any(|(known, _)| *known == pattern), "{pattern} is not in form::PATTERNS");
        }
    }

    #[test]
    fn nothing_fits_a_pattern_that_is_not_known() {
        assert!(fits(form::NAME, "acme"), "a name");
        assert!(!fits(form::NAME, "a b"), "no name");
        assert!(!fits("^.*$", "acme"), "not one of ours");
    }
}
