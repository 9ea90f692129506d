//! Reads a request body once: what is asked of which model, and where the members lie that matter later.
//! Copies no content and judges nothing that an engine can judge better.

use super::json;
use crate::domain::call::{Call, Cuts, Span};
use crate::domain::refusal::Refusal;
use crate::domain::surface::Surface;
use crate::domain::units::Tokens;
use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Bytes of `user` that are kept.
pub const MAX_END_USER: usize = 256;

/// Members that decide something, in the order of [`Seen::values`].
const DECIDING: [&str; 16] = [
    "model",
    "stream",
    "stream_options",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "cache_salt",
    "messages",
    "prompt",
    "input",
    "tools",
    "system",
    "instructions",
    "user",
    "metadata",
];
/// Index of `metadata` in [`DECIDING`]: read for the end user, but a second one decides nothing.
const METADATA: usize = 15;

/// Reads a body.
///
/// # Errors
/// [`Refusal::InvalidJson`], [`Refusal::MissingParameter`], [`Refusal::InvalidParameter`] or
/// [`Refusal::DuplicateParameter`]; none of them holds any of the body's content.
pub fn scan(surface: Surface, body: Bytes) -> Result<Call, Refusal> {
    let text = std::str::from_utf8(&body).map_err(|fault| Refusal::InvalidJson {
        detail: format!("the body is not UTF-8 at byte {}", fault.valid_up_to()),
    })?;
    let seen: Seen<'_> = serde_json::from_str(text).map_err(|fault| invalid(&fault))?;
    if json::too_deep(text.as_bytes()) {
        return Err(Refusal::InvalidJson { detail: format!("nested deeper than {} levels", json::MAX_DEPTH) });
    }
    if let Some(param) = seen.duplicate {
        return Err(Refusal::DuplicateParameter { param });
    }
    let asked = Asked::read(surface, &seen)?;
    let span = |raw: &RawValue| json::span_of(text.as_bytes(), raw.get().as_bytes());
    let prompt: Vec<Span> = prompt_members(surface).iter().filter_map(|name| seen.get(name)).map(span).collect();
    let cuts = Cuts {
        model: seen.get("model").map(span).unwrap_or_default(),
        stream_options: seen.present("stream_options").map(span),
        cache_salt: seen.present("cache_salt").map(span),
        open: json::first_solid(text.as_bytes(), 0) + 1,
        empty: false,
    };
    Ok(Call {
        surface,
        model: asked.model,
        stream: asked.stream,
        max_tokens: asked.max_tokens,
        choices: asked.choices,
        include_usage: asked.options.include_usage == Some(true),
        continuous_usage: asked.options.continuous_usage == Some(true),
        end_user: asked.end_user,
        prompt_bytes: prompt.iter().map(|part| part.len() as u64).sum(),
        prompt,
        cuts,
        body,
    })
}

/// Which members make the prompt, in the order in which chat templates render them.
fn prompt_members(surface: Surface) -> &'static [&'static str] {
    match surface {
        Surface::OpenAiChat => &["tools", "messages"],
        Surface::OpenAiCompletions => &["prompt"],
        Surface::OpenAiResponses => &["tools", "instructions", "input"],
        Surface::OpenAiEmbeddings => &["input"],
        Surface::AnthropicMessages => &["tools", "system", "messages"],
        Surface::Models | Surface::Me | Surface::Http => &[],
    }
}

/// The member without which a call has nothing to say.
fn required(surface: Surface) -> Option<&'static str> {
    prompt_members(surface).last().copied()
}

fn invalid(fault: &serde_json::Error) -> Refusal {
    use serde_json::error::Category;
    // The parser's own words may quote the body, so only the kind and the place are told.
    let kind = match fault.classify() {
        Category::Eof => "the body ends too early",
        Category::Data => "the body must be a JSON object",
        Category::Syntax | Category::Io => "the body is not valid JSON",
    };
    Refusal::InvalidJson { detail: format!("{kind} (line {}, column {})", fault.line(), fault.column()) }
}

/// The values that decide something.
struct Asked {
    model: String,
    stream: bool,
    max_tokens: Option<Tokens>,
    choices: u32,
    options: StreamOptions,
    end_user: Option<String>,
}

impl Asked {
    fn read(surface: Surface, seen: &Seen<'_>) -> Result<Self, Refusal> {
        let model = seen.present("model").ok_or(Refusal::MissingParameter { param: "model" })?;
        let model = read_text(model).filter(|name| !name.is_empty());
        let model = model.ok_or(Refusal::InvalidParameter { param: "model", expected: "a non-empty string" })?;
        if let Some(param) = required(surface) {
            let value = seen.get(param).ok_or(Refusal::MissingParameter { param })?;
            if param == "messages" && !value.get().starts_with('[') {
                return Err(Refusal::InvalidParameter { param, expected: "an array" });
            }
        }
        let options = match seen.get("stream_options") {
            Some(value) => StreamOptions::read(value)?,
            None => StreamOptions::default(),
        };
        // The largest cap is taken: engines differ in which of them they obey.
        let mut max_tokens = None;
        for param in ["max_tokens", "max_completion_tokens", "max_output_tokens"] {
            max_tokens = max_tokens.max(read_count(seen, param)?);
        }
        Ok(Self {
            model,
            stream: read_bool(seen.get("stream"), "stream")?.unwrap_or(false),
            max_tokens: max_tokens.map(Tokens),
            choices: read_choices(seen)?,
            options,
            end_user: end_user(surface, seen),
        })
    }
}

