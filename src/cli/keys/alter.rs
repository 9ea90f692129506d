//! `weir keys rotate`, `end-grace`, `revoke`, `disable`, `enable` and `update`: changes a key that is there. Decides
//! what the flags mean; what fits to the key is the store's.

use super::create::{Made, fresh};
use super::error::KeysError;
use super::view::Output;
use super::written::{Written, given, span};
use super::{Desk, OneArgs, key_id};
use crate::domain::ids::KeyId;
use crate::io::pepper;
use crate::io::store::change::Change;
use crate::io::store::error::{Kind, StoreError};
use crate::io::store::rows::{DEFAULT_GRACE, KeyEdit, Rotation, StoredKey, Streams};
use crate::logic::access::api_key;
use std::time::Duration;

/// `weir keys rotate`
#[derive(clap::Args, Debug)]
pub(super) struct RotateArgs {
    #[command(flatten)]
    pub(super) one: OneArgs,
    /// How long the old secret stays good, as in 24h; 0s ends it at once, at most 30d [default: 24h]
    #[arg(long, value_name = "SPAN", value_parser = span)]
    grace: Option<Duration>,
    /// Where two secrets are good already: end the older of them
    #[arg(long)]
    force: bool,
    /// The authenticator, where the configuration has several that take API keys
    #[arg(long, value_name = "NAME")]
    auth: Option<String>,
}

/// `weir keys revoke`
#[derive(clap::Args, Debug)]
pub(super) struct RevokeArgs {
    #[command(flatten)]
    pub(super) one: OneArgs,
    /// Cut the key's open streams too
    #[arg(long)]
    terminate_streams: bool,
}

/// `weir keys update`
#[derive(clap::Args, Debug)]
pub(super) struct UpdateArgs {
    /// The key's id: the 12 letters behind `sk-TAG-`
    #[arg(value_name = "KEY_ID")]
    key_id: String,
    #[command(flatten)]
    written: Written,
    /// Take this off the key; repeat, or use commas, for more
    #[arg(long, value_name = "WHAT", value_delimiter = ',')]
    clear: Vec<Clear>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What can be taken off a key.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Clear {
    Name,
    Team,
    User,
    Models,
    Endpoints,
    Addresses,
    Roles,
    Plan,
    Expires,
}

/// Gives a key a new secret.
pub(super) fn rotate(desk: &Desk<'_>, args: &RotateArgs) -> Result<Made, KeysError> {
    let id = key_id(&args.one.key_id)?;
    let auth = desk.settings.authenticator(args.auth.as_deref())?;
    let fresh = fresh(|random| api_key::renew(&auth.tag, &id, random))?;
    let hash = pepper::load(&auth.pepper)?.hash(fresh.text.as_bytes());
    let rotation = Rotation { hash, grace: args.grace.unwrap_or(DEFAULT_GRACE), forced: args.force };
    let stored = changed(desk, &id, |change| change.rotate_key(&id, &rotation))?;
    Ok(Made { stored, text: fresh.text })
}

/// Ends the older of two secrets.
pub(super) fn end_grace(desk: &Desk<'_>, args: &OneArgs) -> Result<StoredKey, KeysError> {
    let id = key_id(&args.key_id)?;
    changed(desk, &id, |change| change.end_grace(&id))
}

/// Ends a key for good.
pub(super) fn revoke(desk: &Desk<'_>, args: &RevokeArgs) -> Result<StoredKey, KeysError> {
    let id = key_id(&args.one.key_id)?;
    let streams = if args.terminate_streams { Streams::Terminate } else { Streams::Finish };
    changed(desk, &id, |change| change.revoke_key(&id, streams))
}

/// Switches a key off, or on again.
pub(super) fn switch(desk: &Desk<'_>, args: &OneArgs, disabled: bool) -> Result<StoredKey, KeysError> {
    let id = key_id(&args.key_id)?;
    let edit = KeyEdit { disabled: Some(disabled), ..KeyEdit::default() };
    changed(desk, &id, |change| change.update_key(&id, &edit))
}

/// Changes what is written on a key.
pub(super) fn update(desk: &Desk<'_>, args: &UpdateArgs) -> Result<StoredKey, KeysError> {
    let id = key_id(&args.key_id)?;
    let edit = edit(desk, args)?;
    let mut store = desk.store()?;
    let tenant = store.read()?.key(&id)?.ok_or_else(|| KeysError::NoSuchKey(id.clone()))?.tenant;
    args.written.check(desk.settings, &mut store, &tenant)?;
    let done = store.change(&super::actor(), desk.now, |change| change.update_key(&id, &edit));
    done.map_err(|error| told(error, &id))
}

fn edit(desk: &Desk<'_>, args: &UpdateArgs) -> Result<KeyEdit, KeysError> {
    let written = &args.written;
    let edit = KeyEdit {
        name: one(args, Clear::Name, written.name.clone())?,
        team: one(args, Clear::Team, written.team.clone())?,
        user: one(args, Clear::User, written.user.clone())?,
        models: one(args, Clear::Models, written.models.as_ref().map(|models| models.0.clone()))?,
        endpoints: one(args, Clear::Endpoints, given(&written.endpoints))?,
        addresses: one(args, Clear::Addresses, given(&written.addresses))?,
        roles: one(args, Clear::Roles, given(&written.roles))?,
        plan: one(args, Clear::Plan, written.plan.clone())?,
        expires_at: one(args, Clear::Expires, written.expires_at(desk.now))?,
        disabled: None,
    };
    Ok(edit)
}

/// `None` leaves as it is, `Some(None)` takes away.
fn one<T>(args: &UpdateArgs, what: Clear, value: Option<T>) -> Result<Option<Option<T>>, KeysError> {
    match (args.clear.contains(&what), value) {
        (false, value) => Ok(value.map(Some)),
        (true, None) => Ok(Some(None)),
        (true, Some(_)) => {
            let what = format!("{what:?}").to_lowercase();
            Err(KeysError::Refused(format!("--clear {what} and a new value for it contradict each other")))
        }
    }
}

/// One change of one key, under the account that runs the command.
fn changed(
    desk: &Desk<'_>,
    id: &KeyId,
    work: impl FnOnce(&mut Change<'_>) -> Result<StoredKey, StoreError>,
) -> Result<StoredKey, KeysError> {
    desk.store()?.change(&super::actor(), desk.now, work).map_err(|error| told(error, id))
}

fn told(error: StoreError, id: &KeyId) -> KeysError {
    match error.kind() {
        Kind::NotFound => KeysError::NoSuchKey(id.clone()),
        _ => error.into(),
    }
}
