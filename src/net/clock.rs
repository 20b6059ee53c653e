//! Unix time, and time since boot: what a host may set, and what nobody does.
//!
//! The wall clock is read at start; from then on time goes by the clock that
//! counts since boot, sleep of the machine included, until the wall clock is read
//! again. What must not move when the wall clock is set is kept in time since boot.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A difference that no drift since the last reading explains.
const SET_MS: u64 = 1_000;

/// This process's unix time.
#[derive(Debug)]
pub struct Clock {
    unix_ms_at_boot: AtomicI64,
}

/// An estimate of another host's unix time, out of what it says.
#[derive(Debug)]
pub struct FarClock {
    /// [`UNKNOWN`] until it was told.
    unix_ms_at_boot: AtomicI64,
}

/// In the place of a time: none was ever told.
const UNKNOWN: i64 = i64::MIN;

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

    /// From now on this is the time.
    #[cfg(test)]
    pub(crate) fn set(&self, now_ms: u64) {
        let now_ms = i64::try_from(now_ms).expect("it is a time");
        self.unix_ms_at_boot.store(now_ms - ms_since_boot(), Ordering::Relaxed);
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

// === impl FarClock ===

impl FarClock {
    /// Nothing is known of it.
    pub const fn unknown() -> Self {
        Self { unix_ms_at_boot: AtomicI64::new(UNKNOWN) }
    }

    /// Its time in unix milliseconds, if it was ever told.
    pub fn now_ms(&self) -> Option<u64> {
        let at_boot = self.unix_ms_at_boot.load(Ordering::Relaxed);
        let now_ms = (at_boot != UNKNOWN).then(|| at_boot.saturating_add(ms_since_boot()));
        now_ms.and_then(|now_ms| u64::try_from(now_ms).ok())
    }

    /// Learns that it was `told_ms` when the answer was sent to a question of
    /// `asked_ms` (time since boot), which has just come: half of the time that it
    /// took was the way back.
    pub fn learn(&self, told_ms: u64, asked_ms: i64) {
        let now_ms = ms_since_boot();
        let way_ms = now_ms.saturating_sub(asked_ms).max(0) / 2;
        // A clock that is no time at all teaches nothing.
        if let Ok(told_ms) = i64::try_from(told_ms) {
            let at_boot = told_ms.saturating_add(way_ms).saturating_sub(now_ms);
            self.unix_ms_at_boot.store(at_boot, Ordering::Relaxed);
        }
    }
}

fn wall_ms() -> i64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(wall.as_millis()).unwrap_or(i64::MAX)
}

/// Time since boot in milliseconds, sleep included: the same for all processes of a host.
pub fn ms_since_boot() -> i64 {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux 2.6.39 and later have it");
    since.tv_sec() * 1_000 + since.tv_nsec() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a slow machine may take between two lines.
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
