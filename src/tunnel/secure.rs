//! The handshake over a socket: what the dialer calls, what the acceptor answers.
//!
//! The acceptor is silent to everything that is not a fresh message 1 under one
//! of its keys: it reads and discards until the deadline, so that a prober sees
//! the same whatever it sent. It keeps no buffer for a stranger.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rand::TryRng;
use rand::rngs::SysRng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::buffers::{Buffer, Size, poll_discard};
use super::open::{blame, told};
use crate::keys::{Key, KeyId, KeyRing};
use crate::net::clock::Clock;
use crate::net::{Duplex, Stream};
use crate::proto::aead::suites_of_this_machine;
use crate::proto::handshake::{
    Dialer, First, MESSAGE_LEN, Message, Received, Unconfirmed, read_message1,
};
use crate::proto::heartbeat::Heartbeat;
use crate::proto::hello::{Hello, Welcome};
use crate::proto::inbound::Event;
use crate::proto::message::Open;
use crate::proto::replay::{ReplayFilter, Stale};
use crate::proto::{Padding, Session, SuiteSet};
use crate::reason::CloseReason;
use crate::secret::Secret;

/// What both ends bring to a handshake.
#[derive(Clone)]
pub(super) struct Terms {
    /// The first dials, all are accepted.
    keys: KeyRing,
    /// The suites that may be used.
    suites: SuiteSet,
    /// The block to pad to.
    padding: Padding,
    /// How often to give a sign of life.
    heartbeat: Option<Heartbeat>,
}

/// The dialer's side of all handshakes with one far end.
pub(super) struct Caller {
    terms: Terms,
    /// The far end's clock, as far as is known: only a first contact needs both
    /// hosts' wall clocks to agree, also when the far end restarts later.
    far_clock: Arc<Clock>,
}

/// The acceptor's side of all handshakes.
pub(super) struct Doorkeeper {
    terms: Terms,
    memory: Arc<Memory>,
}

/// What must not be forgotten when the terms change: who has forgotten cannot tell
/// a replay, and has to refuse every first message of before.
pub(super) struct Memory {
    clock: Clock,
    replays: Mutex<ReplayFilter>,
}

/// Why a stranger is none of ours.
#[derive(Clone, Copy)]
pub(super) struct Verdict {
    pub(super) reason: CloseReason,
    /// It hung up and had not sent a byte: a health check, or a dial that was
    /// given up. Nobody tries keys that way.
    pub(super) said_nothing: bool,
}

/// A dialer that is proven live, and the first thing it said.
pub(super) struct Visitor {
    pub(super) session: Session,
    pub(super) event: Event,
    /// What was read behind the first record.
    pub(super) already_read: Vec<u8>,
}

// === impl Verdict ===

impl From<CloseReason> for Verdict {
    fn from(reason: CloseReason) -> Self {
        Self { reason, said_nothing: false }
    }
}

// === impl Terms ===

impl Terms {
    /// As far as this machine has the suites.
    pub(super) fn of(
        keys: KeyRing,
        suites: SuiteSet,
        padding: Padding,
        heartbeat: Option<Heartbeat>,
    ) -> Self {
        Self { keys, suites: suites.and(suites_of_this_machine()), padding, heartbeat }
    }

    /// The public names of the keys, in order.
    fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(Key::id).collect()
    }
}

// === impl Caller ===

impl Caller {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, far_clock: Arc::new(Clock::start()) }
    }

    /// On other terms, with the same far end.
    pub(super) fn succeeding(terms: Terms, before: &Self) -> Self {
        Self { terms, far_clock: Arc::clone(&before.far_clock) }
    }

    /// The public names of the keys, in order.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.terms.key_ids()
    }

    /// Shakes hands as the dialer. What was learnt of the far end's clock is
    /// forgotten if this comes to nothing, or is given up: it may be why.
    ///
    /// # Errors
    /// [`CloseReason::NoAnswer`] when the far end hangs up, answers nonsense, or does
    /// not answer for `patience`: an acceptor says nothing at all to a key that it
    /// does not know.
    pub(super) async fn call(
        &self,
        stream: &mut Stream,
        patience: Duration,
    ) -> Result<Session, CloseReason> {
        timeout(patience, self.shake_hands(stream)).await.unwrap_or(Err(CloseReason::NoAnswer))
    }

    async fn shake_hands(&self, stream: &mut Stream) -> Result<Session, CloseReason> {
        let Terms { keys, suites, padding, heartbeat } = &self.terms;
        let clock_ms = self.far_clock.now_ms();
        let hello = Hello { suites: *suites, padding: *padding, clock_ms, heartbeat: *heartbeat };
        let ephemeral = ephemeral().map_err(|_| CloseReason::LocalError)?;
        let (dialer, message1) = Dialer::start(keys.first(), hello, ephemeral);
        let mut doubt = Doubt(Some(&self.far_clock));
        let message2 = exchange(stream, &message1).await.map_err(|_| CloseReason::NoAnswer)?;
        let (session, welcome) = dialer.finish(message2).map_err(|_| CloseReason::NoAnswer)?;
        doubt.0 = None;
        self.far_clock.set(welcome.clock_ms);
        Ok(session)
    }
}

