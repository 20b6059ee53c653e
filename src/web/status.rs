//! Snapshot of a service of HTTP for operators: read from its limits, targets and gate on request.

use super::application::Application;
use super::options::ConnectionLimit;
use super::service::WebService;
use crate::gate::{Gate, GateStatus};
use crate::net::{PendingHandshakes, Slots};
use crate::upstream::TargetHealth;

/// A service at one moment.
#[derive(Clone, Debug)]
pub struct WebStatus {
    /// No new connections are accepted.
    pub draining: bool,
    /// Addresses of its listeners.
    pub listeners: Vec<String>,
    /// Its targets, and their health.
    pub targets: Vec<TargetHealth>,
    /// Connections.
    pub connections: Usage,
    /// Connections that have not shaken hands; those of a service that evicts are all here, and
    /// these none.
    pub handshakes: Usage,
    /// The gate, where there is one.
    pub gate: Option<GateStatus>,
    /// Addresses that signed knocks are read from, where they are.
    pub knock_listeners: Option<Vec<String>>,
}

/// Usage of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Current number.
    pub now: usize,
    /// Highest number at once so far.
    pub most: usize,
    /// Limit.
    pub limit: usize,
}

impl Usage {
    fn of_slots(slots: &Slots) -> Self {
        Self { now: slots.used(), most: slots.high_water(), limit: slots.limit() }
    }

    fn of_pending(pending: &PendingHandshakes) -> Self {
        Self { now: pending.used(), most: pending.high_water(), limit: pending.limit() }
    }
}

impl<A: Application> WebService<A> {
    /// Takes a snapshot.
    pub fn status(&self) -> WebStatus {
        let frontend = &self.frontend;
        let pending = Usage::of_pending(&frontend.pending);
        let (connections, handshakes) = match self.limit {
            ConnectionLimit::Wait(_) => (Usage::of_slots(&frontend.slots), pending),
            ConnectionLimit::Evict(_) => (pending, Usage::default()),
        };
        WebStatus {
            draining: frontend.stop.is_cancelled(),
            listeners: self.listening().clone(),
            targets: self.application.targets(),
            connections,
            handshakes,
            gate: self.gate.as_ref().map(Gate::status),
            knock_listeners: self.knocks.as_ref().map(|knocks| knocks.listening()),
        }
    }
}
