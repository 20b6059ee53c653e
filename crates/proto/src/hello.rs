//! Payloads of the two handshake messages: all that they carry besides key material.
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
//! Integers are big-endian, clocks are unix milliseconds. Both are padded to [`PAYLOAD_LEN`]. An
//! extension is `type u8 | length u8 | bytes`; unknown ones are skipped.
//!
//! | type | length | bytes |
//! |---|---|---|
//! | 1 heartbeat | 4 | the longest silence of its sender in milliseconds, u32 |

use super::heartbeat::Heartbeat;
use super::{Padding, PeerError, Suite, SuiteSet};

/// Length of Hello and of Welcome in bytes, before encryption.
pub const PAYLOAD_LEN: usize = 208;

const FIXED_LEN: usize = 13;

/// Type of the extension with the sender's heartbeat.
const HEARTBEAT: u8 = 1;

/// Payload of message 1, from the dialer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Record suites that the dialer can use.
    pub suites: SuiteSet,
    /// Block that the dialer would pad records to.
    pub padding: Padding,
    /// Clock of the dialer in unix milliseconds.
    pub clock_ms: u64,
    /// Extensions of the dialer.
    pub extensions: Extensions,
}

/// Payload of message 2, from the acceptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Record suite of both directions.
    pub suite: Suite,
    /// Block that records are padded to in both directions.
    pub padding: Padding,
    /// Clock of the acceptor in unix milliseconds.
    pub clock_ms: u64,
    /// Extensions of the acceptor.
    pub extensions: Extensions,
}

/// Extensions of Hello or Welcome that this version knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Longest silence of the sender; `None` if it need not send heartbeats.
    pub heartbeat: Option<Heartbeat>,
}

/// Fields of a payload on the wire. The first byte is a set of suites in Hello, a suite in Welcome.
struct Fields {
    suites: u8,
    padding: Padding,
    clock_ms: u64,
    extensions: Extensions,
}

impl Hello {
    /// Returns the bytes on the wire, before encryption.
    pub(super) fn encode(&self) -> [u8; PAYLOAD_LEN] {
        let Self { suites, padding, clock_ms, extensions } = *self;
        Fields { suites: suites.bits(), padding, clock_ms, extensions }.encode()
    }

    /// Reverses [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let Fields { suites, padding, clock_ms, extensions } = Fields::decode(payload)?;
        Ok(Self { suites: SuiteSet::from_bits(suites), padding, clock_ms, extensions })
    }
}

impl Welcome {
    /// Returns the answer to `hello` of an acceptor that allows `suites` and pads to `padding`: the
    /// preferred common suite, and the larger of both blocks, so that either end can ask for more
    /// privacy and none can take it away. It has no extensions, which are up to the acceptor.
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
        let padding = padding.max(hello.padding);
        Ok(Self { suite, padding, clock_ms, extensions: Extensions::default() })
    }

    /// Returns the bytes on the wire, before encryption.
    pub(super) fn encode(&self) -> [u8; PAYLOAD_LEN] {
        let Self { suite, padding, clock_ms, extensions } = *self;
        Fields { suites: suite.id(), padding, clock_ms, extensions }.encode()
    }

    /// Reverses [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let Fields { suites, padding, clock_ms, extensions } = Fields::decode(payload)?;
        let suite = Suite::from_id(suites).ok_or(PeerError::NoCommonSuite)?;
        Ok(Self { suite, padding, clock_ms, extensions })
    }
}

impl Fields {
    fn encode(self) -> [u8; PAYLOAD_LEN] {
        let mut payload = [0; PAYLOAD_LEN];
        payload[0] = self.suites;
        payload[1..3].copy_from_slice(&self.padding.bytes().to_be_bytes());
        payload[3..11].copy_from_slice(&self.clock_ms.to_be_bytes());
        self.extensions.encode(&mut payload);
        payload
    }

    fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let padding = u16::from_be_bytes([payload[1], payload[2]]);
        let padding = Padding::block(padding).ok_or(PeerError::Misbehaved)?;
        let mut clock = [0; 8];
        clock.copy_from_slice(&payload[3..11]);
        let extensions = Extensions::decode(payload)?;
        Ok(Self { suites: payload[0], padding, clock_ms: u64::from_be_bytes(clock), extensions })
    }
}

impl Extensions {
    fn encode(self, payload: &mut [u8; PAYLOAD_LEN]) {
        if let Some(heartbeat) = self.heartbeat {
            payload[12] = 6;
            payload[FIXED_LEN..FIXED_LEN + 2].copy_from_slice(&[HEARTBEAT, 4]);
            payload[FIXED_LEN + 2..FIXED_LEN + 6].copy_from_slice(&heartbeat.to_bytes());
        }
    }

    /// Reads the extensions: unknown ones are skipped, but all must be well formed, and nothing but
    /// zeros may follow them. Of those of one type the first counts.
    fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let len = usize::from(u16::from_be_bytes([payload[11], payload[12]]));
        let room = &payload[FIXED_LEN..];
        let (mut left, zeros) = room.split_at_checked(len).ok_or(PeerError::Misbehaved)?;
        let mut heartbeat = None;
        while let [kind, len, rest @ ..] = left {
            let split = rest.split_at_checked(usize::from(*len));
            let (bytes, behind) = split.ok_or(PeerError::Misbehaved)?;
            if *kind == HEARTBEAT {
                let bytes = bytes.try_into().map_err(|_| PeerError::Misbehaved)?;
                heartbeat.get_or_insert_with(|| Heartbeat::from_bytes(bytes));
            }
            left = behind;
        }
        if !left.is_empty() || zeros.iter().any(|byte| *byte != 0) {
            return Err(PeerError::Misbehaved);
        }
        Ok(Self { heartbeat: heartbeat.flatten() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: Hello = Hello {
        suites: SuiteSet::BOTH,
        padding: Padding::NONE,
        clock_ms: 1_800_000_000_123,
        extensions: Extensions { heartbeat: None },
    };

    fn every(ms: u64) -> Option<Heartbeat> {
        Heartbeat::every(std::time::Duration::from_millis(ms))
    }

    #[test]
    fn both_go_both_ways() {
        assert_eq!(Hello::decode(&HELLO.encode()), Ok(HELLO));
        for heartbeat in [None, every(1), every(60_000)] {
            let extensions = Extensions { heartbeat };
            let hello = Hello { extensions, ..HELLO };
            assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            let suite = Suite::Aes256Gcm;
            let padding = Padding::default();
            let welcome = Welcome { suite, padding, clock_ms: 7, extensions };
            assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        }
    }

    #[test]
    fn the_first_heartbeat_counts_and_one_of_another_length_is_refused() {
        let with = |bytes: &[u8]| {
            let mut payload = HELLO.encode();
            payload[12] = bytes.len() as u8;
            payload[13..13 + bytes.len()].copy_from_slice(bytes);
            Hello::decode(&payload).map(|hello| hello.extensions.heartbeat)
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
        let extensions = Extensions::default();
        let expected = Welcome { suite, padding: wide, clock_ms: 1, extensions };
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
