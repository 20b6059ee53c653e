//! Failure of a connection attempt: a close reason for the far end and the counters, with a detail
//! for the log.

use crate::net::DialError;
use crate::reason::CloseReason;

/// Failure of a connection attempt.
#[derive(Debug)]
pub struct ConnectFailure {
    /// Its close reason.
    pub reason: CloseReason,
    /// Cause and remedy, for the operator of this end.
    pub detail: String,
}

impl ConnectFailure {
    /// Creates a failure with this reason and detail.
    pub fn new(reason: CloseReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// Creates the failure of the dial of a far end.
    pub fn far_end(error: &DialError) -> Self {
        let reason = match error {
            DialError::Local(_) => CloseReason::LocalError,
            _ => CloseReason::PeerUnreachable,
        };
        Self::new(reason, error.to_string())
    }

    /// Creates the failure of the dial of a target.
    pub fn target(error: &DialError) -> Self {
        let reason = match error {
            DialError::Timeout => CloseReason::TargetTimeout,
            DialError::Unresolved(_) => CloseReason::TargetUnresolved,
            DialError::Local(_) => CloseReason::LocalError,
            DialError::Refused { .. } | DialError::Unreachable { .. } => CloseReason::TargetRefused,
        };
        Self::new(reason, error.to_string())
    }
}
