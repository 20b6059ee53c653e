//! Cost of a change of the allow-set for Redis, under any load of denied peers.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use super::world::{PEER, SOON, Stage, World, entrance, url};
use testkit::netns::dial_from;
use testkit::redis::{MILLION, Redis, Reply};
use testkit::target::{Target, echo};
use testkit::{Addr, NEVER, eventually};

/// Denied connections of a flood, and the addresses that they come from.
const FLOOD: u32 = 3_000;
const SOURCES: u32 = 10;

/// Addresses of one /64 that were denied.
const HOSTS: u32 = 1_000;

/// Changes of the set after that.
const CHANGES: i64 = 20;

/// Counts the calls of each of these commands since CONFIG RESETSTAT.
fn calls(redis: &Redis, commands: &[&str]) -> i64 {
    let stats = redis.ask("INFO commandstats").text();
    let of = |command: &&str| {
        let line = stats.lines().find_map(|line| {
            line.strip_prefix("cmdstat_")?.strip_prefix(*command)?.strip_prefix(":calls=")
        });
        line.map_or(0, |rest| rest.split(',').next().unwrap().parse::<i64>().unwrap())
    };
    commands.iter().map(of).sum()
}

/// Commands that ask about members of the set, and about bans.
const QUESTIONS: [&str; 2] = ["smismember", "pttl"];

/// Connects from several addresses and is denied, until all is over; returns the number of
/// connections.
fn flood(entrance: &Addr, is_over: &AtomicBool) -> u32 {
    let mut count = 0;
    while count < FLOOD || !is_over.load(Ordering::Relaxed) {
        let source = format!("203.0.113.{}", 100 + count % SOURCES);
        let mut wire = dial_from(&source, entrance).expect("a denied peer is accepted first");
        assert_eq!(wire.read(&mut [0; 16]).expect("it is closed, not reset"), 0);
        count += 1;
    }
    count
}

/// "While the set is being read again a denied address is asked about once after each change,
/// however often it comes", and an added address takes effect meanwhile.
#[test]
fn a_flood_while_the_set_is_read_again_costs_few_questions() {
    let stage = Stage::new();
    let redis = stage.redis();
    let target = Target::serve(&stage.target(), echo);
    // A set that is read in a second is not read again for twenty.
    assert_eq!(redis.direct().ask(&["EVAL", MILLION, "0"]), Reply::Number(1_010_000));
    // It is ready once the set is read, which takes a busy machine longer than 5 s.
    let gate = stage.decrypt(target.addr(), &["--gate", &url(&redis), "-o", "30s"]);
    let entrance = entrance(&gate, PEER);
    let peer = stage.encrypt(PEER, &entrance);
    redis.ask("CONFIG RESETSTAT");
    redis.ask("SADD ip-allowed 198.18.0.1");
    let is_over = Arc::new(AtomicBool::new(false));
    let (tell, counted) = channel();
    let flooding = Arc::clone(&is_over);
    let began = Instant::now();
    stage.net.spawn_at_peers(move || tell.send(flood(&entrance, &flooding)).unwrap());
    let granting = Instant::now();
    redis.ask(&format!("SADD ip-allowed {PEER}"));
    // At the first try, but for a machine on which the answer takes longer than one waits for it.
    eventually("it is let in", || peer.connect().echoes(b"let in", NEVER));
    let granted = granting.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let (count, taken) = (counted.recv_timeout(NEVER).expect("the flood ends"), began.elapsed());
    let (asked, read) = (calls(&redis, &QUESTIONS), calls(&redis, &["sscan"]));
    println!("{count} denied in {taken:?}: {asked} commands; a grant was felt after {granted:?}");
    assert!(granted < SOON);
    assert_eq!(read, 0, "the set was read again, so that no address had to be asked about");
    assert!(asked < i64::from(FLOOD) / 10, "{asked} commands for {count} connections");
}

/// "The addresses that were denied lately, of each /64 the last": one host does not make changes of
/// the set expensive.
#[test]
fn a_host_with_a_64_does_not_make_changes_dear() {
    let world = World::new(&["--proxy-from", "203.0.113.0/24"]);
    let entrance = world.entrance(PEER);
    world.stage.net.at_peers(|| {
        for host in 0..HOSTS {
            let mut wire = dial_from(PEER, &entrance).expect("a balancer is accepted");
            let header = format!("PROXY TCP6 2001:db8:7::{host:x} 2001:db8::1 1 2\r\n");
            wire.write_all(header.as_bytes()).unwrap();
            assert_eq!(wire.read(&mut [0; 16]).expect("it is closed"), 0);
        }
    });
    world.redis("CONFIG RESETSTAT");
    for change in 0..CHANGES {
        world.redis(&format!("SADD ip-allowed 198.18.0.{change}"));
        let read = change + 1;
        eventually("the set is read again", || calls(&world.redis, &["sscan"]) >= read);
    }
    let asked = calls(&world.redis, &QUESTIONS);
    println!("{asked} commands for {CHANGES} changes after {HOSTS} denied hosts of one /64");
    assert!(asked < CHANGES * 10, "{asked} commands");
}
