//! Replicas with one ledger, whatever happens to them: books, leases and the ledger together.

use super::book::{Book, Flight, Home};
use super::decide::{Books, Claim, Stop};
use super::lease::Link;
use super::ledger::{Call, Correction, Kind, Ledger, Reply, Statement};
use super::period::Moment;
use super::plan::{AskLine, LimitRule, QuotaAsk};
use crate::domain::limit::{Dimension, Priority, QuotaUse, Scope, Window};
use crate::domain::units::{Micros, Tokens, WallMicros};
use proptest::prelude::*;
use std::sync::Arc;

const TTL: Micros = Micros(60_000_000);
const TTL_MS: i64 = 60_000;
/// Midnight in UTC, in milliseconds.
const MIDNIGHT: i64 = 1_795_046_400_000;
/// Every so many milliseconds replicas look what would expire.
const LOOK_MS: u64 = 5_000;
const REPLICAS: usize = 3;
/// Rules: tokens a day, requests a minute, requests at once.
const DAY: &str = "tenant|gold.day";
const MINUTE: &str = "tenant|gold.minute";
const PLACES: &str = "tenant|gold.places";

/// What may happen.
#[derive(Clone, Debug)]
enum Act {
    /// A request comes; it waits for the answer of the ledger, or goes on without.
    Reserve {
        who: usize,
        input: u64,
        output: u64,
        waits: bool,
    },
    Progress {
        nth: usize,
        share: u64,
    },
    Settle {
        nth: usize,
        share: u64,
    },
    Release {
        nth: usize,
    },
    Send {
        who: usize,
    },
    Hear {
        who: usize,
        lost: bool,
    },
    Wait {
        ms: u64,
    },
    Die {
        who: usize,
    },
    Keep,
    RollBack,
}

/// One that is running.
struct Open {
    who: usize,
    claim: Claim,
    cost: u64,
    /// Committed so far.
    used: u64,
}

struct Replica {
    book: Book,
    flying: Option<(Flight, Vec<Reply>)>,
    alive: bool,
    /// What its rows will say.
    tokens: u64,
    requests: u64,
}

struct Fleet {
    ledger: Ledger,
    kept: Option<(Ledger, u64)>,
    replicas: Vec<Replica>,
    open: Vec<Open>,
    ms: u64,
    rules: [Arc<LimitRule>; 3],
    /// When requests were admitted.
    admitted: Vec<u64>,
    /// Requests that nobody told the ledger of before its replica died, or that it may have forgotten.
    untold: u64,
}

fn name(who: usize) -> &'static str {
    ["one", "two", "three"][who]
}

impl Fleet {
    fn new(tokens: u64, requests: u64, places: u64) -> Self {
        let day = LimitRule { strict: true, ..LimitRule::new("gold.day", Dimension::Tokens, tokens, Window::Day) };
        let minute = LimitRule::new("gold.minute", Dimension::Requests, requests, Window::Minute);
        let at_once = LimitRule::new("gold.places", Dimension::Concurrency, places, Window::Minute);
        let replica =
            || Replica { book: Book::new(Home::Ledger, TTL, false), flying: None, alive: true, tokens: 0, requests: 0 };
        Self {
            ledger: Ledger::default(),
            kept: None,
            replicas: (0..REPLICAS).map(|_| replica()).collect(),
            open: Vec::new(),
            ms: 0,
            rules: [day, minute, at_once].map(Arc::new),
            admitted: Vec::new(),
            untold: 0,
        }
    }

    fn at(&self) -> Moment {
        let wall = WallMicros(MIDNIGHT * 1_000 + self.ms as i64 * 1_000);
        Moment { mono: Micros(1_000_000_000 + self.ms * 1_000), wall }
    }

    fn ledger_ms(&self) -> i64 {
        MIDNIGHT + self.ms as i64
    }

