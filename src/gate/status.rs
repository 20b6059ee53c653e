//! What a gate can tell about itself, and what it counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rules::Stance;
use super::snapshot::Counts;

/// A gate at one moment.
#[derive(Clone, Debug)]
pub struct GateStatus {
    /// What the allow-set counts for now.
    pub stance: Stance,
    /// How much is known.
    pub counts: Counts,
    /// How long ago the store was last read completely; `None`: not yet.
    pub since_read: Option<Duration>,
    /// The reason why the store is away, while it is.
    pub away: Option<String>,
    /// Connections that it did not let in.
    pub denied: u64,
    /// Connections that it would not let in any more, and whose right it took.
    pub revoked: u64,
    /// Failed handshakes that it noted against their address.
    pub strikes: u64,
    /// Bans that it made of those.
    pub bans_made: u64,
}

/// What a gate counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    read: Mutex<Option<Instant>>,
    away: Mutex<Option<String>>,
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

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Tally {
    /// The store was read completely.
    pub(super) fn read(&self) {
        *self.read.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn is_away(&self) -> bool {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The store is away for this cause.
    pub(super) fn away(&self, why: &str) {
        *self.away.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_owned());
    }

    pub(super) fn status(&self, stance: Stance, counts: Counts) -> GateStatus {
        let read = *self.read.lock().unwrap_or_else(PoisonError::into_inner);
        GateStatus {
            stance,
            counts,
            since_read: read.map(|read| read.elapsed()),
            away: self.away.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            denied: self.denied.get(),
            revoked: self.revoked.get(),
            strikes: self.strikes.get(),
            bans_made: self.bans_made.get(),
        }
    }
}
