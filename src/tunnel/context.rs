//! What every connection of a tunnel may use: limits, counts, the gate, and the
//! signs to stop.
//!
//! A tunnel that stands in another's place goes on with the limits and counts of
//! that one, so that a reload forgets nobody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::caller::Background;
use super::capacity::Capacity;
use super::dialling::Dialling;
use super::options::{Balancers, Options, PerSource};
use super::secure::Verdict;
use crate::addr::ClientAddr;
use crate::gate::Gate;
use crate::net::{Handshakes, Slot, Slots, SourceGuard, SourceRefusal, Sources};
use crate::observe::failures::{Failures, PROXY_HEADER, Told};
use crate::observe::metrics::Meters;
use crate::probe::speech::Speech;
use crate::reason::CloseReason;

/// How long slots must have been vacant before the limit counts as over.
const CALM: Duration = Duration::from_secs(1);

/// How long the unproven have after the tunnel was told to stop.
const LAST_CALL: Duration = Duration::from_secs(1);

/// Who is held in silence is so up to this part of the handshake deadline longer,
/// so that the moment tells nothing.
const JITTER: f64 = 0.25;

/// What every connection of a tunnel may use.
pub(super) struct Shared {
    /// What the log calls the tunnel, where there are several.
    pub(super) name: Option<Arc<str>>,
    pub(super) slots: Slots,
    /// Whoever has proven nothing and is waited for: for its header, its
    /// handshake, or until it is sent away.
    pub(super) places: Handshakes,
    /// Somebody had to wait for a slot.
    pub(super) limit_reached: Notify,
    /// How often a source may connect; counted at accept, or once it is announced.
    pub(super) arrivals: Option<Sources>,
    /// How many sessions a source may have; counted once a peer is proven, so
    /// that strangers from the same address take none.
    pub(super) guests: Option<Sources>,
    pub(super) failures: Arc<Failures>,
    /// Second attempts at a far end that says nothing.
    seconds: Arc<Semaphore>,
    pub(super) meters: Arc<Meters>,
    /// Who may come in, by address.
    pub(super) gate: Option<Gate>,
    /// Load balancers that announce their clients' addresses.
    pub(super) proxy_from: Arc<Balancers>,
    pub(super) dialling: Dialling,
    /// Deadline of a dial, and separately of a handshake.
    pub(super) timeout: Duration,
    /// How long a session may be without application data.
    pub(super) idle_timeout: Option<Duration>,
    /// How long a session may finish that the gate would not let in any more.
    pub(super) drain: Duration,
    /// Cancelled when no more connections are accepted.
    pub(super) stop: CancellationToken,
    /// Cancelled when those that there are must end.
    pub(super) cut: CancellationToken,
    /// All that goes on in it, the goodbyes included that nobody waits for.
    pub(super) tasks: TaskTracker,
}

