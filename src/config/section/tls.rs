//! `listeners.*.tls` – certificates, versions and client authorities. Reads the files to see that they can be used;
//! the sockets read them again when they are made, at the start: a renewed certificate needs a restart.

use super::server::path;
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::ListenerTls;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use zeroize::Zeroizing;

/// Bytes of a PEM file at most: a bundle of authorities has some hundred KiB.
const MAX_PEM_BYTES: u64 = 1 << 20;
/// Permission bits that let everyone in. A group may well be meant to read it.
const EVERYONE: u32 = 0o007;

/// Reads `tls:`.
#[must_use]
pub fn tls(item: &Item<'_>) -> Option<ListenerTls> {
    let known = ["certificates", "min_version", "client_ca", "client_cert"];
    let fields = item.fields(&known, &["max_version", "ciphers", "alpn", "ocsp", "acme", "session_tickets"]);
    let certificates = fields.need("certificates", "for example `certificates: [{ cert: a.pem, key: a.key }]`");
    let certificates = certificates.map(|item| {
        if item.list().is_empty() {
            item.error(Code::EmptyPool, "TLS needs a certificate".into(), None);
        }
        item.list().iter().filter_map(certificate).collect()
    });
    let version = fields.get("min_version").and_then(|item| item.choice(&["1.2", "1.3"], &["1.0", "1.1"]));
    let client_ca = fields.get("client_ca").and_then(|item| authorities(&item));
    let client = fields.get("client_cert").and_then(|item| item.choice(&["optional", "required"], &[]));
    if client.is_some() && fields.get("client_ca").is_none() {
        let hint = Some("add `client_ca: FILE`".to_owned());
        let message = "client certificates cannot be checked without authorities";
        fields.item("client_cert").error(Code::Contradiction, message.into(), hint);
    }
    Some(ListenerTls {
        certificates: certificates?,
        only_tls13: version == Some("1.3"),
        // Who asks for client certificates and says no more, means it.
        client_required: client_ca.is_some() && client != Some("optional"),
        client_ca,
    })
}

/// `{ cert: a.pem, key: a.key }`: both are readable and belong together.
fn certificate(item: &Item<'_>) -> Option<(PathBuf, PathBuf)> {
    let fields = item.fields(&["cert", "key"], &["password", "ocsp"]);
    let cert = fields.need("cert", "the PEM file of the certificate and its chain");
    let key = fields.need("key", "the PEM file of the private key");
    let chain = cert.as_ref().and_then(chain);
    let private = key.as_ref().and_then(private_key);
    let (cert, key, (cert_file, chain), (key_file, private)) = (cert?, key?, chain?, private?);
    let provider = rustls::crypto::ring::default_provider();
    match CertifiedKey::from_der(chain, private, &provider) {
        Ok(_) => Some((cert_file, key_file)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message = format!("`{}` is not the key of `{}`", key.shown(), cert.shown());
            key.error(Code::BadCertificate, message, Some("name the key that the certificate was made for".into()));
            None
        }
        Err(fault) => {
            item.error(Code::BadCertificate, format!("this certificate and key cannot be used: {fault}"), None);
            None
        }
    }
}

fn chain(item: &Item<'_>) -> Option<(PathBuf, Vec<CertificateDer<'static>>)> {
    let (file, bytes) = pem(item)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match read {
        Ok(chain) if !chain.is_empty() => Some((file, chain)),
        Ok(_) => {
            let hint = Some("it must have `-----BEGIN CERTIFICATE-----` lines".to_owned());
            item.error(Code::BadCertificate, format!("no certificate in `{}`", item.shown()), hint);
            None
        }
        Err(fault) => {
            item.error(Code::BadCertificate, format!("`{}` is not a PEM file: {fault}", item.shown()), None);
            None
        }
    }
}

fn private_key(item: &Item<'_>) -> Option<(PathBuf, PrivateKeyDer<'static>)> {
    let (file, bytes) = pem(item)?;
    let mode = std::fs::metadata(&file).map_or(0, |about| about.mode() & 0o7777);
    if mode & EVERYONE != 0 {
        let message = format!("the private key `{}` has mode {mode:04o}: everyone may use it", item.shown());
        item.error(Code::ExposedFile, message, Some(format!("run `chmod 600 {}`", item.shown())));
    }
    // What the parser says of a key that it cannot read is not told: it may quote the key.
    let Ok(key) = PrivateKeyDer::from_pem_slice(&bytes) else {
        let hint = Some("it must be an unencrypted PEM key: PKCS#8, PKCS#1 or SEC1".to_owned());
        item.error(Code::BadCertificate, format!("no private key in `{}`", item.shown()), hint);
        return None;
    };
    Some((file, key))
}

fn authorities(item: &Item<'_>) -> Option<PathBuf> {
    let (file, certificates) = chain(item)?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        if let Err(fault) = store.add(certificate) {
            let message = format!("`{}` has a certificate that is no authority: {fault}", item.shown());
            item.error(Code::BadCertificate, message, None);
            return None;
        }
    }
    Some(file)
}

/// The bytes of a PEM file.
fn pem(item: &Item<'_>) -> Option<(PathBuf, Zeroizing<Vec<u8>>)> {
    let file = path(item)?;
    let read = std::fs::metadata(&file).and_then(|about| {
        if !about.is_file() {
            return Err(std::io::Error::other("not a file"));
        }
        if about.len() > MAX_PEM_BYTES {
            return Err(std::io::Error::other(format!("larger than {MAX_PEM_BYTES} bytes")));
        }
        std::fs::read(&file)
    });
    match read {
        Ok(bytes) => Some((file, Zeroizing::new(bytes))),
        Err(fault) => {
            item.error(Code::Unreadable, format!("`{}`: {fault}", item.shown()), None);
            None
        }
    }
}
