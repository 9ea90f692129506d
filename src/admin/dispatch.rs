//! From a request to its operation and back: path, caller, scope, parameters, body, in this order, so that nobody who
//! may not learns what would be right. Decides nothing about the resources.

use super::PREFIX;
use super::call::{Answer, Call};
use super::openapi::IDEMPOTENCY;
use super::operation::{Handler, Needs, Operation};
use super::operations::{DOCUMENT, OPERATIONS};
use super::problem::Problem;
use super::query::{Query, decoded};
use super::stores::{Stores, Turns};
use super::{schema, strict};
use crate::config::snapshot::{Authenticator, Snapshot};
use crate::domain::ids::RequestId;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::io::usage_query::UsageReader;
use crate::logic::access::rule::{self, Asked};
use crate::logic::access::scopes::{self, Reach, Scope, Scopes};
use crate::runtime::Runtime;
use crate::stages::authenticate::{self, Arrival};
use crate::stages::{accept, check};
use serde_json::{Value, json};
use std::sync::Arc;

/// Bytes of a body at most.
pub const MAX_BODY: u64 = 1 << 20;

/// The admin API with what it works on.
pub struct Api {
    stores: Arc<Stores>,
    usage: UsageReader,
    turns: Turns,
}

/// A request's head.
pub struct Head<'a> {
    /// Its id, which is in the audit log.
    pub id: RequestId,
    /// Without the query, percent signs as they came.
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
    /// Method, fields and address.
    pub arrival: Arrival<'a>,
}

/// A request that may be done, once its body is there.
pub struct Opened {
    operation: &'static Operation,
    call: Call,
    json: bool,
}

impl Opened {
    /// True where the caller may do this to every tenant.
    #[must_use]
    pub fn reaches_all_tenants(&self) -> bool {
        self.call.bound().is_none()
    }
}

impl Api {
    /// The API over a configuration's store and usage database; opens neither.
    #[must_use]
    pub fn new(snapshot: &Snapshot) -> Self {
        Self {
            stores: Stores::new(&snapshot.store),
            usage: UsageReader::new(&snapshot.usage.sqlite),
            turns: Turns::default(),
        }
    }

    /// Everything that is decided before the body is read.
    ///
    /// # Errors
    /// [`Problem`]
    pub async fn open(&self, runtime: &Arc<Runtime>, head: &Head<'_>) -> Result<Opened, Problem> {
        let (operation, path) = find(head.arrival.method, head.path)?;
        let (via, principal) = match operation.needs {
            Needs::Nobody => (None, Principal::anonymous()),
            _ => identify(runtime, &head.arrival).await.map(|(name, principal)| (Some(name), principal))?,
        };
        let grant = scopes::grant(&runtime.snapshot.roles, principal.profile.roles.as_deref());
        let (scopes, everywhere) = (grant.scopes, grant.everywhere);
        let (allowed, reach) = match operation.needs {
            Needs::Nobody => (true, Reach::Own),
            Needs::Scope(scope) => (scopes.allow(scope), grant.reach(scope)),
            Needs::Operator => (everywhere.allow(Scope::Admin), Reach::All),
        };
        if !allowed {
            return Err(Refusal::InsufficientPermissions { rule: Arc::from(operation.id) }.into());
        }
        if operation.needs != Needs::Nobody {
            permitted(runtime, &principal, scopes, head)?;
        }
        let path = operation
            .path_parameters()
            .zip(path)
            .map(|(parameter, value)| parameter.check(&value).map(|()| (parameter.name, value)))
            .collect::<Result<_, _>>()?;
        let idempotency_key = if operation.idempotent_by_key { repetition(&head.arrival)? } else { None };
        let query = Query::read(head.query, operation.query)?;
        let (runtime, now) = (Arc::clone(runtime), runtime.services.clock.wall());
        let (request_id, body, operation_id) = (head.id, Value::Null, operation.id);
        Ok(Opened {
            operation,
            json: is_json(&head.arrival),
            call: Call {
                runtime,
                principal,
                via,
                scopes,
                everywhere,
                reach,
                request_id,
                operation: operation_id,
                path,
                query,
                idempotency_key,
                body,
                now,
            },
        })
    }

    /// Does it.
    ///
    /// # Errors
    /// [`Problem`]
    pub async fn finish(&self, opened: Opened, body: Vec<u8>) -> Result<Answer, Problem> {
        let Opened { operation, mut call, json } = opened;
        // Where it may block: a body of a mebibyte takes long to check, and the listener has one thread.
        let ready = move || {
            call.body = read_body(operation, &body, json)?;
            Ok(call)
        };
        match operation.run {
            Handler::Now(run) => self.turns.run(move || run(&ready()?)).await,
            Handler::Store(run) => self.stores.run(ready, move |call, store| run(&call, store)).await,
            Handler::Usage(run) => {
                let usage = self.usage.clone();
                self.turns.run(move || run(&ready()?, &usage)).await
            }
        }
    }
}

