//! State that all connections of a tunnel share: its frontend, and the settings of calls to far
//! ends and targets.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::capacity::Capacity;
use super::dial_far_end::Background;
use super::options::{Options, Role};
use crate::frontend::{Frontend, FrontendOptions, FrontendParts, SlotTime};
use crate::upstream::DialOptions;

/// State that all connections of a tunnel share.
pub(super) struct TunnelContext {
    pub(super) frontend: Arc<Frontend>,
    /// Permits for second attempts at a silent far end.
    second_attempts: Arc<Semaphore>,
    pub(super) dial_options: DialOptions,
    /// Deadline of a dial, and separately of a handshake.
    pub(super) timeout: Duration,
    /// Longest time that a session may be without application data.
    pub(super) idle_timeout: Option<Duration>,
}

impl TunnelContext {
    /// Creates the state of a tunnel with the limits of `capacity`. Continues the slots, handshake
    /// slots and counts that are in use in `before`.
    pub(super) fn new(
        options: &Options,
        capacity: Capacity,
        parts: FrontendParts,
        before: Option<&Self>,
    ) -> Self {
        let settings = frontend_options(options, capacity);
        let frontend = Frontend::new(settings, parts, before.map(|before| &*before.frontend));
        let second_attempts = match before {
            Some(before) => Arc::clone(&before.second_attempts),
            None => Arc::new(Semaphore::new(capacity.second_attempts)),
        };
        Self {
            frontend: Arc::new(frontend),
            second_attempts,
            dial_options: options.dial_options(),
            timeout: options.timeout,
            idle_timeout: options.idle_timeout,
        }
    }

    /// Returns the tasks and signals for handshakes that are no longer needed.
    pub(super) fn background(&self) -> Background {
        Background {
            tasks: self.frontend.tasks.clone(),
            second_attempts: Arc::clone(&self.second_attempts),
            stop: self.frontend.stop.clone(),
            cut: self.frontend.cut.clone(),
        }
    }
}

/// Returns the settings of the frontend of a tunnel.
fn frontend_options(options: &Options, capacity: Capacity) -> FrontendOptions {
    FrontendOptions {
        name: options.name.clone(),
        slot_time: match options.role {
            Role::Encrypt { .. } => SlotTime::Accept,
            Role::Decrypt { .. } => SlotTime::Proof,
        },
        sessions: capacity.sessions,
        handshakes: capacity.handshakes,
        per_source: options.limits.per_source,
        proxy_from: Arc::clone(&options.proxy_from),
        timeout: options.timeout,
        drain: options.drain,
    }
}
