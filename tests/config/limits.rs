//! Limits, budgets and prices in the configuration. Each wrong value at its place, and every key back from the
//! effective text.

use super::identity::{Secrets, comes_back, each_is_told};
use super::{GOOD, findings, text};
use std::sync::Arc;
use weir::config::Loaded;
use weir::config::section::rules::{MAX_PLAN_RULES, MAX_RULES};
use weir::config::snapshot::RedisServers;
use weir::domain::limit::{Dimension, Mode, OnStoreError, Priority, Window};
use weir::domain::money::TokenPrices;
use weir::logic::quota::plan::LimitRule;

/// A plan `p` that tenant `acme` has.
fn with_plan(settings: &str) -> String {
    format!("{GOOD}plans: {{ p: {{ {settings} }} }}\ntenants: {{ acme: {{ plan: p }} }}\n")
}

fn with_limit(settings: &str) -> String {
    with_plan(&format!("limits: {{ {settings} }}"))
}

fn with_budget(settings: &str) -> String {
    with_plan(&format!("budget: {settings}"))
}

fn with_limits(settings: &str) -> String {
    format!("{GOOD}limits: {{ {settings} }}\n")
}

fn with_redis(settings: &str) -> String {
    with_limits(&format!("backend: {{ redis: {{ {settings} }} }}"))
}

fn rule(rules: &[Arc<LimitRule>], name: &str) -> Arc<LimitRule> {
    let names: Vec<_> = rules.iter().map(|rule| rule.name.as_ref()).collect();
    Arc::clone(&rules[names.iter().position(|one| *one == name).unwrap_or_else(|| panic!("{name} in {names:?}"))])
}

fn plan(loaded: &Loaded) -> Arc<weir::logic::quota::plan::Plan> {
    Arc::clone(&loaded.snapshot.plans[&"p".into()])
}

/// Findings without their place: `W007 tenants.acme.budget`.
fn warned(source: &str) -> Vec<String> {
    let loaded = text(source).unwrap_or_else(|report| panic!("{report}"));
    loaded.warnings.iter().map(|found| format!("{} {}", found.code.id(), found.path)).collect()
}

#[test]
fn every_kind_of_limit_comes_back_with_all_that_is_said_of_it() {
    let loaded = comes_back(
        &with_plan(
            "priority: low, limits: { requests: [{ limit: 600/min, burst: 100, reserve: 20%, when: \"request.model != '#'\" }, 9k/day],
             tokens: { limit: 2M/h, strict: true, mode: shadow, on_store_error: open }, input_tokens: 5k/s,
             output_tokens: { limit: 1M/month, reserve: 5, on_store_error: closed }, concurrency: { limit: 9, reserve: 40% },
             max_tokens_per_request: 7 }, models: { \"gpt-4*\": { requests: 60/min, concurrency: 3 }, llama: { tokens: 1k/day } }",
        ),
        "priority: low",
    );
    let plan = plan(&loaded);
    let names: Vec<_> = plan.rules.iter().map(|rule| rule.name.as_ref()).collect();
    let expected = [
        "p.requests",
        "p.requests.2",
        "p.tokens",
        "p.input_tokens",
        "p.output_tokens",
        "p.concurrency",
        "p.models.gpt-4*.requests",
        "p.models.gpt-4*.concurrency",
        "p.models.llama.tokens",
    ];
    assert_eq!(names, expected, "each rule by its own name, in the order of the keys");
    assert_eq!(
        (plan.priority, plan.max_tokens_per_request.map(|most| most.0)),
        (Priority::Low, Some(7)),
        "the plan's own"
    );
    let requests = rule(&plan.rules, "p.requests");
    assert_eq!((requests.limit, requests.burst, requests.reserve), (600, 100, 20), "a fifth of the bucket");
    assert_eq!(requests.when.as_ref().map(|when| when.text()), Some("request.model != '#'"), "its condition");
    let tokens = rule(&plan.rules, "p.tokens");
    assert_eq!((tokens.strict, tokens.mode, tokens.on_store_error), (true, Mode::Shadow, OnStoreError::Open), "tokens");
    assert_eq!(rule(&plan.rules, "p.input_tokens").dimension, Dimension::InputTokens, "input alone");
    let output = rule(&plan.rules, "p.output_tokens");
    let expected = (Dimension::OutputTokens, Window::Month, 5, OnStoreError::Closed);
    assert_eq!((output.dimension, output.window, output.reserve, output.on_store_error), expected, "output alone");
    assert_eq!(rule(&plan.rules, "p.concurrency").reserve, 3, "40% of 9, rounded down");
    let model = rule(&plan.rules, "p.models.gpt-4*.requests");
    assert!(model.model.as_ref().is_some_and(|model| model.matches("gpt-4o") && !model.matches("llama")), "its models");
}

