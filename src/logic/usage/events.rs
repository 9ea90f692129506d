//! What one event of a stream says, per dialect. Knows nothing of framing and keeps no state.

use crate::logic::wire::json;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What one event says; borrowed from its data.
#[derive(Default, Debug)]
pub struct Reading<'a> {
    /// The model's name.
    pub model: Option<&'a RawValue>,
    /// Why the model stopped.
    pub finish: Option<&'a RawValue>,
    /// A usage object.
    pub usage: Option<&'a RawValue>,
    /// How far that usage can be trusted.
    pub stage: Stage,
    /// Bytes of output in it.
    pub text: u64,
    /// It holds model output.
    pub output: bool,
    /// It ends the answer.
    pub terminal: bool,
    /// It tells an error.
    pub error: Option<&'a RawValue>,
    /// It ends the answer with an error outside of the answer's own form.
    pub broken: bool,
    /// A `choices` array is there: true if it has elements.
    pub choices: Option<bool>,
}

/// At which point of a stream a usage object stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stage {
    /// The last word.
    #[default]
    Final,
    /// A running count.
    Running,
    /// A first part.
    Opening,
}

type Raw<'a> = Option<&'a RawValue>;

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    usage: Raw<'a>,
    #[serde(borrow, default)]
    model: Raw<'a>,
    #[serde(borrow, default)]
    error: Raw<'a>,
    #[serde(borrow, default)]
    object: Raw<'a>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
    #[serde(borrow, default)]
    text: Raw<'a>,
    #[serde(borrow, default)]
    finish_reason: Raw<'a>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Raw<'a>,
    #[serde(borrow, default)]
    reasoning_content: Raw<'a>,
    #[serde(borrow, default)]
    reasoning: Raw<'a>,
    #[serde(borrow, default)]
    refusal: Raw<'a>,
    #[serde(borrow, default)]
    tool_calls: Raw<'a>,
    #[serde(borrow, default)]
    function_call: Raw<'a>,
    #[serde(borrow, default)]
    audio: Raw<'a>,
}

/// Bytes of output that a value holds: text unescaped, anything else as it is written.
fn weight(raw: Raw<'_>) -> u64 {
    match raw.map(RawValue::get) {
        None | Some("null" | "[]" | "{}" | "\"\"") => 0,
        Some(text) if text.starts_with('"') => json::string_len(&text.as_bytes()[1..]).unwrap_or(0),
        Some(text) => text.len() as u64,
    }
}

fn object(raw: Raw<'_>) -> Raw<'_> {
    raw.filter(|raw| raw.get().starts_with('{'))
}

fn told(raw: Raw<'_>) -> Raw<'_> {
    raw.filter(|raw| raw.get() != "null")
}

/// Reads an event of chat or text completions. `None` if it is not such a document.
#[must_use]
pub fn chunk(data: &str) -> Option<Reading<'_>> {
    let chunk: Chunk<'_> = serde_json::from_str(data).ok()?;
    let mut reading = Reading { model: told(chunk.model), usage: object(chunk.usage), ..Reading::default() };
    // vLLM before 0.10 puts the error's members at the top, with `"object":"error"`.
    if let Some(error) = told(chunk.error) {
        (reading.error, reading.broken) = (Some(error), true);
    } else if chunk.object.is_some_and(|object| object.get() == "\"error\"") {
        (reading.error, reading.broken) = (serde_json::from_str(data).ok(), true);
    }
    let Some(choices) = chunk.choices else { return Some(reading) };
    reading.choices = Some(!choices.is_empty());
    reading.stage = if choices.is_empty() { Stage::Final } else { Stage::Running };
    for choice in choices {
        reading.finish = told(choice.finish_reason).or(reading.finish);
        reading.text += weight(choice.text);
        let Some(delta) = choice.delta else { continue };
        reading.text += [
            delta.content,
            delta.reasoning_content.or(delta.reasoning),
            delta.refusal,
            delta.tool_calls,
            delta.function_call,
            delta.audio,
        ]
        .into_iter()
        .map(weight)
        .sum::<u64>();
    }
    reading.output = reading.text > 0;
    Some(reading)
}

#[derive(Deserialize)]
struct ResponsesEvent<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow, default)]
    delta: Raw<'a>,
    #[serde(borrow, default)]
    item: Raw<'a>,
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
    #[serde(borrow, default)]
    error: Raw<'a>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    usage: Raw<'a>,
    #[serde(borrow, default)]
    model: Raw<'a>,
    #[serde(borrow, default)]
    status: Raw<'a>,
    #[serde(borrow, default)]
    error: Raw<'a>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Raw<'a>,
}

