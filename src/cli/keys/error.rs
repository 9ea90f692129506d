//! Why `weir keys` did not do it, in words for operators. Decides no exit status: all of these are 1.

use crate::domain::ids::KeyId;
use crate::io::pepper::PepperError;
use crate::io::store::error::StoreError;
use crate::logic::access::api_key::GenerateError;
use std::io;

/// Why a command did not do it; each is exit status 1.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
    /// A name that the configuration does not have.
    #[error("unknown {what} `{name}`{hint}")]
    Unknown { what: &'static str, name: String, hint: String },
    /// Something that cannot be put on a key.
    #[error("{0}")]
    Refused(String),
    /// No such key.
    #[error("no key has the id `{0}`")]
    NoSuchKey(KeyId),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Pepper(#[from] PepperError),
    #[error(transparent)]
    Generate(#[from] GenerateError),
    #[error("no random bytes for a new key: {0}")]
    Random(getrandom::Error),
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    #[error("JSON: {0}")]
    Json(#[from] serde_json::Error),
}
