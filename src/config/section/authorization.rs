//! `authorization:` – rules that every caller must pass: CEL conditions, in file order.

use super::expression::{CONDITION, expression};
use super::names::check_name;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::tree::Kind;
use crate::logic::access::rule::{Effect, Rule};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Each of them is evaluated for each request.
const MAX_RULES: usize = 256;

/// Reads `authorization:`.
#[must_use]
pub fn rules(item: &Item<'_>) -> Vec<Rule> {
    if matches!(item.node.kind, Kind::Scalar { .. } | Kind::Map(_)) {
        let hint = Some("write `- { name: …, when: \"…\", effect: deny }` lines".to_owned());
        item.error(Code::WrongType, "a list of rules is needed here".into(), hint);
        return Vec::new();
    }
    let listed = item.list();
    if listed.len() > MAX_RULES {
        item.error(Code::OutOfRange, format!("at most {MAX_RULES} rules: each is evaluated for each request"), None);
    }
    let mut seen: BTreeMap<Arc<str>, Item<'_>> = BTreeMap::new();
    let mut all = Vec::new();
    for item in listed {
        let Some(rule) = rule(&item) else { continue };
        if let Some(first) = seen.get(&rule.name) {
            let spot = item.findings.spot(first.node.place);
            let message = format!("a rule `{}` is already defined at {spot}", rule.name);
            item.error(Code::DuplicateName, message, Some("its name is what the log says of a denial".into()));
        }
        seen.insert(Arc::clone(&rule.name), item);
        all.push(rule);
    }
    all
}

fn rule(item: &Item<'_>) -> Option<Rule> {
    let fields = item.fields(&["name", "when", "effect"], &["mode", "message"]);
    let name = fields.need("name", "the log says it with each denial").and_then(|item| {
        let text = item.text()?;
        check_name(&item, text, item.node.place);
        Some(Arc::from(text))
    });
    let when = fields.need("when", "for example `when: \"auth.team == 'batch'\"`");
    let when = when.and_then(|item| expression(&item, CONDITION));
    let effect = fields.need("effect", "`deny`: denied where it holds; `require`: denied where it does not");
    let effect = effect.and_then(|item| item.choice(&["deny", "require"], &["allow"]));
    let effect = if effect? == "require" { Effect::Require } else { Effect::Deny };
    Some(Rule { name: name?, when: when?, effect })
}
