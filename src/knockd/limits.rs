//! Limits of knocks over HTTP: failures and successes of each source in a sliding window.
//!
//! A source is an IPv4 address or an IPv6 /64 ([`SourceKey`]). One that has used up its failures is
//! locked out: whatever it sends is refused unread, a right token too, or else the limit would only
//! change the answer to a wrong guess. Attempts while it is locked out do not count, so that the
//! lock ends when the answer says so.
//!
//! Pure: the caller says what time it is. Memory is bounded at [`MOST_MARKS`] attempts. When all of
//! them are taken, further attempts count for one common source, and its lock keeps out every source:
//! forgetting others instead would give a guesser with many networks as many attempts as they like.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::addr::SourceKey;

/// Attempts that are kept: about 6 MiB where each is of another source.
const MOST_MARKS: usize = if cfg!(test) { 1_000 } else { 65_536 };

/// Most attempts of a source in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Attempts; zero is no limit.
    pub most: usize,
    /// Length of the window.
    pub window: Duration,
}

/// Attempts of one kind.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    rate: Rate,
    /// Moments of the attempts of each source, oldest first.
    marks: HashMap<SourceKey, VecDeque<Instant>>,
    /// The same of all sources. One that was taken back is still here.
    order: VecDeque<Mark>,
    /// Moments of attempts beyond [`MOST_MARKS`], never more than the limit.
    overflow: VecDeque<Instant>,
}

/// One attempt.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    source: SourceKey,
}

/// The limits of one service.
#[derive(Debug, Default)]
pub(super) struct Limits {
    /// Refused knocks.
    pub(super) failures: Attempts,
    /// Granted knocks.
    pub(super) successes: Attempts,
}

impl Limits {
    /// Changes the limits. Attempts that were counted stay.
    pub(super) fn set_rates(&mut self, failures: Rate, successes: Rate) {
        self.failures.rate = failures;
        self.successes.rate = successes;
    }
}

impl Attempts {
    /// Returns the time until `source` may make another attempt; `None` is now.
    pub(super) fn wait(&mut self, source: SourceKey, now: Instant) -> Option<Duration> {
        self.forget(now);
        let own = self.marks.get(&source).and_then(|marks| self.full_since(marks));
        let common = self.is_full().then(|| self.full_since(&self.overflow)).flatten();
        let since = own.max(common)?;
        Some((since + self.rate.window).saturating_duration_since(now))
    }

    /// Counts an attempt of `source`.
    pub(super) fn mark(&mut self, source: SourceKey, now: Instant) {
        self.forget(now);
        if self.rate.most == 0 {
            return;
        }
        if !self.is_full() {
            self.marks.entry(source).or_default().push_back(now);
            self.order.push_back(Mark { at: now, source });
        } else if self.overflow.len() < self.rate.most {
            self.overflow.push_back(now);
        }
    }

    /// Takes back the last attempt of `source`, which came to nothing.
    pub(super) fn take_back(&mut self, source: SourceKey) {
        if let Some(marks) = self.marks.get_mut(&source) {
            marks.pop_back();
            if marks.is_empty() {
                self.marks.remove(&source);
            }
        }
    }

    /// Returns the oldest of as many attempts as there may be.
    fn full_since(&self, marks: &VecDeque<Instant>) -> Option<Instant> {
        let most = self.rate.most;
        let oldest = marks.len().checked_sub(most).filter(|_| most > 0)?;
        marks.get(oldest).copied()
    }

    fn is_full(&self) -> bool {
        self.order.len() >= MOST_MARKS
    }

