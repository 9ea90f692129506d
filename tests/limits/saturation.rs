//! Saturation: four replicas admit what one limit allows, all together, no more and hardly less.

use super::books::{Allowed, requests, worst_ratio};
use super::fleet::{Fleet, Recipe, Store, alone};
use super::load::{Load, Shot, small};
use super::report::{answers, figure};
use super::verdict::{Verdict, judged};
use crate::servers::{Redis, RedisCluster};
use std::time::Duration;

/// What is admitted of what is allowed, at least.
const LEAST: f64 = 0.97;
/// What a clock's grain and the rounding of one request may add.
const GRAIN: f64 = 1e-3;

/// One tenant under more load than its limit.
struct Case {
    name: &'static str,
    /// The limit on requests, as YAML.
    limit: &'static str,
    allowed: Allowed,
    /// Requests per second sent.
    offered: u32,
}

/// The same limit with a burst that is a fraction of it, and with the default.
struct Form {
    cases: [Case; 2],
    span: Duration,
}

fn short() -> Form {
    let case = |name, limit, burst| Case { name, limit, allowed: Allowed { per_second: 20.0, burst }, offered: 60 };
    Form {
        cases: [case("small", "{ limit: 20/s, burst: 5 }", 5.0), case("default", "20/s", 20.0)],
        span: Duration::from_secs(8),
    }
}

fn full() -> Form {
    let allowed = |burst| Allowed { per_second: 1_000.0 / 60.0, burst };
    let case = |name, limit, burst| Case { name, limit, allowed: allowed(burst), offered: 90 };
    Form {
        cases: [case("small", "{ limit: 1000/min, burst: 20 }", 20.0), case("default", "1000/min", 1_000.0)],
        span: Duration::from_secs(60),
    }
}

/// Saturates both tenants of a form at the same time; all requests of each.
async fn saturate(fleet: &Fleet, form: &Form) -> [Vec<Shot>; 2] {
    let load = |case: &Case| Load::start(&fleet.addresses(), &[small(fleet.key(case.name))], case.offered);
    let [first, second] = &form.cases;
    let loads = (load(first).run_for(form.span), load(second).run_for(form.span));
    let (first, second) = tokio::join!(loads.0, loads.1);
    [first, second]
}

/// Admitted of what was allowed from the first request to the last answer.
fn share(shots: &[Shot], allowed: Allowed) -> f64 {
    let first = shots.iter().map(|shot| shot.sent).min().expect("requests were sent");
    let last = shots.iter().map(|shot| shot.ended).max().expect("requests were sent");
    let admitted = shots.iter().filter(|shot| shot.admitted()).count();
    admitted as f64 / allowed.within((last - first).as_secs_f64())
}

/// One run of both cases on a fleet of so many replicas.
async fn run(law: &str, store: Store, replicas: usize, form: &Form) -> Verdict {
    let mut recipe = form.cases.iter().fold(Recipe::on(store), |recipe, case| {
        recipe.tenant(case.name, &format!("{{ limits: {{ requests: {} }} }}", case.limit))
    });
    recipe.replicas = replicas;
    let fleet = Fleet::start(&recipe).await;
    let all = saturate(&fleet, form).await;
    let mut verdict = Verdict::default();
    for (case, shots) in form.cases.iter().zip(&all) {
        let (share, worst) = (share(shots, case.allowed), worst_ratio(&requests(shots), case.allowed));
        figure(law, &format!("{} burst: admitted / allowed", case.name), share, "0.97 .. 1.00");
        figure(law, &format!("{} burst: worst span / allowed", case.name), worst, "<= 1.00");
        let said = answers(shots);
        verdict.hold(shots.iter().all(|shot| [200, 429].contains(&shot.status)), || said.clone());
        verdict.hold(share >= LEAST, || format!("{} burst: {share:.4} of what is allowed: {said}", case.name));
        verdict.hold(worst <= 1.0 + GRAIN, || format!("{} burst: {worst:.4} of a span's: {said}", case.name));
        fleet.rows(case.name, shots.iter().filter(|shot| shot.admitted()).count()).await;
    }
    verdict.of(&fleet)
}

async fn hold(law: &str, store: Store, form: &Form) {
    let _machine = alone().await;
    judged(law, || run(law, store.clone(), 4, form)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_replicas_on_one_redis_admit_what_one_limit_allows() {
    let redis = tokio::task::block_in_place(Redis::start);
    hold("requests, one Redis", Store::single(&redis).patient(), &short()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: make limits"]
async fn four_replicas_on_one_redis_admit_what_one_limit_allows_for_a_minute() {
    let redis = tokio::task::block_in_place(Redis::start);
    hold("requests, one Redis", Store::single(&redis), &full()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_replicas_on_a_cluster_admit_what_one_limit_allows() {
    let cluster = tokio::task::block_in_place(|| RedisCluster::start(3));
    hold("requests, cluster of three", Store::cluster(&cluster.urls()).patient(), &short()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute: make limits"]
async fn four_replicas_on_a_cluster_admit_what_one_limit_allows_for_a_minute() {
    let cluster = tokio::task::block_in_place(|| RedisCluster::start(3));
    hold("requests, cluster of three", Store::cluster(&cluster.urls()), &full()).await;
}

/// One replica that counts alone: the measure itself is right.
#[tokio::test(flavor = "multi_thread")]
async fn one_replica_alone_admits_what_one_limit_allows() {
    let _machine = alone().await;
    let (law, form) = ("requests, in process", short());
    judged(law, || run(law, Store::none(), 1, &form)).await;
}
