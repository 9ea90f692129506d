//! The signature algorithms that an issuer may be configured to use. Decides nothing about keys.

/// A signature algorithm that an issuer may use.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "the names of RFC 7518 and RFC 8037")]
pub enum JwtAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
    HS256,
    HS384,
    HS512,
}

impl JwtAlgorithm {
    /// Every one, by name.
    pub const ALL: [(&'static str, Self); 12] = [
        ("RS256", Self::RS256),
        ("RS384", Self::RS384),
        ("RS512", Self::RS512),
        ("PS256", Self::PS256),
        ("PS384", Self::PS384),
        ("PS512", Self::PS512),
        ("ES256", Self::ES256),
        ("ES384", Self::ES384),
        ("EdDSA", Self::EdDSA),
        ("HS256", Self::HS256),
        ("HS384", Self::HS384),
        ("HS512", Self::HS512),
    ];

    /// The name in a token's header.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(name, _)| name)
    }

    /// True for HMAC, whose key is a shared secret.
    #[must_use]
    pub fn symmetric(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    /// The algorithm of a name; `none` is not one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(one, _)| *one == name).map(|(_, algorithm)| *algorithm)
    }

    /// The same for the library that computes it.
    pub(super) fn primitive(self) -> jsonwebtoken::Algorithm {
        use jsonwebtoken::Algorithm as Primitive;
        match self {
            Self::RS256 => Primitive::RS256,
            Self::RS384 => Primitive::RS384,
            Self::RS512 => Primitive::RS512,
            Self::PS256 => Primitive::PS256,
            Self::PS384 => Primitive::PS384,
            Self::PS512 => Primitive::PS512,
            Self::ES256 => Primitive::ES256,
            Self::ES384 => Primitive::ES384,
            Self::EdDSA => Primitive::EdDSA,
            Self::HS256 => Primitive::HS256,
            Self::HS384 => Primitive::HS384,
            Self::HS512 => Primitive::HS512,
        }
    }
}
