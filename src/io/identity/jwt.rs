//! The authenticator for signed tokens of one issuer: token, key set and mapping to a principal. Decides what is told
//! about a token that is no good; whether it is, is decided in `logic::access::jwt`.

use super::Surroundings;
use super::cache::{self, TokenCache, TokenHash, Verified};
use super::complaints::Complaints;
use super::jwks::{KeySource, Loaded, Place};
use crate::config::snapshot::{ClaimMapping, JwtAuth, JwtKeys};
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::units::WallMicros;
use crate::logic::access::claims::{self, MappingError, Statement};
use crate::logic::access::expression::Variables;
use crate::logic::access::jwt::{self, BadToken, Claims, KeySet, Policy};
use crate::ports::{AuthRequest, Authenticate, Rejection, Verdict};
use async_trait::async_trait;
use serde_json::Value;
use std::sync::Arc;

/// Signed tokens of one issuer.
pub struct JwtAuthenticator {
    name: String,
    policy: Policy,
    mapping: ClaimMapping,
    keys: KeySource,
    verified: TokenCache,
    refusals: Complaints,
}

/// What became of one token.
enum Judged {
    Known(Principal),
    /// A key set that is newer might hold its key.
    UnknownKey,
    /// There is no key set, or none that is young enough.
    NoKeys,
    Refused,
}

impl JwtAuthenticator {
    /// Begins to fetch the issuer's keys and does not wait for them.
    #[must_use]
    pub fn start(name: &str, configured: &JwtAuth, around: &Surroundings) -> Self {
        let keys = match &configured.keys {
            JwtKeys::Secret(secret) => KeySource::fixed(KeySet::secret(&secret.0), Arc::clone(&around.clock)),
            JwtKeys::Jwks { url, refresh } => {
                let place = Place { issuer: configured.issuer.clone(), url: url.clone(), refresh: *refresh };
                KeySource::start(place, around.fetch.clone(), Arc::clone(&around.clock), &around.runtime)
            }
        };
        Self {
            name: name.to_owned(),
            policy: Policy {
                issuer: configured.issuer.clone(),
                audiences: configured.audiences.clone(),
                algorithms: configured.algorithms.clone(),
                leeway: configured.leeway,
            },
            mapping: configured.mapping.clone(),
            keys,
            verified: TokenCache::new(),
            refusals: Complaints::default(),
        }
    }

    fn judge(&self, token: &[u8], now: WallMicros) -> Judged {
        let keys = self.keys.current(now);
        let hash = cache::hash(token);
        let known = keys.as_ref().and_then(|keys| self.verified.get(&hash, now, keys.generation));
        if let Some(principal) = known {
            return Judged::Known(principal);
        }
        let read = match jwt::read(token, &self.policy, now) {
            Ok(read) => read,
            Err(why) => return self.refuse(&why, now),
        };
        let Some(keys) = keys else { return Judged::NoKeys };
        match read.verify(&keys.keys) {
            Ok(claims) => self.admit((hash, token.len()), claims, &keys, now),
            Err(BadToken::UnknownKey) => Judged::UnknownKey,
            Err(why) => self.refuse(&why, now),
        }
    }

    fn admit(&self, (hash, length): (TokenHash, usize), mut claims: Claims, keys: &Loaded, now: WallMicros) -> Judged {
        let members = Arc::new(Value::Object(std::mem::take(&mut claims.members)));
        match self.profile(&claims.subject, members) {
            Ok(profile) => {
                let principal = Principal::of(Arc::new(profile), AuthMethod::Jwt);
                let Claims { from, until, .. } = claims;
                let verified = Verified { principal: principal.clone(), from, until, generation: keys.generation };
                self.verified.put(hash, length, verified);
                Judged::Known(principal)
            }
            Err(why) => self.refuse(&why, now),
        }
    }

    fn profile(&self, subject: &str, members: Arc<Value>) -> Result<Profile, MappingError> {
        let variables = Variables::new().with("claims", Arc::clone(&members));
        let said = Statement { variables: &variables, subject: Some(subject), claims: Some(&members) };
        claims::profile(&self.mapping, said)
    }

    /// Callers hear nothing of the reason. Another issuer's token is none of ours to complain about.
    fn refuse(&self, why: &(dyn std::error::Error + 'static), now: WallMicros) -> Judged {
        let foreign = matches!(why.downcast_ref(), Some(BadToken::ForeignIssuer));
        if !foreign && self.refusals.due(now) {
            tracing::info!(authenticator = %self.name, %why, "A token was refused; others within 10 s are not told.");
        }
        Judged::Refused
    }

    fn verdict(&self, judged: Judged, now: WallMicros) -> Verdict {
        match judged {
            Judged::Known(principal) => Verdict::Known(principal),
            Judged::Refused => Verdict::Rejected(Rejection::BadToken),
            Judged::NoKeys => Verdict::Rejected(Rejection::Unavailable("jwks")),
            Judged::UnknownKey => {
                self.refuse(&BadToken::UnknownKey, now);
                Verdict::Rejected(Rejection::BadToken)
            }
        }
    }
}

#[async_trait]
impl Authenticate for JwtAuthenticator {
    fn look(&self, request: &AuthRequest<'_>) -> Verdict {
        let Some(token) = request.credential.filter(|token| jwt::looks_like_one(token)) else {
            return Verdict::NotMine;
        };
        match self.judge(token, request.now) {
            Judged::UnknownKey | Judged::NoKeys if self.keys.may_have_newer() => Verdict::Ask,
            judged => self.verdict(judged, request.now),
        }
    }

    async fn ask(&self, request: &AuthRequest<'_>) -> Verdict {
        let Some(token) = request.credential else { return Verdict::NotMine };
        self.keys.newer().await;
        self.verdict(self.judge(token, request.now), request.now)
    }
}

#[cfg(test)]
mod tests;
