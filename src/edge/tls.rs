//! TLS of a listener: which certificate is shown for which name, which versions are spoken, whose client certificates
//! are accepted, and what of them a request can see. The handshake itself is rustls, through Pingora's stream.

mod files;

use crate::config::snapshot::{Listener, ListenerTls};
use crate::logic::access::certificate::ClientCertificate;
use async_trait::async_trait;
use pingora_core::listeners::TlsAccept;
use pingora_core::listeners::tls::{Acceptor, TlsSettings};
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::protocols::tls::TlsRef;
use pingora_proxy::Session;
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// From the first byte of a connection to the end of its handshake: as long as a head may take by default.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What may be spoken inside, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a listener cannot speak TLS.
#[derive(Debug, thiserror::Error)]
#[error("listeners.{listener}.tls: {fault}")]
pub struct TlsError {
    listener: String,
    fault: Fault,
}

/// What is wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A file cannot be read.
    #[error("cannot read {file}: {why}; make it readable for the user that runs weir", file = .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// A file holds nothing of what it is named for.
    #[error("{file} holds no {what} in PEM form", file = .file.display())]
    Empty {
        /// The file.
        file: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Certificate and key do not fit, or are of a kind that cannot be used.
    #[error("{key} does not serve {certificate}: {why}; name the key that the certificate was made for", certificate = .certificate.display(), key = .key.display())]
    Mismatch {
        /// Of the certificate.
        certificate: PathBuf,
        /// Of the key.
        key: PathBuf,
        /// Why.
        why: String,
    },
    /// A certificate of the authorities cannot be one.
    #[error("{file} holds a certificate that cannot vouch for clients: {why}", file = .file.display())]
    Authority {
        /// The file.
        file: PathBuf,
        /// Why.
        why: String,
    },
    /// rustls does not take the settings.
    #[error("the settings cannot be used: {0}")]
    Settings(String),
}

/// One listener's side of TLS, ready to shake hands.
pub struct Tls {
    acceptor: Acceptor,
    patience: Duration,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Reads what a listener needs; `None` where it speaks plain text.
///
/// # Errors
/// [`TlsError`] names the listener, the file and the remedy.
pub fn load(listener: &Listener) -> Result<Option<Tls>, TlsError> {
    let Some(settings) = &listener.tls else { return Ok(None) };
    build(settings).map(Some).map_err(|fault| TlsError { listener: listener.name.clone(), fault })
}

impl Tls {
    /// Shakes hands, in bounded time. `None`: there was no handshake, and nothing is left to be said.
    pub async fn accept(&self, stream: Stream) -> Option<Stream> {
        let stream = stream.into_any().downcast::<L4Stream>().ok()?;
        match tokio::time::timeout(self.patience, self.acceptor.tls_handshake(*stream)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!(%error, "A TLS handshake failed.");
                None
            }
            Err(_) => {
                tracing::debug!("A TLS handshake took too long.");
                None
            }
        }
    }
}

/// The client's certificate of a request, verified when its connection was made.
pub fn certificate(session: &Session) -> Option<&ClientCertificate> {
    session.digest()?.ssl_digest.as_ref()?.extension.get::<ClientCertificate>()
}

fn build(settings: &ListenerTls) -> Result<Tls, Fault> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = Arc::new(Certificates::load(settings, &provider)?);
    let versions: &[&rustls::SupportedProtocolVersion] = if settings.only_tls13 {
        &[&rustls::version::TLS13]
    } else {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    };
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| Fault::Settings(error.to_string()))?;
    let mut config = match verifier(settings, provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
    config.alpn_protocols = PROTOCOLS.iter().map(|name| name.to_vec()).collect();
    if settings.client_ca.is_some() {
        // A resumed session is not verified again: it would carry a certificate past its end or its authority's.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    // Only settings with callbacks make an acceptor that calls back; its own rustls configuration has no choice of
    // versions, so ours takes its place. What it was built from is dropped unused.
    let mut callbacks =
        TlsSettings::with_callbacks(Box::new(Identify)).map_err(|error| Fault::Settings(error.to_string()))?;
    callbacks.set_cert_resolver(certificates);
    let mut acceptor = callbacks.build();
    acceptor.acceptor = Arc::new(config).into();
    Ok(Tls { acceptor, patience: HANDSHAKE })
}

/// Who vouches for clients; `None`: clients are not asked for certificates.
fn verifier(
    settings: &ListenerTls,
    provider: Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Fault> {
    let Some(file) = &settings.client_ca else { return Ok(None) };
    let refused = |why: String| Fault::Authority { file: file.clone(), why };
    let mut roots = RootCertStore::empty();
    for authority in files::certificates(file)? {
        roots.add(authority).map_err(|error| refused(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if settings.client_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map(Some).map_err(|error| refused(error.to_string()))
}

/// Keeps what a verified certificate says with its connection. One that cannot be read proves nobody.
struct Identify;

#[async_trait]
impl TlsAccept for Identify {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        match ClientCertificate::read(tls.peer_certificate_der()?) {
            Ok(certificate) => Some(Arc::new(certificate)),
            Err(error) => {
                tracing::info!(%error, "A client certificate was verified, but says nothing that can be used.");
                None
            }
        }
    }
}

/// A certificate with the names that it is for, lower case; `*.` stands for one label.
#[derive(Debug)]
struct Named {
    names: Vec<String>,
    key: Arc<CertifiedKey>,
}

/// Chooses a certificate by the name that the client asks for: the first that has the name and a kind of key that the
/// client knows. Where none has the name, the first in the file: its client will say what does not fit.
#[derive(Debug)]
struct Certificates(Vec<Named>);

impl Certificates {
    fn load(settings: &ListenerTls, provider: &CryptoProvider) -> Result<Self, Fault> {
        let mut all = Vec::new();
        for (certificate, key) in &settings.certificates {
            let chain = files::certificates(certificate)?;
            let names = chain.first().map(|leaf| files::names(leaf)).unwrap_or_default();
            let mismatch = |error: rustls::Error| Fault::Mismatch {
                certificate: certificate.clone(),
                key: key.clone(),
                why: error.to_string(),
            };
            let key = CertifiedKey::from_der(chain, files::private_key(key)?, provider).map_err(mismatch)?;
            all.push(Named { names, key: Arc::new(key) });
        }
        if all.is_empty() { Err(Fault::Settings("no certificate is named".to_owned())) } else { Ok(Self(all)) }
    }

    fn choose(&self, name: Option<&str>, usable: impl Fn(&Named) -> bool) -> Option<Arc<CertifiedKey>> {
        let asked = name.map(str::to_ascii_lowercase);
        let named = |one: &&Named| asked.as_deref().is_some_and(|name| one.names.iter().any(|own| covers(own, name)));
        let usable = |one: &&Named| usable(one);
        let chosen = self.0.iter().filter(named).find(usable);
        chosen.or_else(|| self.0.iter().find(usable)).map(|one| Arc::clone(&one.key))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |one: &Named| one.key.key.choose_scheme(hello.signature_schemes()).is_some();
        self.choose(hello.server_name(), usable)
    }
}

/// True if a certificate's name is that of the server; a star is one whole label (RFC 9525 §6.3).
fn covers(own: &str, name: &str) -> bool {
    match own.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => own == name,
    }
}

#[cfg(test)]
mod tests;
