//! The gate's store in Redis: one server, a master that Sentinels name, or a
//! Cluster.
//!
//! Layout and key names are those of redis-knocking and rack-attack, so that
//! existing tools that write them go on working. It uses neither KEYS nor
//! HEXPIRE, keeps no copy of the set, and leaves the meaning of what it reads
//! to the keeper. Needs Redis 6.2 or later (RESP3 tracking, SMISMEMBER).

mod address;
mod batch;
mod cause;
mod circle;
mod follow;
mod full_read;
mod guarded;
mod keys;
mod link;
mod links;
mod list;
mod meter;
mod odd;
mod plan;
mod pushes;
mod recheck;
mod tls;
#[cfg(feature = "aws-lc")]
mod tls_cause;
mod topology;
mod trouble;
mod walk;
mod way;
mod write;

use std::net::IpAddr;
use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Mutex, mpsc};

pub use address::{AddressError, Credentials, Node, RedisAddress, Servers};
pub use batch::MOST_TOGETHER;
pub use keys::Keys;
pub use tls::{TlsError, TlsFiles, TlsOptions};
pub use way::LONGEST as LONGEST_WAY;

use super::member::Item;
use super::store::{Edit, Event, Receipt, Standing, StoreError};
use guarded::Together;
use link::Access;
use topology::Topology;

/// Where a Redis store is and what it holds.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisOptions {
    /// The servers.
    pub address: RedisAddress,
    /// Who to be there; instead of what stands in the address.
    pub credentials: Option<Credentials>,
    /// Who to be at Sentinels, which have passwords of their own.
    pub sentinel_credentials: Option<Credentials>,
    /// The means to secure connections; `None` where the address asks for no TLS.
    pub tls: Option<TlsOptions>,
    /// The names of the keys.
    pub keys: Keys,
}

impl RedisOptions {
    /// How many connections a store has at most: to each master one that follows and one
    /// for edits, and to each who knows the masters one, and one that takes its place.
    pub fn most_connections(&self) -> usize {
        match &self.address.servers {
            Servers::One(_) => 2,
            Servers::Sentinel { sentinels, .. } => 2 + 2 * sentinels.len(),
            Servers::Cluster(_) => 2 * (topology::MOST_NODES + topology::MOST_ASKED),
        }
    }
}

/// A gate's store in Redis.
pub struct RedisStore {
    keys: Keys,
    access: Access,
    topology: Topology,
    /// The connections over which edits go, kept from one to the next.
    writer: Mutex<Option<write::Writer>>,
    /// The reason why the follower failed last, while it has not read everything since.
    away: SyncMutex<Option<String>>,
}

impl RedisStore {
    /// A store; connects to nothing yet.
    pub fn new(options: RedisOptions) -> Self {
        let RedisOptions { address, credentials, sentinel_credentials, tls, keys } = options;
        let credentials = credentials.or_else(|| address.credentials.clone());
        let access = Access {
            credentials,
            db: address.db,
            // Never without, where the address asks for it.
            tls: address.tls.then(|| tls.unwrap_or_else(TlsOptions::of_system).tls()),
            names: Arc::default(),
            together: Together::default(),
            circle: Arc::default(),
        };
        let topology = Topology::new(&address, access.clone(), sentinel_credentials);
        Self { keys, access, topology, writer: Mutex::default(), away: SyncMutex::default() }
    }

    /// The reason why the store is away now, if whoever follows it found it so.
    pub fn away(&self) -> Option<String> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_away(&self, why: Option<String>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Makes a change at the master, wherever it is now.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached, after one retry.
    pub async fn edit(&self, edit: Edit) -> Result<Receipt, StoreError> {
        write::edit(self, &edit).await
    }

    /// Makes up to [`MOST_TOGETHER`] changes as one transaction, and tells of each. In a
    /// Cluster a transaction is about one key: there the changes of the set are one,
    /// and each key beside it is changed by itself.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached, after one retry.
    pub async fn edit_all(
        &self,
        edits: &[Edit],
        told: &mut dyn FnMut(Receipt),
    ) -> Result<(), StoreError> {
        batch::edit_all(self, edits, told).await
    }

    /// Sends all entries of the allow-set in batches; gives the number of
    /// entries that are no address or network.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn list_allowed(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        list::allowed(self, &to).await
    }

    /// The end of the allow-set's key, with all its members, in unix milliseconds.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn set_end(&self) -> Result<Option<u64>, StoreError> {
        list::set_end(self).await
    }

    /// Sends all bans in batches; gives the number of keys that name no address.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn list_bans(&self, to: mpsc::Sender<Vec<Item>>) -> Result<u64, StoreError> {
        list::bans(self, &to).await
    }

    /// Sends who was last let in when (unix seconds) in batches; gives the
    /// number of entries that are none.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn history(&self, to: mpsc::Sender<Vec<(IpAddr, u64)>>) -> Result<u64, StoreError> {
        list::history(self, &to).await
    }

    /// Everything about one address, with the failures of the current window
    /// of `findtime`.
    ///
    /// # Errors
    /// The answer of the server, or the reason why none could be reached.
    pub async fn standing(
        &self,
        ip: IpAddr,
        findtime: Option<Duration>,
    ) -> Result<Standing, StoreError> {
        list::standing(self, ip.to_canonical(), findtime).await
    }

    /// Reports everything and then every change to `events`, and the truth
    /// about `asks`. Ends only when nobody receives events any more.
    pub async fn follow(&self, events: mpsc::Sender<Event>, asks: mpsc::Receiver<Vec<IpAddr>>) {
        follow::follow(self, events, asks).await;
    }
}

/// Unix milliseconds. Clocks that differ from the server's shift the ends of
/// sorted-set members only; other ends are told as time that is left.
fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}
