//! Connects the target of a live dialer that sent Open: a slot first, then the dial, then Opened.
//!
//! All waiting of an opened dialer happens here. Meanwhile it gets heartbeats, and its request ends
//! when it hangs up or its permit is revoked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::access_log::SessionLog;
use super::context::TunnelContext;
use super::handshake::poll_event;
use super::heartbeat::keep_beating;
use super::loops::{self, Announced};
use super::relay::{Start, send_reset_behind};
use super::reset_reasons::from_remote;
use super::session::{EstablishedSession, Held, SessionParts};
use crate::addr::{ClientAddr, ServiceName};
use crate::frontend::{AdmittedClient, Termination};
use crate::net::{Slot, SourceRefusal, Stream};
use crate::observe::sessions::Keyed;
use crate::proto::Session;
use crate::proto::inbound::Event;
use crate::proto::message::Open;
use crate::reason::CloseReason;
use crate::upstream::{ConnectFailure, Target, Targets};

/// Interval at which a dialer that waits for a session or its target is checked for its end once it
/// has sent something.
const LOOK: Duration = Duration::from_millis(500);
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// Targets by the name of their service.
pub(super) type Services = BTreeMap<ServiceName, Arc<Targets>>;

/// A request of a live dialer to open its tunnel.
pub(super) struct OpenRequest {
    pub(super) sealed: Stream,
    pub(super) client: Arc<AdmittedClient>,
    /// Bytes that were read after Open.
    pub(super) already_read: Vec<u8>,
    pub(super) open: Open,
}

/// A connected target with the resources of its session.
struct ConnectedTarget {
    plain: Stream,
    held: Held,
    targets: Arc<Targets>,
    place: usize,
}

/// A dialer that said Open and waits for its target.
struct WaitingDialer {
    request: OpenRequest,
    session: Session,
    /// Signs of life that the system did not take yet. They go before anything else.
    unsent: Vec<u8>,
    log: SessionLog,
}

/// Connects a live dialer that said Open to its target. `None` when that
/// cannot be; the dialer and the log were told.
pub(super) async fn connect_target(
    context: &TunnelContext,
    services: &Services,
    request: OpenRequest,
    session: Session,
) -> Option<Box<EstablishedSession>> {
    let mut termination = context.frontend.termination(&request.client);
    let mut dialer = WaitingDialer::new(context, request, session);
    let WaitingDialer { request, session, unsent, log } = &mut dialer;
    // It may take longer than the dialer waits for a sign of life.
    let connected = tokio::select! {
        biased;
        reason = &mut termination => Err(ended(reason)),
        connected = connect(context, services, request, log) => connected,
        never = keep_beating(&request.sealed, session, unsent) => match never {},
    };
    match connected {
        Ok(target) => Some(dialer.established(target, termination, context)),
        Err(failure) => {
            let reason = dialer.reset(failure.reason).await;
            dialer.log_refused(reason, &failure, context);
            None
        }
    }
}

// === impl WaitingDialer ===

impl WaitingDialer {
    fn new(context: &TunnelContext, request: OpenRequest, session: Session) -> Self {
        let mut log = SessionLog::new(&context.frontend, request.client.address);
        log.keyed = Some(Keyed { key: session.key, suite: session.suite });
        log.info.client = Some(request.open.client);
        log.info.service = request.open.service.clone();
        Self { request, session, unsent: vec![], log }
    }

    /// Says Opened, and makes a session of both connections.
    fn established(
        self,
        target: ConnectedTarget,
        termination: Termination,
        context: &TunnelContext,
    ) -> Box<EstablishedSession> {
        let Self { request, mut session, unsent: mut first, log } = self;
        let ConnectedTarget { plain, held, targets, place } = target;
        plain.reset_unless_finished();
        let opened = session.outbound.opened(&mut first);
        opened.expect("one of the first records of a session can be sealed");
        EstablishedSession::new(SessionParts {
            log,
            plain,
            sealed: request.sealed,
            session,
            start: Start { first, already_read: request.already_read },
            idle_timeout: context.idle_timeout,
            termination: unless_target_down(termination, &targets, place),
            held,
        })
    }

    /// Says Reset, and returns the reason for that: where the dialer has ended its direction,
    /// its last word.
    async fn reset(&mut self, reason: CloseReason) -> CloseReason {
        let OpenRequest { sealed, already_read, .. } = &mut self.request;
        let reason = match reason {
            CloseReason::Truncated => last_word(sealed, &mut self.session, already_read),
            reason => reason,
        };
        let unsent = std::mem::take(&mut self.unsent);
        send_reset_behind(unsent, sealed, &mut self.session, reason).await;
        reason
    }

    fn log_refused(self, reason: CloseReason, failure: &ConnectFailure, context: &TunnelContext) {
        match reason {
            CloseReason::Loop => self.log.refused_as_all(&context.frontend, failure),
            reason => self.log.refused(reason, &failure.detail),
        }
    }
}

