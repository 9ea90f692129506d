//! L3: what one admitted request carries from debit to settle, shared by the edge's callbacks and its connector.
//!
//! One short lock guards what changes; it is taken once per upstream piece and never held across an await.

use crate::config::snapshot::Route;
use crate::domain::call::Call;
use crate::domain::fault::Fault;
use crate::domain::money::TokenPrices;
use crate::domain::principal::Principal;
use crate::domain::record::Attempt;
use crate::domain::units::{Micros, WallMicros};
use crate::logic::routing::book::Booking;
use crate::logic::usage::json_meter::JsonMeter;
use crate::logic::usage::stream_meter::StreamMeter;
use crate::logic::usage::tally::Tally;
use crate::ports::{Reservation, Ticket};
use crate::runtime::{Inside, LivePool, Runtime, Share};
use crate::stages::accept::Facts;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// One admitted request.
pub struct Exchange {
    /// The configuration and services that it runs under.
    pub runtime: Arc<Runtime>,
    /// What its head said.
    pub facts: Facts,
    /// Who calls.
    pub principal: Principal,
    /// The route that it takes.
    pub route: Arc<Route>,
    /// The pool that serves it.
    pub pool: Arc<LivePool>,
    /// The model call; `None` for plain HTTP.
    pub call: Option<Call>,
    /// The model's name upstream (empty for plain HTTP).
    pub model_routed: String,
    /// Prefix chain of the prompt.
    pub chain: Vec<u64>,
    /// What its model costs, as the caller named it; `None`: no price is known.
    pub prices: Option<TokenPrices>,
    /// The quota reservation; settled exactly once.
    pub reservation: Box<dyn Reservation>,
    /// When it was admitted.
    pub admitted: Micros,
    /// The same on the wall.
    pub admitted_wall: WallMicros,
    /// Time that Weir spent until admission, without the wait for the body.
    pub admission_cost: Micros,
    /// Its place in the pool.
    pub inside: Inside,
    /// The memory that its body takes.
    _share: Option<Share>,
    state: Mutex<State>,
}

/// What changes while a request runs.
pub struct State {
    /// Its slot; taken when the record is appended. `None` from the start where no record is due.
    pub ticket: Option<Ticket>,
    /// The attempt that runs.
    pub open: Option<OpenAttempt>,
    /// Attempts that ended.
    pub attempts: Vec<Attempt>,
    /// Backends that failed this request, with how.
    pub failed: Vec<(usize, Fault)>,
    /// The running attempt's meter.
    pub meter: Meter,
    /// Status of the last answer from upstream.
    pub upstream_status: Option<u16>,
    /// The last upstream answer that is passed on or wrapped when no attempt is left.
    pub last_error: Option<UpstreamError>,
    /// When the first byte of an answer was let through.
    pub first_byte: Option<WallMicros>,
    /// When the first output was seen.
    pub first_token: Option<(Micros, WallMicros)>,
    /// When the last output was seen.
    pub last_token: Option<Micros>,
    /// Bytes handed to the client.
    pub bytes_out: u64,
    /// Body bytes of a plain HTTP request, counted as they pass.
    pub bytes_in: u64,
    /// Time spent on choosing, all attempts together.
    pub dispatch_cost: Micros,
    /// Prefix blocks that the last chosen backend held, of how many.
    pub prefix: (u32, u32),
    /// The last chosen backend.
    pub backend: Option<usize>,
    /// The running attempt has been sent to its backend.
    pub sent: bool,
    /// When the limits were last told what a stream has used so far.
    pub accounted: Micros,
    /// The rule that a running stream has used up, where that ends it.
    pub overdrawn: Option<Arc<str>>,
    /// The last choice explained, for a caller who asked.
    pub explain: Option<String>,
    /// Settled; nothing more is owed.
    pub closed: bool,
}

impl State {
    /// The running count, if something is counted; of a document only once it has ended.
    #[must_use]
    pub fn tally(&self) -> Option<&Tally> {
        match &self.meter {
            Meter::Off | Meter::Json(_) => None,
            Meter::Stream(meter) => Some(meter.tally()),
            Meter::Counted(tally) => Some(tally),
        }
    }