impl Shared {
    /// For a tunnel that holds what `capacity` says. Whoever holds a slot, a place or a
    /// count of `before` goes on holding it here.
    pub(super) fn new(
        options: &Options,
        capacity: Capacity,
        (gate, meters, tasks): (Option<Gate>, Arc<Meters>, TaskTracker),
        before: Option<&Self>,
    ) -> Self {
        let (arrivals, guests) = sources(options.limits.per_source, before);
        Self {
            name: options.name.clone(),
            slots: before
                .map_or_else(|| Slots::new(capacity.sessions), |before| before.slots.clone()),
            places: before.map_or_else(
                || Handshakes::new(capacity.handshakes),
                |before| before.places.clone(),
            ),
            limit_reached: Notify::new(),
            seconds: before.map_or_else(
                || Arc::new(Semaphore::new(capacity.second_attempts)),
                |before| Arc::clone(&before.seconds),
            ),
            arrivals,
            guests,
            failures: before.map_or_else(
                || Arc::new(Failures::of(options.name.clone())),
                |before| Arc::clone(&before.failures),
            ),
            meters,
            gate,
            proxy_from: Arc::clone(&options.proxy_from),
            idle_timeout: options.idle_timeout,
            drain: options.drain,
            dialling: Dialling::from(options),
            timeout: options.timeout,
            tasks,
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Where handshakes that nobody wants any more come to their end.
    pub(super) fn background(&self) -> Background {
        Background {
            tasks: self.tasks.clone(),
            seconds: Arc::clone(&self.seconds),
            stop: self.stop.clone(),
            cut: self.cut.clone(),
        }
    }

    /// Resolves when sessions are cut.
    pub(super) async fn cut(&self) -> CloseReason {
        self.cut.cancelled().await;
        CloseReason::Shutdown
    }

    /// Resolves when the unproven must end, which is soon after no more are
    /// accepted: an honest dialer needs a round trip, and strangers must not
    /// hold the drain up.
    pub(super) async fn last_call(&self) {
        self.stop.cancelled().await;
        tokio::select! {
            () = sleep(LAST_CALL) => {}
            () = self.cut.cancelled() => {}
        }
    }

    /// When a connection ends that came now and is no session by then, whatever it
    /// said and for whatever reason it is held.
    pub(super) fn deadline(&self) -> tokio::time::Instant {
        let patience = self.timeout.mul_f64(1.0 + rand::rng().random_range(0.0..JITTER));
        tokio::time::Instant::now() + patience
    }

    /// Counts a connection against its source. A load balancer's are those of many,
    /// and counted once it said whose: [`Self::arrive_announced`].
    pub(super) fn arrive(&self, peer: ClientAddr) -> Result<Option<SourceGuard>, SourceRefusal> {
        if self.is_balancer(peer) { Ok(None) } else { count(self.arrivals.as_ref(), peer) }
    }

    /// Counts a connection against the client that a load balancer announced: at
    /// accept that was not known. Only how often one comes is limited there, and
    /// that stays counted when the guard is gone.
    pub(super) fn arrive_announced(&self, client: ClientAddr) -> Result<(), SourceRefusal> {
        count(self.arrivals.as_ref(), client).map(drop)
    }

    /// Counts a session against its source.
    pub(super) fn enter(&self, peer: ClientAddr) -> Result<Option<SourceGuard>, SourceRefusal> {
        count(self.guests.as_ref(), peer)
    }

    /// Counts a connection that ended before its peer was known.
    pub(super) fn refused(&self, reason: CloseReason, peer: ClientAddr) -> Told {
        self.meters.refused.count(reason);
        self.tell_failure(reason, peer)
    }

    /// Counts a connection that was a health check. It is nobody's failure.
    pub(super) fn probed(&self, peer: ClientAddr) {
        self.meters.refused.count(CloseReason::Probe);
        tracing::debug!(%peer, "a health check: it came and left without a byte");
    }

    /// As [`Self::refused`], with what a stranger spoke in place of a handshake.
    pub(super) fn refused_stranger(
        &self,
        Verdict { reason, speech, .. }: Verdict,
        peer: ClientAddr,
    ) {
        self.meters.refused.count(reason);
        let speech = speech.filter(|_| reason == CloseReason::HandshakeFailed);
        let speech = speech.map(|speech| match speech {
            Speech::Proxy => PROXY_HEADER,
            other => other.as_str(),
        });
        match peer.source() {
            Some(source) => self.failures.failed_speaking(reason, &source, speech),
            None => self.failures.failed_speaking(reason, &peer, speech),
        };
    }

    /// Counts a failure for the log.
    pub(super) fn tell_failure(&self, reason: CloseReason, peer: ClientAddr) -> Told {
        match peer.source() {
            Some(source) => self.failures.failed(reason, &source),
            None => self.failures.failed(reason, &peer),
        }
    }

    /// Counts a failure for the log whose first of a kind the caller tells in full.
    pub(super) fn tell_unless_first(&self, reason: CloseReason, peer: ClientAddr) -> Told {
        match peer.source() {
            Some(source) => self.failures.failed_unless_first(reason, &source),
            None => self.failures.failed_unless_first(reason, &peer),
        }
    }

    /// Resolves when there is a vacant slot.
    pub(super) async fn vacancy(&self) {
        if self.slots.is_full() {
            self.limit_reached.notify_one();
            self.slots.vacancy().await;
        }
    }

    /// A slot, as soon as there is one.
    pub(super) async fn slot(&self) -> Slot {
        if self.slots.is_full() {
            self.limit_reached.notify_one();
        }
        self.slots.acquire().await
    }

    /// A slot if one is free now.
    pub(super) fn try_slot(&self) -> Option<Slot> {
        self.slots.try_acquire()
    }

    /// Resolves when slots have been vacant for a while.
    pub(super) async fn calm(&self) {
        loop {
            self.slots.vacancy().await;
            sleep(CALM).await;
            if !self.slots.is_full() {
                return;
            }
        }
    }
}

/// Who counts connections per second, and who sessions at once: those that
/// counted before, so that a new limit forgets nobody.
fn sources(
    limit: Option<PerSource>,
    before: Option<&Shared>,
) -> (Option<Sources>, Option<Sources>) {
    let going_on = |old: Option<&Sources>, sessions, rate| match old {
        Some(old) => {
            old.set_limits(sessions, rate);
            old.clone()
        }
        None => Sources::new(sessions, rate, Instant::now()),
    };
    let arrivals = limit.and_then(|per| per.per_second).map(|rate| {
        let old = before.and_then(|before| before.arrivals.as_ref());
        going_on(old, usize::MAX, Some(rate))
    });
    let guests = limit.map(|per| {
        let old = before.and_then(|before| before.guests.as_ref());
        going_on(old, per.sessions, None)
    });
    (arrivals, guests)
}

/// Counts a connection against its source. Unix sockets have no sources.
fn count(
    sources: Option<&Sources>,
    peer: ClientAddr,
) -> Result<Option<SourceGuard>, SourceRefusal> {
    match (sources, peer.source()) {
        (Some(sources), Some(source)) => sources.enter(source, Instant::now()).map(Some),
        _ => Ok(None),
    }
}
