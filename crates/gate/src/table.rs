//! The subjects of one kind that a store named, each with its expiry.
//!
//! A full read marks what it finds and then sweeps what it did not, in place: a
//! copy would double the memory of a million addresses. A change that arrives
//! during a read wins over what the read says about the same subject, since a
//! batch may have been read before the change and delivered after it. Hence a
//! removal leaves a tombstone until the read is over.
//!
//! Entries are packed: eleven bytes in the table for an IPv4 address.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::Hash;

use ipnet::IpNet;

use crate::changed::Changed;
use crate::member::{Entry, Member};
use crate::nets::Nets;
use knockpipe_base::unix_time::{Expiry, UnixMillis};

/// The bits of an expiry: enough until the year 4199.
const EXPIRY: u64 = (1 << 46) - 1;
/// Set by a change during the read that has the parity of the entry.
const CHANGED: u64 = 1 << 46;
/// The parity of the last read that found the subject.
const ODD: u64 = 1 << 47;
/// Tables and heaps below this are not worth shrinking.
const SMALL: usize = 1024;

/// The expiry of a subject, and the read that found it: 48 bits, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedExpiry([u8; 6]);

/// The full read that is under way, or was the last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadGeneration {
    /// Alternates from read to read.
    pub(crate) odd: bool,
    /// Between begin and end.
    pub(crate) reading: bool,
}

/// Subjects that one call forgets: how many it may, and which it did.
pub(crate) struct ExpiryBatch {
    pub(crate) budget: usize,
    pub(crate) changed: Changed,
}

/// The container in which a table keeps its entries.
pub(crate) trait EntryMap<K>: Default {
    fn look(&self, key: K) -> Option<PackedExpiry>;
    fn put(&mut self, key: K, packed: PackedExpiry);
    fn take(&mut self, key: K);
    fn keep(&mut self, keep: impl FnMut(K, &mut PackedExpiry) -> bool);
    fn each(&self) -> impl Iterator<Item = (K, PackedExpiry)>;
    /// The number of entries, and of those for which there is room.
    fn size(&self) -> (usize, usize);
    fn shrink(&mut self);
}

/// The subjects of one kind.
#[derive(Clone, Debug)]
pub(crate) struct ExpiryTable<K, T> {
    table: T,
    /// Their ends, soonest first. May hold subjects that were forgotten since.
    due: BinaryHeap<Reverse<Due<K>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due<K> {
    /// Big-endian, so that the order of the bytes is that of the moments.
    at: [u8; 6],
    key: K,
}

// === impl PackedExpiry ===

impl PackedExpiry {
    fn new(expiry: u64, generation: ReadGeneration) -> Self {
        Self::pack(expiry | if generation.odd { ODD } else { 0 })
    }

    fn pack(bits: u64) -> Self {
        let [_, _, bytes @ ..] = bits.to_be_bytes();
        Self(bytes)
    }

    fn bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The bits of the expiry: zero for a tombstone, all of them for ever.
    fn end(self) -> u64 {
        self.bits() & EXPIRY
    }

    /// The end, if the entry holds at `now`.
    pub(crate) fn expiry(self, now: UnixMillis) -> Option<Expiry> {
        match self.end() {
            EXPIRY => Some(Expiry::Never),
            end if end > now.0 => Some(Expiry::At(UnixMillis(end))),
            _ => None,
        }
    }

    fn is_of(self, generation: ReadGeneration) -> bool {
        (self.bits() & ODD != 0) == generation.odd
    }

