//! Knocks that were sent, and whether another is due: a decision without a clock or a socket.
//!
//! A grant is for the address that a datagram came from. So a knock counts for one way only, from a
//! local address to one of the far end; from another local address it counts for nothing. Nobody
//! answers a knock: a handshake that succeeds is the sign that knocks arrived.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::net::far_clock::Guess;

/// Shortest time between two knocks on one way; it doubles with each that came to nothing.
const GAP_MS: i64 = 80;

/// Longest such time.
const LONGEST_GAP_MS: i64 = 1_000;

/// Ways that are remembered: more than a name has addresses. Forgetting one costs a datagram.
const MOST: usize = 64;

/// Way of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Address of the far end.
    pub to: SocketAddr,
    /// Address of this host.
    pub from: IpAddr,
}

/// Occasion of a knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// A connection is wanted: a knock is due unless one counts still.
    Wanted,
    /// A connection was not let in.
    Denied,
    /// Knocks before this do not count.
    Changed,
}

/// Knocks that were sent.
#[derive(Debug)]
pub struct SentKnocks {
    /// Time for which a knock counts.
    counts_ms: i64,
    all: Vec<SentKnock>,
}

#[derive(Debug)]
struct SentKnock {
    way: Way,
    at_ms: i64,
    /// Knocks since the last handshake.
    unanswered: u32,
}

impl SentKnocks {
    /// Creates an empty list, for grants that last this long.
    pub fn new(lasting: Duration) -> Self {
        let lasting_ms = i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX);
        Self { counts_ms: lasting_ms / 2, all: vec![] }
    }

    /// Returns the guess at the far end's clock for a knock, if one is due. After one that came to
    /// nothing it is the other guess.
    pub fn due(&self, way: Way, occasion: Occasion, now_ms: i64) -> Option<Guess> {
        let Some(last) = self.all.iter().find(|sent| sent.way == way) else {
            return Some(Guess::First);
        };
        let age_ms = now_ms.saturating_sub(last.at_ms);
        let is_due = match occasion {
            Occasion::Changed => true,
            Occasion::Denied => age_ms >= last.gap_ms(),
            Occasion::Wanted => {
                age_ms >= self.counts_ms || (last.unanswered > 0 && age_ms >= last.gap_ms())
            }
        };
        let guess = if last.unanswered % 2 == 0 { Guess::First } else { Guess::Second };
        is_due.then_some(guess)
    }

    /// Notes a knock.
    pub fn sent(&mut self, way: Way, now_ms: i64) {
        let last = self.all.iter().position(|sent| sent.way.to == way.to);
        let last = last.map(|place| self.all.remove(place)).filter(|last| last.way == way);
        let unanswered = last.map_or(0, |last| last.unanswered).saturating_add(1);
        if self.all.len() >= MOST {
            self.all.remove(0);
        }
        self.all.push(SentKnock { way, at_ms: now_ms, unanswered });
    }

    /// Notes a handshake that succeeded.
    pub fn answered(&mut self) {
        self.all.iter_mut().for_each(|sent| sent.unanswered = 0);
    }

    /// Returns the local address of the last knock at an address.
    pub fn source_to(&self, to: SocketAddr) -> Option<IpAddr> {
        self.all.iter().find(|sent| sent.way.to == to).map(|sent| sent.way.from)
    }
}

impl SentKnock {
    fn gap_ms(&self) -> i64 {
        (GAP_MS << self.unanswered.min(8)).min(LONGEST_GAP_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(60);

    fn way(to: &str, from: &str) -> Way {
        Way { to: to.parse().unwrap(), from: from.parse().unwrap() }
    }

    fn usual() -> Way {
        way("203.0.113.1:6380", "192.0.2.7")
    }

    #[test]
    fn a_knock_counts_for_half_of_the_grant_and_one_way() {
        let mut sent = SentKnocks::new(LASTING);
        let due = |sent: &SentKnocks, way, now_ms| sent.due(way, Occasion::Wanted, now_ms);
        assert_eq!(due(&sent, usual(), 0), Some(Guess::First));
        sent.sent(usual(), 0);
        sent.answered();
        assert_eq!(due(&sent, usual(), 29_999), None);
        assert_eq!(due(&sent, usual(), 30_000), Some(Guess::First));
        let elsewhere = way("203.0.113.2:6380", "192.0.2.7");
        let moved = way("203.0.113.1:6380", "192.0.2.8");
        assert_eq!(due(&sent, elsewhere, 1), Some(Guess::First));
        assert_eq!(due(&sent, moved, 1), Some(Guess::First));
        sent.sent(moved, 2);
        assert_eq!(due(&sent, usual(), 3), Some(Guess::First), "it left that address");
        assert_eq!(sent.source_to(moved.to), Some(moved.from));
    }

    #[test]
    fn a_knock_that_came_to_nothing_is_repeated_with_the_other_clock_and_ever_longer_gaps() {
        let mut sent = SentKnocks::new(LASTING);
        let mut now_ms = 0;
        let mut gaps = vec![];
        for number in 0..8 {
            let guess = [Guess::First, Guess::Second][number % 2];
            for occasion in [Occasion::Denied, Occasion::Wanted] {
                assert_eq!(sent.due(usual(), occasion, now_ms), Some(guess), "{number}");
            }
            sent.sent(usual(), now_ms);
            let since = now_ms;
            while sent.due(usual(), Occasion::Denied, now_ms).is_none() {
                now_ms += 1;
            }
            gaps.push(now_ms - since);
        }
        assert_eq!(gaps, [160, 320, 640, 1_000, 1_000, 1_000, 1_000, 1_000]);
        sent.answered();
        assert_eq!(sent.due(usual(), Occasion::Wanted, now_ms), None);
        let gap = now_ms - 1_000 + GAP_MS;
        assert_eq!(sent.due(usual(), Occasion::Denied, gap), Some(Guess::First));
        assert_eq!(sent.due(usual(), Occasion::Changed, now_ms - 1_000), Some(Guess::First));
    }

    #[test]
    fn the_list_is_bounded() {
        let mut sent = SentKnocks::new(LASTING);
        for port in 1..=200 {
            sent.sent(way(&format!("203.0.113.1:{port}"), "192.0.2.7"), 0);
        }
        assert_eq!(sent.all.len(), MOST);
        assert!(sent.source_to("203.0.113.1:200".parse().unwrap()).is_some());
    }
}
