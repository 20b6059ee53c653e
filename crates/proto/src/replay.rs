//! Filter for replayed first messages, which get no answer.
//!
//! A recording of a dialer's message 1 can be sent again. It can never reach the target, but it
//! would be answered with message 2, and cost the acceptor two X25519. So the acceptor compares the
//! clock in Hello with its own and remembers the messages that it has seen:
//!
//! - older or newer than [`WINDOW_MS`]: refused;
//! - sent before the memory of this acceptor began: refused;
//! - seen before: refused.
//!
//! Knocks are remembered in the same way, in a memory of their own for each key, so that neither
//! kind of message can make the other be forgotten or taken for a replay.
//!
//! Only holders of a key can add to its memory, and none can make the memory of another key forget.
//! An entry is kept for two to four windows: after two its message is too old anyway. All stored
//! times are times since boot, which cannot be set, so correcting the host's clock also corrects
//! the comparison with a message. Both clocks are arguments.

use std::collections::{HashMap, HashSet};

use crate::keys::KeyId;

/// Largest difference of the clocks of both ends, in milliseconds.
pub const WINDOW_MS: u64 = 120_000;

/// Time for which a message has to be remembered, in milliseconds: a message is fresh for that long
/// if its clock is as far ahead as possible.
pub const MEMORY_MS: i64 = 2 * WINDOW_MS as i64;

/// Most entries of a generation (about 16 MiB). A full one is dropped early, so that memory stays
/// bounded whatever the key holders do. A first message that is forgotten in this way gets at most
/// a message 2; a knock gets a grant, unless its claim in the store is still there.
const MAX_GENERATION: usize = 1 << 20;

/// Moment by both clocks of a host, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Unix time, which can be set on the host.
    pub unix_ms: u64,
    /// Time since boot, which only grows.
    pub boot_ms: i64,
}

/// Name of the memory that a message belongs to: there is one of first messages and one of knocks
/// for each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryName([u8; 4]);

/// First message that an acceptor answered, or knock that it read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answered {
    /// Memory of its kind and key.
    pub memory: MemoryName,
    /// First 8 bytes of its tag.
    pub fingerprint: u64,
}

/// Memory of the first messages that were seen recently.
#[derive(Debug)]
pub struct ReplayFilter {
    /// Start of the memory, in time since boot.
    since_ms: i64,
    seen: HashMap<MemoryName, Generations>,
}

/// Messages of one kind under one key, in two generations.
#[derive(Debug)]
struct Generations {
    turned_ms: i64,
    young: HashSet<u64>,
    old: HashSet<u64>,
}

/// Reason to refuse a first message although its tag is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// The dialer's clock is this far behind ours, in milliseconds.
    #[error("its clock is {0} ms behind ours: a replay, or a wrong clock")]
    Old(u64),
    /// The dialer's clock is this far ahead of ours, in milliseconds.
    #[error("its clock is {0} ms ahead of ours: set the clock of one of the hosts right")]
    New(u64),
    /// It was sent before the memory of this acceptor began.
    #[error("it was made before this end began to remember: a replay, or a clock that is behind")]
    BeforeStart,
    /// It was seen before.
    #[error("it was seen before: a replay")]
    Seen,
}

impl Answered {
    /// Returns a first message under `key`.
    pub fn handshake(key: KeyId, fingerprint: u64) -> Self {
        Self { memory: MemoryName(key.to_bytes()), fingerprint }
    }

    /// Returns a knock under `key`. The bits of the key's id are inverted: so the name is as long
    /// as that of the other kind. In a ring two names are the same with a probability of 2^-32,
    /// and then both kinds share a memory.
    pub fn knock(key: KeyId, fingerprint: u64) -> Self {
        Self { memory: MemoryName(key.to_bytes().map(|byte| !byte)), fingerprint }
    }
}

impl MemoryName {
    /// Returns the 4 bytes.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// Reverses [`Self::to_bytes`].
    pub fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

impl ReplayFilter {
    /// Creates an empty memory that begins at `since_ms`, in time since boot.
    pub fn new(since_ms: i64) -> Self {
        Self { since_ms, seen: HashMap::new() }
    }

    /// Checks that a message that was made at `sent_ms` (unix time) is neither too old nor too new,
    /// and not from before this memory.
    ///
    /// # Errors
    /// [`Stale`] with the reason to give no answer.
    pub fn check_time(&self, sent_ms: u64, now: Moment) -> Result<(), Stale> {
        let ahead = sent_ms.saturating_sub(now.unix_ms);
        let behind = now.unix_ms.saturating_sub(sent_ms);
        if ahead > WINDOW_MS {
            return Err(Stale::New(ahead));
        }
        if behind > WINDOW_MS {
            return Err(Stale::Old(behind));
        }
        // Both are at most a window.
        let sent_boot_ms = now.boot_ms + ahead as i64 - behind as i64;
        if sent_boot_ms < self.since_ms { Err(Stale::BeforeStart) } else { Ok(()) }
    }

    /// Remembers a message; returns `false` if it was seen before.
    pub fn remember(&mut self, Answered { memory, fingerprint }: Answered, boot_ms: i64) -> bool {
        // A key that is no longer used is forgotten with its last message.
        self.seen.retain(|_, seen| !seen.is_outdated(boot_ms));
        let seen = self.seen.entry(memory).or_insert_with(|| Generations::new(boot_ms));
        seen.turn(boot_ms);
        !seen.old.contains(&fingerprint) && seen.young.insert(fingerprint)
    }

    /// Returns true if the message was seen.
    pub fn has_seen(&self, Answered { memory, fingerprint }: Answered) -> bool {
        self.seen.get(&memory).is_some_and(|seen| {
            seen.young.contains(&fingerprint) || seen.old.contains(&fingerprint)
        })
    }
}

impl Generations {
    fn new(turned_ms: i64) -> Self {
        Self { turned_ms, young: HashSet::new(), old: HashSet::new() }
    }

    /// Returns true if all of its messages are too old to be fresh.
    fn is_outdated(&self, boot_ms: i64) -> bool {
        boot_ms >= self.turned_ms.saturating_add(2 * MEMORY_MS)
    }

    /// Forgets the old generation once the young one is two windows old, or full.
    fn turn(&mut self, boot_ms: i64) {
        let due = boot_ms >= self.turned_ms.saturating_add(MEMORY_MS);
        if due || self.young.len() >= MAX_GENERATION {
            self.old = std::mem::take(&mut self.young);
            self.turned_ms = boot_ms;
        }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
