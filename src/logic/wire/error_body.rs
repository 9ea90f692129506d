//! Writes errors in the client's dialect (semantics.md §1 and §7): a refusal's answer, an error inside of a stream,
//! an upstream's error wrapped. Decides no status but the dialect's own.

use super::stream_kind::StreamKind;
use crate::domain::limit::Dimension;
use crate::domain::refusal::Refusal;
use crate::domain::surface::Dialect;
use crate::logic::quota::headers::{denial_headers, retry_headers};
use bytes::Bytes;
use serde_json::{Value, json};

/// Bytes of an upstream's error message that are told on.
pub const MAX_MESSAGE: usize = 512;
/// Letters of a model's name that are told back.
const MAX_MODEL: usize = 128;

/// An answer in place of the upstream's. `x-request-id` and the rate headers are added by others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReply {
    /// HTTP status in the dialect.
    pub status: u16,
    /// The JSON body.
    pub body: Bytes,
    /// Headers, lower case.
    pub headers: Vec<(&'static str, String)>,
}

/// The answer to a refusal.
#[must_use]
pub fn render(refusal: &Refusal, dialect: Dialect, request_id: &str) -> ErrorReply {
    let status = status_in(dialect, refusal.status());
    let error = OpenAiError {
        message: &message(refusal),
        kind: openai_type(refusal),
        param: refusal.param(),
        code: refusal.code(),
    };
    let mut headers = vec![("content-type", "application/json".to_owned())];
    if refusal.status() == 401 {
        headers.push(("www-authenticate", "Bearer".to_owned()));
    }
    if let Refusal::Limited(denial) = refusal {
        headers.extend(denial_headers(denial));
    } else if let Some(wait) = refusal.retry_after() {
        headers.extend(retry_headers(wait));
    }
    ErrorReply { status, body: error.body(dialect, status, request_id), headers }
}

/// An error as OpenAI's dialect has it; the other dialects are made of it.
struct OpenAiError<'a> {
    message: &'a str,
    kind: &'a str,
    param: Option<&'a str>,
    code: &'a str,
}

impl OpenAiError<'_> {
    fn body(&self, dialect: Dialect, status: u16, request_id: &str) -> Bytes {
        match dialect {
            Dialect::OpenAi => json!({ "error": self.object() }),
            Dialect::Anthropic => anthropic(anthropic_type(status), self.message, request_id),
        }
        .to_string()
        .into()
    }

    fn object(&self) -> Value {
        json!({ "message": self.message, "type": self.kind, "param": self.param, "code": self.code })
    }
}

fn anthropic(kind: &str, message: &str, request_id: &str) -> Value {
    json!({ "type": "error", "error": { "type": kind, "message": message }, "request_id": request_id })
}

/// The status as it is sent in a dialect: Anthropic's clients know an overload by 529.
#[must_use]
pub fn status_in(dialect: Dialect, status: u16) -> u16 {
    if dialect == Dialect::Anthropic && status == 503 { 529 } else { status }
}

fn openai_type(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::Limited(denial) if denial.dimension.is_tokens() => "tokens",
        Refusal::Limited(denial) if denial.dimension == Dimension::Spend => "insufficient_quota",
        Refusal::Limited(_) => "requests",
        // 501 and 505 too: the head is the client's.
        Refusal::MalformedRequest { .. } => "invalid_request_error",
        Refusal::InsufficientPermissions { .. } => "permission_error",
        _ if refusal.status() >= 500 => "server_error",
        _ => "invalid_request_error",
    }
}

fn anthropic_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        503 | 529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    }
}

