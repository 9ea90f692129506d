//! `include:`: which files join, and how their trees merge. Named things merge by key, routes go behind.

use super::codes::Code;
use super::diagnostic::{Findings, Place};
use super::parse::{self, Parsed};
use super::tree::{Entry, Kind, Node};
use super::{interpolate, secret};
use std::path::{Path, PathBuf};

/// Files of one configuration.
pub const MAX_FILES: usize = 1_000;
/// Bytes of one file.
pub const MAX_FILE_BYTES: u64 = 4 << 20;

/// A configuration with its includes merged in.
#[derive(Debug)]
pub struct Merged {
    /// The one tree.
    pub root: Node,
    /// True if some section could not be read.
    pub broken: bool,
}

/// Parses a file's text and everything that it includes. `base` is where its patterns start.
#[must_use]
pub fn read(name: &str, text: &str, base: &Path, findings: &Findings) -> Merged {
    let mut seen = vec![PathBuf::from(name)];
    let mut merged = alone(name, text, findings);
    let mut queue: Vec<PathBuf> = patterns(&mut merged.root, base, findings);
    let mut next = 0;
    while let Some(path) = queue.get(next).cloned() {
        next += 1;
        if seen.iter().any(|known| same(known, &path)) {
            continue; // a pattern may well match the file that it stands in
        }
        seen.push(path.clone());
        let shown = path.display().to_string();
        let place = merged.root.place;
        if seen.len() > MAX_FILES {
            findings.add(Code::BadInclude, (place, "include"), format!("more than {MAX_FILES} files"), None);
            break;
        }
        match read_text(&path) {
            Err(fault) => findings.add(Code::Unreadable, (place, "include"), format!("`{shown}`: {fault}"), None),
            Ok(text) => {
                let mut other = alone(&shown, &text, findings);
                let base = path.parent().unwrap_or(Path::new("")).to_owned();
                queue.extend(patterns(&mut other.root, &base, findings));
                merged.broken |= other.broken;
                join(&mut merged.root, other.root, findings);
            }
        }
    }
    merged
}

/// Reads a file as text.
///
/// # Errors
/// In words, if it is too long, not there or not UTF-8.
pub fn read_text(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    std::fs::read_to_string(path).map_err(|error| error.to_string())
}

/// Parses a file's text by itself: nothing is included.
#[must_use]
pub fn alone(name: &str, text: &str, findings: &Findings) -> Merged {
    let file = findings.add_source(name, text);
    let Parsed { mut root, broken } = parse::parse(file, text, findings);
    secret::mask_tree(&root, findings);
    interpolate::interpolate(&mut root, &|name| std::env::var(name).ok(), findings);
    match root.kind {
        Kind::Map(_) => {}
        Kind::Null => root.kind = Kind::Map(Vec::new()),
        _ => {
            let message = format!("a mapping is needed here, not {}", root.kind_name());
            findings.add(Code::WrongType, (root.place, ""), message, None);
            root.kind = Kind::Map(Vec::new());
        }
    }
    Merged { root, broken }
}

fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Takes `include` out of a tree and says which files it means.
fn patterns(root: &mut Node, base: &Path, findings: &Findings) -> Vec<PathBuf> {
    let Kind::Map(entries) = &mut root.kind else { return Vec::new() };
    let Some(at) = entries.iter().position(|entry| entry.key == "include") else { return Vec::new() };
    let include = entries.remove(at).value;
    let items = match include.kind {
        Kind::List(items) => items,
        Kind::Null => return Vec::new(),
        _ => vec![include],
    };
    items.iter().flat_map(|item| expand(item, base, findings)).collect()
}

fn expand(item: &Node, base: &Path, findings: &Findings) -> Vec<PathBuf> {
    let Kind::Scalar { text, shown } = &item.kind else {
        findings.add(Code::WrongType, (item.place, "include"), "a file pattern is needed here".into(), None);
        return Vec::new();
    };
    let wild = |part: &str| part.contains(['*', '?', '[', '{']);
    let mut paths = vec![if text.starts_with('/') { PathBuf::from("/") } else { base.to_owned() }];
    for part in text.split('/').filter(|part| !part.is_empty()) {
        if part == "**" {
            let hint = Some("name the folders, or include one level with `*`".to_owned());
            findings.add(Code::BadInclude, (item.place, "include"), "`**` is not supported".into(), hint);
            return Vec::new();
        }
        if !wild(part) {
            paths.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        match globset::Glob::new(part) {
            Ok(glob) => paths = matching(&paths, &glob.compile_matcher()),
            Err(error) => {
                let message = format!("`{shown}` is not a file pattern: {}", error.kind());
                findings.add(Code::BadPattern, (item.place, "include"), message, None);
                return Vec::new();
            }
        }
    }
    if !wild(text) && paths.iter().any(|path| !path.is_file()) {
        let hint = Some("a pattern with `*` may match nothing; a plain name must exist".to_owned());
        findings.add(Code::BadInclude, (item.place, "include"), format!("no such file: `{shown}`"), hint);
        return Vec::new();
    }
    paths.retain(|path| path.is_file());
    paths
}

/// What of these folders matches, in name order.
fn matching(folders: &[PathBuf], glob: &globset::GlobMatcher) -> Vec<PathBuf> {
    let here = |folder: &Path| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
    let listed = folders.iter().filter_map(|folder| Some((folder, std::fs::read_dir(here(folder)).ok()?)));
    let mut found: Vec<PathBuf> = listed
        .flat_map(|(folder, list)| {
            let names = list.filter_map(Result::ok).map(|entry| entry.file_name());
            names
                .filter(|name| !name.as_encoded_bytes().starts_with(b".") && glob.is_match(name))
                .map(|name| folder.join(name))
        })
        .collect();
    found.sort();
    found
}

/// Merges an included tree: mappings by key on two levels, lists one behind the other.
fn join(root: &mut Node, other: Node, findings: &Findings) {
    let (Kind::Map(mine), Kind::Map(theirs)) = (&mut root.kind, other.kind) else { return };
    for entry in theirs {
        if entry.key == "version" || entry.key.starts_with("x-") {
            let known = mine.iter().any(|own| own.key == entry.key);
            if !known {
                mine.push(entry);
            }
            continue;
        }
        let Some(own) = mine.iter_mut().find(|own| own.key == entry.key) else {
            mine.push(entry);
            continue;
        };
        let (section, place, first) = (entry.key.clone(), entry.place, own.place);
        match (&mut own.value.kind, entry.value.kind) {
            (Kind::Map(named), Kind::Map(more)) => {
                more.into_iter().for_each(|entry| join_entry(named, entry, &section, findings));
            }
            (Kind::List(items), Kind::List(more)) => items.extend(more),
            (_, Kind::Null) => {}
            (Kind::Null, kind) => own.value = Node { place: entry.value.place, kind },
            _ => duplicate(&section, place, first, findings),
        }
    }
}

fn join_entry(named: &mut Vec<Entry>, entry: Entry, section: &str, findings: &Findings) {
    match named.iter().find(|own| own.key == entry.key) {
        Some(own) => duplicate(&format!("{section}.{}", entry.key), entry.place, own.place, findings),
        None => named.push(entry),
    }
}

fn duplicate(path: &str, place: Place, first: Place, findings: &Findings) {
    let message = format!("`{path}` is already defined at {}", findings.spot(first));
    findings.add(Code::DuplicateKey, (place, path), message, Some("rename or remove one of them".into()));
}
