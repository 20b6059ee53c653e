//! Records: sealing and opening them in place, one key per direction.
//!
//! ```text
//!   0        2                                              2 + L
//!   +--------+----------------------------------------------+
//!   | L (BE) | AEAD( type u8 | n u16 | n data bytes | zeros ) |
//!   +--------+----------------------------------------------+
//! ```
//!
//! The two length bytes are the associated data; L counts the tag. The nonce is 32 zero bits and
//! the number of the record in its direction, which is never sent. Every [`RATCHET_INTERVAL`]
//! records the key is replaced by a one-way function of itself. The meaning of the types is in
//! `message.rs`; this module does not know the origin of the bytes.

use std::ops::Range;

use super::aead::{AeadKey, NONCE_LEN, TAG_LEN};
use super::{Direction, Padding, PeerError, Suite, labels};
use knockpipe_base::secret::Secret;

/// Largest plaintext of a record in bytes: larger ones are not sealed any faster, and delay the
/// first byte on slow links.
pub const MAX_PLAINTEXT: usize = 16_384;

/// Bytes of type and data length before the data.
const INNER_HEADER: usize = 3;

/// Bytes of L.
const LENGTH_LEN: usize = 2;

/// Offset of the data in a record on the wire.
pub const DATA_OFFSET: usize = LENGTH_LEN + INNER_HEADER;

/// Most data in a record: a full record needs no padding.
pub const MAX_DATA: usize = MAX_PLAINTEXT - INNER_HEADER;

/// Longest record on the wire, in bytes.
pub const MAX_RECORD: usize = LENGTH_LEN + MAX_PLAINTEXT + TAG_LEN;

/// Layout of the records of a session, in bytes, for buffers in which records are sealed in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordGeometry {
    /// Longest record on the wire.
    pub max_record: usize,
    /// Offset of the data in a record on the wire.
    pub data_offset: usize,
    /// Most data in a record.
    pub max_data: usize,
}

/// Number of records after which a direction takes a new key: 16 GiB of full records, a sixteenth
/// of what AES-GCM allows under one key (2^24 records), and little enough that a stolen key opens
/// only the recent past of a long session.
pub const RATCHET_INTERVAL: u64 = 1 << 20;

/// Key of one direction and the number of its next record.
struct DirectionKey {
    seed: Secret<32>,
    key: AeadKey,
    counter: u64,
}

/// Sealing half of one direction.
pub struct Sealer {
    key: DirectionKey,
    padding: Padding,
}

/// Opening half of one direction.
pub struct Opener {
    key: DirectionKey,
}

/// Record that was opened in the buffer that holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Type byte.
    pub kind: u8,
    /// Place of its data in the buffer.
    pub data: Range<usize>,
    /// Length of the record on the wire, from the front of the buffer.
    pub wire_len: usize,
}

impl Sealer {
    pub(super) fn ratchets(&self) -> u64 {
        self.key.ratchets()
    }

    pub(super) fn new(suite: Suite, seed: Secret<32>, padding: Padding) -> Self {
        Self { key: DirectionKey::new(suite, seed), padding }
    }

    /// Returns the length on the wire of a record with `len` bytes of data.
    pub(super) fn wire_len(&self, len: usize) -> usize {
        LENGTH_LEN + self.padding.padded(INNER_HEADER + len) + TAG_LEN
    }

    /// Seals one record in place. `slot` is at least [`Self::wire_len`] long, and its data is
    /// already at [`DATA_OFFSET`]. Returns the length of the record.
    ///
    /// # Errors
    /// [`PeerError::Exhausted`] after 2^64 - 1 records.
    pub(super) fn seal(
        &mut self,
        kind: u8,
        slot: &mut [u8],
        len: usize,
    ) -> Result<usize, PeerError> {
        assert!(len <= MAX_DATA, "the caller fills at most one record");
        let record = &mut slot[..self.wire_len(len)];
        let plain_end = record.len() - TAG_LEN;
        let length = wire_u16(record.len() - LENGTH_LEN);
        record[..LENGTH_LEN].copy_from_slice(&length);
        record[LENGTH_LEN] = kind;
        record[LENGTH_LEN + 1..DATA_OFFSET].copy_from_slice(&wire_u16(len));
        record[DATA_OFFSET + len..plain_end].fill(0);
        let (text, tag_room) = record[LENGTH_LEN..].split_at_mut(plain_end - LENGTH_LEN);
        let nonce = self.key.next_nonce()?;
        tag_room.copy_from_slice(&self.key.key.seal(nonce, &length, text));
        Ok(record.len())
    }
}