/// What is wrong and what helps. Names nothing that the caller does not know already.
fn message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::InvalidApiKey => "No valid API key was given. Send one as `Authorization: Bearer <key>`.".into(),
        Refusal::ApiKeyExpired => "This API key has expired. Ask your administrator for a new one.".into(),
        Refusal::ApiKeyDisabled => "This API key is disabled. Ask your administrator to enable it.".into(),
        Refusal::InvalidToken => "The token is not valid here. Get a new one from your identity provider.".into(),
        Refusal::InsufficientPermissions { .. } => {
            "You are not permitted to do this. Ask your administrator for a role that is.".into()
        }
        Refusal::AmbiguousCredentials => "The request carries two different credentials. Send exactly one.".into(),
        Refusal::ModelNotFound { model } => {
            let model: String = model.chars().take(MAX_MODEL).collect();
            format!("The model `{model}` does not exist or you do not have access to it. GET /v1/models lists yours.")
        }
        Refusal::InvalidJson { detail } => format!("The request body could not be read: {detail}."),
        Refusal::MissingParameter { param } => format!("Missing required parameter: `{param}`."),
        Refusal::InvalidParameter { param, expected } => format!("Invalid `{param}`: it must be {expected}."),
        Refusal::DuplicateParameter { param } => format!("`{param}` is given more than once. Send it once."),
        Refusal::MalformedRequest { detail, .. } => format!("Malformed HTTP request: {detail}."),
        Refusal::RouteNotFound => "No route matches this path, host and method. Check the URL.".into(),
        Refusal::LengthRequired => "The body's length is needed. Send a `Content-Length` header.".into(),
        Refusal::RequestTooLarge { limit } => format!("The request body is larger than {limit} bytes. Send less."),
        Refusal::RequestTimeout => "The request did not arrive in time. Try again.".into(),
        Refusal::Limited(denial) => limited(denial),
        Refusal::TokensExceedLimit { asked, limit } => {
            format!(
                "This request asks for {asked} tokens, and at most {limit} are allowed. Shorten the prompt or lower `max_tokens`."
            )
        }
        Refusal::Overloaded { .. } => "The service is overloaded. Try again after the time in `Retry-After`.".into(),
        Refusal::NoHealthyUpstream { .. } => {
            "No backend for this model is available now. Try again after the time in `Retry-After`.".into()
        }
        Refusal::UpstreamError => "The model server failed. Try again.".into(),
        Refusal::UpstreamAuthError => "The model server refused this gateway. Tell your administrator.".into(),
        Refusal::UpstreamTimeout => "The model server did not answer in time. Try again, or ask for less.".into(),
        Refusal::DependencyUnavailable { .. } => "The service is not available for the moment. Try again.".into(),
        Refusal::ShuttingDown => "The service is restarting. Try again.".into(),
        Refusal::ClientClosed => "The client closed the request.".into(),
        Refusal::Internal => "An internal error occurred. Tell your administrator the request id.".into(),
    }
}

fn limited(denial: &crate::domain::limit::Denial) -> String {
    let what = match denial.dimension {
        Dimension::Requests => "Request rate limit",
        Dimension::Tokens | Dimension::InputTokens | Dimension::OutputTokens => "Token rate limit",
        Dimension::Spend => "Budget",
        Dimension::Concurrency => "Limit of concurrent requests",
    };
    let remedy = match denial.retry_after {
        Some(wait) => format!("Try again in {} s.", wait.0.div_ceil(1_000_000).max(1)),
        None => "Waiting does not help: ask your administrator for a larger limit.".to_owned(),
    };
    let whose = match denial.scope {
        "global" => "of all callers together".to_owned(),
        scope => format!("of this {scope}"),
    };
    format!("{what} `{}` {whose} is reached. {remedy}", denial.rule)
}

/// The last event of a stream that failed after its output began. No `[DONE]` follows it.
#[must_use]
pub fn stream_error(kind: StreamKind, code: &str, message: &str, request_id: &str) -> Bytes {
    let spent = code == "insufficient_quota";
    let error = OpenAiError { message, kind: if spent { code } else { "server_error" }, param: None, code };
    let event = match kind {
        StreamKind::Chat | StreamKind::Completions => format!("data: {}\n\n", json!({ "error": error.object() })),
        StreamKind::Responses => {
            let failed = json!({ "type": "response.failed", "response": {
                "id": request_id, "object": "response", "status": "failed",
                "error": { "code": code, "message": message },
            }});
            format!("event: response.failed\ndata: {failed}\n\n")
        }
        StreamKind::Anthropic => {
            let kind = match code {
                "upstream_timeout" => "timeout_error",
                "insufficient_quota" => "rate_limit_error",
                _ => "api_error",
            };
            format!("event: error\ndata: {}\n\n", anthropic(kind, message, request_id))
        }
    };
    event.into()
}

/// True if an upstream's error body may go to the client as it is: it has its dialect's form.
#[must_use]
pub fn is_valid_error(dialect: Dialect, body: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<Value>(body) else { return false };
    let error = &value["error"];
    let text = |name: &str| error[name].is_string();
    let optional = |name: &str| error.get(name).is_some_and(|member| member.is_string() || member.is_null());
    match dialect {
        Dialect::OpenAi => text("message") && text("type") && optional("param") && optional("code"),
        Dialect::Anthropic => value["type"] == "error" && text("type") && text("message"),
    }
}

/// An upstream's error in the client's dialect. Its message is told on if it is one and names no host.
#[must_use]
pub fn wrap_upstream(dialect: Dialect, status: u16, body: &[u8], request_id: &str) -> ErrorReply {
    let value = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let candidates = [&value["error"]["message"], &value["message"], &value["error"], &value["detail"]];
    let told = candidates.into_iter().find_map(Value::as_str).filter(|text| !text.is_empty() && !names_host(text));
    let message = match told {
        Some(text) => text[..text.floor_char_boundary(MAX_MESSAGE)].to_owned(),
        None => format!("The model server answered with status {status}."),
    };
    let kind = if status >= 500 { "server_error" } else { "invalid_request_error" };
    let error = OpenAiError { message: &message, kind, param: None, code: "upstream_error" };
    let status = status_in(dialect, status);
    let headers = vec![("content-type", "application/json".to_owned())];
    ErrorReply { status, body: error.body(dialect, status, request_id), headers }
}