/// Whether a clock is what is thought of it, as long as that is open.
struct Doubt<'a>(Option<&'a Clock>);

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if let Some(clock) = self.0 {
            clock.reread();
        }
    }
}

async fn exchange(stream: &mut Stream, message1: &Message) -> io::Result<Message> {
    stream.write_all(message1).await?;
    let mut message2 = [0; MESSAGE_LEN];
    stream.read_exact(&mut message2).await?;
    Ok(message2)
}

// === impl Doorkeeper ===

impl Memory {
    /// Begins to remember now: what was sent before is refused.
    pub(super) fn begin() -> Arc<Self> {
        let clock = Clock::start();
        let replays = Mutex::new(ReplayFilter::new(clock.now_ms()));
        Arc::new(Self { clock, replays })
    }
}

impl Doorkeeper {
    pub(super) fn new(terms: Terms, memory: Arc<Memory>) -> Self {
        Self { terms, memory }
    }

    /// On other terms, with what was seen so far.
    pub(super) fn succeeding(terms: Terms, before: &Self) -> Self {
        Self { terms, memory: Arc::clone(&before.memory) }
    }

    /// The public names of the keys, in order.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.terms.key_ids()
    }

    /// Shakes hands as the acceptor. Where that fails it goes on reading until
    /// the stranger hangs up; the caller sets the deadline. `verdict` always
    /// holds what would be said if it ended now.
    ///
    /// # Errors
    /// The verdict.
    pub(super) async fn receive(
        &self,
        stream: &mut Stream,
        verdict: &mut Verdict,
    ) -> Result<Visitor, Verdict> {
        match self.greet(stream, verdict).await {
            Ok(visitor) => return Ok(visitor),
            Err(Some(reason)) => verdict.reason = reason,
            Err(None) => {}
        }
        hold(stream).await;
        Err(*verdict)
    }

    /// The handshake itself. `Err(None)` leaves the verdict as it is.
    async fn greet(
        &self,
        stream: &mut Stream,
        verdict: &mut Verdict,
    ) -> Result<Visitor, Option<CloseReason>> {
        let mut message1 = [0; MESSAGE_LEN];
        let got = stream.read(&mut message1).await.unwrap_or(0);
        verdict.said_nothing = got == 0;
        if verdict.said_nothing {
            return Err(None);
        }
        stream.read_exact(&mut message1[got..]).await.map_err(|_| None)?;
        let received = read_message1(&self.terms.keys, &message1).map_err(|_| None)?;
        self.check_fresh(&received)?;
        verdict.reason = CloseReason::Unconfirmed;
        let (unconfirmed, message2) = self.answer(received)?;
        stream.write_all(&message2).await.map_err(|_| None)?;
        confirm(unconfirmed, stream).await.map_err(|_| None)
    }

    fn check_fresh(&self, received: &Received) -> Result<(), CloseReason> {
        let mut checked = self.check_replay(received);
        if let Err(Stale::Old(_) | Stale::New(_)) = checked {
            self.follow_clock();
            // Also where it did not move now: another message may just have moved it.
            checked = self.check_replay(received);
        }
        checked.map_err(|stale| {
            tracing::debug!(key = %received.key(), "first message not answered: {stale}");
            match stale {
                Stale::Old(_) | Stale::New(_) | Stale::BeforeStart => CloseReason::ClockSkew,
                Stale::Seen => CloseReason::Replayed,
            }
        })
    }

    fn check_replay(&self, received: &Received) -> Result<(), Stale> {
        let mut replays = self.memory.replays.lock().unwrap_or_else(PoisonError::into_inner);
        let sent_ms = received.hello().clock_ms;
        replays.check(received.fingerprint(), sent_ms, self.memory.clock.now_ms())
    }

    /// This host's clock may have been set since it was last read, as it is after
    /// a start without a battery or a network.
    fn follow_clock(&self) {
        let moved = self.memory.clock.reread();
        if moved.is_set() {
            tracing::warn!(moved_ms = moved.0, "this host's clock was set; following it");
        }
    }

    fn answer(&self, received: Received) -> Result<(Unconfirmed, Message), Option<CloseReason>> {
        let Terms { suites, padding, heartbeat, .. } = self.terms;
        let now_ms = self.memory.clock.now_ms();
        let answer = Welcome::answering(received.hello(), suites, padding, now_ms);
        let welcome = answer.map_err(|_| CloseReason::NoCommonSuite)?;
        let welcome = Welcome { heartbeat, ..welcome };
        let ephemeral = ephemeral().map_err(|_| CloseReason::LocalError)?;
        received.answer(&welcome, ephemeral).map_err(|_| None)
    }
}

