//! The way from a head to an admitted request, as one function per step: stages 1 to 5 in order, each refusal
//! answered and logged once.

use super::context::{Context, Phase};
use super::respond::Document;
use super::{body, respond, tls};
use crate::admin::me;
use crate::config::snapshot::{Action, Listener, Route};
use crate::domain::call::Call;
use crate::domain::ids::RequestId;
use crate::domain::principal::Principal;
use crate::domain::refusal::Refusal;
use crate::domain::surface::Surface;
use crate::domain::units::Micros;
use crate::exchange::{Claim, Exchange};
use crate::runtime::{Runtime, Share};
use crate::stages::accept::{self, Accepted, Facts, Head};
use crate::stages::authenticate::{self, Arrival, Caller};
use crate::stages::body::Destination;
use crate::stages::debit;
use crate::stages::{body as understanding, check, settle};
use pingora_core::Result;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_proxy::Session;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What admission came to.
enum Outcome {
    /// Goes upstream.
    Forward(Arc<Exchange>),
    /// Weir has the answer itself, for this caller.
    Document(Principal, Document),
}

/// A refusal, with the caller if they had proved who they are.
type Denied = (Option<Principal>, Refusal);

/// Takes a request through admission. `Ok(true)`: it was answered here.
///
/// # Errors
/// The client's side failed while it was answered.
pub async fn admit(session: &mut Session, context: &mut Context, listener: &Listener) -> Result<bool> {
    let runtime = Arc::clone(&context.runtime);
    let id = RequestId(uuid::Uuid::now_v7());
    let facts = with_head(session, |head| accept::facts(head, &runtime, listener, id));
    context.phase = Phase::Known(Box::new(facts.clone()));
    match run(session, &runtime, &facts, listener).await {
        Ok(Outcome::Forward(exchange)) => {
            context.phase = Phase::Admitted(exchange);
            Ok(false)
        }
        Ok(Outcome::Document(caller, document)) => {
            settle::answered(&runtime, &facts, &caller, (document.status, document.text.len()));
            context.phase = Phase::Closed(Box::new(facts.clone()));
            let standings = debit::standings(&runtime, &caller, &facts);
            let caller = respond::Caller { standings: &standings, deprecated_until: caller.deprecated_until };
            respond::document(session, &runtime, &facts, document, caller).await?;
            Ok(true)
        }
        Err((principal, refusal)) => {
            context.refuse(principal.as_ref(), &refusal);
            if refusal != Refusal::ClientClosed {
                let standings = principal.as_ref().map(|caller| debit::standings(&runtime, caller, &facts));
                let standings = standings.unwrap_or_default();
                let deprecated_until = principal.and_then(|caller| caller.deprecated_until);
                let caller = respond::Caller { standings: &standings, deprecated_until };
                respond::refuse(session, &runtime, &facts, &refusal, caller).await?;
                body::linger(session).await;
            }
            Ok(true)
        }
    }
}

async fn run(
    session: &mut Session,
    runtime: &Arc<Runtime>,
    facts: &Facts,
    listener: &Listener,
) -> std::result::Result<Outcome, Denied> {
    let started = runtime.services.clock.mono();
    let accepted = with_head(session, |head| accept::accept(head, runtime, listener)).map_err(|why| (None, why))?;
    let mut caller = identify(session, runtime, facts, &accepted).await.map_err(|why| (None, why))?;
    let spent = runtime.services.clock.mono() - started;
    runtime.services.observer.overhead("auth", spent);
    let principal = caller.principal.clone();
    let known = |refusal: Refusal| (Some(principal.clone()), refusal);
    check::head(runtime, &principal, facts).map_err(known)?;
    if matches!(facts.surface, Surface::Models | Surface::Me) {
        permit(runtime, facts, &mut caller, None).map_err(known)?;
        if caller.candidates.is_empty() {
            return Err(known(Refusal::RouteNotFound));
        }
        let text = if facts.surface == Surface::Me {
            me::answer(runtime, &principal, facts).await.map_err(known)?
        } else {
            check::models(runtime, &principal, &facts.path).map_err(known)?
        };
        return Ok(Outcome::Document(principal, Document { status: 200, content_type: "application/json", text }));
    }
    let claim = if facts.surface.is_llm() {
        check::head_rules(runtime, &caller, facts).map_err(known)?;
        llm_claim(session, runtime, facts, (&accepted, caller, listener, spent)).await
    } else {
        http_claim(runtime, facts, (caller, spent))
    };
    match claim.map_err(known)? {
        Next::Claim(claim) => debit::debit(runtime, *claim).await.map(Outcome::Forward).map_err(known),
        Next::Respond(route) => match &route.action {
            Action::Respond { status, body } => {
                let document = Document { status: *status, content_type: "text/plain", text: body.clone() };
                Ok(Outcome::Document(principal, document))
            }
            Action::Pools(_) => Err(known(Refusal::Internal)),
        },
    }
}

