//! The content of a store in memory: of the embedded store's file the sum of all its lines. Pure:
//! records and moments in, no file and no clock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::file_record::{Record, Strikes};
use crate::grant::GrantNote;
use crate::member::{Entry, Item, Member};
use crate::owners::{Change, Granting, Held};
use crate::store::{Edit, Grant, networks_around};
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// The most addresses with counted failures at once. Further ones are not, or else
/// a client with a network to fail from could fill memory and disk.
const MOST_STRUCK: usize = 100_000;
/// Members and bans of a file, and as many addresses in its history. All of it is held
/// in memory, and its owner could make it any size.
pub const MOST_ENTRIES: usize = 2_000_000;
/// The most names that are claimed at once.
const MOST_CLAIMS: usize = 100_000;

/// The content of the file.
#[derive(Debug, Default)]
pub struct State {
    /// The members of the allow-set.
    pub allowed: HashMap<Member, Held>,
    /// The end of each ban.
    pub bans: HashMap<Member, UnixMillis>,
    /// The unix second at which each address was last admitted.
    pub seen: HashMap<IpAddr, u64>,
    /// The failures that are counted.
    pub strikes: HashMap<Member, Strikes>,
    /// The end of each claimed name.
    pub claims: HashMap<Box<str>, UnixMillis>,
}

/// The kind of entries that a file would hold too many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Excess {
    /// Members and bans, together [`MOST_ENTRIES`].
    #[error(
        "holds 2,000,000 members and bans, which are the most; remove some (knockpipe gate remove, \
         unban), or use Redis"
    )]
    Entries,
    /// Addresses in the history, [`MOST_ENTRIES`].
    #[error(
        "holds 2,000,000 addresses in its history, which are the most; forget idle ones \
         (knockpipe gate reap, --reap-idle)"
    )]
    History,
    /// Addresses with counted failures.
    #[error("counts failures of more than 100,000 addresses; restore it from a copy")]
    Strikes,
    /// Claimed names, [`MOST_CLAIMS`].
    #[error("holds 100,000 claims of knocks, which are the most; they end within minutes")]
    Claims,
}

// === impl State ===

