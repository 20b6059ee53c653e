//! Interprets how the far end ended a session: the close reason here, and advice for the operator.

use crate::proto::PeerError;
use crate::proto::message::ResetReason;
use crate::reason::CloseReason;
use crate::upstream::ConnectFailure;

/// Returns the close reason for a record that the protocol refused.
pub(super) fn from_peer_error(error: PeerError) -> CloseReason {
    match error {
        PeerError::Misbehaved => CloseReason::ProtocolError,
        _ => CloseReason::BadRecord,
    }
}

/// Returns the close reason for a Reset from the other end.
pub(super) fn from_remote(reason: ResetReason) -> CloseReason {
    match reason {
        ResetReason::PlainReset => CloseReason::PeerReset,
        ResetReason::TargetRefused => CloseReason::TargetRefused,
        ResetReason::TargetTimeout => CloseReason::TargetTimeout,
        ResetReason::TargetUnresolved => CloseReason::TargetUnresolved,
        ResetReason::NoSuchService => CloseReason::NoSuchService,
        ResetReason::LimitReached => CloseReason::LimitReached,
        ResetReason::ProtocolError => CloseReason::PeerRejected,
        ResetReason::Shutdown => CloseReason::PeerShutdown,
        ResetReason::Unopened => CloseReason::Unopened,
        ResetReason::Revoked => CloseReason::Revoked,
        ResetReason::Idle => CloseReason::IdleTimeout,
        ResetReason::Unheard => CloseReason::PeerVanished,
        ResetReason::Failed => CloseReason::PeerFailed,
    }
}

/// Returns the failure of a tunnel that the far end ended, for this reason or by hanging up.
pub(super) fn failure(reason: CloseReason) -> ConnectFailure {
    ConnectFailure::new(reason, remote_advice(reason).unwrap_or("the far end hung up"))
}

/// Returns the advice for a reason that comes from the far end only.
pub(super) fn remote_advice(reason: CloseReason) -> Option<&'static str> {
    Some(match reason {
        CloseReason::TargetRefused => {
            "the decrypt end's target refuses, or its host cannot be reached from there, as the log there tells; start the service, or correct -t there"
        }
        CloseReason::TargetTimeout => {
            "the decrypt end gets no answer from its target in time; look at the firewall and the load there"
        }
        CloseReason::TargetUnresolved => {
            "the decrypt end cannot resolve its target's name; look at name service there"
        }
        CloseReason::NoSuchService => {
            "the decrypt end has no such service; correct --service, or add it there with -t NAME=ADDRESS"
        }
        CloseReason::LimitReached => {
            "the decrypt end has no session for this host: --max-per-source there, or too many wait for its -n"
        }
        _ => return None,
    })
}
