//! The table of the admin API: every operation, with what it takes, gives and needs.

use super::call::{Answer, Call};
use super::form::{CURSOR, KEY_ID, LABEL, NAME};
use super::openapi::Document;
use super::operation::{Body, Handler, Needs, Operation, SchemaOf};
use super::problem::Problem;
use super::query::{Kind, Parameter};
use super::{audit, budgets, keys, limits, members, plans, roles, tenants, usage};
use crate::logic::access::scopes::Scope;
use schemars::{Schema, SchemaGenerator, json_schema};
use std::sync::LazyLock;

const ADMIN: Needs = Needs::Scope(Scope::Admin);
const KEYS: Needs = Needs::Scope(Scope::KeysWrite);

const LIMIT: Parameter = Parameter::new("limit", Kind::Limit, "Entries of a page at most.");
const AFTER: Parameter =
    Parameter::new("cursor", Kind::Text(CURSOR), "`next_cursor` of the page before. The filters must be the same.");
const TENANT: Parameter = Parameter::new("tenant", Kind::Text(NAME), "Only of this tenant.");
const TEAM: Parameter = Parameter::new("team", Kind::Text(NAME), "Only of this team.");
const USER: Parameter = Parameter::new("user", Kind::Text(LABEL), "Only of this user.");
const KEY: Parameter = Parameter::new("key", Kind::Text(KEY_ID), "Only of the key with this id.");
const MODEL: Parameter = Parameter::new("model", Kind::Text(LABEL), "Only of this model.");
const FROM: Parameter = Parameter::new("from", Kind::Time, "Received then or later.");
const TO: Parameter = Parameter::new("to", Kind::Time, "Received before then.");
const BY: Parameter =
    Parameter::new("by", Kind::Words(usage::BY), "Sums by these, with commas; left out: one sum of all.");
const STATUS: Parameter = Parameter::new(
    "status",
    Kind::Word(keys::STATES),
    "Only in this state. A page may then have fewer entries than its limit, and the list go on all the same.",
);
const TARGET: Parameter = Parameter::new("target", Kind::Text(LABEL), "Only what was done to this.");
const PAGED: &[Parameter] = &[LIMIT, AFTER];
const RECORDS: &[Parameter] = &[TENANT, TEAM, USER, KEY, MODEL, FROM, TO, LIMIT, AFTER];
const SUMS: &[Parameter] = &[TENANT, TEAM, USER, KEY, MODEL, FROM, TO, BY, LIMIT, AFTER];

const BUDGETS_ABOUT: &str = "Callers of a budget that is spent are refused with 429 `insufficient_quota` until its period \
    ends. A prepaid one does not come back: to top it up, put it with a larger amount.";
const ROTATE_ABOUT: &str = "The key keeps its id, limits and history. The old secret stays good for the grace; answers \
    to calls on it say until when. At most two secrets are good at once.";
const LIMITS_ABOUT: &str = "Each replica remembers its own last refusals, and forgets them when it ends: 404 for one that it \
    does not know.";
const IMPORT_ABOUT: &str = "For keys that another system made: only the SHA-256 of each whole key is given. All or none; one \
    import at a time, 503 for another meanwhile. Such a hash is under no pepper, so the key is good for every `api_key` \
    authenticator.";

/// The document that the table makes.
pub static DOCUMENT: LazyLock<Document> = LazyLock::new(|| Document::of(OPERATIONS));

