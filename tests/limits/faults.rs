//! Faults: whatever happens to the store, nobody waits long for it, nobody is refused for it, hardly more is let in than
//! the limit, and afterwards the counters are what the usage rows say.

use super::books::{Allowed, requests, worst_ratio};
use super::fleet::{Fleet, Recipe, alone};
use super::load::{Load, Shot, chat, small};
use super::outage::{Fault, Servers};
use super::report::{answers, figure, quantile};
use super::standing;
use super::verdict::{Verdict, judged};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;

/// Before it happens.
const BEFORE: Duration = Duration::from_secs(2);
/// After it is over.
const AFTER: Duration = Duration::from_secs(3);
/// Within this, counters are what the rows say.
const REBUILT: Duration = Duration::from_secs(30);
/// What a request may wait for the store.
const WAIT: Duration = Duration::from_millis(20);
/// What a busy machine may add to that.
const NOISE: Duration = Duration::from_millis(5);
/// The limit per second of the tenants that are held to one.
const LIMIT: u32 = 20;
/// Their burst.
const BURST: u32 = 10;
/// What is admitted without the store, of what is allowed.
const LOCAL: f64 = 1.25;
/// Requests that each replica may have leased when it happens, and the one that is half there.
const LEASED: f64 = 8.0;

/// Four tenants: one at half its rate, one far over it, one whose use is compared with its rows, one without limits.
fn recipe(servers: &Servers) -> Recipe {
    Recipe::on(servers.store())
        .limits("hold_ttl: 3s")
        .tenant("steady", &format!("{{ limits: {{ requests: {LIMIT}/s, concurrency: 100 }} }}"))
        .tenant("greedy", &format!("{{ limits: {{ requests: {{ limit: {LIMIT}/s, burst: {BURST} }} }} }}"))
        .tenant("free", "{ limits: {} }")
        .tenant("counted", "{ limits: { requests: 100k/day, tokens: 10M/day } }")
}

/// What was sent while the store was whole, away, and whole again.
struct Story {
    struck: Instant,
    healed: Instant,
    steady: Vec<Shot>,
    greedy: Vec<Shot>,
    counted: Vec<Shot>,
    free: Vec<Shot>,
}

async fn tell(fleet: &Fleet, servers: &mut Servers, fault: Fault, dead: Duration) -> (Story, f64) {
    let all = fleet.addresses();
    let load = |tenant: &str, rate| Load::start(&all, &[small(fleet.key(tenant))], rate);
    let prompts: Vec<_> = (0..9).map(|n| chat(fleet.key("counted"), &"weir ".repeat(n), json!({}))).collect();
    let loads = [load("steady", LIMIT / 2), load("greedy", 2 * LIMIT), load("free", LIMIT)];
    let counted = Load::start(&all, &prompts, LIMIT / 2);
    tokio::time::sleep(BEFORE).await;
    tokio::task::block_in_place(|| servers.strike(fault, "greedy"));
    let struck = Instant::now();
    tokio::time::sleep(if fault.lasts() { dead } else { Duration::ZERO }).await;
    let up = fleet.metric("weir_limit_store_up", &[]);
    let healed = Instant::now();
    tokio::task::block_in_place(|| servers.heal(fault, "greedy"));
    tokio::time::sleep(AFTER).await;
    let [steady, greedy, free] = loads.map(Load::finish);
    let (steady, greedy, free, counted) = tokio::join!(steady, greedy, free, counted.finish());
    (Story { struck, healed, steady, greedy, counted, free }, up)
}

async fn run(law: &str, fault: Fault, dead: Duration) -> Verdict {
    let mut servers = tokio::task::block_in_place(|| Servers::for_fault(fault));
    let fleet = Fleet::start(&recipe(&servers)).await;
    let (story, up) = tell(&fleet, &mut servers, fault, dead).await;
    let mut verdict = Verdict::default();
    if fault.lasts() {
        verdict.hold(up == 0.0, || format!("{up} replicas do not leave the store alone"));
    }
    no_false_refusal(law, &story, &mut verdict);
    nobody_waits(law, &story, &mut verdict);
    by_their_own_clock(law, &fleet);
    little_too_much(law, &story, fault, &mut verdict);
    let admitted = story.counted.iter().filter(|shot| shot.admitted()).count();
    fleet.rows("counted", admitted).await;
    for replica in 0..fleet.replicas.len() {
        let took = standing::agree(REBUILT, || standing::counted(&fleet, replica, "counted")).await;
        figure(law, &format!("replica {replica}: counters = rows after, s"), took.as_secs_f64(), "<= 30");
    }
    let up = fleet.metric("weir_limit_store_up", &[]);
    verdict.hold(up == fleet.replicas.len() as f64, || format!("{up} replicas use the store again"));
    verdict
}

async fn withstand(fault: Fault, dead: Duration) {
    let _machine = alone().await;
    let law = format!("{fault:?}");
    judged(&law, || run(&law, fault, dead)).await;
}

/// Who stays within their rate is let in, at any time.
fn no_false_refusal(law: &str, story: &Story, verdict: &mut Verdict) {
    for (name, shots) in [("half its rate", &story.steady), ("far below", &story.counted), ("no limits", &story.free)] {
        let refused: Vec<Shot> = shots.iter().filter(|shot| !shot.admitted()).cloned().collect();
        figure(law, &format!("{name}: refused / sent"), refused.len() as f64 / shots.len() as f64, "0");
        let when: Vec<String> = refused.iter().map(|shot| story.when(shot)).collect();
        verdict.hold(refused.is_empty(), || format!("{name}: {}, sent {when:?}", answers(&refused)));
    }
    let told = story.greedy.iter().all(|shot| [200, 429].contains(&shot.status));
    verdict.hold(told, || format!("far over it: {}", answers(&story.greedy)));
}

