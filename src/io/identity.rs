//! Who calls, where others have to be asked or their keys fetched: the clients of identity providers. Decides which
//! configured authenticator is which; API keys are `io::keys`.

mod cache;
pub mod client_cert;
mod complaints;
pub mod ext_authz;
pub mod introspection;
mod jwks;
pub mod jwt;
mod own_key;

use crate::config::snapshot::Authenticator;
use crate::io::fetch::Fetch;
use crate::ports::{Authenticate, Clock};
use client_cert::ClientCert;
use ext_authz::ExtAuthz;
use introspection::Introspection;
use jwt::JwtAuthenticator;
use std::sync::Arc;
use tokio::runtime::Handle;

/// What authenticators need of the process. Cheap to clone.
#[derive(Clone)]
pub struct Surroundings {
    /// The client towards identity providers.
    pub fetch: Fetch,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Where key sets are fetched in the background: time and I/O enabled, and alive as long as the authenticators.
    pub runtime: Handle,
}

/// The authenticator of `auth.NAME`. `None` for keys of Weir's own, which follow a store. Issuers' keys begin to be
/// fetched, without waiting for them; that ends when the authenticator is dropped.
#[must_use]
pub fn authenticator(name: &str, settings: &Authenticator, around: &Surroundings) -> Option<Arc<dyn Authenticate>> {
    let fetch = || around.fetch.clone();
    match settings {
        Authenticator::ApiKey(_) => None,
        Authenticator::Jwt(settings) => Some(Arc::new(JwtAuthenticator::start(name, settings, around))),
        Authenticator::Introspection(settings) => {
            Some(Arc::new(Introspection::new(name, settings.as_ref().clone(), fetch())))
        }
        Authenticator::ClientCert(settings) => Some(Arc::new(ClientCert::new(name, settings.as_ref().clone()))),
        Authenticator::ExtAuthz(settings) => Some(Arc::new(ExtAuthz::new(name, settings.as_ref().clone(), fetch()))),
    }
}

#[cfg(test)]
mod tests;
