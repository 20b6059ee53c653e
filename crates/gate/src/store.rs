//! The vocabulary between a gate and its store: events that a follower
//! reports, edits that are requested, and their results.
//!
//! Types only. This module knows neither Redis nor a file, and it refuses to
//! decide: the meaning of an event for a connection is for the revoker to judge.

use std::net::IpAddr;
use std::time::Duration;

use crate::grant::{GrantNote, NoteUntil};
use crate::member::{Item, Member};
use crate::owners::{Notes, Terms};
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// The largest number of items in one [`Event::Items`] or one listed batch.
pub const BATCH: usize = 10_000;

/// The most addresses of a query with an exact answer: of so few a store tries
/// networks of every length. Queries about peers that wait have no more.
pub const MOST_EXACT: usize = 64;

/// A report of a store's follower.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A full read starts; all that follows until `End` replaces everything. One that
    /// is cut off is followed by `Unavailable`, or by the `Begin` of another.
    Begin,
    /// Part of a full read, at most [`BATCH`] items. A subject that comes twice
    /// counts as it came last.
    Items(Vec<Item>),
    /// The full read is complete, and the store is fresh from now on.
    End {
        /// Entries that are no address or network; counted, not used.
        garbage: u64,
    },
    /// The current state of one member: `None` for not allowed, else its end.
    Allowed(Member, Option<Expiry>),
    /// The current state of one ban, in the same form.
    Banned(Member, Option<Expiry>),
    /// The allow-set changed in a way that only a full read shows; one is
    /// scheduled, and queries are answered with the current state meanwhile.
    Invalidated,
    /// A query was answered: everything about these addresses was reported as it is
    /// after the last `Invalidated`. Only a store that reports `Invalidated` reports this.
    Answered(Vec<IpAddr>),
    /// The store is unreachable or unusable, with the reason in one line. Reported once
    /// for each absence; the store is back with the next `End`.
    Unavailable(String),
}

/// A requested change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Adds a member to the allow-set, for ever or for a while. One that is there with the same
    /// end stays as it is, and keeps its note unless another label is given.
    Allow {
        /// The address or network.
        member: Member,
        /// The time for which it is allowed; `None` is for ever.
        lasting: Option<Duration>,
        /// The note beside it; `None` leaves it without one.
        note: Option<GrantNote>,
    },
    /// Adds a member for a while, or changes the end of what the same `who` granted. Decided in one
    /// step in the store, by [`crate::owners::Held::granted`].
    Grant {
        /// The address or network.
        member: Member,
        /// The time from now for which it is allowed.
        lasting: Duration,
        /// The note beside it.
        note: GrantNote,
        /// What it does to the present grants.
        terms: Terms,
    },
    /// Makes the end of what a `who` that begins so granted later, if it is there, and has an end.
    /// Never adds a member, never makes an end sooner, and changes no note.
    Renew {
        /// The address or network.
        member: Member,
        /// The time from now for which it is allowed.
        lasting: Duration,
        /// The beginning of `who` in its note: `key:` for all knocks.
        who_prefix: String,
    },
    /// Takes a member out of the allow-set, with its note.
    Remove(Member),
    /// Ends what this `who` granted: the member is taken out of the allow-set, or ends with what
    /// others granted.
    TakeBack {
        /// The address or network.
        member: Member,
        /// The `who` in its note.
        who: String,
        /// The latest moment of the grant that is meant; `None` is any.
        until: Option<UnixMillis>,
    },
    /// Bans an address or an IPv6 /64 from now on; replaces its present ban.
    Ban(Member, Duration),
    /// Lifts a ban: that of an address also from its IPv6 /64.
    Unban(Member),
    /// Records the unix seconds at which addresses were last admitted.
    RecordSeen(Vec<(IpAddr, u64)>),
    /// Removes an address from the allow-set, with its note, and the history, if it was last
    /// admitted before `before_s` (unix seconds): since it was listed, it may have come
    /// into use. A ban stays.
    Forget {
        /// The idle address.
        ip: IpAddr,
        /// If it was seen at this second or later, nothing is done.
        before_s: u64,
    },
    /// Counts a failure in the current window of `findtime`, for the address or its
    /// IPv6 /64 ([`Member::source_of`]); the one that reaches `maxretry` writes a ban
    /// of that. Does nothing while banned.
    Strike {
        /// The address that failed.
        ip: IpAddr,
        /// The length of a window; windows are aligned to the unix epoch.
        findtime: Duration,
        /// The duration of the ban.
        bantime: Duration,
        /// The number of failures within one window that make a ban.
        maxretry: u64,
    },
    /// Forgets the failures of the current window; a ban stays, since an
    /// operator may have written it in the meantime.
    ClearStrikes {
        /// The address that succeeded.
        ip: IpAddr,
        /// The length of a window, as in the strikes.
        findtime: Duration,
    },
}

/// The result of an edit, so that an operator sees which key changed on which server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditResult {
    /// The server or file that took the edit.
    pub server: String,
    /// The edited key; of a strike that banned, the ban's key.
    pub key: String,
    /// True if anything is different now.
    pub changed: bool,
    /// A number: failures in this window after a strike, or recorded addresses.
    pub count: Option<u64>,
}

