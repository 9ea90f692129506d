//! Simulated engines behind HTTP/1.1: listens, owns the connections and the engine's task, ends all of them. What is
//! answered is up to `routes`; when, to the engine model.

mod anthropic;
mod ask;
mod driver;
mod faults;
mod flow;
mod journal;
mod metrics;
mod openai;
mod responses;
mod routes;
mod socket;
mod sse;
mod text;

use super::engine::EngineLimits;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use routes::Site;
use socket::{Socket, Wire};
use socket2::{Domain, Protocol, Type};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinHandle, JoinSet};

pub use driver::INSTANT_SPEED;
pub use faults::{FAULT_HEADER, FAULTS_HELP};

/// Connections that one engine serves at once; more wait to be accepted.
const MAX_CONNECTIONS: usize = 16_384;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4_096;
/// Pause after a failed `accept`, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one simulated engine is.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// The model that it serves; requests for another one get 404.
    pub model: String,
    /// The engine model's limits.
    pub limits: EngineLimits,
    /// Virtual seconds per second; from [`INSTANT_SPEED`] on nothing is waited for.
    pub speed: f64,
}

/// Starts simulated engines.
#[derive(Clone, Copy, Debug)]
pub struct Server;

impl Server {
    /// Starts an engine on `bind` (port 0: a free one) within the current tokio runtime.
    ///
    /// # Errors
    /// If there is no runtime, the speed is not a positive number, or the address cannot be bound.
    pub fn start(settings: EngineSettings, bind: SocketAddr) -> io::Result<Running> {
        let runtime = tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        if !(settings.speed > 0.0 && settings.speed.is_finite()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the speed must be a number above 0"));
        }
        let listener = listen(bind)?;
        let addr = listener.local_addr()?;
        let meters = Arc::default();
        let (desk, engine) = driver::open(settings.limits, settings.speed, Arc::clone(&meters));
        let site = Arc::new(Site {
            name: addr.to_string(),
            model: settings.model,
            started: routes::unix_now(),
            desk,
            meters,
            journal: Arc::default(),
            standing: faults::Standing::default(),
        });
        let task = runtime.spawn(async move {
            let mut tasks = JoinSet::new();
            tasks.spawn(engine);
            accept(listener, site, &mut tasks).await;
        });
        Ok(Running { addr, task })
    }
}

fn listen(bind: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(bind), Type::STREAM, Some(Protocol::TCP))?;
    // So that an engine can come back on the port where one was stopped.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&bind.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A running engine. Dropping it stops it.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Running {
    /// `http://ADDRESS`, as a backend's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Something that stops the engine from elsewhere.
    #[must_use]
    pub fn stop_handle(&self) -> AbortHandle {
        self.task.abort_handle()
    }

    /// Stops the engine as if killed: when this returns the listener is closed, and the
    /// connections are being closed.
    pub async fn stop(mut self) {
        self.task.abort();
        // The only outcome besides success is the cancellation that was just asked for.
        drop((&mut self.task).await);
    }

    /// Waits until it has been stopped through its handle.
    pub async fn stopped(mut self) {
        drop((&mut self.task).await);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, site: Arc<Site>, tasks: &mut JoinSet<()>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Ended tasks would pile up in the set.
        while tasks.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let site = Arc::clone(&site);
        tasks.spawn(async move {
            connection(stream, site).await;
            drop(permit);
        });
    }
}

async fn connection(stream: TcpStream, site: Arc<Site>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "the connection was gone before it was served");
        return;
    }
    let wire = Arc::new(Wire::default());
    let io = TokioIo::new(Socket::new(stream, Arc::clone(&wire)));
    let service = service_fn(move |request| routes::serve(Arc::clone(&site), Arc::clone(&wire), request));
    let served = http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service).await;
    if let Err(error) = served {
        // Clients that leave and faults that were asked for end here: nothing out of the ordinary.
        tracing::debug!(%error, "a connection ended early");
    }
}