fn read_text(value: &RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn read_bool(value: Option<&RawValue>, param: &'static str) -> Result<Option<bool>, Refusal> {
    match value.map(RawValue::get) {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(_) => Err(Refusal::InvalidParameter { param, expected: "true or false" }),
    }
}

fn read_count(seen: &Seen<'_>, param: &'static str) -> Result<Option<u64>, Refusal> {
    let Some(value) = seen.get(param) else { return Ok(None) };
    let count = serde_json::from_str(value.get());
    count.map(Some).map_err(|_| Refusal::InvalidParameter { param, expected: "a non-negative integer" })
}

fn read_choices(seen: &Seen<'_>) -> Result<u32, Refusal> {
    let wrong = Refusal::InvalidParameter { param: "n", expected: "a positive integer" };
    match read_count(seen, "n") {
        Ok(None) => Ok(1),
        Ok(Some(count)) => u32::try_from(count).ok().filter(|count| *count > 0).ok_or(wrong),
        Err(_) => Err(wrong),
    }
}

/// `user`, or `metadata.user_id` on Anthropic's surface. A wrong type is the engine's to complain about.
fn end_user(surface: Surface, seen: &Seen<'_>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        user_id: Option<String>,
    }
    let mut name = if surface == Surface::AnthropicMessages {
        serde_json::from_str::<Metadata>(seen.get("metadata")?.get()).ok()?.user_id?
    } else {
        read_text(seen.get("user")?)?
    };
    name.truncate(name.floor_char_boundary(MAX_END_USER));
    Some(name)
}

/// The two members of `stream_options` that metering needs, with the places of their values in its text.
#[derive(Default, Debug)]
pub(super) struct StreamOptions {
    pub(super) include_usage: Option<bool>,
    pub(super) continuous_usage: Option<bool>,
    pub(super) include_span: Option<Span>,
    pub(super) continuous_span: Option<Span>,
    /// No member at all.
    pub(super) empty: bool,
}

impl StreamOptions {
    /// Reads the text of an object.
    pub(super) fn read(value: &RawValue) -> Result<Self, Refusal> {
        let text = value.get();
        let wrong = Refusal::InvalidParameter { param: "stream_options", expected: "an object" };
        let members: Options<'_> = serde_json::from_str(text).map_err(|_| wrong)?;
        if let Some(param) = members.duplicate {
            return Err(Refusal::DuplicateParameter { param });
        }
        let not_null = |raw: Option<&'_ RawValue>| raw.is_some_and(|raw| raw.get() != "null");
        let value_of = |raw, param| if not_null(raw) { read_bool(raw, param) } else { Ok(None) };
        let span = |raw: &RawValue| json::span_of(text.as_bytes(), raw.get().as_bytes());
        Ok(Self {
            include_usage: value_of(members.include_usage, "stream_options.include_usage")?,
            continuous_usage: value_of(members.continuous_usage, "stream_options.continuous_usage_stats")?,
            include_span: members.include_usage.map(span),
            continuous_span: members.continuous_usage.map(span),
            empty: members.count == 0,
        })
    }
}

/// Raw members of the document, indexed as [`DECIDING`] is.
struct Seen<'de> {
    values: [Option<&'de RawValue>; DECIDING.len()],
    duplicate: Option<&'static str>,
}

impl<'de> Seen<'de> {
    /// The member as it stands, `null` included.
    fn present(&self, name: &str) -> Option<&'de RawValue> {
        DECIDING.iter().position(|known| *known == name).and_then(|index| self.values[index])
    }

    /// The member, unless it is `null`.
    fn get(&self, name: &str) -> Option<&'de RawValue> {
        self.present(name).filter(|raw| raw.get() != "null")
    }
}

/// A key, unescaped and matched without a copy.
struct Key(Option<usize>);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Match;
        impl Visitor<'_> for Match {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(Key(DECIDING.iter().position(|known| *known == name)))
            }
        }
        deserializer.deserialize_str(Match)
    }
}

impl<'de> Deserialize<'de> for Seen<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Seen<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Seen<'de>, M::Error> {
                let mut seen = Seen { values: [None; DECIDING.len()], duplicate: None };
                while let Some(Key(key)) = map.next_key()? {
                    let Some(index) = key else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    if seen.values[index].replace(map.next_value()?).is_some() && index != METADATA {
                        seen.duplicate.get_or_insert(DECIDING[index]);
                    }
                }
                Ok(seen)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Raw members of `stream_options`.
#[derive(Default)]
struct Options<'de> {
    include_usage: Option<&'de RawValue>,
    continuous_usage: Option<&'de RawValue>,
    duplicate: Option<&'static str>,
    count: usize,
}

impl<'de> Deserialize<'de> for Options<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Options<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Options<'de>, M::Error> {
                let mut seen = Options::default();
                while let Some(key) = map.next_key::<String>()? {
                    seen.count += 1;
                    let (slot, param) = match key.as_str() {
                        "include_usage" => (&mut seen.include_usage, "stream_options.include_usage"),
                        "continuous_usage_stats" => {
                            (&mut seen.continuous_usage, "stream_options.continuous_usage_stats")
                        }
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    if slot.replace(map.next_value()?).is_some() {
                        seen.duplicate = Some(param);
                    }
                }
                Ok(seen)
            }
        }
        deserializer.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests;
