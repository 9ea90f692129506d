//! The part of `weir serve` that wires who calls: the followed key store, and the authenticators that ask others.

use super::Failure;
use crate::config::snapshot::{Authenticator, PepperSource, Secret, Snapshot};
use crate::io::directory::Configured;
use crate::io::fetch::Fetch;
use crate::io::identity::{self, Surroundings};
use crate::io::keys::{self, Follower, Pulse};
use crate::io::pepper;
use crate::logic::access::directory::Directory;
use crate::ports::{Authenticate, Clock};
use crate::runtime::Abort;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// How long background work may take to end with the process.
const LAST_WORK: Duration = Duration::from_millis(200);

/// Everything that finds out who calls.
pub(super) struct Identity {
    /// Authenticators by name.
    pub auth: BTreeMap<String, Arc<dyn Authenticate>>,
    /// Who there is.
    pub directory: Arc<ArcSwap<Directory>>,
    /// How the keys stand.
    pub pulse: Pulse,
    /// What ends with the process.
    pub attendants: Attendants,
}

/// The threads behind it; dropped when the last request has ended.
pub(super) struct Attendants {
    _follower: Follower,
    background: Option<Runtime>,
}

impl Drop for Attendants {
    fn drop(&mut self) {
        if let Some(background) = self.background.take() {
            background.shutdown_timeout(LAST_WORK);
        }
    }
}

/// Starts to follow the key store, and the key sets of issuers.
pub(super) fn start(
    snapshot: &Snapshot,
    clock: &Arc<dyn Clock>,
    abort: &watch::Sender<Abort>,
) -> Result<Identity, Failure> {
    let started = keys::start(key_settings(snapshot, clock, abort)?)?;
    let own = started.keys.into_iter().map(|(name, keys)| (name, keys as Arc<dyn Authenticate>));
    let mut auth: BTreeMap<_, _> = own.collect();
    let asks = |authenticator: &Authenticator| !matches!(authenticator, Authenticator::ApiKey(_));
    let mut background = None;
    if snapshot.auth.values().any(asks) {
        let runtime = background_runtime()?;
        let around = Surroundings { fetch: Fetch::new()?, clock: Arc::clone(clock), runtime: runtime.handle().clone() };
        let others = snapshot.auth.iter();
        auth.extend(
            others.filter_map(|(name, one)| Some((name.clone(), identity::authenticator(name, one, &around)?))),
        );
        background = Some(runtime);
    }
    let attendants = Attendants { _follower: started.follower, background };
    Ok(Identity { auth, directory: started.directory, pulse: started.pulse, attendants })
}

/// One thread for what nobody waits for: key sets that are fetched again.
fn background_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("weir-identity").enable_all().build()
}

/// What follows the store, for all `api_key` authenticators together.
fn key_settings(
    snapshot: &Snapshot,
    clock: &Arc<dyn Clock>,
    abort: &watch::Sender<Abort>,
) -> Result<keys::Settings, Failure> {
    let mut authenticators = Vec::new();
    for (name, authenticator) in &snapshot.auth {
        let Authenticator::ApiKey(settings) = authenticator else { continue };
        authenticators.push((name.clone(), pepper::load(&settings.pepper)?, settings.max_stale));
    }
    Ok(keys::Settings {
        store: snapshot.store.clone(),
        configured: Configured::of(snapshot),
        authenticators,
        clock: Arc::clone(clock),
        abort: abort.clone(),
    })
}

/// The key of the tenants' cache salts: the first authenticator's pepper, or the state directory's own.
pub(super) fn salt_key(snapshot: &Snapshot) -> Result<Secret, Failure> {
    let configured = snapshot.auth.values().find_map(|authenticator| match authenticator {
        Authenticator::ApiKey(settings) => Some(settings.pepper.clone()),
        _ => None,
    });
    let own = PepperSource::StateFile(snapshot.server.state_dir.join("pepper"));
    Ok(pepper::secret(&configured.unwrap_or(own))?)
}
