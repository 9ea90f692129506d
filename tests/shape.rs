//! Holds the shape of the tree: file sizes, names, first lines, lints, and that every documented command is tested.
//!
//! Reads text; links nothing of `src/`. Function sizes are clippy's: here is only checked that its limits are set.

// Only tests and what they are made of: a broken tree may end them.
#![allow(clippy::expect_used)]

#[path = "support/source.rs"]
mod source;

use source::SourceFile;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Lines of code in a file, without comments, blank lines and tests.
const MAX_FILE: usize = 400;
/// Names that say nothing.
const EMPTY_NAMES: &[&str] =
    &["utils", "util", "helpers", "helper", "common", "types", "manager", "processor", "inner", "data", "misc"];
/// The only file that may hold `unsafe`: the one that maps the slot table.
const UNSAFE_HOME: &str = "src/io/slots";
/// The commands of the documents, each with who runs it.
const COMMANDS: &str = "tests/clients/commands.txt";

/// Test code: free in its length, and `foo/tests.rs` has the purpose of its parent.
fn is_test_code(file: &SourceFile) -> bool {
    file.path.starts_with("tests") || file.path.ends_with("tests.rs")
}

fn too_long(file: &SourceFile) -> Option<String> {
    if is_test_code(file) {
        return None;
    }
    let first = file.text.lines().next().unwrap_or_default();
    let is_table = first.starts_with("//!") && first.to_lowercase().contains("table");
    let lines = file.production_code().lines().filter(|line| !line.trim().is_empty()).count();
    (lines > MAX_FILE && !is_table)
        .then(|| format!("{} has {lines} lines of code, {MAX_FILE} at most; name its two subjects", file.name()))
}

fn badly_named(file: &SourceFile) -> Option<String> {
    let stem = file.path.file_stem()?.to_str()?;
    if stem == "mod" {
        return Some(format!("{}: a parent is `foo.rs` beside `foo/`, never mod.rs", file.name()));
    }
    EMPTY_NAMES.contains(&stem).then(|| format!("{}: this name says nothing", file.name()))
}

fn without_purpose(file: &SourceFile) -> Option<String> {
    let first = file.text.lines().next().unwrap_or_default();
    let told = first.strip_prefix("//!").is_some_and(|words| words.trim().len() >= 12);
    (!told && !file.path.ends_with("tests.rs"))
        .then(|| format!("{}: line 1 must say what it decides (`//! …`)", file.name()))
}

fn lint_escapes(file: &SourceFile) -> Option<String> {
    let code = file.production_code();
    let allows = |lint: &str| code.contains(&format!("allow({lint}")) || code.contains(&format!("expect({lint}"));
    if allows("unsafe_code") && !file.name().starts_with(UNSAFE_HOME) {
        return Some(format!("{}: only {UNSAFE_HOME} may allow unsafe code", file.name()));
    }
    allows("clippy::too_many_lines").then(|| format!("{}: a long function is split, not excused", file.name()))
}

/// Commands in fenced blocks marked `sh`: one per line, with continued lines joined; comments left out.
fn documented(text: &str) -> Vec<String> {
    let mut commands = Vec::new();
    let mut block = String::new();
    let mut inside = false;
    for line in text.lines() {
        match (inside, line.trim()) {
            (false, "```sh") => inside = true,
            (true, "```") => {
                inside = false;
                let joined = std::mem::take(&mut block).replace("\\\n", " ");
                commands.extend(joined.lines().map(squeezed).filter(|line| !line.is_empty() && !line.starts_with('#')));
            }
            (true, _) => block = block + line + "\n",
            (false, _) => {}
        }
    }
    commands
}

/// One blank between words, so that a continued line compares equal to its joined form.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Fenced blocks whose kind is not told: a command could hide in one.
fn unmarked_blocks(file: &SourceFile) -> Vec<String> {
    let fences = file.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("```"));
    let opening = fences.step_by(2).filter(|(_, line)| line.trim() == "```");
    opening
        .map(|(number, _)| format!("{}:{}: say what the block is (sh, text, yaml, …)", file.name(), number + 1))
        .collect()
}

/// Lines of the command list: `WHO: COMMAND`.
fn listed(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(": ")).map(|(_, command)| squeezed(command)).collect()
}

fn documents() -> Vec<SourceFile> {
    let readme = |path: &str| SourceFile {
        path: PathBuf::from(path),
        text: fs::read_to_string(source::root().join(path)).expect("the file is there"),
    };
    let mut found = vec![readme("README.md")];
    for folder in ["docs", "plugins", "conf", "deploy", "loadtest"] {
        found.extend(source::files(folder, "md"));
    }
    found
}

fn rust_sources() -> Vec<SourceFile> {
    let mut found = source::files("src", "rs");
    assert!(found.len() > 20, "the walk found only {} files: it looks in the wrong place", found.len());
    found.extend(source::files("tests", "rs"));
    found.extend(source::files("benches", "rs"));
    found
}

fn none(violations: &[String]) {
    assert!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
}

#[test]
fn no_file_is_longer_than_its_subject_needs() {
    none(&rust_sources().iter().filter_map(too_long).collect::<Vec<_>>());
}

#[test]
fn every_name_says_something() {
    none(&rust_sources().iter().filter_map(badly_named).collect::<Vec<_>>());
}

#[test]
fn every_file_says_in_line_one_what_it_is_for() {
    none(&rust_sources().iter().filter_map(without_purpose).collect::<Vec<_>>());
}

