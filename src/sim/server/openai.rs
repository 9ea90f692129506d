//! Chat completions, text completions, embeddings and the model list as vLLM writes them.

use super::ask::{Answer, Finish};
use super::sse::{Piece, Scribe, Sse, push_escaped};
use super::text;
use crate::domain::units::Tokens;
use base64::Engine as _;
use serde_json::{Value, json};
use std::fmt::Write;

/// Dimensions of an embedding where the request names none.
const DIMENSIONS: usize = 64;
/// The most that it may name.
const MAX_DIMENSIONS: u64 = 4_096;

/// Which of the two completion APIs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Form {
    Chat,
    Text,
}

impl Form {
    fn id(self, answer: &Answer) -> String {
        match self {
            Self::Chat => format!("chatcmpl-{}", answer.id),
            Self::Text => format!("cmpl-{}", answer.id),
        }
    }
}

/// `finish_reason`.
fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Tool => "tool_calls",
    }
}

fn usage(answer: &Answer, output: u64, cached: Tokens) -> String {
    let (input, total, cached) = (answer.input.0, answer.input.0 + output, cached.0);
    format!(
        r#"{{"prompt_tokens":{input},"total_tokens":{total},"completion_tokens":{output},"prompt_tokens_details":{{"cached_tokens":{cached}}}}}"#
    )
}

fn call_id(answer: &Answer, choice: usize) -> String {
    format!("call_{}_{choice}", answer.id)
}

/// Writes chat or text completion chunks.
#[derive(Debug)]
pub(super) struct Chunks {
    form: Form,
    usage: bool,
    /// Everything up to `"choices":`; equal in all chunks.
    head: String,
    cached: Tokens,
    sent: Vec<u64>,
}

impl Chunks {
    /// `usage`: false keeps counts out of the stream whatever was asked.
    pub(super) fn new(form: Form, answer: &Answer, usage: bool) -> Self {
        let object = if form == Form::Chat { "chat.completion.chunk" } else { "text_completion" };
        let id = form.id(answer);
        let head = format!(
            r#"{{"id":"{id}","object":"{object}","created":{},"model":{},"choices":"#,
            answer.created,
            Value::from(answer.model.as_str())
        );
        Self { form, usage, head, cached: Tokens(0), sent: vec![0; answer.choices] }
    }

