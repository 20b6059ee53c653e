//! A set of a million, and thousands of connected clients.

use std::time::{Duration, Instant};

use super::live::{grants_and_removals, print};
use super::world::{OTHER, READ, SOON, World, expect_end, url};
use testkit::redis::{MILLION, Reply};
use testkit::target::echo;
use testkit::{Ending, NEVER, Wire, eventually, proc};

/// Live connections, and the addresses that they come from.
const LIVE: usize = 8_000;
const SOURCES: usize = 8;

/// Changes of the set meanwhile, half of them grants.
const CHANGES: usize = 1_000;

/// Additions of addresses that were never here, each with an end of its own.
const NEWCOMERS: usize = 20;

/// "... also with 8,000 live connections and a set of 1,000,000 members plus 10,000 networks".
#[test]
fn a_million_members_and_thousands_of_connections() {
    proc::need_descriptors(2 * LIVE as u64 + 1_000);
    // The target does not care about idle clients.
    let world = World::with(&["-n", "0"], |wire, counts| {
        wire.read_limit(NEVER * 10);
        echo(wire, counts);
    });
    let mut redis = world.redis.direct();
    assert_eq!(redis.ask(&["EVAL", MILLION, "0"]), Reply::Number(1_010_000));
    memory_of_a_gate(&world);
    let sources: Vec<String> = (0..SOURCES).map(|i| format!("203.0.113.{}", 100 + i)).collect();
    for source in &sources {
        redis.ask(&["SADD", "ip-allowed", source]);
    }
    world.live_soon(&sources[SOURCES - 1]);
    let began = Instant::now();
    let mut live: Vec<Vec<Wire>> = sources
        .iter()
        .map(|source| {
            let each = (0..LIVE / SOURCES).map(|_| world.live(source));
            each.collect()
        })
        .collect();
    println!("{LIVE} connected in {:?}", began.elapsed());
    println!("RSS with all: {} KiB", proc::rss_kib(world.gate.pid()));

    grants_and_removals(&world, CHANGES);

    // The gate would not ask by itself about an address that was never here.
    let mut newcomers: Vec<Duration> = (0..NEWCOMERS)
        .map(|i| {
            let source = format!("203.0.113.{}", 10 + i);
            let end = world.stage.encrypt(&source, &world.entrance(&source));
            let began = Instant::now();
            redis.ask(&["SADD", "ip-allowed", &source]);
            eventually("a newcomer is let in", || end.connect().echoes(b"new here", SOON));
            began.elapsed()
        })
        .collect();
    print("with a million, SADD lets a new address in after", &mut newcomers);
    assert!(newcomers.iter().all(|time| *time < SOON));

    let mut first = live.swap_remove(0);
    let began = Instant::now();
    redis.ask(&["SREM", "ip-allowed", &sources[0]]);
    first.iter_mut().for_each(expect_end);
    println!("SREM ends {} after {:?}", first.len(), began.elapsed());
    assert!(began.elapsed() < SOON * 2);
    assert_eq!(world.expect_denied(OTHER), Ending::Clean);
    for wire in live.iter_mut().filter_map(|wires| wires.first_mut()) {
        wire.expect_echo(b"undisturbed");
    }
    let began = Instant::now();
    redis.ask(&["FLUSHALL"]);
    live.iter_mut().flatten().for_each(expect_end);
    println!("FLUSHALL ends {} after {:?}", LIVE - first.len(), began.elapsed());
    assert!(began.elapsed() < SOON * 2);
    eventually("the target is left alone", || world.target.counts().live() == 0);
    assert!(began.elapsed() < Duration::from_secs(30));
}

/// Starts another gate that reads the same set, and has no client to admit.
fn memory_of_a_gate(world: &World) {
    let began = Instant::now();
    let gate = world.stage.decrypt(world.target.addr(), &["--gate", &url(&world.redis)]);
    let read = gate.program.wait_line(READ, |line| line.is(READ));
    assert_eq!(read.number("addresses"), Some(1_000_000));
    assert_eq!(read.number("networks"), Some(10_000));
    println!("a million members: read in {:?}, {} KiB", began.elapsed(), proc::rss_kib(gate.pid()));
}
