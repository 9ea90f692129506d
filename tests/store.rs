//! Laws of the key store, each on SQLite and on a real Postgres.

// Only tests and what they are made of: a broken world may end them.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic)]

#[path = "support/servers.rs"]
mod servers;
#[path = "store/world.rs"]
mod world;

#[path = "store/follow.rs"]
mod follow;
#[path = "store/keys.rs"]
mod keys;
#[path = "store/open.rs"]
mod open;
#[path = "store/outage.rs"]
mod outage;
#[path = "store/push.rs"]
mod push;
#[path = "store/replica.rs"]
mod replica;
#[path = "store/tenancy.rs"]
mod tenancy;
