//! The part of a gate that all tunnels with the same gate options share: the mirror of the
//! store, the revoker of live connections, and the recorder, which writes to the store.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use tracing::warn;

use super::any_store::AnyStore;
use super::changed::Changed;
use super::decision::{AllowReason, Decision, Peer, decide};
use super::denied::RecentlyDenied;
use super::live::LiveSet;
use super::member::Member;
use super::mirror::{StoreMirror, Subscriber};
use super::options::GateOptions;
use super::recorder::Recorder;
use super::revoker::{Admitted, Revoker};
use super::status::{GateCounters, GateStatus};
use super::store::StoreError;
use super::successes::RecentSuccesses;
use crate::unix_time::UnixMillis;

/// The shared part of the gates of some tunnels.
pub(super) struct SharedGate {
    pub(super) options: Arc<GateOptions>,
    pub(super) store: Arc<AnyStore>,
    pub(super) mirror: Arc<StoreMirror>,
    pub(super) revoker: Revoker,
    pub(super) recorder: Recorder,
    denied: Mutex<RecentlyDenied>,
    successes: Mutex<RecentSuccesses>,
    internal_was_told: AtomicBool,
    counters: Arc<GateCounters>,
}

/// The address to record for one that was admitted `by` an entry. An IPv6 address that a
/// network admits stands for its /64, by its first address: a store cannot have as many
/// entries as that has addresses.
fn recorded(ip: IpAddr, by: Option<Member>) -> IpAddr {
    match (Member::source_of(ip), by) {
        (Member::Network(source), Some(Member::Network(_))) => source.addr(),
        _ => ip,
    }
}

impl SharedGate {
    /// Follows the store from now on, in tasks of its own, for no tunnel yet.
    ///
    /// # Errors
    /// [`StoreError`] when the store's file cannot be used.
    pub(super) fn start(options: Arc<GateOptions>) -> Result<Arc<Self>, StoreError> {
        let store = Arc::new(options.store.clone().open()?);
        let counters = Arc::<GateCounters>::default();
        let mirror = StoreMirror::new(Arc::clone(&store), options.rules.failure);
        let now = mirror.clock.now();
        let shared = Arc::new(Self {
            revoker: Revoker::new(Arc::clone(&options), Arc::clone(&mirror), Arc::clone(&counters)),
            recorder: Recorder::start(&options, Arc::clone(&store), Arc::clone(&counters), now),
            options,
            store,
            mirror,
            denied: Mutex::new(RecentlyDenied::new(Instant::now())),
            successes: Mutex::new(RecentSuccesses::new(Instant::now())),
            internal_was_told: AtomicBool::new(false),
            counters,
        });
        let subscriber: Weak<Self> = Arc::downgrade(&shared);
        shared.mirror.subscribe(subscriber);
        shared.mirror.start();
        Ok(shared)
    }

    /// Stops checking these live connections. The last ones stop the mirror.
    pub(super) fn dismiss(&self, live: &Arc<Mutex<LiveSet>>) {
        if self.revoker.dismiss(live) {
            self.mirror.stop();
        }
    }

    /// The state of the gate.
    pub(super) fn status(&self) -> GateStatus {
        let counts = self.mirror.read().counts();
        let health = self.mirror.health();
        GateStatus {
            policy: self.mirror.policy(),
            counts,
            since_read: health.since_read(),
            unavailable: health.unavailable(),
            denied: self.counters.denied.get(),
            revoked: self.counters.revoked.get(),
            strikes: self.counters.strikes.get(),
            bans_made: self.counters.bans_made.get(),
        }
    }

    /// Decides about a newcomer, from memory.
    pub(super) fn decide(&self, peer: Peer) -> Decision {
        let now = self.mirror.clock.now();
        decide(&self.options.rules, &self.mirror.read(), peer, now)
    }

    /// Counts a failed handshake of a connection that came at `since`. One that is older
    /// than a success of the same source is forgiven.
    pub(super) fn note_strike(&self, ip: IpAddr, since: Instant) {
        if self.successes().since(Member::source_of(ip), since) {
            return;
        }
        self.counters.strikes.inc();
        self.recorder.strike(ip, self.mirror.clock.now());
    }

    /// Notes a handshake that succeeded.
    pub(super) fn forgive(&self, ip: IpAddr) {
        self.successes().note(Member::source_of(ip), Instant::now());
        self.recorder.forgive(ip);
    }

    /// Counts a peer that was denied, and remembers its address, if it has one.
    pub(super) fn note_denied(&self, ip: Option<IpAddr>) {
        self.counters.denied.inc();
        if let Some(ip) = ip {
            self.denied().note(ip, Instant::now());
        }
    }

    /// Records an admission for `reason`, by an entry of the store or the rules.
    pub(super) fn note_admission(&self, admitted: Admitted, reason: AllowReason) {
        match reason {
            AllowReason::Internal => self.warn_of_internal(admitted.peer),
            AllowReason::AllowSet => self.note_seen(admitted, self.mirror.clock.now()),
            AllowReason::StaticAllow | AllowReason::StoreUnavailable => {}
        }
    }

    fn warn_of_internal(&self, peer: Peer) {
        if !self.internal_was_told.swap(true, Ordering::Relaxed) {
            warn!(
                address = peer.ip().map(tracing::field::display),
                "internal address admitted; behind a NAT or proxy this matches every client; \
                 leave --internal allow out to check it"
            );
        }
    }

    fn note_seen(&self, Admitted { peer, by }: Admitted, now: UnixMillis) {
        if let Some(ip) = peer.ip() {
            self.recorder.seen(recorded(ip, by), now);
        }
    }

    fn successes(&self) -> MutexGuard<'_, RecentSuccesses> {
        self.successes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn denied(&self) -> MutexGuard<'_, RecentlyDenied> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriber for SharedGate {
    fn changed(&self, changed: &Changed) {
        self.revoker.reconsider(changed);
    }

    /// Live connections may have to end, and clients that were denied may try again soon.
    fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = self.denied().addresses().collect();
        // Last, since these are queried first.
        addresses.extend(self.revoker.addresses());
        addresses
    }

    fn clock_moved(&self, moved_ms: i64) {
        self.recorder.clock_moved(moved_ms);
    }

    fn tick(&self, now: UnixMillis) {
        // An address that connected long ago and still is connected is in use: a reaper must
        // not mistake a long connection for an idle address, and end it.
        if self.recorder.is_live_due(now) {
            let admitted = self.revoker.admitted_by_store(now).into_iter();
            admitted.for_each(|admitted| self.note_seen(admitted, now));
        }
        self.recorder.flush(now);
        self.denied().age(Instant::now());
    }
}
