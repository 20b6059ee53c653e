//! The handshake over a socket: the answers of the acceptor, and the records of both ends
//! before their session is relayed. The dialer's messages are in `dial_far_end.rs`.
//!
//! The acceptor answers nothing but a fresh message 1 under one of its keys: otherwise it reads and
//! discards until the deadline, so that a prober sees the same behaviour for all input, whether or
//! not it ended its direction. It keeps no buffer for a stranger.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};

use super::buffers::{Buffer, Size};
use super::foreign_protocol::ForeignProtocol;
use super::replay_state::ReplayState;
use super::reset_reasons::{from_peer_error, from_remote};
use crate::frontend::tarpit;
use crate::keys::{Key, KeyId, KeyRing};
use crate::net::Stream;
use crate::observe::failures::PROXY_HEADER;
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
use crate::random::ephemeral;
use crate::reason::CloseReason;

/// Settings of a handshake, at both ends.
#[derive(Clone)]
pub(super) struct HandshakeConfig {
    /// Keys: the first is used to dial, all are accepted.
    pub(super) keys: KeyRing,
    /// Permitted suites.
    pub(super) suites: SuiteSet,
    /// Block size of the padding.
    pub(super) padding: Padding,
    /// Interval of heartbeats.
    pub(super) heartbeat: Option<Heartbeat>,
}

/// The acceptor's side of handshakes.
pub(super) struct AcceptorHandshake {
    config: HandshakeConfig,
    memory: Arc<ReplayState>,
}

/// Failure of a handshake with a stranger.
#[derive(Clone, Copy)]
pub(super) struct HandshakeFailure {
    pub(super) reason: CloseReason,
    /// The peer sent something.
    spoke: bool,
    /// The protocol that the bytes look like, if they are no handshake.
    speech: Option<ForeignProtocol>,
    /// The peer ended the handshake.
    hung_up: bool,
    /// This end has ended it, because it stops.
    pub(super) is_cut: bool,
}

/// Reason why a handshake stops; the failure has the close reason.
enum Unmet {
    /// There is nothing to answer.
    Refused,
    /// The connection is broken.
    Gone,
}

/// A dialer that is proven live, and its first record.
pub(super) struct Authenticated {
    pub(super) session: Session,
    pub(super) event: Event,
    /// Bytes that were read after the first record.
    pub(super) already_read: Vec<u8>,
}

// === impl HandshakeFailure ===

impl From<CloseReason> for HandshakeFailure {
    fn from(reason: CloseReason) -> Self {
        Self { reason, spoke: false, speech: None, hung_up: false, is_cut: false }
    }
}

impl HandshakeFailure {
    /// Returns true when it counts against the address. A peer that hangs up without a byte is a
    /// health check or an abandoned dial: keys are not tried that way. A peer that hangs up after
    /// an answer does not count either, as only a correct and fresh message gets one; nor does one
    /// that is cut because this end stops.
    pub(super) fn is_fault(self) -> bool {
        match self.reason {
            _ if self.is_cut => false,
            CloseReason::HandshakeFailed
            | CloseReason::ClockSkew
            | CloseReason::Replayed
            | CloseReason::NoCommonSuite => self.spoke || !self.hung_up,
            // Evictions happen only in a flood, to the source with most slots: no health check
            // makes so many.
            CloseReason::Evicted => true,
            CloseReason::Unconfirmed => !self.hung_up,
            _ => false,
        }
    }

    /// Returns true when the peer left without sending a byte, also if this end stops meanwhile.
    pub(super) fn is_nothing(self) -> bool {
        self.hung_up && !self.spoke
    }

    /// Returns the log's name of the protocol that a peer spoke instead of a handshake.
    pub(super) fn speech(self) -> Option<&'static str> {
        let speech = self.speech.filter(|_| self.reason == CloseReason::HandshakeFailed)?;
        Some(match speech {
            ForeignProtocol::Proxy => PROXY_HEADER,
            other => other.as_str(),
        })
    }

    /// Notes the result of a read; an error when there is nothing more to read.
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

// === impl HandshakeConfig ===

impl HandshakeConfig {
    /// Creates settings with those of the suites that this machine supports.
    pub(super) fn of(
        keys: KeyRing,
        suites: SuiteSet,
        padding: Padding,
        heartbeat: Option<Heartbeat>,
    ) -> Self {
        Self { keys, suites: suites.and(suites_of_this_machine()), padding, heartbeat }
    }

    /// Returns the public names of the keys, in order.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.keys.iter().map(Key::id).collect()
    }
}

// === impl AcceptorHandshake ===

impl AcceptorHandshake {
    pub(super) fn new(config: HandshakeConfig, memory: Arc<ReplayState>) -> Self {
        Self { config, memory }
    }

    /// Returns the public names of the keys, in order.
    pub(super) fn key_ids(&self) -> Vec<KeyId> {
        self.config.key_ids()
    }

