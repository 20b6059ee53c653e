//! A copy of a store's content in memory that follows the store.
//!
//! One mirror follows one store, in a task of its own, and sets the time by which its content is
//! judged. It knows neither permits nor history: its [`Subscriber`]s judge the meaning of a
//! change, so that any service can have a store's content without those.

mod follower;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::any_store::AnyStore;
use super::changed::Changed;
use super::implausible::{Implausible, ImplausibleExpiries};
use super::inquiry::{Inquiry, Task, Waiting};
use super::rules::{EffectivePolicy, FailurePolicy};
use super::snapshot::Snapshot;
use super::status::StoreHealth;
use super::store::Event;
use crate::net::clock::Clock;
use crate::tasks::restarting;
use crate::unix_time::UnixMillis;

/// The most causes of one absence of the store that are logged.
const MOST_CAUSES: usize = 4;

/// A follower of a mirror. All of it is called in the mirror's task, so that it must not wait.
pub(super) trait Subscriber: Send + Sync {
    /// Acts on a change. Called after the content has changed, and before peers that wait
    /// for the store's answer are woken.
    fn changed(&self, changed: &Changed);

    /// The addresses to query first when the allow-set changed in an unknown way.
    fn addresses(&self) -> Vec<IpAddr>;

    /// Follows a correction of the clock by so many milliseconds.
    fn clock_moved(&self, moved_ms: i64);

    /// Does periodic work. Called ten times a second.
    fn tick(&self, now: UnixMillis);
}

/// A copy of a store's content, and its relation to the store.
pub(super) struct StoreMirror {
    store: Arc<AnyStore>,
    failure: FailurePolicy,
    pub(super) clock: Clock,
    snapshot: RwLock<Snapshot>,
    /// The allow-set changed in a way that the snapshot does not show.
    invalidated: AtomicBool,
    /// It changed while it was read, so that the end of this read is not its present state.
    invalidated_in_read: AtomicBool,
    /// The channel to the follower of the store.
    queries: Mutex<mpsc::Sender<Vec<IpAddr>>>,
    inquiry: Arc<Inquiry>,
    implausible: Mutex<ImplausibleExpiries>,
    subscribers: Mutex<Vec<Weak<dyn Subscriber>>>,
    /// Notified after every event that a waiting peer may wait for.
    answered: Notify,
    /// The causes of the present absence of the store that were logged.
    logged_causes: Mutex<Vec<String>>,
    /// The store was read or could not be, by this mirror.
    heard: AtomicBool,
    /// Those that wait for that were woken.
    settled: AtomicBool,
    health: StoreHealth,
    end: CancellationToken,
}

/// Returns true if a peer that waits for the store's answer may have it now. Not with
/// every event: one answer is many of them.
fn wakes_waiters(event: &Event) -> bool {
    !matches!(event, Event::Allowed(_, None) | Event::Banned(..))
}

impl StoreMirror {
    /// A mirror that knows what `known` has: nothing, or what another mirror of the same store
    /// read. [`Self::start`] begins to follow the store.
    pub(super) fn new(store: Arc<AnyStore>, failure: FailurePolicy, known: Snapshot) -> Arc<Self> {
        Arc::new(Self {
            store,
            failure,
            clock: Clock::start(),
            snapshot: RwLock::new(known),
            invalidated: AtomicBool::new(false),
            invalidated_in_read: AtomicBool::new(false),
            queries: Mutex::new(mpsc::channel(1).0),
            inquiry: Arc::default(),
            implausible: Mutex::default(),
            subscribers: Mutex::default(),
            answered: Notify::new(),
            logged_causes: Mutex::default(),
            heard: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            health: StoreHealth::default(),
            end: CancellationToken::new(),
        })
    }

    /// Follows the store in tasks of its own until [`Self::stop`].
    pub(super) fn start(self: &Arc<Self>) {
        let (mirror, store) = (Arc::clone(self), Arc::clone(&self.store));
        let follow = move |events, queries| {
            let store = Arc::clone(&store);
            async move { store.follow(events, queries).await }
        };
        let attend = move || Arc::clone(&mirror).attend(follow.clone());
        tokio::spawn(restarting("following the gate's store", attend));
    }

    /// Ends the tasks.
    pub(super) fn stop(&self) {
        self.end.cancel();
    }

