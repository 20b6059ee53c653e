//! Looks up single addresses at the server when a change or a
//! query names them.
//!
//! An address is allowed by the set, by a key of its own, or by a network; it
//! counts as gone only when none of its spellings is found.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use tokio::time::Instant;

use super::super::member::Member;
use super::super::store::{Event, MOST_EXACT, networks_around};
use super::error::{Kind, RedisFailure};
use super::follow::Session;
use super::keys::{Subject, spellings_of};
use crate::net::clock::now;
use crate::unix_time::{Expiry, UnixMillis};

/// Keys that are kept in memory, so that a change of the set does not mean
/// scanning a large server for bans.
const MOST_KEYS: usize = 200_000;
/// Addresses that are looked up at once.
const CHUNK: usize = 500;
/// The number of times that the set may change its type while it is looked at.
pub(super) const MOST_TYPE_CHANGES: usize = 5;

/// The ends that keys had when they were last read.
#[derive(Debug, Default)]
pub(super) struct KeyCache {
    pub(super) bans: HashMap<Member, Expiry>,
    pub(super) allows: HashMap<Member, Expiry>,
    /// Keys that do not end in an address.
    pub(super) garbage: u64,
}

impl KeyCache {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets entries that are past: servers announce that late.
    pub(super) fn drop_past(&mut self, now: UnixMillis) {
        self.bans.retain(|_, end| !end.is_past(now));
        self.allows.retain(|_, end| !end.is_past(now));
    }

    /// Returns true if all keys are in it.
    pub(super) fn is_complete(&self) -> bool {
        self.bans.len() < MOST_KEYS && self.allows.len() < MOST_KEYS
    }

    /// Adds one key about `subject`, of which there may be more in other spellings:
    /// the longest of them counts.
    pub(super) fn found(&mut self, subject: Subject, end: Expiry) {
        let known = self.of(subject).and_then(|(kept, ip)| kept.get(&ip).copied());
        self.keep(subject, known.max(Some(end)));
    }

    /// Sets the end of `subject`, by all keys about it.
    pub(super) fn keep(&mut self, subject: Subject, expiry: Option<Expiry>) {
        let Some((kept, ip)) = self.of(subject) else { return };
        match expiry {
            Some(end) if kept.len() < MOST_KEYS => {
                kept.insert(ip, end);
            }
            Some(_) => {}
            None => {
                kept.remove(&ip);
            }
        }
    }

    fn of(&mut self, subject: Subject) -> Option<(&mut HashMap<Member, Expiry>, Member)> {
        match subject {
            Subject::Ban(member) => Some((&mut self.bans, member)),
            Subject::AllowKey(ip) => Some((&mut self.allows, ip.into())),
            Subject::AllowSet | Subject::Beside => None,
        }
    }
}

