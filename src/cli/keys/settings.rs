//! What `weir keys` needs of a configuration. Decides which authenticator a new key is for and which names exist.

use super::error::KeysError;
use crate::config::snapshot::{ApiKeyAuth, Authenticator, PepperSource, Snapshot, Store, Tenant};
use crate::domain::ids::TenantId;
use crate::logic::access::credentials::DEFAULT_HEADERS;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What authenticates where the configuration has no `auth:` (then keys can be made before it is written).
const DEFAULT_TAG: &str = "weir";
const DEFAULT_MAX_STALE: Duration = Duration::from_secs(15 * 60);
/// How alike a name must be (Jaro-Winkler) to be offered in place of one that does not exist.
const ALIKE: f64 = 0.75;

/// The part of a configuration that is about keys.
#[derive(Clone, Debug)]
pub struct KeySettings {
    /// Where the keys are.
    pub store: Store,
    /// `api_key` authenticators by name.
    pub authenticators: BTreeMap<String, ApiKeyAuth>,
    /// Where the pepper is if there is no authenticator.
    pub default_pepper: PathBuf,
    /// Tenants of the configuration; the store may have more.
    pub tenants: Vec<String>,
    /// Their teams; the store may have more.
    pub teams: BTreeMap<String, Vec<String>>,
    /// Plans of the configuration; the store may have more.
    pub plans: Vec<String>,
    /// Roles that exist, the built-in ones included.
    pub roles: Vec<String>,
}

/// The file that is meant: the one that was named, else the default.
pub(super) fn config_file(named: Option<&Path>) -> PathBuf {
    named.map_or_else(crate::config::default_file, Path::to_owned)
}

/// Reads a configuration file.
///
/// # Errors
/// What to tell the operator.
pub fn settings(config: &Path) -> Result<KeySettings, String> {
    let loaded = crate::config::load(config).map_err(|report| report.to_string())?;
    Ok(KeySettings::of(&loaded.snapshot))
}

impl KeySettings {
    /// Takes them out of a compiled configuration.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let api_key = |(name, auth): (&String, &Authenticator)| match auth {
            Authenticator::ApiKey(auth) => Some((name.clone(), auth.clone())),
            _ => None,
        };
        let teams = |tenant: &Tenant| tenant.teams.keys().map(|team| team.as_str().to_owned()).collect();
        Self {
            store: snapshot.store.clone(),
            authenticators: snapshot.auth.iter().filter_map(api_key).collect(),
            default_pepper: snapshot.server.state_dir.join("pepper"),
            tenants: snapshot.tenants.keys().map(|tenant| tenant.as_str().to_owned()).collect(),
            teams: snapshot.tenants.iter().map(|(name, one)| (name.as_str().to_owned(), teams(one))).collect(),
            plans: snapshot.plans.keys().map(|plan| plan.as_str().to_owned()).collect(),
            roles: snapshot.roles.keys().map(|role| role.as_str().to_owned()).collect(),
        }
    }

    /// The authenticator that a new key is for.
    pub(super) fn authenticator(&self, named: Option<&str>) -> Result<ApiKeyAuth, KeysError> {
        if let Some(name) = named {
            let names: Vec<String> = self.authenticators.keys().cloned().collect();
            known("authenticator", name, &names)?;
        }
        let mut fitting = self.authenticators.iter().filter(|(name, _)| named.is_none_or(|named| named == *name));
        match (fitting.next(), fitting.next()) {
            (Some((_, auth)), None) => Ok(auth.clone()),
            (Some(_), Some(_)) => {
                let names: Vec<&str> = self.authenticators.keys().map(String::as_str).collect();
                let names = names.join(", ");
                Err(KeysError::Refused(format!(
                    "several authenticators take API keys ({names}): say which with --auth"
                )))
            }
            (None, _) => Ok(ApiKeyAuth {
                headers: DEFAULT_HEADERS.iter().map(ToString::to_string).collect(),
                tag: DEFAULT_TAG.to_owned(),
                pepper: PepperSource::StateFile(self.default_pepper.clone()),
                max_stale: DEFAULT_MAX_STALE,
            }),
        }
    }

    /// The tenant that is meant, of the configuration or the store; `default` exists without being named.
    pub(super) fn tenant(
        &self,
        named: Option<&str>,
        store: &mut crate::io::store::Store,
    ) -> Result<TenantId, KeysError> {
        let name = named.unwrap_or("default");
        let configured = known("tenant", name, &self.tenants);
        if name != "default" && configured.is_err() && store.read()?.tenant(name)?.is_none() {
            configured?;
        }
        Ok(TenantId::new(name))
    }
}

/// Refuses a name that is not among `names`, and offers the most similar one.
pub(super) fn known(what: &'static str, name: &str, names: &[String]) -> Result<(), KeysError> {
    if names.iter().any(|one| one == name) {
        return Ok(());
    }
    let likeness = |one: &&String| strsim::jaro_winkler(one, name);
    let best = names.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|best| likeness(best) >= ALIKE);
    let hint = match best {
        Some(best) => format!("; did you mean `{best}`?"),
        None if names.is_empty() => format!(": the configuration has no {what}"),
        None => format!("; the configuration has: {}", names.join(", ")),
    };
    Err(KeysError::Unknown { what, name: name.escape_debug().to_string(), hint })
}
