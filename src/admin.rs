//! L5: the admin API below `/admin/v1`, and what callers may ask about themselves. Decides, from a request's parts and
//! its caller, on a JSON answer; sockets are `edge`'s.
//!
//! One table, [`operations::OPERATIONS`], makes both the dispatcher and the OpenAPI document.

pub mod audit;
pub mod authority;
pub mod budgets;
pub mod call;
pub mod changes;
pub mod cursor;
pub mod dispatch;
pub mod form;
pub mod keys;
pub mod limits;
pub mod me;
pub mod members;
pub mod openapi;
pub mod operation;
pub mod operations;
pub mod pattern;
pub mod plans;
pub mod problem;
pub mod query;
pub mod roles;
pub mod schema;
pub mod stores;
pub mod strict;
pub mod tenants;
pub mod usage;

/// Where the API is.
pub const PREFIX: &str = "/admin/v1";
