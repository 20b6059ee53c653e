//! The store as this process last heard of it: who is allowed, who is banned,
//! until when, and whether that can still be relied upon.
//!
//! Decisions come from here, without a round trip. A follower of the store
//! feeds it: full reads (`begin`, `items`, `end`) and single truths in between.
//! The rule for both at once: a full read replaces everything, except that a
//! single truth which arrives between `begin` and `end` beats whatever that
//! read says about the same subject, before or after it. So a removal is never
//! undone by a batch that was read earlier, and a grant never lost because the
//! read had already passed its place. What a read finds counts at once; what
//! it does not find is forgotten at `end`, and not if the read is broken off.
//!
//! Every change tells whom it concerns, so that live connections are asked
//! about again without asking about all of them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;

use super::ledger::{Ledger, Purge, Round, Stamp, Table, Truth};
use super::member::{Item, Member};
use super::nets::Nets;

/// More subjects than this are `Everything`: a busy machine has a few thousand
/// live connections, and asking about them all is then as cheap.
const MOST_SUBJECTS: usize = 1024;

/// Entries forgotten in one call of [`Snapshot::expire`]: about a millisecond,
/// so that a million grants that end at once hold up nobody's decision.
const MOST_EXPIRED: usize = 10_000;

/// Entries that are kept of a store that is away. No store has more
/// (`redis_store/walk.rs`): they are left from reads that were broken off. Tests have
/// fewer, to see it for every kind of entry.
const MOST_KEPT: usize = if cfg!(test) { 20_000 } else { 2_000_000 };

/// What the store said, as far as it is known here.
#[derive(Debug, Default)]
pub struct Snapshot {
    tables: Tables,
    round: Round,
    freshness: Freshness,
}

/// Everything that was read, to be forgotten as a whole.
#[derive(Debug, Default)]
struct Tables {
    allowed: Addresses,
    networks: Ledger<IpNet, Nets<Stamp>>,
    banned: Addresses,
    banned_networks: Ledger<IpNet, Nets<Stamp>>,
}

/// Addresses, each family in a table of its own size.
#[derive(Debug, Default)]
struct Addresses {
    v4: Ledger<Ipv4Addr, HashMap<Ipv4Addr, Stamp>>,
    v6: Ledger<Ipv6Addr, HashMap<Ipv6Addr, Stamp>>,
}

/// Whether the store's word is current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Neither read nor found out of reach yet.
    #[default]
    Unread,
    /// Followed, and completely read at least once.
    Fresh,
    /// Out of reach since this moment (unix ms); `None`: it was never read.
    Away(Option<u64>),
}

impl Freshness {
    /// Whether the store has not told all of it even once.
    pub fn is_never_read(self) -> bool {
        matches!(self, Self::Unread | Self::Away(None))
    }
}

/// An entry that matches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What stands in the store, or in the static rules.
    pub member: Member,
    /// When it ends, unix ms; `None` for never.
    pub expires_ms: Option<u64>,
}

/// Whose decision may be another than before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "live connections are asked about again by it"]
pub enum Changed {
    /// These addresses, and the addresses in these networks. May name some whose
    /// decision stayed, and name one twice.
    Subjects(Vec<Member>),
    /// Too many to name, or the state of the store itself.
    Everything,
}

/// How much is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Addresses in the allow-set.
    pub addresses: usize,
    /// Networks in the allow-set.
    pub networks: usize,
    /// Banned addresses and networks.
    pub bans: usize,
}

// === impl Snapshot ===

impl Snapshot {
    /// A full read starts. One that was under way is broken off.
    pub fn begin(&mut self) {
        self.break_off();
        let Counts { addresses, networks, bans } = self.counts();
        if self.freshness != Freshness::Fresh && addresses + networks + bans > MOST_KEPT {
            self.tables = Tables::default();
        }
        self.round = Round { odd: !self.round.odd, reading: true };
    }

    /// Part of a full read. An address that comes twice, in two spellings or
    /// from two places of the store, lasts as long as the longer of them.
    pub fn items(&mut self, items: &[Item]) -> Changed {
        let round = self.round;
        let mut changed = Changed::default();
        for item in items {
            let (member, differs) = match *item {
                Item::Allowed(Member::Network(network), expires_ms) => {
                    (network.into(), self.tables.networks.found(network, expires_ms, round))
                }
                Item::Allowed(Member::Address(ip), expires_ms) => {
                    (ip.into(), self.tables.allowed.found(ip, expires_ms, round))
                }
                Item::Banned(Member::Network(network), expires_ms) => {
                    (network.into(), self.tables.banned_networks.found(network, expires_ms, round))
                }
                Item::Banned(Member::Address(ip), expires_ms) => {
                    (ip.into(), self.tables.banned.found(ip, expires_ms, round))
                }
            };
            if differs {
                changed.add(member);
            }
        }
        changed
    }

