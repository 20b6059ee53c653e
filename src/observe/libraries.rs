//! Lines of libraries in the log.
//!
//! A library writes what it likes about each connection, in words that no document explains, and
//! strangers decide how often. So there is none at the levels that are for operation: what matters
//! there is said, and counted, by this program. For debugging there are a few in a second, whatever
//! comes. No line of this program is held back.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;

/// Beginning of the module paths of this program and its crates.
const OWN: &str = "knockpipe";

/// The most lines of libraries in each [`PERIOD`].
const MOST: u32 = 20;

const PERIOD: Duration = Duration::from_secs(1);

/// Filter of lines that are not this program's.
#[derive(Debug)]
pub(super) struct LibraryLines {
    level: LevelFilter,
    period: Mutex<Period>,
}

/// A second with the lines that were written in it.
#[derive(Debug, Default)]
struct Period {
    began: Option<Instant>,
    lines: u32,
}

impl LibraryLines {
    /// Creates the filter of a log of this level.
    pub(super) fn of(level: LevelFilter) -> Self {
        let is_for_operation = level < LevelFilter::DEBUG;
        let level = if is_for_operation { LevelFilter::OFF } else { LevelFilter::DEBUG };
        Self { level, period: Mutex::default() }
    }

    fn lets(&self, target: &str, level: Level) -> bool {
        is_own(target) || self.level >= level
    }

    fn period(&self) -> MutexGuard<'_, Period> {
        self.period.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for LibraryLines {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        self.lets(metadata.target(), *metadata.level())
    }

    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        is_own(event.metadata().target()) || self.period().take(Instant::now())
    }
}

impl Period {
    /// Takes a line, if one is left at this moment.
    fn take(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= PERIOD) {
            *self = Self { began: Some(now), lines: 0 };
        }
        let is_left = self.lines < MOST;
        self.lines += u32::from(is_left);
        is_left
    }
}

fn is_own(target: &str) -> bool {
    target.starts_with(OWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_write_for_debugging_only() {
        for (level, of_library) in [
            (LevelFilter::ERROR, [false, false, false]),
            (LevelFilter::INFO, [false, false, false]),
            (LevelFilter::DEBUG, [true, true, false]),
            (LevelFilter::TRACE, [true, true, false]),
        ] {
            let lines = LibraryLines::of(level);
            let lets = |target| {
                [Level::ERROR, Level::DEBUG, Level::TRACE].map(|level| lines.lets(target, level))
            };
            assert_eq!(lets("h2::proto::streams"), of_library, "{level}");
            assert_eq!(lets("knockpipe::http"), [true; 3], "{level}");
            assert_eq!(lets("knockpipe_firewall"), [true; 3], "{level}");
        }
    }

    #[test]
    fn a_second_has_so_many_lines() {
        let mut period = Period::default();
        let now = Instant::now();
        let mut taken = |at| (0..100).filter(|_| period.take(at)).count();
        assert_eq!(taken(now), 20);
        assert_eq!(taken(now + PERIOD / 2), 0);
        assert_eq!(taken(now + PERIOD), 20);
    }
}
