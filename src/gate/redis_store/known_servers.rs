//! The servers that a store connected to lately. Servers name the master and its address, and
//! each server that they name receives the password; so the number of these is limited,
//! however often other ones are named.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::address::Node;
use super::error::{Kind, RedisFailure};

/// The most masters of a Cluster: each is a connection, and receives the password.
pub(super) const MOST_NODES: usize = 64;
/// The most servers in one [`HOUR`]: all masters of a Cluster, and as many that took over.
const MOST: usize = 2 * MOST_NODES;
const HOUR: Duration = Duration::from_secs(3_600);

/// Servers, and the moment of the last connection to each.
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
    fn the_servers_that_get_the_password_in_an_hour_are_limited() {
        let (known_servers, start) = (KnownServers::default(), Instant::now());
        let enter = |number: usize, now| {
            known_servers.enter(&Node::tcp(&format!("10.0.0.{number}"), 6379), now).is_ok()
        };
        assert!((0..MOST).all(|number| enter(number, start)));
        assert!(!enter(MOST, start) && !enter(MOST + 1, start + HOUR / 2));
        assert!(enter(0, start + HOUR / 2), "a known server stays");
        assert!(enter(MOST, start + HOUR));
        assert!((1..MOST - 1).all(|number| enter(number, start + HOUR)));
        assert!(!enter(MOST - 1, start + HOUR), "the first is not forgotten yet");
    }
}
