//! L1: pure decisions, values in, values out. No clock, no randomness, no sockets, no async.

pub mod access;
pub mod money;
pub mod quota;
pub mod routing;
pub mod usage;
pub mod wire;
