//! Secrets by reference: `{ env: NAME }` and `{ file: PATH }`. A secret that is written out is refused and masked.

use super::codes::Code;
use super::diagnostic::Findings;
use super::field::Item;
use super::snapshot::Secret;
use super::tree::{Kind, Node};
use std::sync::Arc;

/// Keys whose value is a secret if it is written out.
const SECRET_KEYS: &[&str] = &["bearer", "pepper", "password", "secret", "token"];
/// A secret file is not longer than this.
const MAX_SECRET_BYTES: u64 = 64 << 10;

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

/// Reads a secret that is given by reference.
pub fn read(item: &Item<'_>) -> Option<Secret> {
    if matches!(item.node.kind, Kind::Scalar { .. }) {
        item.findings.mask(item.node.place);
        let hint = Some("use `{ env: NAME }` or `{ file: /path }`".to_owned());
        item.error(Code::BadSecret, "a secret must not be written into the file".into(), hint);
        return None;
    }
    let (source, value) = item.variant(&["env", "file"], &[])?;
    let value = value?;
    let name = value.text()?;
    let bytes = if source == "env" { from_env(&value, name)? } else { from_file(&value, name)? };
    if bytes.is_empty() {
        value.error(Code::BadSecret, "the secret is empty".into(), None);
        return None;
    }
    Some(Secret(Arc::new(zeroize::Zeroizing::new(bytes))))
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
