//! Certificates and keys out of PEM files, with errors that name the file.

use super::Fault;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Read;
use std::path::Path;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A PEM file at most: some hundred authorities.
const MAX_FILE: u64 = 1 << 20;

/// All certificates of a file, in its order; never none.
pub fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unreadable(file, &error))?;
    if found.is_empty() { Err(Fault::Empty { file: file.to_owned(), what: "certificate" }) } else { Ok(found) }
}

/// The one private key of a file. Who else may read the file was said when the configuration was read.
pub fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, Fault> {
    let text = zeroize::Zeroizing::new(read(file)?);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound => Fault::Empty { file: file.to_owned(), what: "private key" },
        error => unreadable(file, &error),
    })
}

/// The DNS names that a server certificate is for, lower case.
pub fn names(leaf: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    dns.collect()
}

fn read(file: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(|error| unreadable(file, &error))?;
    opened.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(file, &error))?;
    if bytes.len() as u64 > MAX_FILE { Err(unreadable(file, &"it is larger than 1 MiB")) } else { Ok(bytes) }
}

fn unreadable(file: &Path, why: &dyn std::fmt::Display) -> Fault {
    Fault::Unreadable { file: file.to_owned(), why: why.to_string() }
}