    /// Shakes hands as the acceptor. After a failure it keeps reading until the connection breaks;
    /// the caller sets the deadline. `failure` always holds the failure to report if the handshake
    /// ended now. `is_authentic` is called for a first message that is authentic and fresh, before
    /// it is answered, and may refuse that.
    pub(super) async fn accept_handshake(
        &self,
        stream: &mut Stream,
        failure: &mut HandshakeFailure,
        is_authentic: &(impl Fn() -> Result<(), CloseReason> + Sync),
    ) -> Option<Authenticated> {
        match self.try_handshake(stream, failure, is_authentic).await {
            Ok(authenticated) => return Some(authenticated),
            Err(Unmet::Refused) => tarpit(stream).await,
            Err(Unmet::Gone) => {}
        }
        None
    }

    /// Shakes hands, and returns at the first failure.
    async fn try_handshake(
        &self,
        stream: &mut Stream,
        failure: &mut HandshakeFailure,
        is_authentic: &(impl Fn() -> Result<(), CloseReason> + Sync),
    ) -> Result<Authenticated, Unmet> {
        let received = self.read_message1(stream, failure).await?;
        let may_be_answered = self.check_fresh(&received).and_then(|()| is_authentic());
        may_be_answered.map_err(|reason| failure.refused(reason))?;
        failure.reason = CloseReason::Unconfirmed;
        let answer = self.answer(received);
        let (unconfirmed, message2) = answer.map_err(|reason| failure.refused(reason))?;
        if stream.write_all(&message2).await.is_err() {
            failure.hung_up = true;
            return Err(Unmet::Gone);
        }
        confirm(unconfirmed, stream, failure).await
    }

    /// Reads as many bytes of message 1 as the protocol needs, and no more.
    async fn read_message1(
        &self,
        stream: &mut Stream,
        failure: &mut HandshakeFailure,
    ) -> Result<Received, Unmet> {
        let mut message1 = [0; MESSAGE_LEN];
        let mut got = 0;
        loop {
            let needed = match read_message1(&self.config.keys, PROLOGUE, &message1[..got]) {
                Ok(received) => return Ok(received),
                Err(Unread::Need(needed)) => needed,
                Err(Unread::Refused(_)) => return Err(Unmet::Refused),
            };
            got += failure.of_read(stream.read(&mut message1[got..got + needed]).await)?;
            // Classified now, because none of the bytes are kept.
            failure.speech = ForeignProtocol::of_client(&message1[..got]);
        }
    }

    fn check_fresh(&self, received: &Received) -> Result<(), CloseReason> {
        let message = Answered::handshake(received.key(), received.fingerprint());
        self.memory.check(message, received.hello().clock_ms).map_err(|stale| {
            tracing::debug!(key = %received.key(), "first message not answered: {stale}");
            match stale {
                Stale::Old(_) | Stale::New(_) | Stale::BeforeStart => CloseReason::ClockSkew,
                Stale::Seen => CloseReason::Replayed,
            }
        })
    }

    fn answer(&self, received: Received) -> Result<(Unconfirmed, Message), CloseReason> {
        let HandshakeConfig { suites, padding, heartbeat, .. } = self.config;
        let now_ms = self.memory.now_ms();
        let answer = Welcome::answering(received.hello(), suites, padding, now_ms);
        let welcome = answer.map_err(|_| CloseReason::NoCommonSuite)?;
        let welcome = Welcome { extensions: Extensions { heartbeat }, ..welcome };
        let ephemeral = ephemeral().map_err(|_| CloseReason::LocalError)?;
        received.answer(&welcome, ephemeral).map_err(|_| CloseReason::HandshakeFailed)
    }
}

/// Reads until the first record is complete, and opens it.
async fn confirm(
    mut unconfirmed: Unconfirmed,
    stream: &mut Stream,
    failure: &mut HandshakeFailure,
) -> Result<Authenticated, Unmet> {
    let mut buffer = Buffer::take(Size::Small);
    let mut filled = 0;
    loop {
        filled += failure.of_read(stream.read(&mut buffer[filled..]).await)?;
        match unconfirmed.confirm(&mut buffer[..filled]).map_err(|_| Unmet::Refused)? {
            First::Incomplete(same) => unconfirmed = same,
            First::Confirmed(session, event, len) => {
                let already_read = buffer[len..filled].to_vec();
                return Ok(Authenticated { session, event, already_read });
            }
        }
    }
}

/// Waits for the next event of a session that is not relayed yet. `already_read` holds the bytes
/// that were read and not opened, before and after the call.
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

/// Polls for the same as [`next_event`]. Nothing is lost when it is not polled again.
pub(super) fn poll_event(
    cx: &mut Context<'_>,
    stream: &mut Stream,
    session: &mut Session,
    already_read: &mut Vec<u8>,
) -> Poll<Result<Event, CloseReason>> {
    loop {
        if let Some((event, len)) = session.inbound.next(already_read).map_err(from_peer_error)? {
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

/// Sends Open.
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

/// Waits until the far end has connected its target. `already_read` as for [`next_event`].
///
/// # Errors
/// The reason why it could not.
pub(super) async fn await_opened(
    stream: &mut Stream,
    session: &mut Session,
    already_read: &mut Vec<u8>,
) -> Result<(), CloseReason> {
    loop {
        match next_event(stream, session, already_read).await? {
            Event::Opened => return Ok(()),
            Event::Reset(reason) => return Err(from_remote(reason)),
            // A heartbeat of a far end that waits for its target.
            Event::Data(_) => {}
            _ => return Err(CloseReason::ProtocolError),
        }
    }
}
