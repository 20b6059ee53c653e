//! Strings that separate one use of key material from another.
//!
//! All are in one file so that their uniqueness can be seen, and is tested. Changing any of them is
//! a new protocol version.

use hkdf::Hkdf;
use sha2::Sha256;

use super::{Direction, Suite};
use knockpipe_base::secret::Secret;

/// Noise protocol name: pattern, curve, cipher and hash of the handshake.
pub const NOISE_NAME: &[u8; 36] = b"Noise_NNpsk0_25519_ChaChaPoly_SHA256";

/// Noise prologue: both ends must speak this version of knockpipe.
pub const PROLOGUE: &[u8] = b"knockpipe/1";

/// Noise prologue of a knock, so that neither it nor a message 1 can be used as the other.
pub const KNOCK_PROLOGUE: &[u8] = b"knockpipe/1 knock";

/// HKDF label of the public id of a key.
const KEY_ID: &[u8] = b"knockpipe/1 key id";

/// HKDF label of the checksum in a text key file.
const KEY_CHECKSUM: &[u8] = b"knockpipe/1 key file checksum";

/// HKDF label of the one-way step of a record key.
const RATCHET: &[u8] = b"knockpipe/1 ratchet";

/// Returns the HKDF label of a record key, which names the suite and the direction.
pub fn record_key(suite: Suite, direction: Direction) -> &'static [u8] {
    match (suite, direction) {
        (Suite::ChaCha20Poly1305, Direction::ToAcceptor) => {
            b"knockpipe/1 record key chacha20-poly1305 dialer-to-acceptor"
        }
        (Suite::ChaCha20Poly1305, Direction::ToDialer) => {
            b"knockpipe/1 record key chacha20-poly1305 acceptor-to-dialer"
        }
        (Suite::Aes256Gcm, Direction::ToAcceptor) => {
            b"knockpipe/1 record key aes-256-gcm dialer-to-acceptor"
        }
        (Suite::Aes256Gcm, Direction::ToDialer) => {
            b"knockpipe/1 record key aes-256-gcm acceptor-to-dialer"
        }
    }
}

/// Computes HKDF-SHA256 with `salt`, expanded with `label` to `N` bytes (at most 255 * 32).
pub fn derive<const N: usize>(salt: &[u8], secret: &[u8], label: &[u8]) -> Secret<N> {
    const { assert!(N <= 255 * 32, "HKDF-SHA256 cannot give more") };
    Secret::filled_by(|out| {
        Hkdf::<Sha256>::new(Some(salt), secret)
            .expand(label, out)
            .expect("N is within HKDF's limit, checked at compile time");
    })
}

/// Computes the public id of a key: `HKDF(key, "key id")`, 4 bytes.
pub fn key_id(key: &Secret<32>) -> [u8; 4] {
    *derive::<4>(&[], key.expose(), KEY_ID).expose()
}

/// Computes the checksum of a text key file: `HKDF(key, "key file checksum")`, 4 bytes.
pub fn key_checksum(key: &Secret<32>) -> [u8; 4] {
    *derive::<4>(&[], key.expose(), KEY_CHECKSUM).expose()
}

/// Computes the record key that follows `key`: `HKDF(key, "ratchet")`.
pub fn ratchet(key: &Secret<32>) -> Secret<32> {
    derive(&[], key.expose(), RATCHET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique() {
        let mut all = vec![PROLOGUE, KNOCK_PROLOGUE, NOISE_NAME, KEY_ID, KEY_CHECKSUM, RATCHET];
        for suite in Suite::ALL {
            for direction in [Direction::ToAcceptor, Direction::ToDialer] {
                all.push(record_key(suite, direction));
            }
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert_eq!(count, 10);
    }
}
