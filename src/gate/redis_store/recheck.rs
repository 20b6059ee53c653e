//! The truth about single addresses, read from the server when a change or a
//! question names them.
//!
//! An address is let in by the set, by a key of its own, or by a network; it
//! counts as gone only when none of its spellings is found.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tokio::time::Instant;

use super::super::member::Member;
use super::super::store::{Event, MOST_EXACT, either, later, networks_around, sooner};
use super::follow::Session;
use super::keys::{Subject, spellings_of};
use super::links::Truth;
use super::now_ms;
use super::trouble::{Kind, Trouble};

/// Keys that are kept in memory, so that a change of the set does not mean
/// scanning a large server for bans.
const MOST_KEYS: usize = 200_000;
/// Addresses that are asked about at once.
const CHUNK: usize = 500;
/// How often the set may become another type while it is looked at.
pub(super) const MOST_FORMS: usize = 5;

/// What keys say, each its own.
#[derive(Debug, Default)]
pub(super) struct KeyMemory {
    pub(super) bans: HashMap<Member, Option<u64>>,
    pub(super) allows: HashMap<Member, Option<u64>>,
    /// Keys whose names end in no address.
    pub(super) garbage: u64,
}

impl KeyMemory {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets what is over: servers announce that late.
    pub(super) fn drop_past(&mut self, now_ms: u64) {
        self.bans.retain(|_, end| end.is_none_or(|end| end > now_ms));
        self.allows.retain(|_, end| end.is_none_or(|end| end > now_ms));
    }

    /// Whether this is all that the keys say.
    pub(super) fn is_complete(&self) -> bool {
        self.bans.len() < MOST_KEYS && self.allows.len() < MOST_KEYS
    }

    /// One key about `subject`, of which there may be more in other spellings:
    /// the longest of them counts.
    pub(super) fn found(&mut self, subject: Subject, end: Option<u64>) {
        let known = self.of(subject).and_then(|(kept, ip)| kept.get(&ip).copied());
        self.keep(subject, Some(known.map_or(end, |known| later(known, end))));
    }

    /// All that keys say about `subject` now.
    pub(super) fn keep(&mut self, subject: Subject, truth: Truth) {
        let Some((kept, ip)) = self.of(subject) else { return };
        match truth {
            Some(end) if kept.len() < MOST_KEYS => {
                kept.insert(ip, end);
            }
            Some(_) => {}
            None => {
                kept.remove(&ip);
            }
        }
    }

    fn of(&mut self, subject: Subject) -> Option<(&mut HashMap<Member, Option<u64>>, Member)> {
        match subject {
            Subject::Ban(member) => Some((&mut self.bans, member)),
            Subject::AllowKey(ip) => Some((&mut self.allows, ip.into())),
            Subject::AllowSet => None,
        }
    }
}

