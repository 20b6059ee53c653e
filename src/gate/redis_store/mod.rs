//! The gate's store in Redis: one server, a master that Sentinels name, or a
//! Cluster.
//!
//! Layout and key names are those of redis-knocking and rack-attack, so that
//! existing tools that write them go on working. It uses neither KEYS nor
//! HEXPIRE, keeps no copy of the set, and leaves the meaning of what it reads
//! to the gate. Needs Redis 6.2 or later (RESP3 tracking, SMISMEMBER).

mod access;
mod address;
mod aliases;
mod attempt;
mod batch;
mod cause;
mod connect;
mod connection;
mod connections;
mod error;
mod follow;
mod full_read;
mod granted;
mod grants;
mod keys;
mod known_servers;
mod list;
mod lookup;
mod members;
mod metered;
mod notes;
mod owned;
mod prune;
mod pushes;
mod reply;
mod scan_limit;
mod schedule;
mod tls;
#[cfg(feature = "aws-lc")]
mod tls_cause;
mod topology;
mod write;

use std::sync::{Arc, Mutex as SyncMutex, PoisonError};
use std::time::Instant;

use tokio::sync::Mutex;

pub use address::{AddressError, Credentials, Node, RedisAddress, Servers};
pub use batch::MOST_TOGETHER;
pub use connect::LONGEST as LONGEST_CONNECT;
pub use keys::Keys;
pub use tls::{TlsError, TlsFiles, TlsOptions};

use access::Access;
use metered::Together;
use topology::Topology;

/// The place of a Redis store, and the names of its keys.
#[derive(Clone, Debug, PartialEq)]
pub struct RedisOptions {
    /// The servers.
    pub address: RedisAddress,
    /// The user and password there, instead of those in the address.
    pub credentials: Option<Credentials>,
    /// The user and password at Sentinels, which have passwords of their own.
    pub sentinel_credentials: Option<Credentials>,
    /// The means to secure connections; `None` where the address asks for no TLS.
    pub tls: Option<TlsOptions>,
    /// The names of the keys.
    pub keys: Keys,
}

impl RedisOptions {
    /// Returns true if both name the same keys of the same servers. The way to log in there is no
    /// part of it.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.address.servers == other.address.servers
            && self.address.db == other.address.db
            && self.keys == other.keys
    }

    /// The most connections of a store: to each master one that follows and one
    /// for edits, and to each server that knows the masters one, and one that takes its place.
    pub fn most_connections(&self) -> usize {
        match &self.address.servers {
            Servers::One(_) => 2,
            Servers::Sentinel { sentinels, .. } => 2 + 2 * sentinels.len(),
            Servers::Cluster(_) => 2 * (known_servers::MOST_NODES + topology::MOST_ASKED),
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
    /// The last time at which ended notes were looked for.
    pruned: SyncMutex<Option<Instant>>,
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
            known_servers: Arc::default(),
        };
        let topology = Topology::new(&address, access.clone(), sentinel_credentials);
        Self {
            keys,
            access,
            topology,
            writer: Mutex::default(),
            pruned: SyncMutex::default(),
            away: SyncMutex::default(),
        }
    }

    /// The reason why the store is unavailable now, if its follower found it so.
    pub fn away(&self) -> Option<String> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_away(&self, why: Option<String>) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }
}
