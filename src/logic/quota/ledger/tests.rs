mod changed;

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TTL: i64 = 60_000;
const DAY: i64 = 86_400_000;
const DAYS: [i64; 4] = [0, DAY, 2 * DAY, 3 * DAY];
/// Noon of the second day.
const NOON: i64 = DAY + DAY / 2;

fn statement(kind: Kind, capacity: u64) -> Statement {
    Statement {
        account: Arc::from("tenant|gold.tokens"),
        kind,
        capacity,
        total: 0,
        acked: 0,
        period: if let Kind::Calendar { starts } = kind { starts[1] } else { 0 },
        outstanding: 0,
        least: 0,
        want: 0,
        spare: 0,
        floor: 0,
        seed: None,
    }
}

fn day(total: i64) -> Statement {
    Statement { total, seed: Some(0), ..statement(Kind::Calendar { starts: DAYS }, 100) }
}

fn minute(total: i64) -> Statement {
    Statement { total, seed: Some(0), ..statement(Kind::Bucket { limit: 60, window_ms: 60_000 }, 60) }
}

fn say(ledger: &mut Ledger, replica: &str, statement: Statement, now_ms: i64) -> Reply {
    let call = Call { replica, ttl_ms: TTL, replicas: 1, statements: &[statement] };
    ledger.state(&call, now_ms)[0]
}

fn ask(units: u64, statement: Statement) -> Statement {
    Statement { least: units, want: units, ..statement }
}

fn row(replica: &str, total: u64) -> Correction {
    let account = Arc::from("tenant|gold.tokens");
    Correction { account, period: DAY, starts: None, replica: Arc::from(replica), total }
}

#[test]
fn a_period_that_nobody_knows_is_asked_for_before_anything_is_granted() {
    let mut ledger = Ledger::default();
    let unknown = Statement { seed: None, ..ask(1, day(5)) };
    let reply = say(&mut ledger, "a", unknown.clone(), NOON);
    assert_eq!(reply, Reply { fresh: true, period: DAY, now_ms: NOON, ..Reply::default() }, "nothing granted");
    assert!(ledger.is_empty(), "nothing stored");
    let reply = say(&mut ledger, "a", Statement { seed: Some(90), ..unknown.clone() }, NOON);
    assert_eq!((reply.committed, reply.granted), (95, 1), "with a seed it is known");
    let reply = say(&mut ledger, "b", Statement { seed: Some(7), ..unknown }, NOON);
    assert_eq!(reply.committed, 100, "one that is known has no use for another seed");
}

#[test]
fn a_bucket_that_is_missing_for_longer_than_it_takes_to_drain_is_full() {
    let mut ledger = Ledger::default();
    let unknown = Statement { seed: None, ..ask(60, minute(0)) };
    assert!(say(&mut ledger, "a", unknown.clone(), 0).fresh, "the group is new: somebody may have used it before");
    assert!(say(&mut ledger, "a", unknown.clone(), 59_999).fresh, "what was used before has not drained yet");
    assert_eq!(say(&mut ledger, "a", unknown.clone(), 2 * 60_000).granted, 60, "by now it has");
    let mut wiped = Ledger::default();
    let reply = say(&mut wiped, "a", Statement { seed: Some(50), ..unknown }, 0);
    assert_eq!((reply.committed, reply.granted), (50, 0), "or somebody knows what was used");
    let places = ask(1, statement(Kind::Slots, 1));
    assert_eq!(say(&mut wiped, "a", places, 0).granted, 1, "nothing is remembered of places");
}

#[test]
fn near_the_limit_leases_vanish() {
    let mut ledger = Ledger::default();
    let lease = |least, spare| Statement { spare, ..ask(least, statement(Kind::Slots, 100)) };
    let call = |statement| [Statement { ..statement }];
    let mut granted = |least, spare| {
        let statements = call(lease(least, spare));
        ledger.state(&Call { replica: "a", ttl_ms: TTL, replicas: 2, statements: &statements }, 0)[0].granted
    };
    assert_eq!(granted(0, 1000), 12, "an eighth of all for one of two replicas");
    assert_eq!(granted(20, 1000), 20, "whole requests only: a tenth is none of 20");
    assert_eq!(granted(3, 1000), 3 + 12, "four requests beyond the one that waits");
    assert_eq!(granted(3, 7), 3 + 6, "no more than is asked for");
    assert_eq!(granted(99, 1000), 99, "at the end what is needed, and no more");
    assert_eq!(granted(101, 1000), 0, "never a part of what is needed at least");
    let part = Statement { want: 300, ..lease(60, 10) };
    assert_eq!(say(&mut ledger, "a", part, 0).granted, 100, "but a part of what all that wait need");
    let kept = Statement { floor: 40, ..lease(61, 0) };
    assert_eq!(say(&mut ledger, "a", kept.clone(), 0).granted, 0, "what others keep in reserve is not there");
    assert_eq!(say(&mut ledger, "a", Statement { floor: 39, ..kept }, 0).granted, 61, "the rest is");
}

