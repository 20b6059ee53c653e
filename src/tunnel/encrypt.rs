//! The encrypt end, connection by connection: plain in, sealed out.
//!
//! ```text
//!   accept plain -> warm tunnel, or dial the far end and shake hands
//!                -> Open -> connected
//! ```
//!
//! A client that cannot be served sees a reset, and this end's log the cause.

use std::sync::Arc;

use tokio::time::{Instant, timeout};
use tracing::debug;

use super::connected::{Connected, Held};
use super::introduce::Guest;
use super::pool::{Opened, Pool, Unmade, Warm};
use super::relay::Start;
use super::report::{Report, told_by_the_far_end};
use super::secure::Caller;
use super::serve::Shared;
use super::targets::{Targets, Unreached};
use crate::addr::ServiceName;
use crate::net::{DialError, Stream, dial};
use crate::observe::failures::Told;
use crate::proto::Session;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// What the encrypt end needs beyond what both ends do.
pub(super) struct Entrance {
    /// One for each far end: their clocks differ.
    pub(super) callers: Vec<Caller>,
    pub(super) far_ends: Arc<Targets>,
    pub(super) service: ServiceName,
    pub(super) pool: Pool,
}

/// Opens a tunnel for one accepted client, which is set to see a reset unless it
/// ends well. `None` when that cannot be; the log was told.
pub(super) async fn open(
    entrance: &Entrance,
    shared: &Arc<Shared>,
    (plain, guest): (Stream, Guest),
    held: Held,
) -> Option<Box<Connected>> {
    let client = guest.client;
    let mut farewell = shared.farewell(&Arc::new(guest));
    let mut report = Report::new(shared, client);
    report.service.clone_from(&entrance.service);
    let open = Open { service: entrance.service.clone(), client };
    let opened = tokio::select! {
        opened = entrance.open_tunnel(shared, &plain, &open) => opened,
        reason = &mut farewell => {
            let detail = "before the far end answered".to_owned();
            Err(Unreached { first: entrance.far_ends.first(), reason, detail })
        }
    };
    let far_end = opened.as_ref().map_or_else(|unreached| unreached.first, |opened| opened.far_end);
    report.target = Some(entrance.far_ends.at(far_end).name.clone());
    match opened {
        Ok(Opened { stream: sealed, session, start, .. }) => {
            let (sides, session) = ((plain, sealed), (session, start));
            Some(Connected::new(report, sides, session, (farewell, held)))
        }
        Err(unmade) => {
            refuse(shared, report, unmade);
            None
        }
    }
}

/// Where the far end is away every client fails for the same cause: the first
/// of them is told in full, the others are counted.
fn refuse(shared: &Shared, report: Report, Unreached { reason, detail, .. }: Unreached) {
    match reason {
        CloseReason::NoAnswer | CloseReason::PeerUnreachable => {
            match shared.tell_failure(reason, report.peer()) {
                Told::Now => report.refused(reason, &detail),
                Told::Later => report.repeated(reason, &detail),
            }
        }
        _ => report.refused(reason, &detail),
    }
}

impl Entrance {
    /// How the far end of this name is called, if there is one.
    pub(super) fn caller_of(&self, name: &str) -> Option<&Caller> {
        let place = (0..self.far_ends.count()).find(|&i| *self.far_ends.at(i).name == *name)?;
        self.callers.get(place)
    }

    /// A warm tunnel, or else one that is made for this client.
    async fn open_tunnel(
        &self,
        shared: &Shared,
        client: &Stream,
        open: &Open,
    ) -> Result<Opened, Unreached> {
        if let Some(warm) = self.pool.take(|far_end| self.far_ends.is_wanted(far_end)) {
            let (first, began) = (warm.far_end, std::time::Instant::now());
            let unreached = |(reason, detail)| Unreached { first, reason, detail };
            // The far end may spend its whole deadline on the target.
            match warm.open(open, client, shared.timeout * 2).await {
                Ok(opened) => return Ok(opened),
                Err(reason @ CloseReason::PlainReset) => {
                    return Err(unreached((reason, "before it sent anything".to_owned())));
                }
                Err(reason) if is_of_the_target(reason) => return Err(unreached(as_told(reason))),
                Err(reason) => {
                    debug!(%reason, "a warm tunnel was dead; dialling");
                    if reason == CloseReason::NoAnswer {
                        self.far_ends.failed(first, "a warm tunnel to it got no answer", began);
                    }
                }
            }
        }
        let (far_end, (stream, mut session)) = self.make_tunnel(shared).await?;
        self.pool.encourage();
        let mut first = vec![];
        if session.outbound.open(open, &mut first).is_err() {
            let (reason, detail) = (CloseReason::LocalError, "no record can be sealed".to_owned());
            return Err(Unreached { first: far_end, reason, detail });
        }
        let start = Start { first, already_read: vec![] };
        Ok(Opened { far_end, stream, session, start })
    }

