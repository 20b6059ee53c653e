//! Determines the client address (PROXY protocol) and asks the gate, before any other
//! resource is spent on a connection.
//!
//! ```text
//!   socket address -> listed load balancer? PROXY header -> client address -> its rate
//!                  -> gate -> AdmittedClient
//! ```

use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::time::timeout_at;

use super::Frontend;
use super::accept::Accepted;
use crate::addr::ClientAddr;
use crate::gate::{Peer, Permit};
use crate::keys::KeyId;
use crate::net::{HandshakeSlot, Slot, SourceGuard, Stream};
use crate::proxy_protocol::incoming::{HeaderReader, Progress, Sender};
use crate::reason::CloseReason;

/// An admitted connection.
pub struct Admitted {
    /// The connection.
    pub stream: Stream,
    /// Its client.
    pub client: AdmittedClient,
    /// Limits of its handshake, if one follows.
    pub limits: HandshakeLimits,
    /// The slot of its session, where it took that at accept.
    pub slot: Option<Slot>,
    /// Its count against its source, as a connection.
    pub arrival: Option<SourceGuard>,
}

/// The client of an admitted connection.
pub struct AdmittedClient {
    /// Its address: the socket's, or the one that a listed load balancer announced
    /// (a client without an address, perhaps).
    pub address: ClientAddr,
    /// The gate's view of it; `None` over a unix socket.
    pub peer: Option<Peer>,
    /// The gate's permit, where there is a gate and an address.
    permit: Option<Permit>,
    /// Moment of the accept.
    since: Instant,
    /// True for a load balancer's own connection: a health check, for example.
    pub is_balancers: bool,
}

/// Limits of a connection that has proven nothing: a handshake slot that may be taken back,
/// and a deadline.
pub struct HandshakeLimits {
    /// Its handshake slot.
    pub slot: HandshakeSlot,
    /// End of the time in which it has to prove itself.
    pub deadline: tokio::time::Instant,
}

/// A connection that is not admitted.
pub(super) struct Refusal {
    pub(super) reason: CloseReason,
    /// Its client as far as known: the socket's address before a header was read.
    pub(super) client: ClientAddr,
}

// === impl AdmittedClient ===

impl AdmittedClient {
    /// Waits until the gate revokes its permit.
    pub async fn revoked(&self) {
        let Some(permit) = &self.permit else { return std::future::pending().await };
        let why = permit.revoked().await;
        tracing::debug!(client = %self.address, why, "permit revoked");
    }

    /// Notes that it has proven possession of `key`.
    pub fn prove(&self, key: KeyId) {
        self.permit.iter().for_each(|permit| permit.prove(key));
    }

    /// Returns true once the gate has revoked its permit.
    pub fn is_revoked(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_revoked)
    }
}

// === impl Frontend ===

impl Frontend {
    /// Returns the reason to reject a connection before a task is spent on it; `None`
    /// where that is not certain.
    pub(super) fn reject_early(&self, peer: ClientAddr) -> Option<CloseReason> {
        let (Some(gate), ClientAddr::Ip(address)) = (&self.gate, peer) else { return None };
        if self.is_balancer(peer) {
            return None;
        }
        let decision = gate.certain(Peer::Socket(address.ip()))?;
        if decision.is_allowed() {
            return None;
        }
        gate.denied(address.ip());
        Some(CloseReason::GateDenied)
    }

    /// Decides whether a connection is admitted; `None` when it is not, and has been answered.
    pub async fn admit(self: &Arc<Self>, accepted: Accepted) -> Option<Admitted> {
        let Accepted { mut stream, peer, slot, source: arrival, deadline } = accepted;
        let limits = self.handshake_limits(peer, deadline);
        let refusal = |reason| Refusal { reason, client: peer };
        let identified = tokio::select! {
            biased;
            identified = self.identify(&mut stream, peer, &limits) => identified,
            () = limits.slot.evicted() => Err(refusal(CloseReason::Evicted)),
            () = self.handshake_grace() => Err(refusal(CloseReason::Shutdown)),
        };
        match identified {
            Ok(client) => Some(Admitted { stream, client, limits, slot, arrival }),
            Err(refusal) => {
                self.refuse(&refusal, stream, limits);
                None
            }
        }
    }

