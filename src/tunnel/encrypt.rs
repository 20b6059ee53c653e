//! The encrypt end, connection by connection: plain in, sealed out.
//!
//! ```text
//!   accept plain -> admit -> warm tunnel, or dial the far end and shake hands (warm_or_new)
//!                -> Open -> session
//! ```
//!
//! A client that cannot be served sees a reset, and this end's log the cause.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::access_log::SessionLog;
use super::context::TunnelContext;
use super::dial_far_end::{CallLimits, Called, DialerHandshake};
use super::loops::{self, Pair};
use super::pool::Pool;
use super::reset_reasons;
use super::session::{AnswerDeadline, EstablishedSession, Held, SessionParts, run_opened};
use super::warm::{AnswerDue, Opened, Warm};
use crate::addr::ServiceName;
use crate::frontend::{Accepted, Admitted, AdmittedClient, Termination};
use crate::net::Stream;
use crate::proto::Session;
use crate::proto::message::Open;
use crate::reason::CloseReason;
use crate::upstream::{AllFailed, ConnectFailure, Targets};

/// Time that a lazy end waits for a client's first byte: it delays a service that speaks first by
/// as much.
const LAZY: Duration = Duration::from_secs(1);

/// Detail in the log of a client that was ended before there was a tunnel.
pub(super) const NOT_ANSWERED: &str = "before the far end answered";

/// State that the encrypt end needs beyond what both ends share.
pub(super) struct EncryptEnd {
    /// One for each far end, because their clocks differ.
    pub(super) dialers: Vec<DialerHandshake>,
    pub(super) far_ends: Arc<Targets>,
    pub(super) service: ServiceName,
    /// The service is asked for only once the client has sent something, or was silent for
    /// [`LAZY`].
    pub(super) is_lazy: bool,
    pub(super) pool: Pool,
    /// Notified when an operator wants knocks.
    pub(super) knock_again: Notify,
}

/// A client that waits for a tunnel.
pub(super) struct WaitingClient<'a> {
    pub(super) stream: &'a Stream,
    pub(super) client: &'a AdmittedClient,
    /// Addresses of its connection, if it has any.
    pub(super) pair: Option<Pair>,
    /// Ready when it has to end.
    pub(super) termination: &'a mut Termination,
}

/// A tunnel to one of the far ends, with no record sent yet.
pub(super) struct Established {
    pub(super) far_end: usize,
    pub(super) stream: Stream,
    pub(super) session: Session,
}

