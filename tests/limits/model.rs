//! The Lua of the shared ledger against its model in Rust: the same calls, at the same times, get the same answers from
//! both, whatever comes: other replicas, late and repeated statements, clocks that jump, servers that come back empty or
//! with the state of some time ago.

use super::super::servers::Redis;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use redis::{Connection, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use weir::domain::ids::TenantId;
use weir::io::quota::ledgers::Group;
use weir::io::quota::redis::script::{self, Invocation};
use weir::logic::quota::drain::{MAX_LIMIT, MAX_UNITS};
use weir::logic::quota::ledger::{
    Call, Correction, Kind, Ledger, MAX_CORRECTIONS, MAX_PAST, MAX_REPLICAS, MAX_STATEMENTS, Reply, Statement,
};

/// Generated stories, and what may happen in each.
const CASES: u32 = 500;
const STEPS: usize = 40;
/// Where the clocks begin, in milliseconds since 1970.
const BEGIN: i64 = 1_790_000_000_000;
/// The one line in which the scripts read the clock.
const CLOCK: &str = "local time = redis.call('TIME')";
const PREFIX: &str = "weir";

fn group() -> Group {
    Group::Tenant(TenantId::new("a}b{c"))
}

/// Keys of a server with what `DUMP` says of them.
type Dump = Vec<(String, Vec<u8>)>;

/// The scripts in a real server, with the test's clock, beside the model.
struct Pair {
    connection: Connection,
    model: Ledger,
    now_ms: i64,
    /// Both as they were at some time.
    kept: Option<(Dump, Ledger)>,
    /// How often what has been seen.
    seen: BTreeMap<&'static str, u32>,
}

impl Pair {
    fn new(server: &Redis) -> Self {
        let client = redis::Client::open(server.url()).expect("a URL");
        let connection = client.get_connection().expect("a connection");
        let mut pair = Self { connection, model: Ledger::default(), now_ms: BEGIN, kept: None, seen: BTreeMap::new() };
        pair.wipe();
        pair
    }

    fn run(&mut self, invocation: &Invocation) -> Value {
        let text = invocation.script.text;
        assert_eq!(text.matches(CLOCK).count(), 1, "the script reads its clock in one place");
        let text = text.replace(CLOCK, "local time = { ARGV[#ARGV - 1], ARGV[#ARGV] }");
        let mut call = redis::cmd("EVAL");
        call.arg(text).arg(invocation.keys.len()).arg(&invocation.keys).arg(&invocation.args);
        call.arg(self.now_ms / 1000).arg(self.now_ms % 1000 * 1000 + 999);
        call.query(&mut self.connection).expect("the script answers")
    }

    /// What both answer to a call; the script's first.
    fn state(&mut self, call: &Call<'_>) -> (Vec<Reply>, Vec<Reply>) {
        let answer = self.run(&script::state(PREFIX, &group(), call));
        let answer = script::replies(&answer, call.statements.len()).expect("replies");
        for (statement, reply) in call.statements.iter().zip(&answer) {
            self.see(statement, reply);
        }
        (answer, self.model.state(call, self.now_ms))
    }

    fn correct(&mut self, corrections: &[Correction]) -> (Vec<i64>, Vec<i64>) {
        let answer = self.run(&script::correct(PREFIX, &group(), corrections));
        let answer = script::deltas(&answer, corrections.len()).expect("deltas");
        let model = self.model.correct(corrections, self.now_ms);
        *self.seen.entry("raised").or_default() += u32::from(model.iter().any(|delta| *delta > 0));
        *self.seen.entry("lowered").or_default() += u32::from(model.iter().any(|delta| *delta < 0));
        (answer, model)
    }

    fn see(&mut self, statement: &Statement, reply: &Reply) {
        let needed = statement.want.max(statement.least);
        let seen = [
            ("fresh", reply.fresh),
            ("swept", reply.swept),
            ("drained", reply.drained > 0),
            ("others", reply.others > 0),
            ("dry", !reply.fresh && reply.granted == 0 && needed > 0),
            ("part", reply.granted > 0 && reply.granted < needed),
            ("spare", reply.granted > needed),
            ("bucket", reply.committed > 0 && reply.period == 0),
            ("period", reply.committed > 0 && reply.period > 0),
        ];
        for (what, is_so) in seen {
            *self.seen.entry(what).or_default() += u32::from(is_so);
        }
    }

    fn wipe(&mut self) {
        redis::cmd("FLUSHDB").query::<()>(&mut self.connection).expect("emptied");
        self.model = Ledger::default();
    }

    fn keep(&mut self) {
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut self.connection).expect("keys");
        let dump = |key: String| {
            let bytes: Vec<u8> = redis::cmd("DUMP").arg(&key).query(&mut self.connection).expect("dumped");
            (key, bytes)
        };
        self.kept = Some((keys.into_iter().map(dump).collect(), self.model.clone()));
    }

    /// Both forget what came after [`Pair::keep`], as after a failover that loses writes.
    fn roll_back(&mut self) {
        let Some((keys, model)) = self.kept.clone() else { return };
        self.wipe();
        for (key, bytes) in keys {
            redis::cmd("RESTORE").arg(key).arg(0).arg(bytes).query::<()>(&mut self.connection).expect("restored");
        }
        self.model = model;
    }
}