/// Stage 2 over the session's head.
async fn identify(
    session: &Session,
    runtime: &Runtime,
    facts: &Facts,
    accepted: &Accepted,
) -> std::result::Result<Caller, Refusal> {
    let request = session.req_header();
    let target = request.uri.path_and_query().map_or(facts.path.as_str(), http::uri::PathAndQuery::as_str);
    let arrival = Arrival {
        method: &facts.method,
        target,
        host: host(request),
        headers: &request.headers,
        client: facts.client,
        certificate: tls::certificate(session),
    };
    authenticate::authenticate(runtime, accepted, &arrival).await
}

/// What stages 3 and 4 lead to.
enum Next {
    Claim(Box<Claim>),
    Respond(Arc<Route>),
}

/// Stages 3 and 4 of a model call: read the body, understand it, find the route, check the model.
async fn llm_claim(
    session: &mut Session,
    runtime: &Arc<Runtime>,
    facts: &Facts,
    (accepted, mut caller, listener, spent): (&Accepted, Caller, &Listener, Micros),
) -> std::result::Result<Next, Refusal> {
    let expected = body::Expected { length: accepted.length, limit: listener.body_bytes };
    let buffered = body::read(session, &expected, &runtime.bodies).await?;
    let started = runtime.services.clock.mono();
    let call = understanding::understand(facts.surface, buffered.bytes)?;
    if call.stream && session.req_header().version == http::Version::HTTP_10 {
        return Err(Refusal::MalformedRequest {
            status: 505,
            detail: "a stream needs HTTP/1.1: HTTP/1.0 has no chunks",
        });
    }
    check::model(runtime, &caller.principal, &call.model)?;
    permit(runtime, facts, &mut caller, Some(&call))?;
    let destination = understanding::route_call(runtime, &caller, facts.surface, &call.model, fastrand::u64(..))?;
    let spent = spent + (runtime.services.clock.mono() - started);
    Ok(next(destination, facts, caller, Some((call, buffered.share)), spent))
}

/// Plain HTTP: no body is read, no model is asked for.
fn http_claim(
    runtime: &Arc<Runtime>,
    facts: &Facts,
    (mut caller, spent): (Caller, Micros),
) -> std::result::Result<Next, Refusal> {
    permit(runtime, facts, &mut caller, None)?;
    let destination = understanding::route_http(runtime, &caller, fastrand::u64(..))?;
    Ok(next(destination, facts, caller, None, spent))
}

/// What is conditional, once everything is known that conditions may look at: the rules, and the routes that remain.
fn permit(
    runtime: &Runtime,
    facts: &Facts,
    caller: &mut Caller,
    call: Option<&Call>,
) -> std::result::Result<(), Refusal> {
    let variables = check::conditions(runtime, caller, facts, call);
    check::rules(runtime, &caller.principal, variables.as_ref())?;
    understanding::keep_matching(caller, variables.as_ref());
    Ok(())
}

/// What a destination means for a request: a claim on its pool, or the route's own answer.
fn next(destination: Destination, facts: &Facts, caller: Caller, call: Option<(Call, Share)>, spent: Micros) -> Next {
    let (route, pool) = match destination {
        Destination::Respond(route) => return Next::Respond(route),
        Destination::Pool(route, pool) => (route, pool),
    };
    let (call, share) = call.unzip();
    let (facts, principal) = (facts.clone(), caller.principal);
    Next::Claim(Box::new(Claim { facts, principal, route, pool, call, share, spent }))
}

/// Runs a function over the head, whatever protocol it came by.
fn with_head<T>(session: &Session, see: impl FnOnce(&Head<'_>) -> T) -> T {
    let request = session.req_header();
    see(&Head {
        method: request.method.as_str(),
        path: request.uri.path(),
        query: request.uri.query(),
        host: host(request),
        headers: &request.headers,
        peer: peer_address(session),
    })
}

/// What the request is addressed to: over HTTP/2 `:authority`, which is in the URI and in no field.
fn host(request: &http::request::Parts) -> Option<&str> {
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| request.headers.get("host").and_then(|value| value.to_str().ok()))
}

fn peer_address(session: &Session) -> IpAddr {
    match session.client_addr() {
        Some(SocketAddr::Inet(address)) => address.ip().to_canonical(),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_found_in_both_protocols() {
        let head = |request: http::request::Builder| request.body(()).expect("a request").into_parts().0;
        let second = head(http::Request::builder().uri("https://api.example.com/v1/x"));
        assert_eq!(host(&second), Some("api.example.com"), "HTTP/2: `:authority`");
        let first = head(http::Request::builder().uri("/v1/x").header("host", "api.example.com"));
        assert_eq!(host(&first), Some("api.example.com"), "HTTP/1.1: `Host`");
    }
}
