//! Failed handshakes become bans, where Rack::Attack keeps its own.

use std::io::Write;

use super::world::{BAN, OTHER, PEER, World, now_s, number, refused};
use crate::common::redis::Reply;
use crate::common::{Ending, eventually};

/// Rack::Attack's count for `ip` in the window of a minute that is now.
fn count_key(ip: &str) -> String {
    format!("cache:gitlab:rack::attack:{}:allow2ban:count:{ip}", now_s() / 60)
}

/// A handshake that fails.
fn fail(world: &World, source: &str) {
    let mut wire = world.stage.net.dial(source, &world.entrance(source));
    // On a loaded machine the deadline can be first; silence until then fails too.
    if wire.write_all(&[0x55; 2_000]).is_ok() {
        assert_eq!(wire.expect_ending(), Ending::Reset);
    }
}

#[test]
fn three_strikes_are_a_ban() {
    let world = World::new(&["--ban-after", "3/60s/5m", "-o", "0.3"]);
    world.redis(&format!("SADD ip-allowed {PEER} {OTHER}"));
    world.wait_in(PEER);
    world.wait_in(OTHER);
    // All of this in one window.
    eventually("there is time left in this minute", || now_s() % 60 < 45);
    let strikes = |ip: &str| world.redis(&format!("GET {}", count_key(ip)));

    fail(&world, PEER);
    eventually("it is counted", || strikes(PEER) == Reply::bulk("1"));
    let window = i64::try_from(60 - now_s() % 60 + 1).unwrap();
    let ttl = number(&world.redis(&format!("TTL {}", count_key(PEER))));
    assert!((window - 2..=window + 1).contains(&ttl), "{ttl} is not {window}");
    fail(&world, PEER);
    eventually("it is counted", || strikes(PEER) == Reply::bulk("2"));
    fail(&world, PEER);
    let ban = format!("{BAN}:{PEER}");
    eventually("there is a ban", || world.redis(&format!("EXISTS {ban}")) == Reply::Number(1));
    assert_eq!(world.redis(&format!("GET {ban}")), Reply::bulk("1"));
    let ttl = number(&world.redis(&format!("TTL {ban}")));
    assert!((290..=300).contains(&ttl), "{ttl}");
    world.wait_out(PEER);
    eventually("it is told", || !world.lines("banned").is_empty());
    let told = world.lines("banned");
    assert_eq!(told.len(), 1, "{told:?}");
    let says = |field, value| told[0].has(field, value);
    assert!(says("address", PEER) && says("failures", "3") && says("for", "5m"), "{told:?}");

    // Two failures, a success, two failures: nothing.
    for _ in 0..2 {
        fail(&world, OTHER);
        fail(&world, OTHER);
        eventually("both are counted", || strikes(OTHER) == Reply::bulk("2"));
        world.live(OTHER);
        eventually("they are forgiven", || strikes(OTHER) == Reply::Nil);
    }
    assert_eq!(world.redis(&format!("EXISTS {BAN}:{OTHER}")), Reply::Number(0));
    // What GitLab's tools lift is lifted.
    world.redis(&format!("DEL {ban}"));
    world.wait_in(PEER);
}

/// Health checks, dials that were given up, and the losers of a race of dials
/// come and go without a byte: no failure of anybody.
#[test]
fn who_says_nothing_and_hangs_up_is_not_struck() {
    let world = World::new(&["--ban-after", "2/30d/5m", "--log-level", "debug", "-o", "10"]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    let entrance = world.entrance(PEER);
    eventually("it is let in", || !world.stage.net.is_denied(PEER, &entrance));
    let before = refused(&world.gate, "handshake-failed");
    for i in 0..10 {
        let wire = world.stage.net.dial(PEER, &entrance);
        // Half of them with a bare end, half with a reset.
        if i % 2 == 0 { drop(wire) } else { wire.reset() }
    }
    eventually("all are counted", || refused(&world.gate, "handshake-failed") >= before + 10);
    // One failure with a byte; had the others been struck, that were a ban.
    let mut wire = world.stage.net.dial(PEER, &entrance);
    wire.write_all(b"x").unwrap();
    wire.finish();
    let count =
        format!("cache:gitlab:rack::attack:{}:allow2ban:count:{PEER}", now_s() / (30 * 86_400));
    let strikes = || world.redis(&format!("GET {count}"));
    eventually("it is counted", || strikes() != Reply::Nil);
    assert_eq!(strikes(), Reply::bulk("1"));
    assert_eq!(world.redis(&format!("EXISTS {BAN}:{PEER}")), Reply::Number(0));
}
