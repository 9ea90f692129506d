//! May this caller use this model? The tenant's list and the key's list must both allow it. Decides no more than
//! that: which pool serves the model is routing's.

use crate::domain::principal::Principal;
use globset::GlobSet;

/// Patterns on one key at most.
pub const MAX_PATTERNS: usize = 64;
/// Bytes of one pattern at most.
pub const MAX_PATTERN_BYTES: usize = 256;

/// Why a pattern cannot be put on a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPattern {
    /// Nothing between two commas.
    #[error("a model name is empty")]
    Empty,
    /// Over the bound.
    #[error("a model name has more than {MAX_PATTERN_BYTES} bytes")]
    TooLong,
    /// More than a key may carry.
    #[error("more than {MAX_PATTERNS} model names")]
    TooMany,
    /// A letter that means something in globs elsewhere, or cannot be in a model name.
    #[error("`{0}` cannot be in a key's model pattern: only `*` (any letters) and `?` (one ASCII letter) are special")]
    Letter(char),
    /// `**`.
    #[error("`**` says no more than `*`: write `*` once")]
    DoubleStar,
}

/// True if tenant and key both allow the model. `tenant` is the tenant's compiled list; `None`: no restriction.
/// A key's list that is empty allows nothing.
#[must_use]
pub fn may_use(principal: &Principal, tenant: Option<&GlobSet>, model: &str) -> bool {
    let by_tenant = tenant.is_none_or(|globs| globs.is_match(model));
    by_tenant && principal.models.as_ref().is_none_or(|list| list.iter().any(|pattern| matches(pattern, model)))
}

/// Checks the patterns of a key before it is made. They are a part of what the configuration's globs can say, with
/// the same meaning, so that a key's list needs no compiling per request.
///
/// # Errors
/// [`BadPattern`], the first one.
pub fn check_patterns(patterns: &[String]) -> Result<(), BadPattern> {
    if patterns.len() > MAX_PATTERNS {
        return Err(BadPattern::TooMany);
    }
    patterns.iter().try_for_each(|pattern| check_pattern(pattern))
}

fn check_pattern(pattern: &str) -> Result<(), BadPattern> {
    if pattern.is_empty() {
        return Err(BadPattern::Empty);
    }
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(BadPattern::TooLong);
    }
    if pattern.contains("**") {
        return Err(BadPattern::DoubleStar);
    }
    let strange = |letter: &char| letter.is_control() || letter.is_whitespace() || "[]{}\\!".contains(*letter);
    pattern.chars().find(strange).map_or(Ok(()), |letter| Err(BadPattern::Letter(letter)))
}

/// `*` is any run of bytes, `?` any one byte (as in globset, whose expressions are on bytes), `/` is a letter like
/// others. At most |pattern| × |model| steps.
fn matches(pattern: &str, model: &str) -> bool {
    let (mut wanted, mut left) = (pattern.as_bytes(), model.as_bytes());
    // What follows the last star, and from where it was tried.
    let mut star: Option<(&[u8], &[u8])> = None;
    loop {
        match (wanted, left) {
            ([b'*', behind @ ..], _) => {
                wanted = behind;
                star = Some((behind, left));
                continue;
            }
            ([letter, pattern @ ..], [got, text @ ..]) if *letter == b'?' || letter == got => {
                (wanted, left) = (pattern, text);
                continue;
            }
            ([], []) => return true,
            _ => {}
        }
        // No match from here: the last star takes one byte more.
        let Some((behind, [_, text @ ..])) = star else { return false };
        (wanted, left) = (behind, text);
        star = Some((behind, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use globset::{Glob, GlobSetBuilder};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn globs(pattern: &str) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        set.add(Glob::new(pattern).expect("a glob"));
        set.build().expect("a set")
    }

    fn key_with(patterns: &[&str]) -> Principal {
        let list: Arc<[String]> = patterns.iter().map(ToString::to_string).collect();
        Principal { models: Some(list), ..Principal::anonymous() }
    }

    #[test]
    fn without_lists_every_model_is_allowed() {
        assert!(may_use(&Principal::anonymous(), None, "anything"), "no list restricts nothing");
    }

    #[test]
    fn both_lists_must_allow_the_model() {
        let tenant = globs("llama-*");
        let key = key_with(&["llama-3*", "gpt-4o"]);
        assert!(may_use(&key, Some(&tenant), "llama-3.1-8b"), "in both");
        assert!(!may_use(&key, Some(&tenant), "gpt-4o"), "only on the key's list");
        assert!(!may_use(&key, Some(&tenant), "llama-2"), "only on the tenant's list");
    }

    #[test]
    fn an_empty_list_on_the_key_allows_nothing() {
        assert!(!may_use(&key_with(&[]), None, "llama"), "an empty list is not an absent one");
    }

    #[test]
    fn patterns_that_would_mean_something_else_elsewhere_are_refused() {
        let check = |pattern: &str| check_patterns(&[pattern.to_owned()]);
        assert_eq!(check("llama-*"), Ok(()), "stars are allowed");
        assert_eq!(check("meta/llama-3.?"), Ok(()), "so are slashes and question marks");
        assert_eq!(check("[ab]"), Err(BadPattern::Letter('[')), "classes are not");
        assert_eq!(check("a b"), Err(BadPattern::Letter(' ')), "blanks are not");
        assert_eq!(check("a**"), Err(BadPattern::DoubleStar), "double stars are not");
        assert_eq!(check(""), Err(BadPattern::Empty), "nothing is not a name");
        assert_eq!(check_patterns(&vec!["a".to_owned(); 65]), Err(BadPattern::TooMany), "bounded");
    }

    #[test]
    fn one_question_mark_is_one_byte_as_on_a_tenant() {
        assert!(matches("llama-?", "llama-3"), "an ASCII letter is one");
        assert!(!matches("a?", "aé"), "é is two");
    }

    proptest! {
        #[test]
        fn a_keys_pattern_means_what_the_same_glob_means_on_a_tenant(
            pattern in "[ab/é*?]{1,8}", model in "[ab/é]{0,8}"
        ) {
            let mut pattern = pattern;
            while pattern.contains("**") {
                pattern = pattern.replace("**", "*");
            }
            prop_assert_eq!(matches(&pattern, &model), globs(&pattern).is_match(&model), "{} on {}", pattern, model);
        }
    }
}
