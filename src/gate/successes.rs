//! The last time that each source proved to hold the key.
//!
//! A dialer makes a second connection if the first one stays silent, and the first one
//! fails at its deadline: after the success that should have forgiven it. So a
//! failure of a connection that is older than the last success of its source is
//! forgiven, too. Only holders of the key are remembered here, and no more
//! of them than [`MOST`] for each half of the time. The time is an argument.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::member::Member;

/// The time for which a success is remembered at least: longer than most handshakes may take.
const KEPT: Duration = Duration::from_secs(600);

/// Sources that are remembered of one such time; further ones are not.
const MOST: usize = 4_096;

/// The last successes.
pub(super) struct RecentSuccesses {
    turned: Instant,
    young: HashMap<Member, Instant>,
    old: HashMap<Member, Instant>,
}

impl RecentSuccesses {
    pub(super) fn new(now: Instant) -> Self {
        Self { turned: now, young: HashMap::new(), old: HashMap::new() }
    }

    /// Remembers a success.
    pub(super) fn note(&mut self, source: Member, now: Instant) {
        if now.saturating_duration_since(self.turned) >= KEPT {
            self.old = std::mem::take(&mut self.young);
            self.turned = now;
        }
        if self.young.len() < MOST || self.young.contains_key(&source) {
            self.young.insert(source, now);
        }
    }

    /// Returns true if `source` succeeded after `then`.
    pub(super) fn since(&self, source: Member, then: Instant) -> bool {
        let last = self.young.get(&source).or_else(|| self.old.get(&source));
        last.is_some_and(|last| *last >= then)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Member {
        Member::source_of(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn a_success_counts_for_what_came_before_it() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut proven = RecentSuccesses::new(start);
        proven.note(source(1), at(5));
        assert!(proven.since(source(1), at(4)) && proven.since(source(1), at(5)));
        assert!(!proven.since(source(1), at(6)) && !proven.since(source(2), at(4)));
        proven.note(source(1), at(7));
        assert!(proven.since(source(1), at(6)));
    }

    #[test]
    fn successes_are_forgotten_and_bounded() {
        let start = Instant::now();
        let mut proven = RecentSuccesses::new(start);
        for n in 0..2 * u32::try_from(MOST).unwrap() {
            proven.note(source(n), start);
        }
        assert!(proven.since(source(0), start));
        assert_eq!(proven.young.len(), MOST);
        proven.note(source(1), start + KEPT);
        assert!(proven.since(source(0), start), "for a while");
        proven.note(source(1), start + 2 * KEPT);
        assert!(!proven.since(source(0), start) && proven.since(source(1), start));
    }
}
