//! Makes connections to Redis: to one server, to the master that sentinels name, or to a cluster. Decides how long that
//! may take and what a URL means; not when it is done.

use super::trouble::Trouble;
use crate::config::snapshot::{RedisServers, Secret};
use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsMode, Value};
use std::time::Duration;

/// How long one server may take to connect, TLS and login included. A store of limits is near, or of no use.
const CONNECT: Duration = Duration::from_millis(500);
/// The same where others must be asked first: sentinels for the master, nodes for the slots.
const CONNECT_BY_OTHERS: Duration = Duration::from_secs(2);
/// Commands under way on one connection; more wait, and that counts as their own time.
const IN_FLIGHT: usize = 1024;
/// How often a command follows slots that have moved, or tries another connection to a node; all within its time.
const RETRIES: u32 = 4;
/// Between such tries, in milliseconds: at least and at most.
const RETRY_WAIT: (u64, u64) = (1, 3);

/// Why the configured servers cannot be used at all. Does not repeat a URL.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("limits.backend.redis: {0}")]
pub struct Unusable(String);

/// A connection, shared by all who clone it.
#[derive(Clone)]
pub enum Wire {
    /// To one server.
    One(MultiplexedConnection),
    /// To all nodes.
    Cluster(ClusterConnection),
}

impl Wire {
    /// Sends a command and waits for the answer, for ever if need be: the caller has the clock.
    ///
    /// # Errors
    /// As the client library says.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, redis::RedisError> {
        match self.clone() {
            Self::One(mut connection) => command.query_async(&mut connection).await,
            Self::Cluster(mut connection) => command.query_async(&mut connection).await,
        }
    }
}

/// Knows where to connect to.
pub struct Dialer {
    way: Way,
    /// Hosts and ports, for the log.
    place: String,
}

enum Way {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
    Sentinel(Box<Sentinels>),
}

/// Sentinels, and how to speak to them.
struct Sentinels {
    nodes: Vec<ConnectionInfo>,
    master: String,
    /// Sentinels often have no password where the servers have one: then the other way is tried.
    login: bool,
    client: SentinelClient,
    /// Where the master was when it was connected to.
    current: Option<ConnectionAddr>,
}

impl Dialer {
    /// Reads the URLs; connects to nobody.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn new(servers: &RedisServers, timeout: Duration) -> Result<Self, Unusable> {
        let (way, nodes) = match servers {
            RedisServers::Single(url) => {
                let node = node(url, "url")?;
                (Way::One(Box::new(Client::open(node.clone()).map_err(unusable)?)), vec![node])
            }
            RedisServers::Cluster(urls) => {
                let nodes = nodes(urls, "cluster")?;
                (Way::Cluster(Box::new(cluster(&nodes, timeout)?)), nodes)
            }
            RedisServers::Sentinel { sentinels, master } => {
                let nodes = nodes(sentinels, "sentinel.sentinels")?;
                let client = sentinel_client(&nodes, master, true)?;
                let (master, shown) = (master.clone(), nodes.clone());
                let sentinels = Sentinels { nodes, master, login: true, client, current: None };
                (Way::Sentinel(Box::new(sentinels)), shown)
            }
        };
        let place = nodes.iter().map(|node| node.addr().to_string()).collect::<Vec<_>>().join(",");
        Ok(Self { way, place })
    }

    /// Hosts and ports, for the log.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Connects anew, in bounded time.
    ///
    /// # Errors
    /// [`Trouble`].
    pub async fn connect(&mut self) -> Result<Wire, Trouble> {
        let limit = match self.way {
            Way::One(_) => CONNECT,
            Way::Cluster(_) | Way::Sentinel(_) => CONNECT_BY_OTHERS,
        };
        let attempt = async {
            match &mut self.way {
                Way::One(client) => connect_one(client).await.map(Wire::One),
                Way::Cluster(client) => client.get_async_connection().await.map(Wire::Cluster),
                Way::Sentinel(sentinels) => sentinels.connect().await.map(Wire::One),
            }
        };
        let done = tokio::time::timeout(limit, attempt).await.map_err(|_late| Trouble::Timeout)?;
        let trouble = done.map_err(|error| Trouble::of_connecting(&error));
        if let (Err(Trouble::Login), Way::Sentinel(sentinels)) = (&trouble, &mut self.way) {
            sentinels.try_the_other_login();
        }
        trouble
    }

    /// True if the sentinels name another master by now than the one that was connected to. Whoever does not answer
    /// names none.
    pub async fn has_moved(&mut self) -> bool {
        let Way::Sentinel(sentinels) = &mut self.way else { return false };
        let asked = tokio::time::timeout(CONNECT_BY_OTHERS, sentinels.client.async_get_client()).await;
        let Ok(Ok(now)) = asked else { return false };
        sentinels.current.as_ref().is_some_and(|then| then != now.get_connection_info().addr())
    }
}