    /// Forgets attempts that have left the window.
    fn forget(&mut self, now: Instant) {
        let window = self.rate.window;
        while let Some(Mark { at, source }) = self.order.front().copied()
            && at + window <= now
        {
            self.order.pop_front();
            let Some(marks) = self.marks.get_mut(&source) else { continue };
            // Another one, if this was taken back.
            if marks.front() == Some(&at) {
                marks.pop_front();
            }
            if marks.is_empty() {
                self.marks.remove(&source);
            }
        }
        while self.overflow.front().is_some_and(|at| *at + window <= now) {
            self.overflow.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn attempts(most: usize) -> Attempts {
        Attempts { rate: Rate { most, window: WINDOW }, ..Attempts::default() }
    }

    fn source(ip: &str) -> SourceKey {
        ip.parse::<IpAddr>().unwrap().into()
    }

    fn number(number: u32) -> SourceKey {
        IpAddr::from(Ipv4Addr::from_bits(0x0b00_0000 + number)).into()
    }

    #[test]
    fn a_window_slides_and_the_wait_is_exact() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut attempts = attempts(3);
        let guest = source("203.0.113.7");
        for second in [0, 20, 40] {
            assert_eq!(attempts.wait(guest, at(second)), None);
            attempts.mark(guest, at(second));
        }
        assert_eq!(attempts.wait(guest, at(45)), Some(Duration::from_secs(15)));
        assert_eq!(attempts.wait(guest, at(59)), Some(Duration::from_secs(1)));
        assert_eq!(attempts.wait(guest, at(60)), None, "the first has left the window");
        attempts.mark(guest, at(60));
        assert_eq!(attempts.wait(guest, at(60)), Some(Duration::from_secs(20)));
        assert_eq!(attempts.wait(source("203.0.113.8"), at(60)), None, "another source");
    }

    #[test]
    fn the_addresses_of_a_64_are_one_source_and_mapped_ones_their_ipv4_address() {
        let now = Instant::now();
        let mut attempts = attempts(2);
        attempts.mark(source("2001:db8::1"), now);
        attempts.mark(source("2001:db8::ffff:2"), now);
        assert!(attempts.wait(source("2001:db8::3"), now).is_some());
        assert!(attempts.wait(source("2001:db8:0:1::3"), now).is_none());
        attempts.mark(source("::ffff:203.0.113.7"), now);
        attempts.mark(source("203.0.113.7"), now);
        assert!(attempts.wait(source("203.0.113.7"), now).is_some());
    }

    #[test]
    fn zero_is_no_limit() {
        let now = Instant::now();
        let mut attempts = attempts(0);
        (0..10_000).for_each(|_| attempts.mark(number(1), now));
        assert!(attempts.wait(number(1), now).is_none() && attempts.order.is_empty());
    }

    #[test]
    fn an_attempt_that_came_to_nothing_is_taken_back() {
        let start = Instant::now();
        let mut attempts = attempts(2);
        attempts.mark(number(1), start);
        attempts.mark(number(1), start + Duration::from_secs(1));
        attempts.take_back(number(1));
        let later = start + Duration::from_secs(30);
        assert_eq!(attempts.wait(number(1), later), None);
        attempts.mark(number(1), later);
        assert_eq!(attempts.wait(number(1), later), Some(Duration::from_secs(30)));
        let end = later + WINDOW;
        assert_eq!(attempts.wait(number(1), end), None);
        assert!(attempts.marks.is_empty() && attempts.order.is_empty());
        attempts.take_back(number(2));
    }

    #[test]
    fn memory_is_bounded_and_a_flood_from_everywhere_locks_out_what_it_cannot_count() {
        let now = Instant::now();
        let mut attempts = attempts(3);
        for source in 0..1_000_000 {
            attempts.mark(number(source), now);
        }
        assert!(attempts.order.len() == MOST_MARKS && attempts.marks.len() == MOST_MARKS);
        assert!(attempts.overflow.len() == 3);
        let unknown = IpAddr::from(Ipv6Addr::LOCALHOST).into();
        for source in [number(1), number(2_000_000), unknown] {
            assert_eq!(attempts.wait(source, now), Some(WINDOW));
            assert_eq!(attempts.wait(source, now + WINDOW), None);
            assert!(attempts.marks.is_empty() && attempts.order.is_empty());
            (0..1_000_000).for_each(|source| attempts.mark(number(source), now));
        }
    }

    #[test]
    fn a_flood_of_one_source_is_its_own_trouble() {
        let now = Instant::now();
        let mut attempts = attempts(3);
        for _ in 0..100_000 {
            if attempts.wait(number(1), now).is_none() {
                attempts.mark(number(1), now);
            }
        }
        assert_eq!(attempts.order.len(), 3, "what is refused unread is not counted");
        assert_eq!(attempts.wait(number(2), now), None);
    }
}
