//! More sources than there are addresses in use: our tables are bounded.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use knockpipe::proxy_protocol::Version;
use knockpipe::proxy_protocol::outgoing::encode;

use super::world::{PEER, World, number, refused};
use testkit::netns::{Net, dial_from};
use testkit::{Addr, Wire, eventually, proc};

/// Sources of a usual run; another number is asked for with `KNOCKPIPE_SOURCES`.
const SOURCES: u32 = 200_000;

/// Sources between two looks at the memory.
const STEP: u32 = 50_000;

/// Threads that connect.
const THREADS: u32 = 4;

/// Connections that each thread leaves open for a while, handshake unfinished.
const UNFINISHED: usize = 200;

/// The first sources may cost this much memory, all others none: the bounds of the tables add up to
/// less.
const GROWTH_KIB: u64 = 32 * 1024;

/// Peers that may announce clients: many, since each has only so many ports.
const BALANCERS: &str = "203.0.113.128/25";

/// A source, by its number.
enum Source {
    /// Not allowed, by its own address.
    Denied(Ipv4Addr),
    /// Not allowed, announced by a load balancer, each from a /64 of its own.
    Announced(Ipv6Addr, Ipv4Addr),
    /// In a network of the allow-set, and without the key: noted and struck.
    Failing(Ipv4Addr),
}

impl Source {
    fn nth(n: u32) -> Self {
        match n % 3 {
            0 => Self::Denied(Ipv4Addr::from_bits(0x6440_0000 + n)),
            1 => {
                let network = 0x2001_0db8_0100_0000 + u64::from(n);
                let balancer = Ipv4Addr::new(203, 0, 113, 128 + (n / 3 % 127) as u8);
                Self::Announced(Ipv6Addr::from_bits(u128::from(network) << 64 | 7), balancer)
            }
            _ => Self::Failing(Ipv4Addr::from_bits(0x6460_0000 + n)),
        }
    }

    /// Connects; gives the connection when it is to be left open for a while.
    fn connect(&self, to: &Addr) -> Option<Wire> {
        match self {
            Self::Denied(ip) => {
                expect_nothing(dial(*ip, to));
                None
            }
            Self::Announced(client, balancer) => {
                let client = SocketAddr::from((*client, 40_001));
                let header = encode(Version::V2, client.into(), to.tcp().into());
                let mut wire = dial(*balancer, to);
                wire.write_all(&header).expect("a load balancer may send a header");
                expect_nothing(wire);
                None
            }
            Self::Failing(ip) => {
                let mut wire = dial(*ip, to);
                // The gate may have displaced it already.
                let _ = wire.write_all(&[0x55; 256]);
                Some(wire)
            }
        }
    }
}

fn dial(source: Ipv4Addr, to: &Addr) -> Wire {
    let wire = dial_from(&source.to_string(), to).expect("every connection is accepted first");
    // Its end is a reset, or else its port would be taken for a minute.
    wire.socket().set_linger(Some(Duration::ZERO)).unwrap();
    wire
}

/// Expects the end of the connection, without a byte.
fn expect_nothing(mut wire: Wire) {
    let read = wire.read(&mut [0; 16]).expect("it is closed, not reset");
    assert_eq!(read, 0);
}

/// "1,000,000 distinct sources: tables are capped, memory bounded".
#[test]
fn many_sources_do_not_make_a_gate_grow() {
    let sources = std::env::var("KNOCKPIPE_SOURCES").map_or(SOURCES, |text| text.parse().unwrap());
    let world = World::new(
        &[
            ["--max-per-source", "16/16"],
            ["--ban-after", "3/60s/1h"],
            ["--proxy-from", BALANCERS],
            ["-o", "2s"],
        ]
        .concat(),
    );
    world.redis(&format!("SADD ip-allowed {PEER} 100.96.0.0/11"));
    let mut live = world.live_soon(PEER);
    let (pid, entrance) = (world.gate.pid(), world.entrance(PEER));
    let before = proc::rss_kib(pid);
    println!("before: {before} KiB");
    let (began, mut first, mut done) = (Instant::now(), 0, 0);
    while done < sources {
        let next = (done + STEP).min(sources);
        connect_all(&world.stage.net, &entrance, done..next);
        done = next;
        let (now, time) = (proc::rss_kib(pid), began.elapsed());
        let rate = f64::from(done) / time.as_secs_f64();
        println!("{done} sources after {time:.1?} ({rate:.0}/s): {now} KiB");
        assert!(now < before + GROWTH_KIB, "{now} KiB after {done} sources, {before} before");
        if first == 0 {
            first = now;
        }
        live.expect_echo(b"undisturbed");
    }
    println!("grown by {} KiB with the first {STEP}", first.saturating_sub(before));
    // An allowed peer is admitted all the same.
    drop(world.live_soon(PEER));
    eventually("only who is welcome is at the target", || world.target.counts().live() == 1);
    assert_eq!(world.target.counts().accepts(), 2);
    println!("in the history: {}", number(&world.redis("HLEN ip-history")));
    let World { mut gate, peers, .. } = world;
    drop((live, peers));
    gate.stop();
    // Every connection is counted; the allowed one may have been too early for a moment.
    let denied = (0..sources).filter(|n| n % 3 < 2).count() as u64;
    let counted = refused(&gate, "gate-denied");
    assert!((denied..denied + 100).contains(&counted), "{counted} of {denied}");
    println!("failed handshakes: {}", refused(&gate, "handshake-failed"));
    let listed = gate.program.log().iter().filter_map(|line| line.field("sources")).max();
    println!("sources told apart in one line: {listed:?}");
}

fn connect_all(net: &Net, to: &Addr, numbers: std::ops::Range<u32>) {
    let next = AtomicU32::new(numbers.start);
    net.at_peers(|| {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut unfinished = VecDeque::new();
                    loop {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= numbers.end {
                            return;
                        }
                        unfinished.extend(Source::nth(n).connect(to));
                        if unfinished.len() > UNFINISHED {
                            unfinished.pop_front();
                        }
                    }
                });
            }
        });
    });
}
