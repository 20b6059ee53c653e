//! Renewal of grants by living sessions: which grants are due.
//!
//! A grant is short, and a session may be long. So a grant that is in use is renewed once half of
//! the time of a grant is left, and ends by itself after the last session. The store has the last
//! word: it renews only what a knock has made. Pure: the caller says what time it is.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::gate::UnixMillis;
use crate::gate::granting::InUse;

/// Shortest time from one renewal of a grant to the next, as a part of the time of a grant: the
/// store's answer may be on its way.
const PAUSE: u32 = 8;

/// Renewals of the grants of one tunnel.
#[derive(Debug)]
pub(super) struct Renewals {
    /// Time of a grant.
    lasting: Duration,
    /// Moments of the last renewals.
    renewed: HashMap<IpAddr, UnixMillis>,
}

impl Renewals {
    /// Renews grants by `lasting`.
    pub(super) fn new(lasting: Duration) -> Self {
        Self { lasting, renewed: HashMap::new() }
    }

    /// Returns the addresses with grants that are to be renewed now.
    pub(super) fn due(&mut self, in_use: &[InUse], now: UnixMillis) -> Vec<IpAddr> {
        let lasting = self.lasting;
        self.renewed.retain(|_, at| now.saturating_since(*at) < lasting);
        let mut due = vec![];
        for InUse { ip, until } in in_use {
            let is_old = until.saturating_since(now) <= lasting / 2;
            let last = self.renewed.get(ip);
            let is_new = last.is_none_or(|at| now.saturating_since(*at) >= lasting / PAUSE);
            if is_old && is_new {
                self.renewed.insert(*ip, now);
                due.push(*ip);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMillis = UnixMillis(1_800_000_000_000);

    fn at(seconds: u64) -> UnixMillis {
        START.saturating_add(Duration::from_secs(seconds))
    }

    fn use_until(seconds: u64) -> [InUse; 1] {
        [InUse { ip: "203.0.113.7".parse().unwrap(), until: at(seconds) }]
    }

    #[test]
    fn a_grant_in_use_never_lapses_and_is_renewed_twice_in_its_time() {
        let mut renewals = Renewals::new(Duration::from_secs(60));
        let mut until = 60;
        let mut count = 0;
        for second in 0..36_000 {
            assert!(until > second, "it lapsed at {second}");
            if !renewals.due(&use_until(until), at(second)).is_empty() {
                (until, count) = (second + 60, count + 1);
            }
        }
        assert_eq!(count, 36_000 / 30 - 1);
    }

    #[test]
    fn a_store_that_does_not_answer_is_asked_eight_times_in_the_time_of_a_grant() {
        let mut renewals = Renewals::new(Duration::from_secs(64));
        let asked = (0..64).filter(|second| !renewals.due(&use_until(64), at(*second)).is_empty());
        assert_eq!(asked.collect::<Vec<_>>(), [32, 40, 48, 56]);
    }

    #[test]
    fn a_long_grant_is_left_alone_and_what_is_not_in_use_is_forgotten() {
        let mut renewals = Renewals::new(Duration::from_secs(60));
        assert!(renewals.due(&use_until(43_200), at(0)).is_empty());
        assert_eq!(renewals.due(&use_until(10), at(0)).len(), 1);
        assert_eq!(renewals.renewed.len(), 1);
        assert!(renewals.due(&[], at(61)).is_empty() && renewals.renewed.is_empty());
    }
}
