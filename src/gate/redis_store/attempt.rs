//! One try to make an edit, and the steps that all edits share.
//!
//! Knows no edit by itself: `write`, `batch`, `members` and others build theirs of these steps.

use std::time::Duration;

use redis::{Cmd, Value};

use super::super::member::Member;
use super::super::store::StoreError;
use super::RedisStore;
use super::connections::{Connections, SetType};
use super::error::RedisFailure;
use super::reply::number;

/// The reason why an edit was not made.
pub(super) enum Failed {
    /// The server failed on a key.
    At(String, RedisFailure),
    /// A failure that a retry cannot mend.
    For(StoreError),
}

impl Failed {
    pub(super) fn into_error(self, store: &RedisStore) -> StoreError {
        match self {
            Self::At(key, failure) if key == store.keys.history => failure.into_history_error(&key),
            Self::At(key, failure) => failure.into_store_error(&key),
            Self::For(error) => error,
        }
    }
}

/// The way in which edits are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// There is one.
    Single,
    /// All of them as one transaction.
    Together,
}

/// The change of one attempt, without the server.
pub(super) struct Done {
    pub(super) key: String,
    pub(super) changed: bool,
    pub(super) count: Option<u64>,
}

/// One try to make an edit.
pub(super) struct Attempt<'a> {
    pub(super) store: &'a RedisStore,
    pub(super) connections: &'a Connections,
}

impl Attempt<'_> {
    pub(super) async fn set_type(&self) -> Result<SetType, Failed> {
        let set = &self.store.keys.allow_set;
        let set_type = self.connections.set_type(&self.store.keys).await;
        set_type.map_err(|failure| Failed::At(set.clone(), failure))
    }

    /// Sets a key that ends by itself, as rack-attack does.
    pub(super) async fn set_for(&self, key: &str, time: Duration) -> Result<(), Failed> {
        let done = self.connections.of(key).ask(&set_for(key, "1", time)).await;
        done.map(drop).map_err(|failure| Failed::At(key.to_owned(), failure))
    }

    /// Deletes keys one by one, since a Cluster has them on several servers.
    pub(super) async fn delete(&self, keys: &[String]) -> Result<u64, Failed> {
        let mut removed = 0;
        for key in keys {
            removed += self.count(key, redis::cmd("DEL").arg(key)).await?;
        }
        Ok(removed)
    }

    pub(super) async fn count(&self, key: &str, command: &Cmd) -> Result<u64, Failed> {
        let answer = self.connections.of(key).ask(command).await;
        let answer = answer.map_err(|failure| Failed::At(key.to_owned(), failure))?;
        Ok(count(&answer).unwrap_or(0))
    }

    /// Names a member that changed. That the set changed is announced by Redis
    /// anyway, so that a failure here costs only speed.
    pub(super) async fn announce(&self, member: Member, changed: bool) {
        if changed {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(self.store.keys.channel()).arg(member.to_string());
            let _ = self.connections.of(&self.store.keys.allow_set).ask(&publish).await;
        }
    }
}

/// Sets a key that ends by itself.
pub(super) fn set_for(key: &str, value: &str, time: Duration) -> Cmd {
    let mut set = redis::cmd("SET");
    set.arg(key).arg(value).arg("PX").arg(milliseconds(time));
    set
}

/// A time in milliseconds, as a server takes it.
pub(super) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_MS)
}

/// A hundred years: Redis refuses ends beyond what its clock can count.
pub(super) const LONGEST_MS: u64 = 100 * 365 * 86_400_000;

pub(super) fn count(value: &Value) -> Option<u64> {
    number(value).and_then(|number| u64::try_from(number).ok())
}