    /// Takes a handshake slot for a connection from `peer`.
    pub(super) fn handshake_limits(
        &self,
        peer: ClientAddr,
        deadline: tokio::time::Instant,
    ) -> HandshakeLimits {
        HandshakeLimits { slot: self.pending.enter(peer.source()), deadline }
    }

    /// Determines the client of a connection, counts it against its source where that
    /// was not possible at accept, and asks the gate.
    ///
    /// # Errors
    /// [`Refusal`] when it is not admitted.
    async fn identify(
        &self,
        stream: &mut Stream,
        socket: ClientAddr,
        limits: &HandshakeLimits,
    ) -> Result<AdmittedClient, Refusal> {
        let since = Instant::now();
        let sender = self.sender(stream, socket, limits).await;
        let sender = sender.map_err(|reason| Refusal { reason, client: socket })?;
        let (address, peer) = match sender {
            Some(Sender::Client(addr)) => (addr.into(), Some(Peer::Announced(addr.ip()))),
            Some(Sender::Nameless) => (ClientAddr::Nameless, Some(Peer::Nameless)),
            Some(Sender::Balancer) | None => (socket, own_address(socket)),
        };
        limits.slot.set_source(address.source());
        let refusal = |reason| Refusal { reason, client: address };
        if let Some(Sender::Client(_) | Sender::Nameless) = sender {
            self.count_announced(address).map_err(|_| refusal(CloseReason::SourceLimit))?;
        }
        let permit = match (&self.gate, peer) {
            (Some(gate), Some(peer)) => {
                let began = Instant::now();
                let admitted = gate.admit(peer).await;
                self.meters.gate.done(began);
                Some(admitted.map_err(|why| {
                    tracing::debug!(client = %address, why, "denied by the gate");
                    refusal(CloseReason::GateDenied)
                })?)
            }
            _ => None,
        };
        let is_balancers = is_balancers(sender, socket);
        Ok(AdmittedClient { address, peer, permit, since, is_balancers })
    }

    /// Reads the announcement of a listed load balancer; `None` for any other peer.
    async fn sender(
        &self,
        stream: &mut Stream,
        socket: ClientAddr,
        limits: &HandshakeLimits,
    ) -> Result<Option<Sender>, CloseReason> {
        if !self.is_balancer(socket) {
            return Ok(None);
        }
        let read = timeout_at(limits.deadline, read_header(stream)).await;
        read.unwrap_or(Err(CloseReason::BadProxyHeader)).map(Some)
    }

    /// Counts a failed handshake against its address, as rack-attack does. All failures count the
    /// same, or the ban would reveal their difference.
    pub fn strike(&self, client: &AdmittedClient) {
        if let (Some(gate), Some(peer)) = (&self.gate, client.peer) {
            gate.failed(peer, client.since);
        }
    }
}

/// Returns true when a connection is the load balancer's own.
fn is_balancers(sender: Option<Sender>, socket: ClientAddr) -> bool {
    match (sender, socket) {
        (Some(Sender::Balancer), _) => true,
        // Version 1 has no other way to express it.
        (Some(Sender::Client(addr)), ClientAddr::Ip(own)) => addr.ip() == own.ip(),
        _ => false,
    }
}

/// Returns the gate's view of a connection from its socket's own address.
fn own_address(socket: ClientAddr) -> Option<Peer> {
    if let ClientAddr::Ip(address) = socket { Some(Peer::Socket(address.ip())) } else { None }
}

/// Reads exactly the header, so that no following byte is consumed.
async fn read_header(stream: &mut Stream) -> Result<Sender, CloseReason> {
    let mut reader = HeaderReader::default();
    let mut buffer = [0; 256];
    let mut wanted = HeaderReader::FIRST_READ;
    // The reason for a balancer that only checks for a listener.
    let mut broken_off = CloseReason::Probe;
    loop {
        let room = &mut buffer[..wanted.min(256)];
        let got = stream.read(room).await.map_err(|_| broken_off)?;
        if got == 0 {
            return Err(broken_off);
        }
        broken_off = CloseReason::BadProxyHeader;
        match reader.push(&room[..got]) {
            Progress::Need(more) => wanted = more,
            Progress::Done { sender, .. } => return Ok(sender),
            Progress::Bad(error) => {
                tracing::debug!(%error, "bad PROXY header");
                return Err(CloseReason::BadProxyHeader);
            }
        }
    }
}
