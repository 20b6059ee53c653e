//! Places for connections whose other end has not proven that it is live: a slot
//! of a session is for those that have (`limits.rs`).
//!
//! A place is lent. Where none is left for a newcomer, one is taken back, of the
//! source that holds most of them, its oldest: whoever floods displaces its own
//! connections. A connection whose first message was authentic and fresh moves to
//! a second class, which those that sent nothing of the kind cannot displace: only
//! a holder of the key can make such a message. Dialers that are proven live and
//! wait for a session keep theirs for certain, and are few.
//!
//! All share one limit, so that all together take no more descriptors than that.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::addr::SourceKey;

/// The connections that are not proven yet. Clones share them.
#[derive(Clone, Debug)]
pub struct Handshakes(Arc<Mutex<Crowd>>);

/// One connection's place; free again when dropped.
#[derive(Debug)]
#[must_use = "dropping the place frees it"]
pub struct Place {
    number: u64,
    crowd: Arc<Mutex<Crowd>>,
    displaced: CancellationToken,
}

/// What is known of the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Nothing.
    Unauthenticated,
    /// Its first message was made with the key, and is fresh.
    Authenticated,
    /// It is live, and waits for a session.
    Waiting,
}

/// All places. Numbers only grow, so that a smaller one is an older one.
#[derive(Debug)]
struct Crowd {
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

/// The places of one class by source, and which of them goes first. Unix sockets
/// are one source.
#[derive(Debug, Default)]
struct Queue {
    sources: HashMap<Option<SourceKey>, BTreeSet<u64>>,
    /// How many a source holds, and its oldest: last stands what goes first.
    order: BTreeSet<(usize, Reverse<u64>, Option<SourceKey>)>,
    len: usize,
}

// === impl Handshakes ===

impl Handshakes {
    /// Room for `limit` at once, at least one.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(Crowd {
            limit: limit.max(1),
            next: 0,
            most: 0,
            held: HashMap::new(),
            unauthenticated: Queue::default(),
            authenticated: Queue::default(),
            waiting: 0,
        })))
    }

    /// Changes how many there may be, from the next that enters on.
    pub fn set_limit(&self, limit: usize) {
        lock(&self.0).limit = limit.max(1);
    }

    /// A place for a connection of `source` that has proven nothing, always and at
    /// once: where none is left another of its class loses its own.
    pub fn enter(&self, source: Option<SourceKey>) -> Place {
        self.take(source, Class::Unauthenticated, lock(&self.0))
    }

    /// A place for a dialer that is live and waits for a session, which nobody can
    /// displace. `None` where as many wait as may.
    pub fn wait_for_session(&self, source: Option<SourceKey>) -> Option<Place> {
        let crowd = lock(&self.0);
        let has_room = crowd.waiting < crowd.most_waiting();
        has_room.then(|| self.take(source, Class::Waiting, crowd))
    }

    fn take(
        &self,
        source: Option<SourceKey>,
        class: Class,
        mut crowd: MutexGuard<'_, Crowd>,
    ) -> Place {
        let displaced = CancellationToken::new();
        let loser = crowd.make_room(source);
        let number = crowd.enter(Held { source, class, displaced: displaced.clone() });
        drop(crowd);
        tell(loser);
        Place { number, crowd: Arc::clone(&self.0), displaced }
    }

    /// How many are not proven.
    pub fn used(&self) -> usize {
        lock(&self.0).unproven()
    }

    /// How many were not proven at once at most.
    pub fn high_water(&self) -> usize {
        lock(&self.0).most
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        lock(&self.0).limit
    }
}

/// Outside of the lock: it wakes a task.
fn tell(loser: Option<CancellationToken>) {
    if let Some(displaced) = loser {
        displaced.cancel();
    }
}

fn lock(crowd: &Mutex<Crowd>) -> MutexGuard<'_, Crowd> {
    crowd.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Place ===

impl Place {
    /// Counts it to `source` from now on: a load balancer told whose it is.
    pub fn set_source(&self, source: Option<SourceKey>) {
        lock(&self.crowd).set_source(self.number, source);
    }

    /// Its first message is authentic and fresh: those that have proven nothing cannot
    /// displace it any more. Where there are too many like it, one of these is.
    pub fn authenticate(&self) {
        let loser = lock(&self.crowd).authenticate(self.number);
        tell(loser);
    }

    /// Resolves when another took this place, and never otherwise. Cancel safe.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.crowd).leave(self.number);
    }
}

// === impl Crowd ===

