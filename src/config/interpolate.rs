//! `${VAR}` and `${VAR:-default}` in scalars, after parsing: a value can never bring structure in. `$${` is `${`.

use super::codes::Code;
use super::diagnostic::{Findings, Place};
use super::tree::{Kind, Node};

/// Replaces every variable of a tree. `var` looks one up.
pub fn interpolate(node: &mut Node, var: &dyn Fn(&str) -> Option<String>, findings: &Findings) {
    let place = node.place;
    match &mut node.kind {
        Kind::Null => {}
        Kind::Scalar { text, .. } => {
            if text.contains("${") {
                *text = expand(text, place, var, findings);
            }
        }
        Kind::List(items) => items.iter_mut().for_each(|item| interpolate(item, var, findings)),
        Kind::Map(entries) => entries.iter_mut().for_each(|entry| interpolate(&mut entry.value, var, findings)),
    }
}

fn expand(text: &str, place: Place, var: &dyn Fn(&str) -> Option<String>, findings: &Findings) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, tail) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = &tail[2..];
            continue;
        }
        out.push_str(before);
        let Some(end) = tail.find('}') else {
            let hint = Some("close it with `}`, or write `$${` for the letters themselves".to_owned());
            findings.add(Code::EnvMissing, (place, ""), "`${` without its `}`".into(), hint);
            return out;
        };
        let (name, default) = tail[2..end].split_once(":-").map_or((&tail[2..end], None), |(n, d)| (n, Some(d)));
        if name.contains('.') {
            // `${backend.name}` is filled in for each request, not here.
            out.push_str(&tail[..=end]);
            rest = &tail[end + 1..];
            continue;
        }
        match var(name).filter(|value| !value.is_empty()).or(default.map(str::to_owned)) {
            Some(value) => out.push_str(&value),
            None => {
                let hint = Some(format!("set it, or give a default: `${{{name}:-…}}`"));
                findings.add(Code::EnvMissing, (place, ""), format!("environment variable `{name}` is not set"), hint);
            }
        }
        rest = &tail[end + 1..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> (String, bool) {
        let findings = Findings::default();
        let var = |name: &str| (name == "A").then(|| "1: [2".to_owned());
        let out = expand(text, Place::default(), &var, &findings);
        (out, findings.failed())
    }

    #[test]
    fn a_variable_a_default_and_an_escape_are_told_apart() {
        assert_eq!(expanded("x${A}y"), ("x1: [2y".into(), false), "the value stays one scalar");
        assert_eq!(expanded("${B:-z}"), ("z".into(), false), "the default stands in");
        assert_eq!(expanded("$${A}"), ("${A}".into(), false), "two dollars are one");
        assert_eq!(expanded("${backend.name}"), ("${backend.name}".into(), false), "not the environment's");
        assert!(expanded("${B}").1, "an unset variable is an error");
        assert!(expanded("${B").1, "an open brace is an error");
    }
}
