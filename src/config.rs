//! L2: YAML text to a compiled [`snapshot::Snapshot`], with every error at once and at its place.

pub mod snapshot;
