//! Times on the command line: written with a unit everywhere, and without one only where spiped
//! has the flag.
//!
//! Every error is the second half of a line that starts with the flag, and ends with what to
//! write instead.

use std::str::FromStr;
use std::time::Duration;

use crate::duration;
use crate::proto::heartbeat::Heartbeat;

/// Longest time, in milliseconds: a year. Clocks add it without overflow.
const LONGEST_MS: f64 = 31_536_000_000.0;

/// Units of a time with their milliseconds. `ms` comes before `s`, because it ends with it.
const UNITS: [(&str, f64); 5] =
    [("ms", 1.0), ("s", 1_000.0), ("m", 60_000.0), ("h", 3_600_000.0), ("d", 86_400_000.0)];

/// Longest time between heartbeats, which is far below the range of 32 bits of milliseconds.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(86_400);

/// The longest time without data.
const LONGEST_IDLE: Duration = Duration::from_secs(30 * 86_400);

/// A time that does not fit its flag.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadTime {
    /// Not a duration.
    #[error("'{0}' is not a duration; write one such as 5s, 200ms or 1m, at most a year")]
    Time(String),
    /// A number by itself.
    #[error("'{0}' has no unit; write {1}")]
    NoUnit(String, String),
    /// A fraction with a unit.
    #[error("'{0}' is not a whole number of a unit; write {1}")]
    Fraction(String, String),
    /// Not a time between heartbeats.
    #[error(
        "'{0}' is not a time between signs of life; write one with a unit, such as 10s or 1m, at most 1d, or off"
    )]
    Heartbeat(String),
    /// No time at all.
    #[error("'{0}' is no time; write one such as 5s, or off for no limit")]
    Never(String),
    /// Not a time without data.
    #[error(
        "'{0}' is not a time without data; write one such as 10m, 12h or 1d, at most 30d, or off"
    )]
    IdleTimeout(String),
}

/// `--heartbeat`: `None` disables heartbeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeartbeatTime(pub(super) Option<Heartbeat>);

/// `--idle-timeout`: `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdleTimeout(pub(super) Option<Duration>);

/// A time limit: `None` is for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeOrOff(pub(super) Option<Duration>);

impl FromStr for TimeOrOff {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        match text {
            "off" => Ok(Self(None)),
            text => match parse(text)? {
                time if time.is_zero() => Err(BadTime::Never(text.to_owned())),
                time => Ok(Self(Some(time))),
            },
        }
    }
}

/// Parses a duration such as `5s`, `200ms` or `1m`. Zero is left to the flag to judge.
///
/// # Errors
/// [`BadTime`]; for a number without a unit and a fraction it has the right spelling.
pub(super) fn parse(text: &str) -> Result<Duration, BadTime> {
    if let Some(ms) = milliseconds(text, 1_000.0) {
        return Err(BadTime::NoUnit(text.to_owned(), written(ms)));
    }
    let with_unit = |(unit, ms): &(&str, f64)| {
        let number = text.strip_suffix(unit)?;
        Some((number, milliseconds(number, *ms)))
    };
    match UNITS.iter().find_map(with_unit) {
        Some((number, Some(ms))) if number.contains('.') => {
            Err(BadTime::Fraction(text.to_owned(), written(ms)))
        }
        Some((_, Some(ms))) => Ok(ms),
        _ => Err(BadTime::Time(text.to_owned())),
    }
}

/// Parses a time of a flag that spiped has, in its spelling: seconds without a unit, with an
/// optional fraction, or a duration as everywhere else.
///
/// # Errors
/// [`BadTime`]
pub(super) fn parse_spiped(text: &str) -> Result<Duration, BadTime> {
    milliseconds(text, 1_000.0).map_or_else(|| parse(text), Ok)
}

/// Reads `number` of a unit of `ms` milliseconds, rounded up to milliseconds. `f64` alone would
/// also accept "inf", "nan" and "1e3".
fn milliseconds(number: &str, ms: f64) -> Option<Duration> {
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let ms = number.parse::<f64>().ok().filter(|_| is_plain)? * ms;
    // Far below 2^53, so that no whole number of milliseconds is lost.
    (ms <= LONGEST_MS).then(|| Duration::from_secs_f64(ms.ceil() / 1_000.0))
}

