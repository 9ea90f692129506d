//! Laws of the way to Redis, each on real servers: what is a fault, how long it may cost, and that it is over when it is.

use crate::chaos::{Chaos, Weather};
use crate::servers::{Redis, RedisCluster, RedisSentinels};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use weir::config::snapshot::{LimitBackend, RedisServers, Secret};
use weir::domain::limit::OnStoreError;
use weir::io::quota::ledgers::{Group, LedgerFault, Ledgers};
use weir::io::quota::redis::RedisLedgers;
use weir::logic::quota::ledger::{Call, Kind, Reply, Statement};

/// The longest that may be configured: the machine has other work, too.
const TIMEOUT: Duration = Duration::from_millis(20);
/// What a busy machine may add to a time that is promised.
const BUSY: Duration = Duration::from_millis(60);
/// How long after a fault is over calls may still be left alone: about a second, on a busy machine.
const BACK: Duration = Duration::from_secs(3);
/// How long anything may take before the test has failed.
const DEADLINE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(10);

fn secret(text: &str) -> Secret {
    Secret(Arc::new(text.as_bytes().to_vec().into()))
}

fn backend(servers: RedisServers) -> LimitBackend {
    LimitBackend { servers, timeout: TIMEOUT, on_store_error: OnStoreError::Local, prefix: "weir".into() }
}

fn single(url: &str) -> LimitBackend {
    backend(RedisServers::Single(secret(url)))
}

fn through(chaos: &Chaos) -> LimitBackend {
    single(&format!("redis://127.0.0.1:{}/0", chaos.port()))
}

async fn started(backend: &LimitBackend) -> Arc<RedisLedgers> {
    let ledgers = RedisLedgers::start(backend, &Handle::current()).expect("it can be read");
    assert!(ledgers.ready(DEADLINE).await, "the store is there, so it can be used");
    ledgers
}

fn acme() -> Group {
    Group::Tenant("acme".into())
}

/// A bucket that hardly drains while a test runs: all that has been committed so far, and how many more are wanted.
fn bucket(total: i64, want: u64) -> Statement {
    Statement {
        account: "tenant|gold.requests".into(),
        kind: Kind::Bucket { limit: 1, window_ms: 3_600_000 },
        capacity: 1_000,
        total,
        acked: 0,
        period: 0,
        outstanding: 0,
        least: want,
        want,
        spare: 0,
        floor: 0,
        seed: Some(0),
    }
}

async fn stated(ledgers: &RedisLedgers, statement: Statement) -> Result<Reply, LedgerFault> {
    let call = Call { replica: "one", ttl_ms: 60_000, replicas: 1, statements: &[statement] };
    ledgers.state(&acme(), &call).await.map(|replies| replies[0])
}

