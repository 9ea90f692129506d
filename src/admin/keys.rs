//! Keys over HTTP: how they are shown and listed. Decides which of them a caller sees; making them is `create`,
//! changing them `alter`.

pub mod alter;
pub mod create;

use super::authority::{self, Powers};
use super::call::{Answer, Call};
use super::changes::{page, readable};
use super::form::written;
use super::problem::Problem;
use crate::domain::ids::KeyId;
use crate::domain::principal::Principal;
use crate::domain::units::WallMicros;
use crate::io::store::Store;
use crate::io::store::change::{Change, Idempotency};
use crate::io::store::rows::{KeyFilter, StoredKey};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What a key's state may be.
pub const STATES: &[&str] = &["active", "disabled", "expired", "revoked"];

/// One secret of a key; never the secret itself.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "KeyGeneration")]
pub struct GenerationView {
    /// Counts from 1.
    secret_gen: u32,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    /// It was replaced, and ends then; null on the newest.
    #[schemars(extend("format" = "date-time"))]
    valid_until: Option<String>,
}

/// A key.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Key")]
pub struct KeyView {
    /// The public part.
    key_id: String,
    /// Who pays.
    tenant_id: String,
    /// The team.
    team_id: Option<String>,
    /// The user.
    user_id: Option<String>,
    /// A name for people.
    name: Option<String>,
    /// Model patterns; null: all that roles, team and tenant allow.
    models: Option<Vec<String>>,
    /// Path patterns; null: all.
    endpoints: Option<Vec<String>>,
    /// Client networks; null: all.
    addresses: Option<Vec<String>>,
    /// The plan that counts this key alone.
    plan: Option<String>,
    /// Roles; null: nothing is said of roles, so it is a `member`.
    roles: Option<Vec<String>>,
    /// `active`, `disabled`, `expired` or `revoked`.
    #[schemars(extend("enum" = STATES))]
    status: &'static str,
    /// Generation of the newest secret.
    secret_gen: u32,
    /// The secrets that are good, oldest first; none of a revoked key.
    generations: Vec<GenerationView>,
    /// When it was made.
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    /// When it ends; null: never.
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<String>,
    /// When it was revoked.
    #[schemars(extend("format" = "date-time"))]
    revoked_at: Option<String>,
    /// Its open streams are cut.
    terminate_streams: bool,
}

/// A key with its plaintext, which is shown this once.
#[derive(Serialize, JsonSchema)]
pub struct KeyWithSecret {
    /// The whole key; null where it was imported, and where an `Idempotency-Key` gets its answer again.
    pub key: Option<String>,
    /// All the rest.
    #[serde(flatten)]
    pub view: KeyView,
}

/// Keys.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyList {
    /// In the order of the request.
    pub keys: Vec<KeyView>,
}

/// A page of keys.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyPage {
    keys: Vec<KeyView>,
    /// Where the next page begins; null: this was the last.
    next_cursor: Option<String>,
}

/// How a key is shown.
#[must_use]
pub fn view(key: &StoredKey, now: WallMicros) -> KeyView {
    let status = key.standing(now);
    let good = key.secrets.iter().filter(|secret| secret.valid_until.is_none_or(|end| end > now));
    let generation = |secret: &crate::io::store::rows::StoredSecret| GenerationView {
        secret_gen: secret.generation,
        created_at: written(secret.created_at),
        valid_until: secret.valid_until.map(written),
    };
    KeyView {
        key_id: key.key_id.as_str().to_owned(),
        tenant_id: key.tenant.clone(),
        team_id: key.team.clone(),
        user_id: key.user.clone(),
        name: key.name.clone(),
        models: key.models.clone(),
        endpoints: key.endpoints.clone(),
        addresses: key.addresses.as_deref().map(shown),
        plan: key.plan.clone(),
        roles: key.roles.clone(),
        status,
        secret_gen: key.generation(),
        generations: if status == "revoked" { Vec::new() } else { good.map(generation).collect() },
        created_at: written(key.created_at),
        expires_at: key.expires_at.map(written),
        revoked_at: key.revoked_at.map(written),
        terminate_streams: key.terminate_streams,
    }
}

/// Networks as text.
#[must_use]
pub fn shown(networks: &[IpNet]) -> Vec<String> {
    networks.iter().map(ToString::to_string).collect()
}

/// `GET /keys`
pub fn list(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let text = |name: &str| call.query.text(name).map(str::to_owned);
    let filter = KeyFilter { tenant: call.tenant_filter()?, team: text("team"), user: text("user") };
    let (rows, next) = readable(store.read()?.keys(&filter, &page(call)?)?);
    let status = call.query.text("status");
    let wanted = rows.iter().filter(|key| status.is_none_or(|status| key.standing(call.now) == status));
    let keys: Vec<KeyView> = wanted.map(|key| view(key, call.now)).collect();
    Answer::page("keys", &keys, next.map(|next| call.list().after(&[&next])))
}

