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

use super::connected::Connected;
use super::introduce::Guest;
use super::pool::{Opened, Pool, Unmade, Warm};
use super::relay::Start;
use super::report::{Report, told_by_the_far_end};
use super::secure::Caller;
use super::serve::Shared;
use crate::addr::ServiceName;
use crate::net::{DialError, Resolver, Slot, SourceGuard, Stream, dial};
use crate::observe::failures::Told;
use crate::proto::Session;
use crate::proto::message::Open;
use crate::reason::CloseReason;

/// What the encrypt end needs beyond what both ends do.
pub(super) struct Entrance {
    pub(super) caller: Caller,
    pub(super) far_end: Resolver,
    /// How the log names the far end.
    pub(super) far_end_name: Arc<str>,
    pub(super) service: ServiceName,
    pub(super) pool: Pool,
}

/// Opens a tunnel for one accepted client, which is set to see a reset unless it
/// ends well. `None` when that cannot be; the log was told.
pub(super) async fn open(
    entrance: &Entrance,
    shared: &Arc<Shared>,
    (plain, guest): (Stream, Guest),
    held: (Option<Slot>, Option<SourceGuard>),
) -> Option<Box<Connected>> {
    let client = guest.client;
    let mut farewell = shared.farewell(&Arc::new(guest));
    let mut report = Report::new(shared, client);
    report.target = Some(Arc::clone(&entrance.far_end_name));
    report.service.clone_from(&entrance.service);
    let open = Open { service: entrance.service.clone(), client };
    let opened = tokio::select! {
        opened = entrance.open_tunnel(shared, &plain, &open) => opened,
        reason = &mut farewell => Err((reason, "before the far end answered".to_owned())),
    };
    match opened {
        Ok(Opened { stream: sealed, session, start }) => {
            report.session = Some((session.key, session.suite));
            Some(Box::new(Connected {
                live: report.enter(&session),
                plain,
                sealed,
                session,
                start,
                farewell,
                report,
                _held: held,
            }))
        }
        Err(unmade) => {
            refuse(shared, report, unmade);
            None
        }
    }
}

/// Where the far end is away every client fails for the same cause: the first
/// of them is told in full, the others are counted.
fn refuse(shared: &Shared, report: Report, (reason, detail): Unmade) {
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
    /// A warm tunnel, or else one that is made for this client.
    async fn open_tunnel(
        &self,
        shared: &Shared,
        client: &Stream,
        open: &Open,
    ) -> Result<Opened, Unmade> {
        if let Some(warm) = self.pool.take() {
            // The far end may spend its whole deadline on the target.
            match warm.open(open, client, shared.timeout * 2).await {
                Ok(opened) => return Ok(opened),
                Err(CloseReason::PlainReset) => {
                    return Err((CloseReason::PlainReset, "before it sent anything".to_owned()));
                }
                Err(reason) if is_of_the_target(reason) => return Err(as_told(reason)),
                Err(reason) => debug!(%reason, "a warm tunnel was dead; dialling"),
            }
        }
        let (stream, mut session) = self.make_tunnel(shared).await?;
        self.pool.encourage();
        let mut first = vec![];
        let sealed = session.outbound.open(open, &mut first);
        sealed.map_err(|_| (CloseReason::LocalError, "no record can be sealed".to_owned()))?;
        let start = Start { first, already_read: vec![] };
        Ok(Opened { stream, session, start })
    }

    /// A tunnel for the pool.
    pub(super) async fn warm_up(self: Arc<Self>, shared: Arc<Shared>) -> Result<Warm, Unmade> {
        let (stream, session) = self.make_tunnel(&shared).await?;
        Warm::confirm(stream, session).await.map_err(as_told)
    }

    /// Dials the far end and shakes hands: a deadline for each.
    async fn make_tunnel(&self, shared: &Shared) -> Result<(Stream, Session), Unmade> {
        let mut sealed =
            self.dial(shared).await.map_err(|error| (unreachable(&error), error.to_string()))?;
        let began = Instant::now();
        let called = timeout(shared.timeout, self.caller.call(&mut sealed)).await;
        match called.unwrap_or(Err(CloseReason::NoAnswer)) {
            Ok(session) => {
                shared.meters.handshake.done(began.into());
                Ok((sealed, session))
            }
            Err(reason) => {
                self.caller.failed();
                Err((reason, what_to_check(reason)))
            }
        }
    }

    async fn dial(&self, shared: &Shared) -> Result<Stream, DialError> {
        let began = Instant::now();
        let deadline = began + shared.timeout;
        let sealed = dial(&self.far_end.current()?, shared.bind, &shared.socket, deadline).await?;
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
