//! Durations as people write them: `60s`, `5m`, `1h` or `30d`.
//!
//! Whole numbers only, and never zero: a ban, a grant or a window of no duration means nothing.
//! Never without a unit either: a bare 30 that was meant as days would end every grant after
//! seconds.

use std::time::Duration;

/// Ten years. Sums with a date stay far from any overflow, also in Redis.
const LONGEST_SECONDS: u64 = 3650 * 86_400;

/// Units and their seconds, the largest first, so that a duration is written with the largest
/// that fits.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];

/// Error of a text that is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// A number by itself.
    #[error("\"{0}\" has no unit; write {0}s, {0}m, {0}h or {0}d")]
    NoUnit(u64),
    /// Something else.
    #[error("\"{0}\" is not a duration; write one such as 60s, 5m, 1h or 30d, at most 3650d")]
    Other(String),
}

/// Reads a duration of whole seconds, from 1 s to 3650 d.
///
/// # Errors
/// [`DurationError`] for everything else, with what to write instead.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let unit = UNITS.iter().find_map(|(unit, seconds)| Some((text.strip_suffix(*unit)?, *seconds)));
    let Some((number, unit)) = unit else {
        return Err(match whole(text).filter(|number| (1..=3650).contains(number)) {
            Some(number) => DurationError::NoUnit(number),
            None => DurationError::Other(text.to_owned()),
        });
    };
    whole(number)
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| (1..=LONGEST_SECONDS).contains(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| DurationError::Other(text.to_owned()))
}

/// Reads a number in digits only: `u64` would also accept a plus sign.
fn whole(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Writes a duration as [`parse`] reads it; fractions of a second are cut off.
pub fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let fits = |(_, unit): &(char, u64)| seconds > 0 && seconds.is_multiple_of(*unit);
    let (unit, size) = UNITS.into_iter().find(fits).unwrap_or(('s', 1));
    format!("{}{unit}", seconds / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let cases =
            [("1s", 1, "1s"), ("90s", 90, "90s"), ("60s", 60, "1m"), ("5m", 300, "5m")].into_iter();
        let cases = cases.chain([
            ("1h", 3600, "1h"),
            ("36h", 129_600, "36h"),
            ("30d", 2_592_000, "30d"),
            ("3650d", 315_360_000, "3650d"),
            ("007s", 7, "7s"),
        ]);
        for (text, seconds, shown) in cases {
            let duration = parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(duration, Duration::from_secs(seconds), "{text}");
            assert_eq!(format(duration), shown);
        }
        assert_eq!(format(Duration::ZERO), "0s");
    }

    #[test]
    fn a_number_needs_a_unit() {
        for bare in ["1", "30", "3650"] {
            let error = parse(bare).unwrap_err().to_string();
            assert_eq!(
                error,
                format!("\"{bare}\" has no unit; write {0}s, {0}m, {0}h or {0}d", bare)
            );
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long = "99999999999999999999d";
        for bad in [
            "", "s", "0", "0s", "9999", "-1", "+1", "1.5h", "1 h", "5M", "1w", "1h30m", "3651d",
            long,
        ] {
            let error = parse(bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("\"{bad}\"")) && error.contains("; "), "{error}");
        }
    }
}
