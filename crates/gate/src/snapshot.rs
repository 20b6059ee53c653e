//! The store's content as last reported: the allowed and banned subjects, their ends,
//! and whether that is still current.
//!
//! Decisions come from here, without a round trip. A follower of the store
//! feeds it: full reads (`begin`, `items`, `end`) and single changes in between.
//! The rule for both at once: a full read replaces everything, except that a
//! single change which arrives between `begin` and `end` wins over all that this
//! read says about the same subject, before or after it. So a removal is never
//! undone by a batch that was read earlier, and a grant never lost because the
//! read had already passed its place. What a read finds counts at once; what
//! it does not find is forgotten at `end`, and not if the read is broken off.
//!
//! Every change returns the subjects that it affects ([`Changed`]).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::changed::Changed;
use crate::member::{Entry, Item, Member};
use crate::nets::Nets;
use crate::table::{EntryMap, ExpiryBatch, ExpiryTable, PackedExpiry, ReadGeneration};
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// Entries forgotten in one call of [`Snapshot::expire`]: about a millisecond,
/// so that a million grants that end at once delay no decision.
const MOST_EXPIRED: usize = 10_000;

/// Entries that are kept of a store that is unavailable. No store has more, in Redis or in
/// a file: they are left from reads that were broken off. Tests have fewer, to see it for every
/// kind of entry.
const MOST_KEPT: usize = if cfg!(test) { 20_000 } else { 2_000_000 };

/// The store's content, as far as it is known here.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    tables: Tables,
    generation: ReadGeneration,
    freshness: Freshness,
}

/// Everything that was read, to be forgotten as a whole.
#[derive(Clone, Debug, Default)]
struct Tables {
    allowed: Addresses,
    networks: ExpiryTable<IpNet, Nets<PackedExpiry>>,
    banned: Addresses,
    banned_networks: ExpiryTable<IpNet, Nets<PackedExpiry>>,
}

/// Addresses, each family in a table of its own size.
#[derive(Clone, Debug, Default)]
struct Addresses {
    v4: ExpiryTable<Ipv4Addr, HashMap<Ipv4Addr, PackedExpiry>>,
    v6: ExpiryTable<Ipv6Addr, HashMap<Ipv6Addr, PackedExpiry>>,
}

/// The relation of a snapshot to its store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// Neither read nor found unavailable yet.
    #[default]
    Unread,
    /// Followed, and completely read at least once.
    Fresh,
    /// Out of reach.
    Unavailable {
        /// The moment of the loss; `None` if the store was never read.
        since: Option<UnixMillis>,
    },
}

impl Freshness {
    /// Returns true if no full read was ever completed.
    pub fn is_never_read(self) -> bool {
        matches!(self, Self::Unread | Self::Unavailable { since: None })
    }
}