impl State {
    /// Applies a change.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Allow(member, end, notes) => {
                self.allowed.insert(*member, Held { end: *end, notes: notes.clone() });
            }
            Record::Remove(member) => drop(self.allowed.remove(member)),
            Record::Ban(ip, end) => drop(self.bans.insert(*ip, *end)),
            Record::Unban(ip) => drop(self.bans.remove(ip)),
            Record::Seen(ip, at) => drop(self.seen.insert(*ip, *at)),
            Record::Unseen(ip) => drop(self.seen.remove(ip)),
            Record::Strikes(ip, strikes) => {
                if self.strikes.len() >= MOST_STRUCK && !self.strikes.contains_key(ip) {
                    self.strikes.retain(|_, other| !other.is_past(strikes));
                }
                self.strikes.insert(*ip, *strikes);
            }
            Record::Clear(ip) => drop(self.strikes.remove(ip)),
            Record::Claim(name, end) => drop(self.claims.insert(name.clone(), *end)),
        }
    }

    /// Returns the kind of which there would be too many with this record. Forgets entries
    /// that are past if that makes room.
    pub fn excess(&mut self, record: &Record, now: impl Fn() -> UnixMillis) -> Option<Excess> {
        self.excess_beyond(MOST_ENTRIES, record)?;
        self.drop_past(now());
        // Room for many, or else every further record would look at all that is held.
        self.excess_beyond(MOST_ENTRIES - MOST_ENTRIES / 16, record)
    }

    fn excess_beyond(&self, most: usize, record: &Record) -> Option<Excess> {
        let (is_full, excess) = match record {
            Record::Allow(member, ..) if !self.allowed.contains_key(member) => {
                (self.allowed.len() + self.bans.len() >= most, Excess::Entries)
            }
            Record::Ban(member, _) if !self.bans.contains_key(member) => {
                (self.allowed.len() + self.bans.len() >= most, Excess::Entries)
            }
            Record::Seen(ip, _) if !self.seen.contains_key(ip) => {
                (self.seen.len() >= most, Excess::History)
            }
            Record::Strikes(member, new) => (!self.has_room(member, *new), Excess::Strikes),
            Record::Claim(name, _) if !self.claims.contains_key(name) => {
                (self.claims.len() >= most.min(MOST_CLAIMS), Excess::Claims)
            }
            _ => return None,
        };
        is_full.then_some(excess)
    }

    /// Everything that still holds, as records.
    pub fn records(&self, now: UnixMillis) -> impl Iterator<Item = Record> {
        let strikes = self.strikes.iter().filter(move |(_, strikes)| strikes.end() > now);
        let claims = self.claims.iter().filter(move |(_, end)| **end > now);
        self.held_members(now)
            .map(|(member, held)| Record::Allow(*member, held.end, held.notes.clone()))
            .chain(self.held_bans(now).map(|(ip, end)| Record::Ban(*ip, *end)))
            .chain(self.seen.iter().map(|(ip, at)| Record::Seen(*ip, *at)))
            .chain(strikes.map(|(ip, strikes)| Record::Strikes(*ip, *strikes)))
            .chain(claims.map(|(name, end)| Record::Claim(name.clone(), *end)))
    }

    /// Members of the allow-set that still hold.
    fn held_members(&self, now: UnixMillis) -> impl Iterator<Item = (&Member, &Held)> {
        self.allowed.iter().filter(move |(_, held)| !held.end.is_past(now))
    }

    /// Bans that still hold.
    fn held_bans(&self, now: UnixMillis) -> impl Iterator<Item = (&Member, &UnixMillis)> {
        self.bans.iter().filter(move |(_, end)| **end > now)
    }

    /// Forgets entries that are past.
    pub fn drop_past(&mut self, now: UnixMillis) {
        self.allowed.retain(|_, held| !held.end.is_past(now));
        self.bans.retain(|_, end| *end > now);
        self.strikes.retain(|_, strikes| strikes.end() > now);
        self.claims.retain(|_, end| *end > now);
    }

    /// Members and bans that still hold.
    pub fn items(&self, now: UnixMillis) -> impl Iterator<Item = Item> {
        let allowed = self.held_members(now);
        let bans = self.held_bans(now);
        allowed
            .map(|(member, held)| Item::Allowed(*member, held.end))
            .chain(bans.map(|(ip, end)| Item::Banned(*ip, Expiry::At(*end))))
    }

    /// Members of the allow-set that still hold, with their notes.
    pub fn grants(&self, now: UnixMillis) -> impl Iterator<Item = Grant> {
        self.held_members(now).map(|(member, held)| listed(*member, held))
    }

    /// A member of the allow-set with its note, if it holds.
    pub fn grant(&self, member: &Member, now: UnixMillis) -> Option<Grant> {
        self.held(member, now).map(|held| listed(*member, held))
    }

    /// The end of a member of the allow-set, if it holds.
    pub fn member(&self, member: &Member, now: UnixMillis) -> Option<Expiry> {
        self.held(member, now).map(|held| held.end)
    }

    /// A member of the allow-set, if it holds.
    fn held(&self, member: &Member, now: UnixMillis) -> Option<&Held> {
        self.allowed.get(member).filter(|held| !held.end.is_past(now))
    }

    /// The end of a ban, if it holds.
    pub fn ban(&self, member: &Member, now: UnixMillis) -> Option<Expiry> {
        self.bans.get(member).copied().filter(|end| *end > now).map(Expiry::At)
    }

    /// The ban on an address: its own, or that of its /64.
    pub fn ban_on(&self, ip: IpAddr, now: UnixMillis) -> Option<Entry> {
        let entry = |member| Some(Entry { member, expiry: self.ban(&member, now)? });
        Member::bans_of(ip).find_map(entry)
    }

    /// Failures in the current window of `findtime` seconds.
    pub fn strikes(&self, source: &Member, findtime: u64, now: UnixMillis) -> u64 {
        let window = now.as_secs() / findtime;
        let current = |s: &&Strikes| s.findtime == findtime && s.window == window;
        self.strikes.get(source).filter(current).map_or(0, |strikes| strikes.count)
    }

    /// Returns true if failures of `source` may be counted, in place of past ones if need be.
    fn has_room(&self, source: &Member, new: Strikes) -> bool {
        self.strikes.len() < MOST_STRUCK
            || self.strikes.contains_key(source)
            || self.strikes.values().any(|other| other.is_past(&new))
    }

    /// The failures of `source` with one more.
    fn struck(&self, source: &Member, findtime: u64, now: UnixMillis) -> Strikes {
        let window = now.as_secs() / findtime;
        let count = self.strikes(source, findtime, now).saturating_add(1);
        Strikes { findtime, window, count }
    }

    /// The address itself and all networks around it that are in the set, longest first.
    pub fn around(&self, ip: IpAddr, now: UnixMillis) -> Vec<Grant> {
        let members = std::iter::once(Member::from(ip)).chain(networks_around(ip, (0..=128).rev()));
        members.filter_map(|member| self.grant(&member, now)).collect()
    }

    /// The record to write to claim `name` for a while; `None` if it is claimed already.
    pub fn claim(&self, name: &str, lasting: Duration, now: UnixMillis) -> Option<Record> {
        let is_claimed = self.claims.get(name).is_some_and(|end| *end > now);
        (!is_claimed).then(|| Record::Claim(name.into(), now.saturating_add(lasting)))
    }

    /// The records to write to lift the ban of a member, and for an address that of its /64.
    fn unban(&self, member: Member, now: UnixMillis) -> Vec<Record> {
        let there = |member: &Member| self.ban(member, now).is_some();
        match member {
            Member::Address(ip) => Member::bans_of(ip).filter(there).map(Record::Unban).collect(),
            network @ Member::Network(_) => only_if(there(&network), Record::Unban(network)),
        }
    }

    /// The records to write for `edit`; none if nothing would change.
    pub fn records_for(&self, edit: &Edit, now: UnixMillis) -> Vec<Record> {
        match edit {
            Edit::Allow { member, lasting, note } => {
                let end = Expiry::after(now, *lasting);
                let changes = self.held(member, now).is_none_or(|held| {
                    held.end != end || GrantNote::relabels(note.as_ref(), held.note())
                });
                let Held { end, notes } = Held::new(end, note.clone());
                only_if(changes, Record::Allow(*member, end, notes))
            }
            Edit::Grant { member, lasting, note, terms } => {
                let (end, terms) = (now.saturating_add(*lasting), *terms);
                let granting = Granting { note, end, terms };
                changed(*member, Held::granted(self.held(member, now), &granting, now))
            }
            Edit::Renew { member, lasting, who_prefix } => {
                let end = now.saturating_add(*lasting);
                let renewed = self.held(member, now).map(|it| it.renewed(who_prefix, end, now));
                changed(*member, renewed.unwrap_or(Change::Keep))
            }
            Edit::Remove(member) => {
                only_if(self.member(member, now).is_some(), Record::Remove(*member))
            }
            Edit::TakeBack { member, who, until } => {
                let taken = self.held(member, now).map(|held| held.taken_back(who, *until, now));
                changed(*member, taken.unwrap_or(Change::Keep))
            }
            Edit::Ban(member, time) => vec![Record::Ban(*member, now.saturating_add(*time))],
            Edit::Unban(member) => self.unban(*member, now),
            Edit::RecordSeen(seen) => {
                seen.iter().map(|(ip, at)| Record::Seen(ip.to_canonical(), *at)).collect()
            }
            Edit::Forget { ip, before_s } => self.forget(ip.to_canonical(), *before_s, now),
            Edit::Strike { ip, findtime, bantime, maxretry } => {
                let source = Member::source_of(*ip);
                let strikes = self.struck(&source, findtime.as_secs().max(1), now);
                if self.ban_on(*ip, now).is_some() || !self.has_room(&source, strikes) {
                    return vec![];
                }
                let ban = strikes.count >= *maxretry;
                let ban = ban.then(|| Record::Ban(source, now.saturating_add(*bantime)));
                std::iter::once(Record::Strikes(source, strikes)).chain(ban).collect()
            }
            Edit::ClearStrikes { ip, findtime } => {
                let source = Member::source_of(*ip);
                let there = self.strikes(&source, findtime.as_secs().max(1), now) > 0;
                only_if(there, Record::Clear(source))
            }
        }
    }

    /// The records that forget an address, unless it was seen since.
    fn forget(&self, ip: IpAddr, before_s: u64, now: UnixMillis) -> Vec<Record> {
        let seen = self.seen.get(&ip);
        if seen.is_some_and(|seen_s| *seen_s >= before_s) {
            return vec![];
        }
        let member = Member::from(ip);
        let allowed = self.member(&member, now).map(|_| Record::Remove(member));
        allowed.into_iter().chain(seen.map(|_| Record::Unseen(ip))).collect()
    }
}