/// Every operation.
pub const OPERATIONS: &[Operation] = &[
    Operation {
        needs: Needs::Nobody,
        ..get("getOpenApi", "/openapi.json", "This document.", any_object, Handler::Now(document))
    },
    list("listTenants", "/tenants", "Tenants.", schema::<tenants::TenantPage>, tenants::list),
    read("getTenant", "/tenants/{tenant}", "One tenant.", schema::<tenants::TenantView>, tenants::get),
    operator(put("putTenant", "/tenants/{tenant}", "Make a tenant, or replace it.", TENANT_BODY, tenants::put)),
    operator(delete("deleteTenant", "/tenants/{tenant}", "Delete a tenant that has no keys.", tenants::delete)),
    list(
        "listTeams",
        "/tenants/{tenant}/teams",
        "Teams of a tenant.",
        schema::<members::TeamPage>,
        members::list_teams,
    ),
    read("getTeam", TEAM_PATH, "One team.", schema::<members::MemberView>, members::get_team),
    put("putTeam", TEAM_PATH, "Make a team, or replace it.", MEMBER_BODY, members::put_team),
    delete("deleteTeam", TEAM_PATH, "Delete a team that has no keys.", members::delete_team),
    list(
        "listUsers",
        "/tenants/{tenant}/users",
        "Users of a tenant.",
        schema::<members::UserPage>,
        members::list_users,
    ),
    read("getUser", USER_PATH, "One user.", schema::<members::MemberView>, members::get_user),
    put("putUser", USER_PATH, "Make a user, or replace it.", MEMBER_BODY, members::put_user),
    delete("deleteUser", USER_PATH, "Delete a user that has no keys.", members::delete_user),
    Operation {
        needs: KEYS,
        query: &[TENANT, TEAM, USER, STATUS, LIMIT, AFTER],
        ..list("listKeys", "/keys", "Keys.", schema::<keys::KeyPage>, keys::list)
    },
    Operation {
        idempotent_by_key: true,
        status: 201,
        about: "The plaintext is in this answer and nowhere else.",
        ..post(
            "createKey",
            "/keys",
            "Make a key.",
            (Some(KEY_BODY), schema::<keys::KeyWithSecret>),
            keys::create::create,
        )
    },
    Operation {
        status: 201,
        needs: ADMIN,
        about: IMPORT_ABOUT,
        ..post(
            "importKeys",
            "/keys/import",
            "Import keys.",
            (Some(IMPORT), schema::<keys::KeyList>),
            keys::create::import,
        )
    },
    Operation { needs: KEYS, ..read("getKey", KEY_PATH, "One key.", schema::<keys::KeyView>, keys::get) },
    Operation {
        method: "PATCH",
        ..post("updateKey", KEY_PATH, "Change a key.", (Some(EDIT), schema::<keys::KeyView>), keys::alter::patch)
    },
    Operation {
        idempotent_by_key: true,
        about: ROTATE_ABOUT,
        ..post(
            "rotateKey",
            "/keys/{key_id}/rotate",
            "Give a key a new secret.",
            (Some(ROTATION), schema::<keys::KeyWithSecret>),
            keys::alter::rotate,
        )
    },
    post(
        "endKeyGrace",
        "/keys/{key_id}/end-grace",
        "End the old secret of a rotated key now.",
        (None, schema::<keys::KeyView>),
        keys::alter::end_grace,
    ),
    post(
        "revokeKey",
        "/keys/{key_id}/revoke",
        "End a key for good.",
        (Some(REVOCATION), schema::<keys::KeyView>),
        keys::alter::revoke,
    ),
    list("listPlans", "/plans", "Plans.", schema::<plans::PlanPage>, plans::list),
    read("getPlan", "/plans/{plan}", "One plan.", schema::<plans::PlanView>, plans::get),
    operator(put("putPlan", "/plans/{plan}", "Make a plan, or replace it.", PLAN_BODY, plans::put)),
    operator(delete("deletePlan", "/plans/{plan}", "Delete a plan that nobody has.", plans::delete)),
    Operation {
        query: &[TENANT, LIMIT, AFTER],
        about: BUDGETS_ABOUT,
        ..list("listBudgets", "/budgets", "Budgets.", schema::<budgets::BudgetPage>, budgets::list)
    },
    Operation {
        about: BUDGETS_ABOUT,
        ..read("getBudget", BUDGET_PATH, "One budget.", schema::<budgets::BudgetView>, budgets::get)
    },
    Operation {
        about: BUDGETS_ABOUT,
        ..put("putBudget", BUDGET_PATH, "Make a budget, or replace it.", BUDGET_BODY, budgets::put)
    },
    delete("deleteBudget", BUDGET_PATH, "Delete a budget.", budgets::delete),
    get("listRoles", "/roles", "Roles, as they are configured.", schema::<roles::RoleList>, Handler::Now(roles::list)),
    Operation {
        query: RECORDS,
        ..get(
            "listUsageRecords",
            "/usage/records",
            "Usage records, newest first.",
            schema::<usage::RecordPage>,
            Handler::Usage(usage::records),
        )
    },
    Operation {
        query: SUMS,
        ..get("sumUsage", "/usage/summary", "Sums of usage.", schema::<usage::SumPage>, Handler::Usage(usage::summary))
    },
    Operation {
        about: LIMITS_ABOUT,
        ..get(
            "explainRefusal",
            "/limits/{request_id}",
            "Why a request got 429.",
            schema::<limits::DenialView>,
            Handler::Now(limits::get),
        )
    },
    Operation {
        query: &[TENANT, TARGET, LIMIT, AFTER],
        ..list("listAudit", "/audit", "The log of changes, newest first.", schema::<audit::AuditPage>, audit::list)
    },
];