impl Crowd {
    fn unproven(&self) -> usize {
        self.unauthenticated.len + self.authenticated.len
    }

    /// How many may hold the key, in a handshake or waiting: a quarter is left to
    /// newcomers.
    fn most_authenticated(&self) -> usize {
        (self.limit - self.limit / 4 - usize::from((2..4).contains(&self.limit))).max(1)
    }

    /// How many may wait for a session.
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

    /// Takes a place back where there is none for a newcomer of `source`.
    fn make_room(&mut self, source: Option<SourceKey>) -> Option<CancellationToken> {
        let is_full = self.unproven() + self.waiting >= self.limit;
        let number = is_full.then(|| self.unauthenticated.first_to_go(source)).flatten()?;
        self.displace(number)
    }

    /// Forgets a place, and gives what tells its connection.
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

    fn authenticate(&mut self, number: u64) -> Option<CancellationToken> {
        let source = match self.held.get_mut(&number) {
            Some(held) if held.class == Class::Unauthenticated => {
                held.class = Class::Authenticated;
                held.source
            }
            _ => return None,
        };
        self.unauthenticated.remove(source, number);
        let is_full = self.authenticated.len + self.waiting >= self.most_authenticated();
        let loser = is_full.then(|| self.authenticated.first_to_go(source)).flatten();
        self.authenticated.insert(source, number);
        self.displace(loser?)
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

    /// Which place goes for a newcomer of `source`: the oldest of the source that holds
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
mod tests {
    use std::future::Future;
    use std::net::{IpAddr, Ipv4Addr};
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_ready(future: impl Future) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    fn is_displaced(place: &Place) -> bool {
        is_ready(place.displaced())
    }

    fn source(number: u32) -> Option<SourceKey> {
        Some(IpAddr::V4(Ipv4Addr::from_bits(number)).into())
    }

    #[test]
    fn a_newcomer_takes_the_oldest_place_of_those_that_hold_as_many() {
        let handshakes = Handshakes::new(2);
        let (first, second) = (handshakes.enter(source(1)), handshakes.enter(source(2)));
        assert!(!is_displaced(&first));
        let third = handshakes.enter(source(3));
        assert!(is_displaced(&first));
        assert!(!is_displaced(&second) && !is_displaced(&third));
        assert_eq!((handshakes.used(), handshakes.high_water()), (2, 2));
        drop(first);
        assert_eq!(handshakes.used(), 2, "a displaced one has no place to give back");
    }

    #[test]
    fn the_source_that_holds_most_loses_its_oldest_place() {
        let handshakes = Handshakes::new(4);
        let honest = handshakes.enter(source(1));
        let flood: Vec<_> = (0..3).map(|_| handshakes.enter(source(2))).collect();
        let newcomer = handshakes.enter(source(3));
        assert!(is_displaced(&flood[0]), "the oldest of the flood, which is not the oldest of all");
        assert!(!is_displaced(&honest) && !is_displaced(&newcomer));
        assert!(!is_displaced(&flood[1]) && !is_displaced(&flood[2]));
    }

    #[test]
    fn who_floods_displaces_its_own() {
        let handshakes = Handshakes::new(3);
        let (one, other) = (handshakes.enter(source(1)), handshakes.enter(source(2)));
        let flood: Vec<_> = (0..1_000).map(|_| handshakes.enter(source(3))).collect();
        assert!(!is_displaced(&one) && !is_displaced(&other));
        assert!(flood[..999].iter().all(is_displaced) && !is_displaced(&flood[999]));
        // Also one that holds no more than the others.
        let again = handshakes.enter(source(1));
        assert!(is_displaced(&one) && !is_displaced(&other) && !is_displaced(&again));
    }

    #[test]
    fn addresses_of_one_64_are_one_source() {
        let handshakes = Handshakes::new(3);
        let of = |text: &str| Some(SourceKey::from(text.parse::<IpAddr>().unwrap()));
        let honest = handshakes.enter(of("2001:db8:0:1::1"));
        let flood: Vec<_> =
            (0..50).map(|n| handshakes.enter(of(&format!("2001:db8:0:2::{n:x}")))).collect();
        assert!(!is_displaced(&honest));
        assert_eq!(flood.iter().filter(|place| is_displaced(place)).count(), 48);
    }

    #[test]
    fn strangers_never_displace_who_is_authenticated() {
        for limit in [1, 2, 3, 4, 7, 64] {
            let handshakes = Handshakes::new(limit);
            let dialer = handshakes.enter(source(1));
            dialer.authenticate();
            let strangers: Vec<_> = (0..200).map(|n| handshakes.enter(source(n))).collect();
            assert!(!is_displaced(&dialer), "of {limit}");
            assert!(handshakes.used() <= limit.max(2), "of {limit}");
            assert!(!is_displaced(&strangers[199]), "of {limit}: the newest has its time");
        }
    }

    #[test]
    fn the_authenticated_are_bounded_and_leave_a_quarter_to_newcomers() {
        let handshakes = Handshakes::new(64);
        let dialers: Vec<_> = (0..100).map(|_| handshakes.enter(source(1))).collect();
        dialers.iter().for_each(Place::authenticate);
        let kept = || dialers.iter().filter(|place| !is_displaced(place)).count();
        assert!((48 - 15..=48).contains(&kept()), "{}", kept());
        let other = handshakes.enter(source(2));
        other.authenticate();
        let strangers: Vec<_> = (10..26).map(|n| handshakes.enter(source(n))).collect();
        assert!(!is_displaced(&other) && strangers.iter().filter(|p| is_displaced(p)).count() <= 1);
        assert!(handshakes.used() <= 64);
        dialers[99].authenticate();
        assert!(!is_displaced(&dialers[99]), "twice is once");
    }

    #[test]
    fn who_waits_for_a_session_is_never_displaced_and_they_are_few() {
        let handshakes = Handshakes::new(8);
        let wait = || handshakes.wait_for_session(source(1));
        let waiting: Vec<_> = (0..4).map_while(|_| wait()).collect();
        assert_eq!((waiting.len(), handshakes.used()), (4, 0), "they are proven");
        assert!(wait().is_none());
        for n in 0..100 {
            handshakes.enter(source(n)).authenticate();
        }
        let strangers: Vec<_> = (0..100).map(|n| handshakes.enter(source(n))).collect();
        assert!(waiting.iter().all(|place| !is_displaced(place)));
        assert_eq!(strangers.iter().filter(|place| !is_displaced(place)).count(), 4);
        drop(waiting);
        assert!(wait().is_some());
    }

    #[test]
    fn who_was_displaced_comes_back_in_no_class() {
        let handshakes = Handshakes::new(1);
        let (old, new) = (handshakes.enter(source(1)), handshakes.enter(source(1)));
        old.authenticate();
        old.set_source(source(3));
        assert!(is_displaced(&old) && !is_displaced(&new));
        assert_eq!(handshakes.used(), 1);
    }

    /// Behind a load balancer the clients are told apart by what it announces.
    #[test]
    fn a_place_counts_to_whom_it_was_announced_for() {
        let handshakes = Handshakes::new(3);
        let places: Vec<_> = (0..3).map(|_| handshakes.enter(source(9))).collect();
        places[0].set_source(source(1));
        places[1].set_source(source(2));
        places[2].set_source(source(2));
        let _newcomer = handshakes.enter(source(9));
        assert!(!is_displaced(&places[0]));
        assert!(is_displaced(&places[1]) && !is_displaced(&places[2]));
    }

    #[test]
    fn who_leaves_makes_room() {
        let handshakes = Handshakes::new(2);
        let (first, second) = (handshakes.enter(source(1)), handshakes.enter(None));
        drop(second);
        let _third = handshakes.enter(source(1));
        assert!(!is_displaced(&first));
        assert_eq!((handshakes.used(), handshakes.limit()), (2, 2));
    }

    #[test]
    fn the_handle_may_go_first() {
        let place = Handshakes::new(1).enter(None);
        assert!(!is_displaced(&place));
    }

    #[tokio::test]
    async fn a_waiting_handshake_is_told() {
        let handshakes = Handshakes::new(1);
        let old = handshakes.enter(None);
        let told = tokio::spawn(async move { old.displaced().await });
        tokio::task::yield_now().await;
        let _new = handshakes.enter(None);
        told.await.unwrap();
    }

    #[test]
    fn a_flood_stays_bounded() {
        let handshakes = Handshakes::new(1024);
        let places: Vec<_> = (0..100_000).map(|n| handshakes.enter(source(n % 5_000))).collect();
        assert_eq!(handshakes.used(), 1024);
        drop(places);
        assert_eq!(handshakes.used(), 0);
        let crowd = lock(&handshakes.0);
        assert!(crowd.held.is_empty() && crowd.unauthenticated.sources.is_empty());
        assert!(crowd.unauthenticated.order.is_empty());
    }
}
