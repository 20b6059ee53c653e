//! Calls a far end: dials it and shakes hands.
//!
//! ```text
//!   dial -> message 1 ----------------------- message 2 -> session
//!              | silence
//!              +-> dial again -> message 1 of another clock -> ...
//! ```
//!
//! An acceptor gives no answer to a first message that looks like a recording: one with a wrong
//! clock, or from before it began to remember. An honest dialer cannot distinguish that from a lost
//! packet, and handles both in the same way: after a second of silence it opens a second
//! connection, with a fresh message and the other guess at the acceptor's clock. The first
//! connection that is answered is used.
//!
//! A handshake that is no longer needed is never dropped half-way, because the far end would count
//! it as a stranger's: it finishes in the background, and its session ends without being opened.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handshake::HandshakeConfig;
use super::options::SentKnockOptions;
use super::relay::send_reset;
use super::unanswered::Unanswered;
use crate::keys::KeyId;
use crate::knocker::{Knocker, KnockerParts};
use crate::net::clock::{Clock, ms_since_boot};
use crate::net::far_clock::{FarClock, Guess};
use crate::net::{DialError, Stream};
use crate::proto::Session;
use crate::proto::handshake::{Dialer, MESSAGE_LEN, Message};
use crate::proto::hello::{Extensions, Hello};
use crate::random::ephemeral;
use crate::reason::CloseReason;
use crate::upstream::ConnectFailure;

/// Silence before a second connection is made.
const SILENCE: Duration = Duration::from_secs(1);

/// Highest number of second attempts at once in a tunnel: each takes a descriptor, and a silent far
/// end must not exhaust them.
pub(super) const SECOND_ATTEMPTS: usize = 64;

/// Time for handshakes that are no longer needed to finish once this end stops.
const LAST_HANDSHAKE: Duration = Duration::from_secs(1);

/// The dialer's side of all handshakes with one far end.
pub(super) struct DialerHandshake {
    config: HandshakeConfig,
    /// The far end's clock, as far as it is known: only the first contact needs both hosts' wall
    /// clocks to agree, even if the far end restarts later.
    far_clock: Arc<FarClock>,
    /// Knocks at its gate.
    knocker: Option<Knocker>,
}

/// Parameters of a dial.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    /// Its deadline.
    pub(super) deadline: Instant,
    /// One before it got no answer.
    pub(super) is_repeated: bool,
}

/// A far end that has answered.
pub(super) struct Called {
    pub(super) stream: Stream,
    pub(super) session: Session,
    /// Moment when the first connection was established.
    pub(super) dialled: Instant,
    /// The lead of the far end's clock over this host's, in milliseconds.
    pub(super) ahead_ms: i64,
}

/// Limits of the time of a call.
#[derive(Clone, Copy)]
pub(super) struct CallLimits {
    /// Deadline of the first connection.
    pub(super) deadline: Instant,
    /// Longest time from then until the answer.
    pub(super) answer: Duration,
    /// End of all attempts, if they are repeated.
    pub(super) latest: Instant,
    /// A call before it was not let in.
    pub(super) is_repeated: bool,
}

/// Reason why a call failed.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection.
    Dial(DialError),
    /// The handshake was not answered.
    Unanswered(Unanswered),
    /// This host has no randomness.
    Local,
}

/// Tasks and signals for handshakes that are no longer needed, which end in the background.
#[derive(Clone)]
pub(super) struct Background {
    pub(super) tasks: TaskTracker,
    /// Permits for second attempts, including first attempts that they overtook.
    pub(super) second_attempts: Arc<Semaphore>,
    /// Ends them soon.
    pub(super) stop: CancellationToken,
    /// Ends them at once.
    pub(super) cut: CancellationToken,
}

/// A running handshake; when dropped, it continues in the background.
struct Handshake {
    /// `None` when it is done.
    rest: Option<Rest>,
    background: Background,
    /// The permit for a second attempt, shared by both attempts of a call.
    pair: Option<Arc<OwnedSemaphorePermit>>,
}

/// Rest of a handshake.
type Rest = Pin<Box<dyn Future<Output = Result<Shaken, Unanswered>> + Send>>;

/// A connection and its session.
struct Shaken {
    stream: Stream,
    session: Session,
    ahead_ms: i64,
}

/// The dialer's part of a handshake.
struct Opening<'a> {
    dialer: Dialer,
    message1: Message,
    far_clock: &'a FarClock,
}

/// Bytes received from a far end that has not answered yet.
struct ReceivedBytes {
    message2: Message,
    got: usize,
}