impl Opener {
    pub(super) fn ratchets(&self) -> u64 {
        self.key.ratchets()
    }

    pub(super) fn new(suite: Suite, seed: Secret<32>) -> Self {
        Self { key: DirectionKey::new(suite, seed) }
    }

    /// Opens the record at the front of `buf` in place; `None` while it is not complete.
    ///
    /// # Errors
    /// [`PeerError`]; the direction must not be used again.
    pub(super) fn open(&mut self, buf: &mut [u8]) -> Result<Option<Opened>, PeerError> {
        let Some(wire_len) = complete_record(buf)? else {
            return Ok(None);
        };
        let (length, sealed) = buf[..wire_len].split_at_mut(LENGTH_LEN);
        let nonce = self.key.next_nonce()?;
        self.key.key.open(nonce, length, sealed)?;
        let len = usize::from(u16::from_be_bytes([sealed[1], sealed[2]]));
        let data = DATA_OFFSET..DATA_OFFSET + len;
        if data.end > wire_len - TAG_LEN {
            return Err(PeerError::Misbehaved);
        }
        Ok(Some(Opened { kind: sealed[0], data, wire_len }))
    }
}

// === impl DirectionKey ===

impl DirectionKey {
    fn new(suite: Suite, seed: Secret<32>) -> Self {
        let key = AeadKey::new(suite, &seed);
        Self { seed, key, counter: 0 }
    }

    /// Returns the number of times that the key was replaced: before each record with a number
    /// that is a multiple of [`RATCHET_INTERVAL`].
    fn ratchets(&self) -> u64 {
        self.counter.saturating_sub(1) / RATCHET_INTERVAL
    }

    /// Returns the nonce of the next record, after the ratchet if one is due.
    fn next_nonce(&mut self) -> Result<[u8; NONCE_LEN], PeerError> {
        let number = self.counter;
        self.counter = number.checked_add(1).ok_or(PeerError::Exhausted)?;
        if number != 0 && number.is_multiple_of(RATCHET_INTERVAL) {
            self.seed = labels::ratchet(&self.seed);
            self.key = AeadKey::new(self.key.suite(), &self.seed);
        }
        let mut nonce = [0; NONCE_LEN];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        Ok(nonce)
    }
}

/// Computes the seed of a direction's record keys:
/// `HKDF-SHA256(salt = handshake hash, Noise split key, label)`.
pub(super) fn record_seed(
    handshake_hash: &[u8; 32],
    split_key: &Secret<32>,
    suite: Suite,
    direction: Direction,
) -> Secret<32> {
    labels::derive(handshake_hash, split_key.expose(), labels::record_key(suite, direction))
}

/// Returns the length of the record at the front of `buf`, once it is complete.
fn complete_record(buf: &[u8]) -> Result<Option<usize>, PeerError> {
    let [high, low, ..] = *buf else {
        return Ok(None);
    };
    let wire_len = LENGTH_LEN + usize::from(u16::from_be_bytes([high, low]));
    if !(LENGTH_LEN + INNER_HEADER + TAG_LEN..=MAX_RECORD).contains(&wire_len) {
        return Err(PeerError::BadLength);
    }
    Ok((buf.len() >= wire_len).then_some(wire_len))
}