/// What may happen.
#[derive(Clone, Debug)]
enum Step {
    State {
        replica: String,
        ttl_ms: i64,
        replicas: u64,
        statements: Vec<Statement>,
    },
    /// The same call again: its answer was lost.
    Again,
    Correct(Vec<Correction>),
    Jump(i64),
    Keep,
    RollBack,
    Wipe,
}

/// Mostly small amounts, so that limits are reached; sometimes such as nobody would state.
fn amount(usual: Range<u64>) -> impl Strategy<Value = u64> {
    let edges = [0, 1, MAX_LIMIT, MAX_UNITS - 1, MAX_UNITS, MAX_UNITS + 1, u64::MAX];
    prop_oneof![40 => usual, 1 => proptest::sample::select(edges.to_vec())]
}

fn total() -> impl Strategy<Value = i64> {
    prop_oneof![30 => 0..400_i64, 5 => -50..50_i64, 1 => prop_oneof![Just(i64::MIN), Just(i64::MAX)]]
}

/// Four days, one after the other, as replicas see them whose clocks are a day apart.
fn starts() -> impl Strategy<Value = [i64; 4]> {
    const DAY: i64 = 86_400_000;
    let days = |first: i64| [0, 1, 2, 3].map(|day| BEGIN - BEGIN % DAY + (first + day) * DAY);
    let zone = |first: i64| days(first).map(|day| day + 3_600_000);
    prop_oneof![8 => Just(days(-1)), 2 => Just(days(0)), 1 => Just(days(-2)), 1 => Just(zone(-1)), 3 => Just([0; 4])]
}

fn kind() -> impl Strategy<Value = Kind> {
    let window = proptest::sample::select(vec![1000_u64, 60_000, 3_600_000, 0]);
    prop_oneof![
        4 => (amount(1..300), window).prop_map(|(limit, window_ms)| Kind::Bucket { limit, window_ms }),
        4 => starts().prop_map(|starts| Kind::Calendar { starts }),
        2 => Just(Kind::Slots),
    ]
}

fn statement() -> impl Strategy<Value = Statement> {
    let account = proptest::sample::select(vec!["key:k|a.b", "tenant|gold"]);
    let asked = (amount(0..40), amount(0..80), amount(0..100), amount(0..20));
    let stated = (total(), -30..5_i64, amount(0..100), 0..6_usize);
    let seed = prop_oneof![1 => Just(None), 2 => amount(0..100).prop_map(Some)];
    (account, kind(), amount(0..600), stated, asked, seed).prop_map(|(account, kind, capacity, stated, asked, seed)| {
        let ((total, behind, outstanding, which), (least, want, spare, floor)) = (stated, asked);
        let period = match kind {
            Kind::Calendar { starts } => starts.get(which).copied().unwrap_or(starts[1]),
            _ => 0,
        };
        let acked = total.saturating_add(behind);
        let account = Arc::from(account);
        Statement { account, kind, capacity, total, acked, period, outstanding, least, want, spare, floor, seed }
    })
}