/// Takes the resources of a session, and connects its target, which the log learns.
async fn connect(
    context: &TunnelContext,
    services: &Services,
    request: &OpenRequest,
    log: &mut SessionLog,
) -> Result<ConnectedTarget, ConnectFailure> {
    let OpenRequest { sealed, client, open, .. } = request;
    let announced = Announced::new(open.client, sealed);
    let targets = services.get(&open.service);
    // Checked before waiting for a slot, because a ring may have taken all of them.
    if let (Some(targets), Some(announced)) = (targets, announced) {
        log.info.target = Some(Arc::clone(&targets.at(targets.first()).name));
        loops::refuse_ring(targets.id(), announced)?;
    }
    let source = context.frontend.count_session(client.address);
    let source = source.map_err(|error| too_many(&error))?;
    let slot = slot(context, sealed, client).await?;
    if sealed.is_ended_by_peer() {
        return Err(ended(CloseReason::Truncated));
    }
    if client.is_revoked() {
        return Err(ended(CloseReason::Revoked));
    }
    let targets = targets.ok_or_else(no_such_service)?;
    log.info.target = Some(Arc::clone(&targets.at(targets.first()).name));
    let dialled = std::time::Instant::now();
    let (place, plain) = tokio::select! {
        biased;
        reached = reach(targets, context, open.client) => reached?,
        () = gone(sealed) => return Err(ended(CloseReason::Truncated)),
    };
    let passes = |announced| loops::passes(targets.id(), announced, dialled, &plain);
    let passage = announced.and_then(passes);
    let held = Held { slot: Some(slot), source, passage };
    log.info.target = Some(Arc::clone(&targets.at(place).name));
    Ok(ConnectedTarget { plain, held, targets: Arc::clone(targets), place })
}

/// Connects to one of the targets, and sends it the client's address if so configured.
async fn reach(
    targets: &Targets,
    context: &TunnelContext,
    client: ClientAddr,
) -> Result<(usize, Stream), ConnectFailure> {
    let deadline = Instant::now() + context.timeout;
    let attempt = |place| connect_to(targets.at(place), context, client, deadline);
    targets.reach(None, attempt).await.map_err(|failed| failed.failure)
}

async fn connect_to(
    target: &Target,
    context: &TunnelContext,
    client: ClientAddr,
    deadline: Instant,
) -> Result<Stream, ConnectFailure> {
    let began = Instant::now();
    let dialled = target.connect(&context.dial_options, deadline).await;
    let mut plain = dialled.map_err(|error| ConnectFailure::target(&error))?;
    context.frontend.meters.dial.done(began.into());
    context.dial_options.send_proxy_header(client, &mut plain, deadline).await?;
    Ok(plain)
}

/// Makes the session end when its target goes down, if so configured.
fn unless_target_down(termination: Termination, targets: &Targets, place: usize) -> Termination {
    let Some(fall) = targets.fall_of(place) else { return termination };
    Box::pin(async move {
        tokio::select! {
            reason = termination => reason,
            () = fall => CloseReason::TargetDown,
        }
    })
}

/// Waits without limit for a slot for a live dialer, while it is connected and its permit is valid.
/// The handshake slots for waiting dialers bound their number.
async fn slot(
    context: &TunnelContext,
    sealed: &Stream,
    client: &AdmittedClient,
) -> Result<Slot, ConnectFailure> {
    let frontend = &context.frontend;
    if let Some(slot) = frontend.slots.try_acquire() {
        return Ok(slot);
    }
    let waiting = frontend.pending.wait_for_session(client.address.source());
    let _waiting = waiting.ok_or_else(|| {
        let detail = "too many wait for a session; raise -n, or --max-handshakes for more to wait";
        ConnectFailure::new(CloseReason::LimitReached, detail)
    })?;
    tokio::select! {
        biased;
        // Only connected sessions are kept or drained.
        () = client.revoked() => Err(ended(CloseReason::Revoked)),
        slot = frontend.slot() => Ok(slot),
        () = gone(sealed) => Err(ended(CloseReason::Truncated)),
    }
}

/// Waits until the dialer has ended its direction, and so needs no target any more.
async fn gone(sealed: &Stream) {
    // Resolves at bytes, which mostly come a moment before the end, or at the end itself.
    let _ = sealed.readable().await;
    let mut pause = FIRST_LOOK;
    while !sealed.is_ended_by_peer() {
        sleep(pause).await;
        pause = (pause * 2).min(LOOK);
    }
}

/// Reason why a dialer that waits for its target has ended its direction.
fn last_word(
    sealed: &mut Stream,
    session: &mut Session,
    already_read: &mut Vec<u8>,
) -> CloseReason {
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        match poll_event(&mut cx, sealed, session, already_read) {
            // Bytes that its client had sent already are dropped.
            Poll::Ready(Ok(Event::Data(_) | Event::Fin)) => {}
            Poll::Ready(Ok(Event::Reset(reason))) => return from_remote(reason),
            Poll::Ready(Err(reason)) => return reason,
            Poll::Ready(Ok(_)) | Poll::Pending => return CloseReason::Truncated,
        }
    }
}

/// Creates the failure of a connection that ended before there was a target.
fn ended(reason: CloseReason) -> ConnectFailure {
    ConnectFailure::new(reason, "before the target was connected")
}

fn too_many(error: &SourceRefusal) -> ConnectFailure {
    ConnectFailure::new(CloseReason::SourceLimit, error.to_string())
}

fn no_such_service() -> ConnectFailure {
    ConnectFailure::new(
        CloseReason::NoSuchService,
        "add the service here with -t NAME=ADDRESS (or -t ADDRESS for those that name none), or correct --service there",
    )
}
