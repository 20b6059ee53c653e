//! One warm tunnel, from the pool to its client.
//!
//! ```text
//!   in the pool -> Open is said -> Asked -- answer --------------------> in use
//!                                     | the client speaks, and this was
//!                                     | heard a moment ago ---------------> in use, and watched
//!                                     +- silence -> another is made meanwhile (warm_or_new)
//! ```
//!
//! A path that broke silently shows only in missing answers. So a client's bytes are sent on a
//! tunnel only once its far end has answered, or if it was heard a moment ago: waiting in that case
//! would cost the round trip that a pool saves.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tokio_util::task::TaskTracker;

use super::handshake::{next_event, poll_event, say_open};
use super::heartbeat::AT_WORK;
use super::relay::{Start, send_reset};
use super::reset_reasons::from_remote;
use crate::net::Stream;
use crate::net::stream::Witness;
use crate::proto::Session;
use crate::proto::inbound::Event;
use crate::proto::message::Open;
use crate::reason::CloseReason;
use crate::upstream::ConnectFailure;

/// Time for an answer beyond a round trip: the far end's own work, and a delayed acknowledgement of
/// its system.
const MARGIN: Duration = Duration::from_millis(100);

/// Time by which an answer on a warm tunnel may come after the handshake of another, where a
/// stalled path or far end delayed both.
const GRACE: Duration = Duration::from_millis(20);

/// Time to read bytes that arrived during a halt of this end, when the timers fire first.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// A tunnel that waits to be opened.
pub(super) struct Warm {
    /// Index of the far end.
    pub(super) far_end: usize,
    stream: Stream,
    session: Session,
    /// Bytes that were read and are no complete record.
    already_read: Vec<u8>,
}

/// A warm tunnel on which Open was sent for a client.
pub(super) struct Asked {
    warm: Warm,
    /// Moment when Open was sent.
    pub(super) since: Instant,
    /// The far end was heard a moment before.
    is_trusted: bool,
    heard: AnswerState,
}

/// The far end's answer to Open, so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AnswerState {
    Nothing,
    /// A heartbeat: it is dialling the target.
    AtWork,
    Opened,
}

/// Outcome for a client of a tunnel on which Open was sent.
pub(super) enum Answer {
    /// The tunnel is this client's.
    Ours,
    /// An answer is overdue.
    Silence,
    /// The tunnel has ended; none of the client's bytes are lost.
    Ended(CloseReason),
    /// The client has reset its connection.
    ClientGone,
    /// The client has to end.
    NotWanted(CloseReason),
}

/// A tunnel for a client, and the beginning of its relay.
pub(super) struct Opened {
    pub(super) far_end: usize,
    pub(super) stream: Stream,
    pub(super) session: Session,
    pub(super) start: Start,
    /// True if Open was sent; otherwise nothing was sent.
    pub(super) is_open: bool,
    /// Set where the client's bytes are sent before an answer.
    pub(super) answer_due: Option<Box<AnswerDue>>,
}

/// Deadline of an answer on a tunnel that carries a client's bytes already.
pub(super) struct AnswerDue {
    /// Index of the far end, and the moment when Open was sent.
    pub(super) far_end: usize,
    pub(super) since: Instant,
    deadline: Pin<Box<Sleep>>,
    /// The deadline has passed, and bytes that arrived before it are being read.
    is_second_look: bool,
    /// The far end sends a heartbeat while it dials its target.
    is_agreed: bool,
    witness: Option<Witness>,
}

// === impl Warm ===

impl Warm {
    /// Sends Confirm: this end is live and opens later.
    ///
    /// # Errors
    /// [`CloseReason::PeerLost`] when the far end is gone.
    pub(super) async fn confirm(
        far_end: usize,
        mut stream: Stream,
        mut session: Session,
    ) -> Result<Self, CloseReason> {
        let mut record = vec![];
        session.outbound.confirm(&mut record).map_err(|_| CloseReason::LocalError)?;
        stream.write_all(&record).await.map_err(|_| CloseReason::PeerLost)?;
        stream.wait_for_use();
        Ok(Self { far_end, stream, session, already_read: vec![] })
    }

    /// Returns true while the far end has sent nothing, not even the end.
    pub(super) fn is_idle(&self) -> bool {
        self.stream.is_idle()
    }

    /// Sends Open.
    ///
    /// # Errors
    /// The reason; none of the client's bytes are lost.
    pub(super) async fn ask(mut self, open: &Open) -> Result<Asked, CloseReason> {
        let is_trusted = self.stream.is_heard_lately();
        self.stream = self.stream.reregister().map_err(|_| CloseReason::LocalError)?;
        self.stream.use_again();
        say_open(&mut self.stream, &mut self.session, open).await?;
        Ok(Asked { warm: self, since: Instant::now(), is_trusted, heard: AnswerState::Nothing })
    }

