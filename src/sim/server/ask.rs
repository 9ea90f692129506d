//! Reads what a request body asks for, per surface, and plans the answer: tokens in, tokens out, how it ends. It does
//! not decide when the tokens come (the engine) nor how they look (`openai`, `responses`, `anthropic`).

use super::text;
use crate::domain::surface::Surface;
use crate::domain::units::Tokens;
use crate::sim::engine::EngineLimits;
use serde_json::Value;

/// Choices (`n`) that one request may ask for.
const MAX_CHOICES: u64 = 32;
/// Context of the simulated models, unless the KV cache is smaller.
const MODEL_CONTEXT: u64 = 131_072;

/// What a request asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) model: Option<String>,
    /// Everything that the model reads, rendered.
    pub(super) prompt: String,
    pub(super) stream: bool,
    pub(super) choices: usize,
    pub(super) salt: String,
    /// The tool that it forces.
    pub(super) tool: Option<String>,
    pub(super) include_usage: bool,
    pub(super) continuous_usage: bool,
    limit: Option<u64>,
    min_tokens: u64,
    ignore_eos: bool,
}

/// Why a request cannot be served: vLLM's 400.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct BadAsk {
    pub(super) message: String,
    pub(super) param: Option<&'static str>,
}

fn bad(message: impl Into<String>, param: &'static str) -> BadAsk {
    BadAsk { message: message.into(), param: Some(param) }
}

/// How an answer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Finish {
    /// The model was done; its last token is the end mark and has no text.
    Stop,
    /// `max_tokens` was reached.
    Length,
    /// A tool call is complete.
    Tool,
}

/// An answer, planned: everything but the time.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Unique, without a prefix.
    pub(super) id: String,
    /// Unix seconds.
    pub(super) created: i64,
    pub(super) model: String,
    pub(super) input: Tokens,
    /// Of each choice.
    pub(super) output: Tokens,
    pub(super) choices: usize,
    pub(super) finish: Finish,
    pub(super) tool: Option<String>,
    pub(super) include_usage: bool,
    pub(super) continuous_usage: bool,
    seed: u64,
}

impl Ask {
    /// Reads a body.
    pub(super) fn read(surface: Surface, body: &Value) -> Result<Self, BadAsk> {
        let prompt = match surface {
            Surface::OpenAiChat => rendered_chat(body, "messages")?,
            Surface::AnthropicMessages => rendered_chat(body, "messages")?,
            Surface::OpenAiResponses => rendered_chat(body, "input")?,
            Surface::OpenAiEmbeddings => String::new(),
            _ => rendered_completion(&body["prompt"])?,
        };
        let choices = match &body["n"] {
            Value::Null => 1,
            n => n
                .as_u64()
                .filter(|n| (1..=MAX_CHOICES).contains(n))
                .ok_or_else(|| bad(format!("n must be between 1 and {MAX_CHOICES}"), "n"))?,
        };
        let limit = ["max_completion_tokens", "max_tokens", "max_output_tokens"]
            .iter()
            .find_map(|name| Some((name, body.get(name).filter(|value| !value.is_null())?)));
        let limit = match limit {
            None => None,
            Some((_, value)) => {
                let n = value.as_u64().filter(|n| *n > 0);
                Some(n.ok_or_else(|| bad(format!("max_tokens must be at least 1, got {value}."), "max_tokens"))?)
            }
        };
        let options = &body["stream_options"];
        let stream = body["stream"].as_bool().unwrap_or(false);
        if options.is_object() && !stream {
            return Err(bad("Stream options can only be defined when `stream=True`.", "stream_options"));
        }
        Ok(Self {
            model: body["model"].as_str().map(str::to_owned),
            prompt,
            stream,
            choices: usize::try_from(choices).unwrap_or(1),
            salt: body["cache_salt"].as_str().unwrap_or_default().to_owned(),
            tool: forced_tool(body),
            include_usage: options["include_usage"].as_bool().unwrap_or(false),
            continuous_usage: options["continuous_usage_stats"].as_bool().unwrap_or(false),
            limit,
            min_tokens: body["min_tokens"].as_u64().unwrap_or(0),
            ignore_eos: body["ignore_eos"].as_bool().unwrap_or(false),
        })
    }