fn wire_u16(len: usize) -> [u8; 2] {
    u16::try_from(len).expect("no length in a record exceeds 16,400").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(suite: Suite, padding: Padding) -> (Sealer, Opener) {
        let seed = || Secret::take(&mut [9; 32]);
        (Sealer::new(suite, seed(), padding), Opener::new(suite, seed()))
    }

    fn sealed(sealer: &mut Sealer, data: &[u8]) -> Vec<u8> {
        let mut slot = vec![0xee; MAX_RECORD];
        slot[DATA_OFFSET..DATA_OFFSET + data.len()].copy_from_slice(data);
        let len = sealer.seal(4, &mut slot, data.len()).unwrap();
        slot.truncate(len);
        slot
    }

    #[test]
    fn every_length_goes_through_and_is_padded() {
        for suite in Suite::ALL {
            for padding in [Padding::NONE, Padding::default()] {
                let (mut sealer, mut opener) = pair(suite, padding);
                for len in [0, 1, 1020, 1021, 1022, 2045, 16_380, 16_381] {
                    let data = vec![0x5a; len];
                    let mut wire = sealed(&mut sealer, &data);
                    let plain = padding.padded(3 + len);
                    assert_eq!(wire.len(), 2 + plain + 16, "{len}");
                    let opened = opener.open(&mut wire).unwrap().unwrap();
                    assert_eq!((opened.kind, opened.wire_len), (4, wire.len()));
                    assert_eq!(wire[opened.data], data[..]);
                }
            }
        }
    }

    #[test]
    fn padding_is_zeros_not_leftovers() {
        let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Padding::default());
        let mut wire = sealed(&mut sealer, b"abc");
        let opened = opener.open(&mut wire).unwrap().unwrap();
        assert!(wire[opened.data.end..2 + 1024].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn an_incomplete_record_is_not_touched() {
        let (mut sealer, mut opener) = pair(Suite::ChaCha20Poly1305, Padding::NONE);
        let mut wire = sealed(&mut sealer, b"abc");
        for len in 0..wire.len() {
            assert_eq!(opener.open(&mut wire[..len]), Ok(None), "{len}");
        }
        assert!(opener.open(&mut wire).unwrap().is_some());
    }

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_awaited() {
        let (_, mut opener) = pair(Suite::ChaCha20Poly1305, Padding::NONE);
        for length in [0_u16, 1, 18, 16_401, u16::MAX] {
            let result = opener.open(&mut length.to_be_bytes());
            assert_eq!(result, Err(PeerError::BadLength), "{length}");
        }
        for length in [19_u16, 16_400] {
            assert_eq!(opener.open(&mut length.to_be_bytes()), Ok(None), "{length}");
        }
    }

    #[test]
    fn a_data_length_beyond_the_plaintext_is_refused() {
        let (mut sealer, mut opener) = pair(Suite::ChaCha20Poly1305, Padding::NONE);
        let mut slot = vec![0; MAX_RECORD];
        slot[..2].copy_from_slice(&19_u16.to_be_bytes());
        slot[2..5].copy_from_slice(&[4, 0, 1]);
        let nonce = sealer.key.next_nonce().unwrap();
        let tag = sealer.key.key.seal(nonce, &19_u16.to_be_bytes(), &mut slot[2..5]);
        slot[5..21].copy_from_slice(&tag);
        assert_eq!(opener.open(&mut slot[..21]), Err(PeerError::Misbehaved));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (mut sealer, _) = pair(Suite::Aes256Gcm, Padding::NONE);
        let wire = sealed(&mut sealer, b"hello");
        for bit in 0..8 * wire.len() {
            let mut bad = wire.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            bad.resize(MAX_RECORD, 0);
            let (_, mut opener) = pair(Suite::Aes256Gcm, Padding::NONE);
            assert!(opener.open(&mut bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn swapped_doubled_and_dropped_records_are_refused() {
        for order in [&[1, 0][..], &[0, 0], &[1]] {
            let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Padding::NONE);
            let records = [sealed(&mut sealer, b"one"), sealed(&mut sealer, b"two")];
            let mut results = order.iter().map(|i| opener.open(&mut records[*i].clone()));
            assert!(results.any(|result| result == Err(PeerError::BadTag)), "{order:?}");
        }
    }

    #[test]
    fn both_ends_ratchet_after_2_to_the_20_records_and_old_keys_open_nothing() {
        for suite in Suite::ALL {
            let (mut sealer, mut opener) = pair(suite, Padding::NONE);
            let mut wire = vec![0; MAX_RECORD];
            for _ in 0..RATCHET_INTERVAL {
                let len = sealer.seal(4, &mut wire, 1).unwrap();
                opener.open(&mut wire[..len]).unwrap().unwrap();
            }
            let mut late = sealed(&mut sealer, b"after");
            let first_key = AeadKey::new(suite, &Secret::take(&mut [9; 32]));
            let mut nonce = [0; NONCE_LEN];
            nonce[4..].copy_from_slice(&RATCHET_INTERVAL.to_be_bytes());
            let mut copy = late.clone();
            let (length, text) = copy.split_at_mut(2);
            assert_eq!(first_key.open(nonce, length, text), Err(PeerError::BadTag));
            let opened = opener.open(&mut late).unwrap().unwrap();
            assert_eq!(&late[opened.data], b"after");
        }
    }

    #[test]
    fn the_counter_never_wraps() {
        let (mut sealer, mut opener) = pair(Suite::Aes256Gcm, Padding::NONE);
        sealer.key.counter = u64::MAX - 1;
        opener.key.counter = u64::MAX - 1;
        let mut last = sealed(&mut sealer, b"last");
        assert!(opener.open(&mut last).unwrap().is_some());
        let mut slot = vec![0; MAX_RECORD];
        assert_eq!(sealer.seal(4, &mut slot, 0), Err(PeerError::Exhausted));
        assert_eq!(opener.open(&mut [0, 19].repeat(30)), Err(PeerError::Exhausted));
    }
}