    fn ask(&self, input: u64, output: u64) -> QuotaAsk {
        let scope = Scope::Tenant("acme".into());
        let lines = self.rules.iter().map(|rule| AskLine { scope: scope.clone(), rule: Arc::clone(rule) });
        QuotaAsk {
            tenant: "acme".into(),
            zone: jiff::tz::TimeZone::UTC,
            lines: lines.collect(),
            max_tokens_per_request: None,
            priority: Priority::Normal,
            prices: None,
            model: "m".into(),
            input_estimate: Some(Tokens(input)),
            max_output: Some(Tokens(output)),
        }
    }

    /// What replicas hold, by account: tokens and places.
    fn holds(&mut self, who: usize) -> (u64, u64) {
        let book = &mut self.replicas[who].book;
        let mut held = |account| book.named(account).map_or(0, |lease| lease.held());
        (held(DAY), held(PLACES))
    }

    /// True if the ledger must be asked, and is.
    fn reserve(&mut self, who: usize, input: u64, output: u64) -> Result<bool, TestCaseError> {
        let (at, ask) = (self.at(), self.ask(input, output));
        let before = self.holds(who);
        let replica = &mut self.replicas[who];
        let decided = Books { tenant: &mut replica.book, shared: None }.reserve(&ask, at, Link::Up);
        match decided {
            Ok(grant) => {
                replica.requests += 1;
                self.admitted.push(self.ms);
                self.open.push(Open { who, claim: grant.claim, cost: (input + output).max(1), used: 0 });
                Ok(false)
            }
            Err(stop) => {
                let asks = matches!(stop, Stop::Ask { .. });
                if asks {
                    self.send(who);
                }
                prop_assert_eq!(self.holds(who), before, "a rejection burns nothing");
                Ok(asks)
            }
        }
    }

    fn progress(&mut self, nth: usize, share: u64) {
        let at = self.at();
        let Some(open) = self.open.get_mut(nth) else { return };
        let used = open.used.max(open.cost * share / 100);
        let replica = &mut self.replicas[open.who];
        Books { tenant: &mut replica.book, shared: None }.progress(&mut open.claim, &use_of(used), at.mono);
        replica.tokens += used - open.used;
        open.used = used;
    }

    fn settle(&mut self, nth: usize, share: u64) {
        let at = self.at();
        if nth >= self.open.len() {
            return;
        }
        let mut open = self.open.swap_remove(nth);
        let used = open.cost * share / 100;
        let replica = &mut self.replicas[open.who];
        Books { tenant: &mut replica.book, shared: None }.settle(&mut open.claim, &use_of(used), at.mono);
        replica.tokens = replica.tokens + used - open.used;
    }

    fn release(&mut self, nth: usize) {
        let at = self.at();
        if nth < self.open.len() {
            let mut open = self.open.swap_remove(nth);
            let book = &mut self.replicas[open.who].book;
            Books { tenant: book, shared: None }.release(&mut open.claim, at.mono);
        }
    }

    /// A call leaves, and the ledger applies it; the answer is on its way.
    fn send(&mut self, who: usize) {
        let (at, ledger_ms) = (self.at(), self.ledger_ms());
        let replica = &mut self.replicas[who];
        if replica.flying.is_some() || !replica.alive {
            return;
        }
        let now = replica.book.now(at);
        let flight = replica.book.flight(&now);
        if flight.statements.is_empty() {
            return;
        }
        let call =
            Call { replica: name(who), ttl_ms: TTL_MS, replicas: REPLICAS as u64, statements: &flight.statements };
        let replies = self.ledger.state(&call, ledger_ms);
        replica.flying = Some((flight, replies));
    }

    fn hear(&mut self, who: usize, lost: bool) {
        let at = self.at();
        let replica = &mut self.replicas[who];
        let Some((flight, replies)) = replica.flying.take() else { return };
        if lost {
            let now = replica.book.now(at);
            replica.book.crash(&flight, &now);
        } else {
            replica.book.land(&flight, &replies, REPLICAS as u64, at);
        }
    }

    fn tell(&mut self, who: usize, age: Micros) {
        self.hear(who, false);
        let at = self.at();
        let book = &mut self.replicas[who].book;
        let now = book.now(at);
        book.refresh(&now, age);
        self.send(who);
        self.hear(who, false);
    }

