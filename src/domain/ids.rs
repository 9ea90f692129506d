//! Identifiers. Each is its own type, so that a tenant cannot be passed where a key is meant.

use std::fmt;
use std::sync::Arc;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps a name; the caller has checked its form.
            #[must_use]
            pub fn new(name: &str) -> Self {
                Self(Arc::from(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl From<&str> for $name {
            fn from(name: &str) -> Self {
                Self::new(name)
            }
        }
    };
}

name_type!(
    /// Who pays.
    TenantId
);
name_type!(
    /// A team within a tenant.
    TeamId
);
name_type!(
    /// A person or service within a tenant.
    UserId
);
name_type!(
    /// The public part of an API key: 12 letters of base 62.
    KeyId
);
name_type!(
    /// A route of the configuration.
    RouteId
);
name_type!(
    /// A pool of the configuration.
    PoolId
);
name_type!(
    /// One engine replica; unique in the configuration.
    BackendId
);
name_type!(
    /// A named set of limits.
    PlanId
);
name_type!(
    /// A named set of permissions.
    RoleId
);

/// One client request: a UUIDv7, the value of `x-request-id` and the primary key of its usage record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub uuid::Uuid);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}