/// Reads until the first record is there, and opens it.
async fn confirm(mut unconfirmed: Unconfirmed, stream: &mut Stream) -> io::Result<Visitor> {
    let mut buffer = Buffer::take(Size::Small);
    let mut filled = 0;
    loop {
        let got = stream.read(&mut buffer[filled..]).await?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += got;
        match unconfirmed.confirm(&mut buffer[..filled]).map_err(io::Error::other)? {
            First::Incomplete(same) => unconfirmed = same,
            First::Confirmed(session, event, len) => {
                let already_read = buffer[len..filled].to_vec();
                return Ok(Visitor { session, event, already_read });
            }
        }
    }
}

/// The next event of a session that is not relayed yet. `already_read` holds
/// what was read and not opened, before and after.
///
/// # Errors
/// The reason that ends the connection.
pub(super) async fn next_event(
    stream: &mut Stream,
    session: &mut Session,
    already_read: &mut Vec<u8>,
) -> Result<Event, CloseReason> {
    poll_fn(|cx| poll_event(cx, stream, session, already_read)).await
}

/// As [`next_event`]. Nothing is lost when it is not asked again.
pub(super) fn poll_event(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    session: &mut Session,
    already_read: &mut Vec<u8>,
) -> Poll<Result<Event, CloseReason>> {
    loop {
        if let Some((event, len)) = session.inbound.next(already_read).map_err(blame)? {
            already_read.drain(..len);
            return Poll::Ready(Ok(event));
        }
        let mut buffer = [0; 512];
        let mut read = ReadBuf::new(&mut buffer);
        let polled = ready!(Pin::new(&mut *stream).poll_read(cx, &mut read));
        polled.map_err(|_| CloseReason::PeerLost)?;
        if read.filled().is_empty() {
            return Poll::Ready(Err(CloseReason::Truncated));
        }
        already_read.extend_from_slice(read.filled());
    }
}

/// Asks for the target.
///
/// # Errors
/// [`CloseReason::PeerLost`] when the far end is gone.
pub(super) async fn say_open(
    stream: &mut Stream,
    session: &mut Session,
    open: &Open,
) -> Result<(), CloseReason> {
    let mut record = vec![];
    session.outbound.open(open, &mut record).map_err(|_| CloseReason::LocalError)?;
    stream.write_all(&record).await.map_err(|_| CloseReason::PeerLost)
}

/// Waits until the far end has its target. `already_read` as for [`next_event`].
///
/// # Errors
/// Why it has none.
pub(super) async fn await_opened(
    stream: &mut Stream,
    session: &mut Session,
    already_read: &mut Vec<u8>,
) -> Result<(), CloseReason> {
    loop {
        match next_event(stream, session, already_read).await? {
            Event::Opened => return Ok(()),
            Event::Reset(reason) => return Err(told(reason)),
            // A sign of life from one that waits for its target.
            Event::Data(_) => {}
            _ => return Err(CloseReason::ProtocolError),
        }
    }
}

/// Reads and forgets until the other end hangs up.
pub(super) async fn hold(stream: &mut Stream) {
    let (mut read, _) = stream.split();
    while let Ok(1..) = poll_fn(|cx| poll_discard(cx, &mut read)).await {}
}

/// A private key for one handshake, from the operating system.
fn ephemeral() -> io::Result<Secret<32>> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(Secret::take(&mut bytes))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;
    use crate::net::{SocketOptions, Target, dial};

    /// What a slow machine may take between two lines.
    const A_MINUTE_MS: u64 = 60_000;

    fn terms() -> Terms {
        let key = Key::new(Secret::take(&mut [7; 32]));
        let keys = KeyRing::new(vec![key]).unwrap();
        Terms::of(keys, SuiteSet::BOTH, Padding::default(), None)
    }

    /// As it is to far ends of which another is quicker, and to looks at one of several.
    #[tokio::test]
    async fn a_call_that_is_given_up_forgets_what_was_learnt_of_the_clock() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::Ips([silent.local_addr().unwrap()].into());
        let deadline = Instant::now() + Duration::from_secs(60);
        let options = SocketOptions { keepalive: false };
        let mut stream = dial(&target, None, &options, deadline).await.unwrap();
        let caller = Caller::new(terms());
        let now_ms = caller.far_clock.now_ms();
        caller.far_clock.set(now_ms - 86_400_000);
        let given_up = timeout(Duration::ZERO, caller.call(&mut stream, Duration::MAX)).await;
        assert!(given_up.is_err(), "nobody answers");
        assert!(caller.far_clock.now_ms().abs_diff(now_ms) < A_MINUTE_MS);
    }
}
