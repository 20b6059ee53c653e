//! Failures before authentication: exact counts in few lines.
//!
//! Strangers can make these failures as fast as the network carries them, so a line for each would
//! let them fill the disk. The first failure of a quiet period is logged at once. Later ones are
//! counted and logged in summaries, the first after 10 seconds and each further one after twice as
//! long, up to 5 minutes, until a whole period passes without any.
//!
//! No failure is lost or logged twice: over all lines, `count` adds up to the number of failures.
//! [`FailureTally`] is the pure part; [`Failures`] adds the clock, a lock and the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::json::Pairs;
use crate::reason::CloseReason;

/// Time from a first failure to its first summary.
const FIRST_PERIOD: Duration = Duration::from_secs(10);

/// Longest time between two summaries.
const LONGEST_PERIOD: Duration = Duration::from_secs(300);

/// Name of a PROXY header as a protocol, since it has a remedy of its own.
pub const PROXY_HEADER: &str = "a PROXY header";

/// Highest number of different sources that are counted in one period; a set that strangers fill
/// must be bounded.
const MOST_SOURCES: usize = 1024;

/// Counts failures, by their reasons, and decides when to log them. Knows no clock: `now` is passed
/// in and must not go back.
#[derive(Debug)]
pub struct FailureTally<R = CloseReason> {
    reasons: BTreeMap<R, u64>,
    sources: HashSet<String>,
    example: String,
    /// End and length of the current period; `None` without failures.
    period: Option<(Instant, Duration)>,
    /// Reasons that the caller logged in full since it was last quiet.
    in_full: BTreeSet<R>,
    /// Protocols that peers spoke instead of the handshake, by name.
    spoken: BTreeMap<&'static str, u64>,
}

/// Content of a log line about one or more failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line<R = CloseReason> {
    /// Number of failures, all reasons together.
    pub count: u64,
    /// Number of failures of each reason, in the order of reasons.
    pub reasons: Vec<(R, u64)>,
    /// Number of different sources, exact below 1024; 1024 stands for "or more".
    pub sources: usize,
    /// The source of the newest failure.
    pub example: String,
    /// Numbers of peers that spoke another known protocol, by its name.
    pub spoken: Vec<(&'static str, u64)>,
}

/// Time at which a failure is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logged {
    /// With a line that was just logged, or that the caller logs.
    Now,
    /// In a later summary.
    Summarised,
}

/// The failures of one tunnel: counts them and logs lines with the message
/// `refused`.
#[derive(Debug, Default)]
pub struct Failures {
    tally: Mutex<FailureTally>,
    /// The tunnel's name, where there are several.
    tunnel: Option<Arc<str>>,
}

impl<R> Default for FailureTally<R> {
    fn default() -> Self {
        Self {
            reasons: BTreeMap::new(),
            sources: HashSet::new(),
            example: String::new(),
            period: None,
            in_full: BTreeSet::new(),
            spoken: BTreeMap::new(),
        }
    }
}

impl<R: Ord + Copy> FailureTally<R> {
    /// Notes the protocol of the next failure. Names are few, so that strangers cannot fill this.
    pub fn note_speech(&mut self, speech: &'static str) {
        *self.spoken.entry(speech).or_default() += 1;
    }

    /// Counts as [`Self::record`] does, but the caller logs the first of each reason in full, which
    /// then counts in no line. Returns the summary that is due, if any.
    pub fn record_unless_first(
        &mut self,
        reason: R,
        source: &dyn Display,
        now: Instant,
    ) -> (Logged, Option<Line<R>>) {
        let due = self.tick(now);
        if !self.in_full.insert(reason) {
            return (Logged::Summarised, self.record(reason, source, now).or(due));
        }
        self.period.get_or_insert((now + FIRST_PERIOD, FIRST_PERIOD));
        (Logged::Now, due)
    }

    /// Counts one failure of `source` and returns the line that is due, if any.
    ///
    /// `source` identifies a source: an address without a port.
    pub fn record(&mut self, reason: R, source: &dyn Display, now: Instant) -> Option<Line<R>> {
        let due = self.tick(now);
        *self.reasons.entry(reason).or_default() += 1;
        self.example = source.to_string();
        if self.sources.len() < MOST_SOURCES {
            self.sources.insert(self.example.clone());
        }
        if self.period.is_some() {
            return due;
        }
        // No failures until now, so nothing was due: `tick` only ends a period without failures.
        self.period = Some((now + FIRST_PERIOD, FIRST_PERIOD));
        self.flush()
    }

    /// Returns the summary of a period that has ended, if there is one. To be called by a timer,
    /// about once a second.
    pub fn tick(&mut self, now: Instant) -> Option<Line<R>> {
        let (end, length) = self.period?;
        if now < end {
            return None;
        }
        let line = self.flush();
        let next = (length * 2).min(LONGEST_PERIOD);
        self.period = line.is_some().then(|| (now + next, next));
        if self.period.is_none() {
            self.in_full.clear();
        }
        line
    }