/// The entry of a listing.
fn listed(member: Member, held: &Held) -> Grant {
    let note = held.note().cloned();
    Grant { member, expiry: held.end, note, others: held.others().to_vec() }
}

/// The record of a change of a member.
fn changed(member: Member, change: Change) -> Vec<Record> {
    match change {
        Change::Keep => vec![],
        Change::Write(Held { end, notes }) => vec![Record::Allow(member, end, notes)],
        Change::Remove => vec![Record::Remove(member)],
    }
}

fn only_if(condition: bool, record: Record) -> Vec<Record> {
    condition.then_some(record).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_record::checksum;

    const fn at(milliseconds: u64) -> Expiry {
        Expiry::At(UnixMillis(milliseconds))
    }

    #[test]
    fn failures_of_many_sources_do_not_fill_it() {
        let mut state = State::default();
        let mut fail = |n: u32, now| {
            let strike = Edit::Strike {
                ip: std::net::Ipv4Addr::from_bits(n).into(),
                findtime: Duration::from_secs(60),
                bantime: Duration::from_secs(60),
                maxretry: 2,
            };
            let records = state.records_for(&strike, UnixMillis(now));
            records.iter().for_each(|record| state.apply(record));
            (records.len(), state.strikes.len())
        };
        let most = u32::try_from(MOST_STRUCK).unwrap();
        for n in 0..most {
            assert_eq!(fail(n, 0), (1, n as usize + 1));
        }
        for n in most..most + 1_000 {
            assert_eq!(fail(n, 0), (0, MOST_STRUCK), "there is no room");
        }
        assert_eq!(fail(0, 0).0, 2, "one that was struck before is banned");
        // With the next window there is room again.
        assert_eq!(fail(most, 60_000), (1, 1));
        for n in 1_000_000..1_000_000 + most - 1 {
            assert_eq!(fail(n, 60_000).0, 1);
        }
        assert_eq!(fail(7, 60_000), (0, MOST_STRUCK));
    }

    #[test]
    fn claims_end_and_are_limited() {
        let mut state = State::default();
        let minute = Duration::from_secs(60);
        for n in 0..MOST_CLAIMS {
            let claim = state.claim(&n.to_string(), minute, UnixMillis(0)).expect("it is free");
            assert_eq!(state.excess(&claim, || UnixMillis(0)), None, "{n}");
            state.apply(&claim);
        }
        let again = state.claim("7", minute, UnixMillis(59_999));
        assert_eq!(again, None, "it is claimed");
        let one_more = state.claim("one more", minute, UnixMillis(59_999)).expect("it is free");
        assert_eq!(state.excess(&one_more, || UnixMillis(59_999)), Some(Excess::Claims));
        assert_eq!(state.records(UnixMillis(60_000)).count(), 0, "they ended");
        assert_eq!(state.excess(&one_more, || UnixMillis(60_000)), None);
        assert!(state.claims.is_empty());
        assert!(state.claim("7", minute, UnixMillis(60_000)).is_some());
        let worst = state.claim("7", Duration::MAX, UnixMillis(1));
        assert_eq!(worst, Some(Record::Claim("7".into(), UnixMillis(u64::MAX))));
    }

    /// A file may be another user's, who writes any number into it.
    #[test]
    fn the_largest_numbers_in_a_file_are_handled() {
        let mut state = State::default();
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
            state.apply(&record);
        }
        let now = UnixMillis(1_790_000_000_000);
        assert_eq!(state.records(now).count(), 5, "the third window was over at once");
        let findtime = Duration::from_secs(u64::MAX);
        let (bantime, maxretry) = (findtime, u64::MAX);
        let strike = Edit::Strike { ip: [1, 2, 3, 5].into(), findtime, bantime, maxretry };
        let records = state.records_for(&strike, now);
        assert!(
            matches!(records[..], [Record::Strikes(..), Record::Ban(_, UnixMillis(u64::MAX))]),
            "{records:?}"
        );
        state.drop_past(now);
        assert_eq!(state.records(now).count(), 5);
    }

    #[test]
    fn ended_entries_are_left_out() {
        let mut state = State::default();
        let ip: IpAddr = "1.2.3.4".parse().unwrap();
        state.apply(&Record::Allow(ip.into(), at(1000), None));
        state.apply(&Record::Ban(ip.into(), UnixMillis(2000)));
        state.apply(&Record::Strikes(ip.into(), Strikes { findtime: 1, window: 2, count: 1 }));
        assert_eq!(state.records(UnixMillis(999)).count(), 3);
        assert_eq!(state.records(UnixMillis(1000)).count(), 2);
        assert_eq!(state.records(UnixMillis(2999)).count(), 1);
        assert_eq!(state.records(UnixMillis(3000)).count(), 0);
        assert_eq!(
            (state.member(&ip.into(), UnixMillis(1000)), state.ban(&ip.into(), UnixMillis(1999))),
            (None, Some(at(2000)))
        );
    }
}
