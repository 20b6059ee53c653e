//! The number of datagrams of a source that are read: bounded work for each source, and in total.
//!
//! Each source has an allowance of its own. Beyond it a datagram is read only while a spare
//! allowance lasts that all sources share. So a flood from one place costs little, and a few
//! thousand datagrams a second that name the address of another as their source do not silence that
//! one. Reading all of these takes a twentieth of a processor.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::keys::KeyId;
use crate::net::Sources;

/// Datagrams of one source (an IPv4 address or an IPv6 /64) in a second.
const OF_SOURCE: u32 = 20;

/// Datagrams beyond that of all sources together, in a second.
const SPARE: u32 = 10_000;

/// Grants of one key in a second, and at once after a pause: its holders cannot fill a store, or
/// its claims, for the holders of others.
const OF_KEY: u32 = 50;
const OF_KEY_AT_ONCE: u32 = 200;

/// Grants that the holders of each key may have now.
#[derive(Debug, Default)]
pub(super) struct KeyAllowance {
    /// The moments when the allowances of keys are full again. As many as a ring has keys.
    full_at: HashMap<KeyId, Instant>,
}

impl KeyAllowance {
    /// Takes one grant of a key of the ring; returns false if there is none left now.
    pub(super) fn take(&mut self, key: KeyId, now: Instant) -> bool {
        let step = Duration::from_secs(1) / OF_KEY;
        let full_at = self.full_at.entry(key).or_insert(now);
        let next = (*full_at).max(now) + step;
        let is_left = next <= now + step * OF_KEY_AT_ONCE;
        if is_left {
            *full_at = next;
        }
        is_left
    }
}

/// Datagrams that are left to be read.
#[derive(Debug)]
pub(super) struct Allowance {
    sources: Sources,
    /// Moment at which the spare allowance is full again; at most a second ahead.
    spare_full_at: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { sources: Sources::new(usize::MAX, Some(OF_SOURCE), now), spare_full_at: now }
    }

    /// Takes one datagram of `source`; returns false if it is not to be read.
    pub(super) fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        // The guard counts connections at once, of which a datagram is none.
        self.sources.enter(source.into(), now).map(drop).is_ok() || self.take_spare(now)
    }

    fn take_spare(&mut self, now: Instant) -> bool {
        let full_at = self.spare_full_at.max(now) + Duration::from_secs(1) / SPARE;
        let is_left = full_at <= now + Duration::from_secs(1);
        if is_left {
            self.spare_full_at = full_at;
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0xcb00_7100 + number).into()
    }

    #[test]
    fn a_flood_of_one_source_is_read_in_part_and_others_are_read() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        let read = (0..100_000).filter(|_| allowance.take(ip(1), now)).count();
        assert_eq!(read, (OF_SOURCE + SPARE) as usize);
        assert!(allowance.take(ip(2), now), "another source has an allowance of its own");
        assert!(!allowance.take(ip(1), now));
    }

    #[test]
    fn a_source_that_others_name_is_still_read() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        let forged = (0..5_000).filter(|_| allowance.take(ip(7), now)).count();
        assert_eq!(forged, 5_000);
        assert!(allowance.take(ip(7), now));
    }

    #[test]
    fn the_holders_of_a_key_take_nothing_from_those_of_another() {
        let now = Instant::now();
        let mut keys = KeyAllowance::default();
        let [one, other] = [KeyId::from_bytes([1; 4]), KeyId::from_bytes([2; 4])];
        assert_eq!((0..1_000).filter(|_| keys.take(one, now)).count(), OF_KEY_AT_ONCE as usize);
        assert!(keys.take(other, now));
        let later = now + Duration::from_secs(1);
        assert_eq!((0..1_000).filter(|_| keys.take(one, later)).count(), OF_KEY as usize);
    }

    #[test]
    fn an_allowance_comes_back() {
        let now = Instant::now();
        let mut allowance = Allowance::new(now);
        while allowance.take(ip(1), now) {}
        let later = now + Duration::from_secs(1);
        let read = (0..100_000).filter(|_| allowance.take(ip(1), later)).count();
        assert_eq!(read, (OF_SOURCE + SPARE) as usize);
    }
}
