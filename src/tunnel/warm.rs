//! One warm tunnel, from the pool to its client.
//!
//! ```text
//!   in the pool -> Open is said -> Asked -- answer --------------------> in use
//!                                     | the client speaks, and this was
//!                                     | heard a moment ago ---------------> in use, and watched
//!                                     +- silence -> another is made meanwhile (hedge)
//! ```
//!
//! Nothing tells of a path that broke silently but the answers that do not come. So
//! bytes of a client's are risked on a tunnel only where its far end answered, or did a
//! moment ago: waiting for that would cost the round trip that a pool saves.

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

/// The time for an answer beyond a round trip: the far end's own work, and an
/// acknowledgement that its system delays.
const MARGIN: Duration = Duration::from_millis(100);

/// The delay of the answer of one behind the handshake of another, where both waited
/// for a path or a far end that stalled.
const GRACE: Duration = Duration::from_millis(20);

/// The time in which what came during a halt of this end has to be found: its timers are first.
const SECOND_LOOK: Duration = Duration::from_millis(100);

/// A tunnel that waits to be opened.
pub(super) struct Warm {
    /// To which of the far ends.
    pub(super) far_end: usize,
    stream: Stream,
    session: Session,
    /// Bytes that were read and are no whole record.
    already_read: Vec<u8>,
}

/// A warm tunnel that has said Open for a client.
pub(super) struct Asked {
    warm: Warm,
    /// Moment when it was asked.
    pub(super) since: Instant,
    /// It was heard a moment before.
    is_trusted: bool,
    heard: Heard,
}

/// The far end's word on Open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    Nothing,
    /// A sign of life: it is at work.
    AtWork,
    Opened,
}

/// The outcome for a client of a tunnel that was asked.
pub(super) enum Answer {
    /// It is this client's.
    Ours,
    /// Nothing came of what had to.
    Silence,
    /// It has ended; the client has lost nothing.
    Ended(CloseReason),
    /// The client has reset its connection.
    ClientGone,
    /// The client has to go.
    NotWanted(CloseReason),
}

/// A tunnel for a client, and how its relay begins.
pub(super) struct Opened {
    pub(super) far_end: usize,
    pub(super) stream: Stream,
    pub(super) session: Session,
    pub(super) start: Start,
    /// Open was said; otherwise nothing was.
    pub(super) is_open: bool,
    /// Set where its client's bytes go out before there was an answer.
    pub(super) answer_due: Option<Box<AnswerDue>>,
}

/// Until when an answer has to come on a tunnel that carries bytes of a client's already.
pub(super) struct AnswerDue {
    /// To which of the far ends, and since when it is asked.
    pub(super) far_end: usize,
    pub(super) since: Instant,
    deadline: Pin<Box<Sleep>>,
    /// The deadline is over, and this is the time for what came before it.
    is_second_look: bool,
    /// The far end would say that it is at work.
    is_agreed: bool,
    witness: Option<Witness>,
}

// === impl Warm ===

impl Warm {
    /// Tells the far end that this end is live and opens later.
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

    /// Returns true when the far end has said nothing, not even that it ends this.
    pub(super) fn is_idle(&self) -> bool {
        self.stream.is_idle()
    }

    /// Asks for the target.
    ///
    /// # Errors
    /// The reason; the client has lost nothing.
    pub(super) async fn ask(mut self, open: &Open) -> Result<Asked, CloseReason> {
        let is_trusted = self.stream.is_heard_lately();
        self.stream = self.stream.reregister().map_err(|_| CloseReason::LocalError)?;
        self.stream.use_again();
        say_open(&mut self.stream, &mut self.session, open).await?;
        Ok(Asked { warm: self, since: Instant::now(), is_trusted, heard: Heard::Nothing })
    }

    /// Resolves when the far end has ended this; it has nothing else to say.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Self { stream, session, already_read, .. } = self;
        poll_event(cx, stream, session, already_read).map(|event| match event {
            Ok(Event::Reset(reason)) => from_remote(reason),
            Ok(_) => CloseReason::ProtocolError,
            Err(reason) => reason,
        })
    }

    /// The reason why a tunnel ends on which the far end has said something, as far as it is here.
    pub(super) fn reason_to_end(&mut self) -> CloseReason {
        match self.poll_ended(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(reason) => reason,
            // The beginning of a record.
            Poll::Pending => CloseReason::Unopened,
        }
    }

    /// Ends it, so that the far end knows that nothing went wrong.
    pub(super) async fn let_go(self) {
        self.reset(CloseReason::Unopened).await;
    }

    /// Ends it; the far end hears why, unless it did that itself.
    pub(super) async fn reset(mut self, reason: CloseReason) {
        send_reset(&mut self.stream, &mut self.session, reason).await;
    }
}

