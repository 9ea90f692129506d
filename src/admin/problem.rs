//! Why the admin API says no, and how that reads: OpenAI's error shape (semantics.md §1) with a `param` that names the
//! member at fault as a JSON pointer. Decides statuses and codes; who may do what is decided by the handlers.

use crate::domain::fault::RETRY_SOON;
use crate::domain::refusal::Refusal;
use crate::domain::surface::Dialect;
use crate::logic::wire::error_body::{self, ErrorReply};
use serde_json::json;

/// Letters of a caller's own text that are told back.
const MAX_ECHO: usize = 64;

/// A no of the admin API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// One of the refusals that every surface knows: credentials, body size, our own faults.
    Refused(Refusal),
    /// 404: it does not exist, or it is another tenant's, which must look the same.
    NotFound(&'static str),
    /// 404 of what may be elsewhere: what is known here, and what helps.
    Unknown(String),
    /// 405: the path is known, the method is not.
    MethodNotAllowed {
        /// The value of `Allow`.
        allow: String,
    },
    /// 403: who calls is known, and the admin API cannot let them, for a reason that they may know.
    Forbidden(String),
    /// 409: what is there does not go with what is asked.
    Conflict {
        /// The stable code.
        code: &'static str,
        /// What, and what helps.
        message: String,
    },
    /// 415: the body is not what the `Content-Type` of this API says.
    MediaType,
    /// 400 or 422: the request is at fault.
    Invalid {
        /// 400: the request cannot be read; 422: it can, and its content is wrong.
        status: u16,
        /// The stable code.
        code: &'static str,
        /// What is wrong, and what would be right.
        message: String,
        /// Which part: a JSON pointer into the body, or the name of a parameter.
        param: Option<String>,
    },
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Problem {
    /// A member of the body that is readable and wrong.
    #[must_use]
    pub fn member(pointer: &str, message: impl Into<String>) -> Self {
        let param = Some(pointer.to_owned());
        Self::Invalid { status: 422, code: "invalid_parameter", message: message.into(), param }
    }

    /// A parameter of the path, the query or the head that is wrong.
    #[must_use]
    pub fn parameter(name: &str, message: impl Into<String>) -> Self {
        let param = Some(name.chars().take(MAX_ECHO).collect());
        Self::Invalid { status: 400, code: "invalid_parameter", message: message.into(), param }
    }

    /// A store that does not answer. `what` is for the log only.
    #[must_use]
    pub fn unavailable(what: &'static str) -> Self {
        Self::Refused(Refusal::DependencyUnavailable { what, retry_after: RETRY_SOON })
    }

    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::Refused(refusal) => refusal.status(),
            Self::NotFound(_) | Self::Unknown(_) => 404,
            Self::MethodNotAllowed { .. } => 405,
            Self::Forbidden(_) => 403,
            Self::Conflict { .. } => 409,
            Self::MediaType => 415,
            Self::Invalid { status, .. } => *status,
        }
    }

    /// The whole answer but for `x-request-id`.
    #[must_use]
    pub fn render(&self, request_id: &str) -> ErrorReply {
        let (code, kind, message, param) = match self {
            Self::Refused(refusal) => return error_body::render(refusal, Dialect::OpenAi, request_id),
            Self::NotFound(what) => {
                ("not_found", "invalid_request_error", format!("There is no such {what} here."), None)
            }
            Self::Unknown(message) => ("not_found", "invalid_request_error", message.clone(), None),
            Self::MethodNotAllowed { allow } => {
                ("method_not_allowed", "invalid_request_error", format!("This path knows: {allow}."), None)
            }
            Self::Forbidden(message) => ("insufficient_permissions", "permission_error", message.clone(), None),
            Self::Conflict { code, message } => (*code, "invalid_request_error", message.clone(), None),
            Self::MediaType => (
                "unsupported_media_type",
                "invalid_request_error",
                "Send the body as `Content-Type: application/json`.".to_owned(),
                None,
            ),
            Self::Invalid { code, message, param, .. } => {
                (*code, "invalid_request_error", message.clone(), param.as_deref())
            }
        };
        let body = json!({"error": {"message": message, "type": kind, "param": param, "code": code}});
        let mut headers = vec![("content-type", "application/json".to_owned())];
        if let Self::MethodNotAllowed { allow } = self {
            headers.push(("allow", allow.clone()));
        }
        ErrorReply { status: self.status(), body: body.to_string().into(), headers }
    }
}
