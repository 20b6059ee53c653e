//! Grants: claims of names, and the notes beside entries.

use std::time::Duration;

use tokio::sync::mpsc;

use super::super::member::Item;
use super::super::store::{Grant, Listed, StoreError};
use super::RedisStore;
use super::write::{Failed, LONGEST_MS};

impl RedisStore {
    /// Claims `name` for a while. Returns false if it is claimed already.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached. A claim is not tried
    /// twice: the first one may have been taken.
    pub async fn claim(&self, name: &str, lasting: Duration) -> Result<bool, StoreError> {
        let key = self.keys.claim_key(name);
        let failed = |failure| Failed::At(key.clone(), failure).into_error(self);
        let connections = self.writer_connections().await.map_err(failed)?;
        let left = u64::try_from(lasting.as_millis()).unwrap_or(u64::MAX).clamp(1, LONGEST_MS);
        let mut set = redis::cmd("SET");
        set.arg(&key).arg("1").arg("NX").arg("PX").arg(left);
        match connections.of(&key).ask(&set).await {
            Ok(answer) => Ok(answer != redis::Value::Nil),
            Err(failure) => {
                self.forget_writer().await;
                Err(failed(failure))
            }
        }
    }

    /// Sends all entries of the allow-set with their notes in batches.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn list_grants(&self, to: mpsc::Sender<Vec<Grant>>) -> Result<Listed, StoreError> {
        let (entries, mut batches) = mpsc::channel::<Vec<Item>>(1);
        let pass = async {
            while let Some(batch) = batches.recv().await {
                let grants = batch.into_iter().filter_map(|item| match item {
                    Item::Allowed(member, expiry) => Some(Grant { member, expiry, note: None }),
                    Item::Banned(..) => None,
                });
                if to.send(grants.collect()).await.is_err() {
                    return;
                }
            }
        };
        let (listed, ()) = tokio::join!(self.list_allowed(entries), pass);
        Ok(Listed { garbage: listed?, without_notes: None })
    }
}
