//! Spellings that this program had itself, and the ones that took their place.
//!
//! No old spelling is accepted: two names for one thing would have to be explained for ever. It is
//! not passed over in silence either: a policy of the gate that is ignored would leave an end
//! with the default. So each is refused, and the answer names the new spelling.

/// Long flags without their hyphens, as they were and as they are. Keys of a configuration file
/// and environment variables follow from them.
const FLAGS: [(&str, &str); 1] = [("gate-away", "gate-failure")];

/// Values of flags: the long flag, the value as it was, and as it is.
const VALUES: [(&str, &str, &str); 1] = [("denied", "hold", "tarpit")];

/// Returns the flag that took the place of `word`, without hyphens.
pub(super) fn flag(word: &str) -> Option<&'static str> {
    FLAGS.iter().find(|(old, _)| *old == word).map(|(_, new)| *new)
}

/// Returns the former names of the flag `long`, without hyphens.
pub(super) fn former(long: &str) -> impl Iterator<Item = &'static str> {
    FLAGS.iter().filter(move |(_, new)| *new == long).map(|(old, _)| *old)
}

/// Returns the value that took the place of `value` of the flag `long`.
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
