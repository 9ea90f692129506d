//! Faults on demand: what a request's `x-sim-fault` header or `POST /sim/faults` asks for, and whether it strikes now.
//! How a fault is carried out is up to `routes`, `flow` and `socket`.

use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

/// Request header that asks for faults.
pub const FAULT_HEADER: &str = "x-sim-fault";
/// Keys of `once=` that are remembered; the oldest is forgotten first.
const ONCE_KEYS: usize = 65_536;

/// What `weir sim --help` says about faults.
pub const FAULTS_HELP: &str = "\
Faults. For one request by the header
  x-sim-fault: KIND[=VALUE][; KIND[=VALUE]...]
and for every request of one engine by POST /sim/faults with
  {\"fault\":\"KIND[=VALUE]\",\"times\":N}
(without `times` until {\"fault\":null}). A header wins over the engine's fault. `once=KEY`
among the kinds: only the first request with that KEY at any engine of this process is
struck, so that a retry elsewhere succeeds.

  before the answer
    error=STATUS         that status with an error body (429, 503 with Retry-After: 1)
    reset                TCP reset before any byte
    eof                  the connection is closed before any byte
    stall=MS             nothing for so long, then the answer
    info, early_100      an interim 103 (100) head before the answer's own
    unhealthy            only by POST: GET /health gives 503, models answer as ever
  within a stream, after N content events (the preamble, such as the role chunk or
  message_start, does not count; 0: right after it)
    reset_after=N        TCP reset
    eof_after=N          a clean end of the body without [DONE]
    cut_after=N          the connection is closed in the middle of the next event
    error_event_after=N  an error event inside the 200
    error_event          the same before anything else
    stall_after=N        silence until the client goes
    delay=MS             a pause before each content event
    no_usage             neither usage chunk nor usage members
    no_done              no [DONE], message_stop or response.completed
  form of the body
    chunk=BYTES          cut into pieces of so many bytes, each a TCP write of its own
    content_length       the event stream with Content-Length, sent when complete
    crlf                 lines end with CR LF
A JSON answer under reset_after, eof_after, cut_after or stall_after ends in the middle of
its body.

Also there: GET /sim/requests (counts per path, aborts, the last request with headers and
body), GET /metrics with vLLM's names, and the ORCA header for requests with
`endpoint-load-metrics-format: TEXT|JSON`.";

/// What ends a stream before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Break {
    Reset,
    Eof,
    Cut,
    Error,
    Stall,
}

/// What comes before the answer instead of, or ahead of, its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Opening {
    Reset,
    Eof,
    Status(u16),
    /// The stream's first event is an error.
    ErrorEvent,
}

/// Everything that goes wrong with one answer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Faults {
    pub(super) opening: Option<Opening>,
    pub(super) breaks: Option<(Break, u64)>,
    pub(super) stall: Option<Duration>,
    pub(super) delay: Option<Duration>,
    pub(super) piece: Option<usize>,
    /// Status of an interim head.
    pub(super) interim: Option<u16>,
    pub(super) no_usage: bool,
    pub(super) no_done: bool,
    pub(super) content_length: bool,
    pub(super) crlf: bool,
    pub(super) unhealthy: bool,
    once: Option<String>,
}

/// Why a fault text was not understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum FaultError {
    #[error("unknown fault `{0}`; see `weir sim --help`")]
    Unknown(String),
    #[error("fault `{0}` needs a number after `=`")]
    NeedsNumber(String),
    #[error("fault `once` needs a key after `=`")]
    NeedsKey,
}

