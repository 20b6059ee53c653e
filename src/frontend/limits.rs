//! Limits of a frontend: its session slots, and the allowance of each source.

use std::time::{Duration, Instant};

use tokio::time::sleep;
use tracing::{info, warn};

use super::Frontend;
use super::options::{PerSource, SlotTime};
use crate::addr::ClientAddr;
use crate::net::{Slot, SourceGuard, SourceRefusal, Sources};

/// Time for which slots must be vacant before the limit counts as no longer reached.
const CALM: Duration = Duration::from_secs(1);

/// Counts of connections per second and of sessions at once, by source.
pub(super) struct SourceLimits {
    pub(super) arrivals: Option<Sources>,
    pub(super) sessions: Option<Sources>,
}

// === impl Frontend ===

impl Frontend {
    /// Waits until a slot is vacant, and takes none.
    pub(super) async fn slot_available(&self) {
        if self.slots.is_full() {
            self.limit_reached.notify_one();
            self.slots.vacancy().await;
        }
    }

    /// Waits for a slot and takes it.
    pub async fn slot(&self) -> Slot {
        if self.slots.is_full() {
            self.limit_reached.notify_one();
        }
        self.slots.acquire().await
    }

    /// Warns once when the limit of sessions is reached, and logs one line when slots have been
    /// vacant for a while.
    pub async fn watch_limit(&self) {
        let watch = async {
            loop {
                self.limit_reached.notified().await;
                // A notification from while it was reached is outdated.
                if self.slots.is_full() {
                    self.log_limit().await;
                }
            }
        };
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = watch => {}
        }
    }

    async fn log_limit(&self) {
        let tunnel = self.name.as_deref();
        let limit = self.slots.limit();
        let detail = match self.slot_time {
            SlotTime::Accept => "new connections wait in the backlog; -n sets the limit",
            SlotTime::Proof => "dialers wait for a session to end; -n sets the limit",
        };
        warn!(tunnel, limit, detail, "session limit reached");
        self.settled().await;
        info!(tunnel, limit, "below session limit again");
    }

    /// Waits until slots have been vacant for a while.
    async fn settled(&self) {
        loop {
            self.slots.vacancy().await;
            sleep(CALM).await;
            if !self.slots.is_full() {
                return;
            }
        }
    }

    /// Counts a connection against its source. A load balancer's connections belong to many
    /// clients, and are counted once these are announced: [`Self::count_announced`].
    pub(super) fn count_arrival(
        &self,
        peer: ClientAddr,
    ) -> Result<Option<SourceGuard>, SourceRefusal> {
        if self.is_balancer(peer) { Ok(None) } else { count(self.arrivals.as_ref(), peer) }
    }

    /// Counts a connection against the client that a load balancer announced, which was not known
    /// at accept. Only the rate is limited here, and the connection stays counted for it when the
    /// guard is dropped.
    pub(super) fn count_announced(&self, client: ClientAddr) -> Result<(), SourceRefusal> {
        count(self.arrivals.as_ref(), client).map(drop)
    }

    /// Counts a session against its source.
    ///
    /// # Errors
    /// [`SourceRefusal`] when the source has the highest permitted number.
    pub fn count_session(&self, client: ClientAddr) -> Result<Option<SourceGuard>, SourceRefusal> {
        count(self.sessions.as_ref(), client)
    }
}

// === impl SourceLimits ===

impl SourceLimits {
    /// Limits for each source. Continues the counts of `before`, so that a new limit forgets no
    /// source.
    pub(super) fn of(limit: Option<PerSource>, before: Option<&Frontend>) -> Self {
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
        let sessions = limit.map(|per| {
            let old = before.and_then(|before| before.sessions.as_ref());
            going_on(old, per.sessions, None)
        });
        Self { arrivals, sessions }
    }
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
