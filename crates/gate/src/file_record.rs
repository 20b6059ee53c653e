//! One line of the embedded store's file.
//!
//! A line is a checksum, the offset at which its append began, and words:
//! `9a3f21bc 4711 allow 203.0.113.7 1790000000000`. The notes of a grant are the rest of its line, so
//! that no crash can part the two. The offset tells a torn append, the lines of which all name one
//! offset, from a damaged file. Pure: bytes and moments in, no file and no clock.

use std::fmt;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::grant::LONGEST_NOTE;
use crate::member::Member;
use crate::owners::Notes;
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// The first line of the file.
pub const HEADER: &[u8] = b"knockpipe-gate-1\n";
/// The longest line, in bytes; longer ones were not written by this program.
pub const LONGEST_LINE: usize = LONGEST_NOTE + 256;
const CHECKSUM: usize = 8;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A member of the allow-set, its end and its notes.
    Allow(Member, Expiry, Option<Box<Notes>>),
    /// No member any more.
    Remove(Member),
    /// A ban, and its end.
    Ban(Member, UnixMillis),
    /// No ban any more.
    Unban(Member),
    /// The unix second at which an address was last admitted.
    Seen(IpAddr, u64),
    /// An address without history.
    Unseen(IpAddr),
    /// Failures.
    Strikes(Member, Strikes),
    /// No failures any more.
    Clear(Member),
    /// A name that was claimed, and the end of that.
    Claim(Box<str>, UnixMillis),
}

/// Failures of one address in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strikes {
    /// The length of the window in seconds.
    pub findtime: u64,
    /// Its number: unix seconds divided by its length.
    pub window: u64,
    /// The number of failures.
    pub count: u64,
}

/// The subject of a change, for a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A member of the allow-set.
    Member(Member),
    /// A ban.
    Ban(Member),
}

// === impl Record ===

impl Record {
    /// The line, for an append that begins at `began`.
    pub fn line(&self, began: u64) -> String {
        let words = format!("{began} {self}");
        format!("{} {words}\n", checksum(words.as_bytes()))
    }

    /// Reads a line without its end: the offset at which its append began, and the change.
    pub fn parse(line: &[u8]) -> Option<(u64, Self)> {
        let (sum, words) = line.split_at_checked(CHECKSUM + 1)?;
        if sum != format!("{} ", checksum(words)).as_bytes() {
            return None;
        }
        let (began, words) = std::str::from_utf8(words).ok()?.split_once(' ')?;
        Some((began.parse().ok()?, Self::of_words(words)?))
    }

    /// Reads the words of a change, as it is displayed.
    pub fn of_words(words: &str) -> Option<Self> {
        if let Some(allow) = words.strip_prefix("allow ") {
            return Self::parse_allow(allow);
        }
        let mut words = words.split(' ');
        let mut next = || words.next();
        let record = match next()? {
            "remove" => Self::Remove(next()?.parse().ok()?),
            "ban" => Self::Ban(next()?.parse().ok()?, next()?.parse().ok()?),
            "unban" => Self::Unban(next()?.parse().ok()?),
            "seen" => Self::Seen(next()?.parse().ok()?, next()?.parse().ok()?),
            "unseen" => Self::Unseen(next()?.parse().ok()?),
            "strikes" => Self::Strikes(
                next()?.parse().ok()?,
                Strikes {
                    findtime: next()?.parse().ok()?,
                    window: next()?.parse().ok()?,
                    count: next()?.parse().ok()?,
                },
            ),
            "clear" => Self::Clear(next()?.parse().ok()?),
            "claim" => Self::Claim(next()?.into(), next()?.parse().ok()?),
            _ => return None,
        };
        next().is_none().then_some(record)
    }

    /// Reads a member, its end, and, if there is more, its notes.
    fn parse_allow(words: &str) -> Option<Self> {
        let mut words = words.splitn(3, ' ');
        let (member, end) = (words.next()?.parse().ok()?, end(words.next()?)?);
        let notes = words.next().map(|text| Notes::parse(text).map(Box::new).ok_or(()));
        Some(Self::Allow(member, end, notes.transpose().ok()?))
    }

