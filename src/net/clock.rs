//! Unix time that does not jump while the process runs.
//!
//! The wall clock is read at start; from then on time goes by the clock that
//! counts since boot, sleep of the machine included. Setting the wall clock a
//! little neither ends the memory of first messages nor makes fresh ones stale.
//! Who finds that this time does not fit reads the wall clock again.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A difference that no drift since the last reading explains.
const SET_MS: u64 = 1_000;

/// A unix time: this process's own, or its estimate of the far end's.
#[derive(Debug)]
pub struct Clock {
    unix_ms_at_boot: AtomicI64,
}

/// By how many milliseconds reading the wall clock again moved a [`Clock`].
#[derive(Clone, Copy, Debug)]
pub struct Moved(pub i64);

impl Moved {
    /// Whether the wall clock was set, and did not only drift.
    pub fn is_set(self) -> bool {
        self.0.unsigned_abs() > SET_MS
    }
}

impl Clock {
    /// Reads the wall clock.
    pub fn start() -> Self {
        Self { unix_ms_at_boot: AtomicI64::new(wall_ms() - ms_since_boot()) }
    }

    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> u64 {
        let now_ms = self.unix_ms_at_boot.load(Ordering::Relaxed).saturating_add(ms_since_boot());
        u64::try_from(now_ms).unwrap_or(0)
    }

    /// From now on this is the time; for the estimate of another host's clock.
    pub fn set(&self, now_ms: u64) {
        // A clock that is no time at all teaches nothing.
        if let Ok(now_ms) = i64::try_from(now_ms) {
            self.unix_ms_at_boot.store(now_ms - ms_since_boot(), Ordering::Relaxed);
        }
    }

    /// Reads the wall clock again; whether it was set, and did not only drift.
    pub fn was_set(&self) -> bool {
        self.reread().is_set()
    }

    /// Reads the wall clock again; how far that moves this one.
    pub fn reread(&self) -> Moved {
        let new = wall_ms() - ms_since_boot();
        Moved(new - self.unix_ms_at_boot.swap(new, Ordering::Relaxed))
    }
}

fn wall_ms() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)
}

fn ms_since_boot() -> i64 {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux 2.6.39 and later have it");
    since.tv_sec() * 1_000 + since.tv_nsec() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a slow machine may take between two lines.
    const A_MINUTE: u64 = 60_000;

    #[test]
    fn it_is_unix_time_and_does_not_go_back() {
        let clock = Clock::start();
        let (one, two) = (clock.now_ms(), clock.now_ms());
        assert!(one <= two);
        assert!(one.abs_diff(wall_ms() as u64) < A_MINUTE, "{one}");
        assert!(clock.reread().0.unsigned_abs() < A_MINUTE);
    }

    #[test]
    fn it_follows_what_it_is_told_until_it_reads_the_wall_clock_again() {
        const DAY: u64 = 86_400_000;
        let (clock, now) = (Clock::start(), wall_ms() as u64);
        for told in [now + DAY, now - DAY] {
            clock.set(told);
            assert!(clock.now_ms().abs_diff(told) < A_MINUTE);
        }
        clock.set(u64::MAX);
        assert!(clock.now_ms().abs_diff(now - DAY) < A_MINUTE, "no time at all");
        assert!(clock.reread().0.abs_diff(DAY as i64) < A_MINUTE);
        clock.set(now - DAY);
        assert!(clock.was_set());
        assert!(clock.now_ms().abs_diff(now) < A_MINUTE);
    }
}
