//! The gate of a tunnel: decides by the mirror of the store that the tunnel has now.
//!
//! No connection waits for the store, with two exceptions, each for [`GRANT`] at most:
//! while the allow-set is known to have changed, but not yet how, an address that
//! is not in it waits for one answer; and where the tunnel takes knocks, such an address
//! waits until those that have arrived are read, and its own is granted (`knocks.rs`).
//! The number of those that wait, and of
//! addresses in queries, is bounded (`inquiry.rs`); the others go by what is known. A tunnel
//! that changes may get another mirror. Then all connections are checked by that one, those
//! that were admitted before and those that are being admitted: none goes on with a mirror
//! that has ended.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::changed::Changed;
use super::decision::{AllowReason, Decision, DenyReason, Explanation, Peer, Verdict, explain};
use super::knocks::{KnockWait, Knocks};
use super::live::{LiveSet, Permit};
use super::options::GateOptions;
use super::revoker::Admitted;
use super::shared::SharedGate;
use super::status::GateStatus;
use super::store::StoreError;
use crate::unix_time::UnixMillis;

/// The time for which an address that may just have been allowed waits for the store's answer.
const GRANT: Duration = Duration::from_millis(250);

/// The gate of a tunnel. Clones are the same gate; [`Gate::another`] is that of another
/// tunnel, with the same shared part and connections of its own.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<RwLock<Arc<SharedGate>>>,
    pub(super) live: Arc<Mutex<LiveSet>>,
    pub(super) knocks: Arc<Knocks>,
}

/// The explanation of a decision that a running gate would make.
#[derive(Debug)]
pub struct LiveExplanation {
    /// The findings of all rules.
    pub explanation: Explanation,
    /// The moment of the decision.
    pub now: UnixMillis,
    /// The allow-set just changed, so that the store would be queried first.
    pub is_invalidated: bool,
}

impl Gate {
    /// A gate that follows its store from now on, in tasks of its own.
    ///
    /// # Errors
    /// [`StoreError`] when the store's file cannot be used. A server that is
    /// unavailable is no error: meanwhile the failure policy decides.
    pub fn start(options: Arc<GateOptions>) -> Result<Self, StoreError> {
        Ok(Self::of(SharedGate::start(options, None)?))
    }

    /// A gate of the store that `before` has too, with other options. What that one knows of the
    /// store counts until it is read again, also when it is unavailable now.
    ///
    /// # Errors
    /// [`StoreError`] when the store's file cannot be used, or is gone.
    pub fn start_after(options: Arc<GateOptions>, before: &Self) -> Result<Self, StoreError> {
        Ok(Self::of(SharedGate::start(options, Some(&before.shared()))?))
    }

    fn of(shared: Arc<SharedGate>) -> Self {
        let live = Arc::default();
        shared.revoker.watch(&live);
        Self { shared: Arc::new(RwLock::new(shared)), live, knocks: Arc::default() }
    }

