//! Unix time, which a host may set, and time since boot, which it cannot.
//!
//! The wall clock is read at start; from then on time follows the clock that counts since boot,
//! including sleep of the machine, until the wall clock is read again. Times that must not move
//! when the wall clock is set are kept as time since boot.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::unix_time::UnixMillis;

/// A difference that no drift since the last reading explains.
const SET_MS: u64 = 1_000;

/// This process's unix time.
#[derive(Debug)]
pub struct Clock {
    unix_ms_at_boot: AtomicI64,
}

/// An estimate of another host's unix time, from what that host says.
#[derive(Debug)]
pub struct FarClock {
    /// [`UNKNOWN`] until that host has sent one.
    unix_ms_at_boot: AtomicI64,
}

/// Stands for a time that was never received.
const UNKNOWN: i64 = i64::MIN;

/// The milliseconds by which reading the wall clock again moved a [`Clock`].
#[derive(Clone, Copy, Debug)]
pub struct Moved(pub i64);

impl Moved {
    /// Returns true if the wall clock was set, and did not only drift.
    pub fn is_set(self) -> bool {
        self.0.unsigned_abs() > SET_MS
    }
}

impl Clock {
    /// Reads the wall clock.
    pub fn start() -> Self {
        Self { unix_ms_at_boot: AtomicI64::new(wall_ms() - ms_since_boot()) }
    }

    /// The time by this clock.
    pub fn now(&self) -> UnixMillis {
        UnixMillis(self.now_ms())
    }

    /// The time by this clock as a bare number of milliseconds, as a handshake carries it.
    pub fn now_ms(&self) -> u64 {
        let now_ms = self.unix_ms_at_boot.load(Ordering::Relaxed).saturating_add(ms_since_boot());
        u64::try_from(now_ms).unwrap_or(0)
    }

    /// Sets the time of this clock.
    #[cfg(test)]
    pub(crate) fn set(&self, now: UnixMillis) {
        let now_ms = i64::try_from(now.0).expect("it is a time");
        self.unix_ms_at_boot.store(now_ms - ms_since_boot(), Ordering::Relaxed);
    }

    /// Reads the wall clock again. Returns true if it was set, and did not only drift.
    pub fn was_set(&self) -> bool {
        self.reread().is_set()
    }

    /// Reads the wall clock again. Returns how far that moves this one.
    pub fn reread(&self) -> Moved {
        let new = wall_ms() - ms_since_boot();
        Moved(new - self.unix_ms_at_boot.swap(new, Ordering::Relaxed))
    }
}

// === impl FarClock ===

impl FarClock {
    /// Creates a clock without an estimate.
    pub const fn unknown() -> Self {
        Self { unix_ms_at_boot: AtomicI64::new(UNKNOWN) }
    }

    /// Returns the time of that clock in unix milliseconds, if that host has ever sent it.
    pub fn now_ms(&self) -> Option<u64> {
        let at_boot = self.unix_ms_at_boot.load(Ordering::Relaxed);
        let now_ms = (at_boot != UNKNOWN).then(|| at_boot.saturating_add(ms_since_boot()));
        now_ms.and_then(|now_ms| u64::try_from(now_ms).ok())
    }

    /// Learns from an answer that has just arrived. That clock was at `told_ms` when the answer was
    /// sent; the question was sent at `asked_ms` (time since boot). Half of the time since then
    /// counts as the way back.
    pub fn learn(&self, told_ms: u64, asked_ms: i64) {
        let now_ms = ms_since_boot();
        let way_ms = now_ms.saturating_sub(asked_ms).max(0) / 2;
        // A value outside the range of times says nothing.
        if let Ok(told_ms) = i64::try_from(told_ms) {
            let at_boot = told_ms.saturating_add(way_ms).saturating_sub(now_ms);
            self.unix_ms_at_boot.store(at_boot, Ordering::Relaxed);
        }
    }
}

/// Reads the wall clock, which the host may set at any moment.
pub fn now() -> UnixMillis {
    UnixMillis(u64::try_from(wall_ms()).unwrap_or(0))
}

fn wall_ms() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the time since boot in milliseconds, sleep included: the same for all processes of a
/// host.
pub fn ms_since_boot() -> i64 {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux 2.6.39 and later have it");
    since.tv_sec() * 1_000 + since.tv_nsec() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The time that a slow machine may take between two lines.
    const A_MINUTE: u64 = 60_000;

    #[test]
    fn it_is_unix_time_and_goes_on() {
        let clock = Clock::start();
        let (one, two) = (clock.now_ms(), clock.now_ms());
        assert!(one <= two);
        assert!(one.abs_diff(wall_ms() as u64) < A_MINUTE, "{one}");
        assert!(clock.reread().0.unsigned_abs() < A_MINUTE);
    }

    #[test]
    fn the_clock_of_another_host_is_learnt_without_the_way_of_the_answer() {
        const DAY: u64 = 86_400_000;
        let (clock, now) = (FarClock::unknown(), wall_ms() as u64);
        assert_eq!(clock.now_ms(), None);
        for told in [now + DAY, now - DAY] {
            clock.learn(told, ms_since_boot());
            assert!(clock.now_ms().unwrap().abs_diff(told) < A_MINUTE);
        }
        clock.learn(now, ms_since_boot() - 2 * DAY as i64);
        assert!(clock.now_ms().unwrap().abs_diff(now + DAY) < A_MINUTE, "half of it");
        clock.learn(u64::MAX, ms_since_boot());
        assert!(clock.now_ms().unwrap().abs_diff(now + DAY) < A_MINUTE, "no time at all");
    }
}
