//! Accepts connections: from a listener to an admitted client.
//!
//! ```text
//!   accept       accept loop: slot of a plain client, a task for each connection
//!   admission    PROXY header, rate of the client, the gate           -> Admitted
//!   denied       answer to a connection that is not admitted, and its counting
//!   limits       session slots, and the allowance of each source
//!   termination  the moments at which a handshake and a session have to end
//!   options      settings of a frontend
//!   workers      threads that serve connections, one for each processor
//! ```
//!
//! Knows sockets and the gate, but not the purpose of a connection: the caller hands in the
//! function that handles an accepted one. A frontend that replaces another takes over its limits
//! and counts, so that a reload forgets no source.

mod accept;
mod admission;
mod denied;
mod limits;
mod options;
mod termination;
pub mod workers;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use accept::Accepted;
pub use admission::{Admitted, AdmittedClient, HandshakeLimits};
pub use denied::tarpit;
pub use options::{Balancers, FrontendOptions, PerSource, SlotTime};
pub use termination::Termination;

use crate::addr::ClientAddr;
use crate::gate::Gate;
use crate::net::{PendingHandshakes, Slots, Sources};
use crate::observe::failures::Failures;
use crate::observe::metrics::Meters;
use limits::SourceLimits;

/// State that all connections of a frontend share: limits, counts, the gate, and the signals
/// to stop.
pub struct Frontend {
    /// Name of the tunnel in the log, where a process has several.
    pub name: Option<Arc<str>>,
    /// Slots of sessions.
    pub slots: Slots,
    /// Connections that have proven nothing yet: in a header, a handshake or the tarpit.
    pub pending: PendingHandshakes,
    slot_time: SlotTime,
    /// Notified when a connection has to wait for a slot.
    limit_reached: Notify,
    /// Rate of connections of a source; counted at accept, or once it is announced.
    arrivals: Option<Sources>,
    /// Sessions of a source; counted once a peer is proven, so that strangers from the
    /// same address take none.
    sessions: Option<Sources>,
    /// Failures that the log counts.
    pub failures: Arc<Failures>,
    /// Counters of the tunnel.
    pub meters: Arc<Meters>,
    /// The gate, where there is one.
    pub gate: Option<Gate>,
    /// Load balancers that announce their clients' addresses.
    pub proxy_from: Arc<Balancers>,
    /// Deadline of a handshake.
    pub timeout: Duration,
    /// Time that a session has after the gate revoked its permit, where it may drain.
    drain: Duration,
    /// Cancelled when no more connections are accepted.
    pub stop: CancellationToken,
    /// Cancelled when all connections have to end.
    pub cut: CancellationToken,
    /// All its tasks, including closes that nothing waits for.
    pub tasks: TaskTracker,
}

/// Objects that a frontend uses but does not create.
pub struct FrontendParts {
    /// The gate, where there is one.
    pub gate: Option<Gate>,
    /// Counters of the tunnel.
    pub meters: Arc<Meters>,
    /// Tracker of its tasks.
    pub tasks: TaskTracker,
}

impl Frontend {
    /// Creates a frontend that replaces `before`, if there is one, and continues its slots,
    /// handshake slots and counts.
    pub fn new(options: FrontendOptions, parts: FrontendParts, before: Option<&Self>) -> Self {
        let SourceLimits { arrivals, sessions } = SourceLimits::of(options.per_source, before);
        let (slots, pending, failures) = match before {
            Some(before) => {
                (before.slots.clone(), before.pending.clone(), Arc::clone(&before.failures))
            }
            None => (
                Slots::new(options.sessions),
                PendingHandshakes::new(options.handshakes),
                Arc::new(Failures::of(options.name.clone())),
            ),
        };
        Self {
            name: options.name,
            slots,
            pending,
            slot_time: options.slot_time,
            limit_reached: Notify::new(),
            arrivals,
            sessions,
            failures,
            meters: parts.meters,
            gate: parts.gate,
            proxy_from: options.proxy_from,
            timeout: options.timeout,
            drain: options.drain,
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: parts.tasks,
        }
    }

    /// Returns true when `peer` is a load balancer that announces its clients.
    fn is_balancer(&self, peer: ClientAddr) -> bool {
        self.proxy_from.contain(peer)
    }
}