// === impl DialerHandshake ===

impl DialerHandshake {
    pub(super) fn new(config: HandshakeConfig) -> Self {
        Self { config, far_clock: Arc::new(FarClock::unknown()), knocker: None }
    }

    /// Creates the dialer of a successor: another config, the same far end.
    pub(super) fn succeeding(config: HandshakeConfig, before: &Self) -> Self {
        Self { config, far_clock: Arc::clone(&before.far_clock), knocker: None }
    }

    /// Makes it knock, if there is a wish for that.
    #[must_use]
    pub(super) fn knocking(self, knocks: Option<SentKnockOptions>) -> Self {
        let knocker = knocks.map(|SentKnockOptions { wish, bind, tunnel, meters }| {
            let key = self.config.keys.first().clone();
            let far_clock = Arc::clone(&self.far_clock);
            Knocker::new(KnockerParts { wish, key, far_clock, bind, tunnel, meters })
        });
        Self { knocker, ..self }
    }

    pub(super) fn knocker(&self) -> Option<&Knocker> {
        self.knocker.as_ref()
    }

    /// Returns the public names of the keys, in order.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.config.key_ids()
    }

    /// Dials with `dial` and shakes hands, with a second attempt after silence.
    ///
    /// # Errors
    /// [`CallError`]; if both connections failed it is the error of the first, unless the first
    /// received nothing.
    pub(super) async fn call_once<F>(
        &self,
        dial: impl Fn(Attempt) -> F,
        limits: CallLimits,
        background: &Background,
    ) -> Result<Called, CallError>
    where
        F: Future<Output = Result<Stream, DialError>>,
    {
        let CallLimits { deadline, is_repeated, .. } = limits;
        let stream = dial(Attempt { deadline, is_repeated }).await?;
        let dialled = Instant::now();
        let deadline = (dialled + limits.answer).min(limits.latest);
        let begin = |stream, guess| -> Result<Handshake, CallError> {
            let rest = Some(self.shake_hands(stream, guess, deadline)?);
            Ok(Handshake { rest, background: background.clone(), pair: None })
        };
        let mut first = begin(stream, Guess::First)?;
        let early = tokio::select! {
            biased;
            shaken = &mut first => Some(shaken),
            () = sleep(SILENCE.min(limits.answer / 2)) => None,
        };
        let Shaken { stream, session, ahead_ms } = match early {
            Some(shaken) => shaken?,
            None => match Arc::clone(&background.second_attempts).try_acquire_owned() {
                Ok(leave) => {
                    first.pair = Some(Arc::new(leave));
                    let pair = first.pair.clone();
                    let second = async {
                        let mut second = begin(
                            dial(Attempt { deadline, is_repeated: true }).await?,
                            Guess::Second,
                        )?;
                        second.pair = pair;
                        Ok(second.await?)
                    };
                    first_answered(first, second).await?
                }
                Err(_) => first.await?,
            },
        };
        Ok(Called { stream, session, dialled, ahead_ms })
    }

    /// Starts a handshake, which ends at `deadline`.
    fn shake_hands(
        &self,
        stream: Stream,
        guess: Guess,
        deadline: Instant,
    ) -> Result<Rest, CallError> {
        let HandshakeConfig { keys, suites, padding, heartbeat } = &self.config;
        let clock_ms = self.far_clock.guess_ms(guess);
        let extensions = Extensions { heartbeat: *heartbeat };
        let hello = Hello { suites: *suites, padding: *padding, clock_ms, extensions };
        let ephemeral = ephemeral().map_err(|_| CallError::Local)?;
        let (dialer, message1) = Dialer::start(keys.first(), hello, ephemeral);
        let far_clock = Arc::clone(&self.far_clock);
        Ok(Box::pin(async move {
            let began = Instant::now();
            let mut heard = ReceivedBytes { message2: [0; MESSAGE_LEN], got: 0 };
            let opening = Opening { dialer, message1, far_clock: &far_clock };
            let shaken = timeout_at(deadline, finish(stream, opening, &mut heard)).await;
            let end = match shaken {
                Ok(Ok(shaken)) => return Ok(shaken),
                Ok(Err(error)) => Some(error),
                Err(_) => None,
            };
            let heard = &heard.message2[..heard.got];
            Err(Unanswered::of(heard, end.as_ref(), began.elapsed()))
        }))
    }
}

