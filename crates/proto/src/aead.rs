//! AEAD keys of record directions, behind one of two back ends.
//!
//! `aws-lc-rs` seals if the feature `aws-lc` is on, the RustCrypto crates otherwise. Both are the
//! same functions of the same bytes, and the tests compare them. Nonces are the caller's duty.

use super::{PeerError, Suite, SuiteSet};
use knockpipe_base::secret::Secret;

/// Length of an AEAD tag in bytes.
pub const TAG_LEN: usize = 16;

/// Length of a nonce in bytes.
pub const NONCE_LEN: usize = 12;

/// Returns the suites that this build should use on this CPU: AES-256-GCM only if AES and
/// carry-less multiplication are in hardware, since in software it is slow and hard to keep in
/// constant time.
pub fn suites_of_this_machine() -> SuiteSet {
    if hardware_aes() { SuiteSet::BOTH } else { SuiteSet::PORTABLE }
}

#[cfg(target_arch = "x86_64")]
fn hardware_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
}

#[cfg(target_arch = "aarch64")]
fn hardware_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
        && std::arch::is_aarch64_feature_detected!("pmull")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn hardware_aes() -> bool {
    false
}

#[cfg(feature = "aws-lc")]
pub(super) use aws_lc::AeadKey;
#[cfg(not(feature = "aws-lc"))]
pub(super) use rust_crypto::AeadKey;

#[cfg(feature = "aws-lc")]
mod aws_lc {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

    use super::{NONCE_LEN, PeerError, Secret, Suite, TAG_LEN};

    /// Record key in aws-lc; the library wipes its memory when it is freed.
    pub(crate) struct AeadKey(LessSafeKey);

    impl AeadKey {
        pub(crate) fn new(suite: Suite, key: &Secret<32>) -> Self {
            let algorithm = match suite {
                Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
                Suite::Aes256Gcm => &AES_256_GCM,
            };
            let key = UnboundKey::new(algorithm, key.expose());
            Self(LessSafeKey::new(key.expect("both suites take a key of 32 bytes")))
        }

        /// Returns the suite.
        pub(crate) fn suite(&self) -> Suite {
            let is_aes = self.0.algorithm() == &AES_256_GCM;
            if is_aes { Suite::Aes256Gcm } else { Suite::ChaCha20Poly1305 }
        }

        /// Encrypts `text` in place and returns the tag.
        pub(crate) fn seal(
            &self,
            nonce: [u8; NONCE_LEN],
            ad: &[u8],
            text: &mut [u8],
        ) -> [u8; TAG_LEN] {
            let nonce = Nonce::assume_unique_for_key(nonce);
            let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(ad), text);
            let tag = tag.expect("a record is far below the limits of both suites");
            tag.as_ref().try_into().expect("both suites have tags of 16 bytes")
        }

        /// Decrypts `sealed` (ciphertext, then tag) in place.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_LEN],
            ad: &[u8],
            sealed: &mut [u8],
        ) -> Result<(), PeerError> {
            let nonce = Nonce::assume_unique_for_key(nonce);
            match self.0.open_in_place(nonce, Aad::from(ad), sealed) {
                Ok(_) => Ok(()),
                Err(_) => Err(PeerError::BadTag),
            }
        }
    }
}

#[cfg(any(test, not(feature = "aws-lc")))]
mod rust_crypto {
    use aes_gcm::Aes256Gcm;
    use chacha20poly1305::ChaCha20Poly1305;
    use chacha20poly1305::aead::{AeadInOut, KeyInit};

    use super::{NONCE_LEN, PeerError, Secret, Suite, TAG_LEN};

    /// Record key in the RustCrypto crates, which wipe it on drop.
    pub(crate) enum AeadKey {
        ChaCha20Poly1305(ChaCha20Poly1305),
        Aes256Gcm(Box<Aes256Gcm>),
    }

    impl AeadKey {
        /// Returns the suite.
        pub(crate) fn suite(&self) -> Suite {
            match self {
                Self::ChaCha20Poly1305(_) => Suite::ChaCha20Poly1305,
                Self::Aes256Gcm(_) => Suite::Aes256Gcm,
            }
        }

        pub(crate) fn new(suite: Suite, key: &Secret<32>) -> Self {
            let key = key.expose().into();
            match suite {
                Suite::ChaCha20Poly1305 => Self::ChaCha20Poly1305(ChaCha20Poly1305::new(key)),
                Suite::Aes256Gcm => Self::Aes256Gcm(Box::new(Aes256Gcm::new(key))),
            }
        }

