//! The API surfaces that callers speak, and the dialect of errors that goes with each.

/// What kind of API a request's path belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Surface {
    /// `POST /v1/chat/completions`
    OpenAiChat,
    /// `POST /v1/completions`
    OpenAiCompletions,
    /// `POST /v1/responses`
    OpenAiResponses,
    /// `POST /v1/embeddings`
    OpenAiEmbeddings,
    /// `POST /v1/messages`
    AnthropicMessages,
    /// `GET /v1/models` and `/v1/models/{model}`, answered by Weir
    Models,
    /// `GET /v1/me` and `/v1/me/usage`, answered by Weir
    Me,
    /// Anything else that a route matches: forwarded as it came
    Http,
}

/// In which shape an error is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// `{"error":{message,type,param,code}}`
    OpenAi,
    /// `{"type":"error","error":{type,message},"request_id"}`
    Anthropic,
}

impl Surface {
    /// The surface that a request line names. A known path with a method that it does not have is plain HTTP.
    #[must_use]
    pub fn of(method: &str, path: &str) -> Self {
        match (method, path) {
            ("POST", "/v1/chat/completions") => Self::OpenAiChat,
            ("POST", "/v1/completions") => Self::OpenAiCompletions,
            ("POST", "/v1/responses") => Self::OpenAiResponses,
            ("POST", "/v1/embeddings") => Self::OpenAiEmbeddings,
            ("POST", "/v1/messages") => Self::AnthropicMessages,
            ("GET", "/v1/models") => Self::Models,
            ("GET", "/v1/me" | "/v1/me/usage") => Self::Me,
            ("GET", path) if path.starts_with("/v1/models/") => Self::Models,
            _ => Self::Http,
        }
    }

    /// The shape of errors on this path, whatever the method.
    #[must_use]
    pub fn dialect_of(path: &str) -> Dialect {
        if path == "/v1/messages" || path.starts_with("/v1/messages/") { Dialect::Anthropic } else { Dialect::OpenAi }
    }

    /// True on paths where a key may be in the query, `?key=` (semantics.md §4: Gemini's clients send it there).
    #[must_use]
    pub fn takes_key_in_query(path: &str) -> bool {
        path.starts_with("/v1beta/models/")
    }

    /// The name in the usage record (semantics.md §5).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai.chat",
            Self::OpenAiCompletions => "openai.completions",
            Self::OpenAiResponses => "openai.responses",
            Self::OpenAiEmbeddings => "openai.embeddings",
            Self::AnthropicMessages => "anthropic.messages",
            Self::Models => "openai.models",
            Self::Me => "weir.me",
            Self::Http => "http",
        }
    }

    /// True where the body is a model call that Weir reads, meters and routes by content.
    #[must_use]
    pub fn is_llm(self) -> bool {
        !matches!(self, Self::Models | Self::Me | Self::Http)
    }

    /// `gen_ai.operation.name` of the OpenTelemetry GenAI conventions.
    #[must_use]
    pub fn operation(self) -> &'static str {
        match self {
            Self::OpenAiCompletions => "text_completion",
            Self::OpenAiEmbeddings => "embeddings",
            Self::Http | Self::Models | Self::Me => "http",
            _ => "chat",
        }
    }
}
