//! Holds the architecture: arrows between layers point down only, no import cycle, Pingora at the edge, nine stages.
//!
//! Reads the text of `src/`; links nothing of it. Each law is a function from files to violations, so that the tests
//! below can show on made-up files that it is able to fail.

// Only tests and what they are made of: a broken tree may end them.
#![allow(clippy::expect_used)]

#[path = "support/source.rs"]
mod source;

use source::SourceFile;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Top-level modules and their layers, as in `src/lib.rs`.
const LAYERS: &[(&str, u8)] = &[
    ("domain", 0),
    ("logic", 1),
    ("config", 2),
    ("ports", 2),
    ("runtime", 3),
    ("plugins", 3),
    ("exchange", 3),
    ("stages", 3),
    ("io", 4),
    ("admin", 5),
    ("edge", 5),
    ("writer", 5),
    ("sim", 5),
    ("cli", 6),
    ("main", 7),
];

/// Neighbours on one layer that may see each other: from, to. What a request carries (`exchange`) and what it pins
/// (`runtime`) stand beside the stages that hand it on; that no two modules import each other is held all the same.
const SIDEWAYS: &[(&str, &str)] = &[
    ("ports", "config"),
    ("stages", "plugins"),
    ("stages", "runtime"),
    ("stages", "exchange"),
    ("exchange", "runtime"),
    ("exchange", "stages"),
    ("edge", "admin"),
];

/// Where Pingora may be named: the edge, the health probes, the simulator's servers.
const PINGORA_HOMES: &[&str] = &["edge", "io::probe", "sim::server"];

/// The request's way; `ls` prints it in order.
const STAGES: &[&str] = &["accept", "authenticate", "body", "check", "debit", "dispatch", "forward", "meter", "settle"];

/// A module path below the crate: `io::probe`. The crate root is the empty path, `src/main.rs` is `main`.
type Module = String;

/// What each module imports.
type Imports = BTreeMap<Module, BTreeSet<Module>>;

fn module_of(file: &SourceFile) -> Module {
    let path = file.path.strip_prefix("src").expect("a file of src").with_extension("");
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts == ["lib"] { String::new() } else { parts.join("::") }
}

fn is_test_only(file: &SourceFile) -> bool {
    file.path.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// Every path that begins with `crate`, `super` or `self`, with groups opened: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = matches!(tokens[at].as_str(), "crate" | "super" | "self" | "weir");
        let inside = at > 0 && tokens[at - 1] == "::";
        if begins && !inside && tokens.get(at + 1).is_some_and(|next| next == "::") {
            at = open(&tokens, at, &[], &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Collects the path or group at `at` behind `prefix`; returns the index after it.
fn open(tokens: &[String], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    let before = at;
                    at = if tokens[at] == "," { at + 1 } else { open(tokens, at, &path, found) };
                    at = at.max(before + 1);
                }
                return at + 1;
            }
            Some(word) if is_word(word) => path.push(word.to_owned()),
            _ => break,
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            break;
        }
        at += 1;
    }
    if tokens.get(at).is_some_and(|token| token == "as") {
        at += 2;
    }
    found.push(path);
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|letter: char| letter.is_alphanumeric() || letter == '_')
}

/// Words, `::`, and single punctuation marks.
fn tokens(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if is_word(rest) {
            rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        found.push(rest[..length].to_owned());
        rest = rest[length..].trim_start();
    }
    found
}

/// The module that a path of `from` means: the longest known prefix. `None` for a path into another crate.
fn target(from: &Module, path: &[String], known: &BTreeSet<Module>) -> Option<Module> {
    let mut at: Vec<&str> = from.split("::").filter(|part| !part.is_empty()).collect();
    let mut rest = path;
    loop {
        match rest.first().map(String::as_str) {
            Some("crate" | "weir") => at.clear(),
            Some("super") => {
                at.pop();
            }
            Some("self") => {}
            _ => break,
        }
        rest = &rest[1..];
    }
    at.extend(rest.iter().map(String::as_str));
    while !at.is_empty() && !known.contains(&at.join("::")) {
        at.pop();
    }
    Some(at.join("::")).filter(|module| !module.is_empty())
}

