//! The servers that a store connected to lately. The master and its address are what
//! servers say, and each that they name receives the password; so these are not many,
//! however often they say something else.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::address::Node;
use super::error::{Kind, RedisFailure};
use super::topology::MOST_NODES;

/// Servers in one [`HOUR`]: all masters of a Cluster, and as many that took over.
const MOST: usize = 2 * MOST_NODES;
const HOUR: Duration = Duration::from_secs(3_600);

/// Servers, and when each was connected to last.
#[derive(Debug, Default)]
pub(super) struct KnownServers(Mutex<HashMap<Node, Instant>>);

impl KnownServers {
    /// Takes in a server that is about to be connected to.
    ///
    /// # Errors
    /// [`RedisFailure`] when there were too many others in the last hour.
    pub(super) fn enter(&self, node: &Node, now: Instant) -> Result<(), RedisFailure> {
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !servers.contains_key(node) && servers.len() >= MOST {
            servers.retain(|_, last| now.saturating_duration_since(*last) < HOUR);
            if servers.len() >= MOST {
                let cause =
                    format!("is one server more than the {MOST} that were named in an hour");
                return Err(RedisFailure::new(Kind::TooMuch, node, cause));
            }
        }
        servers.insert(node.clone(), now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_servers_hear_the_password_in_an_hour() {
        let (known_servers, start) = (KnownServers::default(), Instant::now());
        let enter = |number: usize, now| {
            known_servers.enter(&Node::tcp(&format!("10.0.0.{number}"), 6379), now).is_ok()
        };
        assert!((0..MOST).all(|number| enter(number, start)));
        assert!(!enter(MOST, start) && !enter(MOST + 1, start + HOUR / 2));
        assert!(enter(0, start + HOUR / 2), "who is known stays");
        assert!(enter(MOST, start + HOUR));
        assert!((1..MOST - 1).all(|number| enter(number, start + HOUR)));
        assert!(!enter(MOST - 1, start + HOUR), "the first is not forgotten yet");
    }
}