fn correction() -> impl Strategy<Value = Correction> {
    let account = proptest::sample::select(vec!["key:k|a.b", "tenant|gold"]);
    let which = (prop_oneof![3 => Just(1), 1 => 0..4_usize], any::<bool>());
    (account, starts(), which, replica(), amount(0..200)).prop_map(
        |(account, starts, (which, anew), replica, total)| Correction {
            account: Arc::from(account),
            period: starts[which],
            starts: anew.then_some(starts),
            replica: Arc::from(replica),
            total,
        },
    )
}

fn replica() -> impl Strategy<Value = String> {
    proptest::sample::select(vec!["one", "two", "three", "L"]).prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Step> {
    // Not less than a second: keys expire by the server's own clock, which is no part of the comparison.
    let ttl = proptest::sample::select(vec![60_000_i64, 60_000, 60_000, 1_000, i64::MAX]);
    let replicas = prop_oneof![5 => 0..5_u64, 1 => Just(u64::MAX)];
    let state = (replica(), ttl, replicas, prop::collection::vec(statement(), 1..4))
        .prop_map(|(replica, ttl_ms, replicas, statements)| Step::State { replica, ttl_ms, replicas, statements });
    prop_oneof![
        24 => state,
        4 => Just(Step::Again),
        5 => prop::collection::vec(correction(), 1..8).prop_map(Step::Correct),
        6 => (0..3_000_i64).prop_map(Step::Jump),
        3 => (0..100_000_i64).prop_map(Step::Jump),
        2 => (-90_000_000..90_000_000_i64).prop_map(Step::Jump),
        3 => proptest::sample::select(vec![1_000, 60_000, -60_000, -200_000, 86_400_000]).prop_map(Step::Jump),
        2 => Just(Step::Keep),
        1 => Just(Step::RollBack),
        1 => Just(Step::Wipe),
    ]
}

/// Plays one step on both; fails where the answers differ.
fn play(pair: &mut Pair, step: &Step, last: Option<&Step>) -> Result<(), TestCaseError> {
    match step {
        Step::State { replica, ttl_ms, replicas, statements } => {
            let call = Call { replica, ttl_ms: *ttl_ms, replicas: *replicas, statements };
            let (script, model) = pair.state(&call);
            prop_assert_eq!(script, model, "script left, model right, at {}", pair.now_ms);
        }
        Step::Correct(corrections) => {
            let (script, model) = pair.correct(corrections);
            prop_assert_eq!(script, model, "script left, model right, at {}", pair.now_ms);
        }
        Step::Again => return last.map_or(Ok(()), |last| play(pair, last, None)),
        Step::Jump(by) => pair.now_ms += by,
        Step::Keep => pair.keep(),
        Step::RollBack => pair.roll_back(),
        Step::Wipe => pair.wipe(),
    }
    Ok(())
}

#[test]
fn the_script_and_the_model_answer_alike() {
    let server = Redis::start();
    let config = Config { cases: CASES, rng_seed: RngSeed::Fixed(4), failure_persistence: None, ..Config::default() };
    let stories = prop::collection::vec(step(), 1..STEPS);
    let seen: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    let told = TestRunner::new(config).run(&stories, |steps| {
        let mut pair = Pair::new(&server);
        let mut last = None;
        for step in &steps {
            play(&mut pair, step, last)?;
            last = matches!(step, Step::State { .. }).then_some(step).or(last);
        }
        for (what, times) in pair.seen {
            *seen.borrow_mut().entry(what).or_default() += times;
        }
        Ok(())
    });
    told.unwrap_or_else(|error| panic!("{error}"));
    let seen = seen.into_inner();
    assert!(seen.values().all(|times| *times >= 50), "the stories are about something: {seen:?}");
}

fn calendar(total: i64) -> Statement {
    Statement {
        account: Arc::from("tenant|month"),
        kind: Kind::Calendar { starts: [0; 4] },
        capacity: 1_000_000,
        total,
        acked: 0,
        period: 0,
        outstanding: 1,
        least: 0,
        want: 0,
        spare: 0,
        floor: 0,
        seed: Some(0),
    }
}

/// States of as many replicas as are given, two each millisecond, each with something else out.
fn crowd(pair: &mut Pair, replicas: Range<usize>) {
    for number in replicas {
        pair.now_ms += i64::from(number % 2 == 0);
        let replica = format!("replica-{:04}", number ^ 1);
        let statements = [Statement { outstanding: number as u64, ..calendar(2) }];
        let (script, model) =
            pair.state(&Call { replica: &replica, ttl_ms: 60_000, replicas: 4, statements: &statements });
        assert_eq!(script, model, "{replica}");
    }
}

#[test]
fn the_script_and_the_model_have_the_same_bounds() {
    let server = Redis::start();
    let mut pair = Pair::new(&server);
    crowd(&mut pair, 0..MAX_REPLICAS + 2);
    let nobody = [calendar(0)];
    let reply =
        pair.model.state(&Call { replica: "last", ttl_ms: 1, replicas: 1, statements: &nobody }, pair.now_ms)[0];
    let here = 4..MAX_REPLICAS as u64 + 2;
    assert_eq!(reply.others, here.sum::<u64>() + 2, "those that expire first have gone, by name where they are many");
    assert_eq!(reply.committed, 2 * (MAX_REPLICAS as u64 + 2), "and what they have committed stays");
    for round in 1..4 {
        pair.now_ms += 60_001;
        crowd(&mut pair, round * 1000..round * 1000 + MAX_PAST / 2 - 20);
    }
    let rows = (0..MAX_CORRECTIONS).map(|number| Correction {
        account: Arc::from("tenant|month"),
        period: 0,
        starts: None,
        replica: Arc::from(format!("replica-{:04}", number * 4)),
        total: 7,
    });
    let (script, model) = pair.correct(&rows.collect::<Vec<_>>());
    assert_eq!(script, model, "corrections of replicas that are known, forgotten and never seen");
    assert!(model.contains(&0) && model.contains(&5), "some are too many, others are corrected: {model:?}");
    let statements: Vec<_> = (0..MAX_STATEMENTS as i64).map(calendar).collect();
    let (script, model) = pair.state(&Call { replica: "all", ttl_ms: 60_000, replicas: 4, statements: &statements });
    assert_eq!(script, model, "as many statements as a call may have");
}

#[test]
fn the_script_and_the_model_agree_on_the_largest_figures() {
    let server = Redis::start();
    let mut pair = Pair::new(&server);
    let kind = Kind::Bucket { limit: u64::MAX, window_ms: u64::MAX };
    let full = Statement { kind, capacity: u64::MAX, seed: Some(u64::MAX), ..calendar(0) };
    for jump in [0, 3_599_999, 3_599_999, 1_799_999, 1] {
        pair.now_ms += jump;
        let asked = Statement { least: u64::MAX, want: u64::MAX, spare: u64::MAX, ..full.clone() };
        let freed = Statement { least: 7, spare: u64::MAX, ..full.clone() };
        let statements = [asked, freed];
        let call = Call { replica: "one", ttl_ms: i64::MAX, replicas: u64::MAX, statements: &statements };
        let (script, model) = pair.state(&call);
        assert_eq!(script, model, "at {}", pair.now_ms);
    }
}

#[test]
fn every_key_expires() {
    let server = Redis::start();
    let mut pair = Pair::new(&server);
    let kind = Kind::Bucket { limit: 60, window_ms: 60_000 };
    let bucket = Statement { account: Arc::from("tenant|rate"), kind, ..calendar(600) };
    let slots = Statement { account: Arc::from("tenant|places"), kind: Kind::Slots, ..calendar(0) };
    let starts = [-1, 0, 1, 2].map(|day| BEGIN + day * 86_400_000);
    let day = Statement { account: Arc::from("tenant|day"), kind: Kind::Calendar { starts }, ..calendar(0) };
    let mut statements = [bucket, slots, calendar(4), day];
    for replica in ["one", "two"] {
        let (script, model) = pair.state(&Call { replica, ttl_ms: 60_000, replicas: 2, statements: &statements });
        assert_eq!(script, model, "{replica}");
    }
    pair.now_ms += 60_001;
    statements[0].acked = 600;
    pair.state(&Call { replica: "two", ttl_ms: 60_000, replicas: 2, statements: &statements });
    let row = |account: &str| Correction {
        account: Arc::from(account),
        period: 0,
        starts: None,
        replica: Arc::from("gone"),
        total: 7,
    };
    pair.correct(&[row("tenant|month"), row("tenant|unknown")]);
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut pair.connection).expect("keys");
    let mut lives: Vec<(String, i64)> = Vec::new();
    for key in keys {
        let left: i64 = redis::cmd("PTTL").arg(&key).query(&mut pair.connection).expect("a time");
        let name = key.strip_prefix("weir:{t:a%7Db%7Bc}:").expect("all of a group are in one slot").to_owned();
        lives.push((name, (left + 999) / 1000));
    }
    lives.sort();
    let day = 86_400;
    let expected = [
        // A minute has drained 60 of 1200 units; and twice the time that a statement is good for.
        ("b:tenant|rate", 20 * 60 + 120),
        ("c:tenant|day", 2 * day - 60),
        ("c:tenant|month", 400 * day),
        ("c:tenant|unknown", day),
        ("epoch", 400 * day),
        ("p:tenant|month", 400 * day),
        ("p:tenant|unknown", day),
        ("s:tenant|places", 180),
    ];
    assert_eq!(lives.len(), expected.len(), "{lives:?}");
    for ((name, left), (expected, seconds)) in lives.iter().zip(expected) {
        assert_eq!(name, expected, "{lives:?}");
        assert!((seconds - 5..=seconds).contains(left), "{name} lives for {left} s, not {seconds}");
    }
}

