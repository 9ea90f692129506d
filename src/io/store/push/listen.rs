//! Hearing that the store has changed, from Postgres or Redis, on a thread of its own. Decides when to connect again;
//! wakes once after each connection, for what may have been missed.

use super::super::error::StoreError;
use super::super::follow::CHANNEL;
use super::super::sql::postgres::{self, Address, Wire};
use super::{REDIS_CHANNEL, redis_client};
use crate::config::snapshot::{Push, Store as Settings, StoreTarget};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;

/// Between two tries to connect: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// How often a thread that waits for Redis looks whether it should end.
const REDIS_LOOK: Duration = Duration::from_millis(200);
/// How long Redis may take to connect, and to answer.
const REDIS_CONNECT: Duration = Duration::from_secs(2);
/// How often a quiet connection is tried: a peer that vanished says nothing.
const ALIVE: Duration = Duration::from_secs(10);

/// Owns the thread that listens; dropping it ends the thread and waits for it (a fifth of a second, or for Redis to
/// connect).
#[must_use = "dropping it stops the listening"]
pub struct Listener {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Stop {
    asked: AtomicBool,
    notify: Notify,
}

/// Starts to listen where the settings say that changes are pushed. Each change sends one `()` into `wake`; one that
/// nobody has taken yet stands for all.
///
/// # Errors
/// Refused where a URL cannot be read; unavailable where the system gives no thread.
pub fn listen(settings: &Settings, wake: SyncSender<()>) -> Result<Listener, StoreError> {
    let stop = Arc::new(Stop::default());
    let source = match (&settings.push, &settings.target) {
        (Push::None, _) | (Push::Notify, StoreTarget::Sqlite(_)) => return Ok(Listener { stop, thread: None }),
        (Push::Notify, StoreTarget::Postgres(url)) => Source::Postgres(Address::parse(&url.0)?),
        (Push::Redis(url), _) => Source::Redis(redis_client(&url.0)?),
    };
    let asked = Arc::clone(&stop);
    let spawned = thread::Builder::new().name("weir-push".to_owned()).spawn(move || source.run(&asked, &wake));
    let thread = spawned.map_err(|error| StoreError::Postgres(format!("no thread to listen on: {error}")))?;
    Ok(Listener { stop, thread: Some(thread) })
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.asked.store(true, Ordering::Release);
        self.stop.notify.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that listens for changes had panicked");
        }
    }
}

enum Source {
    Postgres(Address),
    Redis(redis::Client),
}

impl Source {
    fn run(&self, stop: &Stop, wake: &SyncSender<()>) {
        match self {
            Self::Redis(client) => again(stop, |pause| hear_redis(client, stop, wake, pause)),
            Self::Postgres(address) => match postgres::runtime() {
                Err(error) => tracing::error!(%error, "changes are seen by the poll only"),
                Ok(runtime) => again(stop, |pause| {
                    runtime.block_on(async {
                        tokio::select! {
                            () = stop.notify.notified() => Ok(()),
                            done = hear_postgres(address, wake, pause) => done,
                        }
                    })
                }),
            },
        }
    }
}

/// Listens until it is asked to stop; after a failure again, a little later each time.
fn again(stop: &Stop, mut hear: impl FnMut(&mut Duration) -> Result<(), String>) {
    let mut pause = FIRST_PAUSE;
    let mut failing = false;
    while !stop.asked.load(Ordering::Acquire) {
        let before = pause;
        if let Err(fault) = hear(&mut pause) {
            // A connection that came about sets the pause back.
            failing &= pause == before;
            if !std::mem::replace(&mut failing, true) {
                tracing::warn!(fault, "no push of key changes; they are seen by the poll until it is back");
            }
            wait(stop, pause);
            pause = (2 * pause).min(LAST_PAUSE);
        }
    }
}

fn wait(stop: &Stop, pause: Duration) {
    let mut left = pause;
    while !left.is_zero() && !stop.asked.load(Ordering::Acquire) {
        let step = left.min(REDIS_LOOK);
        thread::sleep(step);
        left -= step;
    }
}

/// A wake that nobody has taken yet stands for this one too.
fn tell(wake: &SyncSender<()>) {
    let _full_or_gone = wake.try_send(());
}

fn hear_redis(client: &redis::Client, stop: &Stop, wake: &SyncSender<()>, pause: &mut Duration) -> Result<(), String> {
    // The kind of an error and no more: its text may repeat the address.
    let told = |error: redis::RedisError| format!("Redis: {:?}", error.kind());
    let mut connection = client.get_connection_with_timeout(REDIS_CONNECT).map_err(told)?;
    connection.set_write_timeout(Some(REDIS_CONNECT)).map_err(told)?;
    connection.set_read_timeout(Some(REDIS_CONNECT)).map_err(told)?;
    let mut channel = connection.as_pubsub();
    channel.subscribe(REDIS_CHANNEL).map_err(told)?;
    channel.set_read_timeout(Some(REDIS_LOOK)).map_err(told)?;
    *pause = FIRST_PAUSE;
    tell(wake);
    let mut heard = Instant::now();
    while !stop.asked.load(Ordering::Acquire) {
        match channel.get_message() {
            Ok(_changed) => tell(wake),
            Err(error) if error.is_timeout() && heard.elapsed() < ALIVE => continue,
            Err(error) if error.is_timeout() => {
                channel.set_read_timeout(Some(REDIS_CONNECT)).map_err(told)?;
                channel.ping::<redis::Value>().map_err(told)?;
                channel.set_read_timeout(Some(REDIS_LOOK)).map_err(told)?;
            }
            Err(error) => return Err(told(error)),
        }
        heard = Instant::now();
    }
    Ok(())
}

async fn hear_postgres(address: &Address, wake: &SyncSender<()>, pause: &mut Duration) -> Result<(), String> {
    let (client, mut wire) = address.connect().await.map_err(|error| error.to_string())?;
    let (heard, mut hears) = tokio::sync::mpsc::channel(1);
    let drive = async {
        while let Some(message) = next(&mut wire).await {
            if let AsyncMessage::Notification(_) = message.map_err(|error| postgres::told(&error))? {
                // Full: the one that waits stands for this one too.
                let _full = heard.try_send(());
            }
        }
        Err("Postgres has closed the connection".to_owned())
    };
    let listen = async {
        let told = |error: tokio_postgres::Error| postgres::told(&error);
        client.batch_execute(&format!("LISTEN {CHANNEL}")).await.map_err(told)?;
        *pause = FIRST_PAUSE;
        tell(wake);
        loop {
            match tokio::time::timeout(ALIVE, hears.recv()).await {
                Ok(_changed) => tell(wake),
                Err(_quiet) => {
                    let asked = tokio::time::timeout(ALIVE, client.check_connection()).await;
                    asked.map_err(|_| "Postgres does not answer".to_owned())?.map_err(told)?;
                }
            }
        }
    };
    tokio::select! {
        done = drive => done,
        done = listen => done,
    }
}

async fn next(wire: &mut Wire) -> Option<Result<AsyncMessage, tokio_postgres::Error>> {
    poll_fn(|context| wire.poll_message(context)).await
}