/// Writes a time in the largest of the units `s` and `ms` that fits.
fn written(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

/// Parses a duration up to `longest`, or `off`. `None` is neither.
fn duration_or_off(text: &str, longest: Duration) -> Option<Option<Duration>> {
    match text {
        "off" => Some(None),
        text => duration::parse(text).ok().filter(|time| *time <= longest).map(Some),
    }
}

/// Returns the error of a text that is neither a duration nor `off`: its unit is missing, or
/// `otherwise`.
fn without_unit(text: &str, otherwise: impl Fn(String) -> BadTime) -> BadTime {
    match parse(text) {
        Err(BadTime::NoUnit(text, written)) if written != "0s" => BadTime::NoUnit(text, written),
        _ => otherwise(text.to_owned()),
    }
}

impl FromStr for HeartbeatTime {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        let time = duration_or_off(text, LONGEST_HEARTBEAT);
        let time = time.ok_or_else(|| without_unit(text, BadTime::Heartbeat))?;
        Ok(Self(time.and_then(Heartbeat::every)))
    }
}

impl FromStr for IdleTimeout {
    type Err = BadTime;

    fn from_str(text: &str) -> Result<Self, BadTime> {
        let time = duration_or_off(text, LONGEST_IDLE);
        time.map(Self).ok_or_else(|| without_unit(text, BadTime::IdleTimeout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_whole_number_with_a_unit() {
        for (text, ms) in [
            ("250ms", 250),
            ("5s", 5_000),
            ("90s", 90_000),
            ("1m", 60_000),
            ("2h", 7_200_000),
            ("365d", 31_536_000_000),
            ("0s", 0),
            ("0ms", 0),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        for bad in ["", ".", "s", "ms", "-1s", "+1s", "inf", "nan", "1e3s", "366d", "1.2.3s", "5S"]
        {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.contains("is not a duration; write one such as 5s"), "{error}");
        }
    }

    #[test]
    fn a_bare_number_and_a_fraction_are_refused_with_the_spelling() {
        for (text, remedy) in [
            ("5", "'5' has no unit; write 5s"),
            ("0", "'0' has no unit; write 0s"),
            ("0.5", "'0.5' has no unit; write 500ms"),
            ("2.5", "'2.5' has no unit; write 2500ms"),
            ("1.5s", "'1.5s' is not a whole number of a unit; write 1500ms"),
            ("0.5h", "'0.5h' is not a whole number of a unit; write 1800s"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), remedy);
        }
    }

    #[test]
    fn the_spelling_of_spiped_has_plain_seconds() {
        for (text, ms) in [("5", 5_000), ("0.25", 250), ("0", 0), ("5s", 5_000), ("200ms", 200)] {
            assert_eq!(parse_spiped(text).unwrap(), Duration::from_millis(ms), "{text}");
        }
        assert_eq!(parse_spiped("31536000").unwrap(), Duration::from_secs(31_536_000));
        assert_eq!(parse_spiped("0.0001").unwrap(), Duration::from_millis(1), "never rounded to 0");
        for bad in ["", ".", "-1", "+1", "inf", "nan", "1e3", "31536001", "1.2.3"] {
            assert!(parse_spiped(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_sign_of_life_without_a_unit_is_refused_with_the_spelling() {
        let heartbeat = "60".parse::<HeartbeatTime>().unwrap_err().to_string();
        assert_eq!(heartbeat, "'60' has no unit; write 60s");
        let idle = "5".parse::<IdleTimeout>().unwrap_err().to_string();
        assert_eq!(idle, "'5' has no unit; write 5s");
        let none = "0".parse::<HeartbeatTime>().unwrap_err().to_string();
        assert!(none.contains("or off"), "{none}");
    }

    #[test]
    fn signs_of_life_and_times_without_data_have_units_or_are_off() {
        let heartbeat = |text: &str| text.parse::<HeartbeatTime>().ok().map(|time| time.0);
        let idle = |text: &str| text.parse::<IdleTimeout>().ok().map(|time| time.0);
        let seconds = Duration::from_secs;
        assert_eq!((heartbeat("off"), idle("off")), (Some(None), Some(None)));
        assert_eq!(heartbeat("60s"), Some(Heartbeat::every(seconds(60))));
        assert_eq!(heartbeat("1d"), Some(Heartbeat::every(seconds(86_400))));
        assert_eq!(idle("30d"), Some(Some(seconds(2_592_000))));
        assert_eq!((heartbeat("2d"), idle("31d")), (None, None));
        for text in ["", "0", "60", "-1s", "0s", "on", "1.5s", "Off"] {
            assert_eq!((heartbeat(text), idle(text)), (None, None), "{text}");
        }
    }
}
