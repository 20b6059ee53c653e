//! The handshake over a socket: what the acceptor answers, and what both ends say
//! before their session is relayed. What the dialer says is `caller.rs`.
//!
//! The acceptor is silent to everything that is not a fresh message 1 under one
//! of its keys: it reads and discards until the deadline, so that a prober sees
//! the same whatever it sent, and whether or not it ended its direction. It keeps
//! no buffer for a stranger.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rand::TryRng;
use rand::rngs::SysRng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::buffers::{Buffer, Size, poll_discard};
use super::memory::Memory;
use super::open::{blame, told};
use crate::keys::{Key, KeyId, KeyRing};
use crate::net::{Duplex, Stream};
use crate::probe::speech::Speech;
use crate::proto::aead::suites_of_this_machine;
use crate::proto::handshake::{
    First, MESSAGE_LEN, Message, Received, Unconfirmed, Unread, read_message1,
};
use crate::proto::heartbeat::Heartbeat;
use crate::proto::hello::{Extensions, Welcome};
use crate::proto::inbound::Event;
use crate::proto::labels::PROLOGUE;
use crate::proto::message::Open;
use crate::proto::replay::{Answered, Stale};
use crate::proto::{Padding, Session, SuiteSet};
use crate::reason::CloseReason;
use crate::secret::Secret;

/// What both ends bring to a handshake.
#[derive(Clone)]
pub(super) struct Terms {
    /// The first dials, all are accepted.
    pub(super) keys: KeyRing,
    /// The suites that may be used.
    pub(super) suites: SuiteSet,
    /// The block to pad to.
    pub(super) padding: Padding,
    /// How often to give a sign of life.
    pub(super) heartbeat: Option<Heartbeat>,
}

/// The acceptor's side of all handshakes.
pub(super) struct Doorkeeper {
    terms: Terms,
    memory: Arc<Memory>,
}

/// Why a stranger is none of ours.
#[derive(Clone, Copy)]
pub(super) struct Verdict {
    pub(super) reason: CloseReason,
    /// It sent something.
    spoke: bool,
    /// The protocol that this looks like, where it is no handshake.
    pub(super) speech: Option<Speech>,
    /// It ended the handshake itself, in place of going on.
    hung_up: bool,
    /// This end has ended it, since it stops.
    pub(super) is_cut: bool,
}

/// Why a handshake does not go on; the verdict has the reason.
enum Unmet {
    /// There is nothing to answer.
    Refused,
    /// The connection is broken.
    Gone,
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
        Self { reason, spoke: false, speech: None, hung_up: false, is_cut: false }
    }
}

impl Verdict {
    /// Whether it counts against the address. Who hangs up without a byte is a health
    /// check, or a dial that was given up: nobody tries keys that way. Nor does who
    /// hangs up after an answer, which a right and fresh message alone gets; nor who is
    /// cut off because this end stops.
    pub(super) fn is_fault(self) -> bool {
        match self.reason {
            _ if self.is_cut => false,
            CloseReason::HandshakeFailed
            | CloseReason::ClockSkew
            | CloseReason::Replayed
            | CloseReason::NoCommonSuite => self.spoke || !self.hung_up,
            // Only in a flood, and to who holds most places: no health check is that many.
            CloseReason::Displaced => true,
            CloseReason::Unconfirmed => !self.hung_up,
            _ => false,
        }
    }

    /// Whether it came and left without a byte.
    pub(super) fn is_nothing(self) -> bool {
        self.hung_up && !self.spoke && !self.is_cut
    }

    /// What was read, or why there is nothing more to read.
    fn of_read(&mut self, read: io::Result<usize>) -> Result<usize, Unmet> {
        match read {
            Ok(0) => {
                self.hung_up = true;
                Err(Unmet::Refused)
            }
            Ok(got) => {
                self.spoke = true;
                Ok(got)
            }
            Err(_) => {
                self.hung_up = true;
                Err(Unmet::Gone)
            }
        }
    }

    fn refused(&mut self, reason: CloseReason) -> Unmet {
        self.reason = reason;
        Unmet::Refused
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
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(Key::id).collect()
    }
}

// === impl Doorkeeper ===

impl Doorkeeper {
    pub(super) fn new(terms: Terms, memory: Arc<Memory>) -> Self {
        Self { terms, memory }
    }

