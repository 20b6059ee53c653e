//! One line of the embedded store's file, and what all lines add up to.
//!
//! A line is a checksum, the offset at which its append began, and words:
//! `9a3f21bc 4711 allow 203.0.113.7 1790000000000`. The offset tells a torn
//! append, whose lines all began at one place, from a damaged file. Pure: bytes
//! and moments in, no file and no clock.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::super::member::{Item, Member};
use super::super::store::{Edit, networks_around};

/// The first line of the file.
pub(super) const HEADER: &[u8] = b"knockpipe-gate-1\n";
/// Longer lines are none of ours.
pub(super) const LONGEST_LINE: usize = 256;
const CHECKSUM: usize = 8;
/// Addresses whose failures are counted at once. Further ones are not, or else
/// whoever has a network to fail from could fill memory and disk.
const MOST_STRUCK: usize = 100_000;
/// Members and bans of a file, and as many addresses in its history. All of it is held
/// in memory, and whose file it is chooses how much that would be.
pub(super) const MOST_ENTRIES: usize = 2_000_000;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Allow(Member, Option<u64>),
    Remove(Member),
    Ban(Member, u64),
    Unban(Member),
    Seen(IpAddr, u64),
    Unseen(IpAddr),
    Strikes(Member, Strikes),
    Clear(Member),
}

/// Failures of one address in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Strikes {
    /// The length of the window in seconds.
    pub(super) findtime: u64,
    /// Its number: unix seconds divided by its length.
    pub(super) window: u64,
    pub(super) count: u64,
}

/// What a change was about, for a follower.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Member(Member),
    Ban(Member),
}

/// What the file says in total.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) allowed: HashMap<Member, Option<u64>>,
    pub(super) bans: HashMap<Member, u64>,
    pub(super) seen: HashMap<IpAddr, u64>,
    pub(super) strikes: HashMap<Member, Strikes>,
}

/// What a file would hold too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Excess {
    #[error(
        "holds 2,000,000 members and bans, which are the most; remove some (knockpipe gate remove, \
         unban), or use Redis"
    )]
    Entries,
    #[error(
        "holds 2,000,000 addresses in its history, which are the most; forget idle ones \
         (knockpipe gate reap, --reap-idle)"
    )]
    History,
    #[error("counts failures of more than 100,000 addresses; restore it from a copy")]
    Strikes,
}

// === impl Record ===

impl Record {
    /// The line, for an append that begins at `began`.
    pub(super) fn line(&self, began: u64) -> String {
        let words = format!("{began} {self}");
        format!("{} {words}\n", checksum(words.as_bytes()))
    }

    /// Reads a line without its end: where its append began, and the change.
    pub(super) fn parse(line: &[u8]) -> Option<(u64, Self)> {
        let (sum, words) = line.split_at_checked(CHECKSUM + 1)?;
        if sum != format!("{} ", checksum(words)).as_bytes() {
            return None;
        }
        let mut words = std::str::from_utf8(words).ok()?.split(' ');
        let began = words.next()?.parse().ok()?;
        let mut next = || words.next();
        let record = match next()? {
            "allow" => Self::Allow(next()?.parse().ok()?, end(next()?)?),
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
            _ => return None,
        };
        next().is_none().then_some((began, record))
    }

    /// What a follower has to look at again.
    pub(super) fn subject(&self) -> Option<Subject> {
        match self {
            Self::Allow(member, _) | Self::Remove(member) => Some(Subject::Member(*member)),
            Self::Ban(ip, _) | Self::Unban(ip) => Some(Subject::Ban(*ip)),
            Self::Seen(..) | Self::Unseen(_) | Self::Strikes(..) | Self::Clear(_) => None,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Allow(member, Some(end)) => write!(f, "allow {member} {end}"),
            Self::Allow(member, None) => write!(f, "allow {member} -"),
            Self::Remove(member) => write!(f, "remove {member}"),
            Self::Ban(ip, end) => write!(f, "ban {ip} {end}"),
            Self::Unban(ip) => write!(f, "unban {ip}"),
            Self::Seen(ip, at) => write!(f, "seen {ip} {at}"),
            Self::Unseen(ip) => write!(f, "unseen {ip}"),
            Self::Strikes(ip, Strikes { findtime, window, count }) => {
                write!(f, "strikes {ip} {findtime} {window} {count}")
            }
            Self::Clear(ip) => write!(f, "clear {ip}"),
        }
    }
}

