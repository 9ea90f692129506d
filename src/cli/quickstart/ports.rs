//! Chooses the two ports, before anything starts. Holds no socket afterwards: `serve` binds them itself.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// Where the proxy and its admin listener will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// The proxy.
    pub proxy: SocketAddr,
    /// The admin listener.
    pub admin: SocketAddr,
}

/// Why a port cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// Someone listens there, or the system forbids it.
    #[error("{flag} {port} cannot be used: {source}; choose another one, or 0 for a free one")]
    Unusable {
        /// The flag that named it.
        flag: &'static str,
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// The two flags name one port.
    #[error("--port and --admin-port are both {0}; they are two listeners and need two ports")]
    Same(u16),
}

/// Checks the named ports and replaces 0 by free ones. Both probes are held until both are known, so that two zeros
/// never become the same port.
///
/// # Errors
/// [`PortError`], and then nothing was started.
pub fn choose(port: u16, admin_port: u16) -> Result<Ports, PortError> {
    if port != 0 && port == admin_port {
        return Err(PortError::Same(port));
    }
    let proxy = probe("--port", port)?;
    let admin = probe("--admin-port", admin_port)?;
    Ok(Ports { proxy: address("--port", port, &proxy)?, admin: address("--admin-port", admin_port, &admin)? })
}

fn probe(flag: &'static str, port: u16) -> Result<TcpListener, PortError> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|source| PortError::Unusable { flag, port, source })
}

fn address(flag: &'static str, port: u16, listener: &TcpListener) -> Result<SocketAddr, PortError> {
    listener.local_addr().map_err(|source| PortError::Unusable { flag, port, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_zeros_become_two_different_free_ports() {
        let ports = choose(0, 0).expect("free ports exist");
        assert_ne!(ports.proxy.port(), 0, "zero is never handed on");
        assert_ne!(ports.proxy.port(), ports.admin.port(), "two listeners need two ports");
        TcpListener::bind(ports.proxy).expect("the probe no longer holds the port");
    }

    #[test]
    fn a_taken_port_is_named_with_its_flag() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let error = choose(0, port).expect_err("someone listens there").to_string();
        assert!(error.starts_with(&format!("--admin-port {port} cannot be used")), "says which flag: {error}");
    }

    #[test]
    fn one_port_for_both_listeners_is_refused() {
        let error = choose(4242, 4242).expect_err("two listeners").to_string();
        assert!(error.contains("both 4242"), "says what is wrong: {error}");
    }
}
