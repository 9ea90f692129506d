//! Changes keys: what is written on them, their secrets, their end. Decides that nobody changes a key that may do more
//! than they, nor makes it one.

use super::create::fresh;
use super::{covered, governed, once, view, with_plaintext, without_plaintext};
use crate::admin::authority;
use crate::admin::call::{Answer, Call};
use crate::admin::changes::{change, check_models, plan_exists, team_exists};
use crate::admin::form::{ENDPOINT, LABEL, NAME, NETWORK, SPAN, expiry, networks, span};
use crate::admin::problem::Problem;
use crate::io::store::Store;
use crate::io::store::rows::{DEFAULT_GRACE, KeyEdit, KeyStatus, MAX_GRACE, Rotation, Streams};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// What is to change on a key. What is left out stays; null takes away.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyEdit")]
pub struct EditBody {
    /// The team; it must exist.
    #[serde(default, deserialize_with = "given")]
    #[schemars(regex(pattern = NAME))]
    team_id: Option<Option<String>>,
    /// The user; one who has no limits of their own need not exist.
    #[serde(default, deserialize_with = "given")]
    #[schemars(regex(pattern = LABEL))]
    user_id: Option<Option<String>>,
    /// A name for people.
    #[serde(default, deserialize_with = "given")]
    #[schemars(regex(pattern = LABEL))]
    name: Option<Option<String>>,
    /// Model patterns.
    #[serde(default, deserialize_with = "given")]
    #[schemars(length(max = 64))]
    models: Option<Option<Vec<String>>>,
    /// Path patterns.
    #[serde(default, deserialize_with = "given")]
    #[schemars(length(max = 64), inner(regex(pattern = ENDPOINT)))]
    endpoints: Option<Option<Vec<String>>>,
    /// Client networks and addresses.
    #[serde(default, deserialize_with = "given")]
    #[schemars(length(max = 64), inner(regex(pattern = NETWORK)))]
    addresses: Option<Option<Vec<String>>>,
    /// A plan that counts this key alone.
    #[serde(default, deserialize_with = "given")]
    #[schemars(regex(pattern = NAME))]
    plan: Option<Option<String>>,
    /// Roles.
    #[serde(default, deserialize_with = "given")]
    #[schemars(length(max = 16), inner(regex(pattern = NAME)))]
    roles: Option<Option<Vec<String>>>,
    /// When it ends.
    #[serde(default, deserialize_with = "given")]
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<Option<String>>,
    /// Switched off, or on again.
    #[serde(default)]
    disabled: Option<bool>,
}

/// A new secret for a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyRotation")]
pub struct RotateBody {
    /// How long the old secret stays good: `24h` where nothing is said, `0s` to end it at once, `30d` at most.
    #[serde(default)]
    #[schemars(regex(pattern = SPAN))]
    grace: Option<String>,
    /// Where two secrets are good already: end the older of them, in place of a 409.
    #[serde(default)]
    force: bool,
    /// The `api_key` authenticator that the key is for, where there are several. Only operators choose; for others it is
    /// the one that they came by.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    auth: Option<String>,
}

/// The end of a key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyRevocation")]
pub struct RevokeBody {
    /// Cut its open streams too.
    #[serde(default)]
    terminate_streams: bool,
}

/// Tells null from absent.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// `PATCH /keys/{key_id}`
pub fn patch(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let body: EditBody = call.body()?;
    check_models(body.models.as_ref().and_then(Option::as_deref))?;
    authority::known_roles(&call.runtime.snapshot.roles, body.roles.as_ref().and_then(Option::as_deref))?;
    let edit = KeyEdit {
        team: body.team_id,
        user: body.user_id,
        name: body.name,
        models: body.models,
        endpoints: body.endpoints,
        addresses: inner(body.addresses, |list| networks("/addresses", &list))?,
        plan: body.plan,
        roles: body.roles,
        expires_at: inner(body.expires_at, |end| expiry("/expires_at", &end, call.now))?,
        disabled: body.disabled,
    };
    let changed = change(call, store, |change| {
        let before = governed(call, change)?;
        if before.status == KeyStatus::Disabled && edit.disabled == Some(false) {
            authority::may_enable(call, &before.tenant)?;
        }
        let plan = edit.plan.as_ref().and_then(Option::as_deref);
        plan_exists(call, &mut change.read(), &before.tenant, plan)?;
        let team = edit.team.as_ref().and_then(Option::as_deref);
        team_exists(call, &mut change.read(), &before.tenant, team)?;
        let after = change.update_key(&before.key_id, &edit)?;
        // Whoever has more than the caller now is taken back with the whole change.
        covered(call, &after)?;
        Ok(after)
    })?;
    Answer::of(200, &view(&changed, call.now))
}

/// Reads what is given and not null.
fn inner<T, R>(
    value: Option<Option<T>>,
    read: impl FnOnce(T) -> Result<R, Problem>,
) -> Result<Option<Option<R>>, Problem> {
    value.map(|value| value.map(read).transpose()).transpose()
}

/// `POST /keys/{key_id}/rotate`
pub fn rotate(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let body: RotateBody = call.body()?;
    let grace = body.grace.as_deref().map(|text| span("/grace", text, MAX_GRACE)).transpose()?;
    let mut plaintext = None;
    let done = change(call, store, |change| {
        let before = governed(call, change)?;
        once(call, change, |change| {
            let (fresh, hash) = fresh(call, body.auth.as_deref(), Some(&before.key_id))?;
            let rotation = Rotation { hash, grace: grace.unwrap_or(DEFAULT_GRACE), forced: body.force };
            let after = change.rotate_key(&before.key_id, &rotation)?;
            plaintext = Some(fresh.text);
            without_plaintext(&after, call.now)
        })
    })?;
    Ok(Answer { status: 200, body: with_plaintext(done, plaintext.as_ref().map(|text| text.as_str())) })
}

/// `POST /keys/{key_id}/end-grace`
pub fn end_grace(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let ended = change(call, store, |change| {
        let before = governed(call, change)?;
        Ok(change.end_grace(&before.key_id)?)
    })?;
    Answer::of(200, &view(&ended, call.now))
}

/// `POST /keys/{key_id}/revoke`
pub fn revoke(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let body: RevokeBody = call.body()?;
    let streams = if body.terminate_streams { Streams::Terminate } else { Streams::Finish };
    let revoked = change(call, store, |change| {
        let before = governed(call, change)?;
        Ok(change.revoke_key(&before.key_id, streams)?)
    })?;
    Answer::of(200, &view(&revoked, call.now))
}