    /// Plans the answer of `model`.
    pub(super) fn plan(&self, model: &str, created: i64, limits: &EngineLimits) -> Result<Answer, BadAsk> {
        let (seed, input) = (text::seed(&self.prompt), text::count(&self.prompt));
        let context = MODEL_CONTEXT.min(limits.blocks() * limits.block_tokens);
        let asked = input.0.saturating_add(self.limit.unwrap_or(1));
        if asked > context {
            return Err(bad(
                format!(
                    "This model's maximum context length is {context} tokens. However, you requested {asked} tokens \
                     ({} in the messages, {} in the completion). Please reduce the length of the messages or completion.",
                    input.0,
                    self.limit.unwrap_or(1)
                ),
                "messages",
            ));
        }
        let natural = text::natural_length(seed).0.max(self.min_tokens);
        let room = context - input.0;
        let (output, finish) = match self.limit {
            Some(limit) if self.ignore_eos || limit < natural => (limit, Finish::Length),
            None if self.ignore_eos || natural > room => (natural.min(room), Finish::Length),
            _ => (natural, Finish::Stop),
        };
        let finish = if self.tool.is_some() && finish == Finish::Stop { Finish::Tool } else { finish };
        Ok(Answer {
            id: uuid::Uuid::now_v7().simple().to_string(),
            created,
            model: model.to_owned(),
            input,
            output: Tokens(output),
            choices: self.choices,
            finish,
            tool: self.tool.clone(),
            include_usage: self.include_usage || self.continuous_usage,
            continuous_usage: self.continuous_usage,
            seed,
        })
    }
}

impl Answer {
    /// The text of a token; of a forced tool call: a piece of its arguments.
    pub(super) fn piece(&self, choice: usize, index: u64) -> &'static str {
        let last = index + 1 == self.output.0;
        if self.tool.is_none() {
            return if last && self.finish == Finish::Stop { "" } else { text::word(self.seed, choice, index) };
        }
        match (index, last && self.finish == Finish::Tool) {
            (0, true) => "{}",
            (0, false) => "{\"text\": \"",
            (_, true) => "\"}",
            (_, false) => text::word(self.seed, choice, index),
        }
    }

    /// Everything that a choice says.
    pub(super) fn text(&self, choice: usize) -> String {
        (0..self.output.0).map(|index| self.piece(choice, index)).collect()
    }

    /// True for a choice's last token.
    pub(super) fn is_last(&self, index: u64) -> bool {
        index + 1 >= self.output.0
    }
}

/// Chat messages, instructions and tools as the one text that a template would make of them; tools come first, as in
/// most templates.
fn rendered_chat(body: &Value, member: &'static str) -> Result<String, BadAsk> {
    let mut prompt = String::new();
    if body["tools"].as_array().is_some_and(|tools| !tools.is_empty()) {
        prompt.push_str("<|tools|>");
        prompt.push_str(&body["tools"].to_string());
    }
    for system in ["system", "instructions"] {
        if !body[system].is_null() {
            prompt.push_str("<|system|>");
            push_content(&mut prompt, &body[system]);
        }
    }
    match &body[member] {
        Value::String(text) => {
            prompt.push_str("<|user|>");
            prompt.push_str(text);
        }
        Value::Array(messages) if !messages.is_empty() => {
            for message in messages {
                prompt.push_str("<|");
                prompt.push_str(message["role"].as_str().or(message["type"].as_str()).unwrap_or("user"));
                prompt.push_str("|>");
                push_content(&mut prompt, &message["content"]);
                for more in ["tool_calls", "arguments", "output"] {
                    if !message[more].is_null() {
                        prompt.push_str(&message[more].to_string());
                    }
                }
            }
        }
        _ => return Err(bad(format!("Field required: {member}"), member)),
    }
    Ok(prompt)
}

fn push_content(prompt: &mut String, content: &Value) {
    match content {
        Value::Null => {}
        Value::String(text) => prompt.push_str(text),
        Value::Array(parts) => {
            for part in parts {
                match part["text"].as_str() {
                    Some(text) => prompt.push_str(text),
                    None => prompt.push_str(&part.to_string()),
                }
            }
        }
        other => prompt.push_str(&other.to_string()),
    }
}

