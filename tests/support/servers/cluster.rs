//! A Redis Cluster on loopback, made by hand: `redis-cli --cluster create` knows no bus ports but those 10,000 above.
//! Decides which node has which slots.

use super::redis::Redis;

/// Slots of every cluster.
const SLOTS: u32 = 16_384;
/// After so many milliseconds of silence a node counts as failed.
const NODE_TIMEOUT: &str = "1000";

/// The nodes of a cluster; the first ones are primaries, each with the same share of the slots.
pub struct RedisCluster {
    /// The nodes: primaries, then their replicas in the same order.
    pub nodes: Vec<Redis>,
    primaries: usize,
}

impl RedisCluster {
    /// So many primaries without replicas: one that is down takes the cluster down.
    pub fn start(primaries: usize) -> Self {
        Self::formed(primaries, 0, &[])
    }

    /// The same with further arguments for each node.
    pub fn start_with(primaries: usize, arguments: &[&str]) -> Self {
        Self::formed(primaries, 0, arguments)
    }

    /// Each primary has a replica that takes over within some seconds.
    pub fn start_with_replicas(primaries: usize) -> Self {
        Self::formed(primaries, primaries, &[])
    }

    fn formed(primaries: usize, replicas: usize, arguments: &[&str]) -> Self {
        let arguments =
            [&["--cluster-node-timeout", NODE_TIMEOUT, "--repl-diskless-sync-delay", "0"], arguments].concat();
        let nodes = (0..primaries + replicas).map(|_| Redis::start_node(&arguments)).collect();
        let this = Self { nodes, primaries };
        this.share_out();
        this.introduce();
        for (place, replica) in this.nodes[primaries..].iter().enumerate() {
            let primary = this.id(place);
            replica.wait_until(&["CLUSTER", "NODES"], |nodes| nodes.contains(&primary));
            replica.wait_until(&["CLUSTER", "REPLICATE", &primary], |said| said == "OK");
        }
        this.wait_until_ok();
        for replica in &this.nodes[primaries..] {
            replica.wait_until(&["INFO", "replication"], |said| said.contains("master_link_status:up"));
        }
        this
    }

    fn share_out(&self) {
        for (place, node) in self.nodes.iter().enumerate() {
            node.cli(&["CLUSTER", "SET-CONFIG-EPOCH", &(place + 1).to_string()]);
            if place < self.primaries {
                let bound = |place: usize| place as u32 * SLOTS / self.primaries as u32;
                let (first, last) = (bound(place).to_string(), (bound(place + 1) - 1).to_string());
                node.cli(&["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            }
        }
    }

    fn introduce(&self) {
        let (first, others) = self.nodes.split_first().expect("a cluster has nodes");
        for other in others {
            let (port, bus_port) = (other.port().to_string(), other.bus_port().to_string());
            first.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus_port]);
        }
        let all = format!("cluster_known_nodes:{}", self.nodes.len());
        for node in &self.nodes {
            node.wait_until(&["CLUSTER", "INFO"], |said| said.contains(&all));
        }
    }

    /// Waits until each node finds that all slots are served.
    pub fn wait_until_ok(&self) {
        for node in &self.nodes {
            node.wait_until(&["CLUSTER", "INFO"], |said| said.contains("cluster_state:ok"));
        }
    }

    /// A node's name within the cluster.
    pub fn id(&self, node: usize) -> String {
        self.nodes[node].cli(&["CLUSTER", "MYID"])
    }

    /// All URLs.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// The primary whose slots contain a key's at the start, and that slot.
    pub fn owner(&self, key: &str) -> (usize, u32) {
        let slot: u32 = self.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]).parse().expect("a slot");
        let bound = |place: usize| place as u32 * SLOTS / self.primaries as u32;
        ((0..self.primaries).find(|place| slot < bound(place + 1)).expect("an owner"), slot)
    }

    /// Moves the keys of a slot from one primary to another, which does not own it yet: who asks the old one for a key
    /// that it no longer has is told to ask the new one.
    pub fn begin_to_move(&self, slot: u32, from: usize, to: usize) {
        let slot = slot.to_string();
        let (from_id, to_id) = (self.id(from), self.id(to));
        self.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
        self.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
        let port = self.nodes[to].port().to_string();
        loop {
            let keys = self.nodes[from].cli(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            let keys: Vec<&str> = keys.lines().filter(|key| !key.is_empty()).collect();
            if keys.is_empty() {
                break;
            }
            let head = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "REPLACE", "KEYS"];
            self.nodes[from].cli(&[&head, &keys[..]].concat());
        }
    }

    /// Gives the slot to the new one: who asks the old one is told that it has moved.
    pub fn end_to_move(&self, slot: u32, from: usize, to: usize) {
        let (slot, to_id) = (slot.to_string(), self.id(to));
        for node in [to, from] {
            self.nodes[node].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
        }
    }

    /// Forgets all keys.
    pub fn empty(&self) {
        for node in &self.nodes[..self.primaries] {
            node.empty();
        }
    }
}
