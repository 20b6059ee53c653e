//! Knocks that were sent, and whether another is due: a decision without a clock or a socket.
//!
//! A grant is for the address that a datagram came from. So a knock counts for one way only, from a
//! local address to one of the far end; from another local address it counts for nothing. A
//! knock has no answer: a handshake that succeeds is the sign that knocks arrived.

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
    /// Knocks before this do not count. It says nothing about whether they worked.
    Changed,
}

/// A knock that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueKnock {
    /// Guess at the far end's clock.
    pub guess: Guess,
    /// Its occasion.
    pub occasion: Occasion,
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
    /// The last of them.
    last: DueKnock,
}

impl SentKnocks {
    /// Creates an empty list, for grants that last this long.
    pub fn new(lasting: Duration) -> Self {
        let lasting_ms = i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX);
        Self { counts_ms: lasting_ms / 2, all: vec![] }
    }

    /// Returns a knock, if one is due. After one that came to nothing it has the other guess at the
    /// far end's clock; a renewal never has, because nothing shows that the one before it failed.
    pub fn due(&self, way: Way, occasion: Occasion, now_ms: i64) -> Option<DueKnock> {
        let Some(last) = self.all.iter().find(|sent| sent.way == way) else {
            return Some(DueKnock { guess: Guess::First, occasion });
        };
        let age_ms = now_ms.saturating_sub(last.at_ms);
        let is_due = match occasion {
            Occasion::Changed => true,
            Occasion::Denied => age_ms >= last.gap_ms(),
            Occasion::Wanted => {
                age_ms >= self.counts_ms || (last.unanswered > 0 && age_ms >= last.gap_ms())
            }
        };
        let guess = if last.failed_before(occasion) { last.other_guess() } else { Guess::First };
        is_due.then_some(DueKnock { guess, occasion })
    }

    /// Notes a knock.
    pub fn sent(&mut self, way: Way, knock: DueKnock, now_ms: i64) {
        let last = self.all.iter().position(|sent| sent.way.to == way.to);
        let last = last.map(|place| self.all.remove(place)).filter(|last| last.way == way);
        let unanswered = last.map_or(0, |last| last.unanswered).saturating_add(1);
        if self.all.len() >= MOST {
            self.all.remove(0);
        }
        self.all.push(SentKnock { way, at_ms: now_ms, unanswered, last: knock });
    }

    /// Notes a handshake that succeeded.
    pub fn answered(&mut self) {
        self.all.iter_mut().for_each(|sent| sent.unanswered = 0);
    }

    /// Notes that there is no way to an address: a knock is due once there is one.
    pub fn lost_way(&mut self, to: SocketAddr) {
        self.all.retain(|sent| sent.way.to != to);
    }

    /// Returns the local address of the last knock at an address, unless the way there was lost.
    pub fn source_to(&self, to: SocketAddr) -> Option<IpAddr> {
        self.all.iter().find(|sent| sent.way.to == to).map(|sent| sent.way.from)
    }
}

impl SentKnock {
    fn gap_ms(&self) -> i64 {
        (GAP_MS << self.unanswered.min(8)).min(LONGEST_GAP_MS)
    }

    /// Returns true if this knock came to nothing, as far as a knock at this occasion shows.
    fn failed_before(&self, occasion: Occasion) -> bool {
        let is_shown = match occasion {
            Occasion::Denied => true,
            // No connection was tried since a renewal.
            Occasion::Wanted => self.last.occasion != Occasion::Changed,
            Occasion::Changed => false,
        };
        is_shown && self.unanswered > 0
    }

