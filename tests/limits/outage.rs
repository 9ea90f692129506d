//! What may happen to the store of the limits, done to real servers: one Redis behind a bad network, a cluster, or a
//! primary with its replica and Sentinels.

use super::fleet::Store;
use crate::chaos::{Chaos, Weather};
use crate::servers::{Redis, RedisCluster, RedisSentinels};
use std::time::Duration;

/// How late a slow store answers: ten times what a command may take.
const LATE: Duration = Duration::from_millis(50);
/// How long a replica has heard nothing when it takes over.
const UNHEARD: Duration = Duration::from_millis(800);
/// Sentinels, of which two must agree.
const SENTINELS: usize = 3;
/// Nodes of the cluster.
const NODES: usize = 3;

/// What happens to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It ends and starts again with its data.
    Restarted,
    /// It ends and starts again without.
    Emptied,
    /// It is frozen: connections stay, answers do not come, and all that was asked is done afterwards.
    Paused,
    /// It answers too late.
    Slow,
    /// Connections are reset.
    Cut,
    /// Nobody listens.
    Refused,
    /// The network carries nothing.
    BlackHole,
    /// It takes no more writes.
    OutOfMemory,
    /// All it knows goes at once, and it never was away.
    Flushed,
    /// The node of a cluster that has the tenant's slot is killed, and comes back empty.
    NodeDown,
    /// The primary is killed, and a replica takes over that has not heard its last writes.
    FailedOver,
}

impl Fault {
    /// The store cannot be used until it is healed.
    pub fn lasts(self) -> bool {
        !matches!(self, Self::Flushed | Self::FailedOver)
    }
}

/// The servers that it is done to.
pub enum Servers {
    Single { redis: Redis, network: Chaos },
    Cluster(RedisCluster),
    Sentinels(RedisSentinels),
}

impl Servers {
    /// Those that can suffer this fault.
    pub fn for_fault(fault: Fault) -> Self {
        match fault {
            Fault::NodeDown => Self::Cluster(RedisCluster::start(NODES)),
            Fault::FailedOver => Self::Sentinels(RedisSentinels::start(SENTINELS)),
            Fault::Restarted => Self::single(&["--appendonly", "yes", "--appendfsync", "always"]),
            _ => Self::single(&[]),
        }
    }

    fn single(arguments: &[&str]) -> Self {
        let redis = Redis::start_with(arguments);
        let network = Chaos::before(redis.port());
        Self::Single { redis, network }
    }

    /// How replicas are told of them.
    pub fn store(&self) -> Store {
        match self {
            Self::Single { network, .. } => Store::at(&format!("redis://127.0.0.1:{}/0", network.port())),
            Self::Cluster(cluster) => Store::cluster(&cluster.urls()),
            Self::Sentinels(sentinels) => Store::sentinel(&sentinels.urls(), sentinels.master()),
        }
    }

    /// Lets it happen. Blocks for as long as that takes.
    pub fn strike(&mut self, fault: Fault, tenant: &str) {
        match (self, fault) {
            (Self::Single { redis, .. }, Fault::Restarted | Fault::Emptied) => redis.stop(),
            (Self::Single { redis, .. }, Fault::Paused) => redis.pause(),
            (Self::Single { redis, .. }, Fault::Flushed) => redis.empty(),
            (Self::Single { redis, .. }, Fault::OutOfMemory) => {
                redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
                redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
            }
            (Self::Single { network, .. }, Fault::Slow) => network.set(Weather::Delay(LATE)),
            (Self::Single { network, .. }, Fault::Cut) => network.set(Weather::Cut),
            (Self::Single { network, .. }, Fault::Refused) => network.set(Weather::Refuse),
            (Self::Single { network, .. }, Fault::BlackHole) => network.set(Weather::BlackHole),
            (Self::Cluster(cluster), Fault::NodeDown) => {
                let (owner, _) = cluster.owner(&format!("{{t:{tenant}}}"));
                cluster.nodes[owner].kill();
            }
            (Self::Sentinels(sentinels), Fault::FailedOver) => {
                sentinels.servers[1].pause();
                std::thread::sleep(UNHEARD);
                sentinels.servers[0].kill();
                sentinels.servers[1].resume();
                sentinels.wait_for_master(1);
            }
            (_, fault) => panic!("{fault:?} does not happen to these servers"),
        }
    }

    /// Ends what was begun. Blocks for as long as that takes.
    pub fn heal(&mut self, fault: Fault, tenant: &str) {
        match (self, fault) {
            (Self::Single { redis, .. }, Fault::Restarted | Fault::Emptied) => redis.start_again(),
            (Self::Single { redis, .. }, Fault::Paused) => redis.resume(),
            (Self::Single { redis, .. }, Fault::OutOfMemory) => {
                redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            (Self::Single { network, .. }, _) => network.set(Weather::Fair),
            (Self::Cluster(cluster), _) => {
                let (owner, _) = cluster.owner(&format!("{{t:{tenant}}}"));
                cluster.nodes[owner].start_again();
                cluster.wait_until_ok();
            }
            (Self::Sentinels(_), _) => {}
        }
    }
}
