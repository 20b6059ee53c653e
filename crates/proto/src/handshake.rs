//! The handshake: Noise_NNpsk0_25519_ChaChaPoly_SHA256, one message each way, and the first record
//! that proves the dialer live.
//!
//! A transition consumes the state before it, so no step can be left out: the acceptor's
//! [`Session`], without which no target is dialled, comes out of [`Unconfirmed::confirm`] only, and
//! that only for an authentic record.
//!
//! The tag of message 1 is checked before any X25519, and the clock in it before an answer is made
//! (`replay.rs`): strangers and recordings cost little.

use super::dh::{DhKey, KEY_LEN, PublicKey};
use super::heartbeat::Heartbeats;
use super::hello::{Hello, PAYLOAD_LEN, Welcome};
use super::inbound::{Event, Inbound};
use super::noise::{SymmetricState, TAG_LEN};
use super::outbound::Outbound;
use super::record::{
    DATA_OFFSET, MAX_DATA, MAX_RECORD, Opener, RecordGeometry, Sealer, record_seed,
};
use super::{Direction, PeerError, Side, labels};
use crate::Suite;
use crate::keys::{Key, KeyId, KeyRing};
use knockpipe_base::secret::Secret;

/// Length of message 1 and of message 2 in bytes: key, payload, tag.
pub const MESSAGE_LEN: usize = KEY_LEN + PAYLOAD_LEN + TAG_LEN;

/// Handshake message on the wire.
pub type Message = [u8; MESSAGE_LEN];

/// Dialer that waits for message 2.
pub struct Dialer {
    state: SymmetricState,
    ephemeral: DhKey,
    hello: Hello,
    key: KeyId,
}

/// Acceptor with an authentic message 1, before it answers.
pub struct Received {
    state: SymmetricState,
    dialer_key: PublicKey,
    hello: Hello,
    key: KeyId,
    fingerprint: u64,
}

/// Acceptor that waits for the record that proves the dialer live.
pub struct Unconfirmed(Session);

/// Message 1 without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// The message is not complete: at least this many bytes have to be read, and no more may be.
    #[error("{0} more bytes are needed")]
    Need(usize),
    /// The message is refused.
    #[error(transparent)]
    Refused(#[from] PeerError),
}

/// Outcome of opening the first record of an [`Unconfirmed`].
pub enum First {
    /// The record is not complete yet.
    Incomplete(Unconfirmed),
    /// The dialer is live: the session, the event, and the length of the record.
    Confirmed(Session, Event, usize),
}

/// Both directions of a tunnel between two live ends.
pub struct Session {
    /// Records from the other end.
    pub inbound: Inbound,
    /// Records to the other end.
    pub outbound: Outbound,
    /// Key that both ends used.
    pub key: KeyId,
    /// Record suite of both directions.
    pub suite: Suite,
    /// Heartbeats of both ends.
    pub heartbeats: Heartbeats,
}

// === impl Dialer ===

impl Dialer {
    /// Makes message 1 of a key, its payload, and a fresh ephemeral private key.
    pub fn start(key: &Key, hello: Hello, ephemeral: Secret<32>) -> (Self, Message) {
        let ephemeral = DhKey::new(&ephemeral);
        let mut message = [0; MESSAGE_LEN];
        message[KEY_LEN..KEY_LEN + PAYLOAD_LEN].copy_from_slice(&hello.encode());
        let state = write_message1(labels::PROLOGUE, key, &ephemeral, &mut message);
        (Self { state, ephemeral, hello, key: key.id() }, message)
    }

    /// Reads message 2.
    ///
    /// # Errors
    /// [`PeerError`] if the other end has another key, or violates the offer.
    pub fn finish(self, mut message: Message) -> Result<(Session, Welcome), PeerError> {
        let state = read_message2(self.state, &self.ephemeral, &mut message)?;
        let welcome = Welcome::decode(payload(&message))?;
        let offered = self.hello.suites.contains(welcome.suite);
        if !offered || welcome.padding < self.hello.padding {
            return Err(PeerError::Misbehaved);
        }
        let heartbeats =
            Heartbeats::of(self.hello.extensions.heartbeat, welcome.extensions.heartbeat);
        Ok((Session::new(Side::Dialer, state, (&welcome, heartbeats), self.key), welcome))
    }
}