    fn chunk(&self, answer: &Answer, choice: usize, sse: &mut Sse, write: impl FnOnce(&mut String)) {
        sse.event(None, |out| {
            out.push_str(&self.head);
            // Writing to a String cannot fail, here and below.
            let _ = write!(out, r#"[{{"index":{choice},"#);
            write(out);
            out.push_str("}]");
            if answer.continuous_usage && self.usage {
                let _ = write!(out, r#","usage":{}"#, usage(answer, self.sent[choice], self.cached));
            }
            out.push('}');
        });
    }

    fn delta(&self, answer: &Answer, piece: Piece, out: &mut String) {
        let text = answer.piece(piece.choice, piece.index);
        match (self.form, answer.tool.as_deref()) {
            (Form::Text, _) => out.push_str(r#""text":""#),
            (Form::Chat, None) => out.push_str(r#""delta":{"content":""#),
            (Form::Chat, Some(name)) => {
                out.push_str(r#""delta":{"tool_calls":[{"index":0,"#);
                if piece.index == 0 {
                    let (id, name) = (call_id(answer, piece.choice), Value::from(name));
                    let _ = write!(out, r#""id":"{id}","type":"function","function":{{"name":{name},"arguments":""#);
                } else {
                    out.push_str(r#""function":{"arguments":""#);
                }
            }
        }
        push_escaped(out, text);
        out.push_str(match (self.form, &answer.tool) {
            (Form::Text, _) => r#"","logprobs":null,"#,
            (Form::Chat, None) => r#""},"logprobs":null,"#,
            (Form::Chat, Some(_)) => r#""}}]},"logprobs":null,"#,
        });
    }
}

impl Scribe for Chunks {
    fn preamble(&mut self, answer: &Answer, cached: Tokens, sse: &mut Sse) {
        self.cached = cached;
        if self.form == Form::Text {
            return;
        }
        for choice in 0..answer.choices {
            self.chunk(answer, choice, sse, |out| {
                out.push_str(r#""delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null"#);
            });
        }
    }

    fn token(&mut self, answer: &Answer, piece: Piece, sse: &mut Sse) {
        self.sent[piece.choice] = piece.index + 1;
        self.chunk(answer, piece.choice, sse, |out| {
            self.delta(answer, piece, out);
            if answer.is_last(piece.index) {
                let _ = write!(out, r#""finish_reason":"{}","stop_reason":null"#, finish_name(answer.finish));
            } else {
                out.push_str(r#""finish_reason":null"#);
            }
        });
    }

    fn closing(&mut self, answer: &Answer, sse: &mut Sse) {
        if !(answer.include_usage && self.usage) {
            return;
        }
        let output = self.sent.iter().sum();
        sse.event(None, |out| {
            let _ = write!(out, r#"{}[],"usage":{}}}"#, self.head, usage(answer, output, self.cached));
        });
    }

    fn done(&mut self, _answer: &Answer, sse: &mut Sse) {
        sse.event(None, |out| out.push_str("[DONE]"));
    }

    fn error(&mut self, _answer: &Answer, sse: &mut Sse) {
        sse.event(None, |out| {
            let message = "EngineCore encountered an issue (simulated).";
            let _ = write!(
                out,
                r#"{{"error":{{"message":"{message}","type":"InternalServerError","param":null,"code":500}}}}"#
            );
        });
    }
}

/// The whole answer of a request that does not stream.
pub(super) fn whole(form: Form, answer: &Answer, cached: Tokens, with_usage: bool) -> Value {
    let finish = finish_name(answer.finish);
    let choices: Vec<Value> = (0..answer.choices)
        .map(|choice| match (form, &answer.tool) {
            (Form::Text, _) => {
                json!({"index": choice, "text": answer.text(choice), "logprobs": null, "finish_reason": finish,
                       "stop_reason": null, "prompt_logprobs": null})
            }
            (Form::Chat, None) => {
                json!({"index": choice, "logprobs": null, "finish_reason": finish, "stop_reason": null,
                       "message": {"role": "assistant", "content": answer.text(choice), "refusal": null,
                                   "tool_calls": []}})
            }
            (Form::Chat, Some(name)) => {
                let call = json!({"id": call_id(answer, choice), "type": "function",
                                  "function": {"name": name, "arguments": answer.text(choice)}});
                json!({"index": choice, "logprobs": null, "finish_reason": finish, "stop_reason": null,
                       "message": {"role": "assistant", "content": null, "refusal": null, "tool_calls": [call]}})
            }
        })
        .collect();
    let (output, input) = (answer.output.0 * answer.choices as u64, answer.input.0);
    let object = if form == Form::Chat { "chat.completion" } else { "text_completion" };
    let mut body = json!({"id": form.id(answer), "object": object, "created": answer.created, "model": answer.model,
                          "choices": choices});
    if with_usage {
        body["usage"] = json!({"prompt_tokens": input, "total_tokens": input + output, "completion_tokens": output,
                               "prompt_tokens_details": {"cached_tokens": cached.0}});
    }
    body
}

/// The answer of `/v1/embeddings`; `options` is the request body.
pub(super) fn embeddings(id: &str, created: i64, model: &str, inputs: &[String], options: &Value) -> Value {
    let dimensions = options["dimensions"].as_u64().map_or(DIMENSIONS, |n| n.clamp(1, MAX_DIMENSIONS) as usize);
    let base64 = options["encoding_format"] == "base64";
    let rows: Vec<Value> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let vector = text::embedding(input, dimensions);
            let embedding = if base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Value::from(base64::engine::general_purpose::STANDARD.encode(bytes))
            } else {
                Value::from(vector)
            };
            json!({"index": index, "object": "embedding", "embedding": embedding})
        })
        .collect();
    let input: u64 = inputs.iter().map(|input| text::count(input).0).sum();
    json!({"id": format!("embd-{id}"), "object": "list", "created": created, "model": model, "data": rows,
           "usage": {"prompt_tokens": input, "total_tokens": input, "completion_tokens": 0,
                     "prompt_tokens_details": null}})
}

/// The answer of `GET /v1/models`.
pub(super) fn models(model: &str, created: i64, context: u64) -> Value {
    json!({"object": "list", "data": [{"id": model, "object": "model", "created": created, "owned_by": "vllm",
           "root": model, "parent": null, "max_model_len": context, "permission": []}]})
}
