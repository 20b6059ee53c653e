//! Addresses that were denied lately. The store is queried about them when the
//! allow-set changes: a denied client often tries again as soon as it is allowed.
//!
//! Bounded in number and in time, and one for each source, so that a flood costs
//! the store something for a minute or two, and a host with a /64 next to nothing.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::addr::SourceKey;

/// Sources that are remembered, in both generations together.
pub(super) const MOST_DENIED: usize = 4_096;

/// An address is remembered for so long at least where there is room, and for
/// twice that at most.
const AGE: Duration = Duration::from_secs(60);

/// Addresses that were denied lately, the last one of each source.
#[derive(Debug)]
pub(super) struct RecentlyDenied {
    turned: Instant,
    young: HashMap<SourceKey, IpAddr>,
    old: HashMap<SourceKey, IpAddr>,
}

impl RecentlyDenied {
    pub(super) fn new(now: Instant) -> Self {
        Self { turned: now, young: HashMap::new(), old: HashMap::new() }
    }

    /// Notes that `ip` was denied.
    pub(super) fn note(&mut self, ip: IpAddr, now: Instant) {
        self.age(now);
        let source = SourceKey::from(ip);
        if self.young.len() >= MOST_DENIED / 2 && !self.young.contains_key(&source) {
            self.turn(now);
        }
        self.young.insert(source, ip);
    }

    /// Forgets addresses that are too old. To be called from time to time.
    pub(super) fn age(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.turned);
        if age >= 2 * AGE {
            self.young.clear();
        }
        if age >= AGE && !(self.young.is_empty() && self.old.is_empty()) {
            self.turn(now);
        }
    }

    /// The addresses, of each source one.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let is_newest = |(source, _): &(&SourceKey, &IpAddr)| !self.young.contains_key(*source);
        self.young.values().chain(self.old.iter().filter(is_newest).map(|(_, ip)| ip)).copied()
    }

    fn turn(&mut self, now: Instant) {
        // Gives the room back, too.
        self.old = std::mem::take(&mut self.young);
        self.turned = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from(0xcb00_7100 + number).into()
    }

    fn v6(network: u64, host: u64) -> IpAddr {
        let bits = (0x2001 << 112) | (u128::from(network) << 64) | u128::from(host);
        std::net::Ipv6Addr::from(bits).into()
    }

    fn sorted(denied: &RecentlyDenied) -> Vec<IpAddr> {
        let mut all: Vec<IpAddr> = denied.addresses().collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn of_each_64_the_last_address_is_remembered() {
        let now = Instant::now();
        let mut denied = RecentlyDenied::new(now);
        for host in 0..10_000 {
            denied.note(v6(1, host), now);
        }
        denied.note(v6(2, 7), now);
        denied.note(v4(1), now);
        denied.note(v4(2), now);
        assert_eq!(sorted(&denied), [v4(1), v4(2), v6(1, 9_999), v6(2, 7)]);
        // In the old generation it is another address than in the young one.
        denied.age(now + AGE);
        denied.note(v6(1, 5), now + AGE);
        assert_eq!(sorted(&denied), [v4(1), v4(2), v6(1, 5), v6(2, 7)]);
    }

    #[test]
    fn a_denied_address_is_remembered_for_a_minute_and_forgotten_after_two() {
        let start = Instant::now();
        let mut denied = RecentlyDenied::new(start);
        denied.note(v4(1), start + AGE / 2);
        for (after, remembered) in [(AGE, 1), (AGE * 3 / 2, 1), (AGE * 2, 0)] {
            denied.age(start + after);
            assert_eq!(denied.addresses().count(), remembered, "{after:?}");
        }
        denied.note(v4(1), start + AGE * 2);
        denied.age(start + AGE * 9);
        assert_eq!(denied.addresses().count(), 0, "not looked at for long");
    }

    #[test]
    fn a_flood_is_bounded_and_leaves_nothing() {
        let start = Instant::now();
        let mut denied = RecentlyDenied::new(start);
        for number in 0..1_000_000 {
            denied.note(v4(number), start);
            assert!(denied.young.len() + denied.old.len() <= MOST_DENIED);
        }
        assert!(denied.addresses().any(|ip| ip == v4(999_999)));
        assert!(denied.addresses().count() > MOST_DENIED / 2);
        for minute in 1..=2 {
            denied.age(start + AGE * minute);
        }
        assert_eq!(denied.addresses().count(), 0);
        assert_eq!(denied.young.capacity() + denied.old.capacity(), 0);
    }
}
