//! Memory of the first messages that this process and its predecessor have answered.
//!
//! One memory serves every tunnel of the process, across reloads, because two tunnels may have the
//! same key. It is handed to the process that takes over, and both use it at the same time then:
//! connections of the old process may send their first message when the new one already accepts. So
//! no message has to be refused only because it was sent before the process started, as long as the
//! predecessor's memory was handed over.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{debug, warn};

use crate::net::clock::{Clock, ms_since_boot};
use crate::net::journal::{Claim, Journal};
use crate::proto::replay::{Answered, MEMORY_MS, MemoryName, Moment, ReplayFilter, Stale};
use crate::random::random;

/// Difference in milliseconds that rounding of two clocks may cause: a message that is made right
/// after the start must not count as older.
const ROUNDING_MS: i64 = 2;

/// Memory of first messages of all decrypt ends.
pub struct ReplayState {
    clock: Clock,
    seen: Mutex<Seen>,
    /// The log has a line that the memory is not shared.
    is_alone: AtomicBool,
}

struct Seen {
    filter: ReplayFilter,
    /// Memory that is shared with the predecessor or the successor; `None` where the system has
    /// none for that.
    journal: Option<Journal>,
}

impl ReplayState {
    /// Begins to remember now: messages that were sent before are refused.
    pub fn begin() -> Self {
        let since_ms = ms_since_boot() - ROUNDING_MS;
        let journal = claimant().and_then(|claimant| Journal::create(since_ms, claimant));
        let journal = journal
            .inspect_err(|error| {
                let detail = "a process that takes over will refuse what was sent before it";
                warn!(%error, detail, "replay state is kept in this process only");
            })
            .ok();
        Self::of(ReplayFilter::new(since_ms), journal)
    }

    /// Continues the memory of the predecessor.
    ///
    /// # Errors
    /// An error of the system, or a descriptor of something else.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        let (mut journal, since_ms) = Journal::adopt(descriptor, claimant()?)?;
        let mut filter = ReplayFilter::new(since_ms);
        let now_ms = ms_since_boot();
        let mut messages = 0;
        journal.read(|claim| messages += u64::from(filter.remember(answered(claim), now_ms)))?;
        debug!(messages, "continuing with the predecessor's replay state");
        Ok(Self::of(filter, Some(journal)))
    }

    fn of(filter: ReplayFilter, journal: Option<Journal>) -> Self {
        let is_alone = AtomicBool::new(journal.is_none());
        Self { clock: Clock::start(), seen: Mutex::new(Seen { filter, journal }), is_alone }
    }

    /// Duplicates the memory's descriptor for a process that takes over.
    ///
    /// # Errors
    /// When there is none to share, or no free descriptor.
    pub fn share(&self) -> io::Result<OwnedFd> {
        let seen = self.seen();
        let journal = seen.journal.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        journal.share()
    }

    /// Returns this host's unix time in milliseconds.
    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Checks that a first message, made at `sent_ms`, is fresh, and remembers it.
    ///
    /// # Errors
    /// [`Stale`], the reason why it gets no answer.
    pub fn check(&self, message: Answered, sent_ms: u64) -> Result<(), Stale> {
        let now = self.moment();
        let mut seen = self.seen();
        seen.filter.check_time(sent_ms, now)?;
        if seen.filter.has_seen(message) {
            return Err(Stale::Seen);
        }
        if let Err(error) = seen.learn_from_others(message, now.boot_ms)
            && !self.is_alone.swap(true, Ordering::Relaxed)
        {
            let detail = "a process that takes over may answer a recording once";
            warn!(%error, detail, "replay state is kept in this process only");
        }
        if seen.filter.remember(message, now.boot_ms) { Ok(()) } else { Err(Stale::Seen) }
    }

    /// Returns the time of both clocks. The host's clock is read each time, as it may have been
    /// set: after a start without a battery or a network, or a pause of the machine.
    fn moment(&self) -> Moment {
        let moved = self.clock.reread();
        if moved.is_set() {
            warn!(moved_ms = moved.0, "system clock was set; following it");
        }
        Moment { unix_ms: self.clock.now_ms(), boot_ms: ms_since_boot() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// Shares a message with the other process, and remembers the messages that it shared.
    fn learn_from_others(&mut self, message: Answered, now_ms: i64) -> io::Result<()> {
        let Self { filter, journal } = self;
        let Some(journal) = journal else { return Ok(()) };
        journal.claim(claim(message), |other| {
            filter.remember(answered(other), now_ms);
        })?;
        journal.forget(now_ms, MEMORY_MS);
        Ok(())
    }
}

fn claimant() -> io::Result<u32> {
    random().map(u32::from_le_bytes)
}

fn claim(Answered { memory, fingerprint }: Answered) -> Claim {
    let mut claim = [0; 12];
    claim[..8].copy_from_slice(&fingerprint.to_le_bytes());
    claim[8..].copy_from_slice(&memory.to_bytes());
    claim
}

fn answered(claim: Claim) -> Answered {
    let [fingerprint @ .., a, b, c, d] = claim;
    let memory = MemoryName::from_bytes([a, b, c, d]);
    Answered { memory, fingerprint: u64::from_le_bytes(fingerprint) }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime, UNIX_EPOCH};

    use super::*;
    use crate::keys::KeyId;

    fn message(number: u64) -> Answered {
        Answered::handshake(KeyId::from_bytes([1, 2, 3, 4]), number)
    }

    fn knock(number: u64) -> Answered {
        Answered::knock(KeyId::from_bytes([1, 2, 3, 4]), number)
    }

    /// A dialer on the same host that waited for the start.
    #[test]
    fn what_is_sent_right_after_the_start_is_fresh() {
        for number in 0..500 {
            let memory = ReplayState::begin();
            let sent = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let sent_ms = sent.as_millis().try_into().unwrap();
            // So that only one of both clocks has advanced by a millisecond.
            std::thread::sleep(Duration::from_micros(number % 20 * 50));
            assert_eq!(memory.check(message(number), sent_ms), Ok(()), "message {number}");
        }
    }

    #[test]
    fn claims_are_messages() {
        for message in [message(77), knock(77)] {
            assert_eq!(answered(claim(message)), message);
        }
    }

    /// Two instances share the memory as two processes do.
    #[test]
    fn what_one_process_has_answered_the_other_does_not_answer() {
        let old = ReplayState::begin();
        let sent_ms = old.now_ms() + 1_000;
        assert_eq!(old.check(message(1), sent_ms), Ok(()));
        let new = ReplayState::adopt(old.share().unwrap()).unwrap();
        assert_eq!(new.check(message(1), sent_ms), Err(Stale::Seen));
        assert_eq!(old.check(message(2), sent_ms), Ok(()));
        assert_eq!(new.check(message(2), sent_ms), Err(Stale::Seen));
        assert_eq!(new.check(message(3), sent_ms), Ok(()));
        assert_eq!(old.check(message(3), sent_ms), Err(Stale::Seen));
        assert_eq!(old.check(knock(3), sent_ms), Ok(()), "a knock is no first message");
        assert_eq!(new.check(knock(3), sent_ms), Err(Stale::Seen));
        assert_eq!(new.check(message(4), new.now_ms() - 60_000), Err(Stale::BeforeStart));
    }
}
