//! A set of the gate with everything in it, and peers of each kind, for the
//! benchmarks of its decisions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use knockpipe::gate::{Expiry, Item, Snapshot, UnixMillis};

pub(crate) const ADDRESSES: u32 = 1_000_000;
const NETWORKS: u32 = 10_000;
const BANS: u32 = 10_000;

/// The peer with a number.
pub(crate) type Peers = fn(u32) -> IpAddr;

/// Peers of every kind in [`full`]: what they are, which, and whether they may come in.
pub(crate) const KINDS: [(&str, Peers, bool); 5] = [
    ("an address of the set", |n| member(spread(n) % ADDRESSES), true),
    ("one in a network of the set", |n| in_network(spread(n) % NETWORKS).0, true),
    ("one that is banned", |n| banned(spread(n) % BANS), false),
    ("an IPv4 stranger", v4_stranger, false),
    ("an IPv6 stranger", |n| Ipv6Addr::from_bits((0x2003 << 112) | u128::from(n)).into(), false),
];

/// Another number, far away, and for each number another one.
fn spread(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761)
}

/// The member with this number; every fourth is IPv6.
pub(crate) fn member(n: u32) -> IpAddr {
    match n % 4 {
        0 => Ipv6Addr::from_bits((0x2001 << 112) | (u128::from(spread(n)) << 64) | 7).into(),
        _ => Ipv4Addr::from_bits(spread(n) & 0x7fff_ffff).into(),
    }
}

/// An address in the network with this number; half of them are IPv6.
fn in_network(n: u32) -> (IpAddr, u8) {
    match n % 2 {
        0 => (Ipv6Addr::from_bits((0x2002 << 112) | (u128::from(n) << 80) | 9).into(), 48),
        _ => (Ipv4Addr::from_bits(0xc000_0000 | n << 12 | 9).into(), 24),
    }
}

fn banned(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xe000_0000 | n).into()
}

pub(crate) fn v4_stranger(n: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xf000_0000 | spread(n)).into()
}

/// A million addresses, ten thousand networks and as many bans.
pub(crate) fn full() -> Snapshot {
    let networks = (0..NETWORKS).map(in_network).map(|(ip, length)| {
        Item::Allowed(IpNet::new(ip, length).unwrap().trunc().into(), Expiry::Never)
    });
    let bans = (0..BANS).map(|n| Item::Banned(banned(n).into(), Expiry::Never));
    let members = (0..ADDRESSES).map(|n| Item::Allowed(member(n).into(), Expiry::Never));
    let snapshot = read(&networks.chain(bans).chain(members).collect::<Vec<_>>());
    assert!(snapshot.counts().addresses > 990_000, "{:?}", snapshot.counts());
    snapshot
}

/// A store that was read and has these items.
pub(crate) fn read(items: &[Item]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.begin();
    let _ = snapshot.items(items);
    let _ = snapshot.end(UnixMillis(0));
    snapshot
}