    /// Returns everything that was counted and not yet logged. For the end of the process.
    pub fn flush(&mut self) -> Option<Line<R>> {
        let reasons: Vec<_> = std::mem::take(&mut self.reasons).into_iter().collect();
        if reasons.is_empty() {
            return None;
        }
        Some(Line {
            count: reasons.iter().map(|(_, count)| count).sum(),
            reasons,
            sources: std::mem::take(&mut self.sources).len(),
            example: std::mem::take(&mut self.example),
            spoken: std::mem::take(&mut self.spoken).into_iter().collect(),
        })
    }
}

impl Failures {
    /// Creates an empty count; lines name `tunnel`.
    pub fn of(tunnel: Option<Arc<str>>) -> Self {
        Self { tally: Mutex::default(), tunnel }
    }

    /// Counts one failure of `source`, an address without a port, and logs if a line is due.
    /// Returns whether it was.
    pub fn failed(&self, reason: CloseReason, source: &dyn Display) -> Logged {
        self.failed_speaking(reason, source, None)
    }

    /// Counts as [`Self::failed`] does, for a peer that spoke this protocol instead of the
    /// handshake.
    pub fn failed_speaking(
        &self,
        reason: CloseReason,
        source: &dyn Display,
        speech: Option<&'static str>,
    ) -> Logged {
        let line = {
            let mut tally = self.tally();
            let now = Instant::now();
            // The end of a period comes first: this failure belongs to the next one.
            let due = tally.tick(now);
            speech.into_iter().for_each(|speech| tally.note_speech(speech));
            tally.record(reason, source, now).or(due)
        };
        let logged = if line.is_some() { Logged::Now } else { Logged::Summarised };
        self.log(line);
        logged
    }

    /// Counts as [`Self::failed`] does, where the caller logs the first of each reason in full:
    /// [`Logged::Now`] means that it must do so, and that no summary counts this failure.
    pub fn failed_unless_first(&self, reason: CloseReason, source: &dyn Display) -> Logged {
        let (logged, line) = self.tally().record_unless_first(reason, source, Instant::now());
        self.log(line);
        logged
    }

    /// Logs a summary that is due. Call it about once a second.
    pub fn tick(&self) {
        let line = self.tally().tick(Instant::now());
        self.log(line);
    }

    /// Logs everything that was not yet logged. Call it before the process ends.
    pub fn flush(&self) {
        let line = self.tally().flush();
        self.log(line);
    }

    fn log(&self, line: Option<Line>) {
        if let Some(line) = line {
            let reasons = line.reasons();
            tracing::warn!(
                tunnel = self.tunnel.as_deref(),
                count = line.count,
                reasons = reasons.field(),
                sources = line.sources(),
                example = line.example,
                hint = line.hint(),
                "refused"
            );
        }
    }

    /// Locks the counts. Never held while a line is logged, so that the log cannot block a task
    /// that counts. A poisoned lock still guards exact counts: nothing in there can panic half way.
    fn tally(&self) -> MutexGuard<'_, FailureTally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn reasons(&self) -> Pairs {
        Pairs::new(self.reasons.iter().copied())
    }
}

impl<R> Line<R> {
    /// Makes the hint about peers that spoke another protocol; `None` where there were none.
    fn hint(&self) -> Option<String> {
        if self.spoken.is_empty() {
            return None;
        }
        let each = self.spoken.iter().map(|(name, count)| format!("{name} ({count})"));
        let each = each.collect::<Vec<_>>().join(", ");
        let remedy = match self.spoken[..] {
            [(PROXY_HEADER, _)] => "list the load balancer in --proxy-from",
            _ => {
                "if these are your clients, they belong to the port of the encrypt end, or this \
                 end should be encrypt; else they are scanners"
            }
        };
        Some(format!("some spoke plainly to this sealed port: {each}; {remedy}"))
    }

