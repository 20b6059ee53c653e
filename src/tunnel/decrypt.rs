//! The decrypt end, connection by connection: sealed in, plain out.
//!
//! ```text
//!   accept sealed -> admit -> shake hands -> proven live (-> waits for Open)
//!                 -> slot -> dial the target -> Opened -> session
//! ```
//!
//! The target is dialled with a [`Session`], and the acceptor's session exists
//! only once a record proved the dialer live. Until then a connection is a
//! stranger: it holds a handshake slot, no session slot, and gets no answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::access_log::SessionLog;
use super::context::TunnelContext;
use super::handshake::{AcceptorHandshake, Authenticated, HandshakeFailure, next_event};
use super::open_target::{OpenRequest, Services, connect_target};
use super::relay::send_reset;
use super::reset_reasons::from_remote;
use super::session::{EstablishedSession, run_opened};
use crate::frontend::{Accepted, Admitted, AdmittedClient, HandshakeLimits};
use crate::net::{Slots, Stream};
use crate::observe::sessions::Keyed;
use crate::proto::Session;
use crate::proto::inbound::Event;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// Longest time that a live dialer may wait before it sends Open.
pub(super) const UNOPENED: Duration = Duration::from_secs(60);

/// State that the decrypt end needs beyond what both ends share.
pub(super) struct DecryptEnd {
    pub(super) handshake: AcceptorHandshake,
    /// Slots of tunnels that wait to be opened.
    pub(super) unopened: Slots,
    pub(super) targets: Services,
    /// Those that the gate lets in may look whether the port is open: they have knocked, and wait
    /// for that.
    pub(super) is_looked_at: bool,
}

/// A connection from a dialer that is proven live.
struct AuthenticatedConnection {
    sealed: Stream,
    client: AdmittedClient,
    authenticated: Authenticated,
}

/// A connection that did not prove itself.
enum Stranger {
    /// It has ended.
    Ended,
    /// The gate revoked its permit; it is treated as denied.
    Revoked(Stream),
}

// === accept and handshake ===

impl DecryptEnd {
    /// Serves an accepted connection until it is proven live. Its session runs in a separate task:
    /// strangers are many, and must need little memory.
    pub(super) async fn serve(self: Arc<Self>, context: Arc<TunnelContext>, accepted: Accepted) {
        let Some(admitted) = context.frontend.admit(accepted).await else { return };
        let Admitted { stream, client, limits, arrival: _arrival, .. } = admitted;
        match self.authenticate(&context, stream, client, &limits).await {
            Ok(connection) => {
                let opening = Arc::clone(&self).open(Arc::clone(&context), connection);
                context.frontend.tasks.spawn(run_opened(opening));
            }
            Err(Stranger::Revoked(stream)) => context.frontend.deny(stream, || limits),
            Err(Stranger::Ended) => {}
        }
    }

    /// Finds out whether a connection is from a live dialer.
    ///
    /// # Errors
    /// [`Stranger`] when it is not.
    async fn authenticate(
        &self,
        context: &TunnelContext,
        mut sealed: Stream,
        client: AdmittedClient,
        limits: &HandshakeLimits,
    ) -> Result<Box<AuthenticatedConnection>, Stranger> {
        let frontend = &context.frontend;
        match self.shake_hands(context, &mut sealed, &client, limits).await {
            Ok(authenticated) => {
                client.prove(authenticated.session.key);
                // If the client was banned meanwhile, its proof clears no strikes.
                if let (Some(gate), Some(peer), false) =
                    (&frontend.gate, client.peer, client.is_revoked())
                {
                    gate.succeeded(peer);
                }
                Ok(Box::new(AuthenticatedConnection { sealed, client, authenticated }))
            }
            Err(failure) if (client.is_balancers || self.is_looked_at) && failure.is_nothing() => {
                frontend.probed(client.address);
                sealed.reset();
                Err(Stranger::Ended)
            }
            Err(failure) => {
                frontend.refused_speaking(failure.reason, failure.speech(), client.address);
                if failure.is_fault() {
                    frontend.strike(&client);
                }
                if failure.reason == CloseReason::Revoked {
                    return Err(Stranger::Revoked(sealed));
                }
                sealed.reset();
                Err(Stranger::Ended)
            }
        }
    }

