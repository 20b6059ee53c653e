//! Which subjects of one kind a store named, and when each ends.
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

use super::member::Member;
use super::nets::Nets;
use super::snapshot::Changed;

/// What is true about a subject: nothing, or until when (`None`: for ever).
pub(super) type Truth = Option<Option<u64>>;

/// The bits of an expiry: enough until the year 4199.
const EXPIRY: u64 = (1 << 46) - 1;
/// Set by a change during the read whose parity the stamp bears.
const CHANGED: u64 = 1 << 46;
/// The parity of the last read that knew the subject.
const ODD: u64 = 1 << 47;
/// Tables and heaps below this are not worth shrinking.
const SMALL: usize = 1024;

/// When a subject ends, and how it came here: 48 bits, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([u8; 6]);

/// The full read that is under way, or was the last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Round {
    /// Alternates from read to read.
    pub(super) odd: bool,
    /// Between begin and end.
    pub(super) reading: bool,
}

/// What one call forgets at most, and what it forgot.
pub(super) struct Purge {
    pub(super) budget: usize,
    pub(super) changed: Changed,
}

/// Where a ledger keeps its entries.
pub(super) trait Table<K>: Default {
    fn look(&self, key: K) -> Option<Stamp>;
    fn put(&mut self, key: K, stamp: Stamp);
    fn take(&mut self, key: K);
    fn keep(&mut self, keep: impl FnMut(K, &mut Stamp) -> bool);
    fn each(&self) -> impl Iterator<Item = (K, Stamp)>;
    /// Entries, and for how many there is room.
    fn size(&self) -> (usize, usize);
    fn shrink(&mut self);
}

/// The subjects of one kind.
#[derive(Debug)]
pub(super) struct Ledger<K, T> {
    table: T,
    /// By when they end, soonest first. May hold what was since forgotten.
    due: BinaryHeap<Reverse<Due<K>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due<K> {
    /// Big-endian, so that the order of the bytes is that of the moments.
    at: [u8; 6],
    key: K,
}

// === impl Stamp ===

impl Stamp {
    fn new(expiry: u64, round: Round) -> Self {
        Self::pack(expiry | if round.odd { ODD } else { 0 })
    }

    fn pack(bits: u64) -> Self {
        let [_, _, bytes @ ..] = bits.to_be_bytes();
        Self(bytes)
    }