/// True if a text could give an upstream's place away: a URL, an address, a host with its port, a stack trace.
fn names_host(text: &str) -> bool {
    let words = text.split(|letter: char| letter.is_whitespace() || "'\"()[],;=<>`".contains(letter));
    text.contains("://") || text.contains("Traceback") || words.into_iter().any(is_host)
}

fn is_host(word: &str) -> bool {
    let word = word.trim_end_matches(['.', ':']);
    if word.parse::<std::net::IpAddr>().is_ok() || word.parse::<std::net::SocketAddr>().is_ok() {
        return true;
    }
    let (name, port) = word.rsplit_once(':').unwrap_or((word, ""));
    let ported =
        !port.is_empty() && port.parse::<u16>().is_ok() && name.contains(|letter: char| letter.is_alphabetic());
    let inside = [".svc", ".local", ".internal", ".cluster", ".lan"].iter().any(|suffix| name.contains(suffix));
    ported || inside || name == "localhost"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limit::Denial;
    use crate::domain::units::Micros;

    fn body(reply: &ErrorReply) -> Value {
        serde_json::from_slice(&reply.body).unwrap()
    }

    fn header<'a>(reply: &'a ErrorReply, name: &str) -> Option<&'a str> {
        reply.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    fn denial(dimension: Dimension, retry_after: Option<Micros>) -> Refusal {
        Refusal::Limited(Denial {
            dimension,
            rule: "p.x".into(),
            scope: "key",
            retry_after,
            standings: vec![],
            figures: vec![],
        })
    }

    #[test]
    fn the_table_of_refusals_holds() {
        let wait = Micros(1_200_000);
        for (refusal, status, kind, code, claude) in [
            (Refusal::InvalidApiKey, 401, "invalid_request_error", "invalid_api_key", (401, "authentication_error")),
            (
                Refusal::ModelNotFound { model: "m".into() },
                404,
                "invalid_request_error",
                "model_not_found",
                (404, "not_found_error"),
            ),
            (Refusal::LengthRequired, 411, "invalid_request_error", "length_required", (411, "invalid_request_error")),
            (
                Refusal::RequestTooLarge { limit: 1 },
                413,
                "invalid_request_error",
                "request_too_large",
                (413, "request_too_large"),
            ),
            (Refusal::Overloaded { retry_after: wait }, 503, "server_error", "overloaded", (529, "overloaded_error")),
            (Refusal::UpstreamError, 502, "server_error", "upstream_error", (502, "api_error")),
            (Refusal::UpstreamTimeout, 504, "server_error", "upstream_timeout", (504, "timeout_error")),
            (Refusal::Internal, 500, "server_error", "internal_error", (500, "api_error")),
        ] {
            let reply = render(&refusal, Dialect::OpenAi, "r");
            let error = &body(&reply)["error"];
            assert_eq!(
                (reply.status, &error["type"], &error["code"]),
                (status, &kind.into(), &code.into()),
                "{refusal:?}"
            );
            assert_eq!(error.as_object().map(|members| members.len()), Some(4), "all four keys, always: {refusal:?}");
            assert!(is_valid_error(Dialect::OpenAi, &reply.body), "{refusal:?}");
            let reply = render(&refusal, Dialect::Anthropic, "r");
            let value = body(&reply);
            assert_eq!((reply.status, value["error"]["type"].as_str()), (claude.0, Some(claude.1)), "{refusal:?}");
            assert_eq!(value["request_id"], "r", "{refusal:?}");
            assert!(is_valid_error(Dialect::Anthropic, &reply.body), "{refusal:?}");
        }
    }

    #[test]
    fn each_kind_of_limit_has_its_type_and_code() {
        for (dimension, kind, code) in [
            (Dimension::Requests, "requests", "rate_limit_exceeded"),
            (Dimension::Tokens, "tokens", "rate_limit_exceeded"),
            (Dimension::InputTokens, "tokens", "rate_limit_exceeded"),
            (Dimension::OutputTokens, "tokens", "rate_limit_exceeded"),
            (Dimension::Concurrency, "requests", "concurrency_limit_exceeded"),
            (Dimension::Spend, "insufficient_quota", "insufficient_quota"),
        ] {
            let refusal = denial(dimension, Some(Micros(1_200_000)));
            let reply = render(&refusal, Dialect::OpenAi, "r");
            let error = &body(&reply)["error"];
            assert_eq!(
                (reply.status, &error["type"], &error["code"]),
                (429, &kind.into(), &code.into()),
                "{dimension:?}"
            );
            assert!(is_valid_error(Dialect::OpenAi, &reply.body), "{dimension:?}");
            let reply = render(&refusal, Dialect::Anthropic, "r");
            let told = (reply.status, body(&reply)["error"]["type"].clone());
            assert_eq!(told, (429, "rate_limit_error".into()), "{dimension:?}");
            assert!(is_valid_error(Dialect::Anthropic, &reply.body), "{dimension:?}");
        }
    }

    #[test]
    fn headers_say_when_and_why() {
        let reply = render(&denial(Dimension::Tokens, Some(Micros(1_200_001))), Dialect::OpenAi, "r");
        assert_eq!(header(&reply, "retry-after"), Some("2"), "whole seconds, rounded up");
        assert_eq!(header(&reply, "retry-after-ms"), Some("1201"), "milliseconds, rounded up");
        assert_eq!(
            (header(&reply, "x-limit-rule"), header(&reply, "x-limit-scope")),
            (Some("p.x"), Some("key")),
            "why"
        );
        let never = render(&denial(Dimension::Tokens, None), Dialect::OpenAi, "r");
        assert_eq!((header(&never, "x-should-retry"), header(&never, "retry-after")), (Some("false"), None), "never");
        assert_eq!(
            header(&render(&Refusal::InvalidApiKey, Dialect::OpenAi, "r"), "www-authenticate"),
            Some("Bearer"),
            "401"
        );
        let secret = Refusal::DependencyUnavailable { what: "spool at /x", retry_after: Micros(1) };
        assert!(!String::from_utf8_lossy(&render(&secret, Dialect::OpenAi, "r").body).contains("spool"), "not told");
    }

    #[test]
    fn a_stream_ends_with_its_dialects_error() {
        for (kind, start) in [
            (StreamKind::Chat, "data: {\"error\":{"),
            (StreamKind::Responses, "event: response.failed\ndata: {"),
            (StreamKind::Anthropic, "event: error\ndata: {"),
        ] {
            let event = stream_error(kind, "upstream_stream_interrupted", "line\nbreak", "r");
            let event = std::str::from_utf8(&event).unwrap();
            assert!(event.starts_with(start) && event.ends_with("}\n\n"), "{event}");
            assert_eq!(event.matches('\n').count(), start.matches('\n').count() + 2, "one event: {event}");
        }
    }

    #[test]
    fn a_stream_that_a_budget_ends_says_so_in_its_dialect() {
        for (kind, words) in [
            (StreamKind::Chat, "\"type\":\"insufficient_quota\""),
            (StreamKind::Chat, "\"code\":\"insufficient_quota\""),
            (StreamKind::Responses, "\"code\":\"insufficient_quota\""),
            (StreamKind::Anthropic, "\"type\":\"rate_limit_error\""),
        ] {
            let event = stream_error(kind, "insufficient_quota", "spent", "r");
            let event = std::str::from_utf8(&event).unwrap();
            assert!(event.contains(words), "{words} in {event}");
        }
    }

    #[test]
    fn only_errors_of_the_clients_dialect_pass_verbatim() {
        let good = br#"{"error":{"message":"m","type":"t","param":null,"code":"c"}}"#;
        assert!(is_valid_error(Dialect::OpenAi, good), "all four");
        assert!(!is_valid_error(Dialect::Anthropic, good), "not Anthropic's");
        for bad in [
            &b"<html>"[..],
            b"{}",
            br#"{"error":"x"}"#,
            br#"{"error":{"message":"m","type":"t","param":null,"code":400}}"#,
        ] {
            assert!(!is_valid_error(Dialect::OpenAi, bad), "{bad:?}");
        }
    }

    #[test]
    fn a_wrapped_error_names_no_upstream_host() {
        let plain = wrap_upstream(Dialect::OpenAi, 400, br#"{"object":"error","message":"too long: 9"}"#, "r");
        assert_eq!(body(&plain)["error"]["message"], "too long: 9", "the message helps");
        for text in ["connect to 10.0.0.7:8000", "http://gpu/", "gpu-7:8000 refused", "no vllm.ml.svc", "at 10.0.0.7."]
        {
            let wrapped = wrap_upstream(Dialect::OpenAi, 400, json!({ "message": text }).to_string().as_bytes(), "r");
            assert_eq!(body(&wrapped)["error"]["message"], "The model server answered with status 400.", "{text}");
            assert!(is_valid_error(Dialect::OpenAi, &wrapped.body), "{text}");
        }
        assert_eq!(wrap_upstream(Dialect::Anthropic, 503, b"", "r").status, 529, "Anthropic's overload");
    }
}
