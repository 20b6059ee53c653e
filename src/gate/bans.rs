//! What bans that a gate makes may cost: lines of the log, and counts and keys in
//! the store.
//!
//! Whoever is let in by a network has as many sources as that has. So bans are told
//! as refused connections are, the first at once and then in summaries that add up;
//! and of sources whose failures are counted, and of bans that hold, there are so
//! many and no more.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use tracing::warn;

use super::member::Member;
use super::strikes::BanAfter;
use crate::duration;
use crate::observe::failures::{Line, Tally};

/// Sources whose failures are counted in one window.
pub(super) const MOST_STRUCK: usize = 10_000;

/// Bans that hold at once, as far as this gate made them.
pub(super) const MOST_BANS: usize = 100_000;

/// The bans of one gate.
#[derive(Default)]
pub(super) struct Bans {
    told: Tally<()>,
    newest: Option<Ban>,
    /// The number of the window, and who failed in it.
    window: u64,
    struck: HashSet<Member>,
    /// When bans end that were made here.
    ends_ms: VecDeque<u64>,
    /// The log knows that further sources are not counted.
    is_full: bool,
}

/// A ban that was made.
pub(super) struct Ban {
    pub(super) source: Member,
    pub(super) failures: u64,
    pub(super) time: Duration,
    pub(super) server: String,
    pub(super) key: String,
}

impl Bans {
    /// Whether a failure of `source` may be counted now.
    pub(super) fn may_strike(&mut self, source: Member, rule: BanAfter, now_ms: u64) -> bool {
        let window = now_ms / 1_000 / rule.findtime().as_secs().max(1);
        if window != self.window {
            self.is_full &= self.struck.len() >= MOST_STRUCK || self.ends_ms.len() >= MOST_BANS;
            self.window = window;
            self.struck = HashSet::new();
        }
        while self.ends_ms.front().is_some_and(|end| *end <= now_ms) {
            self.ends_ms.pop_front();
        }
        if self.struck.contains(&source) {
            return true;
        }
        let has_room = self.struck.len() < MOST_STRUCK && self.ends_ms.len() < MOST_BANS;
        if has_room {
            self.struck.insert(source);
        } else if !std::mem::replace(&mut self.is_full, true) {
            warn!(
                detail =
                    "too many sources fail or are banned; take out the network that lets them in",
                "failures of further sources are not counted"
            );
        }
        has_room
    }

    /// A ban was made: the line to log now, if any.
    pub(super) fn made(&mut self, ban: Ban, now_ms: u64, now: Instant) -> Option<Told> {
        let time_ms = u64::try_from(ban.time.as_millis()).unwrap_or(u64::MAX);
        self.ends_ms.push_back(now_ms.saturating_add(time_ms));
        let line = self.told.record((), &ban.source, now);
        self.newest = Some(ban);
        self.told(line)
    }

    /// The summary that is due, if any.
    pub(super) fn tick(&mut self, now: Instant) -> Option<Told> {
        let line = self.told.tick(now);
        self.told(line)
    }

    /// What was not told yet.
    pub(super) fn flush(&mut self) -> Option<Told> {
        let line = self.told.flush();
        self.told(line)
    }

    fn told(&mut self, line: Option<Line<()>>) -> Option<Told> {
        let line = line?;
        Some(Told { line, newest: self.newest.take()? })
    }
}

/// A line about one or more bans.
pub(super) struct Told {
    line: Line<()>,
    newest: Ban,
}

impl Told {
    pub(super) fn log(self) {
        let Self { line, newest: Ban { source, failures, time, server, key } } = self;
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

    fn ban(n: u32) -> Ban {
        let (server, key) = (String::new(), String::new());
        Ban { source: source(n), failures: 1, time: Duration::from_secs(60), server, key }
    }

    #[test]
    fn ten_thousand_bans_are_few_lines_that_add_up() {
        let (mut bans, start) = (Bans::default(), Instant::now());
        let mut counts = vec![];
        for n in 0..10_000 {
            let now = start + Duration::from_millis(10) * n;
            counts.extend(bans.made(ban(n), 0, now).map(|told| told.line.count));
            counts.extend(bans.tick(now).map(|told| told.line.count));
        }
        counts.extend(bans.flush().map(|told| told.line.count));
        assert_eq!(counts[0], 1, "the first at once");
        assert!(counts.len() < 10, "{counts:?}");
        assert_eq!(counts.iter().sum::<u64>(), 10_000);
        assert!(bans.flush().is_none());
    }

    #[test]
    fn sources_that_fail_are_bounded_in_each_window() {
        let (mut bans, rule) = (Bans::default(), "2/60s/1h".parse().unwrap());
        let most = u32::try_from(MOST_STRUCK).unwrap();
        assert!((0..most).all(|n| bans.may_strike(source(n), rule, 0)));
        assert!(!bans.may_strike(source(most), rule, 59_999));
        assert!(bans.may_strike(source(7), rule, 59_999), "who was counted before is counted on");
        assert!(bans.may_strike(source(most), rule, 60_000), "the next window");
    }

    #[test]
    fn bans_that_hold_are_bounded() {
        let (mut bans, rule) = (Bans::default(), "1/1s/60s".parse().unwrap());
        for n in 0..u32::try_from(MOST_BANS).unwrap() {
            bans.made(ban(n), 1_000, Instant::now());
        }
        assert!(!bans.may_strike(source(0), rule, 60_999));
        assert!(bans.may_strike(source(0), rule, 61_000), "they have ended");
    }
}
