//! Unix time as types: a moment, and the end of something that may have none.
//!
//! Bare numbers would mix up seconds with milliseconds, and "no end" with "no entry". This module
//! reads no clock: every moment comes from its caller.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;
use std::time::Duration;

/// A moment, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(pub u64);

/// The end of something that is valid for a while or for ever.
///
/// Ordered by time: the smaller of two ends sooner, and `Never` is the largest. Of two
/// `Option<Expiry>`, where `None` is "not valid", the larger is what both sources together grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expiry {
    /// It ends at this moment.
    At(UnixMillis),
    /// It does not end.
    Never,
}

// === impl UnixMillis ===

impl UnixMillis {
    /// The moment that begins this unix second.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1_000))
    }

    /// The unix second that the moment is in.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1_000
    }

    /// The moment `time` later, at most the last one that can be represented.
    #[must_use]
    pub fn saturating_add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The moment `milliseconds` later, or earlier where that is negative.
    #[must_use]
    pub const fn moved_by(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add_signed(milliseconds))
    }

    /// The time from `earlier` until this moment; zero where it is later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl FromStr for UnixMillis {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Expiry ===

impl Expiry {
    /// The end of what begins `now` and lasts for `time`; `None` is for ever.
    pub fn after(now: UnixMillis, time: Option<Duration>) -> Self {
        time.map_or(Self::Never, |time| Self::At(now.saturating_add(time)))
    }

    /// Returns true if it is over at `now`: the moment of its end included.
    pub fn is_past(self, now: UnixMillis) -> bool {
        matches!(self, Self::At(end) if end <= now)
    }

    /// The moment; `None` if there is none.
    pub const fn moment(self) -> Option<UnixMillis> {
        match self {
            Self::At(end) => Some(end),
            Self::Never => None,
        }
    }

    /// Unix milliseconds, as JSON has them; `None` if there is no end.
    pub const fn as_millis(self) -> Option<u64> {
        match self {
            Self::At(end) => Some(end.0),
            Self::Never => None,
        }
    }

    /// The time that is left at `now`; `None` if there is no end.
    pub fn left(self, now: UnixMillis) -> Option<Duration> {
        self.moment().map(|end| end.saturating_since(now))
    }
}

/// Unix milliseconds, as JSON has them; `None` is for ever.
impl From<Option<u64>> for Expiry {
    fn from(end: Option<u64>) -> Self {
        end.map_or(Self::Never, |end| Self::At(UnixMillis(end)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(milliseconds: u64) -> Expiry {
        Expiry::At(UnixMillis(milliseconds))
    }

    #[test]
    fn the_smaller_end_is_the_sooner_and_never_is_the_last() {
        assert_eq!(at(1).min(at(2)), at(1));
        assert_eq!(at(1).min(Expiry::Never), at(1));
        assert_eq!(at(u64::MAX).max(Expiry::Never), Expiry::Never);
    }

    #[test]
    fn of_two_sources_the_later_end_counts() {
        assert_eq!(Some(at(1)).max(None), Some(at(1)));
        assert_eq!(Some(at(1)).max(Some(Expiry::Never)), Some(Expiry::Never));
        assert_eq!(None::<Expiry>.max(None), None);
    }

    #[test]
    fn an_end_is_past_from_its_moment_on() {
        assert!(!at(5).is_past(UnixMillis(4)) && at(5).is_past(UnixMillis(5)));
        assert!(!Expiry::Never.is_past(UnixMillis(u64::MAX)));
    }

    #[test]
    fn sums_saturate() {
        let last = UnixMillis(u64::MAX);
        assert_eq!(last.saturating_add(Duration::MAX), last);
        assert_eq!(UnixMillis(1).moved_by(-2), UnixMillis(0));
        assert_eq!(UnixMillis(1).saturating_since(last), Duration::ZERO);
        assert_eq!(UnixMillis::from_secs(u64::MAX), last);
        let second = Some(Duration::from_secs(1));
        assert_eq!(Expiry::after(UnixMillis(500), second), at(1_500));
        assert_eq!(Expiry::after(last, None), Expiry::Never);
        assert_eq!(at(1_500).left(UnixMillis(500)), second);
    }
}