        /// Encrypts `text` in place and returns the tag.
        pub(crate) fn seal(
            &self,
            nonce: [u8; NONCE_LEN],
            ad: &[u8],
            text: &mut [u8],
        ) -> [u8; TAG_LEN] {
            let nonce = &nonce.into();
            let tag = match self {
                Self::ChaCha20Poly1305(key) => key.encrypt_inout_detached(nonce, ad, text.into()),
                Self::Aes256Gcm(key) => key.encrypt_inout_detached(nonce, ad, text.into()),
            };
            tag.expect("a record is far below the limits of both suites").into()
        }

        /// Decrypts `sealed` (ciphertext, then tag) in place.
        pub(crate) fn open(
            &self,
            nonce: [u8; NONCE_LEN],
            ad: &[u8],
            sealed: &mut [u8],
        ) -> Result<(), PeerError> {
            let text_len = sealed.len().checked_sub(TAG_LEN).ok_or(PeerError::BadTag)?;
            let (text, tag) = sealed.split_at_mut(text_len);
            let tag = (&*tag).try_into().map_err(|_| PeerError::BadTag)?;
            let nonce = &nonce.into();
            let opened = match self {
                Self::ChaCha20Poly1305(key) => {
                    key.decrypt_inout_detached(nonce, ad, text.into(), tag)
                }
                Self::Aes256Gcm(key) => key.decrypt_inout_detached(nonce, ad, text.into(), tag),
            };
            opened.map_err(|_| PeerError::BadTag)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unhex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    /// RFC 8439 section 2.8.2.
    #[test]
    fn published_vector_of_chacha20_poly1305() {
        let key = Secret::filled_by(|k: &mut [u8; 32]| {
            k.copy_from_slice(&(0x80..0xa0).collect::<Vec<u8>>());
        });
        let nonce = unhex("070000004041424344454647").try_into().unwrap();
        let ad = unhex("50515253c0c1c2c3c4c5c6c7");
        let text = b"Ladies and Gentlemen of the class of '99: If I could offer you \
            only one tip for the future, sunscreen would be it.";
        let mut sealed = text.to_vec();
        let tag = AeadKey::new(Suite::ChaCha20Poly1305, &key).seal(nonce, &ad, &mut sealed);
        assert_eq!(sealed[..16], unhex("d31a8d34648e60db7b86afbc53ef7ec2"));
        assert_eq!(tag[..], unhex("1ae10b594f09e26a7e902ecbd0600691"));
    }

    /// Test case 16 of the GCM specification (McGrew and Viega), AES-256.
    #[test]
    fn published_vector_of_aes_256_gcm() {
        let key = Secret::filled_by(|k: &mut [u8; 32]| {
            k[..16].copy_from_slice(&unhex("feffe9928665731c6d6a8f9467308308"));
            k[16..].copy_from_slice(&unhex("feffe9928665731c6d6a8f9467308308"));
        });
        let nonce = unhex("cafebabefacedbaddecaf888").try_into().unwrap();
        let ad = unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let mut sealed = unhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let tag = AeadKey::new(Suite::Aes256Gcm, &key).seal(nonce, &ad, &mut sealed);
        assert_eq!(sealed[..16], unhex("522dc1f099567d07f47f37a32a84427d"));
        assert_eq!(tag[..], unhex("76fc6ece0f4e1768cddf8853bb2d551b"));
    }

    #[test]
    #[cfg(feature = "aws-lc")]
    fn both_back_ends_are_the_same_function() {
        for suite in Suite::ALL {
            for len in [0, 1, 2, 15, 16, 17, 63, 64, 65, 255, 1024, 16_383, 16_384] {
                let key = Secret::take(&mut [(len % 251) as u8; 32]);
                let c = AeadKey::new(suite, &key);
                let rust = rust_crypto::AeadKey::new(suite, &key);
                assert_eq!((c.suite(), rust.suite()), (suite, suite));
                let nonce = [(len % 7) as u8; NONCE_LEN];
                let text: Vec<u8> = (0..len).map(|i| (i % 256) as u8).collect();
                let mut one = text.clone();
                let mut two = text.clone();
                let tag = c.seal(nonce, b"ad", &mut one);
                assert_eq!(tag, rust.seal(nonce, b"ad", &mut two), "{suite} {len}");
                assert_eq!(one, two, "{suite} {len}");
                one.extend(tag);
                two.extend(tag);
                rust.open(nonce, b"ad", &mut one).unwrap();
                c.open(nonce, b"ad", &mut two).unwrap();
                assert_eq!((&one[..len], &two[..len]), (&text[..], &text[..]));
                for sealed in [&mut one, &mut two] {
                    sealed[len] ^= 1;
                    assert_eq!(rust.open(nonce, b"ad", sealed), Err(PeerError::BadTag));
                    assert_eq!(c.open(nonce, b"ad", sealed), Err(PeerError::BadTag));
                }
            }
        }
    }
}