    /// Shakes hands, as long as the handshake slot and the permit are valid.
    async fn shake_hands(
        &self,
        context: &TunnelContext,
        sealed: &mut Stream,
        client: &AdmittedClient,
        limits: &HandshakeLimits,
    ) -> Result<Authenticated, HandshakeFailure> {
        let mut failure = HandshakeFailure::from(CloseReason::HandshakeFailed);
        let began = Instant::now();
        let is_authentic = || {
            if client.is_revoked() {
                return Err(CloseReason::Revoked);
            }
            limits.slot.authenticate();
            Ok(())
        };
        let accepted = self.handshake.accept_handshake(sealed, &mut failure, &is_authentic);
        let ended = tokio::select! {
            biased;
            () = client.revoked() => Err(Some(CloseReason::Revoked)),
            accepted = timeout_at(limits.deadline, accepted) => accepted.ok().flatten().ok_or(None),
            () = limits.slot.evicted() => Err(Some(CloseReason::Evicted)),
            () = context.frontend.handshake_grace() => Err(None),
        };
        match ended {
            Ok(authenticated) => {
                context.frontend.meters.handshake.done(began.into());
                Ok(authenticated)
            }
            Err(reason) => {
                failure.is_cut = reason.is_none() && context.frontend.stop.is_cancelled();
                failure.reason = reason.unwrap_or(failure.reason);
                Err(failure)
            }
        }
    }
}

// === open ===

impl DecryptEnd {
    /// Opens the session of a live dialer: at once, or once it asks for one.
    async fn open(
        self: Arc<Self>,
        context: Arc<TunnelContext>,
        connection: Box<AuthenticatedConnection>,
    ) -> Option<Box<EstablishedSession>> {
        let AuthenticatedConnection { mut sealed, client, mut authenticated } = *connection;
        let open = match std::mem::replace(&mut authenticated.event, Event::Confirmed) {
            Event::Open(open) => Ok(open),
            // Only opened sessions are kept or drained; an unopened one ends when revoked.
            _ => tokio::select! {
                biased;
                () = client.revoked() => Err(CloseReason::Revoked),
                reason = context.frontend.cut() => Err(reason),
                open = self.await_open(&mut sealed, &mut authenticated) => open,
                () = context.frontend.stop.cancelled() => Err(CloseReason::Shutdown),
            },
        };
        // The permit may have been revoked between the accept and the first record.
        let open = match open {
            Ok(_) if client.is_revoked() => Err(CloseReason::Revoked),
            open => open,
        };
        let Authenticated { mut session, already_read, .. } = authenticated;
        match open {
            Ok(open) => {
                let client = Arc::new(client);
                let request = OpenRequest { sealed, client, already_read, open };
                connect_target(&context, &self.targets, request, session).await
            }
            Err(reason) => {
                log_unopened(&context, &client, &session, reason);
                send_reset(&mut sealed, &mut session, reason).await;
                None
            }
        }
    }

    /// Waits for the Open that follows a Confirm in time.
    async fn await_open(
        &self,
        sealed: &mut Stream,
        Authenticated { session, already_read, .. }: &mut Authenticated,
    ) -> Result<Open, CloseReason> {
        let _waiting = self.unopened.try_acquire().ok_or(CloseReason::LimitReached)?;
        match timeout(UNOPENED, next_event(sealed, session, already_read)).await {
            Ok(Ok(Event::Open(open))) => Ok(open),
            Ok(Ok(Event::Reset(reason))) => Err(from_remote(reason)),
            Ok(Ok(_)) => Err(CloseReason::ProtocolError),
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err(CloseReason::Unopened),
        }
    }
}

/// Logs the end of a tunnel that was never opened. The tunnels of a pool get no line each; a reason
/// that ends a whole pool at once is counted.
fn log_unopened(
    context: &TunnelContext,
    client: &AdmittedClient,
    session: &Session,
    reason: CloseReason,
) {
    let address = client.address;
    debug!(client = %address, %reason, "unopened tunnel ended");
    match reason {
        CloseReason::Unopened | CloseReason::PeerShutdown | CloseReason::Shutdown => {
            context.frontend.meters.closed.count(reason);
        }
        CloseReason::Truncated
        | CloseReason::PeerLost
        | CloseReason::LimitReached
        | CloseReason::Revoked => drop(context.frontend.refused(reason, address)),
        _ => {
            let mut log = SessionLog::new(&context.frontend, address);
            log.keyed = Some(Keyed { key: session.key, suite: session.suite });
            log.refused(reason, &"before it asked for a service");
        }
    }
}