/// A text prompt, or token ids: each stands for four bytes.
fn rendered_completion(prompt: &Value) -> Result<String, BadAsk> {
    match prompt {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) if !parts.is_empty() => Ok(parts.iter().map(embedded_text).collect()),
        _ => Err(bad("Field required: prompt", "prompt")),
    }
}

/// One input of an embedding request, or one element of a prompt, as text.
fn embedded_text(part: &Value) -> String {
    match part {
        Value::String(text) => text.clone(),
        Value::Number(id) => format!("{:04x}", id.as_u64().unwrap_or(0) & 0xffff),
        Value::Array(ids) => ids.iter().map(embedded_text).collect(),
        other => other.to_string(),
    }
}

/// The texts of an embedding request.
pub(super) fn embedding_inputs(body: &Value) -> Result<Vec<String>, BadAsk> {
    match &body["input"] {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(ids) if !ids.is_empty() && ids.iter().all(Value::is_number) => {
            Ok(vec![embedded_text(&body["input"])])
        }
        Value::Array(texts) if !texts.is_empty() => Ok(texts.iter().map(embedded_text).collect()),
        _ => Err(bad("Field required: input", "input")),
    }
}

/// The tool that `tool_choice` forces: the named one, or the first where any must be called.
fn forced_tool(body: &Value) -> Option<String> {
    let tools = body["tools"].as_array()?;
    let first = || {
        let tool = tools.first()?;
        tool["function"]["name"].as_str().or(tool["name"].as_str())
    };
    let choice = &body["tool_choice"];
    let name = match choice.as_str().or(choice["type"].as_str())? {
        "required" | "any" => first(),
        "function" | "tool" => choice["function"]["name"].as_str().or(choice["name"].as_str()),
        _ => None,
    };
    name.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::profile::PROFILES;
    use serde_json::json;

    fn plan(body: &Value) -> Result<Answer, BadAsk> {
        Ask::read(Surface::OpenAiChat, body)?.plan("m", 0, &EngineLimits::of(PROFILES[0]))
    }

    fn hello(extra: &Value) -> Value {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hello"}]});
        for (name, value) in extra.as_object().expect("an object") {
            body[name] = value.clone();
        }
        body
    }

    #[test]
    fn max_tokens_cuts_but_does_not_lengthen() {
        let cut = plan(&hello(&json!({"max_tokens": 3}))).expect("good");
        assert_eq!((cut.output, cut.finish), (Tokens(3), Finish::Length), "cut");
        let whole = plan(&hello(&json!({"max_tokens": 3_000}))).expect("good");
        assert!((16..=128).contains(&whole.output.0), "the model ends by itself, got {:?}", whole.output);
        assert_eq!((whole.finish, whole.piece(0, whole.output.0 - 1)), (Finish::Stop, ""), "the end mark is silent");
    }

    #[test]
    fn ignore_eos_gives_exactly_max_tokens() {
        let answer = plan(&hello(&json!({"max_tokens": 3_000, "ignore_eos": true}))).expect("good");
        assert_eq!((answer.output, answer.finish), (Tokens(3_000), Finish::Length), "as long as asked");
    }

    #[test]
    fn a_prompt_beyond_the_context_is_refused_as_vllm_does() {
        let refused = plan(&hello(&json!({"max_tokens": 200_000}))).expect_err("too long");
        assert!(refused.message.contains("maximum context length is 131072"), "{}", refused.message);
    }

    #[test]
    fn a_forced_tool_call_has_arguments_that_are_json() {
        let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
        let answer = plan(&hello(&json!({"tools": tools, "tool_choice": "required"}))).expect("good");
        assert_eq!(answer.tool.as_deref(), Some("look"), "the first tool");
        assert!(serde_json::from_str::<Value>(&answer.text(0)).is_ok_and(|v| v["text"].is_string()), "JSON arguments");
    }

    #[test]
    fn a_request_without_messages_is_bad() {
        assert_eq!(plan(&json!({"model": "m"})).expect_err("bad").param, Some("messages"), "it names the member");
    }
}