// === impl Received ===

/// Reads message 1 with the keys of `ring`, as far as it has arrived; the first key that fits is
/// its key. All are tried, even after one did, so that the time reveals nothing. Costs a few hashes
/// and a small decryption for each key.
///
/// # Errors
/// [`Unread::Need`] while bytes are missing. [`PeerError::BadLength`] for too many bytes,
/// [`PeerError::BadTag`] if no key fits, another if Hello is malformed.
pub fn read_message1(ring: &KeyRing, prologue: &[u8], arrived: &[u8]) -> Result<Received, Unread> {
    let Some((message, rest)) = arrived.split_first_chunk() else {
        return Err(Unread::Need(MESSAGE_LEN - arrived.len()));
    };
    if !rest.is_empty() {
        return Err(PeerError::BadLength.into());
    }
    Ok(with_every_key(ring, |key| read_message1_with_key(key, prologue, message))?)
}

/// Reads a message with each key of `ring`, also after one fitted, so that the time reveals
/// nothing; the result of the first that fits counts.
pub(super) fn with_every_key<T>(
    ring: &KeyRing,
    read: impl Fn(&Key) -> Result<T, PeerError>,
) -> Result<T, PeerError> {
    let mut found = Err(PeerError::BadTag);
    for key in ring.iter() {
        let read = read(key);
        if matches!(found, Err(PeerError::BadTag)) {
            found = read;
        }
    }
    found
}

fn read_message1_with_key(
    key: &Key,
    prologue: &[u8],
    message: &Message,
) -> Result<Received, PeerError> {
    let mut opened = *message;
    let (state, dialer_key) = read_message1_with(prologue, key, &mut opened)?;
    Ok(Received {
        state,
        dialer_key,
        hello: Hello::decode(payload(&opened))?,
        key: key.id(),
        fingerprint: fingerprint(message),
    })
}

impl Received {
    /// Returns the payload of message 1.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Returns the id of the key that message 1 was made with.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// Returns a number that distinguishes this message 1 from all others.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Makes message 2 of the answer and a fresh ephemeral private key.
    ///
    /// # Errors
    /// [`PeerError::LowOrder`] for a dialer that sent no proper public key.
    pub fn answer(
        self,
        welcome: &Welcome,
        ephemeral: Secret<32>,
    ) -> Result<(Unconfirmed, Message), PeerError> {
        debug_assert!(self.hello.suites.contains(welcome.suite));
        let mut message = [0; MESSAGE_LEN];
        message[KEY_LEN..KEY_LEN + PAYLOAD_LEN].copy_from_slice(&welcome.encode());
        let ephemeral = DhKey::new(&ephemeral);
        let state = write_message2(self.state, &self.dialer_key, &ephemeral, &mut message)?;
        let heartbeats =
            Heartbeats::of(welcome.extensions.heartbeat, self.hello.extensions.heartbeat);
        let session = Session::new(Side::Acceptor, state, (welcome, heartbeats), self.key);
        Ok((Unconfirmed(session), message))
    }
}

// === impl Unconfirmed ===

impl Unconfirmed {
    /// Opens the first record at the front of `buf` in place.
    ///
    /// # Errors
    /// [`PeerError`] if it is not authentic: mostly after a replayed message 1.
    pub fn confirm(self, buf: &mut [u8]) -> Result<First, PeerError> {
        let Self(mut session) = self;
        Ok(match session.inbound.next(buf)? {
            None => First::Incomplete(Self(session)),
            Some((event, len)) => First::Confirmed(session, event, len),
        })
    }
}

// === impl Session ===

impl Session {
    /// Layout of the records of both directions.
    pub const GEOMETRY: RecordGeometry =
        RecordGeometry { max_record: MAX_RECORD, data_offset: DATA_OFFSET, max_data: MAX_DATA };

    /// Returns the number of times that a record key was replaced by its successor, both directions
    /// together.
    pub fn ratchets(&self) -> u64 {
        self.inbound.ratchets() + self.outbound.ratchets()
    }

