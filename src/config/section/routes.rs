//! `routes:` – what goes where, in file order.

use super::backends::weight;
use super::matcher::{condition, matcher};
use super::names::{Kind, Names, check_name};
use super::pools::texts;
use crate::config::codes::Code;
use crate::config::field::{Fields, Item};
use crate::config::snapshot::{Action, Route, RouteTarget};
use crate::domain::ids::RouteId;
use std::collections::BTreeMap;
use std::sync::Arc;

const KNOWN: &[&str] = &["name", "match", "auth", "rewrite", "to", "respond", "meter"];
const LATER: &[&str] =
    &["fallback", "plugins", "headers", "timeouts", "limits", "roles", "priority", "redirect", "mirror"];

/// Reads `routes:`.
#[must_use]
pub fn routes<'t>(top: &Fields<'t>, names: &Names<'t>, broken: bool) -> Vec<Arc<Route>> {
    let list = top.item("routes");
    if list.list().is_empty() && !broken {
        let hint = Some("add `routes: [{ match: { path: { prefix: / } }, to: [{ pool: NAME }] }]`".to_owned());
        top.item.error(Code::Missing, "`routes` is required, with at least one".into(), hint);
    }
    let mut seen: BTreeMap<String, Item<'_>> = BTreeMap::new();
    let mut all = Vec::new();
    for (index, item) in list.list().into_iter().enumerate() {
        let route = route(&item, index, names);
        if let Some(first) = seen.get(route.id.as_str()) {
            let spot = item.findings.spot(first.node.place);
            let message = format!("a route `{}` is already defined at {spot}", route.id);
            item.error(Code::DuplicateName, message, Some("give each route a name of its own".into()));
        }
        seen.insert(route.id.as_str().to_owned(), item);
        all.push(Arc::new(route));
    }
    all
}

fn route<'t>(item: &Item<'t>, index: usize, names: &Names<'t>) -> Route {
    let fields = item.fields(KNOWN, LATER);
    let name = fields.get("name").and_then(|name| {
        let text = name.text()?;
        check_name(&name, text, name.node.place);
        Some(text.to_owned())
    });
    let rewrite = fields.item("rewrite").fields(&["model"], &["path", "host", "prefix"]);
    Route {
        id: RouteId::new(&name.unwrap_or_else(|| format!("route-{index}"))),
        matcher: matcher(&fields.item("match"), names),
        auth: auth(&fields, names),
        action: action(&fields, names),
        rewrite_model: rewrite.get("model").and_then(|item| texts(&item)?.into_iter().next()),
        meter: fields.or("meter", Item::flag, false),
        when: condition(&fields.item("match")),
    }
}

/// Absent: any of all the authenticators; `none`: everyone.
fn auth<'t>(fields: &Fields<'t>, names: &Names<'t>) -> Vec<String> {
    let Some(item) = fields.get("auth") else {
        return names.auth.iter().map(|name| (*name).to_owned()).collect();
    };
    if item.text_only() && item.text() == Some("none") {
        return Vec::new();
    }
    let listed = item.list();
    if listed.is_empty() {
        let hint = Some("use `auth: none` to open the route to everyone".to_owned());
        item.error(Code::EmptyPool, "an empty list says neither who may nor that everyone may".into(), hint);
    }
    listed.iter().filter_map(|item| names.refer(item, Kind::Auth)).map(str::to_owned).collect()
}

fn action<'t>(fields: &Fields<'t>, names: &Names<'t>) -> Action {
    match (fields.get("to"), fields.get("respond")) {
        (Some(to), None) => Action::Pools(targets(&to, names)),
        (None, Some(respond)) => answer(&respond),
        (to, _) => {
            let message =
                if to.is_some() { "a route has `to` or `respond`, not both" } else { "this route does nothing" };
            let hint = Some("add `to: [{ pool: NAME }]` or `respond: { status: 200 }`".to_owned());
            fields.item.error(Code::NoAction, message.into(), hint);
            Action::Pools(Vec::new())
        }
    }
}

fn targets<'t>(item: &Item<'t>, names: &Names<'t>) -> Vec<RouteTarget> {
    let listed = item.list();
    let all: Vec<_> = listed.iter().filter_map(|item| target(item, names)).collect();
    if listed.is_empty() {
        item.error(Code::EmptyPool, "a route needs a pool".into(), Some("add `{ pool: NAME }`".into()));
    } else if all.len() == listed.len() && all.iter().all(|target| target.weight == 0) {
        let hint = Some("give at least one pool a weight of 1".to_owned());
        item.error(Code::NoWeight, "all weights are 0: nothing can be sent".into(), hint);
    }
    all
}

fn target<'t>(item: &Item<'t>, names: &Names<'t>) -> Option<RouteTarget> {
    let (pool, share) = if item.text_only() {
        (item.clone(), 1)
    } else {
        let fields = item.fields(&["pool", "weight"], &["model", "if"]);
        (fields.need("pool", "for example `{ pool: vllm }`")?, fields.or("weight", weight, 1))
    };
    let name = names.refer(&pool, Kind::Pool)?;
    Some(RouteTarget { pool: names.pool_index(name).unwrap_or(0), weight: share })
}

fn answer(item: &Item<'_>) -> Action {
    let fields = item.fields(&["status", "body"], &["headers", "file"]);
    let status = |item: &Item<'_>| {
        let code = item.count().and_then(|code| u16::try_from(code).ok()).filter(|code| (200..600).contains(code));
        if code.is_none() {
            item.error(Code::OutOfRange, format!("`{}` is not a status from 200 to 599", item.shown()), None);
        }
        code
    };
    Action::Respond {
        status: fields.or("status", status, 200),
        body: fields.or("body", |item| item.text().map(str::to_owned), String::new()),
    }
}