/// The first answer, and how long it took to come, with all the tries that failed.
async fn at_last(ledgers: &RedisLedgers, statement: &Statement) -> (Reply, Duration) {
    let start = Instant::now();
    loop {
        match stated(ledgers, statement.clone()).await {
            Ok(reply) => return (reply, start.elapsed()),
            Err(fault) => assert!(start.elapsed() < DEADLINE, "still: {fault}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Calls until the breaker is open; gives the faults before, and the longest time that one took.
async fn until_open(ledgers: &RedisLedgers) -> (Vec<LedgerFault>, Duration) {
    let (mut faults, mut longest) = (Vec::new(), Duration::ZERO);
    let end = Instant::now() + DEADLINE;
    while ledgers.is_up() {
        let start = Instant::now();
        // The keeper's own look may have opened it just now: that is no fault of a call.
        if let Err(fault) = stated(ledgers, bucket(0, 1)).await
            && fault != LedgerFault::Open
        {
            longest = longest.max(start.elapsed());
            faults.push(fault);
        }
        assert!(Instant::now() < end, "the breaker does not open: {faults:?}");
    }
    (faults, longest)
}

/// What is told in the log, as text, from here on in this thread.
fn listen_to_the_log() -> (tracing::subscriber::DefaultGuard, impl Fn() -> String) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write = file.reopen().expect("the same file");
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(std::sync::Mutex::new(write)).finish();
    let guard = tracing::subscriber::set_default(subscriber);
    (guard, move || std::fs::read_to_string(file.path()).expect("the log"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_the_server_does_not_know_is_sent() {
    let redis = Redis::start();
    let ledgers = started(&single(&redis.url())).await;
    assert_eq!(at_last(&ledgers, &bucket(3, 5)).await.0.granted, 5, "the first call brings the script along");
    redis.cli(&["SCRIPT", "FLUSH"]);
    let (reply, _) = at_last(&ledgers, &bucket(3, 0)).await;
    assert_eq!(reply.committed, 3, "a server that has forgotten the script is sent it again");
    assert_eq!(ledgers.counts().opened.load(std::sync::atomic::Ordering::Relaxed), 0, "that is no fault");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_claimed_once_and_replicas_are_counted() {
    let redis = Redis::start();
    let ledgers = started(&single(&redis.url())).await;
    let claim = |by: &'static str, ttl: u64| {
        let (ledgers, ttl) = (Arc::clone(&ledgers), Duration::from_millis(ttl));
        async move { ledgers.claim(&acme(), "reconcile", by, ttl).await.expect("a store that is well") }
    };
    assert!(claim("one", 300).await, "nobody has it");
    assert!(!claim("two", 300).await, "now somebody has");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert!(claim("two", 300).await, "it is free again when its time is over");
    let renew = |by: &'static str, ttl: u64| {
        let (ledgers, ttl) = (Arc::clone(&ledgers), Duration::from_millis(ttl));
        async move { ledgers.renew(&acme(), "reconcile", by, ttl).await.expect("a store that is well") }
    };
    assert!(!renew("one", 60_000).await, "who does not have it cannot keep it");
    assert!(renew("two", 60_000).await, "who has it can");
    tokio::time::sleep(Duration::from_millis(350)).await;
    assert!(!claim("one", 300).await, "and it lasts");
    let ttl = Duration::from_secs(60);
    let mut counted = Vec::new();
    for replica in ["one", "two", "one"] {
        counted.push(ledgers.beat(replica, ttl).await.expect("a store that is well"));
    }
    assert_eq!(counted, [1, 2, 2], "each replica counts once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_it_closes_its_connections() {
    let redis = Redis::start();
    let ledgers = started(&single(&redis.url())).await;
    let clients = |said: &str| said.lines().count();
    assert_eq!(clients(&redis.cli(&["CLIENT", "LIST"])), 2, "ours, and the one that asks");
    drop(ledgers);
    redis.wait_until(&["CLIENT", "LIST"], |said| clients(said) == 1);
    // Longer than between two looks of the keeper.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(clients(&redis.cli(&["CLIENT", "LIST"])), 1, "nothing connects again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_nothing_costs_the_timeout_three_times_and_then_nothing() {
    let redis = Redis::start();
    let ledgers = started(&single(&redis.url())).await;
    at_last(&ledgers, &bucket(1, 1)).await;
    redis.pause();
    let (faults, longest) = until_open(&ledgers).await;
    assert!(faults.len() <= 3, "three at most, the keeper's looks count too: {faults:?}");
    assert!(faults.iter().all(|fault| *fault == LedgerFault::Timeout(TIMEOUT)), "they are late: {faults:?}");
    assert!(longest < TIMEOUT + BUSY, "and cost no more than the timeout: {longest:?}");
    let start = Instant::now();
    for _ in 0..1_000 {
        let said = stated(&ledgers, bucket(1, 1)).await;
        assert!(matches!(said, Err(LedgerFault::Open)), "nobody is sent there: {said:?}");
    }
    assert!(start.elapsed() < BUSY, "1000 calls cost nothing: {:?}", start.elapsed());
    redis.resume();
    let (reply, after) = at_last(&ledgers, &bucket(1, 0)).await;
    assert!(after < BACK, "it is used again soon: {after:?}");
    assert_eq!(reply.committed, 1, "and nothing was counted twice by what it heard late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_bad_network_is_bounded_and_survived() {
    let redis = Redis::start();
    let late = Weather::Delay(Duration::from_millis(80));
    for weather in [late, Weather::BlackHole, Weather::Forgotten, Weather::Cut, Weather::Refuse] {
        let chaos = Chaos::before(redis.port());
        let ledgers = started(&through(&chaos)).await;
        let before = at_last(&ledgers, &bucket(0, 0)).await.0;
        chaos.set(weather);
        let (faults, longest) = until_open(&ledgers).await;
        assert!(longest < TIMEOUT + BUSY, "{weather:?}: no call waits longer than the timeout: {longest:?} {faults:?}");
        // Longer than connecting may take, so that an attempt within the bad weather ends in it.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(!ledgers.is_up(), "{weather:?}: while it lasts nobody is sent there");
        chaos.set(Weather::Fair);
        let (reply, after) = at_last(&ledgers, &bucket(0, 0)).await;
        assert!(after < BACK, "{weather:?}: it is used again soon: {after:?}");
        assert_eq!(reply.committed, before.committed, "{weather:?}: nothing was counted by it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_started_anew_is_used_within_a_second_or_two() {
    let mut redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let ledgers = started(&single(&redis.url())).await;
    at_last(&ledgers, &bucket(7, 0)).await;
    redis.kill();
    until_open(&ledgers).await;
    redis.start_again();
    let (reply, after) = at_last(&ledgers, &bucket(7, 0)).await;
    assert!(after < BACK, "it is used again soon: {after:?}");
    assert_eq!(reply.committed, 7, "what it had written is there, and counts once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_memory_is_a_fault_and_not_a_denial() {
    let redis = Redis::start();
    let ledgers = started(&single(&redis.url())).await;
    at_last(&ledgers, &bucket(0, 0)).await;
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let (faults, _) = until_open(&ledgers).await;
    let named = |fault: &LedgerFault| matches!(fault, LedgerFault::Failed(words) if words.contains("out of memory"));
    assert!(faults.iter().all(named), "it says what is wrong: {faults:?}");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(!ledgers.is_up(), "that it answers a PING is not enough");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let (_, after) = at_last(&ledgers, &bucket(0, 0)).await;
    assert!(after < BACK, "it is used again soon: {after:?}");
}

#[tokio::test]
async fn a_wrong_password_is_told_without_the_password() {
    let redis = Redis::start_with(&["--requirepass", "open-sesame"]);
    let (_guard, log) = listen_to_the_log();
    let address = format!("127.0.0.1:{}", redis.port());
    for login in ["user:hush-hush@", ":hush-hush@", ""] {
        let ledgers = RedisLedgers::start(&single(&format!("redis://{login}{address}/0")), &Handle::current());
        let ledgers = ledgers.expect("it can be read");
        assert!(!ledgers.ready(Duration::from_secs(1)).await, "{login:?}: it is never in use");
        assert_eq!(stated(&ledgers, bucket(0, 1)).await, Err(LedgerFault::Open), "{login:?}: so nobody is sent there");
        assert!(!format!("{ledgers:?}").contains("hush"), "{login:?}: nor is it shown in the debugger");
    }
    let told = log();
    assert_eq!(told.matches("does not accept this user and password").count(), 3, "once each, not at each try: {told}");
    assert!(told.contains(&address), "where: {told}");
    assert!(!told.contains("hush") && !told.contains("sesame"), "no secret: {told}");
    let ledgers = started(&single(&redis.url())).await;
    assert!(ledgers.is_up(), "with the right one it is used");
}

#[tokio::test]
async fn a_url_that_cannot_be_read_is_not_repeated() {
    for url in ["http://user:hush@host/", "redis://user:hush@host:port/", "hush", ""] {
        let fault = RedisLedgers::start(&single(url), &Handle::current()).expect_err("no Redis").to_string();
        assert!(fault.contains("limits.backend.redis") && !fault.contains("hush"), "{url}: {fault}");
    }
}

#[tokio::test]
async fn a_server_that_may_drop_counters_is_told_once() {
    let (_guard, log) = listen_to_the_log();
    let told = || log().matches("may drop counters").count();
    for (memory, policy, times) in [("0", "allkeys-lru", 0), ("100mb", "noeviction", 0), ("100mb", "allkeys-lru", 1)] {
        let redis = Redis::start_with(&["--maxmemory", memory, "--maxmemory-policy", policy]);
        let _ledgers = started(&single(&redis.url())).await;
        let end = Instant::now() + DEADLINE;
        while told() < times && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        assert_eq!(told(), times, "{memory} {policy}: {}", log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_is_followed_and_nothing_is_lost() {
    let cluster = RedisCluster::start(3);
    let urls = cluster.urls().iter().map(|url| secret(url)).collect();
    let ledgers = started(&backend(RedisServers::Cluster(urls))).await;
    assert_eq!(at_last(&ledgers, &bucket(5, 3)).await.0.granted, 3, "the cluster grants");
    let (from, slot) = cluster.owner("weir:{t:acme}:epoch");
    let to = (from + 1) % 3;
    let count = |node: usize| cluster.nodes[node].cli(&["CLUSTER", "COUNTKEYSINSLOT", &slot.to_string()]);
    assert_ne!(count(from), "0", "the account lives in its tenant's slot");
    cluster.begin_to_move(slot, from, to);
    let mut claimed = false;
    while !claimed {
        claimed = ledgers.claim(&acme(), "moving", "one", Duration::from_secs(60)).await.is_ok();
    }
    assert_eq!(
        count(to),
        "3",
        "a key that the old owner has no more is asked of the new one, beside the two that moved"
    );
    cluster.end_to_move(slot, from, to);
    let (reply, after) = at_last(&ledgers, &bucket(9, 0)).await;
    assert_eq!(reply.committed, 9, "5 were there, and 4 came");
    assert!(after < BACK, "within about a second: {after:?}");
    assert_eq!((count(from).as_str(), ledgers.is_up()), ("0", true), "it was counted at the new place");
    let other = Group::Tenant("another".into());
    let call = Call { replica: "one", ttl_ms: 60_000, replicas: 1, statements: &[bucket(1, 1)] };
    let reply = ledgers.state(&other, &call).await.expect("a cluster that is well")[0];
    assert_eq!((reply.granted, reply.committed), (1, 1), "another tenant has another slot and another account");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_a_cluster_that_is_gone_is_survived() {
    let mut cluster = RedisCluster::start_with_replicas(3);
    // Only the first is known from the start: the others are found.
    let ledgers = started(&backend(RedisServers::Cluster(vec![secret(&cluster.nodes[0].url())]))).await;
    at_last(&ledgers, &bucket(4, 0)).await;
    let (owner, _) = cluster.owner("weir:{t:acme}:epoch");
    let known = cluster.nodes[owner].cli(&["WAIT", "1", "5000"]);
    assert_ne!(known, "0", "the replica has it, too");
    cluster.nodes[owner].kill();
    let (faults, longest) = until_open(&ledgers).await;
    assert!(longest < TIMEOUT + BUSY, "no call waits longer than the timeout: {longest:?} {faults:?}");
    let (reply, _) = at_last(&ledgers, &bucket(6, 0)).await;
    assert_eq!(reply.committed, 6, "its replica took over, with what it knew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_was_down_as_a_whole_is_used_again() {
    let mut cluster = RedisCluster::start(3);
    let urls = cluster.urls().iter().map(|url| secret(url)).collect();
    let ledgers = started(&backend(RedisServers::Cluster(urls))).await;
    at_last(&ledgers, &bucket(1, 0)).await;
    cluster.nodes.iter_mut().for_each(Redis::kill);
    let (faults, longest) = until_open(&ledgers).await;
    assert!(longest < TIMEOUT + BUSY, "no call waits longer than the timeout: {longest:?} {faults:?}");
    cluster.nodes.iter_mut().for_each(Redis::start_again);
    cluster.wait_until_ok();
    let (_, after) = at_last(&ledgers, &bucket(1, 0)).await;
    assert!(after < BACK, "it is used again soon: {after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_the_new_master_is_found() {
    let mut world = RedisSentinels::start(3);
    let sentinels = world.urls().iter().map(|url| secret(url)).collect();
    let servers = RedisServers::Sentinel { sentinels, master: world.master().to_owned() };
    let ledgers = started(&backend(servers)).await;
    at_last(&ledgers, &bucket(4, 0)).await;
    world.fail_over();
    world.wait_for_master(1);
    world.servers[0].wait_until(&["INFO", "replication"], |said| said.contains("master_link_status:up"));
    let (reply, after) = at_last(&ledgers, &bucket(6, 0)).await;
    assert_eq!(reply.committed, 6, "what the old master knew, the new one knows");
    assert!(after < BACK, "both live: it is found within about a second: {after:?}");
    world.servers[1].wait_until(&["WAIT", "1", "1000"], |said| said != "0");
    world.servers[1].kill();
    world.stop_sentinel(2);
    until_open(&ledgers).await;
    let (reply, _) = at_last(&ledgers, &bucket(7, 0)).await;
    assert_eq!(
        (world.current(), reply.committed),
        (0, 7),
        "one is dead, and one of three sentinels: the other is found"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_the_sentinels_have_given_up_is_left_though_it_answers() {
    let world = RedisSentinels::start(1);
    let sentinels = world.urls().iter().map(|url| secret(url)).collect();
    let servers = RedisServers::Sentinel { sentinels, master: world.master().to_owned() };
    let ledgers = started(&backend(servers)).await;
    at_last(&ledgers, &bucket(4, 0)).await;
    world.divide();
    let later = Statement { account: "tenant|gold.later".into(), ..bucket(5, 0) };
    let end = Instant::now() + DEADLINE;
    while world.servers[1].cli(&["KEYS", "*gold.later"]).is_empty() {
        assert!(Instant::now() < end, "it does not go where the sentinels say");
        at_last(&ledgers, &later).await;
    }
    assert_eq!(world.servers[0].cli(&["ROLE"]).lines().next(), Some("master"), "while the old one still takes writes");
}

#[tokio::test]
async fn tls_is_spoken_with_servers_that_the_system_trusts_only() {
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).expect("parameters");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    let trusted = authority.self_signed(&authority_key).expect("signed").pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let own = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).expect("parameters");
    let own = own.signed_by(&key, &issuer).expect("signed").pem();
    let redis = Redis::start_with_tls(&own, &key.serialize_pem());
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), trusted).expect("written");
    // The system's roots are read from where the environment says, which is a process's own.
    let ask = |roots: Option<&std::path::Path>| {
        let mut child = std::process::Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "limits::store::a_child_connects_by_tls", "--include-ignored"]);
        child.env("WEIR_TEST_URL", redis.url()).env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
        child.envs(roots.map(|roots| ("SSL_CERT_FILE", roots))).output().expect("it runs").status.success()
    };
    assert!(ask(Some(file.path())), "its authority is among the system's roots");
    assert!(!ask(None), "nobody vouches for the server");
}

#[tokio::test]
#[ignore = "a part of the test above, in a process of its own"]
async fn a_child_connects_by_tls() {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let Ok(url) = std::env::var("WEIR_TEST_URL") else { return };
    let ledgers = RedisLedgers::start(&single(&url), &Handle::current()).expect("it can be read");
    assert!(ledgers.ready(Duration::from_secs(3)).await, "a server that is trusted is used");
    assert_eq!(at_last(&ledgers, &bucket(2, 1)).await.0.granted, 1, "and answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_may_be_late_and_the_store_stays_in_use() {
    let redis = Redis::start();
    let ledgers = started(&single(&redis.url())).await;
    at_last(&ledgers, &bucket(0, 1)).await;
    // Writes wait; a PING is answered.
    redis.cli(&["CLIENT", "PAUSE", "60000", "WRITE"]);
    let statements = [bucket(0, 0)];
    let call = Call { replica: "one", ttl_ms: 60_000, replicas: 1, statements: &statements };
    let group = acme();
    let calls = (0..10).map(|_| ledgers.tell(&group, &call));
    let told = futures_util::future::join_all(calls).await;
    let late = told.iter().filter(|told| matches!(told, Err(LedgerFault::Timeout(_)))).count();
    assert_eq!((late, ledgers.is_up()), (10, true), "{told:?}");
    let (faults, _) = until_open(&ledgers).await;
    assert!(!faults.is_empty() && faults.len() <= 3, "requests open it as ever: {faults:?}");
    redis.cli(&["CLIENT", "UNPAUSE"]);
}
