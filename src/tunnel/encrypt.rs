//! The encrypt end, connection by connection: plain in, sealed out.
//!
//! ```text
//!   accept plain -> warm tunnel, or dial the far end and shake hands (hedge)
//!                -> Open -> connected
//! ```
//!
//! A client that cannot be served sees a reset, and this end's log the cause.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::caller::{Called, Caller, Patience};
use super::connected::{Connected, Held};
use super::introduce::{Farewell, Guest};
use super::pool::Pool;
use super::report::Report;
use super::rings;
use super::shared::Shared;
use super::targets::{Targets, Unreached};
use super::unmade::Unmade;
use super::warm::{Opened, Warm};
use crate::addr::ServiceName;
use crate::net::Stream;
use crate::proto::Session;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// The time that a lazy end waits for a client's first byte: a service that speaks first does so
/// that much later.
const LAZY: Duration = Duration::from_secs(1);

/// What the log says of a client that had to go before there was a tunnel.
pub(super) const NOT_ANSWERED: &str = "before the far end answered";

/// What the encrypt end needs beyond what both ends do.
pub(super) struct Entrance {
    /// One for each far end: their clocks differ.
    pub(super) callers: Vec<Caller>,
    pub(super) far_ends: Arc<Targets>,
    pub(super) service: ServiceName,
    /// Nobody is asked for the service before the client said something, or was silent for
    /// [`LAZY`].
    pub(super) is_lazy: bool,
    pub(super) pool: Pool,
}

/// Opens a tunnel for one accepted client, which is set to see a reset unless it
/// ends well. `None` when that cannot be; the log was told.
pub(super) async fn open(
    entrance: &Arc<Entrance>,
    shared: &Arc<Shared>,
    (plain, guest): (Stream, Guest),
    held: Held,
) -> Option<Box<Connected>> {
    let (client, guest) = (guest.client, Arc::new(guest));
    let mut farewell = shared.farewell(&guest);
    let mut report = Report::new(shared, client);
    report.service.clone_from(&entrance.service);
    if entrance.is_lazy {
        let is_probe = tokio::select! {
            biased;
            reason = &mut farewell => {
                report.refused(reason, &"before it said anything");
                return None;
            }
            is_probe = is_probe(&plain) => is_probe,
        };
        if is_probe {
            shared.probed(client);
            plain.close();
            return None;
        }
    }
    let open = Open { service: entrance.service.clone(), client };
    let waiting = (&plain, &*guest, &mut farewell);
    let opened = entrance.open_tunnel(shared, waiting, &open).await;
    let far_end = opened.as_ref().map_or_else(|unreached| unreached.first, |opened| opened.far_end);
    report.target = Some(entrance.far_ends.at(far_end).name.clone());
    match opened {
        Ok(Opened { stream: sealed, session, start, answer_due, .. }) => {
            let (sides, session) = ((plain, sealed), (session, start, shared.idle_timeout));
            let connected = Connected::new(report, sides, session, (farewell, held));
            Some(match answer_due {
                Some(answer_due) => connected.unless_dead(answer_due, Arc::clone(entrance)),
                None => connected,
            })
        }
        Err(Unreached { why, .. }) => {
            match why.reason {
                // What one client fails for, every one does.
                CloseReason::NoAnswer | CloseReason::PeerUnreachable | CloseReason::Loop => {
                    report.refused_as_all(shared, &why);
                }
                reason => report.refused(reason, &why.detail),
            }
            None
        }
    }
}

/// Whether a client leaves before it has said something. One that ends its direction so
/// early is taken to be gone, since nothing but a write could tell.
async fn is_probe(client: &Stream) -> bool {
    match timeout(LAZY, client.unquiet()).await {
        Ok(Ok(has_bytes)) => !has_bytes,
        Ok(Err(_)) => true,
        Err(_) => false,
    }
}

impl Entrance {
    /// How the far end of this name is called, if there is one.
    pub(super) fn caller_of(&self, name: &str) -> Option<&Caller> {
        let place = (0..self.far_ends.count()).find(|&i| *self.far_ends.at(i).name == *name)?;
        self.callers.get(place)
    }

