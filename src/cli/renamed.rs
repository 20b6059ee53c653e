//! Former spellings of this program, and their replacements.
//!
//! No old spelling is accepted: two names for one thing would have to be explained for ever. It is
//! not ignored silently either: an ignored policy of the gate would leave an end with the default.
//! So each is refused, and the error names the new spelling.

/// Long flags without their hyphens, old and new. Keys of a configuration file and environment
/// variables follow from them.
const FLAGS: [(&str, &str); 1] = [("gate-away", "gate-failure")];

/// Values of flags: the long flag, the old value, the new one.
const VALUES: [(&str, &str, &str); 1] = [("denied", "hold", "tarpit")];

/// Returns the flag that replaced `word`, without hyphens.
pub(super) fn flag(word: &str) -> Option<&'static str> {
    FLAGS.iter().find(|(old, _)| *old == word).map(|(_, new)| *new)
}

/// Returns the former names of the flag `long`, without hyphens.
pub(super) fn former(long: &str) -> impl Iterator<Item = &'static str> {
    FLAGS.iter().filter(move |(_, new)| *new == long).map(|(old, _)| *old)
}

/// Returns the value that replaced `value` of the flag `long`.
pub(super) fn value(long: &str, value: &str) -> Option<&'static str> {
    let found = VALUES.iter().find(|(flag, old, _)| *flag == long && *old == value);
    found.map(|(_, _, new)| *new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_old_spelling_leads_to_the_new_one() {
        assert_eq!(flag("gate-away"), Some("gate-failure"));
        assert_eq!(flag("gate-failure"), None);
        assert_eq!(former("gate-failure").collect::<Vec<_>>(), ["gate-away"]);
        assert_eq!(former("gate").count(), 0);
        assert_eq!(value("denied", "hold"), Some("tarpit"));
        assert_eq!(value("denied", "close"), None);
        assert_eq!(value("on-revoke", "hold"), None);
    }
}
