//! Who calls, for whom, and what they may, end to end: real proxies beside each other on a real Postgres, Redis and
//! identity provider. One module per promise; `stack`, `fleet` and `load` are what they stand on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on fails

#[path = "edge/backend.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod backend;
#[path = "edge/cases.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod cases;
#[path = "edge/client.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod client;
#[path = "support/oidc.rs"]
mod oidc;
#[path = "edge/proxy.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod proxy;
#[path = "edge/say.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod say;
#[path = "support/servers.rs"]
mod servers;

mod identity {
    pub mod credentials;
    pub mod fleet;
    pub mod load;
    pub mod outage;
    pub mod revocation;
    pub mod roles;
    pub mod rotation;
    pub mod secrets;
    pub mod stack;
    pub mod tenants;
    pub mod tokens;
    pub mod upstream;
    pub mod vouched;
}
