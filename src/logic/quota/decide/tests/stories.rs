//! Replicas that share a ledger: whatever happens, in whatever order, nothing is lost and nothing is given twice.

use super::super::*;
use super::alone::{ask, at};
use crate::domain::limit::Window;
use crate::domain::units::{NanoUsd, Tokens};
use crate::logic::quota::book::Home;
use crate::logic::quota::ledger::{Call, Ledger, Statement};
use proptest::prelude::*;

const TTL_MS: u64 = 60_000;
const REPLICAS: usize = 3;

/// What may happen.
#[derive(Clone, Debug)]
enum Event {
    /// A request comes to a replica, for so many tokens.
    Reserve(usize, u64),
    /// The oldest but so many of the open requests has used this share of what it holds, in percent, and runs on.
    Progress(usize, u64),
    /// The same ends.
    Settle(usize, u64),
    /// It is dropped.
    Release(usize),
    /// A replica states; the answer may be lost on its way.
    State(usize, bool),
    /// A replica dies, and another takes its place.
    Die(usize),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// All replicas say what they must say in time.
    Refresh,
}

fn event() -> impl Strategy<Value = Event> {
    let who = 0..REPLICAS;
    prop_oneof![
        6 => (who.clone(), 1_u64..120).prop_map(|(who, tokens)| Event::Reserve(who, tokens)),
        2 => (0_usize..8, 0_u64..=100).prop_map(|(nth, share)| Event::Progress(nth, share)),
        4 => (0_usize..8, 0_u64..=100).prop_map(|(nth, share)| Event::Settle(nth, share)),
        1 => (0_usize..8).prop_map(Event::Release),
        3 => (who.clone(), any::<bool>()).prop_map(|(who, heard)| Event::State(who, heard)),
        1 => who.prop_map(Event::Die),
        4 => (1_u64..9_000).prop_map(Event::Wait),
        2 => Just(Event::Refresh),
    ]
}

struct Replica {
    name: String,
    book: Book,
}

struct Open {
    replica: usize,
    claim: Claim,
    told: u64,
}

struct Story {
    rule: LimitRule,
    ledger: Ledger,
    replicas: Vec<Replica>,
    open: Vec<Open>,
    now: u64,
    born: usize,
    /// All that was ever settled of requests whose replica lives.
    reserved: u64,
    settled: u64,
    released: u64,
    lost: u64,
}

impl Story {
    fn new(rule: LimitRule) -> Self {
        let ledger = Ledger::default();
        let mut story = Self {
            rule,
            ledger,
            replicas: Vec::new(),
            open: Vec::new(),
            now: 1_000_000,
            born: 0,
            reserved: 0,
            settled: 0,
            released: 0,
            lost: 0,
        };
        for _ in 0..REPLICAS {
            let replica = story.birth();
            story.replicas.push(replica);
        }
        story
    }

    fn birth(&mut self) -> Replica {
        self.born += 1;
        let book = Book::new(Home::Ledger, Micros(TTL_MS * 1_000), false);
        Replica { name: format!("r{}", self.born), book }
    }

    fn now_ms(&self) -> i64 {
        at(self.now).wall.0 / 1_000
    }

    fn state(&mut self, who: usize, heard: bool) {
        let (at, now_ms) = (at(self.now), self.now_ms());
        let Replica { name, book } = &mut self.replicas[who];
        let now = book.now(at);
        let flight = book.flight(&now);
        let call =
            Call { replica: name, ttl_ms: TTL_MS as i64, replicas: REPLICAS as u64, statements: &flight.statements };
        let replies = self.ledger.state(&call, now_ms);
        if heard {
            book.land(&flight, &replies, REPLICAS as u64, at);
        } else {
            book.crash(&flight, &now);
        }
    }