    fn other_guess(&self) -> Guess {
        match self.last.guess {
            Guess::First => Guess::Second,
            Guess::Second => Guess::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(60);

    const WANTED: DueKnock = DueKnock { guess: Guess::First, occasion: Occasion::Wanted };

    fn guess(sent: &SentKnocks, way: Way, occasion: Occasion, now_ms: i64) -> Option<Guess> {
        sent.due(way, occasion, now_ms).map(|due| due.guess)
    }

    fn way(to: &str, from: &str) -> Way {
        Way { to: to.parse().unwrap(), from: from.parse().unwrap() }
    }

    fn usual() -> Way {
        way("203.0.113.1:6380", "192.0.2.7")
    }

    #[test]
    fn a_knock_counts_for_half_of_the_grant_and_one_way() {
        let mut sent = SentKnocks::new(LASTING);
        let due = |sent: &SentKnocks, way, now_ms| guess(sent, way, Occasion::Wanted, now_ms);
        assert_eq!(due(&sent, usual(), 0), Some(Guess::First));
        sent.sent(usual(), WANTED, 0);
        sent.answered();
        assert_eq!(due(&sent, usual(), 29_999), None);
        assert_eq!(due(&sent, usual(), 30_000), Some(Guess::First));
        let elsewhere = way("203.0.113.2:6380", "192.0.2.7");
        let moved = way("203.0.113.1:6380", "192.0.2.8");
        assert_eq!(due(&sent, elsewhere, 1), Some(Guess::First));
        assert_eq!(due(&sent, moved, 1), Some(Guess::First));
        sent.sent(moved, WANTED, 2);
        assert_eq!(due(&sent, usual(), 3), Some(Guess::First), "it left that address");
        assert_eq!(sent.source_to(moved.to), Some(moved.from));
    }

    /// Also where it leaves from the same address again.
    #[test]
    fn no_knock_counts_after_the_way_was_lost() {
        let mut sent = SentKnocks::new(LASTING);
        let elsewhere = way("203.0.113.2:6380", "192.0.2.7");
        for way in [usual(), elsewhere] {
            sent.sent(way, WANTED, 0);
        }
        sent.answered();
        sent.lost_way(usual().to);
        assert_eq!(sent.source_to(usual().to), None);
        assert_eq!(guess(&sent, usual(), Occasion::Wanted, 1), Some(Guess::First));
        assert_eq!(guess(&sent, elsewhere, Occasion::Wanted, 1), None);
    }

    #[test]
    fn a_knock_that_came_to_nothing_is_repeated_with_the_other_clock_and_ever_longer_gaps() {
        let mut sent = SentKnocks::new(LASTING);
        let mut now_ms = 0;
        let mut gaps = vec![];
        for number in 0..8 {
            let expected = [Guess::First, Guess::Second][number % 2];
            for occasion in [Occasion::Denied, Occasion::Wanted] {
                assert_eq!(guess(&sent, usual(), occasion, now_ms), Some(expected), "{number}");
            }
            let due = sent.due(usual(), Occasion::Denied, now_ms).unwrap();
            sent.sent(usual(), due, now_ms);
            let since = now_ms;
            while sent.due(usual(), Occasion::Denied, now_ms).is_none() {
                now_ms += 1;
            }
            gaps.push(now_ms - since);
        }
        assert_eq!(gaps, [160, 320, 640, 1_000, 1_000, 1_000, 1_000, 1_000]);
        sent.answered();
        assert_eq!(guess(&sent, usual(), Occasion::Wanted, now_ms), None);
        let gap = now_ms - 1_000 + GAP_MS;
        assert_eq!(guess(&sent, usual(), Occasion::Denied, gap), Some(Guess::First));
        let earlier = now_ms - 1_000;
        assert_eq!(guess(&sent, usual(), Occasion::Changed, earlier), Some(Guess::First));
    }

    /// Nothing shows that they fail, and a clock that is ahead may be refused.
    #[test]
    fn renewals_have_the_first_guess_until_a_connection_is_denied() {
        let mut sent = SentKnocks::new(LASTING);
        let mut now_ms = 0;
        for number in 0..5 {
            let due = sent.due(usual(), Occasion::Changed, now_ms).unwrap();
            assert_eq!(due.guess, Guess::First, "{number}");
            sent.sent(usual(), due, now_ms);
            now_ms += 30_000;
        }
        assert_eq!(guess(&sent, usual(), Occasion::Wanted, now_ms), Some(Guess::First));
        assert_eq!(guess(&sent, usual(), Occasion::Denied, now_ms), Some(Guess::Second));
    }

    #[test]
    fn the_list_is_bounded() {
        let mut sent = SentKnocks::new(LASTING);
        for port in 1..=200 {
            sent.sent(way(&format!("203.0.113.1:{port}"), "192.0.2.7"), WANTED, 0);
        }
        assert_eq!(sent.all.len(), MOST);
        assert!(sent.source_to("203.0.113.1:200".parse().unwrap()).is_some());
    }
}
