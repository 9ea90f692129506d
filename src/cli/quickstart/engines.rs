//! The simulated engines of a quickstart: how many, where, serving what. Their behaviour is `sim`'s.

use crate::sim::engine::EngineLimits;
use crate::sim::profile::PROFILES;
use crate::sim::{EngineSettings, Running, Server};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

/// More would only fight over this machine's cores; `weir sim` starts as many as one likes.
pub const MAX_ENGINES: u16 = 64;
/// Virtual seconds per second: tokens come as fast as from the GPU of the profile.
const SPEED: f64 = 1.0;

/// Engines that serve until this is dropped.
pub struct Engines {
    running: Vec<Running>,
}

impl Engines {
    /// Starts `count` engines of the default profile on free loopback ports, all serving `model`. Needs a runtime.
    ///
    /// # Errors
    /// The first socket that the system refuses.
    pub fn start(count: u16, model: &str) -> io::Result<Self> {
        let mut running = Vec::with_capacity(usize::from(count));
        for _ in 0..count {
            let limits = EngineLimits::of(PROFILES[0]);
            let settings = EngineSettings { model: model.to_owned(), limits, speed: SPEED };
            running.push(Server::start(settings, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?);
        }
        Ok(Self { running })
    }

    /// Their base URLs, in order.
    pub fn urls(&self) -> Vec<String> {
        self.running.iter().map(Running::url).collect()
    }
}