    /// The subject that a follower has to look at again.
    pub fn subject(&self) -> Option<Subject> {
        match self {
            Self::Allow(member, ..) | Self::Remove(member) => Some(Subject::Member(*member)),
            Self::Ban(ip, _) | Self::Unban(ip) => Some(Subject::Ban(*ip)),
            Self::Seen(..)
            | Self::Unseen(_)
            | Self::Strikes(..)
            | Self::Clear(_)
            | Self::Claim(..) => None,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(member, end, notes) => {
                match end {
                    Expiry::At(end) => write!(f, "allow {member} {end}")?,
                    Expiry::Never => write!(f, "allow {member} -")?,
                }
                notes.as_ref().map_or(Ok(()), |notes| write!(f, " {}", notes.json()))
            }
            Self::Remove(member) => write!(f, "remove {member}"),
            Self::Ban(ip, end) => write!(f, "ban {ip} {end}"),
            Self::Unban(ip) => write!(f, "unban {ip}"),
            Self::Seen(ip, at) => write!(f, "seen {ip} {at}"),
            Self::Unseen(ip) => write!(f, "unseen {ip}"),
            Self::Strikes(ip, Strikes { findtime, window, count }) => {
                write!(f, "strikes {ip} {findtime} {window} {count}")
            }
            Self::Clear(ip) => write!(f, "clear {ip}"),
            Self::Claim(name, end) => write!(f, "claim {name} {end}"),
        }
    }
}

/// `-` is for ever.
fn end(text: &str) -> Option<Expiry> {
    if text == "-" { Some(Expiry::Never) } else { text.parse().ok().map(Expiry::At) }
}

/// Eight hex digits that tell a complete line from a torn or damaged one.
pub(crate) fn checksum(words: &[u8]) -> String {
    let digest = Sha256::digest(words);
    format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

impl Strikes {
    /// Returns true if the window was over when that of `new` began.
    pub fn is_past(&self, new: &Self) -> bool {
        self.end() <= UnixMillis::from_secs(new.window.saturating_mul(new.findtime))
    }

    /// The end of the window.
    pub fn end(&self) -> UnixMillis {
        UnixMillis::from_secs(self.window.saturating_add(1).saturating_mul(self.findtime))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grant::GrantNote;

    const fn at(milliseconds: u64) -> Expiry {
        Expiry::At(UnixMillis(milliseconds))
    }

    fn all() -> Vec<Record> {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        vec![
            Record::Allow("203.0.113.7".parse().unwrap(), Expiry::Never, None),
            Record::Allow("2001:db8::/48".parse().unwrap(), at(1_790_000_000_000), None),
            Record::Allow("2001:db8::/48".parse().unwrap(), at(1), Some(longest_note())),
            Record::Claim("0123456789abcdef".repeat(4).into(), UnixMillis(5)),
            Record::Remove("203.0.113.0/24".parse().unwrap()),
            Record::Ban(ip("::1").into(), UnixMillis(5)),
            Record::Ban("2001:db8:0:1::/64".parse().unwrap(), UnixMillis(5)),
            Record::Unban(ip("::1").into()),
            Record::Seen(ip("1.2.3.4"), 1_790_000_000),
            Record::Unseen(ip("1.2.3.4")),
            Record::Strikes(ip("1.2.3.4").into(), Strikes { findtime: 60, window: 7, count: 3 }),
            Record::Clear("2001:db8:0:1::/64".parse().unwrap()),
        ]
    }

    /// As another program may write it: of control characters only.
    fn longest_note() -> Box<Notes> {
        let text = "\0".repeat(64);
        let note = GrantNote { who: text.clone(), label: Some(text), at: UnixMillis(u64::MAX) };
        Box::new(Notes::of(note))
    }

    #[test]
    fn a_line_of_a_note_that_is_none_is_no_line() {
        for note in ["", " ", "-", "{}", r#"{"who":"a"}"#, r#"{"who":"a","at_ms":1} x"#] {
            let words = format!("17 allow 203.0.113.7 - {note}");
            let line = format!("{} {words}", checksum(words.as_bytes()));
            assert_eq!(Record::parse(line.as_bytes()), None, "{note}");
        }
    }

    #[test]
    fn every_record_is_read_back() {
        for record in all() {
            let line = record.line(17);
            assert!(line.len() < LONGEST_LINE && line.ends_with('\n'), "{line}");
            assert_eq!(Record::parse(line.trim_end().as_bytes()), Some((17, record)));
        }
    }

    #[test]
    fn every_changed_byte_and_every_cut_is_noticed() {
        for record in all() {
            let line = record.line(17).trim_end().as_bytes().to_vec();
            for place in 0..line.len() {
                let mut bad = line.clone();
                bad[place] ^= 1;
                assert_eq!(Record::parse(&bad), None, "{record} at {place}");
                assert_eq!(Record::parse(&line[..place]), None, "{record} cut at {place}");
            }
        }
    }
}