    /// The public names of the keys, in order.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.terms.key_ids()
    }

    /// Shakes hands as the acceptor. Where that fails it goes on reading, until the
    /// connection breaks; the caller sets the deadline. `verdict` always holds what
    /// would be said if it ended now. `is_authentic` is told of a first message that is
    /// authentic and fresh, before it is answered, and may refuse that.
    pub(super) async fn receive(
        &self,
        stream: &mut Stream,
        verdict: &mut Verdict,
        is_authentic: &(impl Fn() -> Result<(), CloseReason> + Sync),
    ) -> Option<Visitor> {
        match self.greet(stream, verdict, is_authentic).await {
            Ok(visitor) => return Some(visitor),
            Err(Unmet::Refused) => hold(stream).await,
            Err(Unmet::Gone) => {}
        }
        None
    }

    /// The handshake itself.
    async fn greet(
        &self,
        stream: &mut Stream,
        verdict: &mut Verdict,
        is_authentic: &(impl Fn() -> Result<(), CloseReason> + Sync),
    ) -> Result<Visitor, Unmet> {
        let received = self.read_message1(stream, verdict).await?;
        let may_be_answered = self.check_fresh(&received).and_then(|()| is_authentic());
        may_be_answered.map_err(|reason| verdict.refused(reason))?;
        verdict.reason = CloseReason::Unconfirmed;
        let answer = self.answer(received);
        let (unconfirmed, message2) = answer.map_err(|reason| verdict.refused(reason))?;
        if stream.write_all(&message2).await.is_err() {
            verdict.hung_up = true;
            return Err(Unmet::Gone);
        }
        confirm(unconfirmed, stream, verdict).await
    }

    /// Reads as many bytes of message 1 as the protocol needs, and no more.
    async fn read_message1(
        &self,
        stream: &mut Stream,
        verdict: &mut Verdict,
    ) -> Result<Received, Unmet> {
        let mut message1 = [0; MESSAGE_LEN];
        let mut got = 0;
        loop {
            let needed = match read_message1(&self.terms.keys, PROLOGUE, &message1[..got]) {
                Ok(received) => return Ok(received),
                Err(Unread::Need(needed)) => needed,
                Err(Unread::Refused(_)) => return Err(Unmet::Refused),
            };
            got += verdict.of_read(stream.read(&mut message1[got..got + needed]).await)?;
            // Noted now, because nothing of it is kept.
            verdict.speech = Speech::of_client(&message1[..got]);
        }
    }

    fn check_fresh(&self, received: &Received) -> Result<(), CloseReason> {
        let message = Answered { key: received.key(), fingerprint: received.fingerprint() };
        self.memory.check(message, received.hello().clock_ms).map_err(|stale| {
            tracing::debug!(key = %received.key(), "first message not answered: {stale}");
            match stale {
                Stale::Old(_) | Stale::New(_) | Stale::BeforeStart => CloseReason::ClockSkew,
                Stale::Seen => CloseReason::Replayed,
            }
        })
    }

    fn answer(&self, received: Received) -> Result<(Unconfirmed, Message), CloseReason> {
        let Terms { suites, padding, heartbeat, .. } = self.terms;
        let now_ms = self.memory.now_ms();
        let answer = Welcome::answering(received.hello(), suites, padding, now_ms);
        let welcome = answer.map_err(|_| CloseReason::NoCommonSuite)?;
        let welcome = Welcome { extensions: Extensions { heartbeat }, ..welcome };
        let ephemeral = ephemeral().map_err(|_| CloseReason::LocalError)?;
        received.answer(&welcome, ephemeral).map_err(|_| CloseReason::HandshakeFailed)
    }
}

/// Reads until the first record is there, and opens it.
async fn confirm(
    mut unconfirmed: Unconfirmed,
    stream: &mut Stream,
    verdict: &mut Verdict,
) -> Result<Visitor, Unmet> {
    let mut buffer = Buffer::take(Size::Small);
    let mut filled = 0;
    loop {
        filled += verdict.of_read(stream.read(&mut buffer[filled..]).await)?;
        match unconfirmed.confirm(&mut buffer[..filled]).map_err(|_| Unmet::Refused)? {
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

/// Reads and forgets until the connection breaks. Goes on when the other end has ended
/// its direction: how soon that were answered would tell what was done before.
pub(super) async fn hold(stream: &mut Stream) {
    let (mut read, _) = stream.split();
    loop {
        match poll_fn(|cx| poll_discard(cx, &mut read)).await {
            Ok(1..) => {}
            Ok(0) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

/// A private key for one handshake, from the operating system.
pub(super) fn ephemeral() -> io::Result<Secret<32>> {
    Ok(Secret::take(&mut random::<32>()?))
}

/// Bytes that nobody can guess, from the operating system.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
