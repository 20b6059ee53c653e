//! The cost of a gate on a release build, with a million addresses and ten
//! thousand networks in its set: one decision, the memory of the process, and
//! the CPU time for a peer that is denied.
//!
//! `cargo bench --bench gate`; needs redis-server.
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot work must stop")]
#![expect(clippy::print_stdout, reason = "what it measured is for a person to read")]

#[path = "common/gate.rs"]
mod set;

use std::hint::black_box;
use std::io::Read;
use std::time::{Duration, Instant};

use knockpipe::gate::{Peer, Rules, UnixMillis, decide};
use set::ADDRESSES;
use testkit::redis::{MILLION, Redis, Reply};
use testkit::{Addr, End, Launch, Target, Wire, keygen, proc};

/// Decisions about each kind of peer.
const DECISIONS: u32 = 1_000_000;

/// Denied connections.
const TRIES: u32 = 100_000;

fn main() {
    decisions();
    process();
}

// === decisions ===

fn decisions() {
    let rules = Rules::default();
    let snapshot = set::full();
    for (what, peer, allowed) in set::KINDS {
        let mut times: Vec<Duration> = (0..DECISIONS)
            .map(|n| {
                let peer = Peer::Socket(peer(n));
                let began = Instant::now();
                let decision = decide(&rules, &snapshot, black_box(peer), UnixMillis(1));
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
    let target = Target::serve(&Addr::Unix(dir.path().join("target")), testkit::target::echo);
    let gate = |set: &str| {
        let store = format!("redis://{}", redis.tcp());
        let args = ["--gate", &store, "--set", set];
        let any = Addr::Tcp("127.0.0.1:0".parse().unwrap());
        Launch::decrypt(&key).source(&any).target(target.addr()).args(args).start()
    };
    let is_read = |gate: &End| {
        let what = "gate store synced";
        gate.program.wait_line(what, |line| line.is(what)).number("addresses")
    };
    let empty = gate("empty");
    assert_eq!(is_read(&empty), Some(0));
    println!("memory with an empty set: {} KiB", proc::rss_kib(empty.pid()));
    assert_eq!(redis.direct().ask(&["EVAL", MILLION, "0"]), Reply::Number(1_010_000));
    let began = Instant::now();
    let full = gate("ip-allowed");
    assert_eq!(is_read(&full), Some(u64::from(ADDRESSES)));
    let time = began.elapsed();
    let memory = proc::rss_kib(full.pid());
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
