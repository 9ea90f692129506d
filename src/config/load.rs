//! The loader: a file's text through all steps. The only part of the program that may wait for a resolver.

use super::codes::Code;
use super::diagnostic::{Diagnostic, Findings, Place, Report};
use super::effective::{self, Effective};
use super::field::Item;
use super::snapshot::Snapshot;
use super::{include, section, validate};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Compiled.
    pub snapshot: Arc<Snapshot>,
    /// What is odd about it.
    pub warnings: Vec<Diagnostic>,
    /// The same as text, for `weir dump` and `GET /config`; without secrets.
    pub effective: Effective,
}

/// The file of every command that names none: `conf/weir.yaml` if it is there, else `/etc/weir/weir.yaml`.
#[must_use]
pub fn default_file() -> PathBuf {
    let near = PathBuf::from("conf/weir.yaml");
    if near.exists() { near } else { PathBuf::from("/etc/weir/weir.yaml") }
}

/// Loads a file.
///
/// # Errors
/// The report, with every fault that was found.
pub fn load(path: &Path) -> Result<Loaded, Report> {
    let (report, loaded) = examine(path);
    loaded.ok_or(report)
}

/// Loads a text as if it stood in a file of that name; include patterns start at `base`.
///
/// # Errors
/// The report, with every fault that was found.
pub fn load_text(name: &str, text: &str, base: &Path) -> Result<Loaded, Report> {
    let (report, loaded) = examine_text(name, text, base);
    loaded.ok_or(report)
}

/// Loads a file, and gives the report in any case: for `weir check`.
#[must_use]
pub fn examine(path: &Path) -> (Report, Option<Loaded>) {
    let name = path.display().to_string();
    match include::read_text(path) {
        Ok(text) => examine_text(&name, &text, path.parent().unwrap_or(Path::new(""))),
        Err(fault) => {
            let findings = Findings::default();
            let file = findings.add_source(&name, "");
            let place = Place { file, line: 1, col: 1, start: 0, end: 0 };
            findings.add(Code::Unreadable, (place, ""), format!("the file cannot be read: {fault}"), None);
            (findings.into_report(&name), None)
        }
    }
}

fn examine_text(name: &str, text: &str, base: &Path) -> (Report, Option<Loaded>) {
    let findings = Findings::default();
    let merged = include::read(name, text, base, &findings);
    let root = Item { findings: &findings, node: &merged.root, path: String::new() };
    let compiled = section::compile(&root, merged.broken, Path::new(name));
    validate::check(&root, &compiled, merged.broken);
    if findings.failed() {
        return (findings.into_report(name), None);
    }
    let effective = effective::of(&compiled, &merged.root, &findings);
    let digest = Sha256::digest(effective.plain.as_bytes());
    let version: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let snapshot = Arc::new(Snapshot { version: version.into(), ..compiled });
    let report = findings.into_report(name);
    let warnings = report.warnings.clone();
    (report, Some(Loaded { snapshot, warnings, effective }))
}
