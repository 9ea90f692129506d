//! Makes keys, and imports the hashes of those that another system made. Decides what may be on a key.

use super::{KeyList, KeyView, once, view, with_plaintext, without_plaintext};
use crate::admin::authority::{self, Powers};
use crate::admin::call::{Answer, Call};
use crate::admin::changes::{change, check_models, plan_exists, team_exists, tenant_exists};
use crate::admin::form::{ENDPOINT, KEY_ID, LABEL, NAME, NETWORK, SHA256, expiry, networks};
use crate::admin::problem::Problem;
use crate::config::snapshot::{ApiKeyAuth, Authenticator};
use crate::domain::fault::RETRY_SOON;
use crate::domain::ids::KeyId;
use crate::domain::refusal::Refusal;
use crate::io::pepper;
use crate::io::store::Store;
use crate::io::store::change::Change;
use crate::io::store::rows::{NewKey, StoredKey};
use crate::logic::access::api_key::{self, FreshKey};
use crate::logic::access::digest::{DIGEST_LEN, Digest, SecretHash};
use crate::logic::access::scopes::Reach;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

/// Keys of one import at most: they are one change, for which every other change waits.
const MAX_IMPORT: u32 = 200;

/// Held by the import that runs: one after the other, others would stand before every other change.
static IMPORTING: Mutex<()> = Mutex::new(());

/// A key to be made. What is left out is null.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewKey")]
pub struct KeyBody {
    /// Who pays; left out: the caller's tenant.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    tenant_id: Option<String>,
    /// The team; it must exist.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    team_id: Option<String>,
    /// The user; one who has no limits of their own need not exist.
    #[serde(default)]
    #[schemars(regex(pattern = LABEL))]
    user_id: Option<String>,
    /// A name for people.
    #[serde(default)]
    #[schemars(regex(pattern = LABEL))]
    name: Option<String>,
    /// Model patterns: `*` is any letters, `?` one.
    #[serde(default)]
    #[schemars(length(max = 64))]
    models: Option<Vec<String>>,
    /// Path patterns: `*` is any letters.
    #[serde(default)]
    #[schemars(length(max = 64), inner(regex(pattern = ENDPOINT)))]
    endpoints: Option<Vec<String>>,
    /// Client networks and addresses.
    #[serde(default)]
    #[schemars(length(max = 64), inner(regex(pattern = NETWORK)))]
    addresses: Option<Vec<String>>,
    /// A plan that counts this key alone.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    plan: Option<String>,
    /// Roles; null: a `member`; an empty list allows nothing.
    #[serde(default)]
    #[schemars(length(max = 16), inner(regex(pattern = NAME)))]
    roles: Option<Vec<String>>,
    /// When it ends; null: never.
    #[serde(default)]
    #[schemars(extend("format" = "date-time"))]
    expires_at: Option<String>,
    /// The `api_key` authenticator that it is for, where there are several. Only operators choose; for others it is the
    /// one that they came by.
    #[serde(default)]
    #[schemars(regex(pattern = NAME))]
    auth: Option<String>,
    /// Of an imported key in Weir's own form: the third of its parts. Left out: derived from `hash`, as any other form
    /// needs it.
    #[serde(default)]
    #[schemars(regex(pattern = KEY_ID))]
    key_id: Option<String>,
    /// Of a key that another system made: the SHA-256 of the whole key. Then no plaintext is made.
    #[serde(default)]
    #[schemars(regex(pattern = SHA256))]
    hash: Option<String>,
}

/// Keys that another system made; each has its `hash`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyImport {
    /// All or none of them are imported.
    #[schemars(length(min = 1, max = MAX_IMPORT))]
    keys: Vec<KeyBody>,
}

/// `POST /keys`
pub fn create(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let body: KeyBody = call.body()?;
    let mut plaintext = None;
    let done = change(call, store, |change| {
        once(call, change, |change| {
            let (made, text) = make(call, change, body, "")?;
            plaintext = text;
            without_plaintext(&made, call.now)
        })
    })?;
    let body = with_plaintext(done, plaintext.as_ref().map(|text| text.as_str()));
    Ok(Answer { status: 201, body })
}

