//! L5: simulated GPU engines. `engine` is the model, `profile` its constants, `server` puts it behind HTTP.

pub mod engine;
pub mod profile;
pub mod server;

pub use server::{EngineSettings, Running, Server};
