//! The configuration loader as users meet it: example files, every error at its place, check and dump.
#![allow(clippy::unwrap_used, clippy::panic)] // the lint's exception for tests does not reach their helpers

#[path = "config/identity.rs"]
mod identity;
#[path = "config/limits.rs"]
mod limits;
#[path = "config/secrets.rs"]
mod secrets;

use std::path::{Path, PathBuf};
use weir::cli::{check, dump};
use weir::config::codes::Code;
use weir::config::{Loaded, load, load_text};

const GOOD: &str = "version: 1
listeners:
  http: { bind: [\"127.0.0.1:8080\"] }
pools:
  vllm: { engine: vllm, backends: [{ url: \"http://127.0.0.1:8000\" }] }
routes:
  - { match: { path: { prefix: / } }, to: [{ pool: vllm }] }
";

fn text(text: &str) -> Result<Loaded, weir::config::diagnostic::Report> {
    load_text("t.yaml", text, Path::new(""))
}

/// `E012@5:9` of every error and warning.
fn findings(source: &str) -> Vec<String> {
    let list = match text(source) {
        Ok(loaded) => loaded.warnings,
        Err(report) => report.errors,
    };
    list.iter().map(|found| format!("{}@{}:{}", found.code.id(), found.place.line, found.place.col)).collect()
}

fn examples() -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir("conf").unwrap().map(|entry| entry.unwrap().path()).collect();
    // Prices are a file of their own, which `full.yaml` names.
    files.retain(|file| file.extension().is_some_and(|end| end == "yaml") && !file.ends_with("prices.yaml"));
    files.sort();
    files
}

#[test]
fn every_example_loads_and_its_effective_text_loads_to_the_same() {
    assert!(examples().len() >= 3, "the examples are there");
    for file in examples() {
        let first = load(&file).unwrap_or_else(|report| panic!("{}:\n{report}", file.display()));
        for again in [&first.effective.plain, &first.effective.annotated] {
            let second = text(again).unwrap_or_else(|report| panic!("dump of {}:\n{report}\n{again}", file.display()));
            assert_eq!(second.effective.plain, first.effective.plain, "{} is stable", file.display());
            assert_eq!(second.snapshot.version, first.snapshot.version, "so is its version");
            let shown =
                |loaded: &Loaded| format!("{:?}", loaded.snapshot).replace("t.yaml", &file.display().to_string());
            assert_eq!(shown(&second), shown(&first), "equal snapshots");
        }
    }
}

#[test]
fn the_smallest_file_has_the_defaults_of_the_specification() {
    let snapshot = text(GOOD).unwrap().snapshot;
    let pool = &snapshot.pools[0];
    assert_eq!(snapshot.version.len(), 12, "twelve hex letters");
    assert_eq!(snapshot.server.admin.to_string(), "127.0.0.1:9901", "admin");
    assert_eq!(snapshot.listeners[0].header_bytes, 64 << 10, "head limit");
    assert_eq!(pool.policy.name(), "kv_aware", "engines route by cache");
    assert_eq!(pool.backends[0].id.as_str(), "vllm-0", "POOL-N");
    assert!(pool.health.is_some() && pool.isolate_tenants && pool.cancel_on_disconnect, "engine defaults");
    assert_eq!(pool.timeouts.total.as_secs(), 900, "total");
    assert!(snapshot.tenants.contains_key(&"default".into()), "default exists without being named");
    assert_eq!(snapshot.usage.sqlite, PathBuf::from("var/usage.db"), "writer");
}

/// Replaces one piece of the good text by another.
fn with(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "`{from}` is in the good text");
    GOOD.replacen(from, to, 1)
}

fn bad() -> Vec<(String, &'static str)> {
    let plans =
        |limits: &str| format!("{GOOD}plans: {{ p: {{ limits: {{ {limits} }} }} }}\ntenants: {{ a: {{ plan: p }} }}\n");
    let (url, backends) = ("http://127.0.0.1:8000", "[{ url: \"http://127.0.0.1:8000\" }]");
    vec![
        (with("routes:", "server: [\nroutes:"), "E001@6:9"),
        (format!("{GOOD}version: 1\n"), "E002@8:1"),
        (with("engine: vllm", "engine: vllm, polcy: p2c"), "E004@5:25"),
        (with("listeners:\n  http: { bind: [\"127.0.0.1:8080\"] }", "listeners: 5"), "E005@2:12"),
        (with("version: 1\n", ""), "E006@1:1"),
        (format!("{GOOD}server: {{ drain_timeout: 5 }}\n"), "E007@8:26"),
        (plans("tokens: 0/min"), "E008@8:33"),
        (with(url, "http://${WEIR_NOT_SET}/"), "E009@5:43"),
        (format!("{GOOD}auth: {{ k: {{ api_key: {{ pepper: abc }} }} }}\n"), "E010@8:33"),
        (with("bind:", "redirect_https: true, bind:"), "E011@3:11"),
        (with("engine: vllm", "engine: vlm"), "E012@5:19"),
        (with("{ pool: vllm }", "{ pool: vlm }"), "E013@7:52"),
        (format!("{GOOD}tenants: {{ a: {{ plan: gold }} }}\n"), "E014@8:23"),
        (with("to: [", "auth: [keys], to: ["), "E015@7:46"),
        (with("match: { path", "match: { listener: web, path"), "E016@7:26"),
        (with("}] }", "}, { name: vllm-0, url: \"http://127.0.0.1:1\" }] }"), "E017@5:70"),
        (with("8080", "9901"), "E018@3:18"),
        (with("127.0.0.1:8080", "localhost:8080"), "E019@3:18"),
        (with("http://127", "ftp://127"), "E020@5:43"),
        (with(url, "http://no-such-host.invalid:1"), "E021@5:43"),
        (with("prefix: /", "regex: \"(\""), "E022@7:31"),
        (with(backends, "[]"), "E023@5:35"),
        (with("{ pool: vllm }", "{ pool: vllm, weight: 0 }"), "E024@7:43"),
        (format!("{GOOD}include: none.yaml\n"), "E025@8:10"),
        (with(", to: [{ pool: vllm }]", ""), "E026@7:5"),
        (with("engine: vllm", "engine: trtllm, kv_isolation: tenant"), "E027@5:41"),
        (with("prefix: /", "prefix: v1"), "E028@7:32"),
        (with("match: {", "match: { when: \"1 +\","), "E029@7:22"),
        (format!("{GOOD}  - {{ match: {{ path: /x }}, to: [vllm] }}\n"), "W001@8:5"),
        (with("127.0.0.1:8080", "0.0.0.0:8080"), "W002@3:17"),
        (format!("{GOOD}server: {{ reload: {{ watch: true }} }}\n"), "W003@8:28"),
        (with("routes:", "  b: { engine: vllm, backends: [\"http://127.0.0.1:1\"] }\nroutes:"), "W004@6:6"),
        (format!("{GOOD}roles: {{ operator: {{ scopes: [admin] }} }}\n"), "W005@8:10"),
        (format!("{GOOD}auth: {{ c: client_cert }}\n"), "W007@8:12"),
    ]
}

#[test]
fn every_code_has_an_example_at_its_place() {
    let mut wrong = String::new();
    for (source, expected) in bad() {
        let found = findings(&source);
        if found != [expected] {
            wrong += &format!(
                "{expected} expected, {found:?} found:\n{source}\n{:?}\n",
                text(&source).err().map(|r| r.to_text())
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let shown: Vec<_> = bad().iter().map(|(_, expected)| expected[..4].to_owned()).collect();
    let missing: Vec<_> = Code::ALL
        .iter()
        .map(|code| code.id())
        .filter(|id| {
            !["E003", "E030", "W006", "W008", "W009", "W010"].contains(id) && !shown.iter().any(|code| code == id)
        })
        .collect();
    assert!(missing.is_empty(), "no example for {missing:?} (those of files have tests of their own)");
}

#[test]
fn one_load_finds_everything_that_is_wrong() {
    let source = "version: 1
listeners: { http: { bnd: [\"127.0.0.1:8080\"], bind: [\"127.0.0.1\"] } }
pools: { a: { engine: vlm, policy: kv_awre, backends: [{ url: x }], timeouts: { connect: 0s } } }
routes: [{ to: [{ pool: b }] }]
plans: { p: { limits: { requests: 5 } } }
";
    assert_eq!(
        findings(source),
        ["E004@2:22", "E019@2:54", "E012@3:23", "E012@3:36", "E020@3:63", "E008@3:90", "E013@4:25", "E007@5:35"],
        "all of them, in order of place"
    );
}

#[test]
fn a_broken_section_does_not_hide_what_is_wrong_in_others() {
    let source = "version: 1\nserver: { workers: [ }\npools: { a: { engine: vlm } }\nlimits: { hold_ttl: \"x }\n";
    let found = findings(source);
    assert_eq!(found.iter().filter(|one| one.starts_with("E001")).count(), 2, "two faults of syntax: {found:?}");
    assert!(found.contains(&"E012@3:23".to_owned()), "and a word that does not exist: {found:?}");
}

#[test]
fn secrets_are_never_shown() {
    let source = GOOD.replace("engine: vllm", "engine: openai, credentials: { bearer: sk-hush }, policy: p3c");
    let source = source.replace("http://127", "http://me:hush@127");
    let report = text(&source).unwrap_err();
    for shown in [report.to_text(), report.to_json(), report.to_github()] {
        assert!(!shown.contains("hush"), "no secret in:\n{shown}");
    }
    let torn = text("version: 1\npools: { a: { credentials: { bearer: sk-hush, x: ] } }\n").unwrap_err();
    assert!(torn.errors[0].code == Code::Syntax && !torn.to_text().contains("hush"), "nor on a torn line:\n{torn}");
    let source = GOOD.replace("engine: vllm", "engine: openai, credentials: { bearer: { env: CARGO_PKG_NAME } }");
    let loaded =
        text(&format!("{source}auth: {{ k: {{ api_key: {{ pepper: {{ file: Cargo.toml }} }} }} }}\n")).unwrap();
    let annotated = &loaded.effective.annotated;
    assert!(annotated.contains("env: CARGO_PKG_NAME  # *** t.yaml:5"), "references are starred: {annotated}");
    let debug = format!("{:?}", loaded.snapshot);
    assert!(debug.contains("Bearer(***)") && !debug.contains("edition"), "no secret in Debug: {debug}");
    assert!(!annotated.contains("edition"), "no file's content in the dump");
}

#[test]
fn a_file_cut_at_any_byte_gives_a_report_and_never_a_panic() {
    let whole = std::fs::read_to_string("conf/tenants.yaml").unwrap().replace("ok", "größer");
    for end in (0..whole.len()).filter(|end| whole.is_char_boundary(*end)) {
        let torn = text(&whole[..end]);
        if let Err(report) = torn {
            assert!(!report.errors.is_empty() && !report.to_text().is_empty(), "a refusal says why, cut at {end}");
        }
    }
}

#[test]
fn keys_of_later_versions_are_told_as_such_and_not_as_unknown() {
    let pool = "vllm: { engine: vllm, load: {}, outlier: {}, discover: {}, queue: { max_wait: 5s }, policy: { kv_aware: { hold: true } },";
    let source = GOOD
        .replace("vllm: { engine: vllm,", pool)
        .replace("match: {", "fallback: [], plugins: [], headers: {}, match: { query: {},");
    let rest = "plugins: {}\nlimits: { models: { a: { max_tokens_per_request: 1 } } }\nauth: { o: { basic: {} } }\ntelemetry: { tracing: {} }
plans: { p: { budget: { usd: 1, when: x } } }
usage: { currency: EUR, writer: { postgres: {} } }\n";
    let found = findings(&format!("{source}{rest}"));
    assert_eq!(found.len(), 16, "each is told once: {found:?}");
    assert!(found.iter().all(|one| one.starts_with("E011")), "as not supported yet: {found:?}");
}

#[test]
fn included_files_merge_by_key_and_a_second_definition_names_both_places() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    std::fs::create_dir(folder.path().join("conf.d")).unwrap();
    write("main.yaml", &format!("{GOOD}include: conf.d/*.yaml\n"));
    write("conf.d/b.yaml", "routes: [{ name: b, match: { path: /b }, to: [two] }]\n");
    write(
        "conf.d/a.yaml",
        "pools: { two: { engine: openai, backends: [\"http://127.0.0.1:1\"] } }\nroutes: [{ name: a, match: { path: /a }, to: [two] }]\n",
    );
    let loaded = load(&folder.path().join("main.yaml")).unwrap_or_else(|report| panic!("{report}"));
    let names: Vec<_> = loaded.snapshot.routes.iter().map(|route| route.id.to_string()).collect();
    assert_eq!(names, ["route-0", "a", "b"], "routes of included files stand behind, in name order");
    assert!(loaded.effective.annotated.contains("conf.d/a.yaml:1"), "origins name the included file");

    write("conf.d/c.yaml", "\npools: { vllm: { engine: vllm } }\n");
    let report = load(&folder.path().join("main.yaml")).unwrap_err();
    let found = &report.errors[0];
    assert_eq!((found.code, found.place.line), (Code::DuplicateKey, 2), "{report}");
    assert!(found.file.ends_with("c.yaml") && found.message.contains("main.yaml:5"), "both places: {report}");
}

#[test]
fn check_and_dump_keep_their_contract() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, GOOD.replace("engine: vllm", "engine: vlm")).unwrap();
    let run = |config: &Path, format| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let args = check::Args { config: Some(config.to_owned()), format };
        let code = check::check(&args, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    };
    let (code, out, err) = run(Path::new("conf/weir.yaml"), check::Format::Text);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "", "configuration file conf/weir.yaml test is successful\n"),
        "good"
    );

    let (code, out, err) = run(&file, check::Format::Json);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let name = file.display().to_string();
    let expected = serde_json::json!({ "file": name, "ok": false, "warnings": [], "errors": [{
        "code": "E012", "file": name, "line": 5, "col": 19, "path": "pools.vllm.engine",
        "message": "unknown value `vlm`", "hint": "did you mean `vllm`?" }] });
    assert_eq!((code, json, err.as_str()), (1, expected, ""), "one JSON document and nothing else");

    let (code, _, err) = run(&file, check::Format::Text);
    assert_eq!(code, 1, "refused");
    assert!(err.starts_with(&format!("{name}:5:19: error[E012]: pools.vllm.engine: unknown value `vlm`\n")), "{err}");
    assert!(err.contains("^^^") && err.contains("help: did you mean `vllm`?"), "snippet and remedy: {err}");

    let (_, out, _) = run(&file, check::Format::Github);
    assert!(out.starts_with("::error file=") && out.contains(",line=5,col=19,title=E012::"), "{out}");

    let (code, out, _) = run(&folder.path().join("none.yaml"), check::Format::Json);
    assert!(code == 1 && out.contains("\"E003\""), "a file that is not there: {out}");

    let (mut out, mut err) = (Vec::new(), Vec::new());
    let args = dump::Args { config: Some("conf/weir.yaml".into()) };
    assert_eq!(dump::dump(&args, &mut out, &mut err), 0, "dump");
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("engine: vllm  # conf/weir.yaml:7\n"), "every value has its origin:\n{out}");
}
