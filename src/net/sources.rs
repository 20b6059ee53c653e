//! Allowance of one source: sessions at once, and new connections per second.
//!
//! A source is an IPv4 address or an IPv6 /64 ([`SourceKey`]). Pure: the caller says what time it
//! is. Memory is bounded at [`MAX_SOURCES`] entries: a source with no open connection and all its
//! tokens back is forgotten, because a fresh entry would be equal. When the table is full of
//! others, newcomers share one overflow entry with the allowance of one source. Refusing them would
//! lock everyone out during a flood from 65,536 sources, and admitting them would make the limit
//! pointless exactly then.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::addr::SourceKey;

/// Highest number of sources that are counted separately: about 4 MiB.
const MAX_SOURCES: usize = 65_536;

/// The allowance of every source. Clones share the count.
#[derive(Clone, Debug)]
pub struct Sources(Arc<Mutex<Table>>);

/// One connection's share of its source's allowance; given back when dropped.
#[derive(Debug)]
#[must_use = "dropping the guard gives the session back"]
pub struct SourceGuard {
    /// `None` is the overflow entry.
    key: Option<SourceKey>,
    table: Arc<Mutex<Table>>,
}

/// Reason why a source may not have another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceRefusal {
    /// It has the highest number of sessions.
    #[error(
        "the source has too many connections at once; raise --max-per-source if they are wanted"
    )]
    TooMany,
    /// It connects more often than it may.
    #[error("the source connects too often; raise --max-per-source if that is wanted")]
    TooFast,
}

#[derive(Debug)]
struct Table {
    sessions: usize,
    /// Time that one token takes to come back; zero without a limit of the rate.
    interval: Duration,
    entries: HashMap<SourceKey, Entry>,
    overflow: Entry,
    /// Sources that had nothing open, with the time from which they may be
    /// forgotten. A source that came back has an outdated item here as well.
    leaving: VecDeque<(SourceKey, Instant)>,
}

/// The bucket of tokens is one point in time: when it will be full again. It is
/// at most one second ahead, and each connection moves it by one interval.
#[derive(Clone, Copy, Debug)]
struct Entry {
    open: usize,
    full_at: Instant,
}

// === impl Sources ===

impl Sources {
    /// Allows each source `sessions` at once and `per_second` new connections per second, with a
    /// burst of as many; `None` is no limit.
    pub fn new(sessions: usize, per_second: Option<u32>, now: Instant) -> Self {
        let (sessions, interval) = limits(sessions, per_second);
        Self(Arc::new(Mutex::new(Table {
            sessions,
            interval,
            entries: HashMap::new(),
            overflow: Entry { open: 0, full_at: now },
            leaving: VecDeque::new(),
        })))
    }

    /// Changes the allowance of each source, for all clones. A source with more open connections
    /// keeps them, and the used part of its rate stays the same fraction.
    pub fn set_limits(&self, sessions: usize, per_second: Option<u32>) {
        let mut table = lock(&self.0);
        (table.sessions, table.interval) = limits(sessions, per_second);
    }

    /// Counts one more connection of `source`. Amortised constant time.
    ///
    /// # Errors
    /// [`SourceRefusal`]; a refused connection costs its source nothing.
    pub fn enter(&self, source: SourceKey, now: Instant) -> Result<SourceGuard, SourceRefusal> {
        let mut table = lock(&self.0);
        table.forget(now);
        let key = table.enter(source, now)?;
        Ok(SourceGuard { key, table: Arc::clone(&self.0) })
    }
}

impl Drop for SourceGuard {
    fn drop(&mut self) {
        lock(&self.table).leave(self.key);
    }
}

/// Returns the sessions at once, and the time that one token takes to come back.
fn limits(sessions: usize, per_second: Option<u32>) -> (usize, Duration) {
    let interval = per_second.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.max(1));
    (sessions.max(1), interval)
}

// === impl Table ===

impl Table {
    /// Forgets sources that are equal to a fresh entry.
    fn forget(&mut self, now: Instant) {
        while let Some(&(key, since)) = self.leaving.front()
            && since <= now
        {
            self.leaving.pop_front();
            if self.entries.get(&key).is_some_and(|e| e.open == 0 && e.full_at <= now) {
                self.entries.remove(&key);
            }
        }
    }

    /// Counts a connection, and returns the key that it was counted under.
    fn enter(
        &mut self,
        source: SourceKey,
        now: Instant,
    ) -> Result<Option<SourceKey>, SourceRefusal> {
        let sessions = self.sessions;
        let interval = self.interval;
        let room = self.entries.len() < MAX_SOURCES;
        let fresh = Entry { open: 0, full_at: now };
        let (key, entry) = match self.entries.get_mut(&source) {
            Some(entry) => (Some(source), entry),
            None if room => (Some(source), self.entries.entry(source).or_insert(fresh)),
            None => (None, &mut self.overflow),
        };
        // A fresh entry always admits, so a refusal never leaves one behind.
        entry.admit(sessions, interval, now)?;
        Ok(key)
    }

