//! X25519, behind one of two back ends, as in `aead.rs`: aws-lc if the feature `aws-lc` is on,
//! x25519-dalek otherwise. The tests compare them.
//!
//! Knows no Noise. Refuses public keys that would make the shared secret zeros.

use super::PeerError;
use knockpipe_base::secret::Secret;

/// Length of a public key, and of a shared secret, in bytes.
pub(super) const KEY_LEN: usize = 32;

/// Public key on the wire.
pub(super) type PublicKey = [u8; KEY_LEN];

#[cfg(feature = "aws-lc")]
pub(super) use aws_lc::DhKey;
#[cfg(not(feature = "aws-lc"))]
pub(super) use dalek::DhKey;

#[cfg(feature = "aws-lc")]
mod aws_lc {
    use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};

    use super::{PeerError, PublicKey, Secret};

    /// Private key in aws-lc; the library wipes its memory when it is freed.
    pub(crate) struct DhKey(PrivateKey);

    impl DhKey {
        pub(crate) fn new(private: &Secret<32>) -> Self {
            let key = PrivateKey::from_private_key(&X25519, private.expose());
            Self(key.expect("any 32 bytes are a private key"))
        }

        pub(crate) fn public(&self) -> PublicKey {
            let public = self.0.compute_public_key().expect("a private key has a public one");
            public.as_ref().try_into().expect("a public key has 32 bytes")
        }

        /// Returns the secret that this key and `other` share.
        ///
        /// # Errors
        /// [`PeerError::LowOrder`] if that is zeros.
        pub(crate) fn agree(&self, other: &PublicKey) -> Result<Secret<32>, PeerError> {
            let other = UnparsedPublicKey::new(&X25519, other);
            agree(&self.0, other, PeerError::LowOrder, |shared| {
                Ok(Secret::filled_by(|secret| secret.copy_from_slice(shared)))
            })
        }
    }
}

#[cfg(any(test, not(feature = "aws-lc")))]
mod dalek {
    use x25519_dalek::StaticSecret;

    use super::{PeerError, PublicKey, Secret};

    /// Private key in x25519-dalek, which wipes it on drop.
    pub(crate) struct DhKey(StaticSecret);

    impl DhKey {
        pub(crate) fn new(private: &Secret<32>) -> Self {
            Self(StaticSecret::from(*private.expose()))
        }

        pub(crate) fn public(&self) -> PublicKey {
            x25519_dalek::PublicKey::from(&self.0).to_bytes()
        }

        /// Returns the secret that this key and `other` share.
        ///
        /// # Errors
        /// [`PeerError::LowOrder`] if that is zeros.
        pub(crate) fn agree(&self, other: &PublicKey) -> Result<Secret<32>, PeerError> {
            let shared = self.0.diffie_hellman(&x25519_dalek::PublicKey::from(*other));
            if !shared.was_contributory() {
                return Err(PeerError::LowOrder);
            }
            Ok(Secret::filled_by(|secret| *secret = *shared.as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::dalek::DhKey as OtherKey;
    use super::*;

    /// RFC 7748, section 5.2.
    #[test]
    fn published_vector() {
        let scalar = unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let point = unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let shared = unhex("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        let key = DhKey::new(&Secret::take(&mut { scalar }));
        assert_eq!(key.agree(&point).unwrap().expose(), &shared);
    }

    #[test]
    fn both_back_ends_are_the_same_function() {
        for byte in 0..64_u8 {
            let private =
                Secret::take(&mut std::array::from_fn(|i| byte.wrapping_mul(i as u8 + 7)));
            let ours = DhKey::new(&private);
            let other = OtherKey::new(&private);
            assert_eq!(ours.public(), other.public());
            // Half of all byte strings are no points of the curve; both take its twist.
            let point = [byte.wrapping_mul(37); KEY_LEN];
            let ours = ours.agree(&point);
            let other = other.agree(&point);
            assert_eq!(ours.map(|s| *s.expose()), other.map(|s| *s.expose()), "{byte}");
        }
    }

    fn unhex(text: &str) -> [u8; 32] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }
}
