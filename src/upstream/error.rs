//! Why there is no tunnel or no target: a reason, for the far end and the meters,
//! and what the log says of it.

use super::report::told_by_the_far_end;
use crate::net::DialError;
use crate::reason::CloseReason;

/// Something that could not be made.
#[derive(Debug)]
pub(super) struct Unmade {
    pub(super) reason: CloseReason,
    /// For the operator of this end.
    pub(super) detail: String,
}

impl Unmade {
    pub(super) fn new(reason: CloseReason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    /// The far end said so, or hung up.
    pub(super) fn told(reason: CloseReason) -> Self {
        Self::new(reason, *told_by_the_far_end(reason).unwrap_or(&"the far end hung up"))
    }

    /// A far end could not be dialled.
    pub(super) fn far_end(error: &DialError) -> Self {
        let reason = match error {
            DialError::Local(_) => CloseReason::LocalError,
            _ => CloseReason::PeerUnreachable,
        };
        Self::new(reason, error.to_string())
    }

    /// A target could not be dialled.
    pub(super) fn target(error: &DialError) -> Self {
        let reason = match error {
            DialError::Timeout => CloseReason::TargetTimeout,
            DialError::Unresolved(_) => CloseReason::TargetUnresolved,
            DialError::Local(_) => CloseReason::LocalError,
            DialError::Refused { .. } | DialError::Unreachable { .. } => CloseReason::TargetRefused,
        };
        Self::new(reason, error.to_string())
    }
}
