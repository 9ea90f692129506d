//! The log of changes over HTTP. Decides who sees which line: a tenant's administrator what belongs to the tenant.

use super::call::{Answer, Call};
use super::changes::{page, readable};
use super::form::written;
use super::problem::Problem;
use crate::io::store::Store;
use crate::io::store::rows::{AuditEntry, AuditFilter};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

/// Who changed something.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Actor")]
pub struct ActorView {
    /// How they proved who they are: `api_key`, `jwt`, …, or `cli`.
    kind: String,
    /// Key id, user, or the account that ran the command.
    id: String,
    /// Their tenant; null on the command line.
    tenant_id: Option<String>,
    /// The request that asked for it.
    request_id: Option<String>,
}

/// One change.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub struct EntryView {
    /// Counts from 1, without gaps.
    id: i64,
    /// When.
    #[schemars(extend("format" = "date-time"))]
    at: String,
    /// Who.
    actor: ActorView,
    /// What was done: `key.create`, `tenant.put`, ….
    action: String,
    /// To what: a key id, a tenant, `TENANT/TEAM`, ….
    target: String,
    /// The tenant that it belongs to; null: the installation.
    tenant_id: Option<String>,
    /// How it was; null: it was not.
    before: Option<Map<String, Value>>,
    /// How it is; null: it is no more.
    after: Option<Map<String, Value>>,
}

/// A page of the log, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuditPage {
    entries: Vec<EntryView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// `GET /audit`
pub fn list(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let target = call.query.text("target").map(str::to_owned);
    let filter = AuditFilter { tenant: call.tenant_filter()?, target };
    let page = page(call)?;
    if page.after.as_ref().is_some_and(|after| after.parse::<i64>().is_err()) {
        return Err(Problem::parameter("cursor", "This cursor is not of this list. Leave it out to begin anew."));
    }
    let (rows, next) = readable(store.read()?.audit(&filter, &page)?);
    let entries: Vec<EntryView> = rows.into_iter().map(view).collect();
    Answer::page("entries", &entries, next.map(|next| call.list().after(&[&next])))
}

fn view(entry: AuditEntry) -> EntryView {
    EntryView {
        id: entry.id,
        at: written(entry.at),
        actor: ActorView {
            kind: entry.actor.kind,
            id: entry.actor.id,
            tenant_id: entry.actor.tenant,
            request_id: entry.actor.request_id,
        },
        action: entry.action,
        target: entry.target,
        tenant_id: entry.tenant,
        before: object(entry.before),
        after: object(entry.after),
    }
}

/// What the store writes down is always an object.
fn object(value: Option<Value>) -> Option<Map<String, Value>> {
    match value {
        Some(Value::Object(members)) => Some(members),
        _ => None,
    }
}
