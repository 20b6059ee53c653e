//! The due times of the next full read and the next ping. Pure: times in, times out.
//!
//! A full read costs the server its time, so that reads that take long take at
//! most 5 % of it, however often the set changes.

use std::time::Duration;

use tokio::time::Instant;

/// A full read that takes less is made at once.
const CHEAP: Duration = Duration::from_millis(50);
/// A read of `n` seconds is followed by 19 without one: 5 %.
const SHARE: u32 = 19;
/// Changes without an announcement are found after this at the latest, if the share allows.
const PERIOD: Duration = Duration::from_secs(60);
const PING: Duration = Duration::from_millis(500);

/// The extent of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// The allow-set; keys are reported again from memory.
    Set,
    /// Everything.
    All,
}

/// Due times.
#[derive(Debug)]
pub(super) struct RefreshSchedule {
    set_wanted: Option<Instant>,
    all_wanted: Instant,
    /// Not before these, for the share.
    set_free: Instant,
    all_free: Instant,
    ping_at: Instant,
}

impl RefreshSchedule {
    /// Everything is due at once.
    pub(super) fn new(now: Instant) -> Self {
        let ping_at = now + PING;
        Self { set_wanted: None, all_wanted: now, set_free: now, all_free: now, ping_at }
    }

    /// The allow-set changed.
    pub(super) fn set_changed(&mut self, now: Instant) {
        self.set_wanted.get_or_insert(now);
    }

    /// Everything may have changed.
    pub(super) fn everything_changed(&mut self, now: Instant) {
        self.all_wanted = self.all_wanted.min(now);
    }

    /// The read that is due.
    pub(super) fn due(&self, now: Instant) -> Option<Read> {
        let all = self.all_wanted.max(self.all_free) <= now;
        let set = self.set_wanted.is_some_and(|wanted| wanted.max(self.set_free) <= now);
        if all { Some(Read::All) } else { set.then_some(Read::Set) }
    }

    /// Notes that a read begins: a change from now on needs another.
    pub(super) fn begin(&mut self, read: Read, now: Instant) {
        self.set_wanted = None;
        if read == Read::All {
            self.all_wanted = now + PERIOD;
        }
    }

    /// Notes that a read is complete, and the time that it took for the set and in total.
    pub(super) fn ended(&mut self, now: Instant, for_set: Duration, in_total: Duration) {
        let rest = |took: Duration| if took < CHEAP { took } else { took.saturating_mul(SHARE) };
        self.set_free = now + rest(for_set);
        self.all_free = self.all_free.max(now + rest(in_total));
    }

    /// The next moment at which something may be due.
    pub(super) fn next(&self) -> Instant {
        let all = self.all_wanted.max(self.all_free);
        let set = self.set_wanted.map_or(all, |wanted| wanted.max(self.set_free));
        set.min(all).min(self.ping_at)
    }

    /// Returns true if it is time to ping the servers, and notes that it is done.
    pub(super) fn take_ping(&mut self, now: Instant) -> bool {
        let due = self.ping_at <= now;
        if due {
            self.ping_at = now + PING;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn read(schedule: &mut RefreshSchedule, at: Instant, took: Duration) -> (Read, Instant) {
        let read = schedule.due(at).expect("a read is due");
        schedule.begin(read, at);
        schedule.ended(at + took, took, took);
        (read, at + took)
    }

    #[test]
    fn a_cheap_read_is_made_at_once_and_then_after_a_minute() {
        let start = Instant::now();
        let mut schedule = RefreshSchedule::new(start);
        let (what, end) = read(&mut schedule, start, 10 * MS);
        assert_eq!((what, schedule.due(end)), (Read::All, None));
        assert_eq!(schedule.due(end + PERIOD), Some(Read::All));
        schedule.set_changed(end + 10 * MS);
        assert_eq!(schedule.due(end + 10 * MS), Some(Read::Set));
        assert_eq!(schedule.next(), end + 10 * MS);
    }

    #[test]
    fn expensive_reads_take_a_twentieth_of_the_time() {
        let start = Instant::now();
        let mut schedule = RefreshSchedule::new(start);
        let (_, end) = read(&mut schedule, start, 1000 * MS);
        schedule.set_changed(end);
        schedule.set_changed(end + MS);
        assert_eq!(schedule.due(end + 18_999 * MS), None);
        let (what, end) = read(&mut schedule, end + 19_000 * MS, 1000 * MS);
        assert_eq!((what, schedule.due(end)), (Read::Set, None));
    }

    #[test]
    fn an_expensive_scan_of_keys_does_not_delay_a_cheap_set() {
        let start = Instant::now();
        let mut schedule = RefreshSchedule::new(start);
        schedule.begin(Read::All, start);
        let end = start + 10_000 * MS;
        schedule.ended(end, 10 * MS, 10_000 * MS);
        schedule.set_changed(end);
        assert_eq!(schedule.due(end + 10 * MS), Some(Read::Set));
        assert_eq!(schedule.due(start + 3 * PERIOD), Some(Read::Set), "190 s without all");
    }

    #[test]
    fn a_change_during_a_read_needs_another() {
        let start = Instant::now();
        let mut schedule = RefreshSchedule::new(start);
        schedule.begin(Read::All, start);
        schedule.set_changed(start + MS);
        schedule.ended(start + 10 * MS, 10 * MS, 10 * MS);
        assert_eq!(schedule.due(start + 10 * MS), None);
        assert_eq!(schedule.due(start + 20 * MS), Some(Read::Set));
        schedule.everything_changed(start + 20 * MS);
        assert_eq!(schedule.due(start + 20 * MS), Some(Read::All));
    }

    #[test]
    fn pings_come_twice_a_second() {
        let start = Instant::now();
        let mut schedule = RefreshSchedule::new(start);
        assert!(!schedule.take_ping(start) && schedule.take_ping(start + PING));
        assert!(!schedule.take_ping(start + PING));
    }
}
