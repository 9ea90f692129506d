//! Units. A number that crosses a function boundary carries its unit in its type.

use std::ops::{Add, AddAssign, Sub};

macro_rules! unit_type {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $of);

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 = self.0.saturating_add(other.0);
            }
        }

        impl Sub for $name {
            type Output = Self;
            /// Saturates: none of these units is meant to wrap.
            fn sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
    };
}

unit_type!(
    /// A count of model tokens.
    Tokens(u64)
);
unit_type!(
    /// Money: 10^-9 US dollars. 64 signed bits hold 9.2 billion dollars.
    NanoUsd(i64)
);
unit_type!(
    /// A span, or a point on the process's monotonic clock, in microseconds.
    Micros(u64)
);
unit_type!(
    /// A point on the wall clock: microseconds since 1970 UTC.
    WallMicros(i64)
);

/// Bytes of text that stand for one token where nothing better is known (semantics.md §3).
const BYTES_PER_TOKEN: u64 = 4;

impl Tokens {
    /// The tokens that so many bytes of text come to, rounded up.
    #[must_use]
    pub fn of_bytes(bytes: u64) -> Self {
        Self(bytes.div_ceil(BYTES_PER_TOKEN))
    }
}

impl Micros {
    /// Whole milliseconds, rounded down.
    #[must_use]
    pub fn millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The span in seconds.
    #[must_use]
    pub fn secs(self) -> f64 {
        self.0 as f64 / 1e6
    }
}

impl From<std::time::Duration> for Micros {
    fn from(span: std::time::Duration) -> Self {
        Self(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
    }
}
