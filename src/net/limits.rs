//! Session slots, and the descriptors that they need.
//!
//! Handshakes have slots of their own (`handshake_slots.rs`), so that strangers take none
//! of these.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// Descriptors kept for everything else: the three standard streams, the
/// runtime's own (about 6), signals, listeners, the log, a lookup in /etc/services
/// and one name lookup with its sockets.
pub const RESERVED: u64 = 32;

/// A session is a socket to each side.
pub const PER_SESSION: u64 = 2;

/// Too few file descriptors for a single session.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} file descriptors are too few for a session; raise the limit with ulimit -n, or LimitNOFILE= of a unit"
)]
pub struct TooFewDescriptors(pub u64);

/// Slots for sessions. Clones share them.
#[derive(Clone, Debug)]
pub struct Slots(Arc<SlotPool>);

/// Pool that slots are taken from and given back to.
#[derive(Debug)]
struct SlotPool {
    free: Semaphore,
    limit: AtomicUsize,
    used: AtomicUsize,
    most: AtomicUsize,
    /// Slots in use that are not lent again once they are free.
    surplus: AtomicUsize,
}

/// One session's slot; free again when dropped. It stands for a permit of the semaphore, without
/// the room that one takes in every session.
#[derive(Debug)]
#[must_use = "dropping the slot frees it"]
pub struct Slot(Arc<SlotPool>);

/// Returns the number of sessions that `nofile` descriptors suffice for, next to `handshakes` that
/// hold one each. Zero when not even those fit.
pub fn sessions_that_fit(nofile: u64, handshakes: usize) -> usize {
    let handshakes = u64::try_from(handshakes).unwrap_or(u64::MAX);
    let rest = nofile.saturating_sub(RESERVED).saturating_sub(handshakes);
    usize::try_from(rest / PER_SESSION).unwrap_or(usize::MAX)
}

// === impl Slots ===

impl Slots {
    /// Creates `limit` free slots.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        Self(Arc::new(SlotPool {
            free: Semaphore::new(limit),
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            surplus: AtomicUsize::new(0),
        }))
    }

    /// Changes the number of slots. Slots in use beyond the limit stay in use, and are not lent
    /// again. Not for several callers at once.
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

    /// Waits for a slot and takes it, in order of arrival. Cancel safe.
    pub async fn acquire(&self) -> Slot {
        let permit = self.0.free.acquire().await;
        self.taken(permit.expect("the semaphore is never closed"))
    }

    /// Takes a slot if one is free now.
    pub fn try_acquire(&self) -> Option<Slot> {
        let permit = self.0.free.try_acquire().ok()?;
        Some(self.taken(permit))
    }

    /// Waits until a slot is free, in order of arrival. The slot stays free. Cancel safe.
    pub async fn vacancy(&self) {
        let permit = self.0.free.acquire().await;
        drop(permit.expect("the semaphore is never closed"));
    }

    /// Returns true when all are taken.
    pub fn is_full(&self) -> bool {
        self.0.free.available_permits() == 0
    }

    /// Number of slots that are taken.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Number of slots.
    pub fn limit(&self) -> usize {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Highest number that was taken at once.
    pub fn high_water(&self) -> usize {
        self.0.most.load(Ordering::Relaxed)
    }

    /// Turns a permit into a slot, which gives it back.
    fn taken(&self, permit: SemaphorePermit<'_>) -> Slot {
        permit.forget();
        let used = self.0.used.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.most.fetch_max(used, Ordering::Relaxed);
        Slot(Arc::clone(&self.0))
    }
}

impl SlotPool {
    fn one_less_surplus(&self) -> bool {
        let less = |surplus: usize| surplus.checked_sub(1);
        self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Self(pool) = self;
        pool.used.fetch_sub(1, Ordering::Relaxed);
        if !pool.one_less_surplus() {
            pool.free.add_permits(1);
        }
    }
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
        let one = slots.try_acquire().unwrap();
        let two = slots.try_acquire().unwrap();
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
    fn a_lower_limit_waits_for_present_sessions() {
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
}