    /// Notifies `subscriber` from now on, for as long as it lives.
    pub(super) fn subscribe(&self, subscriber: Weak<dyn Subscriber>) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(subscriber);
    }

    /// Resolves when the store was read, or could not be.
    pub(super) async fn is_settled(&self) {
        loop {
            let answered = self.answered.notified();
            if self.settled.load(Ordering::Acquire) {
                return;
            }
            answered.await;
        }
    }

    /// The content as it is now.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Snapshot> {
        self.snapshot.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The policy in force now.
    pub(super) fn policy(&self) -> EffectivePolicy {
        self.failure.effective(self.read().freshness(), self.clock.now())
    }

    /// The state of the store.
    pub(super) fn health(&self) -> &StoreHealth {
        &self.health
    }

    /// Returns true if the store has to be queried about addresses that are not in the
    /// allow-set.
    pub(super) fn is_invalidated(&self) -> bool {
        self.invalidated.load(Ordering::Acquire)
    }

    /// Returns true if a peer that is not in the allow-set should wait for the store's
    /// answer about it: it is not certain, and there is room for one more query.
    pub(super) fn may_query(&self, ip: IpAddr) -> bool {
        self.is_invalidated() && self.inquiry.has_room(ip)
    }

    /// Queries the store about an address for as long as the result is held;
    /// [`Self::answered`] resolves with the answer. `None` if no peer should wait for one.
    pub(super) fn query(&self, ip: IpAddr) -> Option<Waiting> {
        if self.is_invalidated() { self.inquiry.wait(ip) } else { None }
    }

    /// Returns true if the content is certain about an address that is not in the
    /// allow-set. To be called before the decision that depends on it.
    pub(super) fn is_certain(&self, ip: IpAddr) -> bool {
        !self.is_invalidated() || self.inquiry.is_answered(ip)
    }

    /// Resolves with the next event that a waiting peer may wait for, from the call on.
    pub(super) fn answered(&self) -> impl Future<Output = ()> {
        self.answered.notified()
    }

    /// Wakes peers that wait, so that they look for another mirror.
    pub(super) fn wake_waiters(&self) {
        self.answered.notify_waiters();
    }

    /// Applies a report of the store.
    pub(super) fn apply(&self, event: Event) {
        let wakes = wakes_waiters(&event);
        self.note_implausible(&event);
        let Some(changed) = self.update(event) else { return };
        self.notify(&changed);
        if wakes {
            self.answered.notify_waiters();
        }
    }

    /// Logs entries with an end that was probably written in milliseconds.
    fn note_implausible(&self, event: &Event) {
        let mut expiries = self.implausible.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Implausible { entries, example }) = expiries.take(event) {
            warn!(entries, %example, "allow-set scores look like milliseconds");
        }
    }

    /// Changes the content. Returns `None` for events that change nothing yet.
    fn update(&self, event: Event) -> Option<Changed> {
        let now = self.clock.now();
        let mut snapshot = self.write();
        Some(match event {
            Event::Begin => {
                self.invalidated_in_read.store(false, Ordering::Relaxed);
                snapshot.begin();
                return None;
            }
            Event::Items(items) => snapshot.items(&items),
            Event::End { garbage } => {
                self.end_read(garbage);
                snapshot.end(now)
            }
            Event::Allowed(member, expiry) => snapshot.set_allowed(member, expiry),
            Event::Banned(member, expiry) => snapshot.set_banned(member, expiry),
            Event::Invalidated => {
                self.invalidated_in_read.store(true, Ordering::Relaxed);
                self.invalidated.store(true, Ordering::Release);
                self.inquiry.set_changed();
                return None;
            }
            Event::Answered(ips) => {
                self.inquiry.answered(&ips);
                Changed::default()
            }
            Event::Unavailable(why) => {
                self.log_unavailable(&why);
                // No answer comes now; the store is read from the start when it is back.
                self.invalidated.store(false, Ordering::Release);
                self.inquiry.forget();
                self.heard.store(true, Ordering::Release);
                snapshot.set_unavailable(now)
            }
        })
    }

    /// A full read is complete.
    fn end_read(&self, garbage: u64) {
        let is_invalidated = self.invalidated_in_read.load(Ordering::Relaxed);
        self.invalidated.store(is_invalidated, Ordering::Release);
        if !is_invalidated {
            self.inquiry.forget();
        }
        self.logged_causes().clear();
        self.heard.store(true, Ordering::Release);
        self.health.read();
        if garbage > 0 {
            tracing::debug!(garbage, "gate store entries that are not addresses");
        }
    }

    fn notify(&self, changed: &Changed) {
        if !changed.is_empty() {
            self.subscribers().for_each(|subscriber| subscriber.changed(changed));
        }
    }

    /// The subscribers that still live.
    fn subscribers(&self) -> impl Iterator<Item = Arc<dyn Subscriber>> {
        let mut all = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|subscriber| subscriber.strong_count() > 0);
        // Not called under the lock.
        all.iter().filter_map(Weak::upgrade).collect::<Vec<_>>().into_iter()
    }

    /// Logs the first cause of an absence, also of a store that was never there, and
    /// some other causes: the end of one may bring the next to light.
    fn log_unavailable(&self, why: &str) {
        self.health.set_unavailable(why);
        let mut logged = self.logged_causes();
        if logged.len() >= MOST_CAUSES || logged.iter().any(|known| known == why) {
            return;
        }
        if logged.is_empty() {
            warn!(why, policy = %self.failure, "gate store unavailable");
        } else {
            warn!(why, "gate store still unavailable, for another cause");
        }
        logged.push(why.to_owned());
    }

    /// Follows the wall clock. Stores have ends in wall time, so decisions go by it too,
    /// also when the clock is set. Lengths of time stay the same: so the time for which the
    /// store was unavailable does not change by that.
    fn follow_clock(&self) {
        let moved = self.clock.reread();
        let moved_ms = moved.0;
        self.write().clock_moved(moved_ms);
        self.subscribers().for_each(|subscriber| subscriber.clock_moved(moved_ms));
        if moved.is_set() {
            info!(moved_ms, "system clock was set; rechecking the gate's entries");
            self.expire(self.clock.now());
            self.notify(&Changed::Everything);
        }
    }

    fn tick(&self, now: UnixMillis) {
        self.follow_cause();
        self.expire(now);
        self.subscribers().for_each(|subscriber| subscriber.tick(now));
    }

    fn expire(&self, now: UnixMillis) {
        while self.read().next_expiry().is_some_and(|next| next <= now) {
            let changed = self.write().expire(now);
            self.notify(&changed);
        }
    }

    /// Sends a query of the inquiry to the store.
    fn inquire(&self, task: Task) {
        match task {
            // The queue is full when the store does not answer; the query is lost, and
            // the full read that is scheduled answers it.
            Task::Ask(ips) => {
                let queries = self.queries.lock().unwrap_or_else(PoisonError::into_inner);
                drop(queries.try_send(ips));
            }
            Task::NameOthers => {
                let others = self.subscribers().flat_map(|subscriber| subscriber.addresses());
                self.inquiry.others_are(others.collect());
            }
        }
    }

    fn note_settled(&self) {
        if self.is_heard() && !self.settled.swap(true, Ordering::Release) {
            self.answered.notify_waiters();
        }
    }

    /// Returns true once the store was read, or could not be, by this mirror. Until then its
    /// content may be that of another.
    fn is_heard(&self) -> bool {
        self.heard.load(Ordering::Acquire)
    }

    fn log_policy(&self, policy: EffectivePolicy) {
        let counts = self.read().counts();
        match policy {
            EffectivePolicy::Fresh => info!(
                addresses = counts.addresses,
                networks = counts.networks,
                bans = counts.bans,
                "gate store synced"
            ),
            EffectivePolicy::Stale(_) => warn!("gate using stale data"),
            EffectivePolicy::Open => warn!("gate open: store unavailable"),
            EffectivePolicy::Closed => warn!("gate closed: store unavailable"),
        }
    }

    /// Logs another cause of an absence, which the follower does not report.
    fn follow_cause(&self) {
        if self.health.is_unavailable()
            && let Some(why) = self.store.away()
        {
            self.log_unavailable(&why);
        }
    }

    fn logged_causes(&self) -> MutexGuard<'_, Vec<String>> {
        self.logged_causes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Snapshot> {
        self.snapshot.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "mirror_tests.rs"]
mod tests;
