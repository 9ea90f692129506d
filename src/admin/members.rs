//! Teams and users over HTTP: they are alike. Decides what may be written of one; a tenant's administrator does, within
//! the tenant, since a member can only be narrower than its tenant.

use super::call::{Answer, Call};
use super::changes::{change, check_models, merge, not_configured, page, plan_exists, readable, tenant_exists};
use super::form::{LABEL, NAME, written};
use super::problem::Problem;
use super::tenants::{Deleted, WrittenIn};
use crate::domain::ids::{TeamId, TenantId, UserId};
use crate::io::store::Store;
use crate::io::store::rows::{MemberKind, MemberSpec, StoredMember};
use crate::logic::access::directory::Member;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A team or user of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Member")]
pub struct MemberView {
    /// Whose it is.
    tenant_id: String,
    /// Its name in keys, limits and records.
    id: String,
    /// A name for people.
    name: Option<String>,
    /// The plan that counts its callers together; null: no limits of its own.
    plan: Option<String>,
    /// Models that it may use; null: all that the tenant may.
    models: Option<Vec<String>>,
    /// Where it is written down.
    origin: WrittenIn,
    /// When it was made; null for one that is configured.
    #[schemars(extend("format" = "date-time"))]
    created_at: Option<String>,
}

/// A page of teams.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TeamPage {
    teams: Vec<MemberView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// A page of users.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UserPage {
    users: Vec<MemberView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// What a team or user is to be. What is left out is null.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MemberSpec")]
pub struct MemberBody {
    /// A name for people.
    #[serde(default)]
    #[schemars(regex(pattern = LABEL))]
    name: Option<String>,
    /// The plan that counts its callers together.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    plan: Option<String>,
    /// Models that it may use.
    #[serde(default)]
    #[schemars(length(max = 64))]
    models: Option<Vec<String>>,
}

/// `GET /tenants/{tenant}/teams`
pub fn list_teams(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    list(call, store, MemberKind::Team)
}

/// `GET /tenants/{tenant}/users`
pub fn list_users(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    list(call, store, MemberKind::User)
}

/// `GET /tenants/{tenant}/teams/{team}`
pub fn get_team(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    get(call, store, MemberKind::Team)
}

/// `GET /tenants/{tenant}/users/{user}`
pub fn get_user(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    get(call, store, MemberKind::User)
}

/// `PUT /tenants/{tenant}/teams/{team}`
pub fn put_team(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    put(call, store, MemberKind::Team)
}

/// `PUT /tenants/{tenant}/users/{user}`
pub fn put_user(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    put(call, store, MemberKind::User)
}

/// `DELETE /tenants/{tenant}/teams/{team}`
pub fn delete_team(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    delete(call, store, MemberKind::Team)
}

/// `DELETE /tenants/{tenant}/users/{user}`
pub fn delete_user(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    delete(call, store, MemberKind::User)
}

fn word(kind: MemberKind) -> &'static str {
    match kind {
        MemberKind::Team => "team",
        MemberKind::User => "user",
    }
}

/// The configured members of a tenant.
fn configured(call: &Call, kind: MemberKind, tenant: &str) -> Vec<(String, Member)> {
    let Some(tenant) = call.runtime.snapshot.tenants.get(&TenantId::new(tenant)) else { return Vec::new() };
    let team = |(id, member): (&TeamId, &Member)| (id.as_str().to_owned(), member.clone());
    let user = |(id, member): (&UserId, &Member)| (id.as_str().to_owned(), member.clone());
    match kind {
        MemberKind::Team => tenant.teams.iter().map(team).collect(),
        MemberKind::User => tenant.users.iter().map(user).collect(),
    }
}

fn list(call: &Call, store: &mut Store, kind: MemberKind) -> Result<Answer, Problem> {
    let tenant = call.part("tenant");
    call.within(tenant, "tenant")?;
    let page = page(call)?;
    let mut reader = store.read()?;
    tenant_exists(call, &mut reader, tenant, Problem::NotFound("tenant"))?;
    let (rows, next) = readable(reader.members(kind, tenant, &page)?);
    let configured = configured(call, kind, tenant).into_iter();
    let configured = configured.map(|(id, member)| (id.clone(), of_config(tenant, id, member)));
    let stored = rows.into_iter().map(|row| (row.id.clone(), of_store(row)));
    let (members, next) = merge(configured, stored, next.as_deref(), &page);
    let name = format!("{}s", word(kind));
    Answer::page(&name, &members, next.map(|next| call.list().after(&[&next])))
}

fn get(call: &Call, store: &mut Store, kind: MemberKind) -> Result<Answer, Problem> {
    let (tenant, id) = (call.part("tenant"), call.part(word(kind)));
    call.within(tenant, "tenant")?;
    let own = configured(call, kind, tenant).into_iter().find(|(known, _)| known == id);
    if let Some((id, member)) = own {
        return Answer::of(200, &of_config(tenant, id, member));
    }
    let found = store.read()?.member(kind, tenant, id)?.ok_or(Problem::NotFound(word(kind)))?;
    Answer::of(200, &of_store(found))
}

fn put(call: &Call, store: &mut Store, kind: MemberKind) -> Result<Answer, Problem> {
    let (tenant, id) = (call.part("tenant"), call.part(word(kind)));
    call.within(tenant, "tenant")?;
    not_configured(call, is_configured(call, kind, tenant, id), word(kind), id)?;
    let MemberBody { name, plan, models } = call.body()?;
    check_models(models.as_deref())?;
    let spec = MemberSpec { name, plan, models };
    let made = change(call, store, |change| {
        tenant_exists(call, &mut change.read(), tenant, Problem::NotFound("tenant"))?;
        plan_exists(call, &mut change.read(), tenant, spec.plan.as_deref())?;
        Ok(change.put_member(kind, tenant, id, &spec)?)
    })?;
    Answer::of(200, &of_store(made))
}

fn delete(call: &Call, store: &mut Store, kind: MemberKind) -> Result<Answer, Problem> {
    let (tenant, id) = (call.part("tenant"), call.part(word(kind)));
    call.within(tenant, "tenant")?;
    not_configured(call, is_configured(call, kind, tenant, id), word(kind), id)?;
    change(call, store, |change| Ok(change.delete_member(kind, tenant, id)?))?;
    Answer::of(200, &Deleted { deleted: true })
}

fn is_configured(call: &Call, kind: MemberKind, tenant: &str, id: &str) -> bool {
    configured(call, kind, tenant).iter().any(|(known, _)| known == id)
}

fn of_config(tenant: &str, id: String, member: Member) -> MemberView {
    MemberView {
        tenant_id: tenant.to_owned(),
        id,
        name: None,
        plan: member.plan.map(|plan| plan.as_str().to_owned()),
        models: member.models.map(|models| models.to_vec()),
        origin: WrittenIn::Config,
        created_at: None,
    }
}

fn of_store(row: StoredMember) -> MemberView {
    let MemberSpec { name, plan, models } = row.spec;
    MemberView {
        tenant_id: row.tenant,
        id: row.id,
        name,
        plan,
        models,
        origin: WrittenIn::Store,
        created_at: Some(written(row.created_at)),
    }
}
