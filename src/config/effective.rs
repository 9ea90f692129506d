//! The configuration as it is in force, as text again: includes, defaults and variables resolved, secrets not shown.
//! Loading the text gives an equal snapshot.

pub mod access;
pub mod auth;
pub mod layout;
pub mod pools;
pub mod quota;
pub mod sections;

use super::diagnostic::Findings;
use super::snapshot::Snapshot;
use super::tree::{Kind, Node};
use serde_yaml::{Mapping, Value};

/// The effective text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Without comments; what `Snapshot::version` is the hash of.
    pub plain: String,
    /// With the origin of every value: `# conf/weir.yaml:12`.
    pub annotated: String,
}

/// Writes a snapshot out. `root` says where its values came from.
#[must_use]
pub fn of(snapshot: &Snapshot, root: &Node, findings: &Findings) -> Effective {
    let value = sections::document(snapshot, root);
    let plain = layout::text(&value, None);
    let annotated = layout::text(&value, Some((root, findings)));
    Effective { plain, annotated }
}

/// A mapping of what is there.
fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let kept = entries.into_iter().filter(|(_, value)| !value.is_null());
    Value::Mapping(kept.map(|(key, value)| (Value::from(key), value)).collect::<Mapping>())
}

/// A list of texts.
fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Sequence(items.into_iter().map(|item| Value::from(item.to_string())).collect())
}

/// A reference to a secret as it was written: the reference is no secret, its value never gets here.
fn reference(node: Option<&Node>) -> Value {
    node.filter(|node| super::secret::is_reference(node)).map_or(Value::Null, written)
}

/// A tree as it was written, its scalars as texts.
fn written(node: &Node) -> Value {
    match &node.kind {
        Kind::Null => Value::Null,
        Kind::Scalar { text, .. } => text.as_str().into(),
        Kind::List(items) => Value::Sequence(items.iter().map(written).collect()),
        Kind::Map(entries) => {
            let entries = entries.iter().map(|entry| (Value::from(entry.key.as_str()), written(&entry.value)));
            Value::Mapping(entries.collect())
        }
    }
}

/// The node at a path of keys.
fn at<'n>(root: &'n Node, path: &[&str]) -> Option<&'n Node> {
    path.iter().try_fold(root, |node, key| node.get(key))
}