impl Faults {
    /// Reads `KIND[=VALUE][; KIND[=VALUE]…]`.
    pub(super) fn parse(text: &str) -> Result<Self, FaultError> {
        let mut faults = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (kind, value) = part.split_once('=').map_or((part, None), |(kind, value)| (kind, Some(value.trim())));
            let number = || value.and_then(|v| v.parse::<u64>().ok()).ok_or(FaultError::NeedsNumber(kind.to_owned()));
            match kind.trim() {
                "error" => {
                    let status = u16::try_from(number()?).ok().filter(|status| (400..600).contains(status));
                    faults.opening = Some(Opening::Status(status.ok_or(FaultError::NeedsNumber(kind.to_owned()))?));
                }
                "reset" => faults.opening = Some(Opening::Reset),
                "eof" => faults.opening = Some(Opening::Eof),
                "error_event" => faults.opening = Some(Opening::ErrorEvent),
                "reset_after" => faults.breaks = Some((Break::Reset, number()?)),
                "eof_after" => faults.breaks = Some((Break::Eof, number()?)),
                "cut_after" => faults.breaks = Some((Break::Cut, number()?)),
                "error_event_after" => faults.breaks = Some((Break::Error, number()?)),
                "stall_after" => faults.breaks = Some((Break::Stall, number()?)),
                "stall" => faults.stall = Some(Duration::from_millis(number()?)),
                "delay" => faults.delay = Some(Duration::from_millis(number()?)),
                "chunk" => faults.piece = Some(usize::try_from(number()?).unwrap_or(usize::MAX).max(1)),
                "info" => faults.interim = Some(103),
                "early_100" => faults.interim = Some(100),
                "no_usage" => faults.no_usage = true,
                "no_done" => faults.no_done = true,
                "content_length" => faults.content_length = true,
                "crlf" => faults.crlf = true,
                "unhealthy" => faults.unhealthy = true,
                "once" => {
                    faults.once = Some(value.filter(|key| !key.is_empty()).ok_or(FaultError::NeedsKey)?.to_owned())
                }
                other => return Err(FaultError::Unknown(other.to_owned())),
            }
        }
        Ok(faults)
    }

    /// These faults if they strike now, else none.
    fn strike(self) -> Self {
        match &self.once {
            Some(key) if !STRUCK.lock().first(key) => Self::default(),
            _ => self,
        }
    }
}

/// Keys of `once=` over all engines of the process.
static STRUCK: LazyLock<Mutex<Struck>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Struck {
    keys: HashSet<String>,
    order: VecDeque<String>,
}

impl Struck {
    fn first(&mut self, key: &str) -> bool {
        if !self.keys.insert(key.to_owned()) {
            return false;
        }
        self.order.push_back(key.to_owned());
        if self.order.len() > ONCE_KEYS
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        true
    }
}

/// The fault of a whole engine and how often it still strikes.
#[derive(Default, Debug)]
pub(super) struct Standing(Mutex<Option<(Faults, Option<u64>)>>);

impl Standing {
    /// Sets the engine's fault (`times` of `None`: for ever) or clears it.
    pub(super) fn set(&self, faults: Option<Faults>, times: Option<u64>) {
        *self.0.lock() = faults.map(|faults| (faults, times));
    }

    /// True while `/health` is to fail.
    pub(super) fn unhealthy(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|(faults, _)| faults.unhealthy)
    }

    /// The faults of a model request, given its header.
    pub(super) fn of_request(&self, header: Option<&str>) -> Result<Faults, FaultError> {
        if let Some(text) = header {
            return Ok(Faults::parse(text)?.strike());
        }
        let mut standing = self.0.lock();
        let Some((faults, times)) = standing.as_mut() else { return Ok(Faults::default()) };
        let faults = faults.clone();
        if let Some(times) = times {
            *times = times.saturating_sub(1);
            if *times == 0 {
                *standing = None;
            }
        }
        Ok(faults.strike())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_combine() {
        let faults = Faults::parse("reset_after=3; chunk=7; crlf").expect("known kinds");
        assert_eq!((faults.breaks, faults.piece, faults.crlf), (Some((Break::Reset, 3)), Some(7), true), "all three");
    }

    #[test]
    fn unknown_kinds_and_missing_numbers_are_errors() {
        assert_eq!(Faults::parse("explode"), Err(FaultError::Unknown("explode".into())), "unknown");
        assert_eq!(Faults::parse("reset_after"), Err(FaultError::NeedsNumber("reset_after".into())), "no number");
        assert_eq!(Faults::parse("reset; once"), Err(FaultError::NeedsKey), "no key");
        assert_eq!(Faults::parse("error=200"), Err(FaultError::NeedsNumber("error".into())), "not an error status");
    }

    #[test]
    fn once_strikes_the_first_request_of_a_key_at_any_engine() {
        let (one, two) = (Standing::default(), Standing::default());
        let header = Some("reset; once=faults-unit-test");
        assert_eq!(one.of_request(header).map(|f| f.opening), Ok(Some(Opening::Reset)), "the first one");
        assert_eq!(two.of_request(header).map(|f| f.opening), Ok(None), "not the second, though the engine is new");
    }

    #[test]
    fn an_engines_fault_strikes_as_often_as_asked() {
        let standing = Standing::default();
        standing.set(Some(Faults::parse("eof").expect("known")), Some(2));
        let struck = (0..3).filter(|_| standing.of_request(None).is_ok_and(|f| f.opening.is_some())).count();
        assert_eq!(struck, 2, "twice, then never again");
    }
}