    /// The full read is complete: what it did not find is gone, and the store
    /// is fresh. Without a `begin` it means nothing.
    pub fn end(&mut self, now_ms: u64) -> Changed {
        let mut changed = Changed::default();
        if !self.round.reading {
            return changed;
        }
        self.tables.allowed.v4.sweep(now_ms, self.round, &mut changed);
        self.tables.allowed.v6.sweep(now_ms, self.round, &mut changed);
        self.tables.networks.sweep(now_ms, self.round, &mut changed);
        self.tables.banned.v4.sweep(now_ms, self.round, &mut changed);
        self.tables.banned.v6.sweep(now_ms, self.round, &mut changed);
        self.tables.banned_networks.sweep(now_ms, self.round, &mut changed);
        self.round.reading = false;
        if self.freshness != Freshness::Fresh {
            self.freshness = Freshness::Fresh;
            changed = Changed::Everything;
        }
        changed
    }

    /// The truth about one member of the allow-set: `None` when it is not in
    /// it, otherwise when it ends. Says all that any place of the store does.
    pub fn set_allowed(&mut self, member: Member, truth: Option<Option<u64>>) -> Changed {
        let differs = match member {
            Member::Address(ip) => self.tables.allowed.set(ip, truth, self.round),
            Member::Network(network) => self.tables.networks.set(network, truth, self.round),
        };
        Changed::only(member, differs)
    }

    /// The truth about one ban: `None` when there is none, otherwise when it ends.
    pub fn set_banned(&mut self, member: impl Into<Member>, truth: Option<Option<u64>>) -> Changed {
        let member = member.into();
        let differs = match member {
            Member::Address(ip) => self.tables.banned.set(ip, truth, self.round),
            Member::Network(network) => self.tables.banned_networks.set(network, truth, self.round),
        };
        Changed::only(member, differs)
    }

    /// The store is out of reach. What is known stays known; a full read that
    /// was under way is broken off.
    pub fn away(&mut self, now_ms: u64) -> Changed {
        self.break_off();
        self.freshness = match self.freshness {
            Freshness::Fresh => Freshness::Away(Some(now_ms)),
            Freshness::Unread => Freshness::Away(None),
            Freshness::Away(_) => return Changed::default(),
        };
        Changed::Everything
    }

    /// The clock by which times are told moved by so much. The store is away
    /// for as long as it was before.
    pub fn clock_moved(&mut self, moved_ms: i64) {
        if let Freshness::Away(Some(since_ms)) = &mut self.freshness {
            *since_ms = since_ms.saturating_add_signed(moved_ms);
        }
    }

    /// Forgets some of what ended by `now_ms`. There is more to forget while
    /// [`Self::next_expiry`] is not after `now_ms`; decisions do not wait for it.
    pub fn expire(&mut self, now_ms: u64) -> Changed {
        let mut purge = Purge { budget: MOST_EXPIRED, changed: Changed::default() };
        self.tables.allowed.v4.expire(now_ms, self.round, &mut purge);
        self.tables.allowed.v6.expire(now_ms, self.round, &mut purge);
        self.tables.networks.expire(now_ms, self.round, &mut purge);
        self.tables.banned.v4.expire(now_ms, self.round, &mut purge);
        self.tables.banned.v6.expire(now_ms, self.round, &mut purge);
        self.tables.banned_networks.expire(now_ms, self.round, &mut purge);
        purge.changed
    }

    /// When to call [`Self::expire`] next: never later than the next entry
    /// ends, but an entry may have been forgotten or prolonged since.
    pub fn next_expiry(&self) -> Option<u64> {
        let Tables { allowed, networks, banned, banned_networks } = &self.tables;
        let next = [allowed.v4.next_expiry(), allowed.v6.next_expiry(), networks.next_expiry()];
        let bans =
            [banned.v4.next_expiry(), banned.v6.next_expiry(), banned_networks.next_expiry()];
        next.into_iter().chain(bans).flatten().min()
    }

