//! The state of a gate and of its store, and the counters of a gate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rules::EffectivePolicy;
use super::snapshot::Counts;

/// The state of a gate at one moment.
#[derive(Clone, Debug)]
pub struct GateStatus {
    /// The policy in force.
    pub policy: EffectivePolicy,
    /// The number of entries.
    pub counts: Counts,
    /// The time since the store was last read completely; `None`: not yet.
    pub since_read: Option<Duration>,
    /// The reason why the store is unavailable, while it is.
    pub unavailable: Option<String>,
    /// Connections that were denied.
    pub denied: u64,
    /// Connections that lost their permit.
    pub revoked: u64,
    /// Failed handshakes that were counted against their address.
    pub strikes: u64,
    /// Bans that were made of those.
    pub bans_made: u64,
}

/// The counters of a gate.
#[derive(Debug, Default)]
pub(super) struct GateCounters {
    pub(super) denied: Count,
    pub(super) revoked: Count,
    pub(super) strikes: Count,
    pub(super) bans_made: Count,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The state of a store, for operators.
#[derive(Debug, Default)]
pub(super) struct StoreHealth {
    read: Mutex<Option<Instant>>,
    unavailable: Mutex<Option<String>>,
}

impl StoreHealth {
    /// Notes that the store was read completely.
    pub(super) fn read(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        *self.unavailable.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Notes that the store is unavailable for this cause.
    pub(super) fn set_unavailable(&self, why: &str) {
        *self.unavailable.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    pub(super) fn is_unavailable(&self) -> bool {
        self.unavailable.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The cause, while the store is unavailable.
    pub(super) fn unavailable(&self) -> Option<String> {
        self.unavailable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The time since the store was last read completely.
    pub(super) fn since_read(&self) -> Option<Duration> {
        let read = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.map(|read| read.elapsed())
    }
}