    /// A tunnel for the pool.
    pub(super) async fn warm_up(self: Arc<Self>, shared: Arc<Shared>) -> Result<Warm, Unmade> {
        let (far_end, (stream, session)) = self
            .make_tunnel(&shared)
            .await
            .map_err(|Unreached { reason, detail, .. }| (reason, detail))?;
        Warm::confirm(far_end, stream, session).await.map_err(as_told)
    }

    /// Whether a far end works: a tunnel to it that nobody opens.
    ///
    /// # Errors
    /// What became of it instead.
    pub(super) async fn look_at(&self, far_end: usize, shared: &Shared) -> Result<(), Unmade> {
        let deadline = Instant::now() + shared.timeout;
        let (stream, session) = self.make_tunnel_to(far_end, shared, deadline).await?;
        let warm = Warm::confirm(far_end, stream, session).await.map_err(as_told)?;
        // What the far end takes to hang up is no part of the answer.
        tokio::spawn(warm.let_go());
        Ok(())
    }

    /// Dials the far ends and shakes hands: a deadline for each.
    async fn make_tunnel(&self, shared: &Shared) -> Result<(usize, (Stream, Session)), Unreached> {
        let deadline = Instant::now() + shared.timeout;
        self.far_ends.reach(|far_end| self.make_tunnel_to(far_end, shared, deadline)).await
    }

    async fn make_tunnel_to(
        &self,
        far_end: usize,
        shared: &Shared,
        deadline: Instant,
    ) -> Result<(Stream, Session), Unmade> {
        let dialled = self.dial(far_end, shared, deadline).await;
        let mut sealed = dialled.map_err(|error| (unreachable(&error), error.to_string()))?;
        let caller = &self.callers[far_end];
        let began = Instant::now();
        let called = timeout(shared.timeout, caller.call(&mut sealed)).await;
        match called.unwrap_or(Err(CloseReason::NoAnswer)) {
            Ok(session) => {
                shared.meters.handshake.done(began.into());
                Ok((sealed, session))
            }
            Err(reason) => Err((reason, what_to_check(reason))),
        }
    }

    async fn dial(
        &self,
        far_end: usize,
        shared: &Shared,
        deadline: Instant,
    ) -> Result<Stream, DialError> {
        let target = self.far_ends.at(far_end).resolver.current()?;
        let began = Instant::now();
        let sealed = dial(&target, shared.bind, &shared.socket, deadline).await?;
        shared.meters.dial.done(began.into());
        Ok(sealed)
    }
}

/// Whether the far end works and another tunnel would end in the same way.
fn is_of_the_target(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::TargetRefused
            | CloseReason::TargetTimeout
            | CloseReason::TargetUnresolved
            | CloseReason::NoSuchService
    )
}

fn as_told(reason: CloseReason) -> Unmade {
    let detail = told_by_the_far_end(reason).unwrap_or(&"the far end hung up");
    (reason, (*detail).to_owned())
}

fn unreachable(error: &DialError) -> CloseReason {
    match error {
        DialError::Local(_) => CloseReason::LocalError,
        _ => CloseReason::PeerUnreachable,
    }
}

/// An acceptor never says why it does not answer, so this end's log has to.
pub(super) const WHAT_TO_CHECK: &str = "check that it is a knockpipe decrypt, that it has this key, that both clocks agree within \
     two minutes, that its gate lets this address in (knockpipe gate why ADDRESS there), and that \
     neither its limits nor --suite keep this end out";

fn what_to_check(reason: CloseReason) -> String {
    match reason {
        CloseReason::NoAnswer => {
            format!("the far end can be reached but does not answer; {WHAT_TO_CHECK}")
        }
        _ => "this host could not give randomness or memory".to_owned(),
    }
}
