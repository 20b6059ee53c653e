//! What the two handshake messages carry besides key material.
//!
//! ```text
//!   Hello                                 Welcome
//!   0      suites offered (bit set)       0      suite chosen (id)
//!   1..3   padding wish, u16              1..3   padding of both directions, u16
//!   3..11  dialer's clock, u64            3..11  acceptor's clock, u64
//!   11..13 length of extensions, u16      11..13 length of extensions, u16
//!   13..   extensions, then zeros         13..   extensions, then zeros
//! ```
//!
//! Integers are big-endian, clocks are unix milliseconds. Both are padded to
//! [`PAYLOAD_LEN`]. An extension is `type u8 | length u8 | bytes`; unknown ones
//! are skipped, and knockpipe/1 defines none.

use super::{Padding, PeerError, Suite, SuiteSet};

/// Length of Hello and of Welcome in bytes, before encryption.
pub const PAYLOAD_LEN: usize = 208;

const FIXED_LEN: usize = 13;

/// What the dialer says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The record suites it can use.
    pub suites: SuiteSet,
    /// The block it would pad records to.
    pub padding: Padding,
    /// Its clock in unix milliseconds.
    pub clock_ms: u64,
}

/// What the acceptor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The record suite of both directions.
    pub suite: Suite,
    /// The block that records are padded to in both directions.
    pub padding: Padding,
    /// Its clock in unix milliseconds.
    pub clock_ms: u64,
}

impl Hello {
    /// The bytes on the wire, before encryption.
    pub(super) fn encode(&self) -> [u8; PAYLOAD_LEN] {
        encode(self.suites.bits(), self.padding, self.clock_ms)
    }

    /// The reverse of [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let (suites, padding, clock_ms) = decode(payload)?;
        Ok(Self { suites: SuiteSet::from_bits(suites), padding, clock_ms })
    }
}

impl Welcome {
    /// The answer to `hello` of an acceptor that allows `suites` and pads to
    /// `padding`: the preferred common suite, and the larger of both blocks, so
    /// that either end can ask for more privacy and none can take it away.
    ///
    /// # Errors
    /// [`PeerError::NoCommonSuite`].
    pub fn answering(
        hello: &Hello,
        suites: SuiteSet,
        padding: Padding,
        clock_ms: u64,
    ) -> Result<Self, PeerError> {
        let suite = hello.suites.and(suites).preferred().ok_or(PeerError::NoCommonSuite)?;
        Ok(Self { suite, padding: padding.max(hello.padding), clock_ms })
    }

    /// The bytes on the wire, before encryption.
    pub(super) fn encode(&self) -> [u8; PAYLOAD_LEN] {
        encode(self.suite.id(), self.padding, self.clock_ms)
    }

    /// The reverse of [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let (suite, padding, clock_ms) = decode(payload)?;
        let suite = Suite::from_id(suite).ok_or(PeerError::NoCommonSuite)?;
        Ok(Self { suite, padding, clock_ms })
    }
}

fn encode(suites: u8, padding: Padding, clock_ms: u64) -> [u8; PAYLOAD_LEN] {
    let mut payload = [0; PAYLOAD_LEN];
    payload[0] = suites;
    payload[1..3].copy_from_slice(&padding.bytes().to_be_bytes());
    payload[3..11].copy_from_slice(&clock_ms.to_be_bytes());
    payload
}

fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<(u8, Padding, u64), PeerError> {
    let padding = u16::from_be_bytes([payload[1], payload[2]]);
    let padding = Padding::block(padding).ok_or(PeerError::Misbehaved)?;
    let mut clock = [0; 8];
    clock.copy_from_slice(&payload[3..11]);
    check_extensions(payload)?;
    Ok((payload[0], padding, u64::from_be_bytes(clock)))
}

/// Walks the extensions: all are unknown to knockpipe/1 and skipped, but they
/// must be well formed, and nothing but zeros may follow them.
fn check_extensions(payload: &[u8; PAYLOAD_LEN]) -> Result<(), PeerError> {
    let len = usize::from(u16::from_be_bytes([payload[11], payload[12]]));
    let room = &payload[FIXED_LEN..];
    if len > room.len() {
        return Err(PeerError::Misbehaved);
    }
    let (mut extensions, zeros) = room.split_at(len);
    while let [_type, len, rest @ ..] = extensions {
        extensions = rest.get(usize::from(*len)..).ok_or(PeerError::Misbehaved)?;
    }
    if !extensions.is_empty() || zeros.iter().any(|byte| *byte != 0) {
        return Err(PeerError::Misbehaved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello =
        Hello { suites: SuiteSet::BOTH, padding: Padding::NONE, clock_ms: 1_800_000_000_123 };

    #[test]
    fn both_go_both_ways() {
        assert_eq!(Hello::decode(&HELLO.encode()), Ok(HELLO));
        let welcome = Welcome { suite: Suite::Aes256Gcm, padding: Padding::default(), clock_ms: 7 };
        assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
    }

    #[test]
    fn unknown_extensions_are_skipped_and_malformed_ones_refused() {
        let with = |len: u16, bytes: &[u8]| {
            let mut payload = HELLO.encode();
            payload[11..13].copy_from_slice(&len.to_be_bytes());
            payload[13..13 + bytes.len()].copy_from_slice(bytes);
            Hello::decode(&payload)
        };
        assert_eq!(with(7, &[9, 3, 1, 2, 3, 8, 0]), Ok(HELLO));
        assert_eq!(with(1, &[9]), Err(PeerError::Misbehaved), "cut in the header");
        assert_eq!(with(4, &[9, 3, 1, 2]), Err(PeerError::Misbehaved), "cut in the bytes");
        assert_eq!(with(0, &[1]), Err(PeerError::Misbehaved), "bytes behind the extensions");
        assert_eq!(with(196, &[]), Err(PeerError::Misbehaved), "longer than the room");
        assert_eq!(with(195, &[]), Err(PeerError::Misbehaved), "an odd rest");
        assert_eq!(with(194, &[]), Ok(HELLO));
    }

    #[test]
    fn the_larger_padding_and_the_best_common_suite_win() {
        let wide = Padding::default();
        let answer = |suites| Welcome::answering(&HELLO, suites, wide, 1);
        let expected = Welcome { suite: Suite::Aes256Gcm, padding: wide, clock_ms: 1 };
        assert_eq!(answer(SuiteSet::BOTH), Ok(expected));
        assert_eq!(answer(SuiteSet::PORTABLE).map(|w| w.suite), Ok(Suite::ChaCha20Poly1305));
        assert_eq!(answer(SuiteSet::NONE), Err(PeerError::NoCommonSuite));
    }

    #[test]
    fn a_padding_of_zero_or_too_much_and_an_unknown_suite_are_refused() {
        let mut payload = HELLO.encode();
        payload[1..3].copy_from_slice(&[0, 0]);
        assert_eq!(Hello::decode(&payload), Err(PeerError::Misbehaved));
        payload[1..3].copy_from_slice(&16_385_u16.to_be_bytes());
        assert_eq!(Hello::decode(&payload), Err(PeerError::Misbehaved));
        assert_eq!(Welcome::decode(&HELLO.encode()), Err(PeerError::NoCommonSuite), "suite 3");
    }
}
