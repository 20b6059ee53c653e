//! Revokes the permits of live connections that would not be admitted any more.
//!
//! It has the live connections of every tunnel with the gate, and waits for none of them.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::changed::Changed;
use super::decision::{AllowReason, Decision, Peer, Verdict, recheck};
use super::live::{LiveSet, Revocation, lock};
use super::member::Member;
use super::mirror::StoreMirror;
use super::options::GateOptions;
use super::status::GateCounters;
use crate::unix_time::UnixMillis;

/// The live connections of all tunnels that share a gate, and the content to check them by.
pub(super) struct Revoker {
    options: Arc<GateOptions>,
    mirror: Arc<StoreMirror>,
    /// One for each tunnel.
    live_sets: Mutex<Vec<Arc<Mutex<LiveSet>>>>,
    counters: Arc<GateCounters>,
}

/// A client of a live connection, and the entry that admits it.
pub(super) struct Admitted {
    pub(super) peer: Peer,
    pub(super) by: Option<Member>,
}

impl Revoker {
    pub(super) fn new(
        options: Arc<GateOptions>,
        mirror: Arc<StoreMirror>,
        counters: Arc<GateCounters>,
    ) -> Self {
        Self { options, mirror, live_sets: Mutex::default(), counters }
    }

    /// Checks these live connections too, from the next change on.
    pub(super) fn watch(&self, live: &Arc<Mutex<LiveSet>>) {
        self.live_sets().push(Arc::clone(live));
    }

    /// Checks these no more. Returns true if none are left to check.
    pub(super) fn dismiss(&self, live: &Arc<Mutex<LiveSet>>) -> bool {
        let mut live_sets = self.live_sets();
        live_sets.retain(|known| !Arc::ptr_eq(known, live));
        live_sets.is_empty()
    }

    /// Revokes the permits of connections that `changed` affects and that would not be
    /// admitted any more.
    pub(super) fn reconsider(&self, changed: &Changed) {
        if changed.is_empty() {
            return;
        }
        let now = self.mirror.clock.now();
        for (peer, revocation) in self.affected(changed) {
            let decision = self.recheck(peer, now);
            if !decision.is_allowed() && revocation.revoke(decision.reason()) {
                self.counters.revoked.inc();
            }
        }
    }

    /// The live connections that the allow-set admits at `now`.
    pub(super) fn admitted_by_store(&self, now: UnixMillis) -> Vec<Admitted> {
        let all = self.affected(&Changed::Everything).into_iter();
        let admitted = all.filter_map(|(peer, _)| {
            let decision = self.recheck(peer, now);
            let is_by_store = decision.verdict == Verdict::Allowed(AllowReason::AllowSet);
            is_by_store.then_some(Admitted { peer, by: decision.member })
        });
        admitted.collect()
    }

    /// The addresses of all live connections, of each tunnel once.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        self.live_sets().iter().flat_map(|live| lock(live).addresses()).collect()
    }

    fn recheck(&self, peer: Peer, now: UnixMillis) -> Decision {
        recheck(&self.options.rules, &self.mirror.read(), peer, now)
    }

    fn affected(&self, changed: &Changed) -> Vec<(Peer, Arc<Revocation>)> {
        self.live_sets().iter().flat_map(|live| lock(live).affected(changed)).collect()
    }

    fn live_sets(&self) -> MutexGuard<'_, Vec<Arc<Mutex<LiveSet>>>> {
        self.live_sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
