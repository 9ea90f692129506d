//! L2: YAML text to a compiled [`snapshot::Snapshot`], with every error at once and at its place.
//!
//! The way of a text: `parse` (a tree that knows its places) → `interpolate` → `include` (one tree) → `section`
//! (typed values, defaults) → `validate` (what holds between sections) → `effective` (the same as text again).

pub mod codes;
pub mod suggest;
pub mod units;
pub mod mask;
pub mod diagnostic;
pub mod render;
pub mod tree;
pub mod parse;
pub mod interpolate;
pub mod field;
pub mod secret;
pub mod include;
pub mod snapshot;
pub mod section;
pub mod stored;
pub mod validate;
pub mod effective;
pub mod load;

pub use load::{Loaded, default_file, examine, load, load_text};
pub use section::tenants::zone;
pub use stored::{plan_from_json, plan_to_json, tenant_models};
