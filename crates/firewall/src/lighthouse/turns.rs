//! Turns of requests: at most ten of one action begin in a second, which is what the API permits
//! an account.
//!
//! Others may use the account too, so this keeps requests from being refused only in most cases.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// The most requests of one action in [`SECOND`].
const MOST: usize = 10;

/// A second, and some time for requests that are under way differently long.
const SECOND: Duration = Duration::from_millis(1_100);

/// The turns of each action.
#[derive(Debug, Default)]
pub(super) struct Turns(HashMap<&'static str, VecDeque<Instant>>);

impl Turns {
    /// Takes the next turn of an action, and returns the moment of it.
    pub(super) fn take(&mut self, action: &'static str, now: Instant) -> Instant {
        let last = self.0.entry(action).or_default();
        let first = if last.len() < MOST { None } else { last.pop_front() };
        let turn = first.map_or(now, |first| now.max(first + SECOND));
        last.push_back(turn);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_has_more_than_ten_turns_of_an_action() {
        let now = Instant::now();
        let mut turns = Turns::default();
        let taken: Vec<Instant> = (0..35).map(|_| turns.take("a", now)).collect();
        for (place, turn) in taken.iter().enumerate() {
            let within = taken.iter().filter(|other| {
                **other >= *turn && other.duration_since(*turn) < Duration::from_secs(1)
            });
            assert!(within.count() <= MOST, "from turn {place} on");
        }
        assert_eq!(taken[9], now);
        assert_eq!(taken[34], now + 3 * SECOND);
        assert_eq!(turns.take("b", now), now);
    }
}
