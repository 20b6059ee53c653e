//! The moments at which a handshake and a session have to end although their peers go on: the
//! handshake's deadline, the stop of a frontend, a cut, and the revocation of a permit.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use tokio::time::sleep;

use super::Frontend;
use super::admission::AdmittedClient;
use crate::gate::OnRevoke;
use crate::reason::CloseReason;

/// Time that connections in a handshake have after the frontend was told to stop.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);

/// A connection in the tarpit is kept up to this fraction of the handshake deadline longer, so that
/// the moment of its end reveals nothing.
const JITTER: f64 = 0.25;

/// Resolves when a session must end, with the close reason. Holds the client of a gate: its
/// permit is live as long as that.
pub type Termination = Pin<Box<dyn Future<Output = CloseReason> + Send>>;

impl Frontend {
    /// Waits until sessions are cut, and returns their close reason.
    pub async fn cut(&self) -> CloseReason {
        self.cut.cancelled().await;
        CloseReason::Shutdown
    }

    /// Waits until connections in a handshake have to end, soon after the stop of accepting: an
    /// honest dialer needs a round trip, and strangers must not delay the drain.
    pub async fn handshake_grace(&self) {
        self.stop.cancelled().await;
        tokio::select! {
            () = sleep(HANDSHAKE_GRACE) => {}
            () = self.cut.cancelled() => {}
        }
    }

    /// Returns the deadline for a connection that is accepted now to become a session. It depends
    /// neither on the bytes of the peer nor on the reason for which it is kept.
    pub(super) fn deadline(&self) -> tokio::time::Instant {
        let jittered = self.timeout.mul_f64(1.0 + rand::rng().random_range(0.0..JITTER));
        tokio::time::Instant::now() + jittered
    }

    /// Returns a future that resolves when a session must end: the frontend is cut, or the gate
    /// revoked the permit. Without a gate it needs no memory for the latter.
    pub fn termination(self: &Arc<Self>, client: &Arc<AdmittedClient>) -> Termination {
        let frontend = Arc::clone(self);
        let client = Arc::clone(client);
        if self.gate.is_none() {
            return Box::pin(async move { frontend.cut().await });
        }
        Box::pin(async move {
            tokio::select! {
                reason = frontend.cut() => reason,
                () = frontend.revoked(&client) => CloseReason::Revoked,
            }
        })
    }

    /// Waits until the session of a revoked client has to end, which the options that the gate has
    /// at that moment may delay: only sessions that were open before are kept or drained. Waits for
    /// ever where there is no gate.
    pub async fn revoked(&self, client: &AdmittedClient) {
        let Some(gate) = &self.gate else { return std::future::pending().await };
        client.revoked().await;
        match gate.options().on_revoke {
            OnRevoke::Close => {}
            OnRevoke::Keep => std::future::pending().await,
            OnRevoke::Drain => {
                // Boxed: few sessions need it, and a timer is large for the memory of every
                // session.
                Box::pin(sleep(self.drain)).await;
            }
        }
    }
}
