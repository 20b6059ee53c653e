//! Keys with their public ids, and the ring of keys that an end holds.
//!
//! The first key of a ring is used to dial; every key of the ring is accepted. That is all that
//! rotation without downtime needs: add the new key after the old one on both ends, then put it
//! first, then remove the old one.

use std::fmt;
use std::sync::Arc;

use crate::labels;
use crate::noise::PskToken;
use knockpipe_base::secret::Secret;

/// Largest number of keys in a ring: each costs a stranger's first message one more trial
/// decryption.
pub const MAX_KEYS: usize = 8;

/// Short public name of a key: 4 bytes derived from it, shown as 8 hex digits. It distinguishes
/// keys in logs and reveals nothing about them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; 4]);

/// Shared key of 32 bytes with its [`KeyId`]. Clones share one copy of the bytes.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    secret: Arc<Secret<32>>,
    token: Arc<PskToken>,
}

/// Ring of one to [`MAX_KEYS`] keys, no two the same.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyRing(Vec<Key>);

/// Error of keys that do not make a ring.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RingError {
    /// No key at all.
    #[error("no key was given; give one with -k FILE")]
    Empty,
    /// More than [`MAX_KEYS`].
    #[error(
        "{0} keys were given; at most {MAX_KEYS} can be accepted at once; remove keys that are no longer used"
    )]
    TooMany(usize),
    /// The same key twice.
    #[error("key {0} was given twice; give each key once")]
    Duplicate(KeyId),
}

impl Key {
    /// Creates a key of 32 secret bytes.
    pub fn new(secret: Secret<32>) -> Self {
        let id = KeyId(labels::key_id(&secret));
        let token = Arc::new(PskToken::new(&secret));
        Self { id, secret: Arc::new(secret), token }
    }

    /// Returns the public name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Returns the key bytes, for writing a key file only.
    pub fn secret(&self) -> &Secret<32> {
        &self.secret
    }

    /// Returns the first step of the handshake with this key.
    pub(crate) fn token(&self) -> &PskToken {
        &self.token
    }

    /// Returns all that must stay secret, for locking it in memory only.
    pub fn secrets(&self) -> [&Secret<32>; 3] {
        let [ck, temp_h] = self.token.secrets();
        [&self.secret, ck, temp_h]
    }
}

impl KeyRing {
    /// Creates a ring of `keys` in order of preference.
    ///
    /// # Errors
    /// [`RingError`] if there are none, too many, or one twice.
    pub fn new(keys: Vec<Key>) -> Result<Self, RingError> {
        if keys.is_empty() {
            return Err(RingError::Empty);
        }
        if keys.len() > MAX_KEYS {
            return Err(RingError::TooMany(keys.len()));
        }
        for (i, key) in keys.iter().enumerate() {
            if keys[..i].iter().any(|k| k.secret.same_as(&key.secret)) {
                return Err(RingError::Duplicate(key.id));
            }
        }
        Ok(Self(keys))
    }

    /// Returns the key that is used to dial.
    pub fn first(&self) -> &Key {
        &self.0[0]
    }

    /// Returns all keys, the one for dialing first.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.0.iter()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.secret.same_as(&other.secret)
    }
}

impl KeyId {
    /// Returns the 4 bytes.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0
    }

    /// Reverses [`Self::to_bytes`].
    pub fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(Secret::take(&mut [byte; 32]))
    }

    #[test]
    fn a_ring_refuses_none_too_many_and_twins() {
        assert_eq!(KeyRing::new(vec![]).unwrap_err(), RingError::Empty);
        let nine = (0..9).map(key).collect();
        assert_eq!(KeyRing::new(nine).unwrap_err(), RingError::TooMany(9));
        let twins = vec![key(1), key(2), key(1)];
        assert_eq!(KeyRing::new(twins).unwrap_err(), RingError::Duplicate(key(1).id()));
    }

    #[test]
    fn debug_shows_the_id_only() {
        let text = format!("{:?}", KeyRing::new(vec![key(0x41)]).unwrap());
        assert_eq!(text, format!("KeyRing([Key({})])", key(0x41).id()));
    }
}