#[test]
fn a_wrong_limit_is_told_at_its_place() {
    let many = |count: usize| vec!["1/s"; count].join(", ");
    let cases = [
        (format!("requests: [{}]", many(MAX_RULES + 1)), "E008", "at most 16 limits of one kind"),
        ("requests: 0/min".to_owned(), "E008", "0 would refuse every request"),
        ("requests: 5/year".to_owned(), "E007", "s, min, h, day or month"),
        ("concurrency: 5/min".to_owned(), "E007", "not a whole number"),
        ("requests: { limit: 5/min, strict: true }".to_owned(), "E027", "`strict` is about tokens"),
        ("concurrency: { limit: 5, strict: true }".to_owned(), "E027", "`strict` is about tokens"),
        ("requests: { limit: 5/day, burst: 2 }".to_owned(), "E027", "no bucket"),
        ("requests: { limit: 5/min, mode: off }".to_owned(), "E012", "enforce"),
        ("requests: { limit: 5/min, on_store_error: closd }".to_owned(), "E012", "did you mean `closed`?"),
        ("requests: { limit: 5/min, when: \"user == 'x'\" }".to_owned(), "E029", "known here: auth, request, now"),
        ("requests: { limit: 10/min, reserve: 50% }".to_owned(), "E008", "low priority"),
        ("requests: { limit: 10/min, reserve: 5 }".to_owned(), "E008", "low priority"),
        ("requests: { limit: 10/min, reserve: 0% }".to_owned(), "E007", "whole percents"),
        ("requests: { limit: 10/min, alert_at: [80%] }".to_owned(), "E004", "unknown key `alert_at`"),
        ("spend: 5/day".to_owned(), "E004", "money is a budget"),
        ("input_token: 5/day".to_owned(), "E004", "did you mean `input_tokens`?"),
    ];
    let cases: Vec<(&str, &str, &str)> =
        cases.iter().map(|(piece, code, words)| (piece.as_str(), *code, *words)).collect();
    each_is_told(&cases, with_limit);
    let cases = [
        ("priority: urgent", "E012", "low"),
        ("models: { \"[a\": { requests: 1/s } }", "E022", "`[a` is not a pattern"),
        ("models: { \"größe\": { requests: 1/s } }", "E022", "stand in a header"),
        ("models: { a: { max_tokens_per_request: 5 } }", "E011", "not supported"),
        ("models: { a: { budget: 5 } }", "E004", "unknown key `budget`"),
        ("models: [a]", "E005", "a mapping is needed"),
    ];
    each_is_told(&cases, with_plan);
    let patterns: Vec<String> = (0..=MAX_PLAN_RULES).map(|number| format!("m{number}: {{ requests: 1/s }}")).collect();
    let patterns = format!("models: {{ {} }}", patterns.join(", "));
    each_is_told(&[(&patterns, "E008", "at most 64 limits and budgets in one place, not 65")], with_plan);
    for name in ["limits", "pools.a", "tenants", "budget.x"] {
        let source = format!("{GOOD}plans: {{ {name}: {{}} }}\ntenants: {{ acme: {{ plan: {name} }} }}\n");
        assert_eq!(findings(&source), ["E028@8:10"], "`{name}` begins the names of other limits");
    }
}