    fn reserve(&mut self, who: usize, tokens: u64) {
        let ask = ask(vec![self.rule.clone()], tokens);
        for _ in 0..3 {
            let book = &mut self.replicas[who].book;
            match (Books { tenant: book, shared: None }).reserve(&ask, at(self.now), Link::Up) {
                Ok(grant) => {
                    self.reserved += held(&grant.claim);
                    self.open.push(Open { replica: who, claim: grant.claim, told: 0 });
                    return;
                }
                Err(Stop::Ask { .. }) => self.state(who, true),
                Err(_) => return,
            }
        }
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Reserve(who, tokens) => self.reserve(who, tokens),
            Event::State(who, heard) => self.state(who, heard),
            Event::Wait(millis) => {
                // Replicas that live renew what they have out in time.
                for _ in 0..millis.div_ceil(10_000) {
                    self.refresh();
                }
                self.now += millis * 1_000;
            }
            Event::Refresh => self.refresh(),
            Event::Progress(nth, share) => self.progress(nth, share),
            Event::Settle(nth, share) => self.settle(nth, share),
            Event::Release(nth) => {
                if let Some(mut open) = self.pick(nth) {
                    self.released += held(&open.claim);
                    // What was told is committed and stays.
                    self.settled += open.told;
                    let book = &mut self.replicas[open.replica].book;
                    Books { tenant: book, shared: None }.release(&mut open.claim, Micros(self.now));
                }
            }
            Event::Die(who) => {
                let gone: u64 =
                    self.open.iter().filter(|open| open.replica == who).map(|open| held(&open.claim) + open.told).sum();
                self.lost += gone;
                self.open.retain(|open| open.replica != who);
                let newborn = self.birth();
                self.replicas[who] = newborn;
            }
        }
    }

    fn refresh(&mut self) {
        for who in 0..REPLICAS {
            let book = &mut self.replicas[who].book;
            let now = book.now(at(self.now));
            book.refresh(&now, Micros(TTL_MS * 1_000 / 6));
            self.state(who, true);
        }
    }

    fn pick(&mut self, nth: usize) -> Option<Open> {
        (nth < self.open.len()).then(|| self.open.remove(nth))
    }

    fn progress(&mut self, nth: usize, share: u64) {
        let Some(open) = self.open.get_mut(nth) else { return };
        let first: u64 = open.claim.parts.iter().map(|(_, _, hold)| hold.first).sum();
        let amount = first * share / 100;
        let book = &mut self.replicas[open.replica].book;
        Books { tenant: book, shared: None }.progress(&mut open.claim, &used(amount), Micros(self.now));
        open.told = open.told.max(amount);
    }

    fn settle(&mut self, nth: usize, share: u64) {
        let Some(mut open) = self.pick(nth) else { return };
        let first: u64 = open.claim.parts.iter().map(|(_, _, hold)| hold.first).sum();
        let amount = first * share / 100;
        self.settled += amount;
        self.released += first - amount;
        let book = &mut self.replicas[open.replica].book;
        Books { tenant: book, shared: None }.settle(&mut open.claim, &used(amount), Micros(self.now));
    }

    /// What the ledger has: committed, and out.
    fn figures(&mut self) -> (u64, u64) {
        let starts = [0; 4];
        let statement = Statement {
            account: "tenant|p.x".into(),
            kind: match self.rule.window {
                Window::Ever => crate::logic::quota::ledger::Kind::Calendar { starts },
                _ => crate::logic::quota::ledger::Kind::Bucket { limit: self.rule.limit, window_ms: 60_000 },
            },
            capacity: self.rule.limit,
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
        let call = Call { replica: "onlooker", ttl_ms: TTL_MS as i64, replicas: 1, statements: &[statement] };
        let now_ms = self.now_ms();
        let reply = self.ledger.state(&call, now_ms)[0];
        (reply.committed, reply.others)
    }
}

fn used(tokens: u64) -> QuotaUse {
    QuotaUse { input: Tokens(tokens), cost: NanoUsd(tokens as i64), ..QuotaUse::default() }
}

fn held(claim: &Claim) -> u64 {
    claim.parts.iter().map(|(_, _, hold)| hold.held).sum()
}

fn rules() -> impl Strategy<Value = LimitRule> {
    let dimension = prop_oneof![Just(Dimension::Tokens), Just(Dimension::Spend), Just(Dimension::InputTokens)];
    (dimension, prop_oneof![Just(Window::Minute), Just(Window::Ever)], 100_u64..2_000, any::<bool>()).prop_map(
        |(dimension, window, limit, strict)| LimitRule { strict, ..LimitRule::new("p.x", dimension, limit, window) },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_was_reserved_was_settled_released_or_is_open_and_the_capacity_holds(
        rule in rules(), events in prop::collection::vec(event(), 1..80),
    ) {
        let mut story = Story::new(rule);
        for event in &events {
            story.happen(event);
            let (committed, out) = story.figures();
            prop_assert!(committed + out <= story.rule.limit, "{committed} + {out} of {} after {event:?}", story.rule.limit);
            let open: u64 = story.open.iter().map(|open| held(&open.claim) + open.told).sum();
            prop_assert_eq!(
                story.reserved, story.settled + story.released + open + story.lost,
                "reserved = settled + released + open + lost with replicas, after {:?}", event
            );
            for (who, replica) in story.replicas.iter_mut().enumerate() {
                let open: u64 = story.open.iter().filter(|open| open.replica == who).map(|open| held(&open.claim)).sum();
                let kept: u64 = replica.book.leases().map(|lease| lease.held()).sum();
                prop_assert_eq!(kept, open, "replica {}'s holds are those of its open requests", who);
            }
        }
    }

    #[test]
    fn a_ledger_that_forgot_its_last_writes_hears_them_again(
        events in prop::collection::vec(event(), 1..40), later in prop::collection::vec(event(), 1..40),
    ) {
        let mut story = Story::new(LimitRule::new("p.x", Dimension::Spend, 2_000, Window::Ever));
        let lives = |event: &&Event| !matches!(event, Event::Die(_));
        events.iter().filter(lives).for_each(|event| story.happen(event));
        let before = story.ledger.clone();
        later.iter().filter(lives).for_each(|event| story.happen(event));
        story.ledger = before;
        for who in 0..REPLICAS {
            let book = &mut story.replicas[who].book;
            let now = book.now(at(story.now));
            book.restate(&now);
            story.state(who, true);
        }
        let (committed, out) = story.figures();
        let told: u64 = story.open.iter().map(|open| open.told).sum();
        let open: u64 = story.open.iter().map(|open| held(&open.claim)).sum();
        prop_assert_eq!(committed, story.settled + told, "all that was used");
        prop_assert!(out >= open, "all that is open: {} of {}", out, open);
    }
}
