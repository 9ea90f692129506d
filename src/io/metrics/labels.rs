//! Keeps label values few: the first N names seen are shown, the rest is `other`. Knows no metric.

use parking_lot::RwLock;
use rustc_hash::FxHashSet;

/// The value that stands for every name beyond the bound.
pub const OTHER: &str = "other";
/// The value where a request has no such thing (no route matched, no pool was chosen).
pub const NONE: &str = "none";

/// Longest label value; callers choose model names.
const MAX_BYTES: usize = 128;

/// The first names seen, up to a bound.
#[derive(Debug)]
pub struct FirstSeen {
    most: usize,
    seen: RwLock<FxHashSet<Box<str>>>,
}

impl FirstSeen {
    /// Shows at most `most` names.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, seen: RwLock::new(FxHashSet::default()) }
    }

    /// The name itself, or [`OTHER`].
    pub fn shown<'a>(&self, name: &'a str) -> &'a str {
        if name.len() > MAX_BYTES {
            return OTHER;
        }
        {
            let seen = self.seen.read();
            if seen.contains(name) {
                return name;
            }
            if seen.len() >= self.most {
                return OTHER;
            }
        }
        let mut seen = self.seen.write();
        if seen.len() >= self.most && !seen.contains(name) {
            return OTHER;
        }
        seen.insert(name.into());
        name
    }

    /// The name, [`OTHER`], or [`NONE`].
    pub fn shown_or_none<'a>(&self, name: Option<&'a str>) -> &'a str {
        name.map_or(NONE, |name| self.shown(name))
    }
}

/// `2xx` … `5xx`; `none` where no answer was sent.
#[must_use]
pub fn code_class(status: Option<u16>) -> &'static str {
    match status.map(|code| code / 100) {
        Some(1) => "1xx",
        Some(2) => "2xx",
        Some(3) => "3xx",
        Some(4) => "4xx",
        Some(5) => "5xx",
        Some(_) => OTHER,
        None => NONE,
    }
}

/// The method, if it is one of HTTP's own: callers can invent others without end.
#[must_use]
pub fn method(name: &str) -> &'static str {
    match name {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => OTHER,
    }
}

/// `reported`, `counted` or `estimated`, of a usage record's `usage_source`.
#[must_use]
pub fn token_source(usage_source: &str) -> &'static str {
    match usage_source {
        "upstream_final" | "upstream_continuous" | "upstream_partial" => "reported",
        "tokenizer" | "chunk_count" => "counted",
        _ => "estimated",
    }
}

/// `gen_ai.operation.name` of a usage record's surface; `None` for what is no model call.
#[must_use]
pub fn operation(surface: &str) -> Option<&'static str> {
    match surface {
        "openai.completions" => Some("text_completion"),
        "openai.embeddings" => Some("embeddings"),
        "openai.chat" | "openai.responses" | "anthropic.messages" => Some("chat"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::surface::Surface;
    use std::sync::Barrier;

    #[test]
    fn the_first_names_are_shown_and_the_rest_is_other() {
        let tenants = FirstSeen::new(2);
        assert_eq!(["a", "b", "c", "a"].map(|name| tenants.shown(name)), ["a", "b", OTHER, "a"], "two names fit");
        assert_eq!(tenants.shown_or_none(None), NONE, "nobody is not somebody else");
    }

    #[test]
    fn names_seen_at_once_stay_within_the_bound() {
        for round in 0..100 {
            let (models, start) = (FirstSeen::new(1), Barrier::new(4));
            std::thread::scope(|scope| {
                for name in ["a", "b", "c", "d"] {
                    let (models, start) = (&models, &start);
                    scope.spawn(move || {
                        start.wait();
                        models.shown(name);
                    });
                }
            });
            assert_eq!(models.seen.read().len(), 1, "round {round}: four names at once, one shown");
        }
    }

    #[test]
    fn a_very_long_name_is_other() {
        assert_eq!(FirstSeen::new(10).shown(&"x".repeat(MAX_BYTES + 1)), OTHER, "label values are bounded");
    }

    #[test]
    fn operations_are_those_of_the_surfaces() {
        for surface in [
            Surface::OpenAiChat,
            Surface::OpenAiCompletions,
            Surface::OpenAiResponses,
            Surface::OpenAiEmbeddings,
            Surface::AnthropicMessages,
        ] {
            assert_eq!(operation(surface.name()), Some(surface.operation()), "{}", surface.name());
        }
        assert_eq!([operation("http"), operation("openai.models")], [None, None], "no model is called");
    }
}