fn imports(files: &[SourceFile]) -> Imports {
    let files: Vec<&SourceFile> = files.iter().filter(|file| !is_test_only(file)).collect();
    let known: BTreeSet<Module> = files.iter().map(|file| module_of(file)).collect();
    let mut imports = Imports::new();
    for file in files {
        let module = module_of(file);
        let named = paths(&file.production_code());
        let targets = named.iter().filter_map(|path| target(&module, path, &known)).filter(|named| *named != module);
        imports.insert(module.clone(), targets.collect());
    }
    imports
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == top(module)).map(|(_, layer)| *layer)
}

/// Imports that point up or sideways, and modules that no layer knows.
fn upward(imports: &Imports) -> Vec<String> {
    let mut found = Vec::new();
    for (from, targets) in imports.iter().filter(|(from, _)| !from.is_empty()) {
        let Some(own) = layer(from) else {
            found.push(format!("{from} is on no layer: add it to src/lib.rs and to LAYERS"));
            continue;
        };
        for to in targets.iter().filter(|to| top(to) != top(from)) {
            let Some(other) = layer(to) else { continue };
            if other >= own && !SIDEWAYS.contains(&(top(from), top(to))) {
                found.push(format!("{from} (L{own}) imports {to} (L{other}); arrows point down only"));
            }
        }
    }
    found
}

/// Groups of modules that import each other. A module's file may re-export from its own folder, and the folder may use
/// what the file defines: parent and child count as one place, siblings and strangers do not.
fn cycles(imports: &Imports) -> Vec<String> {
    let edges: Imports = imports
        .iter()
        .map(|(from, targets)| (from.clone(), targets.iter().filter(|to| !is_family(from, to)).cloned().collect()))
        .collect();
    let mut found = BTreeSet::new();
    for start in edges.keys() {
        let group: Vec<&Module> =
            reach(&edges, start).into_iter().filter(|other| reach(&edges, other).contains(start)).collect();
        if !group.is_empty() && reach(&edges, start).contains(start) {
            found.insert(format!("import each other: {group:?}"));
        }
    }
    found.into_iter().collect()
}

/// One is the other's ancestor.
fn is_family(a: &str, b: &str) -> bool {
    a.starts_with(&format!("{b}::")) || b.starts_with(&format!("{a}::"))
}

/// All that can be reached from `start` in one step or more.
fn reach<'a>(edges: &'a Imports, start: &str) -> BTreeSet<&'a Module> {
    let mut seen = BTreeSet::new();
    let mut waiting: Vec<&Module> = edges.get(start).into_iter().flatten().collect();
    while let Some(module) = waiting.pop() {
        if seen.insert(module) {
            waiting.extend(edges.get(module).into_iter().flatten());
        }
    }
    seen
}

/// Files that name Pingora and are not its home.
fn pingora_strays(files: &[SourceFile]) -> Vec<String> {
    let names_it = |file: &&SourceFile| {
        tokens(&file.production_code()).iter().any(|token| token == "pingora" || token.starts_with("pingora_"))
    };
    let at_home = |module: &str| PINGORA_HOMES.iter().any(|home| module == *home || is_family(home, module));
    let strays = files.iter().filter(names_it).filter(|file| !at_home(&module_of(file)));
    strays.map(|file| format!("{} names pingora; only {PINGORA_HOMES:?} may", file.name())).collect()
}

/// Differences between `src/stages/` and the nine files.
fn stage_differences(files: &[SourceFile]) -> Vec<String> {
    let is_stage = |file: &&SourceFile| file.path.parent() == Some("src/stages".as_ref()) && !is_test_only(file);
    let there: BTreeSet<String> =
        files.iter().filter(is_stage).map(module_of).map(|module| module.replace("stages::", "")).collect();
    let wanted: BTreeSet<String> = STAGES.iter().map(|stage| (*stage).to_owned()).collect();
    let missing = wanted.difference(&there).map(|stage| format!("src/stages/{stage}.rs is missing"));
    let extra = there.difference(&wanted).map(|stage| format!("src/stages/{stage}.rs is none of the nine stages"));
    missing.chain(extra).collect()
}

fn sources() -> Vec<SourceFile> {
    let files = source::files("src", "rs");
    assert!(files.len() > 20, "the walk found only {} files: it looks in the wrong place", files.len());
    files
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
}

