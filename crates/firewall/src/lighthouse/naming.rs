//! The descriptions of rules, which are the mark of this program: `<prefix><label>@@YYYYMMDD`.
//!
//! Only a rule with the prefix and a real date at the end is ours; everything else is left alone.

use knockpipe_base::civil::Date;

/// The most characters of a description.
const LONGEST: usize = 64;

/// Text between label and date.
const MARK: &str = "@@";

/// Digits of a date.
const DATE: usize = 8;

/// The most characters of a prefix, so that half of the description is left for the label.
const LONGEST_PREFIX: usize = 24;

/// Label of rules for entries without one.
const NO_LABEL: &str = "DEFAULT";

/// The beginning of the descriptions of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

/// Text that cannot begin descriptions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it has to have 1 to {LONGEST_PREFIX} characters, none of them @ or invisible; write one such as knockpipe-"
)]
pub struct BadPrefix;

/// Label and date of a rule of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) label: &'a str,
    pub(super) date: Date,
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Prefix {
    type Err = BadPrefix;

    fn from_str(text: &str) -> Result<Self, BadPrefix> {
        let count = text.chars().count();
        let is_plain = text.chars().all(|c| c != '@' && !c.is_control());
        let fits = (1..=LONGEST_PREFIX).contains(&count);
        if fits && is_plain { Ok(Self(text.to_owned())) } else { Err(BadPrefix) }
    }
}

impl Prefix {
    /// Returns the description of a rule for an entry with this label.
    pub(super) fn describe(&self, label: Option<&str>, date: Date) -> String {
        let room = LONGEST - self.0.chars().count() - MARK.len() - DATE;
        let label = label.unwrap_or(NO_LABEL).chars().filter(|c| !c.is_control());
        let label: String = label.take(room).collect();
        format!("{}{label}{MARK}{date}", self.0)
    }

    /// Reads the description of a rule; `None` if it is not ours.
    pub(super) fn read<'a>(&self, description: &'a str) -> Option<Name<'a>> {
        let (label, date) = description.strip_prefix(&self.0)?.rsplit_once(MARK)?;
        Some(Name { label, date: Date::parse(date)? })
    }
}

impl Name<'_> {
    /// Returns the label of the entry that the rule was made for.
    pub(super) fn label(&self) -> Option<&str> {
        Some(self.label).filter(|label| *label != NO_LABEL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TODAY: u64 = 1_700_000_000;

    fn prefix() -> Prefix {
        "Knockd-".parse().unwrap()
    }

    #[test]
    fn a_description_is_read_back_and_never_too_long() {
        let long = "世".repeat(80);
        for (label, shown) in [
            (Some("Office_01"), "Office_01".to_owned()),
            (None, "DEFAULT".to_owned()),
            (Some("a b  c"), "a b  c".to_owned()),
            (Some("x@@20200101"), "x@@20200101".to_owned()),
            (Some("two\nlines\u{7f}"), "twolines".to_owned()),
            (Some(long.as_str()), "世".repeat(47)),
        ] {
            let date = Date::of_unix(TODAY);
            let description = prefix().describe(label, date);
            assert_eq!(description, format!("Knockd-{shown}@@20231114"));
            assert!(description.chars().count() <= LONGEST);
            let name = prefix().read(&description).unwrap();
            assert_eq!((name.label, name.date), (shown.as_str(), date));
        }
    }

    #[test]
    fn what_is_not_exactly_of_this_form_belongs_to_others() {
        for description in [
            "SSH of the office",
            "Other-x@@20200101",
            "Knockd-f",
            "knockd-h@@20200101",
            "Knockd-x@@soon",
            "Knockd-y@@",
            "Knockd-z@@20201399",
            " Knockd-a@@20200101",
            "Knockd-a@@20200101 ",
            "",
        ] {
            assert_eq!(prefix().read(description), None, "{description}");
        }
        let all = "x".repeat(25);
        for text in ["", "a@", "a\n", &all] {
            assert_eq!(text.parse::<Prefix>(), Err(BadPrefix));
        }
    }
}