#[test]
fn what_a_silent_replica_had_out_comes_back_and_what_it_committed_stays() {
    for statement in [day(30), minute(30)] {
        let mut ledger = Ledger::default();
        let stated = Statement { outstanding: 20, ..statement.clone() };
        say(&mut ledger, "dead", stated.clone(), NOON);
        let look = |ledger: &mut Ledger, now| {
            say(ledger, "live", Statement { total: 0, capacity: 1000, ..stated.clone() }, now)
        };
        let before = look(&mut ledger, NOON + TTL - 1);
        assert_eq!((before.others, before.swept), (20, false), "it may still live");
        let after = look(&mut ledger, NOON + TTL);
        assert_eq!((after.others, after.swept), (0, true), "it does not");
        let calendar = matches!(statement.kind, Kind::Calendar { .. });
        assert!(!calendar || after.committed == 30, "its share of the period stays: {after:?}");
        assert!(!look(&mut ledger, NOON + TTL).swept, "told once");
    }
}

#[test]
fn a_replica_that_has_nothing_out_is_missed_for_its_last_units_and_takes_its_share_back() {
    let mut ledger = Ledger::default();
    say(&mut ledger, "idle", day(30), NOON);
    say(&mut ledger, "unused", day(0), NOON);
    say(&mut ledger, "idle", minute(30), NOON);
    let late = NOON + 2 * TTL;
    assert!(!say(&mut ledger, "other", minute(0), late).swept, "a bucket's rows are compared with nothing");
    let reply = say(&mut ledger, "other", day(5), late);
    assert_eq!((reply.committed, reply.swept), (35, true), "it may have used more than it could say");
    assert!(!say(&mut ledger, "other", day(5), late).swept, "told once");
    say(&mut ledger, "unused", day(0), late);
    assert!(!say(&mut ledger, "other", day(5), late + TTL).swept, "one that has used nothing goes without a word");
    assert_eq!(say(&mut ledger, "idle", day(31), late).committed, 36, "counted once, not twice");
    let mut elsewhen = day(31);
    elsewhen.period = DAYS[0];
    let last = late + 2 * TTL;
    assert_eq!(say(&mut ledger, "idle", elsewhen, last).committed, 36, "even if it is behind the times");
    assert_eq!(say(&mut ledger, "idle", day(32), last).committed, 37, "and catches up");
}

#[test]
fn each_period_begins_with_nothing_and_none_comes_back() {
    let mut ledger = Ledger::default();
    let midnight = 2 * DAY;
    say(&mut ledger, "a", Statement { outstanding: 9, ..day(30) }, midnight - 1);
    let reply = say(&mut ledger, "b", day(20), midnight);
    assert_eq!((reply.period, reply.committed, reply.others), (midnight, 0, 9), "what was yesterday's does not count");
    let today = Statement { period: midnight, ..day(4) };
    say(&mut ledger, "b", today, midnight + 5);
    let reply = say(&mut ledger, "a", day(40), midnight - 1);
    assert_eq!((reply.period, reply.committed), (midnight, 4), "nor does a clock that falls back bring it back");
}

#[test]
fn a_period_of_another_calendar_is_not_known() {
    let mut ledger = Ledger::default();
    say(&mut ledger, "a", Statement { outstanding: 9, ..day(30) }, NOON);
    let starts = DAYS.map(|start| start + DAY / 24);
    let moved = Statement { kind: Kind::Calendar { starts }, period: starts[1], seed: None, ..day(0) };
    assert!(say(&mut ledger, "b", moved.clone(), NOON).fresh, "the day begins an hour later: what is used since?");
    assert_eq!(say(&mut ledger, "a", day(30), NOON).committed, 30, "until that is known it counts as before");
    let reply = say(&mut ledger, "b", Statement { seed: Some(25), ..moved }, NOON);
    assert_eq!((reply.committed, reply.others), (25, 0), "then by the new day");
    let held = say(&mut ledger, "a", Statement { outstanding: 9, ..day(30) }, NOON);
    assert_eq!(held.committed, 30, "one that still has the old one begins that again");
}