    /// The entry of the allow-set that speaks for `ip`: its address, or else
    /// the longest network that has not ended.
    pub fn allowed(&self, ip: IpAddr, now_ms: u64) -> Option<Entry> {
        let exact = self.tables.allowed.truth(ip, now_ms);
        if let Some(expires_ms) = exact {
            return Some(Entry { member: ip.into(), expires_ms });
        }
        longest(&self.tables.networks, ip, now_ms)
    }

    /// The ban on `ip`: that of its address, or else of its network.
    pub fn banned(&self, ip: IpAddr, now_ms: u64) -> Option<Entry> {
        if let Some(expires_ms) = self.tables.banned.truth(ip, now_ms) {
            return Some(Entry { member: ip.into(), expires_ms });
        }
        longest(&self.tables.banned_networks, ip, now_ms)
    }

    /// Whether the store's word is current.
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// How much is known, including what ended and was not yet forgotten.
    pub fn counts(&self) -> Counts {
        Counts {
            addresses: self.tables.allowed.v4.len() + self.tables.allowed.v6.len(),
            networks: self.tables.networks.len(),
            bans: self.tables.banned.v4.len()
                + self.tables.banned.v6.len()
                + self.tables.banned_networks.len(),
        }
    }

    fn break_off(&mut self) {
        if !self.round.reading {
            return;
        }
        self.round.reading = false;
        self.tables.allowed.settle(self.round);
        self.tables.networks.settle(self.round);
        self.tables.banned.settle(self.round);
        self.tables.banned_networks.settle(self.round);
    }
}

/// The longest network around `ip` that has not ended.
fn longest(networks: &Ledger<IpNet, Nets<Stamp>>, ip: IpAddr, now_ms: u64) -> Option<Entry> {
    networks.table().matches(ip).find_map(|(network, stamp)| {
        let expires_ms = stamp.truth(now_ms)?;
        Some(Entry { member: Member::Network(network), expires_ms })
    })
}

// === impl Addresses ===

impl Addresses {
    fn found(&mut self, ip: IpAddr, expires_ms: Option<u64>, round: Round) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.found(ip, expires_ms, round),
            IpAddr::V6(ip) => self.v6.found(ip, expires_ms, round),
        }
    }

    fn set(&mut self, ip: IpAddr, truth: Truth, round: Round) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.set(ip, truth, round),
            IpAddr::V6(ip) => self.v6.set(ip, truth, round),
        }
    }

    fn truth(&self, ip: IpAddr, now_ms: u64) -> Truth {
        let stamp = match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.table().look(ip),
            IpAddr::V6(ip) => self.v6.table().look(ip),
        };
        stamp?.truth(now_ms)
    }

    fn settle(&mut self, round: Round) {
        self.v4.settle(round);
        self.v6.settle(round);
    }
}

// === impl Entry ===

impl From<IpNet> for Entry {
    fn from(network: IpNet) -> Self {
        Self { member: network.into(), expires_ms: None }
    }
}

impl Entry {
    /// How long it still lasts; `None` for ever.
    pub fn ttl(&self, now_ms: u64) -> Option<Duration> {
        let left = |expires_ms: u64| Duration::from_millis(expires_ms.saturating_sub(now_ms));
        self.expires_ms.map(left)
    }
}

// === impl Changed ===

impl Changed {
    /// Whether nobody is concerned.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Subjects(members) if members.is_empty())
    }

    /// Whether the decision about `ip` may be another than before.
    pub fn concerns(&self, ip: IpAddr) -> bool {
        match self {
            Self::Subjects(members) => members.iter().any(|member| member.contains(ip)),
            Self::Everything => true,
        }
    }

    /// Both changes as one.
    pub fn merge(&mut self, other: Self) {
        match other {
            Self::Subjects(members) => members.into_iter().for_each(|member| self.add(member)),
            Self::Everything => *self = Self::Everything,
        }
    }

    pub(super) fn add(&mut self, member: Member) {
        match self {
            Self::Subjects(members) if members.len() < MOST_SUBJECTS => members.push(member),
            _ => *self = Self::Everything,
        }
    }

    fn only(member: Member, differs: bool) -> Self {
        Self::Subjects(if differs { vec![member] } else { vec![] })
    }
}

impl Default for Changed {
    fn default() -> Self {
        Self::Subjects(vec![])
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
