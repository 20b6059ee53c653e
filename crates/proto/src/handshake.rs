//! The handshake: Noise_NNpsk0_25519_ChaChaPoly_SHA256, one message each way,
//! and the first record that proves the dialer live.
//!
//! A transition consumes the state before it, so no step can be left out: the
//! acceptor's [`Session`], which the target is dialled with, comes out of
//! [`Unconfirmed::confirm`] only, and that only out of an authentic record.
//!
//! The tag of message 1 is checked before any X25519, and the clock in it before
//! an answer is made (`replay.rs`): strangers and recordings cost little.

use super::dh::{DhKey, KEY_LEN, PublicKey};
use super::heartbeat::Heartbeats;
use super::hello::{Hello, PAYLOAD_LEN, Welcome};
use super::inbound::{Event, Inbound};
use super::noise::{SymmetricState, TAG_LEN};
use super::outbound::Outbound;
use super::record::{Opener, Sealer, record_seed};
use super::{Direction, PeerError, Side, labels};
use crate::Suite;
use crate::keys::{Key, KeyId, KeyRing};
use knockpipe_base::secret::Secret;

/// Length of message 1 and of message 2 in bytes: key, payload, tag.
pub const MESSAGE_LEN: usize = KEY_LEN + PAYLOAD_LEN + TAG_LEN;

/// A handshake message on the wire.
pub type Message = [u8; MESSAGE_LEN];

/// The dialer, waiting for message 2.
pub struct Dialer {
    state: SymmetricState,
    ephemeral: DhKey,
    hello: Hello,
    key: KeyId,
}

/// The acceptor with an authentic message 1, before it answers.
pub struct Received {
    state: SymmetricState,
    dialer_key: PublicKey,
    hello: Hello,
    key: KeyId,
    fingerprint: u64,
}

/// The acceptor, waiting for the record that proves the dialer live.
pub struct Unconfirmed(Session);

/// What the first record made of an [`Unconfirmed`].
pub enum First {
    /// The record is not complete yet.
    Incomplete(Unconfirmed),
    /// The dialer is live: the session, the event, and the length of the record.
    Confirmed(Session, Event, usize),
}

/// Both directions of a tunnel between two live ends.
pub struct Session {
    /// What the other end sends.
    pub inbound: Inbound,
    /// What this end sends.
    pub outbound: Outbound,
    /// The key that both ends used.
    pub key: KeyId,
    /// The record suite of both directions.
    pub suite: Suite,
    /// How often both ends give a sign of life.
    pub heartbeats: Heartbeats,
}

// === impl Dialer ===

impl Dialer {
    /// Message 1, made of a key, what to say, and a fresh ephemeral private key.
    pub fn start(key: &Key, hello: Hello, ephemeral: Secret<32>) -> (Self, Message) {
        let ephemeral = DhKey::new(&ephemeral);
        let mut message = [0; MESSAGE_LEN];
        message[KEY_LEN..KEY_LEN + PAYLOAD_LEN].copy_from_slice(&hello.encode());
        let state = write_message1(labels::PROLOGUE, key.secret(), &ephemeral, &mut message);
        (Self { state, ephemeral, hello, key: key.id() }, message)
    }

    /// Reads message 2.
    ///
    /// # Errors
    /// [`PeerError`] when the other end has another key, or does not keep to
    /// what was offered.
    pub fn finish(self, mut message: Message) -> Result<(Session, Welcome), PeerError> {
        let state = read_message2(self.state, &self.ephemeral, &mut message)?;
        let welcome = Welcome::decode(payload(&message))?;
        let offered = self.hello.suites.contains(welcome.suite);
        if !offered || welcome.padding < self.hello.padding {
            return Err(PeerError::Misbehaved);
        }
        let heartbeats = Heartbeats::of(self.hello.heartbeat, welcome.heartbeat);
        Ok((Session::new(Side::Dialer, state, (&welcome, heartbeats), self.key), welcome))
    }
}

// === impl Received ===

/// Reads message 1 with the keys of `ring`; the first that fits is its key. All
/// are tried, also when one did, so that the time tells nothing. Costs a few hashes
/// and a small decryption for each.
///
/// # Errors
/// [`PeerError::BadTag`] when no key fits; another when Hello is malformed.
pub fn read_message1(ring: &KeyRing, message: &Message) -> Result<Received, PeerError> {
    let mut found = Err(PeerError::BadTag);
    for key in ring.iter() {
        let read = read_message1_with_key(key, message);
        if matches!(found, Err(PeerError::BadTag)) {
            found = read;
        }
    }
    found
}

fn read_message1_with_key(key: &Key, message: &Message) -> Result<Received, PeerError> {
    let mut opened = *message;
    let (state, dialer_key) = read_message1_with(labels::PROLOGUE, key.secret(), &mut opened)?;
    Ok(Received {
        state,
        dialer_key,
        hello: Hello::decode(payload(&opened))?,
        key: key.id(),
        fingerprint: fingerprint(message),
    })
}

impl Received {
    /// What the dialer said.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// The key that message 1 was made with.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// Tells this message 1 from all others.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Message 2, made of the answer and a fresh ephemeral private key.
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
        let heartbeats = Heartbeats::of(welcome.heartbeat, self.hello.heartbeat);
        let session = Session::new(Side::Acceptor, state, (welcome, heartbeats), self.key);
        Ok((Unconfirmed(session), message))
    }
}

// === impl Unconfirmed ===

impl Unconfirmed {
    /// Opens the first record at the front of `buf` in place.
    ///
    /// # Errors
    /// [`PeerError`] when it is not authentic: a replayed message 1, mostly.
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
    /// How often a record key was replaced by its successor so far, both directions together.
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

fn write_message1(
    prologue: &[u8],
    psk: &Secret<32>,
    ephemeral: &DhKey,
    message: &mut [u8],
) -> SymmetricState {
    let mut state = SymmetricState::initialize(prologue);
    // psk
    state.mix_key_and_hash(psk.expose());
    // e
    write_e(&mut state, ephemeral, message);
    state.encrypt_and_hash(&mut message[KEY_LEN..]);
    state
}

fn read_message1_with(
    prologue: &[u8],
    psk: &Secret<32>,
    message: &mut [u8],
) -> Result<(SymmetricState, PublicKey), PeerError> {
    let mut state = SymmetricState::initialize(prologue);
    // psk
    state.mix_key_and_hash(psk.expose());
    // e
    let re = read_e(&mut state, message);
    state.decrypt_and_hash(&mut message[KEY_LEN..])?;
    Ok((state, re))
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

/// `MixKey(DH(e, re))`; refuses a key whose shared secret is all zeros.
fn mix_dh(state: &mut SymmetricState, e: &DhKey, re: &PublicKey) -> Result<(), PeerError> {
    state.mix_key(e.agree(re)?.expose());
    Ok(())
}

fn payload(message: &Message) -> &[u8; PAYLOAD_LEN] {
    message[KEY_LEN..].first_chunk().expect("a message holds a payload and a tag")
}

/// The first half of the tag: it depends on every other byte of the message.
fn fingerprint(message: &Message) -> u64 {
    let tag = message[KEY_LEN + PAYLOAD_LEN..].first_chunk().expect("a tag has 16 bytes");
    u64::from_be_bytes(*tag)
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
