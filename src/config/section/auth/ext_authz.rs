//! `auth.*.ext_authz` – a service that is asked for each request, and the headers by which both sides speak.

use super::jwt::within;
use super::url::trusted_url;
use crate::config::field::Item;
use crate::config::section::names::{credential_header, header_name};
use crate::config::snapshot::ExtAuthzAuth;
use std::time::Duration;

/// Every request waits for the answer.
const TIMEOUT: Duration = Duration::from_millis(500);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// What a service needs to know a caller by, where nothing is said.
const SEND: &[&str] = &["authorization", "cookie"];

/// Reads `ext_authz:`.
#[must_use]
pub fn read(item: &Item<'_>) -> Option<ExtAuthzAuth> {
    let known = ["url", "timeout", "send", "tenant", "team", "user", "roles", "operators"];
    let fields = item.fields(&known, &["grpc", "body", "cache", "plan"]);
    let url = fields.need("url", "for example `url: \"http://127.0.0.1:9000/check\"`");
    let url = url.and_then(|item| trusted_url(&item));
    let timeout = |item: &Item<'_>| within(item, item.wait()?, (Duration::ZERO, MAX_TIMEOUT), "at most 30s");
    let names = |item: &Item<'_>| Some(item.list().iter().filter_map(credential_header).collect());
    let header = |key, default: &str| fields.or(key, header_name, default.to_owned());
    let timeout = fields.or("timeout", timeout, TIMEOUT);
    let send = fields.or("send", names, SEND.iter().map(|name| (*name).to_owned()).collect());
    let tenant = header("tenant", "x-auth-tenant");
    let team = header("team", "x-auth-team");
    let user = header("user", "x-auth-user");
    let roles = header("roles", "x-auth-roles");
    let operators = fields.or("operators", Item::flag, false);
    Some(ExtAuthzAuth { url: url?, timeout, send, tenant, team, user, roles, operators })
}