#[test]
fn a_budget_is_exact_and_comes_back_with_all_that_is_said_of_it() {
    let source = "[{ usd: 0.50/day, on_exceed: warn, alert_at: [95%, 80%, 80%] },
        { usd: 9000000, strict: true, stop_streams: true, on_store_error: closed }, 5000/month]";
    let loaded = comes_back(&with_budget(source), "usd: 0.5/day");
    let rules = &plan(&loaded).rules;
    let figures: Vec<_> = rules.iter().map(|rule| (rule.name.as_ref(), rule.limit, rule.window)).collect();
    let expected = [
        ("p.budget", 500_000_000, Window::Day),
        ("p.budget.2", 9_000_000_000_000_000, Window::Ever),
        ("p.budget.3", 5_000_000_000_000, Window::Month),
    ];
    assert_eq!(figures, expected, "nano-dollars, and what has no window is prepaid");
    assert!(
        rules.iter().all(|rule| rule.dimension == Dimension::Spend && rule.burst == rule.limit),
        "money, no bucket"
    );
    assert_eq!((rules[0].mode, &rules[0].alert_at[..]), (Mode::Shadow, &[80, 95][..]), "it only warns, in order");
    let hard = (rules[1].mode, rules[1].strict, rules[1].stop_streams, rules[1].on_store_error);
    assert_eq!(hard, (Mode::Enforce, true, true, OnStoreError::Closed), "it stops");
    let shadow = comes_back(&with_budget("{ usd: 5, mode: shadow }"), "on_exceed: warn");
    assert_eq!(plan(&shadow).rules[0].mode, Mode::Shadow, "`mode` says the same");

    let cases = [
        ("{ usd: 5/min }", "E007", "per day or month"),
        ("{ usd: 1e3 }", "E007", "not an amount"),
        ("{ usd: 0.0000000001 }", "E007", "nine digits"),
        ("{ usd: 9000000.01 }", "E007", "at most 9000000 US dollars"),
        ("0.00/day", "E008", "0 would refuse every request"),
        ("{ on_exceed: warn }", "E006", "`usd` is required"),
        ("{ usd: 5, on_exceed: stop }", "E012", "reject"),
        ("{ usd: 5, on_exceed: warn, mode: enforce }", "E027", "do not agree"),
        ("{ usd: 5, on_exceed: warn, stop_streams: true }", "E027", "stops nothing"),
        ("{ usd: 5, alert_at: [0.8] }", "E007", "whole percents"),
        ("{ usd: 5, alert_at: [101%] }", "E007", "whole percents"),
        ("{ usd: 5, alert_at: [1%, 2%, 3%, 4%, 5%, 6%, 7%, 8%, 9%] }", "E008", "at most 8 alerts"),
        ("{ usd: 5, burst: 5 }", "E004", "unknown key `burst`"),
    ];
    each_is_told(&cases, with_budget);
}

