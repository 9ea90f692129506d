//! The configuration as it is in force, as text again: includes, defaults and variables resolved, secrets not shown.
//! Loading the text gives an equal snapshot.

pub mod layout;
pub mod pools;
pub mod sections;

use super::diagnostic::Findings;
use super::snapshot::Snapshot;
use super::tree::Node;
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
    let Some(entry) = node.and_then(|node| node.entries().first()) else { return Value::Null };
    match &entry.value.kind {
        super::tree::Kind::Scalar { text, .. } => map([(entry.key.as_str(), Value::from(text.as_str()))]),
        _ => Value::Null,
    }
}

/// The node at a path of keys.
fn at<'n>(root: &'n Node, path: &[&str]) -> Option<&'n Node> {
    path.iter().try_fold(root, |node, key| node.get(key))
}
