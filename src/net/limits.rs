//! How many of what at once: slots for sessions, places for handshakes.
//!
//! The two are apart on purpose. A session has proven that it holds the key and
//! keeps its [`Slot`]; a handshake has proven nothing, so its [`Place`] is lent
//! until a newcomer needs it. Strangers can therefore fill only places, and
//! only until the next stranger comes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Descriptors kept for everything else: the three standard streams, the
/// runtime's own (about 6), signals, listeners, the log, a lookup in /etc/services
/// and one name lookup with its sockets.
const RESERVED: u64 = 32;

/// A session is a socket to each side.
const PER_SESSION: u64 = 2;

/// Slots for sessions. Clones share them.
#[derive(Clone, Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    limit: usize,
    most: Arc<AtomicUsize>,
}

/// One session's slot; free again when dropped.
#[derive(Debug)]
#[must_use = "dropping the slot frees it"]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// The unproven handshakes under way. Clones share them.
#[derive(Clone, Debug)]
pub struct Handshakes {
    crowd: Arc<Mutex<Crowd>>,
    limit: usize,
}

/// One handshake's place; free again when dropped.
#[derive(Debug)]
#[must_use = "dropping the place frees it"]
pub struct Place {
    number: u64,
    crowd: Arc<Mutex<Crowd>>,
    displaced: oneshot::Receiver<()>,
}

/// Numbers only grow, so the first entry is always the oldest.
#[derive(Debug, Default)]
struct Crowd {
    next: u64,
    places: BTreeMap<u64, oneshot::Sender<()>>,
}

/// How many sessions `nofile` descriptors are enough for, next to `handshakes`
/// that hold one each. Zero when not even those fit.
pub fn sessions_that_fit(nofile: u64, handshakes: usize) -> usize {
    let handshakes = u64::try_from(handshakes).unwrap_or(u64::MAX);
    let rest = nofile.saturating_sub(RESERVED).saturating_sub(handshakes);
    usize::try_from(rest / PER_SESSION).unwrap_or(usize::MAX)
}

// === impl Slots ===

