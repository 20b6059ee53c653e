//! What the gate and a store say to each other: changes that a follower
//! reports, edits that are asked for, and what came of them.
//!
//! Words only. This module knows neither Redis nor a file, and it refuses to
//! decide: what an event means for a connection is the keeper's business.

use std::net::IpAddr;
use std::time::Duration;

use super::member::{Item, Member};

/// The largest number of items in one [`Event::Items`] or one listed batch.
pub const BATCH: usize = 10_000;

/// How many addresses a question may have for an exact answer: of so few a store tries
/// networks of every length. Questions about peers that wait have no more.
pub const MOST_EXACT: usize = 64;

/// What a store's follower reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A full read starts; what follows until `End` replaces everything. One that
    /// is cut off is followed by `Away`, or by the `Begin` of another.
    Begin,
    /// Part of a full read, at most [`BATCH`] items. A subject that comes twice
    /// counts as it came last.
    Items(Vec<Item>),
    /// The full read is complete, and the store is fresh from now on.
    End {
        /// Entries that are no address or network; counted, not used.
        garbage: u64,
    },
    /// The truth about one member now: `None` for not allowed, else until when
    /// (unix ms; `Some(None)` for ever).
    Allowed(Member, Option<Option<u64>>),
    /// The truth about one ban now, in the same form.
    Banned(Member, Option<Option<u64>>),
    /// The allow-set changed in a way that only a full read tells; one is
    /// scheduled, and asks are answered with the truth meanwhile.
    Unsure,
    /// An ask was answered: about these addresses everything was said that is true
    /// after the last `Unsure`. Only a store that reports `Unsure` reports this.
    Answered(Vec<IpAddr>),
    /// The store is unreachable or unusable, and why, in one line. Once for each
    /// absence; it is back with the next `End`.
    Away(String),
}

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Lets a member in, for ever or for a while.
    Allow(Member, Option<Duration>),
    /// Takes a member out of the allow-set.
    Remove(Member),
    /// Bans an address or an IPv6 /64 from now on; replaces a ban that it has.
    Ban(Member, Duration),
    /// Lifts a ban: that of an address also from its IPv6 /64.
    Unban(Member),
    /// Notes when addresses were last let in, in unix seconds.
    Touch(Vec<(IpAddr, u64)>),
    /// Removes an address from the allow-set and the history, if it was last let
    /// in before `before_s` (unix seconds): whoever listed it may find it in use
    /// by now. A ban stays.
    Forget {
        /// Who is idle.
        ip: IpAddr,
        /// Seen at this second or later, nothing is done.
        before_s: u64,
    },
    /// Counts a failure in the current window of `findtime`, for the address or its
    /// IPv6 /64 ([`Member::source_of`]); the one that reaches `maxretry` writes a ban
    /// of that. Does nothing while banned.
    Strike {
        /// Who failed.
        ip: IpAddr,
        /// The length of a window; windows are aligned to the unix epoch.
        findtime: Duration,
        /// How long the ban lasts.
        bantime: Duration,
        /// How many failures within one window make a ban.
        maxretry: u64,
    },
    /// Forgets the failures of the current window; a ban stays, since an
    /// operator may have written it in the meantime.
    ClearStrikes {
        /// Who succeeded.
        ip: IpAddr,
        /// The length of a window, as it was struck with.
        findtime: Duration,
    },
}

/// What came of an edit, so that an operator sees what was changed where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The server or file that took the edit.
    pub server: String,
    /// The key that it was about; of a strike that banned, the ban's key.
    pub key: String,
    /// Whether anything is different now.
    pub changed: bool,
    /// How many: failures in this window after a strike, addresses touched.
    pub count: Option<u64>,
}

/// Everything that a store knows about one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The server or file that was asked.
    pub server: String,
    /// Every entry that lets the address in, exact ones first, then networks by
    /// longest prefix.
    pub grants: Vec<Grant>,
    /// The ban, if there is one.
    pub ban: Option<Hold>,
    /// When it was last let in, in unix seconds.
    pub seen: Option<u64>,
    /// Failures in the current window, when a window was asked for.
    pub strikes: Option<u64>,
    /// The end of the allow-set's key, with all its members, in unix milliseconds.
    pub set_ends_ms: Option<u64>,
}

/// An entry of the allow-set that covers an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The key in which it was found.
    pub key: String,
    /// The entry.
    pub member: Member,
    /// Its end, in unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// A ban in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What is banned: the address, or its /64.
    pub member: Member,
    /// The key in which it was found.
    pub key: String,
    /// Its end, in unix milliseconds.
    pub expires_ms: Option<u64>,
}