#[test]
fn arrows_between_layers_point_down_only() {
    none(&upward(&imports(&sources())));
}

#[test]
fn no_modules_import_each_other() {
    none(&cycles(&imports(&sources())));
}

#[test]
fn only_the_edge_and_the_probes_name_pingora() {
    none(&pingora_strays(&sources()));
}

#[test]
fn the_requests_way_has_nine_stages() {
    none(&stage_differences(&sources()));
}

// The laws on made-up files: each can fail.

fn made_up(files: &[(&str, &str)]) -> Vec<SourceFile> {
    files.iter().map(|(path, text)| SourceFile { path: PathBuf::from(path), text: (*text).to_owned() }).collect()
}

#[test]
fn an_arrow_up_is_found_however_it_is_written() {
    for text in [
        "use crate::stages::debit;",
        "use crate::{domain::ids, stages::{debit, accept}};",
        "fn f() { crate::stages::debit::run() }",
        "use super::super::stages::debit as d;",
    ] {
        let files = made_up(&[("src/logic/quota.rs", text), ("src/stages/debit.rs", ""), ("src/domain/ids.rs", "")]);
        let found = upward(&imports(&files));
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].starts_with("logic::quota (L1) imports stages::debit (L3)"), "names both ends: {found:?}");
    }
}

#[test]
fn arrows_down_and_words_in_comments_strings_and_tests_are_fine() {
    let text = "//! crate::cli::serve\nuse crate::domain::ids;\nconst S: &str = \"crate::cli::serve\";\n\
                #[cfg(test)]\nmod tests { use crate::cli::serve; }\n";
    let files = made_up(&[("src/logic.rs", text), ("src/domain/ids.rs", ""), ("src/cli/serve.rs", "")]);
    assert_eq!(upward(&imports(&files)), Vec::<String>::new(), "none of these is an import upward");
}

#[test]
fn neighbours_on_one_layer_do_not_see_each_other() {
    let files = made_up(&[("src/edge.rs", "use crate::sim::Server;"), ("src/sim.rs", "")]);
    assert_eq!(upward(&imports(&files)).len(), 1, "edge and sim are both L5");
}

#[test]
fn a_module_without_a_layer_is_found() {
    let found = upward(&imports(&made_up(&[("src/shortcuts.rs", "")])));
    assert!(found[0].starts_with("shortcuts is on no layer"), "a new top-level module must choose one: {found:?}");
}

#[test]
fn a_cycle_of_siblings_is_found_and_parent_with_child_is_none() {
    let ring = made_up(&[
        ("src/io.rs", ""),
        ("src/io/a.rs", "use super::b::B;"),
        ("src/io/b.rs", "use crate::io::c::C;"),
        ("src/io/c.rs", "use crate::io::a::A;"),
    ]);
    let found = cycles(&imports(&ring));
    assert_eq!(found, ["import each other: [\"io::a\", \"io::b\", \"io::c\"]"], "one ring, told once");
    let family = made_up(&[("src/io.rs", "pub use self::a::A;"), ("src/io/a.rs", "use super::Shape;")]);
    assert_eq!(cycles(&imports(&family)), Vec::<String>::new(), "a file and its folder are one place");
}

#[test]
fn pingora_below_the_edge_is_found() {
    let files = made_up(&[
        ("src/stages/meter.rs", "fn f(s: &pingora_proxy::Session) {}"),
        ("src/edge/proxy.rs", "use pingora::Result;"),
        ("src/io/probe/health.rs", "use pingora_load_balancing::Backend;"),
        ("src/logic.rs", "// pingora\n"),
    ]);
    let found = pingora_strays(&files);
    assert_eq!(found.len(), 1, "only the stage strays: {found:?}");
    assert!(found[0].starts_with("src/stages/meter.rs names pingora"), "{found:?}");
}

#[test]
fn a_tenth_stage_and_a_missing_one_are_found() {
    let mut files: Vec<(String, &str)> =
        STAGES.iter().skip(1).map(|stage| (format!("src/stages/{stage}.rs"), "")).collect();
    files.push(("src/stages/extra.rs".into(), ""));
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
    let found = stage_differences(&made_up(&files));
    assert_eq!(found, ["src/stages/accept.rs is missing", "src/stages/extra.rs is none of the nine stages"], "both");
}
