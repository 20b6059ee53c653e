//! The Noise objects that NNpsk0 needs, and no more (Noise revision 34, section 5).
//!
//! Each line of code has the line of the specification above it, so that an auditor can compare
//! them one by one. DH, order of tokens and payloads belong to `handshake.rs`.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use super::PeerError;
use super::labels::NOISE_NAME;
use knockpipe_base::secret::Secret;

/// Length of an AEAD tag in bytes.
pub(super) const TAG_LEN: usize = 16;

/// `SymmetricState`: chaining key, handshake hash and the current cipher key.
pub(super) struct SymmetricState {
    ck: Secret<32>,
    h: [u8; 32],
    k: Option<Secret<32>>,
    n: u64,
}

/// Results of the token psk at the begin of a handshake. There ck is still that of
/// `InitializeSymmetric`, so they depend on the psk alone and need not be computed for each
/// message, which halves what a stranger's message costs. They permit all that the psk permits.
pub(crate) struct PskToken {
    ck: Secret<32>,
    temp_h: Secret<32>,
}

impl PskToken {
    pub(crate) fn new(psk: &Secret<32>) -> Self {
        let initial = SymmetricState::initialize(&[]);
        // ck, temp_h, temp_k = HKDF(ck, input_key_material, 3). The next token, e, replaces k
        // before anything is encrypted, so temp_k is not needed.
        let [ck, temp_h, _] = hkdf(&initial.ck, psk.expose());
        Self { ck, temp_h }
    }

    /// Returns the secret bytes, for locking them in memory only.
    pub(crate) fn secrets(&self) -> [&Secret<32>; 2] {
        [&self.ck, &self.temp_h]
    }
}

impl SymmetricState {
    /// `InitializeSymmetric(protocol_name)`, then `MixHash(prologue)`.
    pub(super) fn initialize(prologue: &[u8]) -> Self {
        // If protocol_name is longer than HASHLEN, h = HASH(protocol_name). ck = h.
        let h: [u8; 32] = Sha256::digest(NOISE_NAME).into();
        let ck = Secret::filled_by(|ck| *ck = h);
        let mut state = Self { h, ck, k: None, n: 0 };
        state.mix_hash(prologue);
        state
    }

    /// `MixHash(data)`.
    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        // h = HASH(h || data)
        self.h = Sha256::new().chain_update(self.h).chain_update(data).finalize().into();
    }

    /// `MixKey(input_key_material)`.
    pub(super) fn mix_key(&mut self, input: &[u8]) {
        // ck, temp_k = HKDF(ck, input_key_material, 2)
        let [ck, temp_k] = hkdf(&self.ck, input);
        // Calls InitializeKey(temp_k).
        self.ck = ck;
        self.initialize_key(temp_k);
    }

    /// `MixKeyAndHash(psk)` as the first token: the psk token of psk0.
    pub(super) fn mix_psk(&mut self, PskToken { ck, temp_h }: &PskToken) {
        debug_assert!(self.k.is_none(), "another token came before");
        self.ck = Secret::filled_by(|bytes| *bytes = *ck.expose());
        // Calls MixHash(temp_h).
        self.mix_hash(temp_h.expose());
    }

    /// `EncryptAndHash(plaintext)`, in place: `buf` holds the plaintext and [`TAG_LEN`] bytes of
    /// room after it.
    pub(super) fn encrypt_and_hash(&mut self, buf: &mut [u8]) {
        let (text, tag_room) = buf.split_at_mut(buf.len() - TAG_LEN);
        // ciphertext = EncryptWithAd(h, plaintext)
        let (cipher, nonce) = self.next_cipher();
        let tag = cipher
            .encrypt_inout_detached(&nonce, &self.h, text.into())
            .expect("a handshake message is far below the limit of ChaCha20-Poly1305");
        tag_room.copy_from_slice(&tag);
        // Calls MixHash(ciphertext).
        self.mix_hash(buf);
    }

    /// `DecryptAndHash(ciphertext)`, in place: afterwards `buf` holds the plaintext and the tag
    /// after it.
    pub(super) fn decrypt_and_hash(&mut self, buf: &mut [u8]) -> Result<(), PeerError> {
        // Calls MixHash(ciphertext), after h was used as associated data.
        let h = self.h;
        self.mix_hash(buf);
        // plaintext = DecryptWithAd(h, ciphertext)
        self.decrypt_with_ad(&h, buf)
    }

    /// `DecryptAndHash(ciphertext)` of a message that nothing follows, so that the hash is not
    /// needed.
    pub(super) fn decrypt_last(mut self, buf: &mut [u8]) -> Result<(), PeerError> {
        let h = self.h;
        // plaintext = DecryptWithAd(h, ciphertext)
        self.decrypt_with_ad(&h, buf)
    }

    fn decrypt_with_ad(&mut self, h: &[u8; 32], buf: &mut [u8]) -> Result<(), PeerError> {
        let text_len = buf.len().checked_sub(TAG_LEN).ok_or(PeerError::BadLength)?;
        let (text, tag) = buf.split_at_mut(text_len);
        let tag = (&*tag).try_into().map_err(|_| PeerError::BadLength)?;
        let (cipher, nonce) = self.next_cipher();
        cipher.decrypt_inout_detached(&nonce, h, text.into(), tag).map_err(|_| PeerError::BadTag)
    }

    /// `Split()`: the keys of initiator to responder and of responder to initiator, and the
    /// handshake hash, which is unique to this handshake.
    pub(super) fn split(self) -> ([Secret<32>; 2], [u8; 32]) {
        // temp_k1, temp_k2 = HKDF(ck, zerolen, 2)
        (hkdf(&self.ck, &[]), self.h)
    }

    fn initialize_key(&mut self, key: Secret<32>) {
        // k = key, n = 0
        self.k = Some(key);
        self.n = 0;
    }

    /// Returns the cipher for one message; the nonce is 32 zero bits and n in little-endian order.
    fn next_cipher(&mut self) -> (ChaCha20Poly1305, Nonce) {
        let key = self.k.as_ref().expect("the token e sets a key before anything is encrypted");
        let mut nonce = Nonce::default();
        nonce[4..].copy_from_slice(&self.n.to_le_bytes());
        self.n += 1;
        (ChaCha20Poly1305::new(key.expose().into()), nonce)
    }
}

impl Drop for SymmetricState {
    fn drop(&mut self) {
        self.h.zeroize();
    }
}

/// Noise `HKDF(chaining_key, input_key_material, N)`: RFC 5869 with the
/// chaining key as salt and an empty info.
fn hkdf<const N: usize>(ck: &Secret<32>, input: &[u8]) -> [Secret<32>; N] {
    let mut out = Zeroizing::new([0; 96]);
    Hkdf::<Sha256>::new(Some(ck.expose()), input)
        .expand(&[], &mut out[..32 * N])
        .expect("two or three blocks are within HKDF's limit");
    std::array::from_fn(|i| Secret::filled_by(|key| key.copy_from_slice(&out[32 * i..32 * i + 32])))
}
