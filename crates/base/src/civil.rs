//! Dates of the Gregorian calendar, in UTC, for times that people read.

use std::fmt;

const DAY_S: u64 = 86_400;

/// A day of the calendar, in UTC. Shown as `20261130`; `{:#}` shows `2026-11-30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    year: u64,
    month: u64,
    day: u64,
}

impl Date {
    /// The day that a unix second is in.
    pub const fn of_unix(seconds: u64) -> Self {
        // Years begin in March, so that a leap day is the last of one.
        let days = seconds / DAY_S + 719_468;
        let era = days / 146_097;
        let day_of_era = days % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let january = if month <= 2 { 1 } else { 0 };
        Self { year: era * 400 + year_of_era + january, month, day }
    }

    /// The day `days` before the one that a unix second is in, not before 1970.
    pub const fn days_before(seconds: u64, days: u64) -> Self {
        Self::of_unix(seconds.saturating_sub(days.saturating_mul(DAY_S)))
    }

    /// Reads eight digits that are the year, the month and the day.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, rest) = text.split_at(4);
        let (month, day) = rest.split_at(2);
        let (year, month, day) = (year.parse().ok()?, month.parse().ok()?, day.parse().ok()?);
        ((1..=12).contains(&month) && (1..=31).contains(&day)).then_some(Self { year, month, day })
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day } = self;
        let dash = if f.alternate() { "-" } else { "" };
        write!(f, "{year:04}{dash}{month:02}{dash}{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_begins_at_midnight() {
        for (second, day) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (1_709_164_800, "2024-02-29"),
            (1_709_251_199, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (4_102_444_799, "2099-12-31"),
        ] {
            assert_eq!(format!("{:#}", Date::of_unix(second)), day);
        }
        assert_eq!(format!("{:#}", Date::days_before(1_709_251_200, 1)), "2024-02-29");
        assert_eq!(format!("{:#}", Date::days_before(0, 9)), "1970-01-01");
    }

    #[test]
    fn eight_digits_are_a_date_and_nothing_else_is() {
        let second = 1_709_251_199;
        assert_eq!(Date::parse("20240229"), Some(Date::of_unix(second)));
        assert!(Date::parse("20240228") < Date::parse("20240301"));
        for text in
            ["", "soon", "2024022", "202402290", "20241301", "20240100", "+2024022", "２０２４"]
        {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }
}
