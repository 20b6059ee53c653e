//! A session from its first relayed byte to its closing line.
//!
//! A session may last for days and idle most of that time, so its memory decides how many a host
//! can have. Opening it (dials, handshakes, timers) happens in a separate future, which is gone by
//! now.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use super::access_log::SessionLog;
use super::loops::PassageGuard;
use super::relay::{End, Relayed, Sides, Start, relay};
use super::warm::AnswerDue;
use crate::frontend::Termination;
use crate::net::{Slot, SourceGuard, Stream};
use crate::observe::sessions::LiveSession;
use crate::proto::Session;
use crate::reason::CloseReason;

/// A session with both sides connected.
pub(super) struct EstablishedSession {
    sealed: Stream,
    session: Session,
    /// Boxed, because the relay takes it over: it must not occupy memory twice.
    for_relay: Box<ForRelay>,
    /// Ready when it has to end.
    termination: Termination,
    /// The deadline of an answer; gone once there is one.
    answer_due: Option<Box<AnswerDeadline>>,
    /// Its entry among the live sessions, through which an operator can end it.
    live: LiveSession,
    _held: Held,
}

/// Parts that the relay owns.
struct ForRelay {
    plain: Stream,
    start: Start,
}

/// Parts of an established session.
pub(super) struct SessionParts {
    /// The log of its connection.
    pub(super) log: SessionLog,
    /// The plain side.
    pub(super) plain: Stream,
    /// The sealed side.
    pub(super) sealed: Stream,
    pub(super) session: Session,
    pub(super) start: Start,
    /// Longest time that it may be without application data.
    pub(super) idle_timeout: Option<Duration>,
    pub(super) termination: Termination,
    pub(super) held: Held,
}

/// Guards that a session holds to its end.
#[derive(Default)]
#[expect(dead_code, reason = "the guards act when they are dropped")]
pub(super) struct Held {
    /// Its slot.
    pub(super) slot: Option<Slot>,
    /// Its count against its source.
    pub(super) source: Option<SourceGuard>,
    /// Its entry for the detection of rings.
    pub(super) passage: Option<Box<PassageGuard>>,
}

/// Deadline of an answer on a tunnel that carries a client's bytes already.
pub(super) struct AnswerDeadline {
    pub(super) due: Box<AnswerDue>,
    /// Called when there was no answer.
    pub(super) on_dead: Box<dyn Fn(&AnswerDue) + Send>,
}

impl EstablishedSession {
    /// Creates the session and registers it as live.
    pub(super) fn new(parts: SessionParts) -> Box<Self> {
        let SessionParts { plain, sealed, session, start, termination, .. } = parts;
        let live = parts.log.enter(&session, parts.idle_timeout);
        let for_relay = Box::new(ForRelay { plain, start });
        let answer_due = None;
        let _held = parts.held;
        Box::new(Self { sealed, session, for_relay, termination, answer_due, live, _held })
    }

    /// Makes the session end if there is no answer in time.
    pub(super) fn unless_dead(mut self: Box<Self>, answer_due: AnswerDeadline) -> Box<Self> {
        self.answer_due = Some(Box::new(answer_due));
        self
    }

    /// Relays to the end, and logs it.
    pub(super) async fn run(mut self: Box<Self>) {
        let termination = &mut self.termination;
        let answer_due = &mut self.answer_due;
        let live = &self.live;
        let ended = pin!(poll_fn(|cx| match termination.as_mut().poll(cx) {
            Poll::Pending if poll_dead(answer_due, live, cx).is_ready() => {
                Poll::Ready(CloseReason::PeerVanished)
            }
            Poll::Pending => live.poll_end(cx),
            ended => ended,
        }));
        let relayed = Relayed { session: &mut self.session, traffic: self.live.traffic() };
        let end = self.for_relay.relay(&mut self.sealed, relayed, ended).await;
        // By the time of the log line the connection has to be closed.
        drop(self.sealed);
        SessionLog::closed(&self.live, &end);
    }
}

impl ForRelay {
    /// Relays. Not an `async fn`, which would keep the empty box to its end.
    #[expect(clippy::boxed_local, reason = "the box is to be freed here")]
    fn relay(
        self: Box<Self>,
        sealed: &mut Stream,
        relayed: Relayed<'_>,
        cut: Pin<&mut (impl Future<Output = CloseReason> + Send)>,
    ) -> impl Future<Output = End> + Send {
        let Self { plain, start } = *self;
        relay(Sides { plain, sealed }, relayed, start, cut)
    }
}

/// Runs the session that `opening` opens. The opening is a separate future that is dropped when it
/// is done, because the session may last for days.
pub(super) fn run_opened(
    opening: impl Future<Output = Option<Box<EstablishedSession>>> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let opening = Box::pin(opening);
    async move {
        if let Some(session) = opening.await {
            session.run().await;
        }
    }
}

/// Ready when there was no answer in time. Then older tunnels to the same far end are closed.
fn poll_dead(
    answer_due: &mut Option<Box<AnswerDeadline>>,
    live: &LiveSession,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let Some(AnswerDeadline { due, on_dead }) = answer_due.as_deref_mut() else {
        return Poll::Pending;
    };
    match due.poll_dead(cx, live.traffic().pulse.is_heard()) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(is_dead) => {
            if is_dead {
                on_dead(due);
            }
            *answer_due = None;
            if is_dead { Poll::Ready(()) } else { Poll::Pending }
        }
    }
}