    /// Writes the number of sources, with a plus sign where it is a lower bound.
    pub fn sources(&self) -> String {
        let more = if self.sources == MOST_SOURCES { "+" } else { "" };
        format!("{}{more}", self.sources)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn total(lines: &[Line]) -> u64 {
        lines.iter().map(|line| line.count).sum()
    }

    #[test]
    fn the_first_failure_is_logged_at_once_and_later_ones_in_summaries() {
        let mut tally = FailureTally::default();
        let start = Instant::now();
        let line = tally.record(CloseReason::HandshakeFailed, &"192.0.2.1", start).unwrap();
        assert_eq!((line.count, line.sources, line.example.as_str()), (1, 1, "192.0.2.1"));
        for (i, reason) in [CloseReason::Replayed, CloseReason::HandshakeFailed].iter().enumerate()
        {
            assert_eq!(tally.record(*reason, &format!("192.0.2.{}", i + 2), start + SECOND), None);
        }
        assert_eq!(tally.tick(start + SECOND * 9), None);
        let line = tally.tick(start + SECOND * 10).unwrap();
        assert_eq!(line.reasons, [(CloseReason::HandshakeFailed, 1), (CloseReason::Replayed, 1)]);
        assert_eq!((line.count, line.sources, line.example.as_str()), (2, 2, "192.0.2.3"));
    }

    #[test]
    fn summaries_grow_rare_and_quiet_starts_over() {
        let mut tally = FailureTally::default();
        let start = Instant::now();
        let mut logged = vec![];
        for second in 0..2000 {
            let now = start + SECOND * second;
            if tally.record(CloseReason::HandshakeFailed, &"a", now).is_some() {
                logged.push(second);
            }
        }
        assert_eq!(logged, [0, 10, 30, 70, 150, 310, 610, 910, 1210, 1510, 1810]);
        let quiet = start + SECOND * 3000;
        assert!(tally.tick(quiet).is_some());
        assert_eq!(tally.tick(quiet + SECOND * 300), None);
        let line = tally.record(CloseReason::HandshakeFailed, &"a", quiet + SECOND * 301);
        assert_eq!(line.unwrap().count, 1);
    }

    #[test]
    fn a_flood_is_few_lines_that_add_up() {
        for gap in [0, 1, 15, 100, 700] {
            let mut tally = FailureTally::default();
            let start = Instant::now();
            let mut lines = vec![];
            let mut now = start;
            for i in 0..10_000_u32 {
                now = start + Duration::from_millis(gap) * i;
                let reason = match i % 10 {
                    0 => CloseReason::Replayed,
                    _ => CloseReason::HandshakeFailed,
                };
                lines.extend(tally.record(reason, &i, now));
                lines.extend(tally.tick(now));
            }
            lines.extend(tally.tick(now + SECOND));
            lines.extend(tally.flush());
            assert!(lines.len() <= 100, "{} lines", lines.len());
            assert_eq!(total(&lines), 10_000);
            let replayed = lines.iter().flat_map(|line| &line.reasons);
            let replayed: u64 =
                replayed.filter(|(why, _)| *why == CloseReason::Replayed).map(|(_, n)| n).sum();
            assert_eq!(replayed, 1000);
            assert!(tally.flush().is_none());
        }
    }

    #[test]
    fn a_spoken_protocol_is_logged_once_with_the_remedy() {
        let mut tally = FailureTally::default();
        let start = Instant::now();
        let mut line = |speech: &[&'static str]| {
            speech.iter().for_each(|speech| tally.note_speech(speech));
            tally.record(CloseReason::HandshakeFailed, &"a", start);
            tally.flush().or_else(|| tally.record(CloseReason::HandshakeFailed, &"a", start))
        };
        let _first = line(&[]);
        let both = line(&["TLS", "Redis", "TLS"]).unwrap().hint().unwrap();
        assert!(both.contains("Redis (1), TLS (2); if these are your clients"), "{both}");
        assert!(line(&[PROXY_HEADER]).unwrap().hint().unwrap().contains("--proxy-from"));
        assert_eq!(line(&[]).unwrap().hint(), None);
    }

    #[test]
    fn sources_are_bounded_and_say_so() {
        let mut tally = FailureTally::default();
        let start = Instant::now();
        for i in 0..5000 {
            tally.record(CloseReason::HandshakeFailed, &i, start);
        }
        let line = tally.flush().unwrap();
        assert_eq!((line.count, line.sources().as_str()), (4999, "1024+"));
        assert_eq!(line.reasons().to_string(), "handshake-failed=4999");
    }

    /// Each failure is either logged in full or counted in a summary, never both.
    #[test]
    fn the_first_of_each_reason_is_for_the_caller_and_in_no_line() {
        let mut tally = FailureTally::default();
        let start = Instant::now();
        let away = CloseReason::PeerUnreachable;
        let mute = CloseReason::NoAnswer;
        let mut in_full = vec![];
        let mut lines = vec![];
        for second in 0..100 {
            let reason = if second % 3 == 2 { mute } else { away };
            let now = start + SECOND * second;
            let (logged, line) = tally.record_unless_first(reason, &"a", now);
            in_full.extend((logged == Logged::Now).then_some(second));
            lines.extend(line);
        }
        assert_eq!(in_full, [0, 2]);
        lines.extend(tally.flush());
        assert_eq!(total(&lines), 98);
        // After a whole period without failures the next one is logged in full again.
        assert_eq!(tally.tick(start + SECOND * 1000), None);
        let (logged, line) = tally.record_unless_first(away, &"a", start + SECOND * 1001);
        assert_eq!((logged, line), (Logged::Now, None));
    }

    #[test]
    fn counting_goes_on_while_a_line_is_logged() {
        let failures = Arc::new(Failures::default());
        let counted = Arc::clone(&failures);
        let lines = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&lines);
        let log = tracing_subscriber::fmt().with_writer(move || {
            assert!(counted.tally.try_lock().is_ok(), "the tally is locked");
            seen.fetch_add(1, Ordering::Relaxed);
            std::io::sink()
        });
        tracing::subscriber::with_default(log.finish(), || {
            failures.failed(CloseReason::Replayed, &"a");
            failures.failed(CloseReason::Replayed, &"a");
            failures.flush();
            failures.failed(CloseReason::Replayed, &"a");
            let past = Instant::now().checked_sub(SECOND).unwrap();
            failures.tally().period = Some((past, FIRST_PERIOD));
            failures.tick();
        });
        assert_eq!(lines.load(Ordering::Relaxed), 3);
    }
}