impl Story {
    /// When a request was sent, in words.
    fn when(&self, shot: &Shot) -> String {
        let since = |from: Instant| (shot.sent - from).as_secs_f64();
        match (shot.sent < self.struck, shot.sent < self.healed) {
            (true, _) => "before".to_owned(),
            (false, true) => format!("{:.2} s into it", since(self.struck)),
            (false, false) => format!("{:.2} s after", since(self.healed)),
        }
    }
}

/// The fault adds no more to a request than it may wait for the store: beside those of a tenant without limits, which were
/// sent at the same time and never ask it.
fn nobody_waits(law: &str, story: &Story, verdict: &mut Verdict) {
    let since = |shots: &[Shot]| -> Vec<f64> {
        let part = shots.iter().filter(|shot| shot.sent >= story.struck);
        part.map(|shot| shot.waited().as_secs_f64() * 1e3).collect()
    };
    let free = since(&story.free);
    let limited = [&story.steady, &story.greedy, &story.counted].map(|shots| since(shots)).concat();
    let added = |share| quantile(limited.clone(), share) - quantile(free.clone(), share);
    let slow = quantile(free.clone(), 0.99);
    figure(law, "wait without limits, p99, ms", slow, "-");
    figure(law, "added by limits, p50, ms", added(0.5), "-");
    figure(law, "added by limits, p99, ms", added(0.99), "<= 20 (+ 5)");
    figure(law, "added by limits, most, ms", added(1.0), "-");
    let most = (WAIT + NOISE).as_secs_f64() * 1e3;
    verdict.hold(added(0.99) <= most, || format!("{:.1} ms are added to one request in a hundred", added(0.99)));
    if slow > WAIT.as_secs_f64() * 1e3 {
        verdict.busy(format!("one request in a hundred without limits took {slow:.0} ms"));
    }
}

/// The proxies' own clock knows nothing of a client's noise. What a thread waits for a processor is still in it, so that
/// it is told and not held.
fn by_their_own_clock(law: &str, fleet: &Fleet) {
    let waited = fleet.metric("weir_limit_wait_seconds_count", &[]);
    let longer = waited - fleet.metric("weir_limit_wait_seconds_bucket", &["le=\"0.025\""]);
    figure(law, "requests that waited more than 25 ms for the store", longer, "0");
}

/// While each replica counts alone they let in their shares, and together little more than the limit; and afterwards no
/// less than before.
fn little_too_much(law: &str, story: &Story, fault: Fault, verdict: &mut Verdict) {
    let part = |from: Instant, to: Instant| -> Vec<Shot> {
        story.greedy.iter().filter(|shot| shot.sent >= from && shot.ended <= to).cloned().collect()
    };
    let admitted = |shots: &[Shot]| shots.iter().filter(|shot| shot.admitted()).count() as f64;
    let (rate, burst) = (f64::from(LIMIT), f64::from(BURST));
    let most = Allowed { per_second: LOCAL * rate, burst: LOCAL * burst + LEASED };
    if fault.lasts() {
        let (dead, seconds) = (part(story.struck, story.healed), (story.healed - story.struck).as_secs_f64());
        figure(law, "admitted without the store / limit", admitted(&dead) / (rate * seconds), "<= 1.25 + burst");
        let little = admitted(&dead) <= most.within(seconds);
        verdict.hold(little, || format!("without the store, in {seconds:.2} s: {}", answers(&dead)));
    }
    let worst = worst_ratio(&requests(&story.greedy), most);
    figure(law, "whole story: worst span / (1.25 x limit + burst)", worst, "<= 1.00");
    verdict.hold(worst <= 1.0, || format!("{worst:.3} of what a span allows: {}", answers(&story.greedy)));
    let last = story.greedy.iter().map(|shot| shot.ended).max().expect("requests were sent");
    let after = part(story.healed + AFTER / 3, last);
    let again = admitted(&after) / (rate * (last - story.healed - AFTER / 3).as_secs_f64());
    figure(law, "admitted after it / limit", again, "> 0.5");
    verdict.hold(again > 0.5, || format!("whoever is over the limit gets it again: {}", answers(&after)));
}

/// Long enough for the breaker to open and some windows to pass.
const SHORT: Duration = Duration::from_secs(3);

macro_rules! laws {
    ($($name:ident: $fault:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            withstand(Fault::$fault, SHORT).await;
        })*
    };
}

laws! {
    a_store_that_restarts_with_its_data_is_gone_and_back: Restarted,
    a_store_that_restarts_empty_is_filled_from_the_rows: Emptied,
    a_store_that_pauses_holds_nobody_up: Paused,
    a_store_that_answers_late_holds_nobody_up: Slow,
    a_store_whose_connections_are_cut_holds_nobody_up: Cut,
    a_store_that_nobody_can_reach_holds_nobody_up: Refused,
    a_store_in_a_black_hole_holds_nobody_up: BlackHole,
    a_store_out_of_memory_is_a_fault_and_no_refusal: OutOfMemory,
    a_store_that_forgets_everything_is_filled_from_the_rows: Flushed,
    a_cluster_that_loses_a_node_and_its_data_recovers: NodeDown,
    a_failover_that_loses_writes_is_made_up_for: FailedOver,
}