    fn bits(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    fn expiry(self) -> u64 {
        self.bits() & EXPIRY
    }

    /// Until when it holds, if it holds at `now_ms`.
    pub(super) fn truth(self, now_ms: u64) -> Truth {
        match self.expiry() {
            EXPIRY => Some(None),
            expiry if expiry > now_ms => Some(Some(expiry)),
            _ => None,
        }
    }

    fn is_of(self, round: Round) -> bool {
        (self.bits() & ODD != 0) == round.odd
    }

    /// Whether a change set it during the read that is under way.
    fn is_set_in(self, round: Round) -> bool {
        round.reading && self.is_of(round) && self.bits() & CHANGED != 0
    }
}

/// Zero is a tombstone: it ended long ago.
fn pack_expiry(truth: Truth) -> u64 {
    match truth {
        None => 0,
        Some(None) => EXPIRY,
        Some(Some(expires_ms)) => expires_ms.min(EXPIRY),
    }
}

// === impl Ledger ===

impl<K: Ord, T: Table<K>> Default for Ledger<K, T> {
    fn default() -> Self {
        Self { table: T::default(), due: BinaryHeap::new() }
    }
}

impl<K, T> Ledger<K, T>
where
    K: Copy + Ord + Into<Member>,
    T: Table<K>,
{
    pub(super) fn table(&self) -> &T {
        &self.table
    }

    pub(super) fn len(&self) -> usize {
        self.table.size().0
    }

    /// A full read found `key`. What a store holds in several spellings or
    /// places lasts as long as the longest of them.
    pub(super) fn found(&mut self, key: K, expires_ms: Option<u64>, round: Round) -> bool {
        let expiry = pack_expiry(Some(expires_ms));
        let expiry = match self.table.look(key) {
            Some(old) if old.is_set_in(round) => return false,
            Some(old) if old.is_of(round) => expiry.max(old.expiry()),
            _ => expiry,
        };
        self.put(key, Stamp::new(expiry, round))
    }

    /// The truth about `key` changed.
    pub(super) fn set(&mut self, key: K, truth: Truth, round: Round) -> bool {
        let stamp = Stamp::new(pack_expiry(truth), round);
        if round.reading {
            return self.put(key, Stamp::pack(stamp.bits() | CHANGED));
        }
        if stamp.expiry() > 0 {
            return self.put(key, stamp);
        }
        let known = self.table.look(key).is_some();
        self.table.take(key);
        self.tidy();
        known
    }

    /// Whether the expiry is another than before.
    fn put(&mut self, key: K, stamp: Stamp) -> bool {
        let before = self.table.look(key).map_or(0, Stamp::expiry);
        self.table.put(key, stamp);
        let expiry = stamp.expiry();
        if before == expiry {
            return false;
        }
        if (1..EXPIRY).contains(&expiry) {
            // Doubling would leave half of a large heap empty.
            if self.due.len() == self.due.capacity() {
                self.due.reserve_exact(self.due.len() / 8 + 64);
            }
            self.due.push(Reverse(Due { at: Stamp::pack(expiry).0, key }));
            self.tidy();
        }
        true
    }

    /// The read is complete: what it did not find is gone.
    pub(super) fn sweep(&mut self, now_ms: u64, round: Round, changed: &mut Changed) {
        self.table.keep(|key, stamp| {
            let keep = stamp.is_of(round) && stamp.truth(now_ms).is_some();
            if !keep && stamp.expiry() > 0 {
                changed.add(key.into());
            }
            keep
        });
        self.tidy();
    }

    /// The read will not be completed: what is known stays known.
    pub(super) fn settle(&mut self, round: Round) {
        self.table.keep(|_, stamp| {
            *stamp = Stamp::new(stamp.expiry(), round);
            stamp.expiry() > 0
        });
        self.tidy();
    }

    /// Forgets what ended, as far as the budget goes.
    pub(super) fn expire(&mut self, now_ms: u64, round: Round, purge: &mut Purge) {
        while purge.budget > 0
            && let Some(Reverse(due)) = self.due.peek().copied()
            && Stamp(due.at).expiry() <= now_ms
        {
            self.due.pop();
            purge.budget -= 1;
            if let Some(stamp) = self.table.look(due.key)
                && stamp.expiry() == Stamp(due.at).expiry()
            {
                purge.changed.add(due.key.into());
                // A batch that was read before this change may still arrive.
                if !stamp.is_set_in(round) {
                    self.table.take(due.key);
                }
            }
        }
        self.tidy();
    }

    /// No entry ends before this; an entry may have been forgotten since.
    pub(super) fn next_expiry(&self) -> Option<u64> {
        self.due.peek().map(|Reverse(due)| Stamp(due.at).expiry())
    }

    #[cfg(test)]
    pub(super) fn due_len(&self) -> usize {
        self.due.len()
    }

    /// Keeps memory in proportion to what is known now.
    fn tidy(&mut self) {
        let (len, room) = self.table.size();
        if self.due.len() > len + len / 4 + SMALL {
            let mut due = std::mem::take(&mut self.due).into_vec();
            due.clear();
            let timed = |stamp: &Stamp| (1..EXPIRY).contains(&stamp.expiry());
            due.extend(
                self.table
                    .each()
                    .filter(|(_, stamp)| timed(stamp))
                    .map(|(key, stamp)| Reverse(Due { at: Stamp::pack(stamp.expiry()).0, key })),
            );
            due.shrink_to(len + len / 4 + SMALL);
            self.due = due.into();
        }
        if room > SMALL && len < room / 8 {
            self.table.shrink();
        }
    }
}

// === impl Table ===

impl<K: Copy + Eq + Hash> Table<K> for HashMap<K, Stamp> {
    fn look(&self, key: K) -> Option<Stamp> {
        self.get(&key).copied()
    }

    fn put(&mut self, key: K, stamp: Stamp) {
        self.insert(key, stamp);
    }

    fn take(&mut self, key: K) {
        self.remove(&key);
    }

    fn keep(&mut self, mut keep: impl FnMut(K, &mut Stamp) -> bool) {
        self.retain(|key, stamp| keep(*key, stamp));
    }

    fn each(&self) -> impl Iterator<Item = (K, Stamp)> {
        self.iter().map(|(key, stamp)| (*key, *stamp))
    }

    fn size(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn shrink(&mut self) {
        self.shrink_to(2 * self.len());
    }
}

impl Table<IpNet> for Nets<Stamp> {
    fn look(&self, key: IpNet) -> Option<Stamp> {
        self.get(key).copied()
    }

    fn put(&mut self, key: IpNet, stamp: Stamp) {
        self.insert(key, stamp);
    }

    fn take(&mut self, key: IpNet) {
        self.remove(key);
    }

    fn keep(&mut self, mut keep: impl FnMut(IpNet, &mut Stamp) -> bool) {
        self.retain(|network, stamp| keep(*network, stamp));
    }

    fn each(&self) -> impl Iterator<Item = (IpNet, Stamp)> {
        self.iter().map(|(network, stamp)| (network, *stamp))
    }

    fn size(&self) -> (usize, usize) {
        (self.len(), self.capacity())
    }

    fn shrink(&mut self) {
        self.shrink_to_fit();
    }
}
