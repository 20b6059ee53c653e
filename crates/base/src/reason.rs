//! Close reasons: the one vocabulary of logs, counters and history for the end of a connection.
//!
//! Every accepted connection ends with exactly one [`CloseReason`]. Its string form is stable,
//! because operators write alerts against it. The peer is told in a separate, smaller vocabulary
//! (`ResetReason` of the protocol).

use std::fmt;

/// Reason for which a connection ended, as seen from this end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CloseReason {
    /// Both directions ended with an authenticated Fin.
    Finished,
    /// Our plain side (client or target) reset its connection.
    PlainReset,
    /// The far end sent Reset because its own plain side was reset.
    PeerReset,
    /// The sealed stream ended without Fin.
    Truncated,
    /// The sealed stream was reset or timed out in the network.
    PeerLost,
    /// Nothing authentic came from the far end for three heartbeats, or in answer to the first
    /// bytes on a warm tunnel, or reached the far end from this one: the far end is gone, or an
    /// attacker on the path drops what it sends.
    PeerVanished,
    /// A record failed authentication: tampering, or a broken peer.
    BadRecord,
    /// An authentic record that the protocol does not allow here.
    ProtocolError,
    /// The target refused or its address could not be reached.
    TargetRefused,
    /// The target did not answer in time.
    TargetTimeout,
    /// The target's name could not be resolved.
    TargetUnresolved,
    /// The dialer asked for a service that the acceptor does not have.
    NoSuchService,
    /// The target failed its health checks during the session, and such sessions are to be closed.
    TargetDown,
    /// The connection came from the tunnel that accepted it: the target leads back there.
    Loop,
    /// A limit of sessions was reached.
    LimitReached,
    /// The far end could not be reached.
    PeerUnreachable,
    /// The far end never answered the handshake: wrong key, wrong clock, or not knockpipe.
    NoAnswer,
    /// The far end rejected a record of ours as not authentic or not allowed.
    PeerRejected,
    /// The far end shut down.
    PeerShutdown,
    /// The far end failed for a reason of its own, which stands in its log.
    PeerFailed,
    /// A stranger: no valid first message arrived before the deadline.
    HandshakeFailed,
    /// The first message was valid, but the dialer did not prove that it is live.
    Unconfirmed,
    /// The first message was seen before.
    Replayed,
    /// The clock in the first message is more than two minutes from ours, or from before this end
    /// started: a wrong clock, or a recording.
    ClockSkew,
    /// A live dialer did not ask for a target in time.
    Unopened,
    /// An unproven handshake, evicted in favour of a newer one.
    Evicted,
    /// The dialer has a right key, but no record suite that this end allows.
    NoCommonSuite,
    /// The gate denies this address.
    GateDenied,
    /// The gate no longer admits this address.
    Revoked,
    /// A listed load balancer sent no PROXY header, or a malformed one.
    BadProxyHeader,
    /// The peer connected and left without a byte: a health check, which is no client.
    Probe,
    /// Too many sessions or handshakes from one source.
    SourceLimit,
    /// No application data passed for longer than one of the ends allows.
    IdleTimeout,
    /// An operator ended this session.
    Kicked,
    /// Cut by shutdown after the drain deadline, or by a second signal.
    Shutdown,
    /// This end failed (no descriptor, no memory). Stays the last, so that [`Self::ALL`] has to be
    /// complete.
    LocalError,
}

impl CloseReason {
    /// All reasons, each at the index of its number.
    pub const ALL: [Self; Self::LocalError as usize + 1] = [
        Self::Finished,
        Self::PlainReset,
        Self::PeerReset,
        Self::Truncated,
        Self::PeerLost,
        Self::PeerVanished,
        Self::BadRecord,
        Self::ProtocolError,
        Self::TargetRefused,
        Self::TargetTimeout,
        Self::TargetUnresolved,
        Self::NoSuchService,
        Self::TargetDown,
        Self::Loop,
        Self::LimitReached,
        Self::PeerUnreachable,
        Self::NoAnswer,
        Self::PeerRejected,
        Self::PeerShutdown,
        Self::PeerFailed,
        Self::HandshakeFailed,
        Self::Unconfirmed,
        Self::Replayed,
        Self::ClockSkew,
        Self::Unopened,
        Self::Evicted,
        Self::NoCommonSuite,
        Self::GateDenied,
        Self::Revoked,
        Self::BadProxyHeader,
        Self::Probe,
        Self::SourceLimit,
        Self::IdleTimeout,
        Self::Kicked,
        Self::Shutdown,
        Self::LocalError,
    ];

    /// Returns the stable name in logs and metrics, in kebab case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::PlainReset => "plain-reset",
            Self::PeerReset => "peer-reset",
            Self::Truncated => "truncated",
            Self::PeerLost => "peer-lost",
            Self::PeerVanished => "peer-vanished",
            Self::BadRecord => "bad-record",
            Self::ProtocolError => "protocol-error",
            Self::TargetRefused => "target-refused",
            Self::TargetTimeout => "target-timeout",
            Self::TargetUnresolved => "target-unresolved",
            Self::NoSuchService => "no-such-service",
            Self::TargetDown => "target-down",
            Self::Loop => "loop",
            Self::LimitReached => "limit-reached",
            Self::PeerUnreachable => "peer-unreachable",
            Self::NoAnswer => "no-answer",
            Self::HandshakeFailed => "handshake-failed",
            Self::PeerRejected => "peer-rejected",
            Self::PeerShutdown => "peer-shutdown",
            Self::PeerFailed => "peer-failed",
            Self::Unconfirmed => "unconfirmed",
            Self::Replayed => "replayed",
            Self::ClockSkew => "clock-skew",
            Self::Unopened => "unopened",
            Self::Evicted => "evicted",
            Self::NoCommonSuite => "no-common-suite",
            Self::GateDenied => "gate-denied",
            Self::Revoked => "revoked",
            Self::BadProxyHeader => "bad-proxy-header",
            Self::Probe => "probe",
            Self::SourceLimit => "source-limit",
            Self::IdleTimeout => "idle-timeout",
            Self::Kicked => "kicked",
            Self::Shutdown => "shutdown",
            Self::LocalError => "local-error",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_them_are_listed_in_their_order() {
        for (place, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason}");
        }
    }
}
