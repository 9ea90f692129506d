//! Limits and budgets, end to end: several real proxies over one simulated engine and one real Redis, alone, as a cluster
//! of three nodes or behind Sentinels. One module per promise; `fleet`, `load`, `books` and `report` are what they stand
//! on. Each law runs here in a short form; `make limits` runs the full ones and prints what was reached.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on fails

#[path = "edge/backend.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod backend;
#[path = "support/chaos.rs"]
mod chaos;
#[path = "edge/client.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod client;
#[path = "edge/proxy.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod proxy;
#[path = "edge/say.rs"]
#[allow(dead_code)] // other tests use the rest of it
mod say;
#[path = "support/servers.rs"]
mod servers;

mod limits {
    pub mod books;
    pub mod budgets;
    pub mod death;
    pub mod faults;
    pub mod fleet;
    pub mod load;
    pub mod model;
    pub mod outage;
    pub mod race;
    pub mod report;
    pub mod retry;
    pub mod saturation;
    pub mod standing;
    pub mod store;
    pub mod thrift;
    pub mod tokens;
    pub mod verdict;
}
