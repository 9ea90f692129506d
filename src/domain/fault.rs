//! A break: what went wrong between Weir and a backend, and which side answers for it.

use super::refusal::Refusal;
use super::units::Micros;

/// Why an attempt at a backend failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// No connection (TCP or TLS).
    Connect,
    /// The connection broke before the end.
    Reset,
    /// The answer ended before any output, or before its terminal event.
    Eof,
    /// No output in time.
    FirstByte,
    /// Silence in the middle of an answer.
    Idle,
    /// The whole request took too long.
    Total,
    /// A status that the pool's policy retries.
    Status(u16),
    /// 401 or 403: our own credential is wrong.
    Auth(u16),
    /// An error event inside a 200.
    ErrorEvent,
    /// An answer that breaks HTTP or its own framing.
    Malformed,
    /// Weir is going down and the drain deadline has passed.
    Shutdown,
    /// The caller's key was revoked together with its streams.
    Revoked,
    /// A budget of the caller was used up while the stream ran, and its rule ends streams.
    BudgetExceeded,
}

impl Fault {
    /// The word in `attempts[].outcome`.
    #[must_use]
    pub fn outcome(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Eof => "eof",
            Self::FirstByte => "first_byte_timeout",
            Self::Idle => "idle_timeout",
            Self::Total => "total_timeout",
            Self::Status(_) => "status",
            Self::Auth(_) => "auth",
            Self::ErrorEvent => "error_event",
            Self::Malformed => "malformed",
            Self::Shutdown => "shutdown",
            Self::Revoked => "revoked",
            Self::BudgetExceeded => "budget_exceeded",
        }
    }

    /// The fault that [`Fault::outcome`] names; `code` is the status where it has one.
    #[must_use]
    pub fn from_outcome(outcome: &str, code: u16) -> Option<Self> {
        let all = [
            Self::Connect,
            Self::Reset,
            Self::Eof,
            Self::FirstByte,
            Self::Idle,
            Self::Total,
            Self::Status(code),
            Self::Auth(code),
            Self::ErrorEvent,
            Self::Malformed,
            Self::Shutdown,
            Self::Revoked,
            Self::BudgetExceeded,
        ];
        all.into_iter().find(|fault| fault.outcome() == outcome)
    }

    /// True where our own clock ended it.
    #[must_use]
    pub fn is_timeout(self) -> bool {
        matches!(self, Self::FirstByte | Self::Idle | Self::Total)
    }

    /// What the caller is told when no further attempt is made and nothing was sent yet.
    #[must_use]
    pub fn refusal(self) -> Refusal {
        match self {
            Self::Auth(_) => Refusal::UpstreamAuthError,
            Self::FirstByte | Self::Idle | Self::Total => Refusal::UpstreamTimeout,
            Self::Shutdown => Refusal::ShuttingDown,
            Self::Revoked => Refusal::InvalidApiKey,
            // Only streams that have begun are ended so.
            Self::BudgetExceeded => Refusal::Internal,
            _ => Refusal::UpstreamError,
        }
    }

    /// The code of the error event that ends a stream after the commit point (semantics.md §7).
    #[must_use]
    pub fn stream_code(self) -> &'static str {
        match self {
            Self::FirstByte | Self::Idle | Self::Total => "upstream_timeout",
            Self::Shutdown => "server_shutdown",
            Self::Revoked => "key_revoked",
            Self::BudgetExceeded => "insufficient_quota",
            _ => "upstream_stream_interrupted",
        }
    }
}

/// How long a caller is told to wait where Weir cannot know better.
pub const RETRY_SOON: Micros = Micros(1_000_000);