impl Session<'_> {
    /// Reports the present state of addresses, and of the networks around them.
    ///
    /// A ban is reported first and its end last, so that no connection is admitted by half of a
    /// change that lifted a ban and removed a member together.
    pub(super) async fn answer(&mut self, ips: Vec<IpAddr>) -> Result<(), RedisFailure> {
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

    /// Answers a query of the mirror, and reports that it is answered.
    pub(super) async fn answer_query(&mut self, ips: Vec<IpAddr>) -> Result<(), RedisFailure> {
        self.answer(ips.clone()).await?;
        let few = ips.len() <= MOST_EXACT;
        let mut answered = ips;
        // Where absence is not certain a full read has to show it: for IPv6 where not
        // all networks were tried, and for all addresses where not all spellings are known.
        answered.retain(|ip| !self.aliases.is_incomplete() && (few || ip.to_canonical().is_ipv4()));
        self.send(Event::Answered(answered)).await
    }

    /// Lengths of networks to try, for IPv4 and for IPv6. For many addresses,
    /// networks of IPv6 with a length that is not in use wait for the full read.
    fn lengths(&self, few: bool) -> [Vec<u8>; 2] {
        let known = self.aliases.lengths();
        let six = |length: &u8| few || length.is_multiple_of(4) || known.contains(length);
        [(0..32).rev().collect(), (0..128).rev().filter(six).collect()]
    }

    /// Reports those of these that are banned. Returns the others.
    pub(super) async fn tell_bans(&mut self, all: &[Member]) -> Result<Vec<Member>, RedisFailure> {
        let mut free = vec![];
        for members in all.chunks(CHUNK) {
            let subjects: Vec<Subject> = members.iter().copied().map(Subject::Ban).collect();
            let expiries = self.ends_of(&subjects).await?;
            for (member, expiry) in members.iter().zip(expiries) {
                if expiry.is_none() {
                    free.push(*member);
                    continue;
                }
                self.key_cache.keep(Subject::Ban(*member), expiry);
                self.scan_limit.single(self.connections.of(&self.store.keys.ban_prefix))?;
                self.send(Event::Banned(*member, expiry)).await?;
            }
        }
        Ok(free)
    }

    /// Reports that these are not banned.
    pub(super) async fn tell_free(&mut self, members: &[Member]) -> Result<(), RedisFailure> {
        for member in members {
            if self.is_certain(None) {
                self.key_cache.keep(Subject::Ban(*member), None);
                self.send(Event::Banned(*member, None)).await?;
            }
        }
        Ok(())
    }

    /// Reads and reports the present state of members.
    pub(super) async fn tell_members(&mut self, members: &[Member]) -> Result<(), RedisFailure> {
        for members in members.chunks(CHUNK) {
            let by_key = self.ends_of_allow_keys(members).await?;
            let by_set = self.in_set(members).await?;
            for ((member, by_key), by_set) in members.iter().zip(by_key).zip(by_set) {
                if let Member::Address(ip) = member {
                    self.key_cache.keep(Subject::AllowKey(*ip), by_key);
                }
                self.tell_member(*member, by_key.max(by_set)).await?;
            }
        }
        Ok(())
    }

    async fn tell_member(
        &mut self,
        member: Member,
        expiry: Option<Expiry>,
    ) -> Result<(), RedisFailure> {
        if !self.is_certain(expiry) {
            return Ok(());
        }
        if matches!(member, Member::Network(_)) {
            match expiry {
                Some(_) => self.aliases.note_member(member, &member.to_string()),
                None if !self.aliases.may_know(&member) => return Ok(()),
                None => self.aliases.forget(&member),
            }
        }
        if expiry.is_some() {
            self.scan_limit.single(self.connections.of(&self.store.keys.allow_set))?;
        }
        self.send(Event::Allowed(member, expiry)).await
    }

    /// Returns true if this is certain. With more unusual spellings than are kept, absence
    /// is not, and a full read has to show it.
    fn is_certain(&mut self, expiry: Option<Expiry>) -> bool {
        let certain = expiry.is_some() || !self.aliases.is_incomplete();
        if !certain {
            self.schedule.everything_changed(Instant::now());
        }
        certain
    }

    async fn ends_of_allow_keys(
        &mut self,
        members: &[Member],
    ) -> Result<Vec<Option<Expiry>>, RedisFailure> {
        if self.store.keys.allow_prefix.is_none() {
            return Ok(vec![None; members.len()]);
        }
        let mut expiries = vec![None; members.len()];
        let address = |(place, member): (usize, &Member)| match member {
            Member::Address(ip) => Some((place, Subject::AllowKey(*ip))),
            Member::Network(_) => None,
        };
        let (places, subjects): (Vec<_>, Vec<_>) =
            members.iter().enumerate().filter_map(address).unzip();
        let ends = self.ends_of(&subjects).await?;
        places.into_iter().zip(ends).for_each(|(place, end)| expiries[place] = end);
        Ok(expiries)
    }

    /// The end of each subject by its keys, in all its spellings.
    async fn ends_of(&self, subjects: &[Subject]) -> Result<Vec<Option<Expiry>>, RedisFailure> {
        let mut names = vec![];
        let mut owners = vec![];
        for (owner, subject) in subjects.iter().enumerate() {
            let canonical = match subject {
                Subject::Ban(member) => Some(self.store.keys.ban_key(*member)),
                Subject::AllowKey(ip) => self.store.keys.allow_key(*ip),
                Subject::AllowSet | Subject::Beside => None,
            };
            names.extend(canonical.into_iter().chain(self.aliases.of_key(subject).cloned()));
            owners.resize(names.len(), owner);
        }
        let ends = self.connections.ends(&names, now()).await?;
        Ok(joined(subjects.len(), &owners, ends))
    }

    /// The end of each member in the set, in all its spellings.
    pub(super) async fn in_set(
        &mut self,
        members: &[Member],
    ) -> Result<Vec<Option<Expiry>>, RedisFailure> {
        let mut names = vec![];
        let mut owners = vec![];
        for (owner, member) in members.iter().enumerate() {
            names.push(member.to_string());
            if let Member::Address(ip @ IpAddr::V4(_)) = member {
                names.extend(spellings_of(*ip).into_iter().take(1));
            }
            names.extend(self.aliases.of_member(member).cloned());
            owners.resize(names.len(), owner);
        }
        let mut found = self.connections.lookup(&self.store.keys, self.set_type, &names).await;
        for _ in 0..MOST_TYPE_CHANGES {
            match found {
                // It became another type, or there is a set where there was none.
                Err(failure) if failure.kind == Kind::WrongType => {
                    self.look_at_set().await?;
                    found = self.connections.lookup(&self.store.keys, self.set_type, &names).await;
                }
                _ => break,
            }
        }
        let found = found?.into_iter().map(|expiry| expiry.map(|end| end.min(self.set_end)));
        Ok(joined(members.len(), &owners, found.collect()))
    }

    /// Notes a key with an address in another spelling than ours.
    pub(super) fn note_key(&mut self, subject: Subject, key: &str) {
        let canonical = match subject {
            Subject::Ban(member) => Some(self.store.keys.ban_key(member)),
            Subject::AllowKey(ip) => self.store.keys.allow_key(ip),
            Subject::AllowSet | Subject::Beside => return,
        };
        if canonical.as_deref() != Some(key) {
            self.aliases.note_key(subject, key);
        }
    }
}

