//! Recorded first messages get no answer.
//!
//! A recording of a dialer's message 1 can be sent again. It can never reach
//! the target, but it would get message 2 for an answer, and cost the acceptor
//! two X25519. So the acceptor compares the clock in Hello with its own and
//! remembers what it saw:
//!
//! - older or newer than [`WINDOW_MS`]: refused;
//! - sent before the memory of this acceptor began: refused;
//! - seen before: refused.
//!
//! Only holders of a key can add to its memory, and none makes another key's
//! memory forget. An entry is kept for two to four windows: after two its message
//! is too old anyway. All that is kept here is in time since boot, which nobody
//! sets, so correcting the host's clock also corrects what a message is compared
//! with. Both clocks are arguments.

use std::collections::{HashMap, HashSet};

use crate::keys::KeyId;

/// How far the clocks of both ends may be apart, in milliseconds.
pub const WINDOW_MS: u64 = 120_000;

/// How long a message has to be remembered, in milliseconds: the clock of one that
/// is as far ahead as possible is fresh for so long.
pub const MEMORY_MS: i64 = 2 * WINDOW_MS as i64;

/// A generation is also dropped early when it has this many entries (about
/// 16 MiB), so that memory stays bounded whatever the key holders do; what that
/// forgets gets at most a message 2.
const MAX_GENERATION: usize = 1 << 20;

/// One moment by both clocks of a host, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Unix time, which the host may set.
    pub unix_ms: u64,
    /// Time since boot, which only grows.
    pub boot_ms: i64,
}

/// A first message that an acceptor answered: which key, and which message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answered {
    /// The key of the message.
    pub key: KeyId,
    /// The first bytes of its tag.
    pub fingerprint: u64,
}

/// The first messages that were seen lately.
#[derive(Debug)]
pub struct ReplayFilter {
    /// Since when messages are remembered, in time since boot.
    since_ms: i64,
    seen: HashMap<KeyId, Generations>,
}

/// The messages under one key, in two generations.
#[derive(Debug)]
struct Generations {
    turned_ms: i64,
    young: HashSet<u64>,
    old: HashSet<u64>,
}

/// Why a first message is refused although its tag is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// The dialer's clock is this far behind ours, in milliseconds.
    #[error("its clock is {0} ms behind ours: a replay, or a wrong clock")]
    Old(u64),
    /// The dialer's clock is this far ahead of ours, in milliseconds.
    #[error("its clock is {0} ms ahead of ours: set the clock of one of the hosts right")]
    New(u64),
    /// From before this acceptor remembers.
    #[error("it was made before this end began to remember: a replay, or a clock that is behind")]
    BeforeStart,
    /// Seen before.
    #[error("it was seen before: a replay")]
    Seen,
}

impl ReplayFilter {
    /// A memory that is empty and begins at `since_ms`, in time since boot.
    pub fn new(since_ms: i64) -> Self {
        Self { since_ms, seen: HashMap::new() }
    }

    /// Checks that a message that was made at `sent_ms` (unix time) is neither too
    /// old nor too new, and not from before this memory.
    ///
    /// # Errors
    /// [`Stale`] says why it gets no answer.
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

    /// Remembers a message; `false` when it was seen before.
    pub fn remember(&mut self, Answered { key, fingerprint }: Answered, boot_ms: i64) -> bool {
        // A key that is gone is forgotten with its last message.
        self.seen.retain(|_, seen| !seen.is_outdated(boot_ms));
        let seen = self.seen.entry(key).or_insert_with(|| Generations::new(boot_ms));
        seen.turn(boot_ms);
        !seen.old.contains(&fingerprint) && seen.young.insert(fingerprint)
    }

    /// Whether it was seen.
    pub fn has_seen(&self, Answered { key, fingerprint }: Answered) -> bool {
        self.seen.get(&key).is_some_and(|seen| {
            seen.young.contains(&fingerprint) || seen.old.contains(&fingerprint)
        })
    }
}

impl Generations {
    fn new(turned_ms: i64) -> Self {
        Self { turned_ms, young: HashSet::new(), old: HashSet::new() }
    }

    /// Whether all of its messages are too old to be fresh.
    fn is_outdated(&self, boot_ms: i64) -> bool {
        boot_ms >= self.turned_ms.saturating_add(2 * MEMORY_MS)
    }

    /// Forgets the old generation when the young one is two windows old, or full.
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