impl Sentinels {
    async fn connect(&mut self) -> redis::RedisResult<MultiplexedConnection> {
        let client = self.client.async_get_client().await?;
        let connection = connect_one(&client).await?;
        self.current = Some(client.get_connection_info().addr().clone());
        Ok(connection)
    }

    fn try_the_other_login(&mut self) {
        // It was made of the same parts before.
        if let Ok(client) = sentinel_client(&self.nodes, &self.master, !self.login) {
            (self.client, self.login) = (client, !self.login);
        }
    }
}

async fn connect_one(client: &Client) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(None)
        .set_concurrency_limit(IN_FLIGHT);
    client.get_multiplexed_async_connection_with_config(&config).await
}

fn cluster(nodes: &[ConnectionInfo], timeout: Duration) -> Result<ClusterClient, Unusable> {
    let builder = ClusterClientBuilder::new(nodes.to_vec())
        .connection_timeout(CONNECT)
        // Of its own questions for slots, too; those of callers have their own clock.
        .response_timeout(CONNECT)
        .overall_response_timeout(Some(timeout))
        .retries(RETRIES)
        .min_retry_wait(RETRY_WAIT.0)
        .max_retry_wait(RETRY_WAIT.1)
        .connection_concurrency_limit(IN_FLIGHT);
    builder.build().map_err(unusable)
}

/// The URLs' user, password and database are the servers'; the sentinels' own are the same, or none at all.
fn sentinel_client(nodes: &[ConnectionInfo], master: &str, login: bool) -> Result<SentinelClient, Unusable> {
    let addresses: Vec<ConnectionAddr> = nodes.iter().map(|node| node.addr().clone()).collect();
    let Some(first) = nodes.first() else { return Err(Unusable("no sentinel is named".to_owned())) };
    let kind = SentinelServerType::Master;
    let mut builder = SentinelClientBuilder::new(addresses, master, kind).map_err(unusable)?;
    let settings = first.redis_settings();
    builder = builder.set_client_to_redis_db(settings.db());
    if let ConnectionAddr::TcpTls { .. } = first.addr() {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
    }
    if let Some(user) = settings.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = settings.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if let (true, Some(user)) = (login, settings.username()) {
        builder = builder.set_client_to_sentinel_username(user);
    }
    if let (true, Some(password)) = (login, settings.password()) {
        builder = builder.set_client_to_sentinel_password(password);
    }
    builder.build().map_err(unusable)
}

fn nodes(urls: &[Secret], key: &str) -> Result<Vec<ConnectionInfo>, Unusable> {
    if urls.is_empty() {
        return Err(Unusable(format!("{key} names nobody")));
    }
    urls.iter().map(|url| node(url, key)).collect()
}

fn node(url: &Secret, key: &str) -> Result<ConnectionInfo, Unusable> {
    let refused =
        || Unusable(format!("{key} cannot be read: write redis://HOST:PORT or rediss://USER:PASSWORD@HOST:PORT"));
    let text = std::str::from_utf8(&url.0).map_err(|_| refused())?;
    text.trim().into_connection_info().map_err(|_| refused())
}

/// By the library's own words, which name no address.
fn unusable(error: redis::RedisError) -> Unusable {
    Unusable(Trouble::of_connecting(&error).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn secrets(urls: &[&str]) -> Vec<Secret> {
        urls.iter().map(|url| Secret(Arc::new(url.as_bytes().to_vec().into()))).collect()
    }

    fn dialer(servers: &RedisServers) -> Result<String, String> {
        let made = Dialer::new(servers, Duration::from_millis(5));
        made.map(|dialer| dialer.place().to_owned()).map_err(|fault| fault.to_string())
    }

    #[test]
    fn hosts_are_shown_and_logins_are_not() {
        let urls = secrets(&["redis://ann:hush@a:1/0", "redis://ann:hush@b:2"]);
        let single = RedisServers::Single(urls[0].clone());
        assert_eq!(dialer(&single), Ok("a:1".to_owned()), "one server");
        assert_eq!(dialer(&RedisServers::Cluster(urls.clone())), Ok("a:1,b:2".to_owned()), "a cluster");
        let sentinel = RedisServers::Sentinel { sentinels: urls, master: "m".to_owned() };
        assert_eq!(dialer(&sentinel), Ok("a:1,b:2".to_owned()), "sentinels");
    }

    #[test]
    fn servers_that_cannot_be_used_are_told_without_their_logins() {
        let mixed = secrets(&["redis://ann:hush@a:1", "redis://ann:other@b:2"]);
        let nobody = RedisServers::Sentinel { sentinels: vec![], master: "m".to_owned() };
        let odd = RedisServers::Cluster(secrets(&["redis://ann:hush@a:1", "http://ann:hush@b:2"]));
        for servers in [RedisServers::Cluster(mixed), RedisServers::Cluster(vec![]), nobody, odd] {
            let told = dialer(&servers).expect_err("these cannot be used");
            assert!(told.starts_with("limits.backend.redis: ") && !told.contains("hush"), "{told}");
        }
    }
}
