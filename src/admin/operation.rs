//! What an operation of the admin API is: one row of the table that the dispatcher and the document are made of.

use super::call::{Answer, Call};
use super::form;
use super::problem::Problem;
use super::query::{Kind, Parameter};
use crate::io::store::Store;
use crate::io::usage_query::UsageReader;
use crate::logic::access::scopes::Scope;
use schemars::{Schema, SchemaGenerator};

/// What a caller needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing: the answer tells nothing secret.
    Nobody,
    /// A scope; what is seen is bounded by the caller's reach.
    Scope(Scope),
    /// `admin` over all tenants.
    Operator,
}

/// What does the work. Those with a store or the usage database may block: they run on threads for that.
#[derive(Clone, Copy)]
pub enum Handler {
    /// At once.
    Now(fn(&Call) -> Result<Answer, Problem>),
    /// With the store.
    Store(fn(&Call, &mut Store) -> Result<Answer, Problem>),
    /// With the usage database.
    Usage(fn(&Call, &UsageReader) -> Result<Answer, Problem>),
}

/// Makes a schema; types are named in the document's components.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// A request body.
#[derive(Clone, Copy)]
pub struct Body {
    /// Its schema.
    pub schema: SchemaOf,
    /// False where an absent body is an empty object.
    pub required: bool,
}

/// One row.
#[derive(Clone, Copy)]
pub struct Operation {
    /// `operationId`
    pub id: &'static str,
    /// `GET`
    pub method: &'static str,
    /// Path below `/admin/v1`, with `{parameters}`.
    pub path: &'static str,
    /// One line.
    pub summary: &'static str,
    /// More of it; may be empty.
    pub about: &'static str,
    /// Who may.
    pub needs: Needs,
    /// Parameters of the query.
    pub query: &'static [Parameter],
    /// True where `Idempotency-Key` is heeded.
    pub idempotent_by_key: bool,
    /// The body, if it takes one.
    pub request: Option<Body>,
    /// Status of the good answer.
    pub status: u16,
    /// Schema of the good answer.
    pub response: SchemaOf,
    /// True where 409 is among its answers.
    pub conflicts: bool,
    /// What does it.
    pub run: Handler,
}

impl Operation {
    /// Every status that it answers with.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        let mut all = vec![self.status, 400, 404, 405, 500, 503];
        if self.needs != Needs::Nobody {
            all.extend([401, 403]);
        }
        if self.request.is_some() {
            all.extend([408, 413, 415, 422]);
        }
        if self.conflicts {
            all.push(409);
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    /// The path's parameters in order.
    pub fn path_parameters(&self) -> impl Iterator<Item = Parameter> {
        self.path.split('/').filter_map(|segment| {
            let name = segment.strip_prefix('{')?.strip_suffix('}')?;
            PATH.iter().find(|known| known.name == name).copied()
        })
    }
}

/// What may be a parameter of a path.
pub const PATH: &[Parameter] = &[
    Parameter::new("tenant", Kind::Text(form::NAME), "The tenant's name."),
    Parameter::new("team", Kind::Text(form::NAME), "The team's name."),
    Parameter::new("user", Kind::Text(form::LABEL), "The user's name."),
    Parameter::new("key_id", Kind::Text(form::KEY_ID), "The public part of the key."),
    Parameter::new("plan", Kind::Text(form::NAME), "The plan's name."),
    Parameter::new("budget", Kind::Text(form::NAME), "The budget's name."),
    Parameter::new("request_id", Kind::Text(form::REQUEST_ID), "The `x-request-id` of an answer."),
];
