//! The unix time of another host, as far as that host told it.
//!
//! A dialer whose own clock is wrong is refused by the acceptor's replay protection; with this
//! estimate its next message carries the acceptor's time. It is kept in time since boot, so that
//! setting the clock of this host does not move it.

use std::sync::atomic::{AtomicI64, Ordering};

use super::clock::{Clock, ms_since_boot};

/// An estimate of another host's unix time, from what that host says.
#[derive(Debug)]
pub struct FarClock {
    /// [`UNKNOWN`] until that host said one.
    unix_ms_at_boot: AtomicI64,
}

/// Stands for a time that was never said.
const UNKNOWN: i64 = i64::MIN;

/// Lead of the second guess over the first one, where nothing better is known: a message from
/// before the start of an acceptor, or by a clock that is behind, gets no answer, and one that is a
/// minute ahead does.
const AHEAD_MS: u64 = 60_000;

/// Clocks that differ by less count as one guess.
const SAME_MS: u64 = 30_000;

/// One of two guesses at another host's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guess {
    /// The time that it told, or else that of this host.
    First,
    /// The time of this host, or a minute after the first guess where both are the same.
    Second,
}

impl FarClock {
    /// A clock of which nothing is known.
    pub const fn unknown() -> Self {
        Self { unix_ms_at_boot: AtomicI64::new(UNKNOWN) }
    }

    /// The time by that clock in unix milliseconds, if it was ever said.
    pub fn now_ms(&self) -> Option<u64> {
        let at_boot = self.unix_ms_at_boot.load(Ordering::Relaxed);
        let now_ms = (at_boot != UNKNOWN).then(|| at_boot.saturating_add(ms_since_boot()));
        now_ms.and_then(|now_ms| u64::try_from(now_ms).ok())
    }

    /// Returns a guess at that clock. A failed handshake never discards what was learnt, because it
    /// proves nothing: every host on the path can cause one.
    pub fn guess_ms(&self, guess: Guess) -> u64 {
        let own_ms = Clock::start().now_ms();
        let first_ms = self.now_ms().unwrap_or(own_ms);
        match guess {
            Guess::First => first_ms,
            Guess::Second if first_ms.abs_diff(own_ms) < SAME_MS => {
                first_ms.saturating_add(AHEAD_MS)
            }
            Guess::Second => own_ms,
        }
    }

    /// Learns from an answer that has just arrived. That clock was at `told_ms` when the
    /// answer was sent; the question was sent at `asked_ms` (time since boot). Half of the
    /// time in between counts as the way back.
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

#[cfg(test)]
mod tests {
    use super::super::clock::now;
    use super::*;

    /// The time that a slow machine may take between two lines.
    const A_MINUTE: u64 = 60_000;

    #[test]
    fn the_clock_of_another_host_is_learnt_without_the_way_of_the_answer() {
        const DAY: u64 = 86_400_000;
        let clock = FarClock::unknown();
        let now = now().0;
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

    #[test]
    fn the_second_guess_is_another_one() {
        const DAY: u64 = 86_400_000;
        let clock = FarClock::unknown();
        let own = now().0;
        let near = |guess, ms: u64| clock.guess_ms(guess).abs_diff(ms) < 20_000;
        assert!(near(Guess::First, own) && near(Guess::Second, own + 60_000));
        clock.learn(own + DAY, ms_since_boot());
        assert!(near(Guess::First, own + DAY) && near(Guess::Second, own));
        clock.learn(own + 1_000, ms_since_boot());
        assert!(near(Guess::First, own) && near(Guess::Second, own + 60_000));
    }
}
