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
//! are skipped.
//!
//! | type | length | bytes |
//! |---|---|---|
//! | 1 heartbeat | 4 | the longest silence of its sender in milliseconds, u32 |

use super::heartbeat::Heartbeat;
use super::{Padding, PeerError, Suite, SuiteSet};

/// Length of Hello and of Welcome in bytes, before encryption.
pub const PAYLOAD_LEN: usize = 208;

const FIXED_LEN: usize = 13;

/// The type of the extension that says how often its sender gives a sign of life.
const HEARTBEAT: u8 = 1;

/// What the dialer says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The record suites it can use.
    pub suites: SuiteSet,
    /// The block it would pad records to.
    pub padding: Padding,
    /// Its clock in unix milliseconds.
    pub clock_ms: u64,
    /// How often it gives a sign of life; `None` where it need not.
    pub heartbeat: Option<Heartbeat>,
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
    /// How often it gives a sign of life; `None` where it need not.
    pub heartbeat: Option<Heartbeat>,
}

impl Hello {
    /// The bytes on the wire, before encryption.
    pub(super) fn encode(&self) -> [u8; PAYLOAD_LEN] {
        encode(self.suites.bits(), self.padding, self.clock_ms, self.heartbeat)
    }

    /// The reverse of [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let (suites, padding, clock_ms, heartbeat) = decode(payload)?;
        Ok(Self { suites: SuiteSet::from_bits(suites), padding, clock_ms, heartbeat })
    }
}

impl Welcome {
    /// The answer to `hello` of an acceptor that allows `suites` and pads to
    /// `padding`: the preferred common suite, and the larger of both blocks, so
    /// that either end can ask for more privacy and none can take it away. No
    /// heartbeat, which is for the acceptor to say.
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
        Ok(Self { suite, padding: padding.max(hello.padding), clock_ms, heartbeat: None })
    }

    /// The bytes on the wire, before encryption.
    pub(super) fn encode(&self) -> [u8; PAYLOAD_LEN] {
        encode(self.suite.id(), self.padding, self.clock_ms, self.heartbeat)
    }

    /// The reverse of [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let (suite, padding, clock_ms, heartbeat) = decode(payload)?;
        let suite = Suite::from_id(suite).ok_or(PeerError::NoCommonSuite)?;
        Ok(Self { suite, padding, clock_ms, heartbeat })
    }
}

fn encode(
    suites: u8,
    padding: Padding,
    clock_ms: u64,
    heartbeat: Option<Heartbeat>,
) -> [u8; PAYLOAD_LEN] {
    let mut payload = [0; PAYLOAD_LEN];
    payload[0] = suites;
    payload[1..3].copy_from_slice(&padding.bytes().to_be_bytes());
    payload[3..11].copy_from_slice(&clock_ms.to_be_bytes());
    if let Some(heartbeat) = heartbeat {
        payload[12] = 6;
        payload[FIXED_LEN..FIXED_LEN + 2].copy_from_slice(&[HEARTBEAT, 4]);
        payload[FIXED_LEN + 2..FIXED_LEN + 6].copy_from_slice(&heartbeat.to_bytes());
    }
    payload
}

type Decoded = (u8, Padding, u64, Option<Heartbeat>);

fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Decoded, PeerError> {
    let padding = u16::from_be_bytes([payload[1], payload[2]]);
    let padding = Padding::block(padding).ok_or(PeerError::Misbehaved)?;
    let mut clock = [0; 8];
    clock.copy_from_slice(&payload[3..11]);
    let heartbeat = read_extensions(payload)?;
    Ok((payload[0], padding, u64::from_be_bytes(clock), heartbeat))
}

/// Walks the extensions: unknown ones are skipped, but all must be well formed, and
/// nothing but zeros may follow them. Of those of one type the first counts.
fn read_extensions(payload: &[u8; PAYLOAD_LEN]) -> Result<Option<Heartbeat>, PeerError> {
    let len = usize::from(u16::from_be_bytes([payload[11], payload[12]]));
    let room = &payload[FIXED_LEN..];
    if len > room.len() {
        return Err(PeerError::Misbehaved);
    }
    let (mut extensions, zeros) = room.split_at(len);
    let mut heartbeat = None;
    while let [kind, len, rest @ ..] = extensions {
        let split = rest.split_at_checked(usize::from(*len));
        let (bytes, behind) = split.ok_or(PeerError::Misbehaved)?;
        if *kind == HEARTBEAT {
            let bytes = bytes.try_into().map_err(|_| PeerError::Misbehaved)?;
            heartbeat.get_or_insert_with(|| Heartbeat::from_bytes(bytes));
        }
        extensions = behind;
    }
    if !extensions.is_empty() || zeros.iter().any(|byte| *byte != 0) {
        return Err(PeerError::Misbehaved);
    }
    Ok(heartbeat.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        suites: SuiteSet::BOTH,
        padding: Padding::NONE,
        clock_ms: 1_800_000_000_123,
        heartbeat: None,
    };

    fn every(ms: u64) -> Option<Heartbeat> {
        Heartbeat::every(std::time::Duration::from_millis(ms))
    }

    #[test]
    fn both_go_both_ways() {
        assert_eq!(Hello::decode(&HELLO.encode()), Ok(HELLO));
        for heartbeat in [None, every(1), every(60_000)] {
            let hello = Hello { heartbeat, ..HELLO };
            assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            let (suite, padding) = (Suite::Aes256Gcm, Padding::default());
            let welcome = Welcome { suite, padding, clock_ms: 7, heartbeat };
            assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        }
    }

    #[test]
    fn the_first_heartbeat_counts_and_one_of_another_length_is_refused() {
        let with = |bytes: &[u8]| {
            let mut payload = HELLO.encode();
            payload[12] = bytes.len() as u8;
            payload[13..13 + bytes.len()].copy_from_slice(bytes);
            Hello::decode(&payload).map(|hello| hello.heartbeat)
        };
        assert_eq!(with(&[1, 4, 0, 0, 0xea, 0x60]), Ok(every(60_000)));
        assert_eq!(with(&[9, 1, 7, 1, 4, 0, 0, 0, 9]), Ok(every(9)), "behind an unknown one");
        assert_eq!(with(&[1, 4, 0, 0, 0, 0]), Ok(None), "zero is none");
        assert_eq!(with(&[1, 4, 0, 0, 0, 9, 1, 4, 0, 0, 0, 8]), Ok(every(9)), "twice");
        assert_eq!(with(&[1, 4, 0, 0, 0, 0, 1, 4, 0, 0, 0, 8]), Ok(None), "twice, zero first");
        assert_eq!(with(&[1, 3, 0, 0, 9]), Err(PeerError::Misbehaved), "shorter");
        assert_eq!(with(&[1, 5, 0, 0, 0, 9, 9]), Err(PeerError::Misbehaved), "longer");
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
        let suite = Suite::Aes256Gcm;
        let expected = Welcome { suite, padding: wide, clock_ms: 1, heartbeat: None };
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