impl Session<'_> {
    /// Tells the truth about addresses, and about the networks around them.
    ///
    /// A ban is told first and its end last, so that nobody gets in on half of a
    /// change that took a ban and a right away together.
    pub(super) async fn answer(&mut self, ips: Vec<IpAddr>) -> Result<(), Trouble> {
        let ips: Vec<IpAddr> = ips.into_iter().map(|ip| ip.to_canonical()).collect();
        let lengths = self.lengths(ips.len() <= MOST_EXACT);
        for ips in ips.chunks(CHUNK) {
            let bans: HashSet<Member> = ips.iter().copied().flat_map(Member::bans_of).collect();
            let bans: Vec<Member> = bans.into_iter().collect();
            let free = self.tell_bans(&bans).await?;
            let mut members: Vec<Member> = ips.iter().map(|ip| Member::from(*ip)).collect();
            let mut around = HashSet::new();
            for ip in ips {
                let lengths = lengths[usize::from(ip.is_ipv6())].iter().copied();
                around.extend(networks_around(*ip, lengths));
            }
            members.extend(around);
            self.tell_members(&members).await?;
            self.tell_free(&free).await?;
        }
        Ok(())
    }

    /// Answers a question of the keeper's, and says that it is answered.
    pub(super) async fn answer_ask(&mut self, ips: Vec<IpAddr>) -> Result<(), Trouble> {
        self.answer(ips.clone()).await?;
        let few = ips.len() <= MOST_EXACT;
        let mut told = ips;
        // Where absence is not certain a full read has to tell: not of IPv6 where not
        // all networks were tried, and of nobody where not all spellings are known.
        told.retain(|ip| !self.odd.is_incomplete() && (few || ip.to_canonical().is_ipv4()));
        self.send(Event::Answered(told)).await
    }

    /// Lengths of networks to try, for IPv4 and for IPv6. For many addresses,
    /// networks of IPv6 with a length that nobody uses wait for the full read.
    fn lengths(&self, few: bool) -> [Vec<u8>; 2] {
        let known = self.odd.lengths();
        let six = |length: &u8| few || length.is_multiple_of(4) || known.contains(length);
        [(0..32).rev().collect(), (0..128).rev().filter(six).collect()]
    }

    /// Tells which of these are banned; gives the others.
    pub(super) async fn tell_bans(&mut self, all: &[Member]) -> Result<Vec<Member>, Trouble> {
        let mut free = vec![];
        for members in all.chunks(CHUNK) {
            let subjects: Vec<Subject> = members.iter().copied().map(Subject::Ban).collect();
            let truths = self.ends_of(&subjects).await?;
            for (member, truth) in members.iter().zip(truths) {
                if truth.is_none() {
                    free.push(*member);
                    continue;
                }
                self.memory.keep(Subject::Ban(*member), truth);
                self.walk.single(self.links.of(&self.store.keys.ban_prefix))?;
                self.send(Event::Banned(*member, truth)).await?;
            }
        }
        Ok(free)
    }

    /// Tells that these are not banned.
    pub(super) async fn tell_free(&mut self, members: &[Member]) -> Result<(), Trouble> {
        for member in members {
            if self.says(None) {
                self.memory.keep(Subject::Ban(*member), None);
                self.send(Event::Banned(*member, None)).await?;
            }
        }
        Ok(())
    }

    /// Reads and tells the truth about members.
    pub(super) async fn tell_members(&mut self, members: &[Member]) -> Result<(), Trouble> {
        for members in members.chunks(CHUNK) {
            let by_key = self.ends_of_allow_keys(members).await?;
            let by_set = self.in_set(members).await?;
            for ((member, by_key), by_set) in members.iter().zip(by_key).zip(by_set) {
                if let Member::Address(ip) = member {
                    self.memory.keep(Subject::AllowKey(*ip), by_key);
                }
                self.tell_member(*member, either(by_key, by_set)).await?;
            }
        }
        Ok(())
    }

    async fn tell_member(&mut self, member: Member, truth: Truth) -> Result<(), Trouble> {
        if !self.says(truth) {
            return Ok(());
        }
        if matches!(member, Member::Network(_)) {
            match truth {
                Some(_) => self.odd.note_member(member, &member.to_string()),
                None if !self.odd.may_know(&member) => return Ok(()),
                None => self.odd.forget(&member),
            }
        }
        if truth.is_some() {
            self.walk.single(self.links.of(&self.store.keys.allow_set))?;
        }
        self.send(Event::Allowed(member, truth)).await
    }

    /// Whether this is certain. With more odd spellings than are kept, absence
    /// is not, and a full read has to tell.
    fn says(&mut self, truth: Truth) -> bool {
        let certain = truth.is_some() || !self.odd.is_incomplete();
        if !certain {
            self.plan.everything_changed(Instant::now());
        }
        certain
    }

    async fn ends_of_allow_keys(&mut self, members: &[Member]) -> Result<Vec<Truth>, Trouble> {
        if self.store.keys.allow_prefix.is_none() {
            return Ok(vec![None; members.len()]);
        }
        let mut truths = vec![None; members.len()];
        let address = |(place, member): (usize, &Member)| match member {
            Member::Address(ip) => Some((place, Subject::AllowKey(*ip))),
            Member::Network(_) => None,
        };
        let (places, subjects): (Vec<_>, Vec<_>) =
            members.iter().enumerate().filter_map(address).unzip();
        let ends = self.ends_of(&subjects).await?;
        places.into_iter().zip(ends).for_each(|(place, end)| truths[place] = end);
        Ok(truths)
    }

    /// What keys say about each subject, in all its spellings.
    async fn ends_of(&self, subjects: &[Subject]) -> Result<Vec<Truth>, Trouble> {
        let mut names = vec![];
        let mut owners = vec![];
        for (owner, subject) in subjects.iter().enumerate() {
            let canonical = match subject {
                Subject::Ban(member) => Some(self.store.keys.ban_key(*member)),
                Subject::AllowKey(ip) => self.store.keys.allow_key(*ip),
                Subject::AllowSet => None,
            };
            names.extend(canonical.into_iter().chain(self.odd.of_key(subject).cloned()));
            owners.resize(names.len(), owner);
        }
        let ends = self.links.ends(&names, now_ms()).await?;
        Ok(joined(subjects.len(), &owners, ends))
    }

    /// What the set says about each member, in all its spellings.
    pub(super) async fn in_set(&mut self, members: &[Member]) -> Result<Vec<Truth>, Trouble> {
        let mut names = vec![];
        let mut owners = vec![];
        for (owner, member) in members.iter().enumerate() {
            names.push(member.to_string());
            if let Member::Address(ip @ IpAddr::V4(_)) = member {
                names.extend(spellings_of(*ip).into_iter().take(1));
            }
            names.extend(self.odd.of_member(member).cloned());
            owners.resize(names.len(), owner);
        }
        let mut found = self.links.lookup(&self.store.keys, self.form, &names).await;
        for _ in 0..MOST_FORMS {
            match found {
                // It became another type, or there is a set where there was none.
                Err(trouble) if trouble.kind == Kind::WrongType => {
                    self.look_at_set().await?;
                    found = self.links.lookup(&self.store.keys, self.form, &names).await;
                }
                _ => break,
            }
        }
        let found = found?.into_iter().map(|truth| truth.map(|end| sooner(end, self.set_end)));
        Ok(joined(members.len(), &owners, found.collect()))
    }

    /// Notes a key whose address has another spelling than ours.
    pub(super) fn note_key(&mut self, subject: Subject, key: &str) {
        let canonical = match subject {
            Subject::Ban(member) => Some(self.store.keys.ban_key(member)),
            Subject::AllowKey(ip) => self.store.keys.allow_key(ip),
            Subject::AllowSet => return,
        };
        if canonical.as_deref() != Some(key) {
            self.odd.note_key(subject, key);
        }
    }
}

