//! What a handler of the admin API gets and gives: the caller with what they may, the checked parameters, the body.
//! Decides whose tenant a caller sees; what a handler does with that is its own.

use super::cursor::List;
use super::problem::Problem;
use super::query::Query;
use crate::domain::ids::{RequestId, TenantId};
use crate::domain::principal::Principal;
use crate::domain::units::WallMicros;
use crate::logic::access::scopes::{Reach, Scope, Scopes};
use crate::runtime::Runtime;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Arc;

/// One call, ready to be done.
pub struct Call {
    /// What runs.
    pub runtime: Arc<Runtime>,
    /// Who calls.
    pub principal: Principal,
    /// The authenticator that knows them; `None` where nobody has to be known.
    pub via: Option<String>,
    /// What their roles allow in their own tenant.
    pub scopes: Scopes,
    /// What their roles allow in every tenant.
    pub everywhere: Scopes,
    /// Whose tenant they reach with the scope that this operation needs.
    pub reach: Reach,
    /// `x-request-id`.
    pub request_id: RequestId,
    /// `operationId`.
    pub operation: &'static str,
    /// The path's parameters, in its order.
    pub path: Vec<(&'static str, String)>,
    /// The query.
    pub query: Query,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// The body; null where there is none.
    pub body: Value,
    /// Now.
    pub now: WallMicros,
}

/// What came of a call.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The document.
    pub body: Value,
}

impl std::fmt::Debug for Answer {
    /// Without the document: there may be a new key in it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// An answer with a document.
    ///
    /// # Errors
    /// `Internal` for a document that cannot be written, which none of ours is.
    pub fn of(status: u16, document: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_value(document).map_err(|error| {
            tracing::error!(%error, "an answer of the admin API could not be written");
            Problem::Refused(crate::domain::refusal::Refusal::Internal)
        })?;
        Ok(Self { status, body })
    }

    /// A page of a list: `{"NAME": […], "next_cursor": …}`.
    ///
    /// # Errors
    /// As [`Answer::of`].
    pub fn page(name: &str, entries: &[impl Serialize], next: Option<String>) -> Result<Self, Problem> {
        let mut answer = Self::of(200, &json!({ "next_cursor": next }))?;
        let entries = Self::of(200, &entries)?;
        if let Value::Object(members) = &mut answer.body {
            members.insert(name.to_owned(), entries.body);
        }
        Ok(answer)
    }
}

impl Call {
    /// A parameter of the path.
    #[must_use]
    pub fn part(&self, name: &str) -> &str {
        self.path.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The body as its own type. It has passed its schema, so this fails on what no schema can say.
    ///
    /// # Errors
    /// 422.
    pub fn body<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let body = if self.body.is_null() { json!({}) } else { self.body.clone() };
        serde_json::from_value(body).map_err(|error| {
            // serde tells values back in its words; ours name no content.
            tracing::debug!(line = error.line(), "a body passed its schema and not its type");
            Problem::member("", "The body is not what this operation takes.")
        })
    }

    /// The caller's own tenant.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.principal.profile.tenant
    }

    /// The only tenant that the caller sees; `None`: all.
    #[must_use]
    pub fn bound(&self) -> Option<&str> {
        (self.reach == Reach::Own).then(|| self.tenant().as_str())
    }

    /// Refuses what is another tenant's as if it were not there.
    ///
    /// # Errors
    /// 404 for `what`.
    pub fn within(&self, tenant: &str, what: &'static str) -> Result<(), Problem> {
        if self.bound().is_none_or(|own| own == tenant) { Ok(()) } else { Err(Problem::NotFound(what)) }
    }

    /// The tenant that a list is filtered by: as asked for, and within what the caller sees. The inner `None`: all.
    ///
    /// # Errors
    /// 404 where another tenant was asked for.
    pub fn tenant_filter(&self) -> Result<Option<String>, Problem> {
        match self.query.text("tenant") {
            Some(asked) => self.within(asked, "tenant").map(|()| Some(asked.to_owned())),
            None => Ok(self.bound().map(str::to_owned)),
        }
    }

    /// What the caller may in a tenant.
    #[must_use]
    pub fn scopes_in(&self, tenant: &str) -> Scopes {
        if self.tenant().as_str() == tenant { self.scopes } else { self.everywhere }
    }

    /// True for who administers a tenant.
    #[must_use]
    pub fn administers(&self, tenant: &str) -> bool {
        self.scopes_in(tenant).allow(Scope::Admin)
    }

    /// True for who administers the installation.
    #[must_use]
    pub fn operates(&self) -> bool {
        self.everywhere.allow(Scope::Admin)
    }

    /// Which list this call shows.
    #[must_use]
    pub fn list(&self) -> List {
        let path = self.path.iter().map(|(name, value)| (*name, value.as_str()));
        let seen = ("", self.bound().unwrap_or_default());
        List::of(self.operation, path.chain(self.query.filters()).chain(std::iter::once(seen)))
    }

    /// The place in the list where this page begins: after these keys; `None`: at its start.
    ///
    /// # Errors
    /// 400 for a cursor that is not of this list.
    pub fn after(&self, keys: usize) -> Result<Option<Vec<String>>, Problem> {
        self.query.text("cursor").map(|text| self.list().keys(text, keys)).transpose()
    }
}

/// Cuts what was read beyond a page off; tells whether there was more.
#[must_use]
pub fn cut<T>(entries: &mut Vec<T>, limit: u32) -> bool {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = entries.len() > limit;
    entries.truncate(limit);
    more
}