impl EncryptEnd {
    /// Serves an accepted connection to its end.
    pub(super) fn serve(
        self: Arc<Self>,
        context: Arc<TunnelContext>,
        accepted: Accepted,
    ) -> impl Future<Output = ()> + Send + 'static {
        run_opened(self.admit(context, accepted))
    }

    /// Admits a client, and connects it to a far end.
    async fn admit(
        self: Arc<Self>,
        context: Arc<TunnelContext>,
        accepted: Accepted,
    ) -> Option<Box<EstablishedSession>> {
        let admitted = context.frontend.admit(accepted).await?;
        let Admitted { stream, client, limits, slot, arrival: _arrival } = admitted;
        drop(limits);
        match context.frontend.count_session(client.address) {
            Ok(source) => {
                let held = Held { slot, source, passage: None };
                self.open(&context, stream, Arc::new(client), held).await
            }
            Err(_) => {
                context.frontend.refused(CloseReason::SourceLimit, client.address);
                None
            }
        }
    }

    /// Opens a tunnel for one admitted client, which will see a reset unless it ends cleanly.
    /// `None` on failure, which is logged.
    async fn open(
        self: &Arc<Self>,
        context: &TunnelContext,
        plain: Stream,
        client: Arc<AdmittedClient>,
        held: Held,
    ) -> Option<Box<EstablishedSession>> {
        let mut termination = context.frontend.termination(&client);
        let mut log = SessionLog::new(&context.frontend, client.address);
        log.info.service.clone_from(&self.service);
        let pair = Pair::of_accepted(&plain);
        let mut waiting =
            WaitingClient { stream: &plain, client: &client, pair, termination: &mut termination };
        if self.is_lazy {
            match is_probe(&mut waiting).await {
                Ok(false) => {}
                Ok(true) => {
                    context.frontend.probed(client.address);
                    plain.close();
                    return None;
                }
                Err(reason) => {
                    log.refused(reason, &"before it said anything");
                    return None;
                }
            }
        }
        let opened = self.open_tunnel(context, waiting, &mut log).await;
        match opened {
            Ok(opened) => {
                let Opened { stream: sealed, session, start, answer_due, .. } = opened;
                let idle_timeout = context.idle_timeout;
                let parts = SessionParts {
                    log,
                    plain,
                    sealed,
                    session,
                    start,
                    idle_timeout,
                    termination,
                    held,
                };
                Some(self.established(parts, answer_due))
            }
            Err(failed) => {
                log_refused(log, &failed.failure, context);
                None
            }
        }
    }

    fn established(
        self: &Arc<Self>,
        parts: SessionParts,
        answer_due: Option<Box<AnswerDue>>,
    ) -> Box<EstablishedSession> {
        let session = EstablishedSession::new(parts);
        match answer_due {
            Some(due) => session.unless_dead(self.answer_deadline(due)),
            None => session,
        }
    }

    fn answer_deadline(self: &Arc<Self>, due: Box<AnswerDue>) -> AnswerDeadline {
        let end = Arc::clone(self);
        let on_dead = move |due: &AnswerDue| end.swallowed(due.far_end, due.since);
        AnswerDeadline { due, on_dead: Box::new(on_dead) }
    }

    /// Returns the dialer of the far end of this name, if there is one.
    pub(super) fn dialer_of(&self, name: &str) -> Option<&DialerHandshake> {
        let place = (0..self.far_ends.count()).find(|&i| *self.far_ends.at(i).name == *name)?;
        self.dialers.get(place)
    }

    /// Opens a tunnel for a client, and tells the log to which far end it is, or was to be.
    async fn open_tunnel(
        &self,
        context: &TunnelContext,
        waiting: WaitingClient<'_>,
        log: &mut SessionLog,
    ) -> Result<Opened, AllFailed> {
        let open = Open { service: self.service.clone(), client: waiting.client.address };
        let opened = self.find_tunnel(context, waiting, &open).await;
        let far_end = opened.as_ref().map_or_else(|failed| failed.first, |opened| opened.far_end);
        log.info.target = Some(self.far_ends.at(far_end).name.clone());
        opened
    }

    /// Finds a tunnel that says Open, for a client that has a valid permit once there is one.
    async fn find_tunnel(
        &self,
        context: &TunnelContext,
        waiting: WaitingClient<'_>,
        open: &Open,
    ) -> Result<Opened, AllFailed> {
        loops::refuse_own_call(self.far_ends.id(), waiting.pair)
            .map_err(|failure| AllFailed { first: self.far_ends.first(), failure })?;
        let client = waiting.client;
        let mut tunnel = self.tunnel(context, waiting, open).await?;
        let first = tunnel.far_end;
        let failed = |failure| AllFailed { first, failure };
        if client.is_revoked() {
            context.frontend.tasks.spawn(tunnel.give_up());
            return Err(failed(ConnectFailure::new(CloseReason::Revoked, NOT_ANSWERED)));
        }
        tunnel.say_open(open).map_err(failed)?;
        Ok(tunnel)
    }

    /// Makes a tunnel for the pool.
    pub(super) async fn warm_up(
        self: Arc<Self>,
        context: Arc<TunnelContext>,
    ) -> Result<Warm, ConnectFailure> {
        let established = self.establish(&context, None, None).await;
        let established = established.map_err(|failed| failed.failure)?;
        let Established { far_end, stream, session } = established;
        Warm::confirm(far_end, stream, session).await.map_err(reset_reasons::failure)
    }

    /// Probes a far end with a tunnel that is never opened.
    ///
    /// # Errors
    /// [`ConnectFailure`] when it does not work.
    pub(super) async fn look_at(
        &self,
        far_end: usize,
        context: &TunnelContext,
    ) -> Result<(), ConnectFailure> {
        let call = Call { context, made_for: None, deadline: Instant::now() + context.timeout };
        let Called { stream, session, .. } = self.call(far_end, call, |_| {}).await?;
        let warm = Warm::confirm(far_end, stream, session).await.map_err(reset_reasons::failure)?;
        // The time that the far end takes to hang up is no part of the answer.
        context.frontend.tasks.spawn(warm.let_go());
        Ok(())
    }

    /// Dials the far ends and shakes hands, with a deadline for each, for the client with the
    /// addresses `made_for`, if there is one. `last` is the one to try after all others that are
    /// not down.
    pub(super) async fn establish(
        &self,
        context: &TunnelContext,
        made_for: Option<Pair>,
        last: Option<usize>,
    ) -> Result<Established, AllFailed> {
        let call = Call { context, made_for, deadline: Instant::now() + context.timeout };
        let reached = self.far_ends.reach(last, |far_end| self.establish_to(far_end, call)).await;
        reached.map(|(_, established)| established)
    }

    /// Establishes a tunnel to one far end, and measures the time, which clients wait for.
    async fn establish_to(
        &self,
        far_end: usize,
        call: Call<'_>,
    ) -> Result<Established, ConnectFailure> {
        let meters = &call.context.frontend.meters;
        let dialled = |began: Instant| meters.dial.done(began.into());
        let called = self.call(far_end, call, dialled).await?;
        meters.handshake.done(called.dialled.into());
        Ok(Established { far_end, stream: called.stream, session: called.session })
    }

    /// Dials one far end and shakes hands. `dialled` is called for each connection that is made,
    /// with the start time of its dial.
    async fn call(
        &self,
        far_end: usize,
        call: Call<'_>,
        dialled: impl Fn(Instant),
    ) -> Result<Called, ConnectFailure> {
        let Call { context, made_for, deadline } = call;
        // Until the far end has answered it may turn out to be this very tunnel.
        let calls = Mutex::new(vec![]);
        let dialer = &self.dialers[far_end];
        let dial = async |attempt| {
            let began = Instant::now();
            let target = self.far_ends.at(far_end);
            let stream = dialer.connect(target, &context.dial_options, attempt).await?;
            dialled(began);
            let call = loops::calls(self.far_ends.id(), &stream, made_for);
            calls.lock().unwrap_or_else(PoisonError::into_inner).extend(call);
            Ok(stream)
        };
        let limits = CallLimits::until(deadline, context.timeout);
        let called = dialer.call(dial, limits, &context.background()).await;
        called.map_err(|error| dialer.failure(error))
    }
}

