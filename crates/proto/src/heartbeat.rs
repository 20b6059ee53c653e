//! Heartbeats: the longest silence of an end, as both ends agree on it in the handshake.
//!
//! An end that was silent for a while sends a Data record without data. Every end may do that; but
//! the silence of the other end shows that it is gone only if it announced heartbeats in the
//! handshake.

use std::num::NonZeroU32;
use std::time::Duration;

/// Longest silence of an end, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Heartbeat(NonZeroU32);

/// Heartbeats that result from the wishes of both ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeats {
    /// Longest silence of this end; `None` has no limit.
    pub own: Option<Heartbeat>,
    /// True if the other end is never silent for longer either, from Open until its Fin.
    pub agreed: bool,
}

impl Heartbeat {
    /// Lower limit: no end has to send heartbeats more often, whatever the other end wishes.
    pub const SHORTEST: Duration = Duration::from_millis(100);

    /// Returns a heartbeat at least every `time`; `None` for zero, and for more than 49 days.
    pub fn every(time: Duration) -> Option<Self> {
        u32::try_from(time.as_millis()).ok().and_then(NonZeroU32::new).map(Self)
    }

    /// Returns the longest silence, not below [`Self::SHORTEST`].
    pub fn time(self) -> Duration {
        Duration::from_millis(self.0.get().into()).max(Self::SHORTEST)
    }

    /// Returns the bytes of the extension.
    pub(super) fn to_bytes(self) -> [u8; 4] {
        self.0.get().to_be_bytes()
    }

    /// Reverses [`Self::to_bytes`]; zero is no heartbeat.
    pub(super) fn from_bytes(bytes: [u8; 4]) -> Option<Self> {
        NonZeroU32::new(u32::from_be_bytes(bytes)).map(Self)
    }
}

impl Heartbeats {
    /// Combines the wishes of both ends: the shorter one applies to both if both have one, so
    /// either end can ask for more frequent heartbeats.
    pub(super) fn of(own: Option<Heartbeat>, others: Option<Heartbeat>) -> Self {
        match (own, others) {
            (Some(own), Some(others)) => Self { own: Some(own.min(others)), agreed: true },
            (own, _) => Self { own, agreed: false },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(ms: u64) -> Option<Heartbeat> {
        Heartbeat::every(Duration::from_millis(ms))
    }

    #[test]
    fn the_shorter_wish_holds_for_both_and_an_end_without_one_is_not_waited_for() {
        let agreed = |own| Heartbeats { own, agreed: true };
        let alone = |own| Heartbeats { own, agreed: false };
        assert_eq!(Heartbeats::of(every(1_000), every(60_000)), agreed(every(1_000)));
        assert_eq!(Heartbeats::of(every(60_000), every(1_000)), agreed(every(1_000)));
        assert_eq!(Heartbeats::of(every(1_000), None), alone(every(1_000)));
        assert_eq!(Heartbeats::of(None, every(1_000)), alone(None));
    }

    #[test]
    fn times_are_milliseconds_of_32_bits_and_not_too_short() {
        assert_eq!(every(0), None);
        assert_eq!(every(1 << 32), None);
        assert_eq!(every(60_000).unwrap().to_bytes(), [0, 0, 0xea, 0x60]);
        assert_eq!(Heartbeat::from_bytes([0, 0, 0xea, 0x60]), every(60_000));
        assert_eq!(Heartbeat::from_bytes([0; 4]), None);
        assert_eq!(every(1).unwrap().time(), Heartbeat::SHORTEST);
    }
}
