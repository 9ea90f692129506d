//! What goes over the wire, read and written as bytes: request bodies, event streams, error bodies, request heads.
//! Decides nothing about who may do what.

pub mod error_body;
pub mod identity;
pub mod json;
pub mod scan;
pub mod splice;
pub mod sse;
pub mod stream_kind;
pub mod strict;
pub mod timing;
pub mod unambiguous;