    /// Returns true if a change set it during the read that is under way.
    fn is_set_in(self, generation: ReadGeneration) -> bool {
        generation.reading && self.is_of(generation) && self.bits() & CHANGED != 0
    }
}

/// Zero is a tombstone: it ended long ago.
fn pack_expiry(expiry: Option<Expiry>) -> u64 {
    match expiry {
        None => 0,
        Some(Expiry::Never) => EXPIRY,
        Some(Expiry::At(end)) => end.0.min(EXPIRY),
    }
}

// === impl ExpiryTable ===

impl<K: Ord, T: EntryMap<K>> Default for ExpiryTable<K, T> {
    fn default() -> Self {
        Self { table: T::default(), due: BinaryHeap::new() }
    }
}

impl<K, T> ExpiryTable<K, T>
where
    K: Copy + Ord + Into<Member>,
    T: EntryMap<K>,
{
    pub(crate) fn table(&self) -> &T {
        &self.table
    }

    pub(crate) fn len(&self) -> usize {
        self.table.size().0
    }

    /// Notes that a full read found `key`. An entry that a store holds in several
    /// spellings or places lasts as long as the longest of them.
    pub(crate) fn found(&mut self, key: K, expiry: Expiry, generation: ReadGeneration) -> bool {
        let end = pack_expiry(Some(expiry));
        let end = match self.table.look(key) {
            Some(old) if old.is_set_in(generation) => return false,
            Some(old) if old.is_of(generation) => end.max(old.end()),
            _ => end,
        };
        self.put(key, PackedExpiry::new(end, generation))
    }

    /// Notes the current expiry of `key`; `None` if it is not there any more.
    pub(crate) fn set(
        &mut self,
        key: K,
        expiry: Option<Expiry>,
        generation: ReadGeneration,
    ) -> bool {
        let packed = PackedExpiry::new(pack_expiry(expiry), generation);
        if generation.reading {
            return self.put(key, PackedExpiry::pack(packed.bits() | CHANGED));
        }
        if packed.end() > 0 {
            return self.put(key, packed);
        }
        let known = self.table.look(key).is_some();
        self.table.take(key);
        self.tidy();
        known
    }

    /// Stores the entry. Returns true if the expiry differs from the one before.
    fn put(&mut self, key: K, packed: PackedExpiry) -> bool {
        let before = self.table.look(key).map_or(0, PackedExpiry::end);
        self.table.put(key, packed);
        let end = packed.end();
        if before == end {
            return false;
        }
        if (1..EXPIRY).contains(&end) {
            // Doubling would leave half of a large heap empty.
            if self.due.len() == self.due.capacity() {
                self.due.reserve_exact(self.due.len() / 8 + 64);
            }
            self.due.push(Reverse(Due { at: PackedExpiry::pack(end).0, key }));
            self.tidy();
        }
        true
    }

    /// Ends a complete read: forgets what it did not find.
    pub(crate) fn sweep(
        &mut self,
        now: UnixMillis,
        generation: ReadGeneration,
        changed: &mut Changed,
    ) {
        self.table.keep(|key, packed| {
            let keep = packed.is_of(generation) && packed.expiry(now).is_some();
            if !keep && packed.end() > 0 {
                changed.add(key.into());
            }
            keep
        });
        self.tidy();
    }

    /// Ends a read that is broken off: what is known stays known.
    pub(crate) fn settle(&mut self, generation: ReadGeneration) {
        self.table.keep(|_, packed| {
            *packed = PackedExpiry::new(packed.end(), generation);
            packed.end() > 0
        });
        self.tidy();
    }

    /// Forgets entries that are past, as far as the budget goes.
    pub(crate) fn expire(
        &mut self,
        now: UnixMillis,
        generation: ReadGeneration,
        batch: &mut ExpiryBatch,
    ) {
        while batch.budget > 0
            && let Some(Reverse(due)) = self.due.peek().copied()
            && PackedExpiry(due.at).end() <= now.0
        {
            self.due.pop();
            batch.budget -= 1;
            if let Some(packed) = self.table.look(due.key)
                && packed.end() == PackedExpiry(due.at).end()
            {
                batch.changed.add(due.key.into());
                // A batch that was read before this change may still arrive.
                if !packed.is_set_in(generation) {
                    self.table.take(due.key);
                }
            }
        }
        self.tidy();
    }

    /// The moment before which no entry ends; that entry may have been forgotten since.
    pub(crate) fn next_expiry(&self) -> Option<UnixMillis> {
        self.due.peek().map(|Reverse(due)| UnixMillis(PackedExpiry(due.at).end()))
    }

    /// The entries that hold at `now`.
    pub(crate) fn entries(&self, now: UnixMillis) -> impl Iterator<Item = Entry> {
        self.table.each().filter_map(move |(key, packed)| {
            Some(Entry { member: key.into(), expiry: packed.expiry(now)? })
        })
    }

    #[cfg(test)]
    pub(crate) fn due_len(&self) -> usize {
        self.due.len()
    }

    /// Keeps memory in proportion to the present number of entries.
    fn tidy(&mut self) {
        let (len, room) = self.table.size();
        if self.due.len() > len + len / 4 + SMALL {
            let mut due = std::mem::take(&mut self.due).into_vec();
            due.clear();
            let timed = |packed: &PackedExpiry| (1..EXPIRY).contains(&packed.end());
            due.extend(
                self.table.each().filter(|(_, packed)| timed(packed)).map(|(key, packed)| {
                    Reverse(Due { at: PackedExpiry::pack(packed.end()).0, key })
                }),
            );
            due.shrink_to(len + len / 4 + SMALL);
            self.due = due.into();
        }
        if room > SMALL && len < room / 8 {
            self.table.shrink();
        }
    }
}

// === impl EntryMap ===

impl<K: Copy + Eq + Hash> EntryMap<K> for HashMap<K, PackedExpiry> {
    fn look(&self, key: K) -> Option<PackedExpiry> {
        self.get(&key).copied()
    }

    fn put(&mut self, key: K, packed: PackedExpiry) {
        self.insert(key, packed);
    }

    fn take(&mut self, key: K) {
        self.remove(&key);
    }

    fn keep(&mut self, mut keep: impl FnMut(K, &mut PackedExpiry) -> bool) {
        self.retain(|key, packed| keep(*key, packed));
    }

    fn each(&self) -> impl Iterator<Item = (K, PackedExpiry)> {
        self.iter().map(|(key, packed)| (*key, *packed))
    }

    fn size(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn shrink(&mut self) {
        self.shrink_to(2 * self.len());
    }
}

impl EntryMap<IpNet> for Nets<PackedExpiry> {
    fn look(&self, key: IpNet) -> Option<PackedExpiry> {
        self.get(key).copied()
    }

    fn put(&mut self, key: IpNet, packed: PackedExpiry) {
        self.insert(key, packed);
    }

    fn take(&mut self, key: IpNet) {
        self.remove(key);
    }

    fn keep(&mut self, mut keep: impl FnMut(IpNet, &mut PackedExpiry) -> bool) {
        self.retain(|network, packed| keep(*network, packed));
    }

    fn each(&self) -> impl Iterator<Item = (IpNet, PackedExpiry)> {
        self.iter().map(|(network, packed)| (network, *packed))
    }

    fn size(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn shrink(&mut self) {
        self.shrink_to_fit();
    }
}
