//! Snapshot of a tunnel for operators: read from its limits, its targets, its pool and its gate on
//! request, and not stored.

use std::sync::{Arc, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::pool_state::PoolLevel;
use super::serve::{Mode, Tunnel};
use crate::frontend::Balancers;
use crate::gate::{Gate, GateStatus};
use crate::keys::KeyId;
use crate::net::{AsyncListener, PendingHandshakes, Slots};
use crate::observe::Meters;
use crate::observe::firewall::FirewallStatus;
use crate::upstream::TargetHealth;

/// A tunnel at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// `encrypt` or `decrypt`.
    pub mode: &'static str,
    /// No new connections are accepted.
    pub draining: bool,
    /// Addresses of its listeners.
    pub listeners: Vec<String>,
    /// Its targets, and their health.
    pub targets: Vec<TargetHealth>,
    /// The public names of its keys, in order.
    pub keys: Vec<KeyId>,
    /// Sessions.
    pub sessions: Level,
    /// Connections that have proven nothing yet.
    pub handshakes: Level,
    /// Tunnels that wait to be opened (acceptor only).
    pub unopened: Option<Level>,
    /// Warm tunnels (dialer with a pool only).
    pub pool: Option<PoolLevel>,
    /// It knocks at the gates of its far ends (dialer only).
    pub is_knocking: bool,
    /// The gate, where there is one.
    pub gate: Option<GateStatus>,
    /// Addresses that knocks are read from, where they are.
    pub knock_listeners: Option<Vec<String>>,
    /// The firewall, where the service keeps one.
    pub firewall: Option<FirewallStatus>,
}

/// Usage of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Level {
    /// Current number.
    pub now: usize,
    /// Highest number at once so far.
    pub most: usize,
    /// Limit.
    pub limit: usize,
}

impl Level {
    fn of_slots(slots: &Slots) -> Self {
        Self { now: slots.used(), most: slots.high_water(), limit: slots.limit() }
    }

    fn of_pending(pending: &PendingHandshakes) -> Self {
        Self { now: pending.used(), most: pending.high_water(), limit: pending.limit() }
    }
}

impl Tunnel {
    /// Returns its counters.
    pub fn meters(&self) -> &Arc<Meters> {
        &self.context.frontend.meters
    }

    /// Returns the load balancers that have to announce their clients.
    pub fn balancers(&self) -> &Balancers {
        &self.context.frontend.proxy_from
    }

    /// Takes a snapshot.
    pub fn status(&self) -> Status {
        let frontend = &self.context.frontend;
        let (mode, keys) = match &self.mode {
            Mode::Encrypt(end) => ("encrypt", end.dialers[0].key_ids()),
            Mode::Decrypt(end) => ("decrypt", end.handshake.key_ids()),
        };
        Status {
            mode,
            draining: frontend.stop.is_cancelled(),
            listeners: self.listening().clone(),
            targets: self.targets().iter().flat_map(|targets| targets.health()).collect(),
            keys,
            sessions: Level::of_slots(&frontend.slots),
            handshakes: Level::of_pending(&frontend.pending),
            unopened: self.unopened(),
            pool: self.pool(),
            is_knocking: matches!(&self.mode, Mode::Encrypt(end) if end.dialers[0].knocker().is_some()),
            gate: frontend.gate.as_ref().map(Gate::status),
            knock_listeners: self.knocks.as_ref().map(|knocks| knocks.listening()),
            firewall: None,
        }
    }

    fn unopened(&self) -> Option<Level> {
        let Mode::Decrypt(end) = &self.mode else { return None };
        Some(Level::of_slots(&end.unopened))
    }

    fn pool(&self) -> Option<PoolLevel> {
        let Mode::Encrypt(end) = &self.mode else { return None };
        Some(end.pool.warm()).filter(|pool| pool.size > 0)
    }

    /// Notes a listener.
    pub(super) fn listens(&self, listener: &AsyncListener) {
        self.listening().push(listener.local());
    }

    /// Notes the end of a listener.
    pub(super) fn listens_no_more(&self, listener: &AsyncListener) {
        let address = listener.local();
        let mut listening = self.listening();
        if let Some(place) = listening.iter().position(|other| *other == address) {
            listening.remove(place);
        }
    }

    fn listening(&self) -> MutexGuard<'_, Vec<String>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
