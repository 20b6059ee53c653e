//! Calling a far end: dialled, and shaken hands with.
//!
//! ```text
//!   dial -> message 1 ----------------------- message 2 -> session
//!              | silence
//!              +-> dial again -> message 1 of another clock -> ...
//! ```
//!
//! An acceptor says nothing to a first message that it takes for a recording: of
//! a clock that is off, or from before it began to remember. An honest dialer
//! cannot tell that from a packet that is lost, and mends both in the same way: a
//! second connection after a second of silence, with a fresh message and the other
//! guess at the acceptor's clock. The first that is answered is used.
//!
//! A handshake that is not wanted any more is never dropped half-way, because the
//! far end would take it for a stranger's: it goes on in the background, and the
//! session is ended as one that nobody opens.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::relay::dismiss;
use super::secure::{Terms, ephemeral};
use crate::keys::KeyId;
use crate::net::clock::{Clock, FarClock, ms_since_boot};
use crate::net::{DialError, Stream};
use crate::proto::Session;
use crate::proto::handshake::{Dialer, MESSAGE_LEN, Message};
use crate::proto::hello::Hello;
use crate::reason::CloseReason;

/// Silence before a second connection is made.
const SILENCE: Duration = Duration::from_secs(1);

/// How far ahead of this host's clock the second message is, where nothing is known
/// of the far end's: a clock that is behind is before the start of an acceptor
/// that has just started.
const AHEAD_MS: u64 = 60_000;

/// How long a handshake that is not wanted any more has to end once this end stops.
const LAST_HANDSHAKE: Duration = Duration::from_secs(1);

/// The dialer's side of all handshakes with one far end.
pub(super) struct Caller {
    terms: Terms,
    /// The far end's clock, as far as is known: only a first contact needs both
    /// hosts' wall clocks to agree, also when the far end restarts later.
    far_clock: Arc<FarClock>,
}

/// A far end that has answered.
pub(super) struct Called {
    pub(super) stream: Stream,
    pub(super) session: Session,
    /// When the first connection was there.
    pub(super) dialled: Instant,
}

/// How long a call may take.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// When the first connection must be there.
    pub(super) deadline: Instant,
    /// From then on until the answer.
    pub(super) answer: Duration,
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection.
    Dial(DialError),
    /// There is one and no handshake: [`CloseReason::NoAnswer`], or a cause of this host.
    Handshake(CloseReason),
}

/// Where handshakes that are not wanted any more come to their end.
#[derive(Clone, Default)]
pub(super) struct Background {
    pub(super) tasks: TaskTracker,
    /// Ends them soon.
    pub(super) stop: CancellationToken,
    /// Ends them at once.
    pub(super) cut: CancellationToken,
}

/// The guesses at the far end's clock, in turn.
#[derive(Clone, Copy)]
enum Guess {
    First,
    Second,
}

/// A handshake under way; dropped, it goes on in the background.
struct Handshake {
    /// `None` when it is done.
    rest: Option<Rest>,
    background: Background,
}

/// What is left of a handshake.
type Rest = Pin<Box<dyn Future<Output = Result<Shaken, CloseReason>> + Send>>;

/// A connection and its session.
struct Shaken {
    stream: Stream,
    session: Session,
}

// === impl Caller ===

