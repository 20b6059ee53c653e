//! Answers and counts connections that are not admitted.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::time::sleep_until;

use super::Frontend;
use super::admission::{HandshakeLimits, Refusal};
use crate::addr::ClientAddr;
use crate::gate::Denied;
use crate::net::{Duplex, Stream, poll_discard};
use crate::observe::failures::Logged;
use crate::reason::CloseReason;

impl Frontend {
    /// Counts and answers a connection that was refused admission.
    pub(super) fn refuse(
        self: &Arc<Self>,
        refusal: &Refusal,
        stream: Stream,
        limits: HandshakeLimits,
    ) {
        let Refusal { reason, client } = *refusal;
        match reason {
            CloseReason::Shutdown => {
                self.meters.closed.count(CloseReason::Shutdown);
                stream.reset();
            }
            CloseReason::Probe => {
                self.probed(client);
                stream.close();
            }
            // In the tarpit it would take the slot of another; and a source that connects too often
            // is reset at accept, too.
            CloseReason::Evicted | CloseReason::SourceLimit => {
                self.refused(reason, client);
                stream.reset();
            }
            _ => {
                self.refused(reason, client);
                self.deny(stream, || limits);
            }
        }
    }

    /// Answers a peer that the gate denies. In the tarpit it keeps its handshake slot and its
    /// deadline.
    pub fn deny(self: &Arc<Self>, mut stream: Stream, limits: impl FnOnce() -> HandshakeLimits) {
        match self.gate.as_ref().map(|gate| gate.options().denied).unwrap_or_default() {
            Denied::Close => stream.close(),
            Denied::Reset => stream.reset(),
            Denied::Tarpit => {
                let frontend = Arc::clone(self);
                let HandshakeLimits { slot, deadline } = limits();
                self.tasks.spawn(async move {
                    let held = tarpit(&mut stream);
                    tokio::select! {
                        () = held => {}
                        () = slot.evicted() => {}
                        () = sleep_until(deadline) => {}
                        () = frontend.handshake_grace() => {}
                    }
                    stream.reset();
                });
            }
        }
    }

    /// Counts a connection that ended before its peer was known.
    pub fn refused(&self, reason: CloseReason, peer: ClientAddr) -> Logged {
        self.meters.refused.count(reason);
        match peer.source() {
            Some(source) => self.failures.failed(reason, &source),
            None => self.failures.failed(reason, &peer),
        }
    }

    /// Does the same as [`Self::refused`], with the protocol that the peer seems to speak.
    pub fn refused_speaking(
        &self,
        reason: CloseReason,
        speech: Option<&'static str>,
        peer: ClientAddr,
    ) {
        self.meters.refused.count(reason);
        match peer.source() {
            Some(source) => self.failures.failed_speaking(reason, &source, speech),
            None => self.failures.failed_speaking(reason, &peer, speech),
        };
    }

    /// Counts a connection that only showed that the port is open: a health check, or one who has
    /// knocked. It is no failure.
    pub fn probed(&self, peer: ClientAddr) {
        self.meters.refused.count(CloseReason::Probe);
        tracing::debug!(%peer, "health check: connected and left without a byte");
    }

    /// Counts a failure for the log. The caller logs the first of a kind in full.
    pub fn count_failure(&self, reason: CloseReason, peer: ClientAddr) -> Logged {
        match peer.source() {
            Some(source) => self.failures.failed_unless_first(reason, &source),
            None => self.failures.failed_unless_first(reason, &peer),
        }
    }
}

/// Reads and drops bytes until the connection breaks. Continues when the other end has ended its
/// direction: the time of a reaction would reveal what was done before.
pub async fn tarpit(stream: &mut Stream) {
    let (mut read, _) = stream.split();
    loop {
        match poll_fn(|cx| poll_discard(cx, &mut read)).await {
            Ok(1..) => {}
            Ok(0) => std::future::pending().await,
            Err(_) => return,
        }
    }
}