    /// Resolves when the far end has ended this; it may send nothing else.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Self { stream, session, already_read, .. } = self;
        poll_event(cx, stream, session, already_read).map(|event| match event {
            Ok(Event::Reset(reason)) => from_remote(reason),
            Ok(_) => CloseReason::ProtocolError,
            Err(reason) => reason,
        })
    }

    /// Returns the reason why a tunnel ends on which the far end has sent something, as far as it
    /// has arrived.
    pub(super) fn reason_to_end(&mut self) -> CloseReason {
        match self.poll_ended(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reason) => reason,
            // The beginning of a record.
            Poll::Pending => CloseReason::Unopened,
        }
    }

    /// Ends it in a way that the far end does not count as a failure.
    pub(super) async fn let_go(self) {
        self.reset(CloseReason::Unopened).await;
    }

    /// Ends it; the far end is told the reason, unless it ended the tunnel itself.
    pub(super) async fn reset(mut self, reason: CloseReason) {
        send_reset(&mut self.stream, &mut self.session, reason).await;
    }
}

// === impl Asked ===

impl Asked {
    /// Returns the index of the far end.
    pub(super) fn far_end(&self) -> usize {
        self.warm.far_end
    }

    /// Waits until the tunnel is known to work, or is trusted enough for the client's first bytes,
    /// or owes an answer. Nothing is lost when it is not called again.
    pub(super) async fn answer(&mut self, client: &Stream, timeout: Duration) -> Answer {
        let answer = self.first_answer(client, timeout);
        match answer.await {
            // The client's bytes may be sent now. While it has none, there is time for another
            // tunnel to replace this one.
            Answer::Ours if self.heard == AnswerState::AtWork => {
                self.opened_by(client, self.since + timeout).await
            }
            answer => answer,
        }
    }

    async fn first_answer(&mut self, client: &Stream, timeout: Duration) -> Answer {
        let is_trusted = self.is_trusted;
        tokio::select! {
            biased;
            answer = self.in_time(timeout) => answer,
            answer = spoken(client, is_trusted) => answer,
        }
    }

    /// Does the same as [`Self::answer`] until `deadline`, but accepts nothing less than an answer.
    pub(super) async fn late_answer(&mut self, client: &Stream, deadline: Instant) -> Answer {
        tokio::select! {
            biased;
            answer = self.until(deadline) => answer.unwrap_or(Answer::Silence),
            answer = spoken(client, false) => answer,
        }
    }

    async fn opened_by(&mut self, client: &Stream, deadline: Instant) -> Answer {
        let opened = async {
            loop {
                match self.until(deadline).await {
                    Some(Answer::Ours) if self.heard == AnswerState::AtWork => {}
                    Some(answer) => return answer,
                    // Longer waits are for the relay, which sends its own heartbeats.
                    None => return Answer::Ours,
                }
            }
        };
        tokio::select! {
            biased;
            answer = opened => answer,
            answer = spoken(client, true) => answer,
        }
    }

    /// Waits for an answer until it is overdue. If the far end's system has not even acknowledged
    /// Open, that is soon; a far end that works sends heartbeats; and where those are not agreed
    /// on, only the timeout decides.
    async fn in_time(&mut self, timeout: Duration) -> Answer {
        let round_trip = self.warm.stream.round_trip();
        let longest = timeout / 2;
        let soon = (round_trip + MARGIN).min(longest);
        if let Some(answer) = self.until(self.since + soon).await {
            return answer;
        }
        if !self.warm.stream.is_unacknowledged() {
            let by_its_word = (round_trip + AT_WORK + MARGIN).min(longest);
            let late = if self.is_agreed() { by_its_word } else { longest };
            if let Some(answer) = self.until(self.since + late).await {
                return answer;
            }
        }
        Answer::Silence
    }

    /// Waits for an answer until `deadline`.
    async fn until(&mut self, deadline: Instant) -> Option<Answer> {
        let Warm { stream, session, already_read, .. } = &mut self.warm;
        let event = match timeout_at(deadline, next_event(stream, session, already_read)).await {
            Ok(event) => event,
            Err(_) => {
                // After a halt of this end the deadline passes before the runtime has seen the
                // bytes that arrived.
                yield_now().await;
                let here = poll_fn(|cx| {
                    Poll::Ready(match poll_event(cx, stream, session, already_read) {
                        Poll::Ready(event) => Some(event),
                        Poll::Pending => None,
                    })
                });
                here.await?
            }
        };
        self.heard = match event {
            Ok(Event::Opened) => AnswerState::Opened,
            Ok(Event::Data(_)) => AnswerState::AtWork,
            Ok(Event::Reset(reason)) => return Some(Answer::Ended(from_remote(reason))),
            Ok(_) => return Some(Answer::Ended(CloseReason::ProtocolError)),
            Err(reason) => return Some(Answer::Ended(reason)),
        };
        Some(Answer::Ours)
    }