#[test]
fn rows_are_told_of_all_replicas_before_anything_is_granted() {
    let mut ledger = Ledger::default();
    let told = ledger.correct(&[row("live", 40), row("dead", 30)], NOON);
    assert_eq!(told, [40, 30], "an account that is not known is made");
    let reply = say(&mut ledger, "live", ask(20, Statement { seed: None, ..day(50) }), NOON);
    assert_eq!((reply.committed, reply.granted), (80, 20), "one that lives knows better than its rows");
    assert_eq!(ledger.correct(&[row("live", 1)], NOON), [0], "and is not corrected");
    assert_eq!(ledger.correct(&[row("dead", 35)], NOON), [5], "one that is gone is, upwards");
    assert_eq!(ledger.correct(&[row("dead", 3), row("older", 1)], NOON), [-32, 1], "downwards, and a new one");
    let other = Correction { period: 2 * DAY, ..row("dead", 99) };
    assert_eq!(ledger.correct(&[other], NOON), [0], "not for another period");
    let gone = NOON + 2 * TTL;
    assert_eq!(ledger.correct(&[row("live", 60)], gone), [10], "one that has gone since is corrected like the others");
    let mut stale = Ledger::default();
    stale.correct(&[Correction { period: DAYS[0], ..row("dead", 30) }], NOON);
    let reply = say(&mut stale, "live", Statement { seed: None, ..day(0) }, NOON);
    assert!(reply.fresh, "rows of another period say nothing of this one");
}

#[test]
fn what_is_as_good_as_unused_is_dropped() {
    let mut ledger = Ledger::default();
    let places = |outstanding| Statement { outstanding, ..statement(Kind::Slots, 5) };
    say(&mut ledger, "a", day(1), NOON);
    say(&mut ledger, "a", minute(60), NOON);
    say(&mut ledger, "a", places(1), NOON);
    ledger.prune(NOON + 59_000);
    assert_eq!(ledger.len(), 3, "a used period, a bucket that drains and a place that is taken are in use");
    say(&mut ledger, "a", places(0), NOON + 59_000);
    ledger.prune(NOON + 60_000);
    assert_eq!(ledger.len(), 1, "the day is not over");
    ledger.prune(2 * DAY);
    assert!(ledger.is_empty(), "now it is");
    let prepaid = Statement { period: 0, ..statement(Kind::Calendar { starts: [0; 4] }, 100) };
    say(&mut ledger, "a", Statement { total: 1, seed: Some(0), ..prepaid }, NOON);
    ledger.prune(400 * DAY);
    assert_eq!(ledger.len(), 1, "prepaid credit is never over");
}

/// A replica that behaves: it spends only what it was granted, and states in time.
#[derive(Clone, Default)]
struct Replica {
    out: u64,
    total: i64,
    acked: i64,
    dead: bool,
}

/// Some replicas with one account.
struct World {
    ledger: Ledger,
    replicas: Vec<Replica>,
    now_ms: i64,
    kind: Kind,
    capacity: u64,
    /// When how much was used.
    uses: Vec<(i64, u64)>,
}

#[derive(Clone, Debug)]
enum Act {
    Ask { who: usize, least: u64, more: u64, spare: u64, heard: bool },
    Use { who: usize, units: u64 },
    GiveBack { who: usize, units: u64 },
    Die { who: usize },
    Wait { ms: i64 },
}

impl World {
    fn new(kind: Kind, capacity: u64) -> Self {
        let replicas = vec![Replica::default(); 3];
        Self { ledger: Ledger::default(), replicas, now_ms: NOON, kind, capacity, uses: Vec::new() }
    }

    fn statement(&self, who: usize) -> Statement {
        let Replica { out, total, acked, .. } = self.replicas[who];
        let base = Statement { seed: Some(0), ..statement(self.kind, self.capacity) };
        Statement { total, acked, outstanding: out, ..base }
    }