#[test]
fn tenants_teams_and_users_have_budgets_and_a_tenant_its_own_midnight() {
    let source = format!(
        "{GOOD}tenants:
  acme:
    time_zone: Europe/Berlin
    budget: [100/month, {{ usd: 20 }}]
    teams: {{ core: {{ budget: 10/day }} }}
    users: {{ \"ann|ö@example.com\": {{ budget: {{ usd: 1/day }} }} }}
"
    );
    let loaded = comes_back(&source, "time_zone: Europe/Berlin");
    let tenant = &loaded.snapshot.tenants[&"acme".into()];
    assert_eq!(tenant.zone.iana_name(), Some("Europe/Berlin"), "its midnight");
    assert_eq!(loaded.snapshot.tenants[&"default".into()].zone.iana_name(), Some("UTC"), "UTC unless it is said");
    assert_eq!(rule(&tenant.budgets, "tenants.acme.budget.2").window, Window::Ever, "two of the tenant");
    let team = &tenant.teams[&"core".into()].budgets;
    assert_eq!(rule(team, "tenants.acme.teams.core.budget").limit, 10_000_000_000, "one of the team");
    let user = &tenant.users[&"ann|ö@example.com".into()].budgets;
    assert_eq!(
        user[0].name.as_ref(),
        "tenants.acme.users.ann%7C%C3%B6@example.com.budget",
        "a name that can stand in a header"
    );
    let cases = [
        ("time_zone: Mars/Olympus", "E028", "not a time zone"),
        ("time_zone: \"../../etc/passwd\"", "E028", "not a time zone"),
        ("time_zone: Etc/Unknown", "E028", "not a time zone"),
        ("teams: { a: { budget: x } }", "E007", "not an amount"),
        ("users: { a: { limits: {} } }", "E011", "not supported"),
    ];
    each_is_told(&cases, |piece| format!("{GOOD}tenants: {{ acme: {{ {piece} }} }}\n"));
}

#[test]
fn a_time_zone_needs_no_files_of_the_system() {
    let bundled = jiff::tz::TimeZoneDatabase::bundled();
    assert!(bundled.get("Europe/Berlin").is_ok(), "a container without /usr/share/zoneinfo knows its days too");
}

#[test]
fn pools_models_and_all_requests_together_have_limits() {
    let source = GOOD.replace("engine: vllm,", "engine: vllm, limits: { requests: 9/s, concurrency: 4 },");
    let shared = "global: { requests: 100/s }, models: { \"llama*\": { tokens: [5/min, 7/day] } }";
    let loaded = comes_back(&format!("{source}limits: {{ {shared} }}\n"), "concurrency:");
    let pool = &loaded.snapshot.pools[0].limits.rules;
    assert_eq!(
        (rule(pool, "pools.vllm.requests").limit, rule(pool, "pools.vllm.concurrency").limit),
        (9, 4),
        "a pool's"
    );
    let shared = &loaded.snapshot.limits.shared.rules;
    assert_eq!(rule(shared, "limits.global.requests").model, None, "every model's");
    assert!(rule(shared, "limits.models.llama*.tokens.2").model.is_some(), "a model's");
    assert!(text(GOOD).unwrap().snapshot.pools[0].limits.rules.is_empty(), "none unless they are written");
    each_is_told(&[("global: { budget: 5 }", "E004", "unknown key `budget`")], with_limits);
    each_is_told(&[("max_tokens_per_request: 5", "E011", "not supported")], |piece| {
        GOOD.replace("engine: vllm,", &format!("engine: vllm, limits: {{ {piece} }},"))
    });
}

#[test]
fn the_redis_of_limits_comes_back_as_references() {
    let secrets = Secrets::new();
    let load = |settings: &str| comes_back(&secrets.fill(&with_redis(settings)), "*** t.yaml:8");
    let one = load("url: <redis>").snapshot;
    let backend = one.limits.backend.as_ref().unwrap();
    assert!(
        matches!(&backend.servers, RedisServers::Single(url) if url.0.starts_with(b"redis://:hush-pw@")),
        "its URL"
    );
    let defaults = (backend.timeout.as_millis(), backend.on_store_error, backend.prefix.as_ref());
    assert_eq!(defaults, (5, OnStoreError::Local, "weir"), "defaults");
    assert!(!format!("{one:?}").contains("hush-pw"), "no secret in Debug");
    let many = load("cluster: [<redis>, <redis>], timeout: 20ms, on_store_error: closed, prefix: \"a:b\"").snapshot;
    let backend = many.limits.backend.as_ref().unwrap();
    assert!(matches!(&backend.servers, RedisServers::Cluster(nodes) if nodes.len() == 2), "two nodes");
    assert_eq!((backend.timeout.as_millis(), backend.prefix.as_ref()), (20, "a:b"), "as it is said");
    let watched = load("sentinel: { master: main, sentinels: <redis> }").snapshot;
    let servers = &watched.limits.backend.as_ref().unwrap().servers;
    assert!(
        matches!(servers, RedisServers::Sentinel { sentinels, master } if sentinels.len() == 1 && master == "main"),
        "one"
    );

    let cases = [
        ("timeout: 5ms", "E006", "`url` is required"),
        ("url: \"redis://:hush@h/\"", "E010", "must not be written"),
        ("url: <key>", "E020", "not a URL of `redis`"),
        ("url: <redis>, cluster: [<redis>]", "E027", "one of `url`, `cluster` and `sentinel`"),
        ("cluster: []", "E008", "from 1 to 32"),
        ("sentinel: { sentinels: [<redis>] }", "E006", "`master` is required"),
        ("sentinel: { master: \"\", sentinels: [<redis>] }", "E028", "name of a master"),
        ("sentinel: { master: a }", "E006", "`sentinels` is required"),
        ("url: <redis>, timeout: 21ms", "E008", "from 1ms to 20ms"),
        ("url: <redis>, timeout: 999us", "E008", "from 1ms to 20ms"),
        ("url: <redis>, prefix: \"{a}\"", "E028", "cannot begin the keys"),
        ("url: <redis>, on_store_error: opn", "E012", "did you mean `open`?"),
        ("uri: <redis>, url: <redis>", "E004", "unknown key `uri`"),
    ];
    each_is_told(&cases, with_redis);
    each_is_told(
        &[
            ("backend: {}", "E006", "`redis` is required"),
            ("reconcile: 100ms", "E008", "from 1s to 24h"),
            ("hold_ttl: 999ms", "E008", "from 1s to 10m"),
            ("hold_ttl: 601s", "E008", "from 1s to 10m"),
        ],
        with_limits,
    );
}

#[test]
fn a_rule_does_without_redis_what_the_backend_says_unless_it_says_itself() {
    let secrets = Secrets::new();
    let source =
        with_plan("limits: { requests: [1/s, { limit: 1/s, on_store_error: local }] }, budget: [5, { usd: 5 }]");
    let source = source.replace("engine: vllm,", "engine: vllm, limits: { requests: 9/s },");
    let all = "limits: { global: { requests: 1/s }, backend: { redis: { url: <redis>, on_store_error: open } } }\n";
    let loaded = comes_back(&secrets.fill(&format!("{source}{all}")), "on_store_error: open");
    let of = |rules: &[Arc<LimitRule>]| rules.iter().map(|rule| rule.on_store_error).collect::<Vec<_>>();
    let (open, local) = (OnStoreError::Open, OnStoreError::Local);
    assert_eq!(of(&plan(&loaded).rules), [open, local, open, open], "a plan's");
    assert_eq!(of(&loaded.snapshot.pools[0].limits.rules), [open], "a pool's");
    assert_eq!(of(&loaded.snapshot.limits.shared.rules), [open], "those of all");
}

#[test]
fn alerts_need_an_address_and_a_key_to_sign_with() {
    let secrets = Secrets::new();
    std::fs::write(secrets.folder.path().join("postgres"), "https://hooks.example.com/T0/hush-pw").unwrap();
    let hook = "alerts: { webhook: { url: <postgres>, secret: <key>, timeout: 2s } }, reconcile: 10m";
    let loaded = comes_back(&secrets.fill(&with_limits(hook)), "*** t.yaml:8");
    let hook = loaded.snapshot.limits.alerts.as_ref().unwrap();
    assert_eq!((hook.timeout.as_secs(), loaded.snapshot.limits.reconcile.as_secs()), (2, 600), "as they are said");
    assert!(!format!("{hook:?}{}", loaded.effective.annotated).contains("hush"), "no secret is shown");
    assert_eq!(text(GOOD).unwrap().snapshot.limits.reconcile.as_secs(), 3_600, "each hour unless it is said");
    let cases = [
        ("alerts: {}", "E006", "`webhook` is required"),
        ("alerts: { webhook: { secret: <key> } }", "E006", "`url` is required"),
        ("alerts: { webhook: { url: \"https://h/\", secret: <key> } }", "E010", "must not be written"),
        ("alerts: { webhook: { url: <redis>, secret: <key> } }", "E020", "posted to"),
        ("alerts: { webhook: { url: <hook>, secret: <short> } }", "E010", "at least 32 bytes"),
        ("alerts: { webhook: { url: <hook>, secret: <key>, timeout: 1m } }", "E008", "at most 30s"),
    ];
    each_is_told(&cases, |piece| with_limits(&piece.replace("<hook>", &secrets.fill("<postgres>"))));
}

/// A configuration that names a file of prices with this text.
fn with_prices(folder: &tempfile::TempDir, prices: &str) -> String {
    let file = folder.path().join("prices.yaml");
    std::fs::write(&file, prices).unwrap();
    format!("{GOOD}usage: {{ prices: \"{}\" }}\n", file.display())
}

#[test]
fn prices_are_exact_and_the_first_entry_that_names_a_model_holds() {
    let loaded = text(&format!("{GOOD}usage: {{ prices: conf/prices.yaml }}\n")).unwrap();
    assert!(loaded.effective.plain.contains("prices: conf/prices.yaml"), "the dump names the file");
    let book = &loaded.snapshot.prices;
    let known = |input, cache_read, cache_write, output| Some(TokenPrices { input, cache_read, cache_write, output });
    assert_eq!(book.version.as_ref(), "2026-11", "the version");
    let large = known(590_000_000, 60_000_000, 590_000_000, 790_000_000);
    assert_eq!(book.prices("llama-3.3-70b-instruct"), large, "the first entry, exact where no float is");
    let other = known(200_000_000, 50_000_000, 200_000_000, 800_000_000);
    assert_eq!(book.prices("llama-3.1/8b"), other, "the second; `*` crosses `/`");
    assert_eq!(book.prices("claude-x"), known(3_000_000_000, 300_000_000, 3_750_000_000, 15_000_000_000), "all four");
    assert_eq!(book.prices("qwen"), None, "a model without prices");
    assert!(loaded.warnings.is_empty(), "nothing is odd about the example: {:?}", loaded.warnings);
    assert_eq!(*text(GOOD).unwrap().snapshot.prices, weir::logic::money::price_book::PriceBook::default(), "no file");
}

#[test]
fn what_is_wrong_with_prices_is_told_in_their_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = "version: 2026-11
models:
  a: { input: 0.20, outptu: 0.80 }
  b: { input: 1e-3, output: 0.80, cached_input: -1 }
  \"[c\": { input: 1, output: 1 }
  d: 5
";
    let report = text(&with_prices(&folder, wrong)).unwrap_err();
    let told: Vec<String> = report
        .errors
        .iter()
        .map(|found| {
            assert!(found.file.ends_with("prices.yaml"), "{found}");
            format!("{}@{}:{} {}", found.code.id(), found.place.line, found.place.col, found.path)
        })
        .collect();
    let expected = [
        "E006@3:6 models.a",
        "E004@3:21 models.a.outptu",
        "E007@4:15 models.b.input",
        "E007@4:49 models.b.cached_input",
        "E022@5:3 models.[c",
        "E005@6:6 models.d",
        "E006@6:6 models.d",
    ];
    for expected in expected {
        assert!(told.iter().any(|one| one == expected), "{expected} in {told:?}");
    }
    assert!(report.to_text().contains("did you mean `output`?"), "{report}");

    let cases = [
        ("models: { a: { input: 1, output: 1 } }", "E006", "`version` is required"),
        ("version: \"a b\"\nmodels: { a: { input: 1, output: 1 } }", "E028", "cannot be a version"),
        ("version: 1", "E006", "`models` is required"),
        ("version: 1\nmodels: {}", "E008", "from 1 to 1000"),
        ("version: 1\nmodles: {}\nmodels: { a: { input: 1, output: 1 } }", "E004", "did you mean `models`?"),
        ("version: 1\nmodels: { a: { input: 1, output: 1 }, a: { input: 1, output: 1 } }", "E002", "stands twice"),
        ("version: 1\nmodels: { a: { input: 1, output: 1, per_request: 1 } }", "E011", "not supported"),
        ("version: 1\nmodels: { a: { input: 1, output: 9000001 } }", "E007", "at most 9000000"),
        ("version: 1\nmodels: { a: [ }", "E001", ""),
    ];
    each_is_told(&cases, |prices| with_prices(&folder, prices));
    let missing = format!("{GOOD}usage: {{ prices: /no/such/prices.yaml }}\n");
    assert_eq!(findings(&missing), ["E003@8:18"], "told where it is named");
    let behind = "version: 1\nmodels: { \"a*\": { input: 1, output: 1 }, ab: { input: 2, output: 2 } }";
    assert_eq!(findings(&with_prices(&folder, behind)), ["W001@2:42"], "an entry that never holds");
}

#[test]
fn what_comes_to_nothing_is_told() {
    let secrets = Secrets::new();
    let idle = with_plan("budget: { usd: 5/day, alert_at: 80% }").replace("plan: p }", "plan: p, budget: 5 }");
    assert_eq!(
        warned(&idle),
        ["W007 plans.p.budget", "W007 plans.p.budget", "W007 tenants.acme.budget"],
        "no prices, and nobody is told"
    );
    let prices = format!("{idle}usage: {{ prices: conf/prices.yaml }}\n");
    assert_eq!(warned(&prices), ["W007 plans.p.budget"], "nobody is told");
    std::fs::write(secrets.folder.path().join("postgres"), "http://127.0.0.1:9/").unwrap();
    let hook = "limits: { alerts: { webhook: { url: <postgres>, secret: <key> } } }\n";
    assert_eq!(warned(&secrets.fill(&format!("{prices}{hook}"))), Vec::<String>::new(), "all of it does something");

    let secrets = Secrets::new();
    let shared = format!("{GOOD}store: {{ postgres: {{ url: <postgres> }} }}\n");
    assert_eq!(warned(&secrets.fill(&shared)), ["W009 store.postgres"], "each replica would count for itself");
    let counted = format!("{shared}limits: {{ backend: {{ redis: {{ url: <redis> }} }} }}\n");
    assert_eq!(warned(&secrets.fill(&counted)), Vec::<String>::new(), "they count together");
}

#[test]
fn more_limits_than_a_request_can_be_held_against_are_told() {
    let most = ["requests", "tokens", "input_tokens", "output_tokens"]
        .map(|kind| format!("{kind}: [{}]", ["1/s"; 16].join(", ")));
    let most = most.join(", ");
    let source = |last: &str| {
        let pool = GOOD.replace("engine: vllm,", &format!("engine: vllm, limits: {{ {most} }},"));
        let plans = format!("plans: {{ p: {{ limits: {{ {most} }} }}, last: {{ {last} }} }}\n");
        let members = "teams: { core: { plan: p } }, users: { ann: { plan: last }, bob: {} }";
        let tenants = format!("tenants: {{ acme: {{ plan: p, {members} }}, other: {{ plan: p }} }}\n");
        format!("{pool}limits: {{ global: {{ {most} }} }}\n{plans}{tenants}")
    };
    assert_eq!(
        warned(&source("limits: {}")),
        Vec::<String>::new(),
        "64 of all, of the pool, of the tenant and the team"
    );
    assert_eq!(warned(&source("limits: { requests: 1/s }")), ["W010 tenants.acme"], "and one of the user is too many");
    for last in ["limits: { requests: { limit: 1/s, when: \"auth.sub != ''\" } }", "models: { a: { requests: 1/s } }"] {
        assert_eq!(warned(&source(last)), Vec::<String>::new(), "it may count some requests only: {last}");
    }
}