/// The number of entries.
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
    /// Begins a full read. One that was under way is broken off.
    pub fn begin(&mut self) {
        self.break_off();
        let Counts { addresses, networks, bans } = self.counts();
        if self.freshness != Freshness::Fresh && addresses + networks + bans > MOST_KEPT {
            self.tables = Tables::default();
        }
        self.generation = ReadGeneration { odd: !self.generation.odd, reading: true };
    }

    /// Takes a part of a full read. An address that comes twice, in two spellings or
    /// from two places of the store, lasts as long as the longer of them.
    pub fn items(&mut self, items: &[Item]) -> Changed {
        let generation = self.generation;
        let mut changed = Changed::default();
        for item in items {
            let (member, differs) = match *item {
                Item::Allowed(Member::Network(network), expiry) => {
                    (network.into(), self.tables.networks.found(network, expiry, generation))
                }
                Item::Allowed(Member::Address(ip), expiry) => {
                    (ip.into(), self.tables.allowed.found(ip, expiry, generation))
                }
                Item::Banned(Member::Network(network), expiry) => {
                    (network.into(), self.tables.banned_networks.found(network, expiry, generation))
                }
                Item::Banned(Member::Address(ip), expiry) => {
                    (ip.into(), self.tables.banned.found(ip, expiry, generation))
                }
            };
            if differs {
                changed.add(member);
            }
        }
        changed
    }

    /// Ends a full read: what it did not find is gone, and the store
    /// is fresh. Does nothing without a `begin`.
    pub fn end(&mut self, now: UnixMillis) -> Changed {
        let mut changed = Changed::default();
        if !self.generation.reading {
            return changed;
        }
        self.tables.allowed.v4.sweep(now, self.generation, &mut changed);
        self.tables.allowed.v6.sweep(now, self.generation, &mut changed);
        self.tables.networks.sweep(now, self.generation, &mut changed);
        self.tables.banned.v4.sweep(now, self.generation, &mut changed);
        self.tables.banned.v6.sweep(now, self.generation, &mut changed);
        self.tables.banned_networks.sweep(now, self.generation, &mut changed);
        self.generation.reading = false;
        if self.freshness != Freshness::Fresh {
            self.freshness = Freshness::Fresh;
            changed = Changed::Everything;
        }
        changed
    }

    /// Sets the expiry of one member of the allow-set; `None` if it is not in it. This is
    /// the answer for all places of the store together.
    pub fn set_allowed(&mut self, member: Member, expiry: Option<Expiry>) -> Changed {
        let differs = match member {
            Member::Address(ip) => self.tables.allowed.set(ip, expiry, self.generation),
            Member::Network(network) => self.tables.networks.set(network, expiry, self.generation),
        };
        Changed::only(member, differs)
    }

    /// Sets the expiry of one ban; `None` if there is none.
    pub fn set_banned(&mut self, member: impl Into<Member>, expiry: Option<Expiry>) -> Changed {
        let member = member.into();
        let differs = match member {
            Member::Address(ip) => self.tables.banned.set(ip, expiry, self.generation),
            Member::Network(network) => {
                self.tables.banned_networks.set(network, expiry, self.generation)
            }
        };
        Changed::only(member, differs)
    }

    /// Notes that the store is unavailable. What is known stays known; a full read that
    /// was under way is broken off.
    pub fn set_unavailable(&mut self, now: UnixMillis) -> Changed {
        self.break_off();
        self.freshness = match self.freshness {
            Freshness::Fresh => Freshness::Unavailable { since: Some(now) },
            Freshness::Unread => Freshness::Unavailable { since: None },
            Freshness::Unavailable { .. } => return Changed::default(),
        };
        Changed::Everything
    }

    /// Follows a correction of the clock: the store is then unavailable for as long as
    /// it was before.
    pub fn clock_moved(&mut self, moved_ms: i64) {
        if let Freshness::Unavailable { since: Some(since) } = &mut self.freshness {
            *since = since.moved_by(moved_ms);
        }
    }

    /// Forgets some of the entries that ended by `now`. There are more while
    /// [`Self::next_expiry`] is not after `now`; decisions do not wait for it.
    pub fn expire(&mut self, now: UnixMillis) -> Changed {
        let mut batch = ExpiryBatch { budget: MOST_EXPIRED, changed: Changed::default() };
        self.tables.allowed.v4.expire(now, self.generation, &mut batch);
        self.tables.allowed.v6.expire(now, self.generation, &mut batch);
        self.tables.networks.expire(now, self.generation, &mut batch);
        self.tables.banned.v4.expire(now, self.generation, &mut batch);
        self.tables.banned.v6.expire(now, self.generation, &mut batch);
        self.tables.banned_networks.expire(now, self.generation, &mut batch);
        batch.changed
    }

    /// The moment at which to call [`Self::expire`] next: never later than the next entry
    /// ends, but that entry may have been forgotten or prolonged since.
    pub fn next_expiry(&self) -> Option<UnixMillis> {
        let Tables { allowed, networks, banned, banned_networks } = &self.tables;
        let next = [allowed.v4.next_expiry(), allowed.v6.next_expiry(), networks.next_expiry()];
        let bans =
            [banned.v4.next_expiry(), banned.v6.next_expiry(), banned_networks.next_expiry()];
        next.into_iter().chain(bans).flatten().min()
    }

    /// The entry of the allow-set that covers `ip`: its address, or else
    /// the longest network that has not ended.
    pub fn allowed(&self, ip: IpAddr, now: UnixMillis) -> Option<Entry> {
        let exact = self.tables.allowed.expiry(ip, now);
        if let Some(expiry) = exact {
            return Some(Entry { member: ip.into(), expiry });
        }
        longest(&self.tables.networks, ip, now)
    }

    /// The end of exactly this member of the allow-set, whatever else covers it.
    pub fn member(&self, member: Member, now: UnixMillis) -> Option<Expiry> {
        match member {
            Member::Address(ip) => self.tables.allowed.expiry(ip, now),
            Member::Network(network) => self.tables.networks.table().get(network)?.expiry(now),
        }
    }

    /// The ban on `ip`: that of its address, or else of its network.
    pub fn banned(&self, ip: IpAddr, now: UnixMillis) -> Option<Entry> {
        if let Some(expiry) = self.tables.banned.expiry(ip, now) {
            return Some(Entry { member: ip.into(), expiry });
        }
        longest(&self.tables.banned_networks, ip, now)
    }

    /// All entries that hold at `now`, in no order. An IPv4 address comes in its own form,
    /// whatever spelling the store has.
    pub fn entries(&self, now: UnixMillis) -> impl Iterator<Item = Item> {
        let Tables { allowed, networks, banned, banned_networks } = &self.tables;
        let allowed = allowed.entries(now).chain(networks.entries(now));
        let banned = banned.entries(now).chain(banned_networks.entries(now));
        let allowed = allowed.map(|Entry { member, expiry }| Item::Allowed(member, expiry));
        allowed.chain(banned.map(|Entry { member, expiry }| Item::Banned(member, expiry)))
    }

    /// The relation to the store.
    pub fn freshness(&self) -> Freshness {
        self.freshness
    }

    /// The number of entries, including those that ended and were not yet forgotten.
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
        if !self.generation.reading {
            return;
        }
        self.generation.reading = false;
        self.tables.allowed.settle(self.generation);
        self.tables.networks.settle(self.generation);
        self.tables.banned.settle(self.generation);
        self.tables.banned_networks.settle(self.generation);
    }
}