/// Why a store could not do what it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// There is no store.
    #[error("there is no store to ask; name one with --gate redis://HOST:PORT or --gate file:PATH")]
    NoStore,
    /// The server refused, or could not be reached.
    #[error("{server} did not work on key \"{key}\": {cause}; {remedy}")]
    Failed {
        /// The server.
        server: String,
        /// The key.
        key: String,
        /// What the server or the system said.
        cause: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// A member with an expiry was asked for where none can be kept.
    #[error(
        "key \"{key}\" on {server} is a plain set, whose members cannot expire; leave --ttl out, or add --allow-prefix PREFIX here and start the tunnel with the same --allow-prefix"
    )]
    NoExpiry {
        /// The server.
        server: String,
        /// The key.
        key: String,
    },
    /// The embedded store's file cannot be used.
    #[error("gate file {path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, and what to do about it.
        cause: String,
    },
    /// The reader of a listing went away before its end.
    #[error("the listing was cut off by its reader; ask again")]
    CutOff,
}

/// Networks that contain `ip`, longest first, from the shortest given length on.
pub fn networks_around(ip: IpAddr, lengths: impl Iterator<Item = u8>) -> Vec<Member> {
    let ip = ip.to_canonical();
    lengths
        .filter_map(|length| ipnet::IpNet::new(ip, length).ok())
        .filter(|network| network.prefix_len() < network.max_prefix_len())
        .map(Member::from)
        .collect()
}

/// An end (unix ms) from here on is no end that anybody meant: as a unix second it is
/// in the year 33658, and its number of seconds, read as milliseconds, is a day since 2001.
const UNMEANT_MS: u64 = 1_000_000_000_000 * 1_000;

/// Whether an end was probably written in milliseconds, where seconds are expected.
pub fn is_unmeant(end: Option<u64>) -> bool {
    end.is_some_and(|end| end >= UNMEANT_MS)
}

/// The sooner of two ends, `None` being never.
pub fn sooner(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    [one, other].into_iter().flatten().min()
}

/// The later of two ends, `None` being never.
pub fn later(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.zip(other).map(|(one, other)| one.max(other))
}

/// The truth of two sources about one subject: allowed by either, until the later end.
pub fn either(one: Option<Option<u64>>, other: Option<Option<u64>>) -> Option<Option<u64>> {
    match (one, other) {
        (Some(one), Some(other)) => Some(later(one, other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_end_counts() {
        assert_eq!(later(Some(1), Some(2)), Some(2));
        assert_eq!(later(Some(1), None), None);
        assert_eq!(either(Some(Some(1)), None), Some(Some(1)));
        assert_eq!(either(Some(Some(1)), Some(None)), Some(None));
        assert_eq!(either(None, None), None);
    }

    #[test]
    fn the_sooner_end_counts_where_both_must_hold() {
        assert_eq!(sooner(Some(1), Some(2)), Some(1));
        assert_eq!(sooner(Some(1), None), Some(1));
        assert_eq!(sooner(None, None), None);
    }

    #[test]
    fn milliseconds_for_seconds_are_noticed_and_far_dates_are_not() {
        let now_s = 1_790_000_000;
        let year_9999_s = 253_402_300_799;
        for (score_s, unmeant) in [
            (now_s, false),
            (9_999_999_999, false),
            (year_9999_s, false),
            (now_s * 1_000, true),
            (now_s * 1_000_000, true),
        ] {
            assert_eq!(is_unmeant(Some(score_s * 1_000)), unmeant, "{score_s}");
        }
        assert!(!is_unmeant(None) && is_unmeant(Some(u64::MAX)));
    }

    #[test]
    fn networks_around_an_address_never_are_the_address() {
        let around =
            networks_around("::ffff:203.0.113.7".parse().unwrap(), [0, 24, 32].into_iter());
        let expected: Vec<Member> =
            ["0.0.0.0/0", "203.0.113.0/24"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(around, expected);
    }

    #[test]
    fn every_error_is_one_line_with_a_remedy() {
        let text = String::new;
        let errors = [
            StoreError::NoStore,
            StoreError::Failed { server: text(), key: text(), cause: text(), remedy: "" },
            StoreError::NoExpiry { server: text(), key: text() },
            StoreError::CutOff,
        ];
        for error in errors {
            let line = error.to_string();
            assert!(line.contains("; ") && !line.contains('\n'), "{line}");
        }
    }
}
