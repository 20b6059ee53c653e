//! Connections to the server that wait for a next request: how many, how long, and which one the
//! next request gets.
//!
//! Pure: the moment is an argument, and what waits may be anything. The newest is taken first, so
//! that the others may end when fewer are needed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Those of one worker, and so of one thread.
#[derive(Debug)]
pub(super) struct IdleSet<T> {
    /// The oldest first.
    waiting: VecDeque<Waiting<T>>,
    /// Most that wait.
    most: usize,
}

/// One that waits.
#[derive(Debug)]
struct Waiting<T> {
    since: Instant,
    /// The moment at which it ends.
    until: Instant,
    item: T,
}

/// One that was taken.
#[derive(Debug)]
pub(super) struct Taken<T> {
    pub(super) item: T,
    /// Time for which it waited.
    pub(super) waited: Duration,
}

impl<T> IdleSet<T> {
    /// Creates an empty set of `most`.
    pub(super) fn new(most: usize) -> Self {
        Self { waiting: VecDeque::new(), most }
    }

    /// Lets `item` wait for `time`. Returns the one that there is no room for, to be dropped
    /// outside of a lock.
    pub(super) fn put(&mut self, item: T, now: Instant, time: Duration) -> Option<T> {
        if self.most == 0 {
            return Some(item);
        }
        let is_full = self.waiting.len() >= self.most;
        let oldest = if is_full { self.waiting.pop_front() } else { None };
        self.waiting.push_back(Waiting { since: now, until: now + time, item });
        oldest.map(|oldest| oldest.item)
    }

    /// Takes the newest that has not ended and is usable. What is found to be of no use goes to
    /// `useless`, to be dropped outside of a lock.
    pub(super) fn take(
        &mut self,
        now: Instant,
        is_usable: impl Fn(&T) -> bool,
        useless: &mut Vec<T>,
    ) -> Option<Taken<T>> {
        while let Some(Waiting { since, until, item }) = self.waiting.pop_back() {
            if until > now && is_usable(&item) {
                return Some(Taken { item, waited: now.saturating_duration_since(since) });
            }
            useless.push(item);
        }
        None
    }

    /// Takes out all that are kept for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<T> {
        let all = std::mem::take(&mut self.waiting);
        let (over, waiting): (VecDeque<_>, VecDeque<_>) =
            all.into_iter().partition(|waiting| waiting.until <= now);
        self.waiting = waiting;
        over.into_iter().map(|over| over.item).collect()
    }

    /// Takes out all of them.
    pub(super) fn clear(&mut self) -> Vec<T> {
        self.waiting.drain(..).map(|waiting| waiting.item).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn take(set: &mut IdleSet<u32>, now: Instant) -> Option<u32> {
        set.take(now, |_| true, &mut vec![]).map(|taken| taken.item)
    }

    #[test]
    fn the_newest_is_taken_and_the_oldest_makes_room() {
        let now = Instant::now();
        let mut set = IdleSet::new(2);
        assert_eq!(set.put(1, now, SECOND), None);
        assert_eq!(set.put(2, now, SECOND), None);
        assert_eq!(set.put(3, now, SECOND), Some(1));
        assert_eq!(take(&mut set, now), Some(3));
        assert_eq!(take(&mut set, now), Some(2));
        assert_eq!(take(&mut set, now), None);
        assert_eq!(IdleSet::new(0).put(1, now, SECOND), Some(1));
    }

    #[test]
    fn none_is_taken_after_its_time_or_when_it_is_of_no_use() {
        let now = Instant::now();
        let mut set = IdleSet::new(9);
        set.put(1, now, SECOND * 9);
        set.put(2, now, SECOND);
        set.put(3, now, SECOND * 9);
        let mut useless = vec![];
        let taken = set.take(now + SECOND * 2, |item| *item != 3, &mut useless).unwrap();
        assert_eq!((taken.item, taken.waited), (1, SECOND * 2));
        assert_eq!(useless, [3, 2]);
    }

    #[test]
    fn those_whose_time_is_over_are_taken_out() {
        let now = Instant::now();
        let mut set = IdleSet::new(9);
        set.put(1, now, SECOND * 3);
        set.put(2, now, SECOND);
        assert_eq!(set.expire(now), [0; 0]);
        assert_eq!(set.expire(now + SECOND), [2]);
        assert_eq!(set.clear(), [1]);
        assert_eq!(set.clear(), [0; 0]);
    }
}
