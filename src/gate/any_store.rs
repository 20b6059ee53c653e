//! The configured store, of any kind.
//!
//! [`AnyStore::None`] is a gate without a store: it has no entries, so that a gate without
//! a store admits the operator's own networks only, and refuses edits.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use super::embedded_store::EmbeddedStore;
use super::member::Item;
use super::memory_store::MemoryStore;
use super::redis_store::RedisStore;
use super::store::{AddressRecord, Edit, EditResult, Event, Grant, Listed, StoreError};
use crate::unix_time::Expiry;

/// A gate's store.
pub enum AnyStore {
    /// In Redis.
    Redis(Box<RedisStore>),
    /// In a file.
    Embedded(EmbeddedStore),
    /// In the memory of this process.
    Memory(MemoryStore),
    /// There is none.
    None,
}

impl AnyStore {
    /// Makes a change.
    ///
    /// # Errors
    /// The reason why it was not made; see the stores.
    pub async fn edit(&self, edit: Edit) -> Result<EditResult, StoreError> {
        match self {
            Self::Redis(store) => store.edit(&edit).await,
            Self::Embedded(store) => store.edit(edit).await,
            Self::Memory(store) => store.edit(&edit),
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// Makes several changes, each on the result of those before it, and passes each result
    /// to `report`.
    /// A file takes all of them or none; Redis takes up to
    /// [`MOST_TOGETHER`](super::redis_store::MOST_TOGETHER) as one transaction, and no
    /// more at once.
    ///
    /// # Errors
    /// The reason why they were not made; see the stores.
    pub async fn edit_all(
        &self,
        edits: Vec<Edit>,
        report: &mut dyn FnMut(EditResult),
    ) -> Result<(), StoreError> {
        match self {
            Self::Redis(store) => store.edit_all(&edits, report).await,
            Self::Embedded(store) => store.edit_all(edits, report).await,
            Self::Memory(store) => store.edit_all(&edits, report),
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// The number of changes that the store makes together, all of them or none.
    pub fn most_together(&self) -> usize {
        match self {
            Self::Redis(_) => super::redis_store::MOST_TOGETHER,
            Self::Embedded(_) | Self::Memory(_) | Self::None => usize::MAX,
        }
    }

    /// Claims `name` for a while. Returns false if it is claimed already, by this process or by
    /// another one with the same store: of several that claim a name one succeeds. A store that
    /// did not answer may have taken the claim, so that after an error the same name is not
    /// free for certain.
    ///
    /// # Errors
    /// The reason why that is not known; see the stores.
    pub async fn claim(&self, name: &str, lasting: Duration) -> Result<bool, StoreError> {
        match self {
            Self::Redis(store) => store.claim(name, lasting).await,
            Self::Embedded(store) => store.claim(name, lasting).await,
            Self::Memory(store) => store.claim(name, lasting),
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// Sends all entries of the allow-set in batches. Returns the number of garbage entries.
    ///
    /// # Errors
    /// The reason why they cannot be read.
    pub async fn list_allowed(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        match self {
            Self::Redis(store) => store.list_allowed(to).await,
            Self::Embedded(store) => store.list_allowed(to).await,
            Self::Memory(store) => store.list_allowed(to).await,
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// Sends all entries of the allow-set with their notes in batches.
    ///
    /// # Errors
    /// The reason why the entries cannot be read; notes may be missing without one.
    pub async fn list_grants(&self, to: mpsc::Sender<Vec<Grant>>) -> Result<Listed, StoreError> {
        match self {
            Self::Redis(store) => store.list_grants(to).await,
            Self::Embedded(store) => store.list_grants(to).await,
            Self::Memory(store) => store.list_grants(to).await,
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// The end of the allow-set as a whole, with all its members.
    ///
    /// # Errors
    /// The reason why that cannot be read.
    pub async fn set_end(&self) -> Result<Expiry, StoreError> {
        match self {
            Self::Redis(store) => store.set_end().await,
            Self::Embedded(_) | Self::Memory(_) | Self::None => Ok(Expiry::Never),
        }
    }

    /// Sends all bans in batches. Returns the number of garbage entries.
    ///
    /// # Errors
    /// The reason why they cannot be read.
    pub async fn list_bans(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        match self {
            Self::Redis(store) => store.list_bans(to).await,
            Self::Embedded(store) => store.list_bans(to).await,
            Self::Memory(store) => store.list_bans(to).await,
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// Sends the history in batches: addresses, and the unix second at which each was last
    /// admitted. Returns the number of garbage entries.
    ///
    /// # Errors
    /// The reason why they cannot be read.
    pub async fn history(&self, to: mpsc::Sender<Vec<(IpAddr, u64)>>) -> Result<u64, StoreError> {
        match self {
            Self::Redis(store) => store.history(to).await,
            Self::Embedded(store) => store.history(to).await,
            Self::Memory(store) => store.history(to).await,
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// Returns everything that is known about one address, with the failures of the
    /// current window of `findtime`.
    ///
    /// # Errors
    /// The reason why it cannot be read.
    pub async fn address_record(
        &self,
        ip: IpAddr,
        findtime: Option<Duration>,
    ) -> Result<AddressRecord, StoreError> {
        match self {
            Self::Redis(store) => store.address_record(ip, findtime).await,
            Self::Embedded(store) => store.address_record(ip, findtime).await,
            Self::Memory(store) => Ok(store.address_record(ip, findtime)),
            Self::None => Err(StoreError::NoStore),
        }
    }

    /// The reason why the store is unavailable now, if its follower found it so and goes on
    /// trying.
    pub fn away(&self) -> Option<String> {
        match self {
            Self::Redis(store) => store.away(),
            // Its reports say everything.
            Self::Embedded(_) | Self::Memory(_) | Self::None => None,
        }
    }

    /// Reports everything and then every change. A store that reports that the set is
    /// invalidated also answers `queries`; other stores are not queried. Ends only when
    /// events are not received any more.
    pub async fn follow(&self, events: mpsc::Sender<Event>, queries: mpsc::Receiver<Vec<IpAddr>>) {
        match self {
            Self::Redis(store) => store.follow(events, queries).await,
            Self::Embedded(store) => store.follow(events).await,
            Self::Memory(store) => store.follow(events).await,
            Self::None => follow_nothing(&events).await,
        }
    }
}

/// Reports once that there are no entries.
async fn follow_nothing(events: &mpsc::Sender<Event>) {
    for event in [Event::Begin, Event::End { garbage: 0 }] {
        if events.send(event).await.is_err() {
            return;
        }
    }
    events.closed().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_store_there_are_no_entries_and_no_edits() {
        let ip: IpAddr = "203.0.113.7".parse().unwrap();
        let (events, mut told) = mpsc::channel(8);
        let (_ask, queries) = mpsc::channel(1);
        let following = tokio::spawn(async move { AnyStore::None.follow(events, queries).await });
        for event in [Event::Begin, Event::End { garbage: 0 }] {
            assert_eq!(told.recv().await, Some(event));
        }
        drop(told);
        following.await.unwrap();
        assert_eq!(AnyStore::None.edit(Edit::Unban(ip.into())).await, Err(StoreError::NoStore));
    }
}
