//! Recorded first messages get no answer.
//!
//! Whoever recorded a dialer's message 1 can send it again. It can never reach
//! the target with it, but it would get message 2 for an answer, and cost the
//! acceptor two X25519. So the acceptor compares the clock in Hello with its own
//! and remembers what it saw:
//!
//! - older or newer than [`WINDOW_MS`]: refused;
//! - sent before this acceptor started, when it could not remember: refused;
//! - seen before: refused.
//!
//! Only holders of the key can add to the memory. An entry is kept for two to
//! four windows: after two its message is too old anyway. The clock is an
//! argument.

use std::collections::HashSet;

/// How far the clocks of both ends may be apart, in milliseconds.
pub const WINDOW_MS: u64 = 120_000;

/// A generation is also dropped early when it has this many entries (about
/// 16 MiB), so that memory stays bounded whatever the key holders do; what that
/// forgets gets at most a message 2.
const MAX_GENERATION: usize = 1 << 20;

/// The first messages that were seen lately.
pub struct ReplayFilter {
    started_ms: u64,
    turned_ms: u64,
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
    /// From before this acceptor started.
    #[error("it was made before this end started: a replay, or a clock that is behind")]
    BeforeStart,
    /// Seen before.
    #[error("it was seen before: a replay")]
    Seen,
}

impl ReplayFilter {
    /// An empty memory of an acceptor that starts at `now_ms` (unix milliseconds).
    pub fn new(now_ms: u64) -> Self {
        Self { started_ms: now_ms, turned_ms: now_ms, young: HashSet::new(), old: HashSet::new() }
    }

    /// Whether the message with this `fingerprint`, made at `sent_ms`, is new at
    /// `now_ms`; remembers it if so.
    ///
    /// # Errors
    /// [`Stale`] says why it gets no answer.
    pub fn check(&mut self, fingerprint: u64, sent_ms: u64, now_ms: u64) -> Result<(), Stale> {
        if sent_ms > now_ms.saturating_add(WINDOW_MS) {
            return Err(Stale::New(sent_ms - now_ms));
        }
        if sent_ms.saturating_add(WINDOW_MS) < now_ms {
            return Err(Stale::Old(now_ms - sent_ms));
        }
        if sent_ms < self.started_ms {
            return Err(Stale::BeforeStart);
        }
        self.turn(now_ms);
        if self.old.contains(&fingerprint) || !self.young.insert(fingerprint) {
            return Err(Stale::Seen);
        }
        Ok(())
    }

    /// Forgets the old generation when the young one is two windows old, or full.
    fn turn(&mut self, now_ms: u64) {
        let due = now_ms >= self.turned_ms.saturating_add(2 * WINDOW_MS);
        if due || self.young.len() >= MAX_GENERATION {
            self.old = std::mem::take(&mut self.young);
            self.turned_ms = now_ms;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000;

    #[test]
    fn a_message_is_answered_once() {
        let mut filter = ReplayFilter::new(START);
        assert_eq!(filter.check(1, START + 5, START + 10), Ok(()));
        assert_eq!(filter.check(2, START + 5, START + 10), Ok(()));
        assert_eq!(filter.check(1, START + 5, START + 11), Err(Stale::Seen));
    }

    #[test]
    fn a_message_is_remembered_until_it_is_too_old() {
        let mut filter = ReplayFilter::new(START);
        let sent = START + WINDOW_MS;
        assert_eq!(filter.check(1, sent, START), Ok(()), "from a clock that is ahead");
        for now in (START..=sent + WINDOW_MS).step_by(1_000) {
            assert_eq!(filter.check(1, sent, now), Err(Stale::Seen));
            assert_eq!(filter.check(now, now, now), Ok(()));
        }
        let late = sent + WINDOW_MS + 1;
        assert_eq!(filter.check(1, sent, late), Err(Stale::Old(WINDOW_MS + 1)));
    }

    #[test]
    fn after_a_restart_older_messages_get_no_answer() {
        let mut filter = ReplayFilter::new(START);
        assert_eq!(filter.check(1, START - 1, START + 5), Err(Stale::BeforeStart));
        assert_eq!(filter.check(1, START, START + 5), Ok(()));
    }

    #[test]
    fn wrong_clocks_are_told_with_their_distance() {
        let mut filter = ReplayFilter::new(START);
        let ahead = START + WINDOW_MS + 1;
        assert_eq!(filter.check(1, ahead, START), Err(Stale::New(WINDOW_MS + 1)));
        assert_eq!(filter.check(1, START, ahead), Err(Stale::Old(WINDOW_MS + 1)));
        assert_eq!(filter.check(1, u64::MAX, START), Err(Stale::New(u64::MAX - START)));
        assert_eq!(filter.check(1, 0, u64::MAX), Err(Stale::Old(u64::MAX)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut filter = ReplayFilter::new(START);
        for i in 0..3 * MAX_GENERATION as u64 {
            assert_eq!(filter.check(i, START, START), Ok(()));
        }
        assert!(filter.young.len() <= MAX_GENERATION && filter.old.len() <= MAX_GENERATION);
    }
}