/// `GET /keys/{key_id}`
pub fn get(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let found = store.read()?.key(&KeyId::new(call.part("key_id")))?.ok_or(Problem::NotFound("key"))?;
    call.within(&found.tenant, "key")?;
    Answer::of(200, &view(&found, call.now))
}

/// The key of the path, as it is now; refused where it is another tenant's, or may do more than the caller.
fn governed(call: &Call, change: &mut Change<'_>) -> Result<StoredKey, Problem> {
    let found = change.read().key(&KeyId::new(call.part("key_id")))?.ok_or(Problem::NotFound("key"))?;
    call.within(&found.tenant, "key")?;
    covered(call, &found)?;
    Ok(found)
}

/// Refuses a key that may do more than the caller.
fn covered(call: &Call, key: &StoredKey) -> Result<(), Problem> {
    let addresses = key.addresses.as_deref().map(shown);
    let powers = Powers {
        roles: key.roles.as_deref(),
        models: key.models.as_deref(),
        endpoints: key.endpoints.as_deref(),
        addresses: addresses.as_deref(),
        team: key.team.as_deref(),
        user: key.user.as_deref(),
        plan: key.plan.as_deref(),
        ends: key.expires_at,
    };
    authority::covers(call, &key.tenant, &powers)
}

/// Does something once per `Idempotency-Key`: a repetition gets the document of the first time, in which there is no
/// plaintext. Without the header it is done each time. Tells whether this was the first time.
fn once(
    call: &Call,
    change: &mut Change<'_>,
    work: impl FnOnce(&mut Change<'_>) -> Result<Value, Problem>,
) -> Result<(Value, bool), Problem> {
    let Some(key) = &call.idempotency_key else { return work(change).map(|done| (done, true)) };
    let who = caller(&call.principal).ok_or_else(|| {
        let what =
            "This credential names neither key nor user nor subject, so its repetitions cannot be told from others'.";
        Problem::parameter("Idempotency-Key", what)
    })?;
    // Serialised, so that no two callers' names read alike when joined.
    let scope = json!([call.via, call.tenant(), who]).to_string();
    let request = json!([call.operation, call.path, call.body]).to_string();
    let fingerprint = format!("{:x?}", Sha256::digest(request.as_bytes()).as_slice());
    let what = Idempotency { scope: &scope, key, fingerprint: &fingerprint };
    if let Some(answer) = change.recall(&what)? {
        return Ok((answer, false));
    }
    let done = work(change)?;
    change.remember(&what, &done)?;
    Ok((done, true))
}

/// By what a caller is told from all others of their authenticator; `None`: by nothing.
fn caller(principal: &Principal) -> Option<Value> {
    let profile = &principal.profile;
    if let Some(key) = &principal.key {
        return Some(json!({ "key": key }));
    }
    if let Some(user) = &profile.user {
        return Some(json!({ "user": user }));
    }
    // Of a token the subject, of a certificate its fingerprint.
    let claims = profile.claims.as_deref()?;
    ["sub", "fingerprint"].iter().find_map(|name| {
        let value = claims.get(*name)?.as_str()?;
        Some(json!({ *name: value }))
    })
}

/// A document of a key without plaintext, and with it where it was made just now.
fn with_plaintext(document: (Value, bool), plaintext: Option<&str>) -> Value {
    let (mut document, first) = document;
    if let (Value::Object(members), true) = (&mut document, first) {
        members.insert("key".to_owned(), plaintext.map_or(Value::Null, Value::from));
    }
    document
}

/// A key as the operations that make a plaintext answer, but for the plaintext.
fn without_plaintext(key: &StoredKey, now: WallMicros) -> Result<Value, Problem> {
    Ok(Answer::of(201, &KeyWithSecret { key: None, view: view(key, now) })?.body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::principal::{AuthMethod, Profile};
    use std::sync::Arc;

    #[test]
    fn callers_without_a_user_are_told_apart_by_their_subject() {
        let of = |claims: Option<Value>| {
            let profile = Profile { claims: claims.map(Arc::new), ..Profile::of("acme".into()) };
            caller(&Principal::of(Arc::new(profile), AuthMethod::Jwt))
        };
        assert_ne!(of(Some(json!({"sub": "ann"}))), of(Some(json!({"sub": "bob"}))), "two subjects");
        assert_eq!(of(Some(json!({"sub": "ann", "exp": 1}))), of(Some(json!({"sub": "ann", "exp": 2}))), "two tokens");
        assert_eq!((of(None), of(Some(json!({})))), (None, None), "nobody in particular repeats nothing");
    }
}
