//! L5: the only place, beside the probe, that names Pingora. Adapters, no decisions: a callback turns Pingora's
//! types into Weir's, calls a stage, and turns the result back.

pub mod admin;
pub mod admit;
pub mod body;
pub mod context;
pub mod drain;
pub mod head;
pub mod parts;
pub mod peer;
pub mod proxy;
pub mod respond;
pub mod server;
pub mod tls;
pub mod upstream;
