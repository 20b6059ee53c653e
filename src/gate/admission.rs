//! A tunnel's gate: who may come in, asked of the keeper that the tunnel has now.
//!
//! Nothing on the way of a connection waits for the store, with one exception:
//! while it is known that the allow-set changed and not yet how, an address that
//! is not in it waits for one answer, [`GRANT`] at most. How many may wait, and be
//! asked about, is bounded (`inquiry.rs`); the others go by what is known. A tunnel that changes
//! may get another keeper. Then everybody is asked about there, also who was let
//! in before, and who is on the way in: nobody keeps asking one that has ended.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::decision::{Decision, Explanation, Grant, Peer, Verdict, Why, explain};
use super::keeper::Keeper;
use super::live::{Live, Permit};
use super::options::GateOptions;
use super::snapshot::Changed;
use super::status::GateStatus;
use super::store::StoreError;

/// How long an address that may just have been allowed waits for the store's word.
const GRANT: Duration = Duration::from_millis(250);

/// A tunnel's gate. Clones are the same; [`Gate::another`] is that of another tunnel,
/// with the same keeper and connections of its own.
#[derive(Clone)]
pub struct Gate {
    keeper: Arc<RwLock<Arc<Keeper>>>,
    live: Arc<Mutex<Live>>,
}

impl Gate {
    /// A gate that follows its store from now on, in tasks of its own.
    ///
    /// # Errors
    /// [`StoreError`] when the store's file cannot be used. A server that is
    /// away is no error: what holds meanwhile is the policy's word.
    pub fn start(options: Arc<GateOptions>) -> Result<Self, StoreError> {
        Ok(Self::of(Keeper::start(options)?))
    }

    fn of(keeper: Arc<Keeper>) -> Self {
        let live = Arc::default();
        keeper.watch(&live);
        Self { keeper: Arc::new(RwLock::new(keeper)), live }
    }

    /// The same for one more tunnel.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(self.keeper())
    }

    /// The gate of the tunnel that had `before`: that one, which goes by the keeper
    /// of this one from now on.
    #[must_use]
    pub fn succeeding(&self, before: &Self) -> Self {
        let (old, new) = (before.keeper(), self.keeper());
        if !Arc::ptr_eq(&old, &new) {
            new.watch(&before.live);
            // First, so that whoever is let in after all were asked about is let in by it.
            *before.keeper.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
            new.reconsider(&Changed::Everything);
            old.dismiss(&before.live);
            old.answered.notify_waiters();
        }
        before.clone()
    }

    /// To be called when its tunnel is gone; the last one ends the keeper.
    pub fn dismiss(&self) {
        self.keeper().dismiss(&self.live);
    }

    /// Resolves when the store was read, or could not be: from then on what the
    /// gate decides is the store's word, or that of the policy for its absence.
    pub async fn settled(&self) {
        self.keeper().is_settled().await;
    }

    /// What this gate was told.
    pub fn options(&self) -> Arc<GateOptions> {
        Arc::clone(&self.keeper().options)
    }

    /// What can be said of it now.
    pub fn status(&self) -> GateStatus {
        self.keeper().status()
    }

    /// Whether `peer` may come in now, from memory.
    pub fn decide(&self, peer: Peer) -> Decision {
        self.keeper().decide(peer)
    }

    /// Explains what each rule says to `peer` now, from memory; the moment (unix ms); and
    /// whether the allow-set just changed, so that it would be asked about first.
    pub fn explain(&self, peer: Peer) -> (Explanation, u64, bool) {
        let keeper = self.keeper();
        let is_unsure = keeper.is_unsure();
        let now_ms = keeper.clock.now_ms();
        let explanation = explain(&keeper.options.rules, &keeper.read(), peer, now_ms);
        (explanation, now_ms, is_unsure)
    }

    /// Lets `peer` in, or says why not. Where the allow-set is being read again
    /// this waits for the truth about one address, [`GRANT`] at most.
    ///
    /// # Errors
    /// The reason of the decision.
    pub async fn admit(&self, peer: Peer) -> Result<Permit, &'static str> {
        let mut decision = match self.certain(peer) {
            Some(decision) => decision,
            None => self.ask(peer).await,
        };
        let entered = decision.is_allowed().then(|| Permit::enter(&self.live, peer));
        if entered.is_some() {
            // Decided for good only now, so that a change in between finds the
            // permit. Not entered earlier: what waits for the store's word would
            // be revoked by any change that does not let it in yet.
            decision = self.decide(peer);
        }
        match (entered, decision.verdict) {
            (Some(permit), Verdict::Allowed(grant)) => {
                self.keeper().note_grant(peer, grant, decision.member);
                Ok(permit)
            }
            _ => {
                self.keeper().note_denied(peer.ip());
                Err(decision.reason())
            }
        }
    }

    /// The decision if it is certain, or if nobody more may wait for certainty;
    /// `None` when [`Self::admit`] should ask.
    pub fn certain(&self, peer: Peer) -> Option<Decision> {
        let keeper = self.keeper();
        // First, so that an answer that comes in between is in the decision.
        let may_ask = peer.ip().is_some_and(|ip| keeper.may_ask(ip));
        let decision = keeper.decide(peer);
        let may_change = decision.verdict == Verdict::Denied(Why::NotAllowed) && may_ask;
        (!may_change).then_some(decision)
    }

    /// Notes that `ip` was denied without [`Self::admit`].
    pub fn denied(&self, ip: IpAddr) {
        self.keeper().note_denied(Some(ip));
    }

    /// A handshake from `peer`, of a connection that came at `since`, failed.
    pub fn failed(&self, peer: Peer, since: std::time::Instant) {
        let keeper = self.keeper();
        // Who is safe from bans, and who has one already.
        let is_idle = matches!(
            keeper.decide(peer).verdict,
            Verdict::Allowed(Grant::StaticAllow) | Verdict::Denied(Why::Banned)
        );
        if let (Some(ip), false) = (peer.ip(), is_idle) {
            keeper.note_strike(ip, since);
        }
    }

    /// A handshake from `peer` succeeded.
    pub fn succeeded(&self, peer: Peer) {
        if let Some(ip) = peer.ip() {
            self.keeper().forgive(ip);
        }
    }

    /// Logs every ban that was made and not told yet. Call it before the process ends.
    pub fn flush_bans(&self) {
        self.keeper().flush_bans();
    }

    async fn ask(&self, peer: Peer) -> Decision {
        let deadline = Instant::now() + GRANT;
        // Without an address no change of the set concerns it, and nothing is unsure.
        let Some(ip) = peer.ip() else { return self.decide(peer) };
        loop {
            let keeper = self.keeper();
            let Some(_waiting) = keeper.ask(ip) else { return keeper.decide(peer) };
            // Until this tunnel has another keeper.
            while Arc::ptr_eq(&keeper, &self.keeper()) {
                let answered = keeper.answered.notified();
                let is_certain = keeper.is_certain(ip);
                let decision = keeper.decide(peer);
                if decision.is_allowed() || is_certain {
                    return decision;
                }
                if timeout_at(deadline, answered).await.is_err() {
                    return self.decide(peer);
                }
            }
        }
    }

    /// Whom the tunnel asks now.
    pub(super) fn keeper(&self) -> Arc<Keeper> {
        Arc::clone(&self.keeper.read().unwrap_or_else(PoisonError::into_inner))
    }
}