    fn new(
        side: Side,
        state: SymmetricState,
        (welcome, heartbeats): (&Welcome, Heartbeats),
        key: KeyId,
    ) -> Self {
        let ([to_acceptor, to_dialer], hash) = state.split();
        let suite = welcome.suite;
        let to_acceptor = record_seed(&hash, &to_acceptor, suite, Direction::ToAcceptor);
        let to_dialer = record_seed(&hash, &to_dialer, suite, Direction::ToDialer);
        let (send, receive) = match side {
            Side::Dialer => (to_acceptor, to_dialer),
            Side::Acceptor => (to_dialer, to_acceptor),
        };
        Self {
            inbound: Inbound::new(side, Opener::new(suite, receive), heartbeats.agreed),
            outbound: Outbound::new(Sealer::new(suite, send, welcome.padding)),
            key,
            suite,
            heartbeats,
        }
    }
}

// === the pattern: NNpsk0 ===
//
//   -> psk, e
//   <- e, ee
//
// In a psk handshake the token e is MixHash(e.public_key), MixKey(e.public_key).
// `message` is key, payload, tag; the payload is encrypted in place.

pub(super) fn write_message1(
    prologue: &[u8],
    key: &Key,
    ephemeral: &DhKey,
    message: &mut [u8],
) -> SymmetricState {
    let mut state = SymmetricState::initialize(prologue);
    // psk
    state.mix_psk(key.token());
    // e
    write_e(&mut state, ephemeral, message);
    state.encrypt_and_hash(&mut message[KEY_LEN..]);
    state
}

fn read_message1_with(
    prologue: &[u8],
    key: &Key,
    message: &mut [u8],
) -> Result<(SymmetricState, PublicKey), PeerError> {
    let (mut state, re) = read_tokens1(prologue, key, message);
    state.decrypt_and_hash(&mut message[KEY_LEN..])?;
    Ok((state, re))
}

/// Reads message 1 up to its payload.
pub(super) fn read_tokens1(
    prologue: &[u8],
    key: &Key,
    message: &[u8],
) -> (SymmetricState, PublicKey) {
    let mut state = SymmetricState::initialize(prologue);
    // psk
    state.mix_psk(key.token());
    // e
    let re = read_e(&mut state, message);
    (state, re)
}

fn write_message2(
    mut state: SymmetricState,
    re: &PublicKey,
    ephemeral: &DhKey,
    message: &mut [u8],
) -> Result<SymmetricState, PeerError> {
    // e
    write_e(&mut state, ephemeral, message);
    // ee
    mix_dh(&mut state, ephemeral, re)?;
    state.encrypt_and_hash(&mut message[KEY_LEN..]);
    Ok(state)
}

fn read_message2(
    mut state: SymmetricState,
    ephemeral: &DhKey,
    message: &mut [u8],
) -> Result<SymmetricState, PeerError> {
    // e
    let re = read_e(&mut state, message);
    // ee
    mix_dh(&mut state, ephemeral, &re)?;
    state.decrypt_and_hash(&mut message[KEY_LEN..])?;
    Ok(state)
}

fn write_e(state: &mut SymmetricState, ephemeral: &DhKey, message: &mut [u8]) {
    message[..KEY_LEN].copy_from_slice(&ephemeral.public());
    state.mix_hash(&message[..KEY_LEN]);
    state.mix_key(&message[..KEY_LEN]);
}

fn read_e(state: &mut SymmetricState, message: &[u8]) -> PublicKey {
    let mut re = [0; KEY_LEN];
    re.copy_from_slice(&message[..KEY_LEN]);
    state.mix_hash(&re);
    state.mix_key(&re);
    re
}

/// `MixKey(DH(e, re))`; refuses a key that gives a shared secret of zeros.
fn mix_dh(state: &mut SymmetricState, e: &DhKey, re: &PublicKey) -> Result<(), PeerError> {
    state.mix_key(e.agree(re)?.expose());
    Ok(())
}

pub(super) fn payload(message: &Message) -> &[u8; PAYLOAD_LEN] {
    message[KEY_LEN..].first_chunk().expect("a message holds a payload and a tag")
}

/// Returns the tag at the end of a message: it depends on every other byte.
pub(super) fn tag(message: &Message) -> &[u8; TAG_LEN] {
    message.last_chunk().expect("a message ends with a tag")
}

/// Returns the first half of the tag as a number.
pub(super) fn fingerprint(message: &Message) -> u64 {
    u64::from_be_bytes(*tag(message).first_chunk().expect("a tag has 16 bytes"))
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