    /// A tunnel that says Open, for a client that may still come in once there is one.
    async fn open_tunnel(
        &self,
        shared: &Shared,
        (client, guest, farewell): (&Stream, &Guest, &mut Farewell),
        open: &Open,
    ) -> Result<Opened, Unreached> {
        rings::refuse_own_call(self.far_ends.id, client)
            .map_err(|why| Unreached { first: self.far_ends.first(), why })?;
        let mut tunnel = self.tunnel(shared, (client, farewell), open).await?;
        let first = tunnel.far_end;
        let unreached = |why| Unreached { first, why };
        if guest.is_revoked() {
            shared.tasks.spawn(tunnel.give_up());
            return Err(unreached(Unmade::new(CloseReason::Revoked, NOT_ANSWERED)));
        }
        tunnel.say_open(open).map_err(unreached)?;
        Ok(tunnel)
    }

    /// A tunnel for the pool.
    pub(super) async fn warm_up(self: Arc<Self>, shared: Arc<Shared>) -> Result<Warm, Unmade> {
        let made = self.make_tunnel(&shared, None, None).await;
        let (far_end, (stream, session)) = made.map_err(|unreached| unreached.why)?;
        Warm::confirm(far_end, stream, session).await.map_err(Unmade::told)
    }

    /// Whether a far end works: a tunnel to it that nobody opens.
    ///
    /// # Errors
    /// What became of it instead.
    pub(super) async fn look_at(&self, far_end: usize, shared: &Shared) -> Result<(), Unmade> {
        let deadline = Instant::now() + shared.timeout;
        let Called { stream, session, .. } =
            self.call(far_end, (shared, None), (deadline, |_| {})).await?;
        let warm = Warm::confirm(far_end, stream, session).await.map_err(Unmade::told)?;
        // What the far end takes to hang up is no part of the answer.
        shared.tasks.spawn(warm.let_go());
        Ok(())
    }

    /// Dials the far ends and shakes hands, for a client if there is one: a deadline for each.
    /// `last` is the one that is tried after all others that are not down.
    pub(super) async fn make_tunnel(
        &self,
        shared: &Shared,
        client: Option<&Stream>,
        last: Option<usize>,
    ) -> Result<(usize, (Stream, Session)), Unreached> {
        let deadline = Instant::now() + shared.timeout;
        self.far_ends
            .reach(last, |far_end| self.make_tunnel_to(far_end, (shared, client), deadline))
            .await
    }

    /// With clients in mind: this is what they wait for, and what is timed.
    async fn make_tunnel_to(
        &self,
        far_end: usize,
        (shared, client): (&Shared, Option<&Stream>),
        deadline: Instant,
    ) -> Result<(Stream, Session), Unmade> {
        let dialled = |began: Instant| shared.meters.dial.done(began.into());
        let called = self.call(far_end, (shared, client), (deadline, dialled)).await?;
        shared.meters.handshake.done(called.dialled.into());
        Ok((called.stream, called.session))
    }

    /// `dialled` is told when the dial of each connection began that is there.
    async fn call(
        &self,
        far_end: usize,
        (shared, client): (&Shared, Option<&Stream>),
        (deadline, dialled): (Instant, impl Fn(Instant)),
    ) -> Result<Called, Unmade> {
        // Until the far end has answered it may turn out to be this one.
        let calls = Mutex::new(vec![]);
        let dial = async |deadline| {
            let began = Instant::now();
            let stream = self.far_ends.at(far_end).dial(&shared.dialling, deadline).await?;
            dialled(began);
            let call = rings::calls(self.far_ends.id, &stream, client);
            calls.lock().unwrap_or_else(PoisonError::into_inner).extend(call);
            Ok(stream)
        };
        let patience = Patience { deadline, answer: shared.timeout };
        let called = self.callers[far_end].call(dial, patience, &shared.background()).await;
        called.map_err(Unmade::from)
    }
}

/// Whether the far end works and another tunnel would end in the same way.
pub(super) fn is_of_the_target(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::TargetRefused
            | CloseReason::TargetTimeout
            | CloseReason::TargetUnresolved
            | CloseReason::NoSuchService
    )
}