impl Caller {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, far_clock: Arc::new(FarClock::unknown()) }
    }

    /// On other terms, with the same far end.
    pub(super) fn succeeding(terms: Terms, before: &Self) -> Self {
        Self { terms, far_clock: Arc::clone(&before.far_clock) }
    }

    /// The public names of the keys, in order.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.terms.key_ids()
    }

    /// Dials with `dial`, which is given its deadline, and shakes hands.
    ///
    /// # Errors
    /// [`CallError`]; of two connections that failed it is the first one's.
    pub(super) async fn call<F>(
        &self,
        dial: impl Fn(Instant) -> F,
        patience: Patience,
        background: &Background,
    ) -> Result<Called, CallError>
    where
        F: Future<Output = Result<Stream, DialError>>,
    {
        let stream = dial(patience.deadline).await?;
        let dialled = Instant::now();
        let deadline = dialled + patience.answer;
        let begin = |stream, guess| -> Result<Handshake, CloseReason> {
            let rest = Some(self.shake_hands(stream, guess, deadline)?);
            Ok(Handshake { rest, background: background.clone() })
        };
        let mut first = begin(stream, Guess::First)?;
        let early = tokio::select! {
            biased;
            shaken = &mut first => Some(shaken),
            () = sleep(SILENCE.min(patience.answer / 2)) => None,
        };
        let Shaken { stream, session } = match early {
            Some(shaken) => shaken?,
            None => {
                let second = async {
                    let stream = dial(deadline).await?;
                    Result::<_, CallError>::Ok(begin(stream, Guess::Second)?.await?)
                };
                first_answered(first, second).await?
            }
        };
        Ok(Called { stream, session, dialled })
    }

    /// A handshake, which ends at `deadline`.
    fn shake_hands(
        &self,
        stream: Stream,
        guess: Guess,
        deadline: Instant,
    ) -> Result<Rest, CloseReason> {
        let Terms { keys, suites, padding, heartbeat } = &self.terms;
        let clock_ms = self.clock_ms(guess);
        let hello = Hello { suites: *suites, padding: *padding, clock_ms, heartbeat: *heartbeat };
        let ephemeral = ephemeral().map_err(|_| CloseReason::LocalError)?;
        let (dialer, message1) = Dialer::start(keys.first(), hello, ephemeral);
        let far_clock = Arc::clone(&self.far_clock);
        Ok(Box::pin(async move {
            let shaken = timeout_at(deadline, finish(stream, dialer, message1, &far_clock)).await;
            shaken.unwrap_or(Err(CloseReason::NoAnswer))
        }))
    }

    /// A guess at the far end's clock. What was learnt of it is never forgotten for a
    /// handshake that failed, which proves nothing: anybody on the way can cause that.
    fn clock_ms(&self, guess: Guess) -> u64 {
        let own_ms = Clock::start().now_ms();
        match (guess, self.far_clock.now_ms()) {
            (Guess::First, Some(learnt_ms)) => learnt_ms,
            (Guess::First, None) | (Guess::Second, Some(_)) => own_ms,
            (Guess::Second, None) => own_ms.saturating_add(AHEAD_MS),
        }
    }
}

/// The handshake that is answered first; where none is, the error of the `first`.
async fn first_answered(
    mut first: Handshake,
    second: impl Future<Output = Result<Shaken, CallError>>,
) -> Result<Shaken, CloseReason> {
    let mut second = pin!(second);
    tokio::select! {
        biased;
        shaken = &mut first => match shaken {
            Ok(shaken) => Ok(shaken),
            Err(reason) => second.await.map_err(|_| reason),
        },
        Ok(shaken) = &mut second => Ok(shaken),
    }
}

async fn finish(
    mut stream: Stream,
    dialer: Dialer,
    message1: Message,
    far_clock: &FarClock,
) -> Result<Shaken, CloseReason> {
    let asked_ms = ms_since_boot();
    let message2 = exchange(&mut stream, &message1).await.map_err(|_| CloseReason::NoAnswer)?;
    let (session, welcome) = dialer.finish(message2).map_err(|_| CloseReason::NoAnswer)?;
    far_clock.learn(welcome.clock_ms, asked_ms);
    Ok(Shaken { stream, session })
}

async fn exchange(stream: &mut Stream, message1: &Message) -> io::Result<Message> {
    stream.write_all(message1).await?;
    let mut message2 = [0; MESSAGE_LEN];
    stream.read_exact(&mut message2).await?;
    Ok(message2)
}

// === impl CallError ===

impl From<DialError> for CallError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl From<CloseReason> for CallError {
    fn from(reason: CloseReason) -> Self {
        Self::Handshake(reason)
    }
}

// === impl Handshake ===

impl Future for Handshake {
    type Output = Result<Shaken, CloseReason>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(rest) = &mut self.rest else { return Poll::Pending };
        let polled = rest.as_mut().poll(cx);
        if polled.is_ready() {
            self.rest = None;
        }
        polled
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        // Without a runtime the process is at its end.
        let (Some(rest), Ok(runtime)) = (self.rest.take(), Handle::try_current()) else { return };
        let Background { tasks, stop, cut } = self.background.clone();
        let leave = async move {
            tokio::select! {
                () = cut.cancelled() => {}
                () = async {
                    stop.cancelled().await;
                    sleep(LAST_HANDSHAKE).await;
                } => {}
                shaken = rest => if let Ok(shaken) = shaken { shaken.leave().await },
            }
        };
        drop(tasks.spawn_on(leave, &runtime));
    }
}

impl Shaken {
    /// Ends a session that nobody opens.
    async fn leave(self) {
        let Self { mut stream, mut session } = self;
        let mut record = vec![];
        if session.outbound.confirm(&mut record).is_ok() && stream.write_all(&record).await.is_ok()
        {
            dismiss(&mut stream, &mut session, CloseReason::Unopened).await;
        }
    }
}
