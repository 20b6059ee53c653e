//! Handshake slots, for connections that have not proven that the other end is live. Those that
//! have take a session slot (`limits.rs`).
//!
//! A handshake slot is lent. When none is left for a newcomer, the oldest slot of the source that
//! holds most of them is taken back: a source that floods displaces its own connections. A
//! connection with an authentic and fresh first message moves to a second class, which connections
//! of the first class cannot displace: only a holder of the key can make such a message. Dialers
//! that are proven live and wait for a session never lose theirs, and are few; those of the second
//! class make way for them, so that a quarter always remains for newcomers.
//!
//! All share one limit, which also bounds their descriptors.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::addr::SourceKey;

/// Connections that are not proven yet. Clones share them.
#[derive(Clone, Debug)]
pub struct PendingHandshakes(Arc<Mutex<Pending>>);

/// One connection's handshake slot; free again when dropped.
#[derive(Debug)]
#[must_use = "dropping the slot frees it"]
pub struct HandshakeSlot {
    number: u64,
    pending: Arc<Mutex<Pending>>,
    displaced: CancellationToken,
}

/// Class of a connection, by what its other end has proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Nothing.
    Unauthenticated,
    /// Its first message was made with the key, and is fresh.
    Authenticated,
    /// It is live, and waits for a session.
    Waiting,
}

/// All handshake slots. Numbers only grow, so that a smaller one is an older one.
#[derive(Debug)]
struct Pending {
    limit: usize,
    next: u64,
    most: usize,
    held: HashMap<u64, Held>,
    unauthenticated: Queue,
    authenticated: Queue,
    waiting: usize,
}

#[derive(Debug)]
struct Held {
    source: Option<SourceKey>,
    class: Class,
    displaced: CancellationToken,
}

/// The handshake slots of one class by source, and the order of eviction. Unix sockets are one
/// source.
#[derive(Debug, Default)]
struct Queue {
    sources: HashMap<Option<SourceKey>, BTreeSet<u64>>,
    /// Number of slots that a source holds, and its oldest: the last entry is evicted first.
    order: BTreeSet<(usize, Reverse<u64>, Option<SourceKey>)>,
    len: usize,
}

// === impl PendingHandshakes ===

impl PendingHandshakes {
    /// Creates slots for `limit` connections, at least one.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Pending {
            limit: limit.max(1),
            next: 0,
            most: 0,
            held: HashMap::new(),
            unauthenticated: Queue::default(),
            authenticated: Queue::default(),
            waiting: 0,
        })))
    }

    /// Changes the limit, which applies from the next newcomer on: where there are too many then,
    /// all that its class may displace are evicted.
    pub fn set_limit(&self, limit: usize) {
        lock(&self.0).limit = limit.max(1);
    }

    /// Takes a slot for a connection of `source` that has proven nothing. Never waits and never
    /// fails: where none is left, another of its class loses its own.
    pub fn enter(&self, source: Option<SourceKey>) -> HandshakeSlot {
        self.take(source, Class::Unauthenticated, lock(&self.0))
    }

    /// Takes a slot for a dialer that is live and waits for a session, which no other can displace;
    /// one that is only authenticated makes way for it. `None` where the highest number of dialers
    /// waits already.
    pub fn wait_for_session(&self, source: Option<SourceKey>) -> Option<HandshakeSlot> {
        let pending = lock(&self.0);
        let has_room = pending.waiting < pending.most_waiting();
        has_room.then(|| self.take(source, Class::Waiting, pending))
    }

    fn take(
        &self,
        source: Option<SourceKey>,
        class: Class,
        mut pending: MutexGuard<'_, Pending>,
    ) -> HandshakeSlot {
        let displaced = CancellationToken::new();
        let mut losers = vec![];
        if class == Class::Waiting {
            losers = pending.make_room_for_key_holder(source);
        }
        losers.extend(pending.make_room(source));
        let number = pending.enter(Held { source, class, displaced: displaced.clone() });
        drop(pending);
        tell(losers);
        HandshakeSlot { number, pending: Arc::clone(&self.0), displaced }
    }

    /// Number of connections that are not proven.
    pub fn used(&self) -> usize {
        lock(&self.0).unproven()
    }

    /// Highest number of connections at once that were not proven.
    pub fn high_water(&self) -> usize {
        lock(&self.0).most
    }

    /// Highest number that is allowed.
    pub fn limit(&self) -> usize {
        lock(&self.0).limit
    }
}

