//! A client certificate as identity: SPIFFE id or subject, mapped by the operator's expressions. That its chain holds
//! was the listener's matter; here is decided whom it stands for, and whether its time is over.

use super::complaints::Complaints;
use crate::config::snapshot::ClientCertAuth;
use crate::domain::principal::{AuthMethod, Principal, Profile};
use crate::domain::units::WallMicros;
use crate::logic::access::certificate::{ClientCertificate, SpiffeError, document};
use crate::logic::access::claims::{self, MappingError, Statement};
use crate::logic::access::expression::Variables;
use crate::ports::{AuthRequest, Authenticate, Rejection, Verdict};
use async_trait::async_trait;
use quick_cache::sync::Cache;
use std::sync::Arc;

/// Profiles that are kept, so that expressions run once for a certificate and not for each request: some megabytes.
const KEPT: usize = 4096;

/// One `auth.NAME.client_cert`.
pub struct ClientCert {
    name: String,
    settings: ClientCertAuth,
    /// By fingerprint. A profile depends on the certificate alone, so it never ages.
    profiles: Cache<String, Arc<Profile>>,
    refusals: Complaints,
}

/// Why a certificate proves nobody.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
enum Refused {
    #[error("its time is over")]
    Expired,
    #[error(transparent)]
    Spiffe(#[from] SpiffeError),
    #[error("it is of no trust domain that is accepted")]
    TrustDomain,
    #[error(transparent)]
    Mapping(#[from] MappingError),
}

impl ClientCert {
    /// Over the certificates that listeners have verified.
    #[must_use]
    pub fn new(name: &str, settings: ClientCertAuth) -> Self {
        Self { name: name.to_owned(), settings, profiles: Cache::new(KEPT), refusals: Complaints::default() }
    }

    fn identify(&self, certificate: &ClientCertificate, now: WallMicros) -> Result<Arc<Profile>, Refused> {
        if certificate.not_after < now {
            return Err(Refused::Expired);
        }
        if let Some(known) = self.profiles.get(&certificate.fingerprint) {
            return Ok(known);
        }
        let profile = Arc::new(profile(&self.settings, certificate)?);
        self.profiles.insert(certificate.fingerprint.clone(), Arc::clone(&profile));
        Ok(profile)
    }
}

/// What the settings make of a certificate.
fn profile(settings: &ClientCertAuth, certificate: &ClientCertificate) -> Result<Profile, Refused> {
    let spiffe = certificate.spiffe()?;
    let accepted = |domain: &String| spiffe.as_ref().is_some_and(|id| id.trust_domain == *domain);
    if !settings.trust_domains.is_empty() && !settings.trust_domains.iter().any(accepted) {
        return Err(Refused::TrustDomain);
    }
    let shown = Arc::new(document(certificate, spiffe.as_ref()));
    let variables = Variables::new().with("cert", Arc::clone(&shown));
    let id = spiffe.map(|id| id.to_string());
    let subject = id.as_deref().or(Some(certificate.subject.as_str()).filter(|subject| !subject.is_empty()));
    let statement = Statement { variables: &variables, subject, claims: Some(&shown) };
    Ok(claims::profile(&settings.mapping, statement)?)
}

#[async_trait]
impl Authenticate for ClientCert {
    fn look(&self, request: &AuthRequest<'_>) -> Verdict {
        let Some(certificate) = request.certificate else { return Verdict::NotMine };
        match self.identify(certificate, request.now) {
            Ok(profile) => Verdict::Known(Principal::of(profile, AuthMethod::ClientCert)),
            Err(why) => {
                if self.refusals.due(request.now) {
                    let (authenticator, fingerprint) = (&self.name, &certificate.fingerprint);
                    tracing::info!(authenticator, fingerprint, %why, "A client certificate proves nobody.");
                }
                Verdict::Rejected(Rejection::BadToken)
            }
        }
    }

    async fn ask(&self, request: &AuthRequest<'_>) -> Verdict {
        self.look(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{TenantId, UserId};
    use crate::logic::access::claims::ClaimMapping;
    use crate::logic::access::expression::Expression;
    use std::net::{IpAddr, Ipv4Addr};

    const NOW: WallMicros = WallMicros(1_000);

    fn settings(tenant: Option<&str>, domains: &[&str]) -> ClientCertAuth {
        let compiled = |text| Expression::compile(text, &["cert"]).expect("an expression");
        let mapping = ClaimMapping { tenant: tenant.map(compiled), ..ClaimMapping::default() };
        ClientCertAuth { mapping, trust_domains: domains.iter().map(ToString::to_string).collect() }
    }

    fn certificate(uris: &[&str]) -> ClientCertificate {
        ClientCertificate {
            subject: "CN=ann".into(),
            uris: uris.iter().map(ToString::to_string).collect(),
            fingerprint: uris.join(" "),
            not_after: NOW,
            ..ClientCertificate::default()
        }
    }

    fn look(authenticator: &ClientCert, certificate: Option<&ClientCertificate>, now: WallMicros) -> Verdict {
        authenticator.look(&AuthRequest {
            credential: None,
            certificate,
            method: "POST",
            target: "/",
            host: None,
            headers: &http::HeaderMap::new(),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            now,
        })
    }

    /// Tenant and user, where somebody is known.
    fn known(settings: ClientCertAuth, uris: &[&str]) -> Option<(TenantId, Option<UserId>)> {
        match look(&ClientCert::new("mesh", settings), Some(&certificate(uris)), NOW) {
            Verdict::Known(principal) => {
                assert_eq!(principal.method, AuthMethod::ClientCert, "method");
                Some((principal.profile.tenant.clone(), principal.profile.user.clone()))
            }
            Verdict::Rejected(Rejection::BadToken) => None,
            other => panic!("neither known nor refused: {other:?}"),
        }
    }

    #[test]
    fn no_certificate_is_no_matter_of_this_authenticator() {
        let authenticator = ClientCert::new("mesh", settings(None, &[]));
        assert!(matches!(look(&authenticator, None, NOW), Verdict::NotMine));
    }

    #[test]
    fn the_mapping_sees_the_spiffe_path_and_the_user_is_the_id() {
        let known = known(settings(Some("cert.spiffe.path[0]"), &["example.org"]), &["spiffe://example.org/acme/web"]);
        let user = UserId::new("spiffe://example.org/acme/web");
        assert_eq!(known, Some((TenantId::new("acme"), Some(user))));
    }

    #[test]
    fn without_a_spiffe_id_the_user_is_the_subject() {
        assert_eq!(known(settings(None, &[]), &[]), Some((TenantId::new("default"), Some(UserId::new("CN=ann")))));
    }

    #[test]
    fn only_accepted_trust_domains_come_in_where_some_are_named() {
        let named = || settings(None, &["example.org", "other.org"]);
        assert!(known(named(), &["spiffe://other.org/a"]).is_some(), "one of them");
        assert!(known(named(), &["spiffe://example.org.evil/a"]).is_none(), "another");
        assert!(known(named(), &[]).is_none(), "no SPIFFE id");
        assert!(known(settings(None, &[]), &["spiffe://any.org/a"]).is_some(), "none is named");
    }

    #[test]
    fn a_spiffe_id_that_does_not_hold_proves_nobody() {
        for uris in [&["spiffe://example.org/a", "spiffe://example.org/b"][..], &["spiffe://example.org"]] {
            assert!(known(settings(None, &[]), uris).is_none(), "{uris:?}");
        }
    }

    #[test]
    fn a_mapping_that_fails_refuses() {
        let of = |tenant| known(settings(Some(tenant), &[]), &["spiffe://example.org/acme"]);
        for tenant in ["cert.spiffe.path[7]", "cert.nothing", "cert.dns", "cert.spiffe.path.size()"] {
            assert!(of(tenant).is_none(), "{tenant}");
        }
    }

    #[test]
    fn a_certificate_that_ends_on_an_open_connection_is_refused_from_then_on() {
        let authenticator = ClientCert::new("mesh", settings(None, &[]));
        let certificate = certificate(&["spiffe://example.org/a"]);
        assert!(matches!(look(&authenticator, Some(&certificate), NOW), Verdict::Known(_)), "at its end");
        let after = look(&authenticator, Some(&certificate), WallMicros(NOW.0 + 1));
        assert!(matches!(after, Verdict::Rejected(Rejection::BadToken)), "after it: {after:?}");
    }
}