/// `POST /keys/import`
pub fn import(call: &Call, store: &mut Store) -> Result<Answer, Problem> {
    let body: KeyImport = call.body()?;
    if let Some(index) = body.keys.iter().position(|key| key.hash.is_none()) {
        return Err(Problem::member(&format!("/keys/{index}/hash"), "An imported key has the hash of the whole key."));
    }
    let busy = Problem::Refused(Refusal::Overloaded { retry_after: RETRY_SOON });
    let _importing = IMPORTING.try_lock().ok_or(busy)?;
    let keys = change(call, store, |change| {
        let one = |(index, body): (usize, KeyBody)| {
            let (made, _) = make(call, change, body, &format!("/keys/{index}"))?;
            Ok(view(&made, call.now))
        };
        body.keys.into_iter().enumerate().map(one).collect::<Result<Vec<KeyView>, Problem>>()
    })?;
    Answer::of(201, &KeyList { keys })
}

/// Checks what is asked for against who asks, the configuration and the store, and makes the key.
fn make(
    call: &Call,
    change: &mut Change<'_>,
    body: KeyBody,
    at: &str,
) -> Result<(StoredKey, Option<Zeroizing<String>>), Problem> {
    let tenant = body.tenant_id.clone().unwrap_or_else(|| call.tenant().as_str().to_owned());
    let absent = || Problem::member(&format!("{at}/tenant_id"), "There is no tenant of this name.");
    call.within(&tenant, "tenant").map_err(|_| absent())?;
    tenant_exists(call, &mut change.read(), &tenant, absent())?;
    if body.hash.is_some() && !call.administers(&tenant) {
        let what = "Only who administers the tenant imports keys: a plain hash holds for every authenticator of keys.";
        return Err(Problem::Forbidden(what.to_owned()));
    }
    let Material { id, hash, plaintext } = material(call, &body, at)?;
    let new = restrictions(call, body, at, NewKey::of(id, hash, &tenant))?;
    plan_exists(call, &mut change.read(), &new.tenant, new.plan.as_deref()).map_err(|why| below(at, why))?;
    team_exists(call, &mut change.read(), &new.tenant, new.team.as_deref()).map_err(|why| below(at, why))?;
    Ok((change.create_key(&new)?, plaintext))
}

/// The checked restrictions of a key.
fn restrictions(call: &Call, body: KeyBody, at: &str, plain: NewKey) -> Result<NewKey, Problem> {
    check_models(body.models.as_deref()).map_err(|why| below(at, why))?;
    authority::known_roles(&call.runtime.snapshot.roles, body.roles.as_deref()).map_err(|why| below(at, why))?;
    let addresses = body.addresses.as_deref().map(|list| networks(&format!("{at}/addresses"), list)).transpose()?;
    let shown = addresses.as_deref().map(super::shown);
    let end = body.expires_at.as_deref();
    let expires_at = end.map(|end| expiry(&format!("{at}/expires_at"), end, call.now)).transpose()?;
    authority::covers(
        call,
        &plain.tenant,
        &Powers {
            roles: body.roles.as_deref(),
            models: body.models.as_deref(),
            endpoints: body.endpoints.as_deref(),
            addresses: shown.as_deref(),
            team: body.team_id.as_deref(),
            user: body.user_id.as_deref(),
            plan: body.plan.as_deref(),
            ends: expires_at,
        },
    )?;
    Ok(NewKey {
        team: body.team_id,
        user: body.user_id,
        name: body.name,
        models: body.models,
        endpoints: body.endpoints,
        addresses,
        plan: body.plan,
        roles: body.roles,
        expires_at,
        ..plain
    })
}

/// Puts the place of a key in a list before the pointer of what is wrong with it.
fn below(at: &str, problem: Problem) -> Problem {
    match problem {
        Problem::Invalid { status, code, message, param: Some(pointer) } if status == 422 => {
            Problem::Invalid { status, code, message, param: Some(format!("{at}{pointer}")) }
        }
        other => other,
    }
}

/// What a new key is made of.
struct Material {
    id: KeyId,
    hash: SecretHash,
    /// `None` of one that is imported.
    plaintext: Option<Zeroizing<String>>,
}

