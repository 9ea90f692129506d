//! Asks one backend for `GET /v1/models`.

use super::request;
use crate::config::snapshot::{Backend, Pool};
use pingora_core::connectors::http::Connector;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, OrErr, Result};
use std::time::Duration;

/// Most bytes of a model list.
const LIST_BYTES: usize = 1 << 20;
/// Most names that are kept of one list.
const LIST_NAMES: usize = 1000;
/// How long the whole question may take.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(serde::Deserialize)]
struct List {
    data: Vec<Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    id: String,
}

/// A connector for these questions.
pub(super) fn connector() -> Connector<()> {
    Connector::new(None)
}

/// The names that a backend serves.
///
/// # Errors
/// No answer in time, or one that is no model list.
pub(super) async fn ask(connector: &Connector<()>, backend: &Backend, pool: &Pool) -> Result<Vec<String>> {
    match tokio::time::timeout(PATIENCE, question(connector, backend, pool)).await {
        Ok(answer) => answer,
        Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the model list took too long"),
    }
}

async fn question(connector: &Connector<()>, backend: &Backend, pool: &Pool) -> Result<Vec<String>> {
    let mut peer = HttpPeer::new(backend.addr, backend.tls, backend.host.clone());
    peer.options.connection_timeout = Some(pool.timeouts.connect);
    let (mut session, _) = connector.get_http_session(&peer).await?;
    session.write_request_header(Box::new(request(backend, "/v1/models", pool)?)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map_or(0, |head| head.status.as_u16());
    let mut body = Vec::new();
    while let Some(piece) = session.read_response_body().await? {
        if body.len() + piece.len() > LIST_BYTES {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "the model list is too long");
        }
        body.extend_from_slice(&piece);
    }
    if status != 200 {
        return Error::e_explain(ErrorType::CustomCode("status", status), "the model list was refused");
    }
    let list: List = serde_json::from_slice(&body).or_err(ErrorType::InvalidHTTPHeader, "not a model list")?;
    Ok(list.data.into_iter().map(|entry| entry.id).take(LIST_NAMES).collect())
}