/// Joins what was found under several names of one owner.
fn joined(count: usize, owners: &[usize], found: Vec<Truth>) -> Vec<Truth> {
    let mut truths = vec![None; count];
    for (owner, truth) in owners.iter().zip(found) {
        truths[*owner] = either(truths[*owner], truth);
    }
    truths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_spellings_of_one_key_the_longer_counts() {
        let ip: IpAddr = "203.0.113.7".parse().unwrap();
        for subject in [Subject::Ban(ip.into()), Subject::AllowKey(ip)] {
            for (one, other, longest) in [
                (Some(5), Some(9), Some(9)),
                (Some(9), Some(5), Some(9)),
                (None, Some(5), None),
                (Some(5), None, None),
            ] {
                let mut memory = KeyMemory::default();
                memory.found(subject, one);
                memory.found(subject, other);
                let (kept, ip) = memory.of(subject).unwrap();
                assert_eq!(kept.get(&ip), Some(&longest), "{one:?} and {other:?}");
                // What was asked about all spellings replaces what was found.
                memory.keep(subject, Some(Some(1)));
                assert_eq!(memory.of(subject).unwrap().0.get(&ip), Some(&Some(1)));
                memory.keep(subject, None);
                assert!(memory.of(subject).unwrap().0.is_empty());
            }
        }
    }
}