    /// The same for one more tunnel.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(self.shared())
    }

    /// The gate of the tunnel that had `before`: that one, which goes by the mirror
    /// of this one from now on.
    #[must_use]
    pub fn succeeding(&self, before: &Self) -> Self {
        let (old, new) = (before.shared(), self.shared());
        if !Arc::ptr_eq(&old, &new) {
            new.revoker.watch(&before.live);
            // First, so that a connection that is admitted after all were checked is admitted
            // by the new one.
            *before.shared.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
            new.revoker.reconsider(&Changed::Everything);
            old.dismiss(&before.live);
            old.mirror.wake_waiters();
        }
        before.clone()
    }

    /// Ends the gate of a tunnel that has ended. The last one with the same shared part
    /// stops following the store.
    pub fn dismiss(&self) {
        self.shared().dismiss(&self.live);
    }

    /// Resolves when the store was read, or could not be: from then on the gate decides by
    /// the store, or by the failure policy.
    pub async fn settled(&self) {
        self.shared().mirror.is_settled().await;
    }

    /// The options of the gate.
    pub fn options(&self) -> Arc<GateOptions> {
        Arc::clone(&self.shared().options)
    }

    /// The state of the gate.
    pub fn status(&self) -> GateStatus {
        self.shared().status()
    }

    /// Decides about a newcomer, from memory.
    pub fn decide(&self, peer: Peer) -> Decision {
        self.shared().decide(peer)
    }

    /// Decides about one request of `peer`, from memory, and notes it as [`Self::admit`] does: for
    /// those that do not stay, so that nothing has to be revoked.
    pub fn pass(&self, peer: Peer) -> Decision {
        let shared = self.shared();
        let decision = shared.decide(peer);
        match decision.verdict {
            Verdict::Allowed(reason) => {
                shared.note_admission(Admitted { peer, by: decision.member }, reason);
            }
            Verdict::Denied(_) => shared.note_denied(peer.ip()),
        }
        decision
    }

    /// Explains the decision about `peer` as it would be now, from memory.
    pub fn explain(&self, peer: Peer) -> LiveExplanation {
        let shared = self.shared();
        let is_invalidated = shared.mirror.is_invalidated();
        let now = shared.mirror.clock.now();
        let explanation = explain(&shared.options.rules, &shared.mirror.read(), peer, now);
        LiveExplanation { explanation, now, is_invalidated }
    }

    /// Admits `peer`, or returns the reason for its denial. Where the allow-set is being read
    /// again this waits for the store's answer about one address, [`GRANT`] at most.
    ///
    /// # Errors
    /// The reason of the decision.
    pub async fn admit(&self, peer: Peer) -> Result<Permit, &'static str> {
        let mut decision = match self.certain(peer) {
            Some(decision) => decision,
            None => self.query(peer).await,
        };
        let entered = decision.is_allowed().then(|| Permit::enter(&self.live, peer));
        if entered.is_some() {
            // The final decision is made only now, so that a change in between finds the
            // permit. Not entered earlier: a connection that waits for the store's answer
            // would be revoked by any change that does not admit it yet.
            decision = self.decide(peer);
        }
        match (entered, decision.verdict) {
            (Some(permit), Verdict::Allowed(reason)) => {
                let admitted = Admitted { peer, by: decision.member };
                self.shared().note_admission(admitted, reason);
                Ok(permit)
            }
            _ => {
                self.shared().note_denied(peer.ip());
                Err(decision.reason())
            }
        }
    }

    /// Returns the decision if it is certain, or if no more peers may wait for certainty;
    /// `None` when [`Self::admit`] should query the store.
    pub fn certain(&self, peer: Peer) -> Option<Decision> {
        let shared = self.shared();
        // First, so that an answer that comes in between is in the decision.
        let may_query =
            peer.ip().is_some_and(|ip| shared.mirror.may_query(ip) || self.knocks.may_wait(ip));
        let decision = shared.decide(peer);
        let may_change = decision.verdict == Verdict::Denied(DenyReason::NotAllowed) && may_query;
        (!may_change).then_some(decision)
    }

    /// Notes that `ip` was denied without [`Self::admit`].
    pub fn denied(&self, ip: IpAddr) {
        self.shared().note_denied(Some(ip));
    }

    /// Counts a failed handshake from `peer`, of a connection that came at `since`.
    pub fn failed(&self, peer: Peer, since: std::time::Instant) {
        let shared = self.shared();
        // Peers that are safe from bans, and those that have one already.
        let is_idle = matches!(
            shared.decide(peer).verdict,
            Verdict::Allowed(AllowReason::StaticAllow) | Verdict::Denied(DenyReason::Banned)
        );
        if let (Some(ip), false) = (peer.ip(), is_idle) {
            shared.note_strike(ip, since);
        }
    }

    /// Notes a handshake from `peer` that succeeded.
    pub fn succeeded(&self, peer: Peer) {
        if let Some(ip) = peer.ip() {
            self.shared().forgive(ip);
        }
    }

    /// Logs every ban that was made and not logged yet. Call it before the process ends.
    pub fn flush_bans(&self) {
        self.shared().recorder.flush_bans();
    }

    /// Decides about a peer that is not admitted yet, once that is certain.
    async fn query(&self, peer: Peer) -> Decision {
        let deadline = Instant::now() + GRANT;
        // Without an address no change of the set affects it, and nothing is uncertain.
        let Some(ip) = peer.ip() else { return self.decide(peer) };
        let knock = self.knocks.wait(ip);
        let is_knock_over = || knock.as_ref().is_none_or(KnockWait::is_over);
        loop {
            let shared = self.shared();
            let asked = shared.mirror.query(ip);
            // Until this tunnel has another mirror, or the set changed in an unknown way.
            while Arc::ptr_eq(&shared, &self.shared())
                && (asked.is_some() || !shared.mirror.may_query(ip))
            {
                let answered = shared.mirror.answered();
                let knocked = self.knocks.changed();
                let is_certain =
                    is_knock_over() && (asked.is_none() || shared.mirror.is_certain(ip));
                let decision = shared.decide(peer);
                if decision.is_allowed() || is_certain {
                    return decision;
                }
                let next = async { tokio::select!(() = answered => {}, () = knocked => {}) };
                if timeout_at(deadline, next).await.is_err() {
                    return self.decide(peer);
                }
            }
        }
    }

    /// The shared part that the tunnel has now.
    pub(super) fn shared(&self) -> Arc<SharedGate> {
        Arc::clone(&self.shared.read().unwrap_or_else(PoisonError::into_inner))
    }
}
