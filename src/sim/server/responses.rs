//! `/v1/responses`: one output item, a message or the forced function call.

use super::ask::{Answer, Finish};
use super::sse::{Piece, Scribe, Sse, push_escaped};
use crate::domain::units::Tokens;
use serde_json::{Value, json};
use std::fmt::Write;

/// Writes the events of a response.
#[derive(Debug)]
pub(super) struct Response {
    usage: bool,
    cached: Tokens,
    sequence: u64,
}

impl Response {
    /// `usage`: false keeps counts out of the final event.
    pub(super) fn new(usage: bool) -> Self {
        Self { usage, cached: Tokens(0), sequence: 0 }
    }

    fn event(&mut self, sse: &mut Sse, name: &'static str, mut data: Value) {
        data["type"] = Value::from(name);
        data["sequence_number"] = Value::from(self.sequence);
        self.sequence += 1;
        // Writing to a String cannot fail.
        sse.event(Some(name), |out| {
            let _ = write!(out, "{data}");
        });
    }
}

impl Scribe for Response {
    fn preamble(&mut self, answer: &Answer, cached: Tokens, sse: &mut Sse) {
        self.cached = cached;
        let response = body(answer, "in_progress", &[], None);
        self.event(sse, "response.created", json!({"response": response}));
        self.event(sse, "response.in_progress", json!({"response": response}));
        let item = item(answer, "in_progress", None);
        self.event(sse, "response.output_item.added", json!({"output_index": 0, "item": item}));
        if answer.tool.is_none() {
            let part = json!({"type": "output_text", "text": "", "annotations": [], "logprobs": []});
            let data = json!({"item_id": item_id(answer), "output_index": 0, "content_index": 0, "part": part});
            self.event(sse, "response.content_part.added", data);
        }
    }

    fn token(&mut self, answer: &Answer, piece: Piece, sse: &mut Sse) {
        let text = answer.piece(0, piece.index);
        let name = match answer.tool {
            None => "response.output_text.delta",
            Some(_) => "response.function_call_arguments.delta",
        };
        sse.event(Some(name), |out| {
            let (item, sequence) = (item_id(answer), self.sequence);
            let _ = write!(
                out,
                r#"{{"type":"{name}","sequence_number":{sequence},"item_id":"{item}","output_index":0,"delta":""#
            );
            push_escaped(out, text);
            out.push_str(if answer.tool.is_none() { r#"","content_index":0,"logprobs":[]}"# } else { "\"}" });
        });
        self.sequence += 1;
    }

    fn closing(&mut self, answer: &Answer, sse: &mut Sse) {
        let (text, item_id) = (answer.text(0), item_id(answer));
        if let Some(name) = &answer.tool {
            let data = json!({"item_id": item_id, "output_index": 0, "name": name, "arguments": text});
            self.event(sse, "response.function_call_arguments.done", data);
        } else {
            let data = json!({"item_id": item_id, "output_index": 0, "content_index": 0, "text": text, "logprobs": []});
            self.event(sse, "response.output_text.done", data);
            let part = json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
            let data = json!({"item_id": item_id, "output_index": 0, "content_index": 0, "part": part});
            self.event(sse, "response.content_part.done", data);
        }
        let item = item(answer, item_status(answer), Some(&text));
        self.event(sse, "response.output_item.done", json!({"output_index": 0, "item": item}));
    }

    fn done(&mut self, answer: &Answer, sse: &mut Sse) {
        let name = if answer.finish == Finish::Length { "response.incomplete" } else { "response.completed" };
        let response = whole(answer, self.cached, self.usage);
        self.event(sse, name, json!({"response": response}));
    }

    fn error(&mut self, answer: &Answer, sse: &mut Sse) {
        let mut response = body(answer, "failed", &[], None);
        response["error"] = json!({"code": "server_error", "message": "EngineCore encountered an issue (simulated)."});
        self.event(sse, "response.failed", json!({"response": response}));
    }
}

fn item_id(answer: &Answer) -> String {
    match answer.tool {
        None => format!("msg_{}", answer.id),
        Some(_) => format!("fc_{}", answer.id),
    }
}

fn item_status(answer: &Answer) -> &'static str {
    if answer.finish == Finish::Length { "incomplete" } else { "completed" }
}

fn item(answer: &Answer, status: &str, text: Option<&str>) -> Value {
    match &answer.tool {
        Some(name) => {
            json!({"id": item_id(answer), "type": "function_call", "call_id": format!("call_{}", answer.id),
                   "name": name, "arguments": text.unwrap_or_default(), "status": status})
        }
        None => {
            let part = |text| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
            let content: Vec<Value> = text.into_iter().map(part).collect();
            json!({"id": item_id(answer), "type": "message", "role": "assistant", "content": content,
                   "status": status})
        }
    }
}

fn body(answer: &Answer, status: &str, output: &[Value], usage: Option<Value>) -> Value {
    let incomplete = if status == "incomplete" { json!({"reason": "max_output_tokens"}) } else { Value::Null };
    json!({"id": format!("resp_{}", answer.id), "object": "response", "created_at": answer.created,
           "model": answer.model, "status": status, "output": output, "usage": usage, "error": null,
           "incomplete_details": incomplete, "instructions": null, "metadata": {}, "parallel_tool_calls": true,
           "temperature": 1.0, "top_p": 1.0, "tool_choice": "auto", "tools": [], "background": false,
           "truncation": "disabled", "text": {"format": {"type": "text"}}})
}

/// The whole response.
pub(super) fn whole(answer: &Answer, cached: Tokens, with_usage: bool) -> Value {
    let status = item_status(answer);
    let (input, output) = (answer.input.0, answer.output.0);
    let usage = with_usage.then(|| {
        json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": cached.0}, "output_tokens": output,
               "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + output})
    });
    body(answer, status, &[item(answer, status, Some(&answer.text(0)))], usage)
}
