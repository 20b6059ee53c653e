//! A million addresses and ten thousand networks fit into 96 MiB, at every moment: while they come
//! in, while all of them are read again, and while all are prolonged. In a process of its own,
//! since it measures the process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::IpNet;
use knockpipe::gate::{Changed, Expiry, Item, Snapshot, UnixMillis};

const ADDRESSES: u32 = 1_000_000;
const NETWORKS: u32 = 10_000;
const LIMIT: usize = 96 << 20;

/// Share of the addresses that is IPv6, which takes more room.
#[derive(Clone, Copy)]
struct Mix(u32);

impl Mix {
    /// Returns an address out of the whole space, as the addresses of customers are.
    fn address(self, number: u32) -> IpAddr {
        let spread = number.wrapping_mul(2_654_435_761);
        if number % 4 < self.0 {
            Ipv6Addr::from_bits((0x2001 << 112) | (u128::from(spread) << 64) | 7).into()
        } else {
            Ipv4Addr::from_bits(spread).into()
        }
    }

    fn read(self, snapshot: &mut Snapshot, expires_ms: u64) -> Changed {
        snapshot.begin();
        for first in (0..ADDRESSES).step_by(10_000) {
            let end = |n| Expiry::At(UnixMillis(expires_ms + u64::from(n)));
            let item = |n| Item::Allowed(self.address(n).into(), end(n));
            let batch: Vec<_> = (first..first + 10_000).map(item).collect();
            let _ = snapshot.items(&batch);
        }
        let network = |number: u32| {
            let v6 = Ipv6Addr::from_bits((0x2002 << 112) | (u128::from(number) << 80));
            let v4 = Ipv4Addr::from_bits(number << 12);
            let (ip, length) =
                if number.is_multiple_of(2) { (IpAddr::from(v4), 24) } else { (v6.into(), 56) };
            let network = IpNet::new(ip, length + (number % 7) as u8).unwrap();
            Item::Allowed(network.into(), Expiry::At(UnixMillis(expires_ms)))
        };
        let _ = snapshot.items(&(0..NETWORKS).map(network).collect::<Vec<_>>());
        let start = Instant::now();
        let changed = snapshot.end(UnixMillis(0));
        println!("  the end of the read took {:?}", start.elapsed());
        changed
    }
}

/// Returns the bytes of memory that this process has now, and the most it had since `reset`.
fn memory() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
    };
    (field("VmRSS:"), field("VmHWM:"))
}

fn reset() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
}

#[test]
fn a_million_members_fit_into_96_mib() {
    let (before, _) = memory();
    // The largest first: the allocator may keep memory that the others then reuse.
    for mix in [Mix(4), Mix(2), Mix(0)] {
        reset();
        let mut snapshot = Snapshot::default();
        println!("{} % of IPv6, all with an expiry:", mix.0 * 25);
        let report = |what| {
            let (now, peak) = memory();
            let (now, peak) = (now.saturating_sub(before), peak.saturating_sub(before));
            println!("  {what}: {} KiB, at most {} KiB", now >> 10, peak >> 10);
            assert!(peak <= LIMIT, "{what}: {} MiB", peak >> 20);
        };
        let start = Instant::now();
        assert_eq!(mix.read(&mut snapshot, 1 << 41), Changed::Everything);
        println!("  the first read took {:?}", start.elapsed());
        report("read");
        let counts = snapshot.counts();
        assert_eq!((counts.addresses, counts.networks), (ADDRESSES as usize, NETWORKS as usize));
        // The same again, and then with other expiries.
        assert!(mix.read(&mut snapshot, 1 << 41).is_empty());
        report("read again");
        for round in 1..4 {
            let _ = mix.read(&mut snapshot, (1 << 41) + round);
        }
        report("prolonged");
        assert_eq!(snapshot.counts(), counts);
    }
}
