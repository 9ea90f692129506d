//! Reads a usage object in any of the dialects and puts it into one form.

use crate::domain::tokens::TokenCounts;
use crate::domain::units::Tokens;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A usage object as the upstream wrote it, the last word per field. An explicit zero is a word, `null` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct RawCounts {
    prompt_tokens: Count,
    completion_tokens: Count,
    input_tokens: Count,
    output_tokens: Count,
    cache_read_input_tokens: Count,
    cache_creation_input_tokens: Count,
    #[serde(alias = "input_tokens_details")]
    prompt_tokens_details: Option<Details>,
    #[serde(alias = "output_tokens_details")]
    completion_tokens_details: Option<Details>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
struct Details {
    cached_tokens: Count,
    reasoning_tokens: Count,
}

impl RawCounts {
    /// Takes over every field that `newer` names. Nothing is ever summed over events.
    pub fn update(&mut self, newer: &Self) {
        self.prompt_tokens.update(newer.prompt_tokens);
        self.completion_tokens.update(newer.completion_tokens);
        self.input_tokens.update(newer.input_tokens);
        self.output_tokens.update(newer.output_tokens);
        self.cache_read_input_tokens.update(newer.cache_read_input_tokens);
        self.cache_creation_input_tokens.update(newer.cache_creation_input_tokens);
        for (old, new) in [
            (&mut self.prompt_tokens_details, newer.prompt_tokens_details),
            (&mut self.completion_tokens_details, newer.completion_tokens_details),
        ] {
            let Some(new) = new else { continue };
            let old = old.get_or_insert_default();
            old.cached_tokens.update(new.cached_tokens);
            old.reasoning_tokens.update(new.reasoning_tokens);
        }
    }

    /// OpenAI's counting: input includes what was cached.
    #[must_use]
    pub fn openai(&self) -> TokenCounts {
        let output = self.completion_tokens.0.or(self.output_tokens.0);
        TokenCounts {
            input_total: self.prompt_tokens.0.or(self.input_tokens.0).map(Tokens),
            input_cache_read: self.prompt_tokens_details.and_then(|details| details.cached_tokens.0).map(Tokens),
            input_cache_write: None,
            output_total: output.map(Tokens),
            output_reasoning: self.completion_tokens_details.and_then(|d| d.reasoning_tokens.0).map(Tokens),
        }
    }

    /// Anthropic's counting: input excludes what was read from and written to the cache.
    #[must_use]
    pub fn anthropic(&self) -> TokenCounts {
        let (read, write) = (self.cache_read_input_tokens.0, self.cache_creation_input_tokens.0);
        let input = self.input_tokens.0;
        TokenCounts {
            input_total: input
                .map(|plain| plain.saturating_add(read.unwrap_or(0)).saturating_add(write.unwrap_or(0)))
                .map(Tokens),
            input_cache_read: read.map(Tokens),
            input_cache_write: write.map(Tokens),
            output_total: self.output_tokens.0.map(Tokens),
            output_reasoning: None,
        }
    }
}

/// A count, read leniently: anything that is no whole non-negative number is "not said".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count(Option<u64>);

impl Count {
    fn update(&mut self, newer: Self) {
        self.0 = newer.0.or(self.0);
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Lenient)
    }
}

struct Lenient;

impl<'de> Visitor<'de> for Lenient {
    type Value = Count;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a count")
    }
    fn visit_u64<E>(self, value: u64) -> Result<Count, E> {
        Ok(Count(Some(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Count, E> {
        Ok(Count(u64::try_from(value).ok()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Count, E> {
        let whole = value >= 0.0 && value.fract() == 0.0 && value < u64::MAX as f64;
        Ok(Count(whole.then_some(value as u64)))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Count, E> {
        Ok(Count(None))
    }
    fn visit_str<E>(self, _: &str) -> Result<Count, E> {
        Ok(Count(None))
    }
    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(None))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Count, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Count(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anthropic_input_is_the_sum_of_its_three_parts() {
        let text =
            r#"{"input_tokens":1,"cache_read_input_tokens":20,"cache_creation_input_tokens":300,"output_tokens":4}"#;
        let counts = serde_json::from_str::<RawCounts>(text).unwrap().anthropic();
        assert_eq!(counts.input_total, Some(Tokens(321)), "input_total includes cached input");
        assert_eq!(counts.input_cache_write, Some(Tokens(300)), "written");
    }

    #[test]
    fn a_zero_is_a_word_and_null_is_none() {
        let mut raw: RawCounts = serde_json::from_str(r#"{"prompt_tokens":5,"completion_tokens":7}"#).unwrap();
        let newer = r#"{"prompt_tokens":null,"completion_tokens":0,"prompt_tokens_details":{"cached_tokens":"x"}}"#;
        raw.update(&serde_json::from_str(newer).unwrap());
        let counts = raw.openai();
        assert_eq!((counts.input_total, counts.output_total), (Some(Tokens(5)), Some(Tokens(0))), "last word wins");
        assert_eq!(counts.input_cache_read, None, "nonsense is not said");
    }
}