impl Slots {
    /// `limit` slots, all free.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(limit)), limit, most: Arc::new(AtomicUsize::new(0)) }
    }

    /// A slot as soon as one is free; whoever waits longest comes first. Cancel safe.
    pub async fn acquire(&self) -> Slot {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        self.taken(permit.expect("the semaphore is never closed"))
    }

    /// A slot if one is free now.
    pub fn try_acquire(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        Some(self.taken(permit))
    }

    /// Resolves when a slot is free; whoever waits longest comes first. The slot
    /// stays free. Cancel safe.
    pub async fn vacancy(&self) {
        let permit = self.free.acquire().await;
        drop(permit.expect("the semaphore is never closed"));
    }

    /// Whether all are taken.
    pub fn is_full(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// How many are taken.
    pub fn used(&self) -> usize {
        self.limit - self.free.available_permits()
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many were taken at once at most.
    pub fn high_water(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn taken(&self, permit: OwnedSemaphorePermit) -> Slot {
        self.most.fetch_max(self.used(), Ordering::Relaxed);
        Slot { _permit: permit }
    }
}

// === impl Handshakes ===

impl Handshakes {
    /// Room for `limit` handshakes at once, at least one.
    pub fn new(limit: usize) -> Self {
        Self { crowd: Arc::default(), limit: limit.max(1) }
    }

    /// A place, always and at once: when there is none left, the oldest
    /// handshake loses its own. That one may be honest and slow; the newest is
    /// the one that certainly has not been given its time yet.
    pub fn enter(&self) -> Place {
        let (tell, displaced) = oneshot::channel();
        let mut crowd = lock(&self.crowd);
        let oldest = (crowd.places.len() >= self.limit).then(|| crowd.places.pop_first()).flatten();
        let number = crowd.next;
        crowd.next += 1;
        crowd.places.insert(number, tell);
        drop(crowd);
        if let Some((_, tell)) = oldest {
            // It may be leaving at this very moment, and not care.
            let _ = tell.send(());
        }
        Place { number, crowd: Arc::clone(&self.crowd), displaced }
    }

    /// How many are under way.
    pub fn used(&self) -> usize {
        lock(&self.crowd).places.len()
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Place {
    /// Resolves when a newcomer took this place, and never otherwise. Cancel safe.
    pub async fn displaced(&mut self) {
        // The sender outlives the place unless it was used: only this place
        // removes it, on drop.
        let _ = (&mut self.displaced).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.crowd).places.remove(&self.number);
    }
}

fn lock(crowd: &Mutex<Crowd>) -> std::sync::MutexGuard<'_, Crowd> {
    crowd.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_ready(future: impl Future) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn descriptors_are_shared_out() {
        assert_eq!(sessions_that_fit(20_000, 1024), 9_472);
        assert_eq!(sessions_that_fit(1_024, 0), 496);
        assert_eq!(sessions_that_fit(35, 0), 1);
        assert_eq!(sessions_that_fit(64, 1024), 0);
        assert_eq!(sessions_that_fit(0, usize::MAX), 0);
        assert!(sessions_that_fit(u64::MAX, 0) > 1 << 60);
    }
    #[test]
    fn slots_run_out_and_come_back() {
        let slots = Slots::new(2);
        let (one, two) = (slots.try_acquire().unwrap(), slots.try_acquire().unwrap());
        assert_eq!((slots.used(), slots.limit(), slots.high_water()), (2, 2, 2));
        assert!(slots.try_acquire().is_none());
        let mut waiting = pin!(slots.acquire());
        assert!(!is_ready(waiting.as_mut()));
        drop(one);
        assert!(is_ready(waiting));
        drop(two);
        assert_eq!((slots.used(), slots.high_water()), (0, 2));
    }

    #[test]
    fn no_limit_is_a_large_limit() {
        let slots = Slots::new(usize::MAX);
        let _slot = slots.try_acquire().unwrap();
        assert_eq!(slots.used(), 1);
    }

    #[test]
    fn a_newcomer_takes_the_oldest_place() {
        let handshakes = Handshakes::new(2);
        let (mut first, mut second) = (handshakes.enter(), handshakes.enter());
        assert!(!is_ready(first.displaced()));
        let mut third = handshakes.enter();
        assert!(is_ready(first.displaced()));
        assert!(!is_ready(second.displaced()) && !is_ready(third.displaced()));
        assert_eq!(handshakes.used(), 2);
        drop(first);
        assert_eq!(handshakes.used(), 2, "a displaced one has no place to give back");
    }

    #[test]
    fn who_leaves_makes_room() {
        let handshakes = Handshakes::new(2);
        let (mut first, second) = (handshakes.enter(), handshakes.enter());
        drop(second);
        let _third = handshakes.enter();
        assert!(!is_ready(first.displaced()));
        assert_eq!((handshakes.used(), handshakes.limit()), (2, 2));
    }

    #[test]
    fn the_handle_may_go_first() {
        let mut place = Handshakes::new(1).enter();
        assert!(!is_ready(place.displaced()));
    }

    #[tokio::test]
    async fn a_waiting_handshake_is_told() {
        let handshakes = Handshakes::new(1);
        let mut old = handshakes.enter();
        let told = tokio::spawn(async move { old.displaced().await });
        tokio::task::yield_now().await;
        let _new = handshakes.enter();
        told.await.unwrap();
    }

    #[test]
    fn a_flood_stays_bounded() {
        let handshakes = Handshakes::new(1024);
        let places: Vec<_> = (0..100_000).map(|_| handshakes.enter()).collect();
        assert_eq!(handshakes.used(), 1024);
        drop(places);
        assert_eq!(handshakes.used(), 0);
    }
}
