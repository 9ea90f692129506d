//! Addresses of services that are told credentials or trusted for who somebody is: TLS, except within this machine.

use crate::config::codes::Code;
use crate::config::field::Item;
use url::{Host, Url};

/// A URL of such a service.
#[must_use]
pub fn trusted_url(item: &Item<'_>) -> Option<Url> {
    let text = item.text()?;
    let wrong = |message: &str, hint: &str| {
        item.error(Code::BadUrl, message.to_owned(), Some(hint.to_owned()));
        None
    };
    let example = "write `https://login.example.com/…`";
    let Ok(url) = Url::parse(text) else { return wrong("not a URL", example) };
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return wrong("not an http or https URL", example);
    }
    if !url.username().is_empty() || url.password().is_some() {
        item.findings.mask(item.node.place);
        return wrong("a URL with a user or password in it", "remove them");
    }
    if url.fragment().is_some() {
        return wrong("a URL with a `#`", "leave everything from the `#` on away");
    }
    if url.scheme() == "http" && !within_machine(&url) {
        return wrong("without TLS, anyone on the way could say who is who", "use `https://`");
    }
    Some(url)
}

/// True for a URL that nobody on the way can read: TLS, or within this machine.
#[must_use]
pub fn is_trusted(url: &Url) -> bool {
    url.scheme() == "https" && url.host().is_some() || url.scheme() == "http" && within_machine(url)
}

fn within_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