    fn state(&mut self, who: usize, statement: Statement) -> Reply {
        let name = ["one", "two", "three"][who];
        let call = Call { replica: name, ttl_ms: TTL, replicas: 3, statements: &[statement] };
        self.ledger.state(&call, self.now_ms)[0]
    }

    /// Every replica that lives says how it stands.
    fn beat(&mut self) {
        for who in 0..self.replicas.len() {
            if !self.replicas[who].dead {
                self.state(who, self.statement(who));
                self.replicas[who].acked = self.replicas[who].total;
            }
        }
    }

    fn act(&mut self, act: &Act) -> Option<Reply> {
        match *act {
            Act::Ask { who, least, more, spare, heard } if !self.replicas[who].dead => {
                let asked = Statement { least, want: least + more, spare, ..self.statement(who) };
                let reply = self.state(who, asked);
                if heard {
                    self.replicas[who].out += reply.granted;
                    self.replicas[who].acked = self.replicas[who].total;
                }
                return Some(reply);
            }
            Act::Use { who, units } if !self.replicas[who].dead => {
                let replica = &mut self.replicas[who];
                let units = units.min(replica.out);
                replica.out -= units;
                if self.kind != Kind::Slots {
                    replica.total += i64::try_from(units).expect("small");
                }
                self.uses.push((self.now_ms, units));
            }
            Act::GiveBack { who, units } => self.replicas[who].out -= units.min(self.replicas[who].out),
            Act::Die { who } if who > 0 => self.replicas[who].dead = true,
            Act::Wait { ms } => {
                // In steps in which replicas state again.
                for step in 0..=ms / (TTL / 3) {
                    self.now_ms += (ms - step * (TTL / 3)).min(TTL / 3);
                    self.beat();
                }
            }
            _ => {}
        }
        None
    }

    /// How the account stands for one who has nothing out.
    fn look(&mut self) -> Reply {
        let nothing = Statement { seed: Some(0), ..statement(self.kind, self.capacity) };
        let call = Call { replica: "looks", ttl_ms: TTL, replicas: 3, statements: &[nothing] };
        self.ledger.state(&call, self.now_ms)[0]
    }
}