#[test]
fn those_who_say_so_live() {
    let server = Redis::start();
    let mut pair = Pair::new(&server);
    let mut beat = |replica: &str, now_ms: i64| {
        pair.now_ms = now_ms;
        let answer = pair.run(&script::beat(PREFIX, replica, Duration::from_secs(60)));
        script::count(&answer).expect("a count")
    };
    assert_eq!(beat("one", BEGIN), 1, "itself");
    assert_eq!(beat("two", BEGIN + 30_000), 2, "and another");
    assert_eq!(beat("two", BEGIN + 59_999), 2, "each once");
    assert_eq!(beat("two", BEGIN + 60_000), 1, "one that says nothing does not");
    for number in 0..1_100 {
        beat(&format!("{number}"), BEGIN + 60_001 + number);
    }
    assert_eq!(beat("last", BEGIN + 70_000), 1_024, "there is a bound");
    let left: i64 = redis::cmd("PTTL").arg("weir:{shared}:replicas").query(&mut pair.connection).expect("a time");
    assert!((50_000..=60_000).contains(&left), "the list expires: {left}");
}

#[test]
fn a_server_without_memory_writes_nothing_at_all() {
    let server = Redis::start();
    let mut pair = Pair::new(&server);
    let statements = [calendar(4)];
    let call = Call { replica: "one", ttl_ms: 60_000, replicas: 2, statements: &statements };
    pair.state(&call);
    redis::cmd("CONFIG").arg(&["SET", "maxmemory", "1"]).query::<()>(&mut pair.connection).expect("set");
    let more = [Statement { account: Arc::from("tenant|new"), ..calendar(5) }, calendar(5)];
    let again = script::state(PREFIX, &group(), &Call { statements: &more, ..call });
    let mut command = redis::cmd("EVAL");
    command.arg(again.script.text).arg(again.keys.len()).arg(&again.keys).arg(&again.args);
    let refused = command.query::<Value>(&mut pair.connection).expect_err("refused");
    assert!(refused.to_string().contains("OOM"), "the server's own words: {refused}");
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut pair.connection).expect("keys");
    assert_eq!(keys.len(), 2, "the epoch and the account of before: {keys:?}");
}
