//! A service on a free port that answers as it is told, and remembers what it was asked.

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use tokio::task::JoinHandle;
use url::Url;

/// One question.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }
}

pub type Reply = Response<Full<Bytes>>;

/// A reply without further headers.
pub fn reply(status: u16, body: &str) -> Reply {
    Response::builder().status(status).body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).expect("a reply")
}

/// Runs until it is dropped.
pub struct Service {
    pub url: Url,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Service {
    pub async fn start<F, R>(answer: F) -> Self
    where
        F: Fn(Asked) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Reply> + Send + 'static,
    {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (answer, seen) = (answer.clone(), Arc::clone(&seen));
                let serve = service_fn(move |request: http::Request<Incoming>| {
                    let (answer, seen) = (answer.clone(), Arc::clone(&seen));
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.expect("a body").to_bytes();
                        let one = Asked {
                            method: head.method.to_string(),
                            target: head.uri.to_string(),
                            headers: head.headers,
                            body: String::from_utf8(body.to_vec()).expect("UTF-8"),
                        };
                        seen.lock().push(one.clone());
                        Ok::<_, Infallible>(answer(one).await)
                    }
                });
                // A client may leave when it likes.
                tokio::spawn(async move {
                    let _ =
                        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), serve).await;
                });
            }
        });
        let url = Url::parse(&format!("http://{address}/check")).expect("a URL");
        Self { url, asked, task }
    }

    /// One that always says the same.
    pub async fn saying(status: u16, body: &'static str) -> Self {
        Self::start(move |_| async move { reply(status, body) }).await
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address where nobody listens.
pub fn nowhere() -> Url {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    Url::parse(&format!("http://{}/", listener.local_addr().expect("an address"))).expect("a URL")
}
