//! Who a connection is from, and whether the gate lets it in: what is settled
//! before anything else is spent on it.
//!
//! ```text
//!   socket address -> listed load balancer? PROXY header -> client address -> its rate
//!                  -> gate -> Guest
//! ```

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout_at};

use super::secure::Verdict;
use super::serve::Stay;
use super::shared::Shared;
use crate::addr::ClientAddr;
use crate::gate::{OnRevoke, Peer, Permit};
use crate::net::Stream;
use crate::proxy_protocol::incoming::{HeaderReader, Progress, Sender};
use crate::reason::CloseReason;

/// A connection that may come in.
pub(super) struct Guest {
    /// Whose it is: the socket's address, or what a listed load balancer announced
    /// (a client without an address, perhaps).
    pub(super) client: ClientAddr,
    /// How the gate sees it; `None` over a unix socket.
    pub(super) peer: Option<Peer>,
    /// The gate's word, where there is a gate and an address.
    permit: Option<Permit>,
    /// When it came.
    since: Instant,
    /// It is a load balancer's own: a health check, for example.
    pub(super) is_balancers: bool,
}

/// A connection that may not come in.
pub(super) struct Refused {
    pub(super) reason: CloseReason,
    /// Whose it is, as far as that is known: the socket's address before a header was read.
    pub(super) client: ClientAddr,
}

/// Resolves when a session must end, and why. Holds the guest of a gate, who is
/// live as long as that.
pub(super) type Farewell = Pin<Box<dyn Future<Output = CloseReason> + Send>>;

impl Guest {
    /// Resolves when the gate would not let it in any more.
    pub(super) async fn revoked(&self) {
        let Some(permit) = &self.permit else { return std::future::pending().await };
        let why = permit.revoked().await;
        tracing::debug!(client = %self.client, why, "not welcome any more");
    }

    /// Whether the gate would not let it in any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.permit.as_ref().is_some_and(Permit::is_revoked)
    }
}

impl Shared {
    /// Whether `peer` is a load balancer that announces its clients.
    pub(super) fn is_balancer(&self, peer: ClientAddr) -> bool {
        self.proxy_from.contain(peer)
    }

    /// Why a connection can be turned away before a task is spent on it; `None`
    /// where that is not certain.
    pub(super) fn turned_away(&self, peer: ClientAddr) -> Option<CloseReason> {
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

    /// Finds out who a connection is from, counts it against its source where that
    /// was not possible at accept, and asks the gate.
    ///
    /// # Errors
    /// Why it may not come in.
    pub(super) async fn introduce(
        &self,
        stream: &mut Stream,
        socket: ClientAddr,
        stay: &Stay,
    ) -> Result<Guest, Refused> {
        let since = Instant::now();
        let sender = self.sender(stream, socket, stay).await;
        let sender = sender.map_err(|reason| Refused { reason, client: socket })?;
        let (client, peer) = match sender {
            Some(Sender::Client(addr)) => (addr.into(), Some(Peer::Announced(addr.ip()))),
            Some(Sender::Nameless) => (ClientAddr::Nameless, Some(Peer::Nameless)),
            Some(Sender::Balancer) | None => (socket, own_address(socket)),
        };
        stay.place.set_source(client.source());
        let refused = |reason| Refused { reason, client };
        if let Some(Sender::Client(_) | Sender::Nameless) = sender {
            self.arrive_announced(client).map_err(|_| refused(CloseReason::SourceLimit))?;
        }
        let permit = match (&self.gate, peer) {
            (Some(gate), Some(peer)) => {
                let began = Instant::now();
                let admitted = gate.admit(peer).await;
                self.meters.gate.done(began);
                Some(admitted.map_err(|why| {
                    tracing::debug!(%client, why, "denied by the gate");
                    refused(CloseReason::GateDenied)
                })?)
            }
            _ => None,
        };
        let is_balancers = match (sender, socket) {
            (Some(Sender::Balancer), _) => true,
            // Version 1 has no other way to say so.
            (Some(Sender::Client(addr)), ClientAddr::Ip(own)) => addr.ip() == own.ip(),
            _ => false,
        };
        Ok(Guest { client, peer, permit, since, is_balancers })
    }

    /// What a listed load balancer announces; `None` from anybody else.
    async fn sender(
        &self,
        stream: &mut Stream,
        socket: ClientAddr,
        stay: &Stay,
    ) -> Result<Option<Sender>, CloseReason> {
        if !self.is_balancer(socket) {
            return Ok(None);
        }
        let read = timeout_at(stay.deadline, read_header(stream)).await;
        read.unwrap_or(Err(CloseReason::BadProxyHeader)).map(Some)
    }

    /// Counts a handshake that failed against its address, as rack-attack does: all
    /// that come to nothing alike, or the ban would tell them apart.
    pub(super) fn strike(&self, verdict: Verdict, guest: &Guest) {
        if let (Some(gate), Some(peer), true) = (&self.gate, guest.peer, verdict.is_fault()) {
            gate.failed(peer, guest.since);
        }
    }

    /// Resolves when a session must end: the tunnel is cut, or its guest is not
    /// welcome any more. Where there is no gate it needs no room for the latter.
    pub(super) fn farewell(self: &Arc<Self>, guest: &Arc<Guest>) -> Farewell {
        let (shared, guest) = (Arc::clone(self), Arc::clone(guest));
        let Some(gate) = &self.gate else { return Box::pin(async move { shared.cut().await }) };
        let on_revoke = gate.options().on_revoke;
        Box::pin(async move {
            tokio::select! {
                reason = shared.cut() => reason,
                () = shared.expelled(&guest, on_revoke) => CloseReason::Revoked,
            }
        })
    }

    /// Resolves when the guest of a session has to go, which the operator may
    /// have put off: what he keeps or drains is what was open before.
    async fn expelled(&self, guest: &Guest, on_revoke: OnRevoke) {
        match on_revoke {
            OnRevoke::Keep => std::future::pending().await,
            OnRevoke::Close => guest.revoked().await,
            OnRevoke::Drain => {
                guest.revoked().await;
                // Few need it, and a timer is large for what every session holds.
                Box::pin(sleep(self.drain)).await;
            }
        }
    }
}

/// How the gate sees a connection that comes from its socket's own address.
fn own_address(socket: ClientAddr) -> Option<Peer> {
    if let ClientAddr::Ip(address) = socket { Some(Peer::Socket(address.ip())) } else { None }
}

/// Reads exactly the header, so that what follows is all there.
async fn read_header(stream: &mut Stream) -> Result<Sender, CloseReason> {
    let mut reader = HeaderReader::default();
    let mut buffer = [0; 256];
    let mut wanted = HeaderReader::FIRST_READ;
    // What a balancer has that only looks whether somebody listens.
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