/// Parameters of a call to a far end.
#[derive(Clone, Copy)]
struct Call<'a> {
    context: &'a TunnelContext,
    /// Addresses of the client's connection that it is for, if there is one and it has any.
    made_for: Option<Pair>,
    deadline: Instant,
}

/// Returns true when a client leaves before it has said something. One that ends its direction
/// so early is taken to be gone, since nothing but a write could tell.
///
/// # Errors
/// The reason why it has to go meanwhile.
async fn is_probe(waiting: &mut WaitingClient<'_>) -> Result<bool, CloseReason> {
    let readable = tokio::select! {
        biased;
        reason = &mut *waiting.termination => return Err(reason),
        readable = timeout(LAZY, waiting.stream.readable()) => readable,
    };
    Ok(match readable {
        Ok(Ok(has_bytes)) => !has_bytes,
        Ok(Err(_)) => true,
        Err(_) => false,
    })
}

/// Logs that a client got no tunnel.
fn log_refused(log: SessionLog, failure: &ConnectFailure, context: &TunnelContext) {
    match failure.reason {
        // The cause that one client fails for, every one does.
        CloseReason::NoAnswer | CloseReason::PeerUnreachable | CloseReason::Loop => {
            log.refused_as_all(&context.frontend, failure);
        }
        reason => log.refused(reason, &failure.detail),
    }
}

/// Returns true when the far end works and another tunnel would end in the same way.
pub(super) fn is_of_the_target(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::TargetRefused
            | CloseReason::TargetTimeout
            | CloseReason::TargetUnresolved
            | CloseReason::NoSuchService
    )
}