    fn leave(&mut self, key: Option<SourceKey>) {
        let Some(key) = key else {
            self.overflow.open -= 1;
            return;
        };
        // Present as long as something is open: only idle entries are forgotten.
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.open -= 1;
            if entry.open == 0 {
                self.leaving.push_back((key, entry.full_at));
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    fn admit(
        &mut self,
        sessions: usize,
        interval: Duration,
        now: Instant,
    ) -> Result<(), SourceRefusal> {
        if self.open >= sessions {
            return Err(SourceRefusal::TooMany);
        }
        let full_at = self.full_at.max(now) + interval;
        if full_at > now + Duration::from_secs(1) {
            return Err(SourceRefusal::TooFast);
        }
        self.full_at = full_at;
        self.open += 1;
        Ok(())
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    impl Sources {
        /// Returns the number of sources that are told apart right now.
        fn known(&self) -> usize {
            lock(&self.0).entries.len()
        }
    }

    fn source(n: u64) -> SourceKey {
        IpAddr::V6(Ipv6Addr::from_bits(u128::from(n) << 64)).into()
    }

    #[test]
    fn sessions_at_once_are_limited_for_each_source_alone() {
        let now = Instant::now();
        let sources = Sources::new(2, None, now);
        let _a = sources.enter(source(1), now).unwrap();
        let b = sources.enter(source(1), now).unwrap();
        assert_eq!(sources.enter(source(1), now).unwrap_err(), SourceRefusal::TooMany);
        let _other = sources.enter(source(2), now).unwrap();
        drop(b);
        let _c = sources.enter(source(1), now).unwrap();
    }

    #[test]
    fn addresses_of_one_64_are_one_source() {
        let now = Instant::now();
        let sources = Sources::new(1, None, now);
        let key = |text: &str| SourceKey::from(text.parse::<IpAddr>().unwrap());
        let _guard = sources.enter(key("2001:db8::1"), now).unwrap();
        assert!(sources.enter(key("2001:db8::ffff"), now).is_err());
        assert!(sources.enter(key("::ffff:192.0.2.1"), now).is_ok_and(|_v4| {
            // Held until here, so the other spelling meets it.
            sources.enter(key("192.0.2.1"), now).is_err()
        }));
    }

    #[test]
    fn the_rate_is_a_bucket_of_one_second() {
        let start = Instant::now();
        for rate in [1, 3, 10, 1000] {
            let sources = Sources::new(usize::MAX, Some(rate), start);
            let try_at = |now| sources.enter(source(1), now).is_ok();
            let burst = (0..5000).filter(|_| try_at(start)).count();
            assert_eq!(burst, rate as usize, "a burst of one second's worth");
            let interval = SECOND / rate;
            assert!(!try_at(start + interval / 2));
            assert!(try_at(start + interval) && !try_at(start + interval), "one token is back");
            let burst = (0..5000).filter(|_| try_at(start + 100 * SECOND)).count();
            assert_eq!(burst, rate as usize, "rest saves no more than a burst");
        }
    }

    #[test]
    fn other_limits_forget_no_source() {
        let start = Instant::now();
        let sources = Sources::new(3, Some(4), start);
        let mut held: Vec<_> = (0..3).map(|_| sources.enter(source(1), start).unwrap()).collect();
        sources.set_limits(2, Some(4));
        held.pop();
        assert_eq!(sources.enter(source(1), start).unwrap_err(), SourceRefusal::TooMany);
        sources.set_limits(9, Some(8));
        // Three of four are three quarters of a second, so a quarter is left: two of eight.
        let more: Vec<_> = (0..9).map_while(|_| sources.enter(source(1), start).ok()).collect();
        assert_eq!(more.len(), 2);
        assert_eq!(sources.enter(source(1), start).unwrap_err(), SourceRefusal::TooFast);
        drop((held, more));
        assert!(sources.enter(source(1), start).is_err(), "leaving does not bring tokens back");
        sources.set_limits(9, None);
        let _free = sources.enter(source(1), start).unwrap();
        assert_eq!(sources.known(), 1);
    }

    #[test]
    fn idle_sources_are_forgotten() {
        let start = Instant::now();
        let sources = Sources::new(5, Some(5), start);
        let held = sources.enter(source(0), start).unwrap();
        for n in 1..1000 {
            drop(sources.enter(source(n), start).unwrap());
        }
        assert_eq!(sources.known(), 1000);
        let _one = sources.enter(source(5000), start + SECOND).unwrap();
        assert_eq!(sources.known(), 2, "the one that is open, and the new one");
        drop(held);
    }

    #[test]
    fn coming_and_going_forgets_no_debt() {
        let start = Instant::now();
        let sources = Sources::new(5, Some(2), start);
        let tries = (0..20).map(|_| sources.enter(source(1), start).is_ok());
        assert_eq!(tries.filter(|&ok| ok).count(), 2);
        assert!(lock(&sources.0).leaving.len() <= 2);
    }

    #[test]
    fn a_million_sources_stay_bounded() {
        let start = Instant::now();
        for per_second in [None, Some(10)] {
            let sources = Sources::new(3, per_second, start);
            let mut refused = 0;
            for n in 0..1_000_000 {
                // Half a minute in all, so that some are forgotten on the way.
                let now = start + Duration::from_micros(n * 30);
                refused += u32::from(sources.enter(source(n), now).is_err());
            }
            assert!(sources.known() <= MAX_SOURCES);
            assert!(lock(&sources.0).leaving.len() <= MAX_SOURCES);
            assert_eq!(refused, 0, "an idle source is no reason to refuse another");
        }
    }

    #[test]
    fn a_full_table_lets_newcomers_share_one_allowance() {
        let now = Instant::now();
        let sources = Sources::new(2, None, now);
        let _busy: Vec<_> =
            (0..MAX_SOURCES as u64).map(|n| sources.enter(source(n), now).unwrap()).collect();
        let one = sources.enter(source(1_000_000), now).unwrap();
        let _two = sources.enter(source(1_000_001), now).unwrap();
        assert_eq!(sources.enter(source(1_000_002), now).unwrap_err(), SourceRefusal::TooMany);
        drop(one);
        let _three = sources.enter(source(1_000_003), now).unwrap();
        let _known = sources.enter(source(7), now).unwrap();
        assert_eq!(sources.known(), MAX_SOURCES);
    }
}
