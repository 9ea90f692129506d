//! No two sockets at one address, the admin socket included.

use crate::config::codes::Code;
use crate::config::field::Item;
use crate::config::snapshot::Snapshot;
use std::net::SocketAddr;

struct Socket {
    address: SocketAddr,
    path: String,
}

/// Tells every socket that cannot be bound beside an earlier one.
pub fn check(root: &Item<'_>, snapshot: &Snapshot) {
    let top = root.fields_unchecked();
    let admin = top.item("server").fields_unchecked().item("admin").fields_unchecked().item("bind");
    let mut taken = vec![Socket { address: snapshot.server.admin, path: admin.path.clone() }];
    for (_, listener) in top.item("listeners").named_quietly() {
        for item in listener.fields_unchecked().item("bind").list() {
            let Some(address) = item.quiet_text().and_then(|text| text.parse().ok()) else { continue };
            if let Some(other) = taken.iter().find(|other| clash(other.address, address)) {
                let spot = if other.path == admin.path {
                    "the admin listener".to_owned()
                } else {
                    format!("`{}`", other.path)
                };
                let hint = Some("choose another port".to_owned());
                item.error(Code::BindConflict, format!("{address} is taken by {spot} ({})", other.address), hint);
            }
            taken.push(Socket { address, path: item.path.clone() });
        }
    }
}

/// True if the second socket cannot be bound while the first one is. Port 0 is a free one each time.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    if one.port() != other.port() || one.port() == 0 {
        return false;
    }
    let wildcard = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.ip() == other.ip() || (wildcard && one.is_ipv4() == other.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_takes_the_port_of_its_family_and_port_0_takes_none() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(clash(at("0.0.0.0:80"), at("127.0.0.1:80")), "the wildcard has it already");
        assert!(!clash(at("127.0.0.1:80"), at("127.0.0.2:80")), "two addresses");
        assert!(!clash(at("0.0.0.0:80"), at("[::]:80")), "two families");
        assert!(!clash(at("127.0.0.1:0"), at("127.0.0.1:0")), "port 0 is a free one");
    }
}