fn act() -> impl Strategy<Value = Act> {
    let who = 0..3_usize;
    prop_oneof![
        6 => (who.clone(), 0..20_u64, 0..30_u64, 0..60_u64, prop::bool::weighted(0.9))
            .prop_map(|(who, least, more, spare, heard)| Act::Ask { who, least, more, spare, heard }),
        6 => (who.clone(), 0..40_u64).prop_map(|(who, units)| Act::Use { who, units }),
        1 => (who.clone(), 0..40_u64).prop_map(|(who, units)| Act::GiveBack { who, units }),
        1 => who.prop_map(|who| Act::Die { who }),
        3 => (0..30_000_i64).prop_map(|ms| Act::Wait { ms }),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    let bucket = (1..100_u64, prop_oneof![Just(1000_u64), Just(60_000)]);
    prop_oneof![
        2 => bucket.prop_map(|(limit, window_ms)| Kind::Bucket { limit, window_ms }),
        1 => Just(Kind::Calendar { starts: DAYS }),
        1 => Just(Kind::Slots),
    ]
}

proptest! {
    #[test]
    fn no_more_is_out_and_committed_than_there_is(
        kind in kind(), capacity in 0..200_u64, acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = World::new(kind, capacity);
        for act in &acts {
            let asker = match act { Act::Ask { who, .. } => *who, _ => 0 };
            let before = world.replicas[asker].out;
            if let Some(reply) = world.act(act) {
                let all = reply.committed + reply.others + before + reply.granted;
                prop_assert!(all <= capacity, "{} of {}: {:?}", all, capacity, reply);
            }
        }
        world.beat();
        let living = world.replicas.iter().filter(|replica| !replica.dead);
        let out: u64 = living.map(|replica| replica.out).sum();
        prop_assert!(world.look().others >= out, "granted less what was used or returned is out");
        world.act(&Act::Wait { ms: TTL });
        prop_assert_eq!(world.look().others, out, "and nothing else, once the dead have expired");
        let used: u64 = world.uses.iter().map(|(_, units)| units).sum();
        let told = world.look().committed;
        prop_assert!(!matches!(kind, Kind::Calendar { .. }) || told <= used, "nothing is counted that was not used");
        let lost = world.replicas.iter().any(|replica| replica.dead);
        prop_assert!(!matches!(kind, Kind::Calendar { .. }) || lost || told == used, "all that was used is counted");
    }

    #[test]
    fn a_bucket_admits_its_size_and_its_rate_in_any_window(
        limit in 1..100_u64, capacity in 0..200_u64, acts in prop::collection::vec(act(), 1..80),
    ) {
        let mut world = World::new(Kind::Bucket { limit, window_ms: 60_000 }, capacity);
        for act in &acts {
            world.act(act);
        }
        for (from, _) in &world.uses {
            let within = world.uses.iter().filter(|(at, _)| at >= from && *at < from + 60_000);
            let used: u64 = within.map(|(_, units)| units).sum();
            prop_assert!(used <= limit + capacity, "{} of {} + {}", used, limit, capacity);
        }
    }

    #[test]
    fn a_call_that_is_repeated_changes_nothing(
        kind in kind(), capacity in 0..200_u64, acts in prop::collection::vec(act(), 1..40), units in 0..50_u64,
    ) {
        let mut world = World::new(kind, capacity);
        for act in &acts {
            world.act(act);
        }
        let asked = ask(units, world.statement(0));
        let once = Reply { swept: false, ..world.state(0, asked.clone()) };
        prop_assert_eq!(once, world.state(0, asked), "the same answer");
    }

    #[test]
    fn a_ledger_that_lost_writes_is_healed_by_the_next_statements(
        kind in kind(), before in prop::collection::vec(act(), 1..30), after in prop::collection::vec(act(), 1..30),
    ) {
        let mut world = World::new(kind, 150);
        before.iter().for_each(|act| { world.act(act); });
        world.beat();
        let kept = world.ledger.clone();
        // What a failover loses is young: no statement has expired since, and nobody died in just that time.
        let last = world.now_ms + TTL - 1;
        for act in &after {
            let ends = matches!(act, Act::Wait { ms } if world.now_ms + ms > last);
            if !ends && !matches!(act, Act::Die { .. }) {
                world.act(act);
            }
        }
        let used: i64 = world.replicas.iter().map(|replica| replica.total).sum();
        world.beat();
        let right = world.look();
        world.ledger = kept;
        world.beat();
        let healed = world.look();
        prop_assert!(healed.committed >= right.committed, "no use is forgotten: {:?} {:?}", healed, right);
        prop_assert!(i64::try_from(healed.committed).expect("small") <= used, "none is made up");
        let bucket = matches!(kind, Kind::Bucket { .. });
        prop_assert!(bucket || healed.committed == right.committed, "a period's sum is exact");
        world.act(&Act::Wait { ms: 2 * TTL });
        prop_assert_eq!(world.look().others, world.replicas.iter().filter(|one| !one.dead).map(|one| one.out).sum::<u64>(),
            "what is out is what replicas have");
    }

    #[test]
    fn dropping_what_is_unused_changes_no_answer(
        kind in kind(), capacity in 0..200_u64, acts in prop::collection::vec(act(), 1..60),
    ) {
        let mut world = World::new(kind, capacity);
        let mut pruned = World::new(kind, capacity);
        for act in &acts {
            pruned.ledger.prune(pruned.now_ms);
            let strip = |reply: Option<Reply>| reply.map(|reply| Reply { swept: false, ..reply });
            prop_assert_eq!(strip(world.act(act)), strip(pruned.act(act)), "as if it had been kept");
        }
    }
}

#[test]
fn statements_of_one_call_are_applied_in_their_order() {
    let mut ledger = Ledger::default();
    let mut names = BTreeMap::new();
    let statements: Vec<Statement> = (0..MAX_STATEMENTS)
        .map(|number| Statement { account: Arc::from(format!("a{}", number % 60)), ..ask(1, day(0)) })
        .collect();
    let call = Call { replica: "a", ttl_ms: TTL, replicas: 1, statements: &statements };
    for (statement, reply) in statements.iter().zip(ledger.state(&call, NOON)) {
        assert_eq!(reply.granted, 1, "each is answered for itself");
        *names.entry(statement.account.clone()).or_insert(0) += 1;
    }
    assert_eq!((ledger.len(), names.len()), (60, 60), "one account per name");
}