#[test]
fn no_file_excuses_itself_from_the_lints_that_hold_the_shape() {
    none(&source::files("src", "rs").iter().filter_map(lint_escapes).collect::<Vec<_>>());
}

#[test]
fn the_lints_that_hold_the_shape_are_denied() {
    let root = source::root();
    let cargo = fs::read_to_string(root.join("Cargo.toml")).expect("Cargo.toml");
    for lint in ["unsafe_code", "unwrap_used", "expect_used", "panic", "too_many_lines", "too_many_arguments"] {
        assert!(cargo.contains(&format!("\n{lint} = \"deny\"")), "Cargo.toml must deny {lint}");
    }
    let clippy = fs::read_to_string(root.join("clippy.toml")).expect("clippy.toml");
    for limit in ["too-many-lines-threshold = 60", "too-many-arguments-threshold = 5"] {
        assert!(clippy.contains(limit), "clippy.toml must say {limit}");
    }
}

#[test]
fn every_documented_command_is_run_by_a_test_and_every_listed_one_is_documented() {
    let documents = documents();
    none(&documents.iter().flat_map(unmarked_blocks).collect::<Vec<_>>());
    let told: BTreeSet<String> = documents.iter().flat_map(|file| documented(&file.text)).collect();
    let list = fs::read_to_string(source::root().join(COMMANDS)).expect("the list is there");
    let known = listed(&list);
    let unknown: Vec<String> =
        told.difference(&known).map(|command| format!("no test runs `{command}`: add it to {COMMANDS}")).collect();
    none(&unknown);
    let gone: Vec<String> = known
        .difference(&told)
        .map(|command| format!("{COMMANDS} lists `{command}`, which no document names"))
        .collect();
    none(&gone);
}

// The laws on made-up files: each can fail.

fn made_up(path: &str, text: &str) -> SourceFile {
    SourceFile { path: PathBuf::from(path), text: text.to_owned() }
}

#[test]
fn the_size_counts_code_and_neither_comments_nor_tests() {
    let code = "fn f() {}\n".repeat(MAX_FILE);
    let padding = "// why\n\n/* and\nmore */\n".repeat(100);
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "fn g() {}\n".repeat(100));
    let fits = made_up("src/a.rs", &format!("{code}{padding}{tests}"));
    assert_eq!(too_long(&fits), None, "exactly the limit is allowed");
    let over = made_up("src/a.rs", &format!("{code}fn one_more() {{}}\n"));
    assert!(too_long(&over).is_some_and(|text| text.contains("401 lines")), "one more is not");
    let table = made_up("src/a.rs", &format!("//! A table of status codes.\n{code}fn one_more() {{}}\n"));
    assert_eq!(too_long(&table), None, "a table may be long");
    let tests = made_up("src/a/tests.rs", &format!("{code}fn one_more() {{}}\n"));
    assert_eq!(too_long(&tests), None, "tests may be long");
}

#[test]
fn empty_names_and_mod_rs_are_found() {
    for path in ["src/io/mod.rs", "src/utils.rs", "src/io/common.rs"] {
        assert!(badly_named(&made_up(path, "")).is_some(), "{path} must be found");
    }
    assert_eq!(badly_named(&made_up("src/io/spool.rs", "")), None, "a subject is a name");
}

#[test]
fn a_file_without_purpose_is_found() {
    for text in ["", "use std::fs;\n", "//! stub\n", "// Decides whom to ask.\n"] {
        assert!(without_purpose(&made_up("src/a.rs", text)).is_some(), "{text:?} must be found");
    }
    assert_eq!(without_purpose(&made_up("src/a.rs", "//! Decides whom to ask.\n")), None, "this one tells");
}

#[test]
fn excuses_from_lints_are_found() {
    let excuse = "#[allow(clippy::too_many_lines)]\nfn f() {}\n";
    assert!(lint_escapes(&made_up("src/a.rs", excuse)).is_some(), "long functions are split");
    let escape = "#![allow(unsafe_code)]\n";
    assert!(lint_escapes(&made_up("src/edge/peer.rs", escape)).is_some(), "unsafe has one home");
    assert_eq!(lint_escapes(&made_up("src/io/slots/map.rs", escape)), None, "and this is it");
}

#[test]
fn documented_commands_are_read_whole() {
    let text = "```sh\n# why\nmake  test\ncurl -N \\\n  http://x\n```\n```text\nnot a command\n```\n";
    assert_eq!(documented(text), ["make test", "curl -N http://x"], "joined, without comments and other blocks");
    assert!(listed("# c\nrun: make test\n").contains("make test"), "the list uses the same form");
    assert_eq!(unmarked_blocks(&made_up("d.md", "```\nmake\n```\n")).len(), 1, "a block without a kind is found");
}

#[test]
fn the_lexer_knows_code_from_letters() {
    let hidden = "//a\n/*b/*c*/d*/\"e\\\"f\"r#\"g\"h\"#b\"i\"'j''\\''b'k'";
    assert_eq!(source::code_only(hidden).trim(), "", "comments and literals of every kind are blanked");
    let shown = "fn f<'a>(r: &'a str) -> &'a str { br }";
    assert_eq!(source::code_only(shown), shown, "lifetimes and words that begin with r or b are code");
    assert_eq!(
        source::without_tests("a\n#[cfg(test)]\nmod tests;\nb\n"),
        "a\n\n\nb\n",
        "a test module in its own file"
    );
}
