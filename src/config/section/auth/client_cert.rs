//! `auth.*.client_cert` – certificates of TLS clients as identity. Which authorities vouch for them is the listener's.

use super::claims::{mapping, with_mapping};
use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::ClientCertAuth;

/// Bytes of a trust domain (SPIFFE-ID §2.1).
const MAX_TRUST_DOMAIN: usize = 255;

/// Reads `client_cert:`.
#[must_use]
pub fn read(item: &Item<'_>) -> ClientCertAuth {
    let fields = item.fields(&with_mapping(&["trust_domains"]), &["fingerprints", "crl"]);
    let domains = |item: &Item<'_>| Some(item.list().iter().filter_map(trust_domain).collect());
    ClientCertAuth { trust_domains: fields.or("trust_domains", domains, Vec::new()), mapping: mapping(&fields, "cert") }
}

fn trust_domain(item: &Item<'_>) -> Option<String> {
    let text = item.text()?;
    let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_');
    if (1..=MAX_TRUST_DOMAIN).contains(&text.len()) && text.bytes().all(fine) {
        return Some(text.to_owned());
    }
    let hint = Some("the name alone, in small letters: `example.org` of `spiffe://example.org/…`".to_owned());
    item.error(Code::BadWord, format!("`{}` is not a trust domain", item.shown()), hint);
    None
}