    /// Ends a document: from here on its counts are known. Does nothing for streams.
    pub fn close_document(&mut self) {
        match std::mem::replace(&mut self.meter, Meter::Off) {
            Meter::Json(document) => self.meter = Meter::Counted(Box::new(document.finish())),
            other => self.meter = other,
        }
    }
}

/// An attempt that runs: its booking must be released.
pub struct OpenAttempt {
    /// The booking in the pool's ledger.
    pub booking: Booking,
    /// When the backend was chosen.
    pub started: WallMicros,
    /// The same on the monotonic clock.
    pub started_mono: Micros,
}

/// An error answer of an upstream, at most 16 KiB of it.
#[derive(Clone, Debug)]
pub struct UpstreamError {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: bytes::Bytes,
    /// Its `Retry-After`.
    pub retry_after: Option<String>,
}

/// How the running answer is counted.
pub enum Meter {
    /// Nothing to count yet, or plain HTTP.
    Off,
    /// An event stream.
    Stream(Box<StreamMeter>),
    /// One JSON document.
    Json(Box<JsonMeter>),
    /// A document that has ended.
    Counted(Box<Tally>),
}

/// A request that passed authentication, authorisation and routing.
pub struct Claim {
    /// What its head said.
    pub facts: Facts,
    /// Who calls.
    pub principal: Principal,
    /// Where it goes.
    pub route: Arc<Route>,
    /// Which pool.
    pub pool: Arc<LivePool>,
    /// The model call; `None` for plain HTTP.
    pub call: Option<Call>,
    /// The memory that its body takes.
    pub share: Option<Share>,
    /// Time that Weir spent on it so far, without waiting for the body.
    pub spent: Micros,
}

/// What an exchange starts with; the rest follows.
pub struct Opening {
    /// The configuration and services that it runs under.
    pub runtime: Arc<Runtime>,
    /// The request.
    pub claim: Claim,
    /// The model's name upstream.
    pub model_routed: String,
    /// Prefix chain of the prompt.
    pub chain: Vec<u64>,
    /// What its model costs.
    pub prices: Option<TokenPrices>,
    /// The quota reservation.
    pub reservation: Box<dyn Reservation>,
    /// Its place in the pool.
    pub inside: Inside,
    /// Its slot; `None` where no record is due.
    pub ticket: Option<Ticket>,
}

impl Exchange {
    /// Opens an exchange now.
    #[must_use]
    pub fn open(opening: Opening) -> Arc<Self> {
        let clock = &opening.runtime.services.clock;
        let (admitted, admitted_wall) = (clock.mono(), clock.wall());
        let claim = opening.claim;
        let bytes_in = claim.call.as_ref().map_or(0, |call| call.body.len() as u64);
        let state = State {
            ticket: opening.ticket,
            open: None,
            attempts: Vec::new(),
            failed: Vec::new(),
            meter: Meter::Off,
            upstream_status: None,
            last_error: None,
            first_byte: None,
            first_token: None,
            last_token: None,
            bytes_out: 0,
            bytes_in,
            dispatch_cost: Micros(0),
            prefix: (0, 0),
            backend: None,
            sent: false,
            accounted: admitted,
            overdrawn: None,
            explain: None,
            closed: false,
        };
        opening.runtime.services.observer.inflight(claim.pool.id(), 1);
        Arc::new(Self {
            runtime: opening.runtime,
            facts: claim.facts,
            principal: claim.principal,
            route: claim.route,
            pool: claim.pool,
            call: claim.call,
            model_routed: opening.model_routed,
            chain: opening.chain,
            prices: opening.prices,
            reservation: opening.reservation,
            admitted,
            admitted_wall,
            admission_cost: claim.spent,
            inside: opening.inside,
            _share: claim.share,
            state: Mutex::new(state),
        })
    }

    /// Takes the lock.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Now, on the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Micros {
        self.runtime.services.clock.mono()
    }

    /// True if the client asked for a stream.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.stream)
    }
}
