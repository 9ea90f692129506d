//! Telling Redis that the store has changed: best effort, after the commit. Decides only how long Redis may keep a
//! change waiting. Postgres tells by itself, within the commit.

use super::super::error::StoreError;
use super::REDIS_CHANNEL;
use crate::config::snapshot::Push;
use std::time::Duration;

/// How long a change waits for Redis at most: it is done already, and the others have their poll.
const PATIENCE: Duration = Duration::from_millis(500);

/// The connection to whom is told.
pub(in super::super) struct Publisher {
    client: Option<redis::Client>,
    connection: Option<redis::Connection>,
    lost: u64,
    failing: bool,
}

impl Publisher {
    pub(in super::super) fn new(push: &Push) -> Result<Self, StoreError> {
        let client = match push {
            Push::None | Push::Notify => None,
            Push::Redis(url) => Some(super::redis_client(&url.0)?),
        };
        Ok(Self { client, connection: None, lost: 0, failing: false })
    }

    /// Tells, or counts that it could not.
    pub(in super::super) fn publish(&mut self) {
        let Some(client) = &self.client else { return };
        // A connection that lay idle may be gone: then a new one gets the same chance.
        let told = match self.connection.take().map(say) {
            Some(Ok(connection)) => Ok(connection),
            _ => connect(client).and_then(say),
        };
        match told {
            Ok(connection) => {
                self.connection = Some(connection);
                self.failing = false;
            }
            Err(error) => {
                self.lost += 1;
                // Said once, not at each change.
                if !std::mem::replace(&mut self.failing, true) {
                    let fault = error.kind();
                    tracing::warn!(?fault, "Redis was not told of a change; other replicas see it at their next poll");
                }
            }
        }
    }

    pub(in super::super) fn lost(&self) -> u64 {
        self.lost
    }
}

fn connect(client: &redis::Client) -> redis::RedisResult<redis::Connection> {
    let connection = client.get_connection_with_timeout(PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
    Ok(connection)
}

fn say(mut connection: redis::Connection) -> redis::RedisResult<redis::Connection> {
    redis::cmd("PUBLISH").arg(REDIS_CHANNEL).arg("changed").exec(&mut connection)?;
    Ok(connection)
}
