//! Ends that other programs write: that of the whole set, and scores in the wrong unit.

use super::world::{OTHER, PEER, World, expect_end, now_s};
use testkit::eventually;

const UNMEANT: &str = "allow-set scores look like milliseconds";

/// EXPIRE of the set's own key, in either form, ends all of its members.
#[test]
fn a_set_that_ends_admits_no_address_any_more() {
    for fill in ["SADD ip-allowed", "ZADD ip-allowed +inf"] {
        let world = World::new(&["--allow-prefix", "may"]);
        for member in [PEER, OTHER] {
            world.redis(&format!("{fill} {member}"));
        }
        world.redis(&format!("SET may:{OTHER} 1"));
        let (mut peer, mut other) = (world.live_soon(PEER), world.live_soon(OTHER));
        // Postponed, it ends none.
        world.redis("PEXPIRE ip-allowed 1500");
        world.redis("EXPIRE ip-allowed 3600");
        world.redis("PERSIST ip-allowed");
        peer.expect_echo(b"still here");
        world.redis("PEXPIRE ip-allowed 1500");
        expect_end(&mut peer);
        world.wait_out(PEER);
        other.expect_echo(b"has a key of its own");
        assert_eq!(world.redis("EXISTS ip-allowed"), testkit::redis::Reply::Number(0));
    }
}

/// Logged once, also when it is read again and again, and once more when it comes back.
#[test]
fn scores_in_milliseconds_are_told_once() {
    let world = World::new(&[]);
    let millis = now_s() * 1000;
    world.redis(&format!("ZADD ip-allowed {millis} {PEER} +inf {OTHER}"));
    let line = world.gate.program.wait_line(UNMEANT, |line| line.is(UNMEANT));
    assert_eq!((line.level().as_str(), line.number("entries")), ("WARN", Some(1)));
    assert!(line.has("example", PEER), "{}", line.text());
    // The store's value counts unchanged.
    world.wait_in(PEER);
    world.redis(&format!("ZADD ip-allowed 4102444800 {OTHER}"));
    world.wait_in(OTHER);
    assert_eq!(world.gate.count(UNMEANT), 1);
    world.redis(&format!("ZADD ip-allowed 4102444800 {PEER}"));
    world.wait_in(PEER);
    eventually("it is told again", || {
        world.redis(&format!("ZREM ip-allowed {PEER}"));
        world.wait_out(PEER);
        world.redis(&format!("ZADD ip-allowed {millis} {PEER}"));
        world.wait_in(PEER);
        world.gate.count(UNMEANT) > 1
    });
}