    fn is_agreed(&self) -> bool {
        self.warm.session.heartbeats.agreed
    }

    /// Returns true when its silence shows that the path or the far end is broken.
    pub(super) fn is_dead(&self) -> bool {
        self.is_agreed() || self.warm.stream.is_unacknowledged()
    }

    /// Returns true when nothing arrives even now that another tunnel works. Both may have waited
    /// for the same stall.
    pub(super) async fn stays_silent(&mut self) -> bool {
        self.until(Instant::now() + GRACE).await.is_none()
    }

    /// Turns it into its client's tunnel.
    pub(super) fn opened(self, timeout: Duration) -> Opened {
        let is_unanswered = self.heard == AnswerState::Nothing;
        let answer_due = is_unanswered.then(|| Box::new(self.answer_due(timeout)));
        let Warm { far_end, stream, session, already_read } = self.warm;
        let start = Start { first: vec![], already_read };
        Opened { far_end, stream, session, start, is_open: true, answer_due }
    }

    fn answer_due(&self, timeout: Duration) -> AnswerDue {
        let deadline = Box::pin(sleep_until(self.since + timeout));
        let is_agreed = self.is_agreed();
        // Without a free descriptor, TCP's own timeouts have to do.
        let witness = if is_agreed { None } else { self.warm.stream.witness().ok() };
        AnswerDue {
            far_end: self.far_end(),
            since: self.since,
            deadline,
            is_second_look: false,
            is_agreed,
            witness,
        }
    }

    /// Ends it in a separate task, because the client must not wait for that: the far end may be
    /// about to dial the target in vain.
    pub(super) fn reset(self, reason: CloseReason, closing: &TaskTracker) {
        closing.spawn(self.warm.reset(reason));
    }
}

/// Resolves when the client has bytes that may be sent, or is gone.
async fn spoken(client: &Stream, may_go: bool) -> Answer {
    match client.readable().await {
        Err(_) => Answer::ClientGone,
        Ok(_) if may_go => Answer::Ours,
        Ok(_) => std::future::pending().await,
    }
}

// === impl AnswerDue ===

impl AnswerDue {
    /// Ready once it is known whether the tunnel is dead: nothing authentic has arrived on it,
    /// unless `is_heard`.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>, is_heard: bool) -> Poll<bool> {
        if is_heard {
            return Poll::Ready(false);
        }
        ready!(self.deadline.as_mut().poll(cx));
        if !std::mem::replace(&mut self.is_second_look, true) {
            self.deadline.as_mut().reset(Instant::now() + SECOND_LOOK);
            ready!(self.deadline.as_mut().poll(cx));
        }
        let is_overdue = || self.witness.as_ref().is_some_and(Witness::is_overdue);
        Poll::Ready(self.is_agreed || is_overdue())
    }
}

// === impl Opened ===

impl Opened {
    /// Wraps a tunnel that was made for its client, with no record sent yet.
    pub(super) fn made(far_end: usize, stream: Stream, session: Session) -> Self {
        let start = Start::default();
        Self { far_end, stream, session, start, is_open: false, answer_due: None }
    }

    /// Puts Open before the first bytes of the relay, if it was not sent yet.
    ///
    /// # Errors
    /// [`CloseReason::LocalError`] when no record can be sealed.
    pub(super) fn say_open(&mut self, open: &Open) -> Result<(), ConnectFailure> {
        if self.is_open {
            return Ok(());
        }
        self.is_open = true;
        let sealed = self.session.outbound.open(open, &mut self.start.first);
        sealed.map_err(|_| ConnectFailure::new(CloseReason::LocalError, "no record can be sealed"))
    }

    /// Ends it, because its client is no longer admitted.
    pub(super) async fn give_up(self) {
        let Self { far_end, mut stream, mut session, .. } = self;
        if self.is_open {
            return send_reset(&mut stream, &mut session, CloseReason::Revoked).await;
        }
        // Nothing was sent yet, and a Reset cannot come first.
        if let Ok(warm) = Warm::confirm(far_end, stream, session).await {
            warm.let_go().await;
        }
    }
}
