//! Changes reach those who wait and those who are in.

use std::time::{Duration, Instant};

use super::world::{BAN, OTHER, PEER, SOON, World, expect_end, now_s};
use crate::common::{Ending, eventually};

/// Changes of the set, half of them grants.
const CHANGES: usize = 1_000;

/// "SADD lets a waiting peer in within 250 ms; SREM ... close live connections within 1 s":
/// until the first byte is back, and until the end is seen.
#[test]
fn grants_and_removals_are_fast() {
    grants_and_removals(&World::new(&[]), CHANGES);
}

/// Lets `PEER` in and takes it out again, and prints how long it was until each
/// was felt. `changes` counts both.
pub fn grants_and_removals(world: &World, changes: usize) {
    let (mut grants, mut ends) = (vec![], vec![]);
    let mut redis = world.redis.direct();
    for i in 0..changes / 2 {
        // Not each time: with a large set a stranger waits for the store's word.
        if i % 50 == 0 {
            assert_eq!(world.expect_denied(PEER), Ending::Clean);
        }
        let began = Instant::now();
        redis.ask(&["SADD", "ip-allowed", PEER]);
        let mut live = world.live_soon(PEER);
        grants.push(began.elapsed());
        let began = Instant::now();
        redis.ask(&["SREM", "ip-allowed", PEER]);
        expect_end(&mut live);
        ends.push(began.elapsed());
    }
    print("SADD lets in after", &mut grants);
    print("SREM ends after", &mut ends);
    assert!(grants.iter().chain(&ends).all(|time| *time < SOON));
}

pub fn print(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!("{what}: p50 {:?}, p99 {:?}, worst {:?} of {}", at(50), at(99), at(100), times.len());
}

/// "DEL, FLUSHALL, a ban and a TTL's end close live connections within 1 s".
#[test]
fn whatever_takes_the_right_away_ends_connections() {
    let world = World::new(&["--allow-prefix", "ok:"]);
    let ban = format!("SETEX {BAN}:{PEER} 100 1");
    let member = format!("SADD ip-allowed {PEER}");
    let network = "SADD ip-allowed 203.0.113.0/29".to_owned();
    let key = format!("SET ok:{PEER} 1");
    for (allow, revoke) in [
        (&member, format!("SREM ip-allowed {PEER}")),
        (&member, "DEL ip-allowed".to_owned()),
        (&member, "FLUSHALL".to_owned()),
        (&member, "FLUSHALL ASYNC".to_owned()),
        (&member, "RENAME ip-allowed elsewhere".to_owned()),
        (&member, ban.clone()),
        (&network, "SREM ip-allowed 203.0.113.0/29".to_owned()),
        (&network, ban),
        (&key, format!("DEL ok:{PEER}")),
        (&key, "FLUSHDB".to_owned()),
    ] {
        world.redis("FLUSHALL");
        world.wait_out(PEER);
        world.redis(&format!("SADD ip-allowed {OTHER}"));
        world.redis(allow);
        let (mut live, mut idle) = (world.live_soon(PEER), world.live_soon(PEER));
        let began = Instant::now();
        world.redis(&revoke);
        expect_end(&mut live);
        expect_end(&mut idle);
        let after = began.elapsed();
        println!("{revoke}: ended after {after:?}");
        assert!(after < SOON, "{revoke}: ended after {after:?}");
        let line = world.gate.wait_closed("revoked");
        assert!(line.field("peer").unwrap().starts_with(PEER), "{line:?}");
    }
}

#[test]
fn the_end_of_a_ttl_ends_connections() {
    let world = World::new(&["--allow-prefix", "ok:"]);
    for allow in
        [format!("SET ok:{PEER} 1 PX 1500"), format!("ZADD ip-allowed {} {PEER}", now_s() + 4)]
    {
        world.redis(&allow);
        let mut live = world.live_soon(PEER);
        let key = allow.split(' ').nth(1).unwrap();
        let left = match key {
            "ip-allowed" => None,
            key => Some(super::world::number(&world.redis(&format!("PTTL {key}")))),
        };
        let began = Instant::now();
        expect_end(&mut live);
        if let Some(left) = left {
            let late =
                began.elapsed().saturating_sub(Duration::from_millis(left.try_into().unwrap()));
            println!("{allow}: ended {late:?} late");
            assert!(late < SOON);
        }
        world.wait_out(PEER);
    }
}

/// `--on-revoke keep`: who is in stays in.
#[test]
fn kept_connections_stay() {
    let world = World::new(&["--on-revoke", "keep"]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    let mut live = world.live_soon(PEER);
    world.redis("DEL ip-allowed");
    world.wait_out(PEER);
    live.expect_echo(b"still here");
    world.redis(&format!("SETEX {BAN}:{PEER} 100 1"));
    world.wait_out(PEER);
    live.expect_echo(b"and here");
}

/// `--on-revoke drain`: who is in has time to finish.
#[test]
fn drained_connections_have_time() {
    let world = World::new(&["--on-revoke", "drain", "--drain", "3"]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    let (mut live, mut early) = (world.live_soon(PEER), world.live_soon(PEER));
    let began = Instant::now();
    world.redis("DEL ip-allowed");
    eventually("newcomers are denied", || world.stage.net.is_denied(PEER, &world.entrance(PEER)));
    live.expect_echo(b"not yet");
    early.finish();
    assert_eq!(early.expect_ending(), Ending::Clean);
    expect_end(&mut live);
    let after = began.elapsed();
    assert!(after >= Duration::from_millis(2_900), "ended after {after:?}");
    assert!(after < Duration::from_secs(3) + SOON, "ended after {after:?}");
}