/// Everything that a store knows about one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressRecord {
    /// The server or file that was asked.
    pub server: String,
    /// Every entry that allows the address, exact ones first, then networks by
    /// longest prefix.
    pub allow_entries: Vec<AllowEntry>,
    /// The ban, if there is one.
    pub ban: Option<Ban>,
    /// The unix second at which it was last admitted.
    pub seen: Option<u64>,
    /// Failures in the current window, if a window was given.
    pub strikes: Option<u64>,
    /// The end of the allow-set's key, with all its members.
    pub set_expiry: Expiry,
}

/// An entry of the allow-set that covers an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowEntry {
    /// The key in which it was found.
    pub key: String,
    /// The entry.
    pub member: Member,
    /// Its end.
    pub expiry: Expiry,
    /// The note beside it, of the owner that ends last.
    pub note: Option<GrantNote>,
    /// Those of its other owners, the later end first.
    pub others: Vec<NoteUntil>,
}

/// An entry of the allow-set in a listing, with its note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The entry.
    pub member: Member,
    /// Its end.
    pub expiry: Expiry,
    /// The note beside it, of the owner that ends last.
    pub note: Option<GrantNote>,
    /// Those of its other owners, the later end first.
    pub others: Vec<NoteUntil>,
}

impl AllowEntry {
    /// Adds the notes beside it, if there are any.
    pub fn add_notes(&mut self, notes: Option<Notes>) {
        let Some(Notes { note, others }) = notes else { return };
        (self.note, self.others) = (Some(note), others);
    }
}

impl Grant {
    /// Adds the notes beside it, if there are any.
    pub fn add_notes(&mut self, notes: Option<Notes>) {
        let Some(Notes { note, others }) = notes else { return };
        (self.note, self.others) = (Some(note), others);
    }

    /// Returns true if `who` granted it, alone or beside others.
    pub fn is_by(&self, who: &str) -> bool {
        self.note_by(who).is_some()
    }

    /// Returns the note of what `who` granted.
    pub fn note_by(&self, who: &str) -> Option<&GrantNote> {
        let others = self.others.iter().map(|other| &other.note);
        self.note.iter().chain(others).find(|note| note.who == who)
    }
}

/// The end of a listing of grants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The number of entries that are no address or network.
    pub garbage: u64,
    /// The reason why notes are missing: entries are listed all the same.
    pub without_notes: Option<String>,
}

/// A ban in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ban {
    /// The banned subject: the address, or its /64.
    pub member: Member,
    /// The key in which it was found.
    pub key: String,
    /// Its end.
    pub expiry: Expiry,
}

/// The reason why a store did not do what was requested.
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
        /// The words of the server or the system.
        cause: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// A member with an expiry was requested where none can be kept.
    #[error(
        "key \"{key}\" on {server} is a plain set, whose members cannot expire; leave --ttl out, or add --allow-prefix PREFIX here and start the tunnel with the same --allow-prefix"
    )]
    NoExpiry {
        /// The server.
        server: String,
        /// The key.
        key: String,
    },
    /// A knock at a set that can keep no end.
    #[error(
        "key \"{key}\" on {server} is a plain set, whose members cannot expire, so that no knock is granted; add --allow-prefix PREFIX here and wherever it is to count, or turn the set into a sorted set"
    )]
    NoGrant {
        /// The server.
        server: String,
        /// The key.
        key: String,
    },
    /// The note beside an entry was refused, and so the entry was not written either.
    #[error(
        "{server} does not keep notes in key \"{key}\": {cause}; let the ACL user write that key (~{key} +hset +hdel)"
    )]
    NoNote {
        /// The server.
        server: String,
        /// The key of the notes.
        key: String,
        /// The words of the server.
        cause: String,
    },
    /// The embedded store's file cannot be used.
    #[error("gate file {path}: {cause}")]
    File {
        /// The file.
        path: String,
        /// The fault, and its remedy.
        cause: String,
    },
    /// The store in memory cannot take more.
    #[error("gate {name} in memory: {cause}")]
    Memory {
        /// The name of the gate.
        name: String,
        /// The reason, and its remedy.
        cause: String,
    },
    /// The reader of a listing stopped before its end.
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

/// An end from here on is no end that an operator meant: as a unix second it is
/// in the year 33658, and its number of seconds, read as milliseconds, is a day since 2001.
const IMPLAUSIBLE: Expiry = Expiry::At(UnixMillis(1_000_000_000_000 * 1_000));

/// Returns true if an end was probably written in milliseconds, where seconds are expected.
pub fn is_implausible(end: Expiry) -> bool {
    end >= IMPLAUSIBLE && end != Expiry::Never
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let end = Expiry::At(UnixMillis::from_secs(score_s));
            assert_eq!(is_implausible(end), unmeant, "{score_s}");
        }
        assert!(!is_implausible(Expiry::Never) && is_implausible(Expiry::At(UnixMillis(u64::MAX))));
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
            StoreError::NoGrant { server: text(), key: text() },
            StoreError::NoNote { server: text(), key: text(), cause: text() },
            StoreError::CutOff,
        ];
        for error in errors {
            let line = error.to_string();
            assert!(line.contains("; ") && !line.contains('\n'), "{line}");
        }
    }
}