/// The longest network around `ip` that has not ended.
fn longest(
    networks: &ExpiryTable<IpNet, Nets<PackedExpiry>>,
    ip: IpAddr,
    now: UnixMillis,
) -> Option<Entry> {
    networks.table().matches(ip).find_map(|(network, packed)| {
        let expiry = packed.expiry(now)?;
        Some(Entry { member: Member::Network(network), expiry })
    })
}

// === impl Addresses ===

impl Addresses {
    fn found(&mut self, ip: IpAddr, expiry: Expiry, generation: ReadGeneration) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.found(ip, expiry, generation),
            IpAddr::V6(ip) => self.v6.found(ip, expiry, generation),
        }
    }

    fn set(&mut self, ip: IpAddr, expiry: Option<Expiry>, generation: ReadGeneration) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.set(ip, expiry, generation),
            IpAddr::V6(ip) => self.v6.set(ip, expiry, generation),
        }
    }

    fn expiry(&self, ip: IpAddr, now: UnixMillis) -> Option<Expiry> {
        let packed = match ip.to_canonical() {
            IpAddr::V4(ip) => self.v4.table().look(ip),
            IpAddr::V6(ip) => self.v6.table().look(ip),
        };
        packed?.expiry(now)
    }

    fn entries(&self, now: UnixMillis) -> impl Iterator<Item = Entry> {
        self.v4.entries(now).chain(self.v6.entries(now))
    }

    fn settle(&mut self, generation: ReadGeneration) {
        self.v4.settle(generation);
        self.v6.settle(generation);
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "snapshot_model_tests.rs"]
mod model_tests;