/// Joins the ends that were found under several names of one owner.
fn joined(count: usize, owners: &[usize], found: Vec<Option<Expiry>>) -> Vec<Option<Expiry>> {
    let mut expiries = vec![None; count];
    for (owner, expiry) in owners.iter().zip(found) {
        expiries[*owner] = expiries[*owner].max(expiry);
    }
    expiries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_spellings_of_one_key_the_longer_counts() {
        let ip: IpAddr = "203.0.113.7".parse().unwrap();
        for subject in [Subject::Ban(ip.into()), Subject::AllowKey(ip)] {
            let at = |end| Expiry::At(UnixMillis(end));
            for (one, other, longest) in [
                (at(5), at(9), at(9)),
                (at(9), at(5), at(9)),
                (Expiry::Never, at(5), Expiry::Never),
                (at(5), Expiry::Never, Expiry::Never),
            ] {
                let mut cache = KeyCache::default();
                cache.found(subject, one);
                cache.found(subject, other);
                let (kept, ip) = cache.of(subject).unwrap();
                assert_eq!(kept.get(&ip), Some(&longest), "{one:?} and {other:?}");
                // The answer about all spellings replaces the findings.
                cache.keep(subject, Some(at(1)));
                assert_eq!(cache.of(subject).unwrap().0.get(&ip), Some(&at(1)));
                cache.keep(subject, None);
                assert!(cache.of(subject).unwrap().0.is_empty());
            }
        }
    }
}
