//! Secrets by reference: `{ env: NAME }`, `{ file: PATH }` and `{ command: [PROGRAM, …] }`. A secret that is written
//! out is refused and masked.

mod command;

use super::codes::Code;
use super::diagnostic::Findings;
use super::field::Item;
use super::snapshot::Secret;
use super::tree::{Kind, Node};
use std::sync::Arc;
use std::time::Duration;

/// Keys whose value is a secret if it is written out.
const SECRET_KEYS: &[&str] = &["bearer", "pepper", "password", "secret", "client_secret", "token"];
/// A secret file is not longer than this.
const MAX_SECRET_BYTES: u64 = 64 << 10;
/// A program that gives a secret is waited for so long, where nothing is said.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// A start or check waits for it.
const MAX_COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Masks secrets that are written out in a tree, wherever their text stands.
pub fn mask_tree(node: &Node, findings: &Findings) {
    match &node.kind {
        Kind::List(items) => items.iter().for_each(|item| mask_tree(item, findings)),
        Kind::Map(entries) => {
            for entry in entries {
                let literal = matches!(entry.value.kind, Kind::Scalar { .. });
                if literal && SECRET_KEYS.contains(&entry.key.as_str()) {
                    findings.mask(entry.value.place);
                }
                mask_tree(&entry.value, findings);
            }
        }
        Kind::Null | Kind::Scalar { .. } => {}
    }
}

/// True for a mapping that says where a secret is: it may be shown, what it leads to may not.
#[must_use]
pub fn is_reference(node: &Node) -> bool {
    node.entries().iter().any(|entry| matches!(entry.key.as_str(), "env" | "file" | "command"))
}

/// Reads a secret that is given by reference.
pub fn read(item: &Item<'_>) -> Option<Secret> {
    if matches!(item.node.kind, Kind::Scalar { .. }) {
        item.findings.mask(item.node.place);
        let hint = Some("use `{ env: NAME }`, `{ file: /path }` or `{ command: [program] }`".to_owned());
        item.error(Code::BadSecret, "a secret must not be written into the file".into(), hint);
        return None;
    }
    let bytes = if item.node.get("command").is_some() {
        from_command(item)?
    } else {
        let (source, value) = item.variant(&["env", "file", "command"], &["vault", "keyring"])?;
        let value = value?;
        let name = value.text()?;
        if source == "env" { from_env(&value, name)? } else { from_file(&value, name)? }
    };
    if bytes.is_empty() {
        item.error(Code::BadSecret, "the secret is empty".into(), None);
        return None;
    }
    Some(Secret(Arc::new(zeroize::Zeroizing::new(bytes))))
}

/// `{ command: [PROGRAM, ARGUMENT, …], timeout: 10s }`
fn from_command(item: &Item<'_>) -> Option<Vec<u8>> {
    let fields = item.fields(&["command", "timeout"], &["shell", "ttl"]);
    let timeout = fields.or("timeout", timeout, COMMAND_TIMEOUT);
    let command = fields.item("command");
    if !matches!(command.node.kind, Kind::List(_)) {
        let hint = Some("write program and arguments apart: `[vault, read, -field=key, secret/openai]`".to_owned());
        command.error(Code::WrongType, "a list is needed here: no shell takes a line apart".into(), hint);
        return None;
    }
    let words: Vec<&str> = command.list().iter().filter_map(word).collect();
    let (program, arguments) = words.split_first()?;
    if words.len() != command.list().len() {
        return None;
    }
    match command::run(program, arguments, timeout) {
        Ok(output) => Some(output.trim_ascii_end().to_vec()),
        Err(fault) => {
            let hint = Some("its standard error is not shown, since it may hold secrets; run it by hand".to_owned());
            command.error(Code::BadSecret, format!("the program `{program}` {fault}"), hint);
            None
        }
    }
}

/// One word of a command. They are shown, by `weir dump` as by `ps`, so no variable may bring a secret in.
fn word<'t>(item: &Item<'t>) -> Option<&'t str> {
    let text = item.text()?;
    if text == item.shown() && !text.contains('\0') {
        return Some(text);
    }
    let hint = Some("the program has the environment of this process and can read it there".to_owned());
    item.error(Code::BadSecret, "no variables in a command: its words are shown".into(), hint);
    None
}

fn timeout(item: &Item<'_>) -> Option<Duration> {
    let timeout = item.wait()?;
    if timeout > MAX_COMMAND_TIMEOUT {
        item.error(Code::OutOfRange, "at most 60s: each start and check waits for it".into(), None);
        return None;
    }
    Some(timeout)
}

fn from_env(item: &Item<'_>, name: &str) -> Option<Vec<u8>> {
    let well_formed = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !well_formed {
        item.findings.mask(item.node.place);
        let hint = Some("give the name of the variable, not its value".to_owned());
        item.error(Code::BadSecret, "not the name of an environment variable".into(), hint);
        return None;
    }
    let Some(value) = std::env::var_os(name) else {
        let hint = Some("set it in the environment of the process".to_owned());
        item.error(Code::EnvMissing, format!("environment variable `{name}` is not set"), hint);
        return None;
    };
    Some(value.into_encoded_bytes().trim_ascii().to_vec())
}

fn from_file(item: &Item<'_>, name: &str) -> Option<Vec<u8>> {
    let read = std::fs::metadata(name).and_then(|about| {
        if about.len() > MAX_SECRET_BYTES {
            return Err(std::io::Error::other(format!("larger than {MAX_SECRET_BYTES} bytes")));
        }
        std::fs::read(name)
    });
    match read {
        Ok(bytes) => Some(bytes.trim_ascii_end().to_vec()),
        Err(error) => {
            item.error(Code::BadSecret, format!("the secret's file `{name}` cannot be read: {error}"), None);
            None
        }
    }
}
