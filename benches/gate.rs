//! What a gate costs on a release build, with a million addresses and ten
//! thousand networks in its set: one decision, the memory of the process, and
//! the CPU time for a peer that is denied.
//!
//! `cargo bench --bench gate`; needs redis-server.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![expect(clippy::print_stdout, reason = "what it measured is for a person to read")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use common::redis::{MILLION, Redis, Reply};
use common::{Addr, End, Launch, Target, Wire, keygen, proc};
use ipnet::IpNet;
use knockpipe::gate::{Item, Peer, Rules, Snapshot, decide};

const ADDRESSES: u32 = 1_000_000;
const NETWORKS: u32 = 10_000;
const BANS: u32 = 10_000;

/// Decisions about each kind of peer.
const DECISIONS: u32 = 1_000_000;

/// Denied connections.
const TRIES: u32 = 100_000;

fn main() {
    decisions();
    process();
}

// === decisions ===

/// The peer with a number.
type Peers = fn(u32) -> IpAddr;

/// Another number, far away, and for each number another one.
fn spread(n: u32) -> u32 {
    n.wrapping_mul(2_654_435_761)
}

/// The member with this number; every fourth is IPv6.
fn member(n: u32) -> IpAddr {
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

fn snapshot() -> Snapshot {
    let mut snapshot = Snapshot::default();
    snapshot.begin();
    let networks = (0..NETWORKS)
        .map(in_network)
        .map(|(ip, length)| Item::Allowed(IpNet::new(ip, length).unwrap().trunc().into(), None));
    let bans = (0..BANS).map(|n| Item::Banned(banned(n), None));
    let members = (0..ADDRESSES).map(|n| Item::Allowed(member(n).into(), None));
    let _ = snapshot.items(&networks.chain(bans).chain(members).collect::<Vec<_>>());
    let _ = snapshot.end(0);
    assert!(snapshot.counts().addresses > 990_000, "{:?}", snapshot.counts());
    snapshot
}

fn decisions() {
    let (rules, snapshot) = (Rules::default(), snapshot());
    let kinds: [(&str, Peers, bool); 5] = [
        ("an address of the set", |n| member(spread(n) % ADDRESSES), true),
        ("one in a network of the set", |n| in_network(spread(n) % NETWORKS).0, true),
        ("one that is banned", |n| banned(spread(n) % BANS), false),
        ("an IPv4 stranger", |n| Ipv4Addr::from_bits(0xf000_0000 | spread(n)).into(), false),
        (
            "an IPv6 stranger",
            |n| Ipv6Addr::from_bits((0x2003 << 112) | u128::from(n)).into(),
            false,
        ),
    ];
    for (what, peer, allowed) in kinds {
        let mut times: Vec<Duration> = (0..DECISIONS)
            .map(|n| {
                let peer = Peer::Socket(peer(n));
                let began = Instant::now();
                let decision = decide(&rules, &snapshot, black_box(peer), 1);
                let time = began.elapsed();
                assert_eq!(decision.is_allowed(), allowed, "{what}: {peer:?}");
                time
            })
            .collect();
        times.sort_unstable();
        let at = |permille: usize| times[times.len() * permille / 1_000];
        println!(
            "a decision about {what}: p50 {:?}, p99 {:?}, p99.9 {:?}",
            at(500),
            at(990),
            at(999)
        );
    }
}

// === the process ===

fn process() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let redis = Redis::start();
    let target = Target::serve(&Addr::Unix(dir.path().join("target")), common::target::echo);
    let gate = |set: &str| {
        let store = format!("redis://{}", redis.tcp());
        // Here every peer has an internal address.
        let args = ["--gate", &store, "--set", set, "--internal", "check"];
        let any = Addr::Tcp("127.0.0.1:0".parse().unwrap());
        Launch::decrypt(&key).source(&any).target(target.addr()).args(args).start()
    };
    let is_read = |gate: &End| {
        let what = "the gate's store is read";
        gate.program.wait_line(what, |line| line.is(what)).number("addresses")
    };
    let empty = gate("nobody");
    assert_eq!(is_read(&empty), Some(0));
    println!("memory with an empty set: {} KiB", proc::rss_kib(empty.pid()));
    assert_eq!(redis.direct().ask(&["EVAL", MILLION, "0"]), Reply::Number(1_010_000));
    let began = Instant::now();
    let full = gate("ip-allowed");
    assert_eq!(is_read(&full), Some(u64::from(ADDRESSES)));
    let (time, memory) = (began.elapsed(), proc::rss_kib(full.pid()));
    println!("memory with a million: {memory} KiB, started and read in {time:.2?}");
    denied(&full);
    assert_eq!(target.counts().accepts(), 0, "the target sees nothing");
}

/// Connects and sees the end, without a byte.
fn denied(gate: &End) {
    let cpu = proc::cpu(gate.pid());
    let mut bytes = 0;
    for _ in 0..TRIES {
        let mut wire = Wire::connect(gate.addr()).unwrap();
        bytes += wire.read(&mut [0; 16]).unwrap();
    }
    let each = (proc::cpu(gate.pid()) - cpu) / TRIES;
    println!("a denied peer: {each:?} of CPU, {bytes} bytes for {TRIES} of them");
    assert_eq!(bytes, 0);
}
