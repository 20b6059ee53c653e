//! Rates of a tunnel: the change of its counters between two looks.

use std::time::Duration;

use crate::admin::protocol::TunnelReply;

/// The work of a tunnel in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rates {
    /// Connections accepted.
    pub(super) accepted: u64,
    /// Stream bytes from the plain side to the sealed side.
    pub(super) sent: u64,
    /// Stream bytes from the sealed side to the plain side.
    pub(super) received: u64,
}

impl Rates {
    pub(super) fn between(before: &TunnelReply, now: &TunnelReply, time: Duration) -> Self {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = |now: u64, before: u64| now.saturating_sub(before).saturating_mul(1000) / ms;
        Self {
            accepted: rate(now.accepted, before.accepted),
            sent: rate(now.sent, before.sent),
            received: rate(now.received, before.received),
        }
    }
}