/// A new secret, or what is imported.
fn material(call: &Call, body: &KeyBody, at: &str) -> Result<Material, Problem> {
    let Some(hash) = &body.hash else {
        if body.key_id.is_some() {
            let what = "Only an imported key, which has a `hash`, brings its id.";
            return Err(Problem::member(&format!("{at}/key_id"), what));
        }
        let (fresh, hash) = fresh(call, body.auth.as_deref(), None)?;
        return Ok(Material { id: fresh.id, hash, plaintext: Some(fresh.text) });
    };
    let digest = digest(hash).ok_or_else(|| Problem::member(&format!("{at}/hash"), "This is no SHA-256."))?;
    let id = match &body.key_id {
        Some(id) => KeyId::new(id),
        None => api_key::key_id(&api_key::id_of_hash(&digest)),
    };
    Ok(Material { id, hash: SecretHash::Plain(digest), plaintext: None })
}

/// The digest in `sha256:HEX`.
fn digest(text: &str) -> Option<Digest> {
    let hex = text.strip_prefix("sha256:")?.as_bytes();
    let mut digest = [0; DIGEST_LEN];
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (to, pair) in digest.iter_mut().zip(hex.chunks(2)) {
        let [high, low] = pair else { return None };
        *to = digit(high)? * 16 + digit(low)?;
    }
    (hex.len() == 2 * DIGEST_LEN).then_some(Digest(digest))
}

/// A new key with what is kept of it, or a new secret for the key `id`.
///
/// # Errors
/// 409 or 422 where it is not clear which authenticator it is for; 503 where its pepper cannot be read.
pub fn fresh(call: &Call, auth: Option<&str>, id: Option<&KeyId>) -> Result<(FreshKey, SecretHash), Problem> {
    let settings = authenticator(call, auth)?;
    let pepper = pepper::load(&settings.pepper).map_err(|error| {
        tracing::error!(%error, "a key cannot be made");
        Problem::unavailable("pepper")
    })?;
    let fresh = fresh_key(&settings.tag, id)?;
    let hash = pepper.hash(fresh.text.as_bytes());
    Ok((fresh, hash))
}

fn fresh_key(tag: &str, id: Option<&KeyId>) -> Result<FreshKey, Problem> {
    let failed = |why: &dyn std::fmt::Display| {
        tracing::error!(error = %why, "a key cannot be made");
        Problem::Refused(Refusal::Internal)
    };
    let mut random = Zeroizing::new([0; api_key::RANDOM_BYTES]);
    getrandom::fill(random.as_mut_slice()).map_err(|error| failed(&error))?;
    let fresh = match id {
        Some(id) => api_key::renew(tag, id, random.as_slice()),
        None => api_key::generate(tag, random.as_slice()),
    };
    fresh.map_err(|error| failed(&error))
}

/// The authenticator that a key is for. Who does not reach all tenants makes keys only for the one that they came by:
/// another may open routes that theirs does not.
fn authenticator<'c>(call: &'c Call, named: Option<&str>) -> Result<&'c ApiKeyAuth, Problem> {
    let all = call.runtime.snapshot.auth.iter().filter_map(|(name, authenticator)| match authenticator {
        Authenticator::ApiKey(settings) => Some((name.as_str(), settings)),
        _ => None,
    });
    let mut all: Vec<(&str, &ApiKeyAuth)> = all.collect();
    if call.reach == Reach::Own && all.len() > 1 {
        all.retain(|(name, _)| call.via.as_deref() == Some(*name));
        if all.is_empty() {
            let what = "Several authenticators take API keys, and you came by none of them: an operator makes the key.";
            return Err(Problem::Forbidden(what.to_owned()));
        }
    }
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let names = names.join(", ");
    match (named, all.as_slice()) {
        (Some(named), all) => {
            let found = all.iter().find(|(name, _)| *name == named).map(|(_, settings)| *settings);
            let what = format!("There is no authenticator of this name that you can make keys for. Known: {names}.");
            found.ok_or_else(|| Problem::member("/auth", what))
        }
        (None, [(_, settings)]) => Ok(settings),
        (None, []) => Err(Problem::Conflict {
            code: "no_api_key_authenticator",
            message: "The configuration has no authenticator that takes API keys. Add `api_key: {}` below `auth:`."
                .to_owned(),
        }),
        (None, _) => Err(Problem::member("/auth", format!("Several authenticators take API keys. Name one: {names}."))),
    }
}
