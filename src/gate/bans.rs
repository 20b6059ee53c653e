//! Limits the cost of bans that a gate makes: lines of the log, and counts and keys in
//! the store.
//!
//! A client that a network admits has as many sources as that network has. So bans are
//! logged as refused connections are, the first at once and then in summaries that add up;
//! and the sources with counted failures, and the bans that hold, are limited in number.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use tracing::warn;

use super::member::Member;
use super::strikes::BanAfter;
use crate::duration;
use crate::observe::failures::{FailureTally, Line};
use crate::unix_time::UnixMillis;

/// The most sources with counted failures in one window.
pub(super) const MOST_STRUCK: usize = 10_000;

/// The most bans that hold at once, as far as this gate made them.
pub(super) const MOST_BANS: usize = 100_000;

/// The bans of one gate.
#[derive(Default)]
pub(super) struct Bans {
    tally: FailureTally<()>,
    newest: Option<NewBan>,
    /// The number of the window, and the sources that failed in it.
    window: u64,
    struck: HashSet<Member>,
    /// The ends of bans that were made here.
    ends: VecDeque<UnixMillis>,
    /// It is logged that further sources are not counted.
    is_full: bool,
}

/// A ban that was made.
pub(super) struct NewBan {
    pub(super) source: Member,
    pub(super) failures: u64,
    pub(super) time: Duration,
    pub(super) server: String,
    pub(super) key: String,
}

impl Bans {
    /// Returns true if a failure of `source` may be counted now.
    pub(super) fn may_strike(&mut self, source: Member, rule: BanAfter, now: UnixMillis) -> bool {
        let window = now.as_secs() / rule.findtime().as_secs().max(1);
        if window != self.window {
            self.is_full &= self.struck.len() >= MOST_STRUCK || self.ends.len() >= MOST_BANS;
            self.window = window;
            self.struck = HashSet::new();
        }
        while self.ends.front().is_some_and(|end| *end <= now) {
            self.ends.pop_front();
        }
        if self.struck.contains(&source) {
            return true;
        }
        let has_room = self.struck.len() < MOST_STRUCK && self.ends.len() < MOST_BANS;
        if has_room {
            self.struck.insert(source);
        } else if !std::mem::replace(&mut self.is_full, true) {
            warn!(
                detail = "too many sources fail or are banned; remove the network that admits them",
                "strikes of further sources are not counted"
            );
        }
        has_room
    }

    /// Counts a ban that was made at `at`. Returns the line to log now, if any.
    pub(super) fn made(&mut self, ban: NewBan, at: UnixMillis, now: Instant) -> Option<BanReport> {
        self.ends.push_back(at.saturating_add(ban.time));
        let line = self.tally.record((), &ban.source, now);
        self.newest = Some(ban);
        self.report(line)
    }

    /// Returns the summary that is due, if any.
    pub(super) fn tick(&mut self, now: Instant) -> Option<BanReport> {
        let line = self.tally.tick(now);
        self.report(line)
    }

    /// Returns a summary of what was not logged yet.
    pub(super) fn flush(&mut self) -> Option<BanReport> {
        let line = self.tally.flush();
        self.report(line)
    }

    fn report(&mut self, line: Option<Line<()>>) -> Option<BanReport> {
        let line = line?;
        Some(BanReport { line, newest: self.newest.take()? })
    }
}

/// A line about one or more bans.
pub(super) struct BanReport {
    line: Line<()>,
    newest: NewBan,
}

impl BanReport {
    pub(super) fn log(self) {
        let Self { line, newest: NewBan { source, failures, time, server, key } } = self;
        warn!(
            count = line.count,
            sources = line.sources(),
            address = %source,
            failures,
            r#for = duration::format(time),
            server,
            key,
            "banned"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u32) -> Member {
        Member::source_of(std::net::Ipv4Addr::from_bits(n).into())
    }

    fn ban(n: u32) -> NewBan {
        let (server, key) = (String::new(), String::new());
        NewBan { source: source(n), failures: 1, time: Duration::from_secs(60), server, key }
    }

    #[test]
    fn ten_thousand_bans_are_a_few_lines_that_add_up() {
        let (mut bans, start) = (Bans::default(), Instant::now());
        let mut counts = vec![];
        for n in 0..10_000 {
            let now = start + Duration::from_millis(10) * n;
            counts.extend(bans.made(ban(n), UnixMillis(0), now).map(|report| report.line.count));
            counts.extend(bans.tick(now).map(|report| report.line.count));
        }
        counts.extend(bans.flush().map(|report| report.line.count));
        assert_eq!(counts[0], 1, "the first at once");
        assert!(counts.len() < 10, "{counts:?}");
        assert_eq!(counts.iter().sum::<u64>(), 10_000);
        assert!(bans.flush().is_none());
    }

    #[test]
    fn sources_that_fail_are_bounded_in_each_window() {
        let (mut bans, rule) = (Bans::default(), "2/60s/1h".parse().unwrap());
        let most = u32::try_from(MOST_STRUCK).unwrap();
        assert!((0..most).all(|n| bans.may_strike(source(n), rule, UnixMillis(0))));
        assert!(!bans.may_strike(source(most), rule, UnixMillis(59_999)));
        assert!(
            bans.may_strike(source(7), rule, UnixMillis(59_999)),
            "a source that was counted before is counted on"
        );
        assert!(bans.may_strike(source(most), rule, UnixMillis(60_000)), "the next window");
    }

    #[test]
    fn bans_that_hold_are_bounded() {
        let (mut bans, rule) = (Bans::default(), "1/1s/60s".parse().unwrap());
        for n in 0..u32::try_from(MOST_BANS).unwrap() {
            bans.made(ban(n), UnixMillis(1_000), Instant::now());
        }
        assert!(!bans.may_strike(source(0), rule, UnixMillis(60_999)));
        assert!(bans.may_strike(source(0), rule, UnixMillis(61_000)), "they have ended");
    }
}