// === impl Asked ===

impl Asked {
    /// To which of the far ends.
    pub(super) fn far_end(&self) -> usize {
        self.warm.far_end
    }

    /// Waits until the tunnel is known to work, or may be risked for what the client has
    /// sent, or owes an answer. Nothing is lost when it is not asked again.
    pub(super) async fn answer(&mut self, client: &Stream, timeout: Duration) -> Answer {
        let answer = self.first_answer(client, timeout);
        match answer.await {
            // Now the client's bytes may go, and if it has none, there is time: until
            // then another tunnel could take this one's place.
            Answer::Ours if self.heard == Heard::AtWork => {
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

    /// As [`Self::answer`], until `deadline` and on no other terms than an answer.
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
                    Some(Answer::Ours) if self.heard == Heard::AtWork => {}
                    Some(answer) => return answer,
                    // What is longer is for the relay, which gives signs of life of its own.
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

    /// Waits for an answer as long as it is not overdue. An Open that the far end's system has not
    /// even acknowledged is so soon; a far end that works says that it does; and where that
    /// is not agreed only time tells.
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

    /// Waits for what comes until `deadline`, if anything does.
    async fn until(&mut self, deadline: Instant) -> Option<Answer> {
        let Warm { stream, session, already_read, .. } = &mut self.warm;
        let event = match timeout_at(deadline, next_event(stream, session, already_read)).await {
            Ok(event) => event,
            Err(_) => {
                // After a halt of this end the time is over before the system has told of
                // what came.
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
            Ok(Event::Opened) => Heard::Opened,
            Ok(Event::Data(_)) => Heard::AtWork,
            Ok(Event::Reset(reason)) => return Some(Answer::Ended(from_remote(reason))),
            Ok(_) => return Some(Answer::Ended(CloseReason::ProtocolError)),
            Err(reason) => return Some(Answer::Ended(reason)),
        };
        Some(Answer::Ours)
    }

    fn is_agreed(&self) -> bool {
        self.warm.session.heartbeats.agreed
    }

    /// Returns true when its silence shows that the path is broken, or the far end.
    pub(super) fn is_dead(&self) -> bool {
        self.is_agreed() || self.warm.stream.is_unacknowledged()
    }

    /// Returns true when nothing comes either now that another tunnel to a far end works. Both may have
    /// waited for the same.
    pub(super) async fn stays_silent(&mut self) -> bool {
        self.until(Instant::now() + GRACE).await.is_none()
    }

    /// Hands it to its client.
    pub(super) fn opened(self, timeout: Duration) -> Opened {
        let is_unanswered = self.heard == Heard::Nothing;
        let answer_due = is_unanswered.then(|| Box::new(self.answer_due(timeout)));
        let Warm { far_end, stream, session, already_read } = self.warm;
        let start = Start { first: vec![], already_read };
        Opened { far_end, stream, session, start, is_open: true, answer_due }
    }

    fn answer_due(&self, timeout: Duration) -> AnswerDue {
        let deadline = Box::pin(sleep_until(self.since + timeout));
        let is_agreed = self.is_agreed();
        // Where there is no descriptor to spare, TCP's own patience has to do.
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

    /// Ends it without its client, apart, because that is not to wait for it: the far end
    /// may be about to dial the target in vain.
    pub(super) fn reset(self, reason: CloseReason, goodbyes: &TaskTracker) {
        goodbyes.spawn(self.warm.reset(reason));
    }
}

/// Resolves when the client has something to send and that may go out, or is gone.
async fn spoken(client: &Stream, may_go: bool) -> Answer {
    match client.readable().await {
        Err(_) => Answer::ClientGone,
        Ok(_) if may_go => Answer::Ours,
        Ok(_) => std::future::pending().await,
    }
}

// === impl AnswerDue ===

impl AnswerDue {
    /// Ready once that is settled: whether the tunnel is dead, on which nothing authentic
    /// has come, unless `is_heard`.
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
    /// A tunnel that was made for its client, on which nothing was said.
    pub(super) fn made(far_end: usize, stream: Stream, session: Session) -> Self {
        let start = Start::default();
        Self { far_end, stream, session, start, is_open: false, answer_due: None }
    }

    /// Says Open with the first bytes of the relay, where it was not said yet.
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

    /// Ends it, because its client may not have it any more.
    pub(super) async fn give_up(self) {
        let Self { far_end, mut stream, mut session, .. } = self;
        if self.is_open {
            return send_reset(&mut stream, &mut session, CloseReason::Revoked).await;
        }
        // Nothing was said yet, and a Reset cannot come first.
        if let Ok(warm) = Warm::confirm(far_end, stream, session).await {
            warm.let_go().await;
        }
    }
}
