//! What is left of a connection once both its sides are connected.
//!
//! A session may last for days and idle most of that time, so what it holds
//! decides how many a host can have. Whatever opened it (dials, handshakes,
//! timers) is a future of its own, and gone by now.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::encrypt::Entrance;
use super::introduce::Farewell;
use super::relay::{Start, relay};
use super::report::Report;
use super::rings::PassageGuard;
use super::warm::AnswerDue;
use crate::net::{Slot, SourceGuard, Stream};
use crate::observe::sessions::Live;
use crate::proto::Session;
use crate::reason::CloseReason;

/// A connection from its first relayed byte to its closing line.
pub(super) struct Connected {
    plain: Stream,
    sealed: Stream,
    session: Session,
    /// Boxed, because it is gone after the first bytes.
    start: Box<Start>,
    /// Ready when it has to end.
    farewell: Farewell,
    /// The deadline of an answer; gone once there is one.
    answer_due: Option<Box<(Box<AnswerDue>, Arc<Entrance>)>>,
    /// Where an operator sees it, and can end it.
    live: Live,
    _held: Held,
}

/// The slot of a session, its count against its source, and what tells that it goes on
/// where it could be one of a ring.
pub(super) type Held = (Option<Slot>, Option<SourceGuard>, Option<Box<PassageGuard>>);

impl Connected {
    /// Enters it among the live sessions.
    pub(super) fn new(
        report: Report,
        (plain, sealed): (Stream, Stream),
        (session, start, idle_timeout): (Session, Start, Option<Duration>),
        (farewell, held): (Farewell, Held),
    ) -> Box<Self> {
        let (live, start) = (report.enter(&session, idle_timeout), Box::new(start));
        let (answer_due, _held) = (None, held);
        Box::new(Self { plain, sealed, session, start, farewell, answer_due, live, _held })
    }

    /// As it is, as long as there is an answer in time.
    pub(super) fn unless_dead(
        mut self: Box<Self>,
        answer_due: Box<AnswerDue>,
        entrance: Arc<Entrance>,
    ) -> Box<Self> {
        self.answer_due = Some(Box::new((answer_due, entrance)));
        self
    }

    /// Relays to the end, and logs it.
    pub(super) async fn run(mut self: Box<Self>) {
        let (farewell, answer_due, live) = (&mut self.farewell, &mut self.answer_due, &self.live);
        let ended = pin!(poll_fn(|cx| match farewell.as_mut().poll(cx) {
            Poll::Pending if poll_dead(answer_due, live, cx).is_ready() => {
                Poll::Ready(CloseReason::PeerVanished)
            }
            Poll::Pending => live.poll_end(cx),
            ended => ended,
        }));
        let sides = (self.plain, &mut self.sealed);
        let session = (&mut self.session, self.live.traffic());
        let end = relay(sides, session, *self.start, ended).await;
        // Who reads the line may count on it that the connection is gone.
        drop(self.sealed);
        Report::of(&self.live).closed(&end);
    }
}

/// Ready when nothing came of what had to. Those that wait at the same far end are let go then.
fn poll_dead(
    answer_due: &mut Option<Box<(Box<AnswerDue>, Arc<Entrance>)>>,
    live: &Live,
    cx: &mut Context<'_>,
) -> Poll<()> {
    let Some((waiting, entrance)) = answer_due.as_deref_mut() else { return Poll::Pending };
    match waiting.poll_dead(cx, live.traffic().pulse.is_heard()) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(is_dead) => {
            if is_dead {
                entrance.swallowed(waiting.far_end, waiting.since);
            }
            *answer_due = None;
            if is_dead { Poll::Ready(()) } else { Poll::Pending }
        }
    }
}
