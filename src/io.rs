//! L4: adapters. Stores, spool, clocks, probes: everything that touches the world outside the request.

pub mod access_log;
pub mod alerts;
pub mod clock;
pub mod directory;
pub mod fetch;
pub mod identity;
pub mod keys;
pub mod metrics;
pub mod observer;
pub mod pepper;
pub mod probe;
pub mod quota;
pub mod recovery;
pub mod slots;
pub mod spool;
pub mod store;
pub mod usage_log;
pub mod usage_query;