const TEAM_PATH: &str = "/tenants/{tenant}/teams/{team}";
const USER_PATH: &str = "/tenants/{tenant}/users/{user}";
const KEY_PATH: &str = "/keys/{key_id}";
const BUDGET_PATH: &str = "/budgets/{budget}";

const TENANT_BODY: (Body, SchemaOf) = (needed(schema::<tenants::TenantBody>), schema::<tenants::TenantView>);
const MEMBER_BODY: (Body, SchemaOf) = (needed(schema::<members::MemberBody>), schema::<members::MemberView>);
const PLAN_BODY: (Body, SchemaOf) = (needed(schema::<plans::PlanBody>), schema::<plans::PlanView>);
const BUDGET_BODY: (Body, SchemaOf) = (needed(schema::<budgets::BudgetBody>), schema::<budgets::BudgetView>);
const KEY_BODY: Body = needed(schema::<keys::create::KeyBody>);
const IMPORT: Body = needed(schema::<keys::create::KeyImport>);
const EDIT: Body = needed(schema::<keys::alter::EditBody>);
const ROTATION: Body = Body { schema: schema::<keys::alter::RotateBody>, required: false };
const REVOCATION: Body = Body { schema: schema::<keys::alter::RevokeBody>, required: false };

const fn needed(schema: SchemaOf) -> Body {
    Body { schema, required: true }
}

/// The schema of a type, in the document's components.
fn schema<T: schemars::JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object"})
}

fn document(_: &Call) -> Result<Answer, Problem> {
    Ok(Answer { status: 200, body: DOCUMENT.whole.clone() })
}

/// What works with the store.
type Stored = fn(&Call, &mut crate::io::store::Store) -> Result<Answer, Problem>;

const fn get(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    response: SchemaOf,
    run: Handler,
) -> Operation {
    Operation {
        id,
        method: "GET",
        path,
        summary,
        about: "",
        needs: ADMIN,
        query: &[],
        idempotent_by_key: false,
        request: None,
        status: 200,
        response,
        conflicts: false,
        run,
    }
}

const fn read(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    response: SchemaOf,
    run: Stored,
) -> Operation {
    get(id, path, summary, response, Handler::Store(run))
}

const fn list(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    response: SchemaOf,
    run: Stored,
) -> Operation {
    Operation { query: PAGED, ..read(id, path, summary, response, run) }
}

const fn post(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    (request, response): (Option<Body>, SchemaOf),
    run: Stored,
) -> Operation {
    Operation { method: "POST", needs: KEYS, request, conflicts: true, ..read(id, path, summary, response, run) }
}

const fn put(
    id: &'static str,
    path: &'static str,
    summary: &'static str,
    (request, response): (Body, SchemaOf),
    run: Stored,
) -> Operation {
    Operation { method: "PUT", request: Some(request), conflicts: true, ..read(id, path, summary, response, run) }
}

const fn delete(id: &'static str, path: &'static str, summary: &'static str, run: Stored) -> Operation {
    Operation { method: "DELETE", conflicts: true, ..read(id, path, summary, schema::<tenants::Deleted>, run) }
}

/// Of who reaches all tenants.
const fn operator(operation: Operation) -> Operation {
    Operation { needs: Needs::Operator, ..operation }
}
