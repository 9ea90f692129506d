//! What a client certificate says of its holder, and whether that is a SPIFFE identity (SPIFFE-ID §2, X509-SVID §2
//! and §5.2). Reads one certificate; that its chain and signature hold was the listener's matter before.

mod subject;

use crate::domain::units::WallMicros;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Names of one kind in a certificate at most: what is kept per connection and shown to expressions.
pub const MAX_NAMES: usize = 64;
/// Bytes of one name at most; SPIFFE-ID §2.3 has the same bound.
pub const MAX_NAME: usize = 2048;
/// Bytes of a trust domain at most (SPIFFE-ID §2.3).
pub const MAX_TRUST_DOMAIN: usize = 255;

const SCHEME: &str = "spiffe://";
const MICROS_PER_SECOND: i64 = 1_000_000;

/// What a client certificate says of its holder.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientCertificate {
    /// The subject, as RFC 4514 writes it.
    pub subject: String,
    /// URIs of the subject alternative name; a SPIFFE id is one of them.
    pub uris: Vec<String>,
    /// DNS names of the subject alternative name.
    pub dns: Vec<String>,
    /// SHA-256 of the certificate, lower-case hex.
    pub fingerprint: String,
    /// When it ends. A connection may outlive it.
    pub not_after: WallMicros,
    /// It may sign certificates or revocation lists, so it is no leaf.
    pub authority: bool,
}

/// The certificate cannot be read, or holds more than [`MAX_NAMES`] names or one over [`MAX_NAME`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the certificate cannot be read, or has too many or too long names")]
pub struct Unreadable;

impl ClientCertificate {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| Unreadable)?;
        if !rest.is_empty() {
            return Err(Unreadable);
        }
        let (mut uris, mut dns) = (Vec::new(), Vec::new());
        let names = certificate.subject_alternative_name().map_err(|_| Unreadable)?;
        for name in names.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::URI(uri) => push(&mut uris, uri)?,
                GeneralName::DNSName(name) => push(&mut dns, name)?,
                // Names of other kinds are not shown to expressions, so they decide nothing.
                _ => {}
            }
        }
        let subject = subject::text(certificate.subject());
        if subject.len() > MAX_NAME {
            return Err(Unreadable);
        }
        Ok(Self {
            subject,
            uris,
            dns,
            fingerprint: hex(&Sha256::digest(der)),
            not_after: WallMicros(certificate.validity().not_after.timestamp().saturating_mul(MICROS_PER_SECOND)),
            authority: signs(&certificate)?,
        })
    }

    /// Its SPIFFE identity; `None` where it names none.
    ///
    /// # Errors
    /// [`SpiffeError`]: it names one that does not hold, so the certificate proves nobody.
    pub fn spiffe(&self) -> Result<Option<SpiffeId>, SpiffeError> {
        let claimed = |uri: &String| uri.get(..SCHEME.len() - 2).is_some_and(|it| it.eq_ignore_ascii_case("spiffe:"));
        if !self.uris.iter().any(claimed) {
            return Ok(None);
        }
        let [only] = self.uris.as_slice() else { return Err(SpiffeError::SeveralUris) };
        if self.authority {
            return Err(SpiffeError::Authority);
        }
        SpiffeId::parse(only).map(Some)
    }
}

fn push(names: &mut Vec<String>, name: &str) -> Result<(), Unreadable> {
    if names.len() == MAX_NAMES || name.len() > MAX_NAME {
        return Err(Unreadable);
    }
    names.push(name.to_owned());
    Ok(())
}

/// True where basic constraints or key usage let it sign for others.
fn signs(certificate: &X509Certificate<'_>) -> Result<bool, Unreadable> {
    let constraints = certificate.basic_constraints().map_err(|_| Unreadable)?;
    let usage = certificate.key_usage().map_err(|_| Unreadable)?;
    let ca = constraints.is_some_and(|extension| extension.value.ca);
    Ok(ca || usage.is_some_and(|extension| extension.value.key_cert_sign() || extension.value.crl_sign()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or('0'));
        }
        text
    })
}

/// `spiffe://TRUST_DOMAIN/SEGMENT/…`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpiffeId {
    /// Who vouches for it.
    pub trust_domain: String,
    /// The path's segments; never empty.
    pub path: Vec<String>,
}

/// Why a certificate that names a SPIFFE identity proves none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SpiffeError {
    /// X509-SVID §2: exactly one URI.
    #[error("a certificate with a SPIFFE id has exactly one URI")]
    SeveralUris,
    /// X509-SVID §5.2: a leaf proves an identity, an authority does not.
    #[error("the certificate may sign others, so it is no leaf")]
    Authority,
    /// Another form than `spiffe://trust-domain/path`.
    #[error("the SPIFFE id is not of the form spiffe://trust-domain/path")]
    Form,
}

impl SpiffeId {
    /// Reads an id. Letters that the standard would fold to lower case are refused, as its own libraries do: two
    /// spellings of one identity would be two for every rule that compares text.
    ///
    /// # Errors
    /// [`SpiffeError::Form`].
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let rest = text.strip_prefix(SCHEME).filter(|_| text.len() <= MAX_NAME).ok_or(SpiffeError::Form)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeError::Form)?;
        if !is_trust_domain(trust_domain) {
            return Err(SpiffeError::Form);
        }
        let segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        if !segments.iter().all(|segment| is_segment(segment)) {
            return Err(SpiffeError::Form);
        }
        Ok(Self { trust_domain: trust_domain.to_owned(), path: segments })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.trust_domain, self.path.join("/"))
    }
}

/// True for the name of a SPIFFE trust domain.
#[must_use]
pub fn is_trust_domain(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= MAX_TRUST_DOMAIN && name.bytes().all(letter)
}

/// No percent encoding and no dot segments: what two readers may read differently is in no id (SPIFFE-ID §2.2).
fn is_segment(segment: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(segment, "" | "." | "..") && segment.bytes().all(letter)
}

/// What expressions see as `cert`. Members that do not apply are null.
#[must_use]
pub fn document(certificate: &ClientCertificate, spiffe: Option<&SpiffeId>) -> Value {
    let spiffe = spiffe.map(|id| json!({ "id": id.to_string(), "trust_domain": id.trust_domain, "path": id.path }));
    json!({
        "subject": certificate.subject,
        "uris": certificate.uris,
        "dns": certificate.dns,
        "fingerprint": certificate.fingerprint,
        "spiffe": spiffe,
    })
}

#[cfg(test)]
mod tests;
