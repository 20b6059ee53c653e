//! The findings of the last full read that a look-up by canonical name would miss:
//! networks, and addresses that are written in another way.
//!
//! Programs write `2001:DB8::1` or `::ffff:1.2.3.4`, and Redis compares bytes.
//! Bounded: where there is more than is kept, "not found" is not reported.

use std::collections::{HashMap, HashSet};

use super::super::member::Member;
use super::keys::Subject;

/// The most networks that are kept; in a larger set every candidate is reported.
const MOST_NETWORKS: usize = 100_000;
/// The most unusual spellings that are kept.
const MOST_ALIASES: usize = 10_000;

/// Findings of one full read in the set.
#[derive(Debug, Default)]
struct InSet {
    networks: HashSet<Member>,
    members: HashMap<Member, Vec<String>>,
    too_many_networks: bool,
    too_many_aliases: bool,
}

/// Findings of one full read among the keys.
#[derive(Debug, Default)]
struct InKeys {
    keys: HashMap<Subject, Vec<String>>,
    too_many_aliases: bool,
}

/// The findings of the last full read, and, while one is under way, also of the one before.
#[derive(Debug, Default)]
pub(super) struct AliasIndex {
    set: InSet,
    set_before: InSet,
    keys: InKeys,
    keys_before: InKeys,
}

impl AliasIndex {
    /// A full read of the set starts: what it finds will replace what is known.
    pub(super) fn begin_set(&mut self) {
        self.set_before = std::mem::take(&mut self.set);
    }

    /// A full read of the keys starts.
    pub(super) fn begin_keys(&mut self) {
        self.keys_before = std::mem::take(&mut self.keys);
    }

    /// The full read is complete.
    pub(super) fn end(&mut self) {
        self.set_before = InSet::default();
        self.keys_before = InKeys::default();
    }

    /// Notes a member as it is written.
    pub(super) fn note_member(&mut self, member: Member, written: &str) {
        if matches!(member, Member::Network(_)) {
            if self.set.networks.len() < MOST_NETWORKS {
                self.set.networks.insert(member);
            } else {
                self.set.too_many_networks = true;
            }
        }
        if !is(&member, written) {
            self.set.too_many_aliases |= !note(&mut self.set.members, member, written);
        }
    }

    /// Notes a key with an address that is not written canonically.
    pub(super) fn note_key(&mut self, subject: Subject, key: &str) {
        self.keys.too_many_aliases |= !note(&mut self.keys.keys, subject, key);
    }

    /// Returns true if the mirror may know this network.
    pub(super) fn may_know(&self, network: &Member) -> bool {
        [&self.set, &self.set_before]
            .iter()
            .any(|set| set.too_many_networks || set.networks.contains(network))
    }

    /// Forgets a network that is gone.
    pub(super) fn forget(&mut self, network: &Member) {
        self.set.networks.remove(network);
        self.set_before.networks.remove(network);
    }

    /// Prefix lengths of the networks that are known.
    pub(super) fn lengths(&self) -> HashSet<u8> {
        let length = |member: &Member| match member {
            Member::Network(network) => Some(network.prefix_len()),
            Member::Address(_) => None,
        };
        self.set.networks.iter().chain(&self.set_before.networks).filter_map(length).collect()
    }

    /// Other ways in which this member is written.
    pub(super) fn of_member(&self, member: &Member) -> impl Iterator<Item = &String> {
        let sets = [&self.set, &self.set_before].into_iter();
        sets.filter_map(|set| set.members.get(member)).flatten()
    }

    /// Other keys about this subject.
    pub(super) fn of_key(&self, subject: &Subject) -> impl Iterator<Item = &String> {
        let all = [&self.keys, &self.keys_before].into_iter();
        all.filter_map(|keys| keys.keys.get(subject)).flatten()
    }

    /// Returns true if there may be unusual spellings that are not kept.
    pub(super) fn is_incomplete(&self) -> bool {
        self.set.too_many_aliases
            || self.set_before.too_many_aliases
            || self.keys.too_many_aliases
            || self.keys_before.too_many_aliases
    }
}

/// Adds a spelling. Returns false if there is no room.
fn note<K: std::hash::Hash + Eq>(kept: &mut HashMap<K, Vec<String>>, key: K, text: &str) -> bool {
    /// One subject has few spellings; a store that has more is garbage.
    const MOST_SPELLINGS: usize = 16;
    if kept.len() >= MOST_ALIASES && !kept.contains_key(&key) {
        return false;
    }
    let spellings = kept.entry(key).or_default();
    if spellings.iter().any(|known| known == text) {
        return true;
    }
    let room = spellings.len() < MOST_SPELLINGS;
    if room {
        spellings.push(text.to_owned());
    }
    room
}

/// Returns true if `member` prints as `written`, without making a string for each of a million.
fn is(member: &Member, written: &str) -> bool {
    use std::fmt::Write;
    struct Rest<'a>(&'a str);
    impl Write for Rest<'_> {
        fn write_str(&mut self, part: &str) -> std::fmt::Result {
            self.0 = self.0.strip_prefix(part).ok_or(std::fmt::Error)?;
            Ok(())
        }
    }
    let mut rest = Rest(written);
    write!(rest, "{member}").is_ok() && rest.0.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(text: &str) -> Member {
        text.parse().unwrap()
    }

    #[test]
    fn only_odd_spellings_are_kept() {
        let mut index = AliasIndex::default();
        for text in ["1.2.3.4", "::ffff:1.2.3.4", "::ffff:1.2.3.4", "10.0.0.0/8", "1.2.3.4/32"] {
            index.note_member(member(text), text);
        }
        let spellings: Vec<_> = index.of_member(&member("1.2.3.4")).collect();
        assert_eq!(spellings, ["::ffff:1.2.3.4", "1.2.3.4/32"]);
        assert!(index.may_know(&member("10.0.0.0/8")) && !index.may_know(&member("10.0.0.0/9")));
        assert_eq!(index.lengths(), HashSet::from([8]));
    }

    #[test]
    fn the_facts_before_hold_until_the_read_is_complete() {
        let mut index = AliasIndex::default();
        index.note_member(member("10.0.0.0/8"), "10.0.0.0/8");
        index.begin_set();
        assert!(index.may_know(&member("10.0.0.0/8")));
        index.end();
        assert!(!index.may_know(&member("10.0.0.0/8")));
    }

    #[test]
    fn an_overflow_of_spellings_is_noticed() {
        let mut index = AliasIndex::default();
        for n in 0..=MOST_ALIASES {
            let ip = std::net::Ipv4Addr::from(u32::try_from(n).unwrap());
            index.note_member(member(&ip.to_string()), &format!("::ffff:{ip}"));
        }
        assert!(index.is_incomplete());
        index.begin_set();
        index.end();
        assert!(!index.is_incomplete());
    }
}
