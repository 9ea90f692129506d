//! Runs one engine model in real time: one task moves its clock and wakes the streams. It knows no HTTP.
//!
//! A stream costs one counter here, not a queue: the engine counts tokens up, the stream writes what it has not yet
//! written. A slow reader therefore holds up nobody and nothing piles up.

use super::metrics::Meters;
use crate::domain::units::{Micros, Tokens};
use crate::sim::engine::{BlockHash, Engine, EngineEvent, EngineLimits, Job, SeqId};
use futures_util::task::AtomicWaker;
use rustc_hash::FxHashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Requests and cancellations on their way to the engine's task.
const COMMANDS: usize = 4_096;
/// From this speed on time is not waited for: timers are no finer than a millisecond.
pub const INSTANT_SPEED: f64 = 1_000.0;
/// Engine events that are computed before the streams get their turn, where time is not waited for.
const INSTANT_TURN: usize = 64;

/// One request inside the engine: what it has produced so far.
#[derive(Debug)]
pub(super) struct Line {
    first_id: u64,
    /// Tokens per choice.
    tokens: Box<[AtomicU64]>,
    cached: AtomicU64,
    open: AtomicU64,
    refused: AtomicBool,
    gone: AtomicBool,
    waker: AtomicWaker,
}

impl Line {
    /// Tokens that a choice has.
    pub(super) fn tokens(&self, choice: usize) -> u64 {
        self.tokens.get(choice).map_or(0, |tokens| tokens.load(Ordering::Acquire))
    }

    /// Prompt tokens from the prefix cache; known once there is a token.
    pub(super) fn cached(&self) -> Tokens {
        Tokens(self.cached.load(Ordering::Acquire))
    }

    /// True once the engine has nothing more to say.
    pub(super) fn ended(&self) -> bool {
        self.open.load(Ordering::Acquire) == 0
    }

    /// True if the engine would not take the job.
    pub(super) fn refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Waits until there are more than `seen` tokens over all choices, or the end. One task waits at a time.
    pub(super) async fn more_than(&self, seen: u64) {
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            let all: u64 = self.tokens.iter().map(|tokens| tokens.load(Ordering::Acquire)).sum();
            if all > seen || self.ended() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits for the end.
    pub(super) async fn all(&self) {
        self.more_than(u64::MAX).await;
    }

    fn id(&self, choice: usize) -> SeqId {
        SeqId(self.first_id + choice as u64)
    }
}

/// What a request wants from the engine.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) chain: Arc<[BlockHash]>,
    pub(super) input: Tokens,
    pub(super) output: Tokens,
    pub(super) choices: usize,
}

enum Command {
    Submit(Arc<Line>, Work),
    Cancel(Arc<Line>),
}

/// The way to an engine's task.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    commands: mpsc::Sender<Command>,
    next_id: Arc<AtomicU64>,
    limits: EngineLimits,
}

/// The engine's task is gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed;

impl Desk {
    pub(super) fn limits(&self) -> &EngineLimits {
        &self.limits
    }

    /// Hands work to the engine; dropping the result cancels what is not done.
    pub(super) async fn submit(&self, work: Work) -> Result<Call, Closed> {
        let choices = work.choices.max(1);
        let line = Arc::new(Line {
            first_id: self.next_id.fetch_add(choices as u64, Ordering::Relaxed),
            tokens: (0..choices).map(|_| AtomicU64::new(0)).collect(),
            cached: AtomicU64::new(0),
            open: AtomicU64::new(choices as u64),
            refused: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        self.commands.send(Command::Submit(Arc::clone(&line), work)).await.map_err(|_| Closed)?;
        Ok(Call { line, commands: self.commands.clone() })
    }
}

/// Owns a request's place in the engine.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) line: Arc<Line>,
    commands: mpsc::Sender<Command>,
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.line.ended() {
            return;
        }
        // If the queue is full or closed the mark is enough: the engine sees it at the request's next token.
        self.line.gone.store(true, Ordering::Release);
        drop(self.commands.try_send(Command::Cancel(Arc::clone(&self.line))));
    }
}

/// Starts an engine; the future runs it until the last [`Desk`] is gone.
pub(super) fn open(limits: EngineLimits, speed: f64, meters: Arc<Meters>) -> (Desk, impl Future<Output = ()> + Send) {
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let desk = Desk { commands, next_id: Arc::default(), limits };
    let driver = Driver {
        engine: Engine::new(limits),
        clock: Clock { started: Instant::now(), speed, jumped: Micros(0) },
        lines: FxHashMap::default(),
        events: Vec::new(),
        meters,
    };
    (desk, driver.run(inbox))
}

