//! May this caller use this model? The lists of tenant, team, user, roles and key must all allow it. Decides no more
//! than that: which pool serves the model is routing's.

use globset::GlobSet;
use std::sync::Arc;

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

/// The model lists that hold for a caller. `None` restricts nothing, an empty list allows nothing.
#[derive(Clone, Debug, Default)]
pub struct Lists<'a> {
    /// The tenant's, compiled.
    pub tenant: Option<&'a GlobSet>,
    /// The team's, the user's, the credential's.
    pub own: [Option<&'a [String]>; 3],
    /// Those of the roles, of which one must allow the model.
    pub roles: Option<Vec<&'a Arc<[String]>>>,
}

impl Lists<'_> {
    /// True if every level allows the model.
    #[must_use]
    pub fn allow(&self, model: &str) -> bool {
        let allows = |list: &[String]| list.iter().any(|pattern| matches(pattern, model));
        self.tenant.is_none_or(|globs| globs.is_match(model))
            && self.own.iter().flatten().all(|list| allows(list))
            && self.roles.as_ref().is_none_or(|lists| lists.iter().any(|list| allows(list)))
    }
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
#[must_use]
pub fn matches(pattern: &str, model: &str) -> bool {
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

    fn globs(pattern: &str) -> GlobSet {
        let mut set = GlobSetBuilder::new();
        set.add(Glob::new(pattern).expect("a glob"));
        set.build().expect("a set")
    }

    fn list(patterns: &[&str]) -> Vec<String> {
        patterns.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_lists_every_model_is_allowed() {
        assert!(Lists::default().allow("anything"), "no list restricts nothing");
    }

    #[test]
    fn every_level_must_allow_the_model() {
        let (tenant, some) = (globs("llama-*"), list(&["llama-3*", "gpt-4o"]));
        for level in 0..3 {
            let mut lists = Lists { tenant: Some(&tenant), ..Lists::default() };
            lists.own[level] = Some(&some);
            assert!(lists.allow("llama-3.1-8b"), "in both lists, level {level}");
            assert!(!lists.allow("gpt-4o"), "not on the tenant's list, level {level}");
            assert!(!lists.allow("llama-2"), "only on the tenant's list, level {level}");
        }
    }

    #[test]
    fn one_of_the_roles_must_allow_the_model() {
        let (llama, gpt): (Arc<[String]>, Arc<[String]>) = (list(&["llama-*"]).into(), list(&["gpt-*"]).into());
        let lists = Lists { roles: Some(vec![&llama, &gpt]), ..Lists::default() };
        assert!(lists.allow("llama-3") && lists.allow("gpt-4o"), "what any role allows");
        assert!(!lists.allow("mistral"), "and nothing else");
        assert!(!Lists { roles: Some(vec![]), ..Lists::default() }.allow("llama-3"), "no role allows nothing");
    }

    #[test]
    fn an_empty_list_allows_nothing() {
        let lists = Lists { own: [None, None, Some(&[])], ..Lists::default() };
        assert!(!lists.allow("llama"), "an empty list is not an absent one");
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