/// `-` is for ever.
fn end(text: &str) -> Option<Option<u64>> {
    if text == "-" { Some(None) } else { text.parse().ok().map(Some) }
}

/// Eight hex digits that tell a line that was written from one that was not.
fn checksum(words: &[u8]) -> String {
    let digest = Sha256::digest(words);
    format!("{:02x}{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2], digest[3])
}

impl Strikes {
    /// Whether the window was over when that of `new` began.
    fn is_past(&self, new: &Self) -> bool {
        self.end_ms() <= new.window.saturating_mul(new.findtime).saturating_mul(1000)
    }

    /// When the window is over.
    fn end_ms(&self) -> u64 {
        self.window.saturating_add(1).saturating_mul(self.findtime).saturating_mul(1000)
    }
}

// === impl Image ===

impl Image {
    pub(super) fn apply(&mut self, record: &Record) {
        match *record {
            Record::Allow(member, end) => drop(self.allowed.insert(member, end)),
            Record::Remove(member) => drop(self.allowed.remove(&member)),
            Record::Ban(ip, end) => drop(self.bans.insert(ip, end)),
            Record::Unban(ip) => drop(self.bans.remove(&ip)),
            Record::Seen(ip, at) => drop(self.seen.insert(ip, at)),
            Record::Unseen(ip) => drop(self.seen.remove(&ip)),
            Record::Strikes(ip, strikes) => {
                if self.strikes.len() >= MOST_STRUCK && !self.strikes.contains_key(&ip) {
                    self.strikes.retain(|_, other| !other.is_past(&strikes));
                }
                self.strikes.insert(ip, strikes);
            }
            Record::Clear(ip) => drop(self.strikes.remove(&ip)),
        }
    }

    /// What there would be too much of with this record. Leaves out what is past where
    /// that makes room.
    pub(super) fn excess(&mut self, record: &Record, now_ms: impl Fn() -> u64) -> Option<Excess> {
        self.excess_beyond(MOST_ENTRIES, record)?;
        self.drop_past(now_ms());
        // Room for many, or else every further record would look at all that is held.
        self.excess_beyond(MOST_ENTRIES - MOST_ENTRIES / 16, record)
    }

    fn excess_beyond(&self, most: usize, record: &Record) -> Option<Excess> {
        let (is_full, excess) = match record {
            Record::Allow(member, _) if !self.allowed.contains_key(member) => {
                (self.allowed.len() + self.bans.len() >= most, Excess::Entries)
            }
            Record::Ban(member, _) if !self.bans.contains_key(member) => {
                (self.allowed.len() + self.bans.len() >= most, Excess::Entries)
            }
            Record::Seen(ip, _) if !self.seen.contains_key(ip) => {
                (self.seen.len() >= most, Excess::History)
            }
            Record::Strikes(member, new) => (!self.has_room(member, *new), Excess::Strikes),
            _ => return None,
        };
        is_full.then_some(excess)
    }

    /// Everything that still holds, as records.
    pub(super) fn records(&self, now_ms: u64) -> impl Iterator<Item = Record> {
        let allowed = self.allowed.iter().filter(move |(_, end)| end.is_none_or(|e| e > now_ms));
        let bans = self.bans.iter().filter(move |(_, end)| **end > now_ms);
        let strikes = self.strikes.iter().filter(move |(_, strikes)| strikes.end_ms() > now_ms);
        allowed
            .map(|(member, end)| Record::Allow(*member, *end))
            .chain(bans.map(|(ip, end)| Record::Ban(*ip, *end)))
            .chain(self.seen.iter().map(|(ip, at)| Record::Seen(*ip, *at)))
            .chain(strikes.map(|(ip, strikes)| Record::Strikes(*ip, *strikes)))
    }

    /// Forgets what holds no longer.
    pub(super) fn drop_past(&mut self, now_ms: u64) {
        self.allowed.retain(|_, end| end.is_none_or(|end| end > now_ms));
        self.bans.retain(|_, end| *end > now_ms);
        self.strikes.retain(|_, strikes| strikes.end_ms() > now_ms);
    }

    /// Everything that lets in or keeps out.
    pub(super) fn items(&self, now_ms: u64) -> impl Iterator<Item = Item> {
        self.records(now_ms).filter_map(|record| match record {
            Record::Allow(member, end) => Some(Item::Allowed(member, end)),
            Record::Ban(ip, end) => Some(Item::Banned(ip, Some(end))),
            _ => None,
        })
    }

    pub(super) fn member(&self, member: &Member, now_ms: u64) -> Option<Option<u64>> {
        self.allowed.get(member).copied().filter(|end| end.is_none_or(|end| end > now_ms))
    }

    pub(super) fn ban(&self, member: &Member, now_ms: u64) -> Option<Option<u64>> {
        self.bans.get(member).copied().filter(|end| *end > now_ms).map(Some)
    }

    /// What bans an address: its own ban, or that of its /64.
    pub(super) fn ban_on(&self, ip: IpAddr, now_ms: u64) -> Option<(Member, Option<u64>)> {
        Member::bans_of(ip).find_map(|member| Some((member, self.ban(&member, now_ms)?)))
    }

    /// Failures in the current window of `findtime` seconds.
    pub(super) fn strikes(&self, source: &Member, findtime: u64, now_ms: u64) -> u64 {
        let window = now_ms / 1000 / findtime;
        let current = |s: &&Strikes| s.findtime == findtime && s.window == window;
        self.strikes.get(source).filter(current).map_or(0, |strikes| strikes.count)
    }

    /// Whether failures of `ip` may be counted, in place of what is past if need be.
    fn has_room(&self, source: &Member, new: Strikes) -> bool {
        self.strikes.len() < MOST_STRUCK
            || self.strikes.contains_key(source)
            || self.strikes.values().any(|other| other.is_past(&new))
    }

    /// One failure more.
    fn struck(&self, source: &Member, findtime: u64, now_ms: u64) -> Strikes {
        let window = now_ms / 1000 / findtime;
        let count = self.strikes(source, findtime, now_ms).saturating_add(1);
        Strikes { findtime, window, count }
    }

    /// The address itself and all networks around it that are in the set, longest first.
    pub(super) fn around(&self, ip: IpAddr, now_ms: u64) -> Vec<(Member, Option<u64>)> {
        let members = std::iter::once(Member::from(ip)).chain(networks_around(ip, (0..=128).rev()));
        members.filter_map(|member| self.member(&member, now_ms).map(|end| (member, end))).collect()
    }

    /// What has to be written for `edit`; nothing when nothing would change.
    pub(super) fn records_for(&self, edit: &Edit, now_ms: u64) -> Vec<Record> {
        match edit {
            Edit::Allow(member, ttl) => {
                let end = ttl.map(|ttl| until(now_ms, ttl));
                only_if(self.member(member, now_ms) != Some(end), Record::Allow(*member, end))
            }
            Edit::Remove(member) => {
                only_if(self.member(member, now_ms).is_some(), Record::Remove(*member))
            }
            Edit::Ban(member, time) => vec![Record::Ban(*member, until(now_ms, *time))],
            Edit::Unban(member) => {
                let there = |member: &Member| self.ban(member, now_ms).is_some();
                match *member {
                    Member::Address(ip) => {
                        Member::bans_of(ip).filter(there).map(Record::Unban).collect()
                    }
                    network @ Member::Network(_) => {
                        only_if(there(&network), Record::Unban(network))
                    }
                }
            }
            Edit::Touch(seen) => {
                seen.iter().map(|(ip, at)| Record::Seen(ip.to_canonical(), *at)).collect()
            }
            Edit::Forget { ip, before_s } => {
                let ip = ip.to_canonical();
                if self.seen.get(&ip).is_some_and(|seen_s| seen_s >= before_s) {
                    return vec![];
                }
                let member = Member::from(ip);
                let allowed = self.member(&member, now_ms).map(|_| Record::Remove(member));
                let seen = self.seen.get(&ip).map(|_| Record::Unseen(ip));
                allowed.into_iter().chain(seen).collect()
            }
            Edit::Strike { ip, findtime, bantime, maxretry } => {
                let source = Member::source_of(*ip);
                let strikes = self.struck(&source, findtime.as_secs().max(1), now_ms);
                if self.ban_on(*ip, now_ms).is_some() || !self.has_room(&source, strikes) {
                    return vec![];
                }
                let ban = strikes.count >= *maxretry;
                let ban = ban.then(|| Record::Ban(source, until(now_ms, *bantime)));
                std::iter::once(Record::Strikes(source, strikes)).chain(ban).collect()
            }
            Edit::ClearStrikes { ip, findtime } => {
                let source = Member::source_of(*ip);
                let there = self.strikes(&source, findtime.as_secs().max(1), now_ms) > 0;
                only_if(there, Record::Clear(source))
            }
        }
    }
}

fn only_if(condition: bool, record: Record) -> Vec<Record> {
    condition.then_some(record).into_iter().collect()
}

fn until(now_ms: u64, time: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Record> {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        vec![
            Record::Allow("203.0.113.7".parse().unwrap(), None),
            Record::Allow("2001:db8::/48".parse().unwrap(), Some(1_790_000_000_000)),
            Record::Remove("203.0.113.0/24".parse().unwrap()),
            Record::Ban(ip("::1").into(), 5),
            Record::Ban("2001:db8:0:1::/64".parse().unwrap(), 5),
            Record::Unban(ip("::1").into()),
            Record::Seen(ip("1.2.3.4"), 1_790_000_000),
            Record::Unseen(ip("1.2.3.4")),
            Record::Strikes(ip("1.2.3.4").into(), Strikes { findtime: 60, window: 7, count: 3 }),
            Record::Clear("2001:db8:0:1::/64".parse().unwrap()),
        ]
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

    #[test]
    fn failures_from_everywhere_do_not_fill_it() {
        let mut image = Image::default();
        let mut fail = |n: u32, now_ms| {
            let strike = Edit::Strike {
                ip: std::net::Ipv4Addr::from_bits(n).into(),
                findtime: Duration::from_secs(60),
                bantime: Duration::from_secs(60),
                maxretry: 2,
            };
            let records = image.records_for(&strike, now_ms);
            records.iter().for_each(|record| image.apply(record));
            (records.len(), image.strikes.len())
        };
        let most = u32::try_from(MOST_STRUCK).unwrap();
        for n in 0..most {
            assert_eq!(fail(n, 0), (1, n as usize + 1));
        }
        for n in most..most + 1_000 {
            assert_eq!(fail(n, 0), (0, MOST_STRUCK), "there is no room");
        }
        assert_eq!(fail(0, 0).0, 2, "whoever was struck before is banned");
        // With the next window there is room again.
        assert_eq!(fail(most, 60_000), (1, 1));
        for n in 1_000_000..1_000_000 + most - 1 {
            assert_eq!(fail(n, 60_000).0, 1);
        }
        assert_eq!(fail(7, 60_000), (0, MOST_STRUCK));
    }

    /// A file may be another user's, who writes any number into it.
    #[test]
    fn the_largest_numbers_of_a_file_are_numbers_as_any() {
        let mut image = Image::default();
        let lines = [
            "17 strikes 1.2.3.4 60 18446744073709551615 3",
            "17 strikes 1.2.3.5 18446744073709551615 0 18446744073709551615",
            "17 strikes 1.2.3.6 0 18446744073709551615 18446744073709551615",
            "17 ban 1.2.3.4 18446744073709551615",
            "17 allow 1.2.3.4 18446744073709551615",
            "17 seen 1.2.3.4 18446744073709551615",
        ];
        for words in lines {
            let line = format!("{} {words}", checksum(words.as_bytes()));
            let (_, record) = Record::parse(line.as_bytes()).expect("it is a line");
            image.apply(&record);
        }
        let now_ms = 1_790_000_000_000;
        assert_eq!(image.records(now_ms).count(), 5, "the third window was over at once");
        let findtime = Duration::from_secs(u64::MAX);
        let (bantime, maxretry) = (findtime, u64::MAX);
        let strike = Edit::Strike { ip: [1, 2, 3, 5].into(), findtime, bantime, maxretry };
        let records = image.records_for(&strike, now_ms);
        assert!(
            matches!(records[..], [Record::Strikes(..), Record::Ban(_, u64::MAX)]),
            "{records:?}"
        );
        image.drop_past(now_ms);
        assert_eq!(image.records(now_ms).count(), 5);
    }

    #[test]
    fn what_is_over_is_left_out() {
        let mut image = Image::default();
        let ip: IpAddr = "1.2.3.4".parse().unwrap();
        image.apply(&Record::Allow(ip.into(), Some(1000)));
        image.apply(&Record::Ban(ip.into(), 2000));
        image.apply(&Record::Strikes(ip.into(), Strikes { findtime: 1, window: 2, count: 1 }));
        assert_eq!(image.records(999).count(), 3);
        assert_eq!(image.records(1000).count(), 2);
        assert_eq!(image.records(2999).count(), 1);
        assert_eq!(image.records(3000).count(), 0);
        assert_eq!(
            (image.member(&ip.into(), 1000), image.ban(&ip.into(), 1999)),
            (None, Some(Some(2000)))
        );
    }
}
