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

/// The time by the wall clock, which the host may set at any moment.
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

/// Returns the milliseconds since boot in which this machine was awake.
pub fn ms_awake() -> i64 {
    let since = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has it");
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
        let one = clock.now_ms();
        let two = clock.now_ms();
        assert!(one <= two);
        assert!(one.abs_diff(wall_ms() as u64) < A_MINUTE, "{one}");
        assert!(clock.reread().0.unsigned_abs() < A_MINUTE);
    }
}
