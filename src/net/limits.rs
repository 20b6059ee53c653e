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
pub const RESERVED: u64 = 32;

/// A session is a socket to each side.
pub const PER_SESSION: u64 = 2;

/// Slots for sessions. Clones share them.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Desk>);

/// Where slots are handed out and given back.
#[derive(Debug)]
struct Desk {
    free: Arc<Semaphore>,
    limit: AtomicUsize,
    used: AtomicUsize,
    most: AtomicUsize,
    /// Slots that are taken, but not to be handed out again.
    surplus: AtomicUsize,
}

/// One session's slot; free again when dropped.
#[derive(Debug)]
#[must_use = "dropping the slot frees it"]
pub struct Slot {
    permit: Option<OwnedSemaphorePermit>,
    desk: Arc<Desk>,
}

/// The unproven handshakes under way. Clones share them.
#[derive(Clone, Debug)]
pub struct Handshakes(Arc<Mutex<Crowd>>);

/// One handshake's place; free again when dropped.
#[derive(Debug)]
#[must_use = "dropping the place frees it"]
pub struct Place {
    number: u64,
    crowd: Arc<Mutex<Crowd>>,
    displaced: oneshot::Receiver<()>,
}

/// Numbers only grow, so the first entry is always the oldest.
#[derive(Debug)]
struct Crowd {
    limit: usize,
    next: u64,
    most: usize,
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
        Self(Arc::new(Desk {
            free: Arc::new(Semaphore::new(limit)),
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            surplus: AtomicUsize::new(0),
        }))
    }

    /// Changes how many there are. Where more are taken, they stay so, and are
    /// not handed out again. Not for several callers at once.
    pub fn set_limit(&self, limit: usize) {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        let before = self.0.limit.swap(limit, Ordering::Relaxed);
        let fewer = before.saturating_sub(limit);
        let forgotten = self.0.free.forget_permits(fewer);
        self.0.surplus.fetch_add(fewer - forgotten, Ordering::Relaxed);
        let more = limit.saturating_sub(before);
        let kept = (0..more).take_while(|_| self.0.one_less_surplus()).count();
        self.0.free.add_permits(more - kept);
    }

    /// A slot as soon as one is free; whoever waits longest comes first. Cancel safe.
    pub async fn acquire(&self) -> Slot {
        let permit = Arc::clone(&self.0.free).acquire_owned().await;
        self.taken(permit.expect("the semaphore is never closed"))
    }

    /// A slot if one is free now.
    pub fn try_acquire(&self) -> Option<Slot> {
        let permit = Arc::clone(&self.0.free).try_acquire_owned().ok()?;
        Some(self.taken(permit))
    }

    /// Resolves when a slot is free; whoever waits longest comes first. The slot
    /// stays free. Cancel safe.
    pub async fn vacancy(&self) {
        let permit = self.0.free.acquire().await;
        drop(permit.expect("the semaphore is never closed"));
    }

    /// Whether all are taken.
    pub fn is_full(&self) -> bool {
        self.0.free.available_permits() == 0
    }

    /// How many are taken.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// How many were taken at once at most.
    pub fn high_water(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    fn taken(&self, permit: OwnedSemaphorePermit) -> Slot {
        let used = self.0.used.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most.fetch_max(used, Ordering::Relaxed);
        Slot { permit: Some(permit), desk: Arc::clone(&self.0) }
    }
}

impl Desk {
    fn one_less_surplus(&self) -> bool {
        let less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.desk.used.fetch_sub(1, Ordering::Relaxed);
        if self.desk.one_less_surplus()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

// === impl Handshakes ===

impl Handshakes {
    /// Room for `limit` handshakes at once, at least one.
    pub fn new(limit: usize) -> Self {
        let (limit, next) = (limit.max(1), 0);
        Self(Arc::new(Mutex::new(Crowd { limit, next, most: 0, places: BTreeMap::new() })))
    }

    /// Changes how many there may be, from the next that enters on.
    pub fn set_limit(&self, limit: usize) {
        lock(&self.0).limit = limit.max(1);
    }

    /// A place, always and at once: when there is none left, the oldest
    /// handshake loses its own. That one may be honest and slow; the newest is
    /// the one that certainly has not been given its time yet.
    pub fn enter(&self) -> Place {
        let (tell, displaced) = oneshot::channel();
        let mut crowd = lock(&self.0);
        let is_full = crowd.places.len() >= crowd.limit;
        let oldest = is_full.then(|| crowd.places.pop_first()).flatten();
        let number = crowd.next;
        crowd.next += 1;
        crowd.places.insert(number, tell);
        crowd.most = crowd.most.max(crowd.places.len());
        drop(crowd);
        if let Some((_, tell)) = oldest {
            // It may be leaving at this very moment, and not care.
            let _ = tell.send(());
        }
        Place { number, crowd: Arc::clone(&self.0), displaced }
    }

    /// How many are under way.
    pub fn used(&self) -> usize {
        lock(&self.0).places.len()
    }

    /// How many were under way at once at most.
    pub fn high_water(&self) -> usize {
        lock(&self.0).most
    }

    /// How many there may be.
    pub fn limit(&self) -> usize {
        lock(&self.0).limit
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
    fn a_lower_limit_waits_for_those_who_are_there() {
        let slots = Slots::new(3);
        let mut held: Vec<_> = (0..3).map(|_| slots.try_acquire().unwrap()).collect();
        slots.set_limit(1);
        assert_eq!((slots.used(), slots.limit()), (3, 1));
        held.truncate(1);
        assert!(slots.try_acquire().is_none());
        held.clear();
        held.push(slots.try_acquire().unwrap());
        assert!(slots.try_acquire().is_none());
        slots.set_limit(2);
        held.push(slots.try_acquire().unwrap());
        assert!(slots.try_acquire().is_none());
        assert_eq!((slots.used(), slots.high_water()), (2, 3));
    }

    #[test]
    fn a_limit_that_goes_down_and_up_again_is_what_it_was() {
        let slots = Slots::new(3);
        let held: Vec<_> = (0..3).map(|_| slots.try_acquire().unwrap()).collect();
        slots.set_limit(0);
        slots.set_limit(3);
        assert!(slots.is_full());
        drop(held);
        let held: Vec<_> = (0..3).map(|_| slots.try_acquire().unwrap()).collect();
        assert!(slots.try_acquire().is_none());
        drop(held);
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
        assert_eq!((handshakes.used(), handshakes.high_water()), (2, 2));
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
