//! Unix time that does not jump while the process runs.
//!
//! The wall clock is read once, at start; from then on time goes by the clock
//! that counts since boot, sleep of the machine included. Setting the wall
//! clock neither ends the memory of first messages nor makes fresh ones stale.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// This process's unix time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    unix_ms_at_boot: i64,
}

/// An estimate of the far end's clock, learnt from what it last said.
///
/// Only a first contact needs both hosts' wall clocks to agree; after it, this
/// process speaks the far end's time, also when that end restarts.
#[derive(Debug)]
pub struct FarClock {
    own: Clock,
    ahead_ms: AtomicI64,
}

impl Clock {
    /// Reads the wall clock, for the only time.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall_ms = i64::try_from(wall.as_millis()).unwrap_or(i64::MAX);
        Self { unix_ms_at_boot: wall_ms - ms_since_boot() }
    }

    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.unix_ms_at_boot + ms_since_boot()).unwrap_or(0)
    }
}

impl FarClock {
    /// Nothing learnt yet: our own time.
    pub fn new(own: Clock) -> Self {
        Self { own, ahead_ms: AtomicI64::new(0) }
    }

    /// The far end's unix time in milliseconds, as far as is known.
    pub fn now_ms(&self) -> u64 {
        self.own.now_ms().saturating_add_signed(self.ahead_ms.load(Ordering::Relaxed))
    }

    /// The far end just said that its time is `now_ms`.
    pub fn learn(&self, now_ms: u64) {
        let ahead = i128::from(now_ms) - i128::from(self.own.now_ms());
        // A clock that is no time at all teaches nothing.
        self.ahead_ms.store(i64::try_from(ahead).unwrap_or(0), Ordering::Relaxed);
    }

    /// The far end did not answer; what was learnt may be why.
    pub fn forget(&self) {
        self.ahead_ms.store(0, Ordering::Relaxed);
    }
}

fn ms_since_boot() -> i64 {
    let since = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux 2.6.39 and later have it");
    since.tv_sec() * 1_000 + since.tv_nsec() / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_unix_time_and_does_not_go_back() {
        let clock = Clock::start();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        let (one, two) = (clock.now_ms(), clock.now_ms());
        assert!(one <= two);
        assert!(one.abs_diff(wall) < 60_000, "{one} {wall}");
    }

    #[test]
    fn the_far_clock_is_learnt_and_forgotten() {
        let own = Clock::start();
        let far = FarClock::new(own);
        for far_ms in [own.now_ms() + 86_400_000, own.now_ms() - 86_400_000] {
            far.learn(far_ms);
            assert!(far.now_ms().abs_diff(far_ms) < 60_000);
        }
        far.forget();
        assert!(far.now_ms().abs_diff(own.now_ms()) < 60_000);
    }
}