/// Returns the handshake that is answered first; if none is, the more informative error.
async fn first_answered(
    mut first: Handshake,
    second: impl Future<Output = Result<Shaken, CallError>>,
) -> Result<Shaken, Unanswered> {
    let mut second = pin!(second);
    let mut why = None;
    let mut why_not_second = None;
    let mut is_second_over = false;
    loop {
        tokio::select! {
            biased;
            shaken = &mut first, if why.is_none() => match shaken {
                Ok(shaken) => return Ok(shaken),
                Err(unanswered) => why = Some(unanswered),
            },
            shaken = &mut second, if !is_second_over => match shaken {
                Ok(shaken) => return Ok(shaken),
                Err(error) => {
                    is_second_over = true;
                    why_not_second = match error {
                        CallError::Unanswered(unanswered) => Some(unanswered),
                        CallError::Dial(_) | CallError::Local => None,
                    };
                }
            },
        }
        if let (Some(first), true) = (why, is_second_over) {
            let more = why_not_second.filter(|second| first.tells_less_than(*second));
            return Err(more.unwrap_or(first));
        }
    }
}

async fn finish(
    mut stream: Stream,
    Opening { dialer, message1, far_clock }: Opening<'_>,
    heard: &mut ReceivedBytes,
) -> io::Result<Shaken> {
    let asked_ms = ms_since_boot();
    let own_ms = Clock::start().now_ms();
    exchange(&mut stream, &message1, heard).await?;
    let answered = dialer.finish(heard.message2);
    let (session, welcome) = answered.map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    far_clock.learn(welcome.clock_ms, asked_ms);
    let half_way_ms = ms_since_boot().saturating_sub(asked_ms) / 2;
    let ahead_ms = welcome.clock_ms.cast_signed().saturating_sub(own_ms.cast_signed());
    let ahead_ms = ahead_ms.saturating_sub(half_way_ms);
    Ok(Shaken { stream, session, ahead_ms })
}

async fn exchange(
    stream: &mut Stream,
    message1: &Message,
    heard: &mut ReceivedBytes,
) -> io::Result<()> {
    let said = stream.write_all(message1).await;
    while heard.got < MESSAGE_LEN {
        // The bytes before the end say more than the end itself.
        match stream.read(&mut heard.message2[heard.got..]).await? {
            0 => return said.and_then(|()| Err(io::ErrorKind::UnexpectedEof.into())),
            got => heard.got += got,
        }
    }
    said
}

// === impl Background ===

impl Default for Background {
    fn default() -> Self {
        Self {
            tasks: TaskTracker::new(),
            second_attempts: Arc::new(Semaphore::new(SECOND_ATTEMPTS)),
            stop: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }
}

impl Background {
    /// Waits briefly until all have finished: a handshake that is cut short counts as a stranger's
    /// at the far end.
    pub(super) async fn finish(self) {
        self.tasks.close();
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

// === impl CallLimits ===

impl CallLimits {
    /// Creates the limits of a call that begins now, with this long for the connection and for the
    /// answer each.
    pub(super) fn each(patience: Duration) -> Self {
        Self::until(Instant::now() + patience, patience)
    }

    /// Creates the same with this deadline of the connection.
    pub(super) fn until(deadline: Instant, answer: Duration) -> Self {
        Self { deadline, answer, latest: deadline + answer, is_repeated: false }
    }
}

// === impl CallError ===

impl From<DialError> for CallError {
    fn from(error: DialError) -> Self {
        Self::Dial(error)
    }
}

impl From<Unanswered> for CallError {
    fn from(unanswered: Unanswered) -> Self {
        Self::Unanswered(unanswered)
    }
}

impl From<CallError> for ConnectFailure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Dial(error) => Self::far_end(&error),
            CallError::Unanswered(unanswered) => unanswered.into(),
            CallError::Local => {
                Self::new(CloseReason::LocalError, "this host could not give randomness or memory")
            }
        }
    }
}

// === impl Handshake ===

impl Future for Handshake {
    type Output = Result<Shaken, Unanswered>;

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
        // Without a runtime the process is ending.
        let (Some(rest), Ok(runtime)) = (self.rest.take(), Handle::try_current()) else { return };
        let Background { tasks, stop, cut, .. } = self.background.clone();
        let pair = self.pair.take();
        let leave = async move {
            let _pair = pair;
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
    /// Ends a session that is never opened.
    async fn leave(self) {
        let Self { mut stream, mut session, .. } = self;
        let mut record = vec![];
        if session.outbound.confirm(&mut record).is_ok() && stream.write_all(&record).await.is_ok()
        {
            send_reset(&mut stream, &mut session, CloseReason::Unopened).await;
        }
    }
}