    fn tell_all(&mut self, age: Micros) {
        for who in self.alive() {
            self.tell(who, age);
        }
    }

    fn alive(&self) -> Vec<usize> {
        (0..REPLICAS).filter(|who| self.replicas[*who].alive).collect()
    }

    fn wait(&mut self, ms: u64) {
        let end = self.ms + ms;
        while self.ms < end {
            self.ms = end.min(self.ms + LOOK_MS);
            // The rows of the dead are known before what they had out is given to others.
            let dead = (0..REPLICAS).filter(|who| !self.replicas[*who].alive);
            let rows: Vec<Correction> = dead.map(|who| self.row(who)).collect();
            self.ledger.correct(&rows, self.ledger_ms());
            self.tell_all(Micros(TTL.0 / 6));
        }
    }

    fn row(&self, who: usize) -> Correction {
        let (account, replica) = (Arc::from(DAY), Arc::from(name(who)));
        Correction { account, period: MIDNIGHT, starts: None, replica, total: self.replicas[who].tokens }
    }

    fn die(&mut self, who: usize) {
        if who == 0 || !self.replicas[who].alive {
            return;
        }
        // Rows may come at any time after the end, and what a rolled back ledger knows of the dead is another matter.
        self.kept = None;
        self.untold += self.replicas[who].requests;
        self.replicas[who].alive = false;
        self.replicas[who].flying = None;
        // What ran there has an end, and a row that says how much it has used.
        self.open.retain(|open| open.who != who);
    }

    fn roll_back(&mut self) {
        let Some((ledger, since)) = self.kept.clone() else { return };
        // What a failover loses is young.
        if self.ms - since > 20_000 {
            return;
        }
        self.ledger = ledger;
        // A bucket that was rolled back knows no more of whom it had not heard of before.
        self.untold += self.admitted.iter().filter(|at| **at >= since).count() as u64;
        for who in self.alive() {
            self.hear(who, true);
            let at = self.at();
            let book = &mut self.replicas[who].book;
            let now = book.now(at);
            // Who waits asks again when all have said what they have: what is granted before that may be as much too
            // much as was lost.
            let waits = book.flight(&now);
            book.crash(&waits, &now);
            book.restate(&now);
            self.send(who);
            self.hear(who, false);
        }
    }

    fn act(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Reserve { who, input, output, waits } if self.replicas[who].alive => {
                let turns = if waits { 3 } else { 1 };
                for _ in 0..turns {
                    if !self.reserve(who, input, output)? {
                        break;
                    }
                    if waits {
                        self.hear(who, false);
                    }
                }
            }
            Act::Progress { nth, share } => self.progress(nth, share),
            Act::Settle { nth, share } => self.settle(nth, share),
            Act::Release { nth } => self.release(nth),
            Act::Send { who } => self.send(who),
            Act::Hear { who, lost } => self.hear(who, lost),
            Act::Wait { ms } => self.wait(ms),
            Act::Die { who } => self.die(who),
            Act::Keep => self.kept = Some((self.ledger.clone(), self.ms)),
            Act::RollBack => self.roll_back(),
            Act::Reserve { .. } => {}
        }
        Ok(())
    }

    /// What holds after every act.
    fn check(&mut self) -> Result<(), TestCaseError> {
        let mut all = (0, 0);
        for who in self.alive() {
            let mine = || self.open.iter().filter(|open| open.who == who);
            let tokens: u64 = mine().map(|open| open.cost - open.used).sum();
            let places = mine().count() as u64;
            prop_assert_eq!(self.holds(who), (tokens, places), "reserved = settled + released + outstanding");
            all = (all.0 + tokens, all.1 + places);
        }
        let used: u64 = self.replicas.iter().map(|replica| replica.tokens).sum();
        let [day, minute, places] = self.rules.each_ref().map(|rule| rule.limit);
        prop_assert!(used + all.0 <= day, "{} used, {} held of {}", used, all.0, day);
        prop_assert!(all.1 <= places, "{} of {} at once", all.1, places);
        let last = self.admitted.iter().filter(|at| **at + 60_000 > self.ms).count() as u64;
        prop_assert!(last <= 2 * minute + self.untold, "{} within a minute, {} allowed", last, 2 * minute);
        Ok(())
    }

    /// How an account looks to one who has nothing of it.
    fn look(&mut self, account: &str, kind: Kind) -> Reply {
        let statement = Statement {
            account: Arc::from(account),
            kind,
            capacity: 0,
            total: 0,
            acked: 0,
            period: 0,
            outstanding: 0,
            least: 0,
            want: 0,
            spare: 0,
            floor: 0,
            seed: Some(0),
        };
        let call = Call { replica: "looks", ttl_ms: TTL_MS, replicas: 1, statements: &[statement] };
        self.ledger.state(&call, self.ledger_ms())[0]
    }
}