/// The operation of a path and method, with the values of the path's parameters.
fn find(method: &str, path: &str) -> Result<(&'static Operation, Vec<String>), Problem> {
    let rest = path.strip_prefix(PREFIX).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let segments: Vec<&str> = rest.ok_or(Refusal::RouteNotFound)?.split('/').collect();
    let here: Vec<&'static Operation> = OPERATIONS.iter().filter(|one| is_at(one.path, &segments)).collect();
    // A fixed path goes before one with a parameter in the same place.
    let fewest = here.iter().map(|one| one.path_parameters().count()).min().ok_or(Refusal::RouteNotFound)?;
    let here: Vec<_> = here.into_iter().filter(|one| one.path_parameters().count() == fewest).collect();
    let wanted = if method == "HEAD" { "GET" } else { method };
    let Some(operation) = here.iter().find(|one| one.method == wanted) else {
        let allow: Vec<&str> = here.iter().map(|one| one.method).collect();
        return Err(Problem::MethodNotAllowed { allow: allow.join(", ") });
    };
    let template = operation.path.split('/').zip(&segments);
    let values = template.filter(|(name, _)| name.starts_with('{')).map(|(_, segment)| decoded(segment));
    let values =
        values.collect::<Option<Vec<_>>>().ok_or_else(|| Problem::parameter("path", "The path is no UTF-8."))?;
    Ok((operation, values))
}

fn is_at(template: &str, segments: &[&str]) -> bool {
    let parts: Vec<&str> = template.split('/').collect();
    let fits =
        |(part, segment): (&&str, &&str)| if part.starts_with('{') { !segment.is_empty() } else { part == segment };
    parts.len() == segments.len() && parts.iter().zip(segments).all(fits)
}

/// Who calls, by which of the authenticators of `server.admin.auth`.
async fn identify(runtime: &Runtime, arrival: &Arrival<'_>) -> Result<(String, Principal), Problem> {
    let snapshot = &runtime.snapshot;
    if snapshot.auth.is_empty() {
        return Err(Problem::Forbidden(
            "Nobody can be known here: the configuration has no `auth:`. Add an authenticator, such as \
             `auth: { keys: { api_key: {} } }`, and make a key with `weir keys create --role operator`."
                .to_owned(),
        ));
    }
    Ok(authenticate::principal(runtime, &administrators(snapshot), arrival).await?)
}

/// The authenticators that the admin API accepts. Others than those of keys have to be named: what an identity
/// provider says of roles must not open this API by itself.
fn administrators(snapshot: &Snapshot) -> Vec<String> {
    if !snapshot.server.admin_auth.is_empty() {
        return snapshot.server.admin_auth.clone();
    }
    let keys = snapshot.auth.iter().filter(|(_, one)| matches!(one, Authenticator::ApiKey(_)));
    keys.map(|(name, _)| name.clone()).collect()
}

/// The restrictions of the credential and the operator's rules hold here too.
fn permitted(runtime: &Runtime, principal: &Principal, scopes: Scopes, head: &Head<'_>) -> Result<(), Refusal> {
    let arrival = &head.arrival;
    check::restrictions(principal, head.path, arrival.client)?;
    if runtime.snapshot.authorization.is_empty() {
        return Ok(());
    }
    let directory = runtime.services.directory.load();
    let plan = check::narrowest_plan(&directory, principal);
    let host = arrival.host.map(accept::host_name);
    let asked = Asked {
        method: arrival.method,
        host: host.as_deref(),
        path: head.path,
        address: arrival.client,
        model: None,
        stream: None,
        max_tokens: None,
    };
    let variables = rule::variables(principal, scopes, plan, &asked, runtime.services.clock.wall());
    check::rules(runtime, principal, Some(&variables))
}

/// `Idempotency-Key`, if there is one.
fn repetition(arrival: &Arrival<'_>) -> Result<Option<String>, Problem> {
    let mut all = arrival.headers.get_all("idempotency-key").iter();
    let (Some(value), further) = (all.next(), all.next()) else { return Ok(None) };
    let text = value.to_str().ok().filter(|_| further.is_none()).unwrap_or_default();
    IDEMPOTENCY.check(text)?;
    Ok(Some(text.to_owned()))
}

/// True where the body says that it is JSON.
fn is_json(arrival: &Arrival<'_>) -> bool {
    let mut all = arrival.headers.get_all("content-type").iter();
    let (Some(value), None) = (all.next(), all.next()) else { return false };
    let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// The checked body of an operation.
fn read_body(operation: &Operation, bytes: &[u8], json: bool) -> Result<Value, Problem> {
    let Some(body) = operation.request else {
        return if bytes.is_empty() {
            Ok(Value::Null)
        } else {
            Err(Problem::parameter("body", "This operation takes no body."))
        };
    };
    let value = if bytes.is_empty() && !body.required {
        json!({})
    } else if json {
        strict::read(bytes)?
    } else {
        return Err(Problem::MediaType);
    };
    if let Some(expected) = DOCUMENT.requests.get(operation.id) {
        schema::check(&DOCUMENT.definitions, expected, &value)?;
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn only_keys_open_this_api_unless_others_are_named() {
        let open_to = |admin: &str| {
            let text = format!(
                "version: 1\nlisteners: {{ http: {{ bind: [\"127.0.0.1:1\"] }} }}\n\
                 auth: {{ keys: {{ api_key: {{}} }}, gate: {{ ext_authz: {{ url: \"https://gate.example\" }} }} }}\n\
                 pools: {{ p: {{ engine: vllm, models: [m], backends: [{{ url: \"http://127.0.0.1:2\" }}] }} }}\n\
                 routes: [{{ name: all, match: {{ path: {{ prefix: / }} }}, to: [{{ pool: p }}] }}]\n{admin}"
            );
            let loaded =
                crate::config::load_text("weir.yaml", &text, Path::new("")).unwrap_or_else(|report| panic!("{report}"));
            administrators(&loaded.snapshot)
        };
        assert_eq!(open_to(""), ["keys"], "nothing said");
        assert_eq!(open_to("server: { admin: { auth: [gate] } }\n"), ["gate"], "named");
    }
}