/// The name of an event: its `type` member, else its `event:` line.
fn kind_of<'a>(member: Raw<'a>, name: Option<&'a str>) -> &'a str {
    member.map(|raw| raw.get().trim_matches('"')).or(name).unwrap_or_default()
}

/// Reads an event of the Responses API.
#[must_use]
pub fn responses<'a>(name: Option<&'a str>, data: &'a str) -> Option<Reading<'a>> {
    let event: ResponsesEvent<'a> = serde_json::from_str(data).ok()?;
    let kind = kind_of(event.kind, name);
    let mut reading = Reading { terminal: is_responses_end(kind), ..Reading::default() };
    reading.broken = kind == "error" || (event.kind.is_none() && told(event.error).is_some());
    if reading.broken {
        reading.error = told(event.error).or_else(|| serde_json::from_str(data).ok());
    }
    if kind.ends_with(".delta") {
        reading.text = weight(event.delta);
    }
    let item = event.item.and_then(|item| serde_json::from_str::<Item<'_>>(item.get()).ok());
    let item = item.and_then(|item| item.kind).map(|kind| kind.get().trim_matches('"'));
    let called = kind == "response.output_item.added" && item.is_some_and(|kind| kind.ends_with("_call"));
    reading.output = reading.text > 0 || called;
    if let Some(response) = event.response {
        reading.model = told(response.model);
        reading.usage = object(response.usage);
        reading.error = reading.error.or(told(response.error));
        reading.finish = told(response.status).filter(|_| reading.terminal);
    }
    Some(reading)
}

/// True for the events that end a Responses stream.
#[must_use]
pub fn is_responses_end(kind: &str) -> bool {
    matches!(kind, "response.completed" | "response.incomplete" | "response.failed")
}

#[derive(Deserialize)]
struct AnthropicEvent<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(borrow, default)]
    usage: Raw<'a>,
    #[serde(borrow, default)]
    delta: Option<AnthropicDelta<'a>>,
    #[serde(borrow, default)]
    content_block: Option<Block<'a>>,
    #[serde(borrow, default)]
    error: Raw<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    usage: Raw<'a>,
    #[serde(borrow, default)]
    model: Raw<'a>,
}

#[derive(Deserialize)]
struct AnthropicDelta<'a> {
    #[serde(borrow, default)]
    text: Raw<'a>,
    #[serde(borrow, default)]
    thinking: Raw<'a>,
    #[serde(borrow, default)]
    partial_json: Raw<'a>,
    #[serde(borrow, default)]
    stop_reason: Raw<'a>,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Raw<'a>,
    #[serde(borrow, default)]
    text: Raw<'a>,
}

/// Reads an event of Anthropic's Messages API.
#[must_use]
pub fn anthropic<'a>(name: Option<&'a str>, data: &'a str) -> Option<Reading<'a>> {
    let event: AnthropicEvent<'a> = serde_json::from_str(data).ok()?;
    let kind = kind_of(event.kind, name);
    let mut reading = Reading { terminal: kind == "message_stop", usage: object(event.usage), ..Reading::default() };
    reading.broken = kind == "error" || (event.kind.is_none() && told(event.error).is_some());
    if reading.broken {
        reading.error = told(event.error).or_else(|| serde_json::from_str(data).ok());
    }
    if let Some(message) = event.message {
        reading.model = told(message.model);
        reading.usage = object(message.usage);
        reading.stage = Stage::Opening;
    }
    if let Some(delta) = event.delta {
        reading.text = weight(delta.text) + weight(delta.thinking) + weight(delta.partial_json);
        reading.finish = told(delta.stop_reason);
        // Counts are cumulative; only the delta that names a reason to stop is the last one.
        reading.stage = if reading.finish.is_some() { Stage::Final } else { Stage::Running };
    }
    if let Some(block) = event.content_block {
        reading.text += weight(block.text);
        reading.output = block.kind.is_some_and(|kind| kind.get().ends_with("tool_use\""));
    }
    reading.output |= reading.text > 0;
    Some(reading)
}