/// Tells the evicted connections. To be called without the lock: it wakes tasks.
fn tell(losers: Vec<CancellationToken>) {
    losers.iter().for_each(CancellationToken::cancel);
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl HandshakeSlot ===

impl HandshakeSlot {
    /// Counts the slot against `source` from now on: a load balancer has announced its client.
    pub fn set_source(&self, source: Option<SourceKey>) {
        lock(&self.pending).set_source(self.number, source);
    }

    /// Moves the slot to the second class, as its first message is authentic and fresh: those that
    /// have proven nothing cannot displace it any more. Where that class is full, one of its slots
    /// is evicted.
    pub fn authenticate(&self) {
        let losers = lock(&self.pending).authenticate(self.number);
        tell(losers);
    }

    /// Waits until this slot is taken back, and for ever otherwise. Cancel safe.
    pub async fn evicted(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        lock(&self.pending).leave(self.number);
    }
}

// === impl Pending ===

impl Pending {
    fn unproven(&self) -> usize {
        self.unauthenticated.len + self.authenticated.len
    }

    /// Returns the highest number of key holders, in a handshake or waiting: a quarter is left to
    /// newcomers.
    fn most_authenticated(&self) -> usize {
        (self.limit - self.limit / 4 - usize::from((2..4).contains(&self.limit))).max(1)
    }

    /// Returns the highest number of dialers that wait for a session.
    fn most_waiting(&self) -> usize {
        (self.limit / 2).max(1)
    }

    fn enter(&mut self, held: Held) -> u64 {
        let number = self.next;
        self.next += 1;
        match held.class {
            Class::Unauthenticated => self.unauthenticated.insert(held.source, number),
            Class::Authenticated => self.authenticated.insert(held.source, number),
            Class::Waiting => self.waiting += 1,
        }
        self.held.insert(number, held);
        self.most = self.most.max(self.unproven());
        number
    }

    /// Takes slots back until there is one for a newcomer of `source`.
    fn make_room(&mut self, source: Option<SourceKey>) -> Vec<CancellationToken> {
        let mut losers = vec![];
        while self.unproven() + self.waiting >= self.limit {
            let Some(number) = self.unauthenticated.first_to_go(source) else { break };
            losers.extend(self.displace(number));
        }
        losers
    }

    /// Takes slots of key holders back until one of `source` may become a key holder's, or wait for
    /// a session.
    fn make_room_for_key_holder(&mut self, source: Option<SourceKey>) -> Vec<CancellationToken> {
        let mut losers = vec![];
        while self.authenticated.len + self.waiting >= self.most_authenticated() {
            let Some(number) = self.authenticated.first_to_go(source) else { break };
            losers.extend(self.displace(number));
        }
        losers
    }

    /// Takes a slot back, and returns the token that tells its connection.
    fn displace(&mut self, number: u64) -> Option<CancellationToken> {
        self.leave(number).map(|held| held.displaced)
    }

    fn leave(&mut self, number: u64) -> Option<Held> {
        let held = self.held.remove(&number)?;
        match held.class {
            Class::Unauthenticated => self.unauthenticated.remove(held.source, number),
            Class::Authenticated => self.authenticated.remove(held.source, number),
            Class::Waiting => self.waiting -= 1,
        }
        Some(held)
    }

    fn set_source(&mut self, number: u64, source: Option<SourceKey>) {
        let Some(held) = self.held.get_mut(&number) else { return };
        let before = std::mem::replace(&mut held.source, source);
        let queue = match held.class {
            Class::Unauthenticated => &mut self.unauthenticated,
            Class::Authenticated => &mut self.authenticated,
            Class::Waiting => return,
        };
        queue.remove(before, number);
        queue.insert(source, number);
    }

    fn authenticate(&mut self, number: u64) -> Vec<CancellationToken> {
        let most = self.most_authenticated();
        let source = match self.held.get_mut(&number) {
            // With very few slots those that wait may hold the whole share; then the class stays.
            Some(held) if held.class == Class::Unauthenticated && self.waiting < most => {
                held.class = Class::Authenticated;
                held.source
            }
            _ => return vec![],
        };
        self.unauthenticated.remove(source, number);
        let losers = self.make_room_for_key_holder(source);
        self.authenticated.insert(source, number);
        losers
    }
}

// === impl Queue ===

impl Queue {
    fn insert(&mut self, source: Option<SourceKey>, number: u64) {
        self.change(source, |numbers| numbers.insert(number));
        self.len += 1;
    }

    fn remove(&mut self, source: Option<SourceKey>, number: u64) {
        self.change(source, |numbers| numbers.remove(&number));
        self.len -= 1;
    }

    fn change(
        &mut self,
        source: Option<SourceKey>,
        change: impl FnOnce(&mut BTreeSet<u64>) -> bool,
    ) {
        let numbers = self.sources.entry(source).or_default();
        if let Some(oldest) = numbers.first() {
            self.order.remove(&(numbers.len(), Reverse(*oldest), source));
        }
        change(numbers);
        match numbers.first() {
            Some(oldest) => {
                self.order.insert((numbers.len(), Reverse(*oldest), source));
            }
            None => {
                self.sources.remove(&source);
            }
        }
    }

    /// Picks the slot to evict for a newcomer of `source`: the oldest of the source that holds
    /// most, which is the newcomer's own where none holds more.
    fn first_to_go(&self, source: Option<SourceKey>) -> Option<u64> {
        let (most, Reverse(oldest), _) = *self.order.last()?;
        match self.sources.get(&source) {
            Some(own) if own.len() == most => own.first().copied(),
            _ => Some(oldest),
        }
    }
}

#[cfg(test)]
#[path = "handshake_slots_tests.rs"]
mod tests;
