//! Payloads of the two handshake messages: all that they carry besides key material.
//!
//! Their form is that of `payload.rs`. In Hello the first byte is the set of suites offered, the
//! padding is a wish, the clock is the dialer's; in Welcome they are the suite chosen, the padding
//! of both directions and the acceptor's clock. Unknown extensions are skipped.
//!
//! | type | length | bytes |
//! |---|---|---|
//! | 1 heartbeat | 4 | the longest silence of its sender in milliseconds, u32 |

use super::heartbeat::Heartbeat;
use super::payload::{self, Fields, Writer};
use super::{Padding, PeerError, Suite, SuiteSet};

pub use super::payload::PAYLOAD_LEN;

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

impl Hello {
    /// Returns the bytes on the wire, before encryption.
    pub(super) fn encode(&self) -> [u8; PAYLOAD_LEN] {
        let Self { suites, padding, clock_ms, extensions } = *self;
        extensions.encode(Fields { suites: suites.bits(), padding, clock_ms })
    }

    /// Reverses [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let (Fields { suites, padding, clock_ms }, extensions) = Extensions::decode(payload)?;
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
        extensions.encode(Fields { suites: suite.id(), padding, clock_ms })
    }

    /// Reverses [`Self::encode`].
    pub(super) fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<Self, PeerError> {
        let (Fields { suites, padding, clock_ms }, extensions) = Extensions::decode(payload)?;
        let suite = Suite::from_id(suites).ok_or(PeerError::NoCommonSuite)?;
        Ok(Self { suite, padding, clock_ms, extensions })
    }
}

impl Extensions {
    /// Returns a payload of `fields` and these extensions.
    fn encode(self, fields: Fields) -> [u8; PAYLOAD_LEN] {
        let mut writer = Writer::new(fields);
        if let Some(heartbeat) = self.heartbeat {
            writer.extend(HEARTBEAT, &heartbeat.to_bytes());
        }
        writer.finish()
    }

    /// Reverses [`Self::encode`]. Unknown extensions are skipped; of those of one type the first
    /// counts.
    fn decode(payload: &[u8; PAYLOAD_LEN]) -> Result<(Fields, Self), PeerError> {
        let mut heartbeat = None;
        let fields = payload::read(payload, |kind, bytes| {
            if kind == HEARTBEAT {
                let bytes = bytes.try_into().map_err(|_| PeerError::Misbehaved)?;
                heartbeat.get_or_insert_with(|| Heartbeat::from_bytes(bytes));
            }
            Ok(())
        })?;
        Ok((fields, Self { heartbeat: heartbeat.flatten() }))
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