fn use_of(tokens: u64) -> QuotaUse {
    QuotaUse { input: Tokens(tokens), ..QuotaUse::default() }
}

fn act() -> impl Strategy<Value = Act> {
    let (who, nth, share) = (0..REPLICAS, 0..6_usize, prop_oneof![0..101_u64, Just(100)]);
    let reserve = (who.clone(), 0..30_u64, 0..30_u64, prop::bool::weighted(0.8))
        .prop_map(|(who, input, output, waits)| Act::Reserve { who, input, output, waits });
    let rare = prop_oneof![
        2 => who.clone().prop_map(|who| Act::Die { who }),
        4 => Just(Act::Keep),
        4 => Just(Act::RollBack),
    ];
    prop_oneof![
        12 => reserve,
        2 => (nth.clone(), share.clone()).prop_map(|(nth, share)| Act::Progress { nth, share }),
        6 => (nth.clone(), share).prop_map(|(nth, share)| Act::Settle { nth, share }),
        1 => nth.prop_map(|nth| Act::Release { nth }),
        4 => who.clone().prop_map(|who| Act::Send { who }),
        6 => (who, prop::bool::weighted(0.2)).prop_map(|(who, lost)| Act::Hear { who, lost }),
        3 => (1..400_u64).prop_map(|ms| Act::Wait { ms }),
        1 => (1..40_000_u64).prop_map(|ms| Act::Wait { ms }),
        1 => rare,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever is lost: calls, answers, replicas, what the ledger was told last.
    #[test]
    fn no_limit_is_exceeded_and_nothing_stays_held(
        tokens in 1..600_u64, requests in prop_oneof![1..20_u64, 20..2_000_u64], places in 1..8_u64,
        acts in prop::collection::vec(act(), 1..240),
    ) {
        let mut fleet = Fleet::new(tokens, requests, places);
        for act in &acts {
            fleet.act(act)?;
            fleet.check()?;
        }
        while !fleet.open.is_empty() {
            fleet.settle(0, 50);
        }
        for who in fleet.alive() {
            fleet.hear(who, true);
            let at = fleet.at();
            let now = fleet.replicas[who].book.now(at);
            fleet.replicas[who].book.hand_back(&now);
        }
        fleet.tell_all(TTL);
        fleet.wait(60_000);
        fleet.tell_all(TTL);
        let used: u64 = fleet.replicas.iter().map(|replica| replica.tokens).sum();
        let day = Kind::Calendar { starts: [-1, 0, 1, 2].map(|day| MIDNIGHT + day * 86_400_000) };
        let reply = fleet.look(DAY, day);
        prop_assert_eq!((reply.committed, reply.others), (used, 0), "the day's sum is that of all rows");
        let reply = fleet.look(PLACES, Kind::Slots);
        prop_assert_eq!((reply.committed, reply.others), (0, 0), "every place is free");
        let minute = Kind::Bucket { limit: requests, window_ms: 60_000 };
        fleet.wait(60_000);
        let reply = fleet.look(MINUTE, minute);
        prop_assert_eq!((reply.committed, reply.others), (0, 0), "and the bucket has drained");
    }
}