/// Virtual time of one engine.
struct Clock {
    started: Instant,
    speed: f64,
    /// Where time stands if it is not waited for.
    jumped: Micros,
}

impl Clock {
    fn instant(&self) -> bool {
        self.speed >= INSTANT_SPEED
    }

    fn now(&self) -> Micros {
        if self.instant() {
            return self.jumped;
        }
        Micros((self.started.elapsed().as_secs_f64() * 1e6 * self.speed) as u64)
    }

    fn real(&self, at: Micros) -> Instant {
        self.started + Duration::from_secs_f64(at.secs() / self.speed)
    }
}

struct Entry {
    line: Arc<Line>,
    choice: usize,
    since: Micros,
}

struct Driver {
    engine: Engine,
    clock: Clock,
    /// Bounded by what was submitted and is not done, that is by the server's connections.
    lines: FxHashMap<SeqId, Entry>,
    events: Vec<EngineEvent>,
    meters: Arc<Meters>,
}

impl Driver {
    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        loop {
            while let Ok(command) = inbox.try_recv() {
                self.obey(command);
            }
            let next = self.turn();
            let command = match next {
                None => inbox.recv().await,
                Some(_) if self.clock.instant() => {
                    tokio::task::yield_now().await;
                    if inbox.is_closed() && inbox.is_empty() {
                        return;
                    }
                    continue;
                }
                Some(at) => {
                    tokio::select! {
                        biased;
                        command = inbox.recv() => command,
                        () = tokio::time::sleep_until(self.clock.real(at)) => continue,
                    }
                }
            };
            let Some(command) = command else { return };
            self.obey(command);
        }
    }

    fn obey(&mut self, command: Command) {
        let now = self.clock.now();
        // What is due happens before what arrives now.
        self.engine.advance(now, &mut self.events);
        self.deliver();
        match command {
            Command::Cancel(line) => self.forget(&line),
            Command::Submit(line, work) => self.submit(line, &work, now),
        }
    }

    fn submit(&mut self, line: Arc<Line>, work: &Work, now: Micros) {
        for choice in 0..line.tokens.len() {
            let id = line.id(choice);
            let job = Job { id, chain: Arc::clone(&work.chain), input: work.input, output: work.output };
            if let Err(error) = self.engine.submit(job, now) {
                tracing::warn!(%error, "the engine refused a request that the server had let through");
                line.refused.store(true, Ordering::Release);
                self.forget(&line);
                line.open.store(0, Ordering::Release);
                line.waker.wake();
                return;
            }
            self.lines.insert(id, Entry { line: Arc::clone(&line), choice, since: now });
        }
    }

    fn forget(&mut self, line: &Line) {
        for choice in 0..line.tokens.len() {
            self.engine.cancel(line.id(choice));
            self.lines.remove(&line.id(choice));
        }
    }

    /// Lets due time pass; returns when the next thing is due.
    fn turn(&mut self) -> Option<Micros> {
        if self.clock.instant() {
            for _ in 0..INSTANT_TURN {
                let Some(at) = self.engine.next_event_at() else { break };
                self.clock.jumped = self.clock.jumped.max(at);
                self.engine.advance(at, &mut self.events);
            }
        } else {
            self.engine.advance(self.clock.now(), &mut self.events);
        }
        self.deliver();
        self.meters.gauge(&self.engine.stats());
        self.engine.next_event_at()
    }

    fn deliver(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                EngineEvent::FirstToken { id, at, cached } => {
                    let Some(entry) = self.lines.get(&id) else { continue };
                    self.meters.first_token(at - entry.since);
                    entry.line.cached.store(cached.0, Ordering::Release);
                    self.token(id);
                }
                EngineEvent::Token { id, .. } => self.token(id),
                EngineEvent::Preempted { .. } => {}
                EngineEvent::Done { id, cached, .. } => {
                    let Some(entry) = self.lines.remove(&id) else { continue };
                    entry.line.cached.store(cached.0, Ordering::Release);
                    entry.line.open.fetch_sub(1, Ordering::AcqRel);
                    entry.line.waker.wake();
                }
            }
        }
        // The allocation is kept for the next turn.
        self.events = events;
    }

    fn token(&mut self, id: SeqId) {
        let Some(entry) = self.lines.get(&id) else { return };
        if entry.line.gone.load(Ordering::Acquire) {
            let line = Arc::clone(&entry.line);
            self.forget(&line);
            return;
        }
        entry.line.tokens[entry.choice].fetch_add(1, Ordering::AcqRel);
        entry.line.waker.wake();
    }
}
