//! Notes of a gate about its peers, and a Redis that does not accept them.

use std::io::Write;

use super::world::{AWAY, PEER, PEER6, READ, Stage, World, expect_end, now_s};
use testkit::redis::Reply;
use testkit::{Addr, Ending, Line, eventually};

/// Log messages for lost notes, and for the end of that.
pub(crate) const UNWRITTEN: &str = "gate store writes failing";
pub(crate) const WRITTEN: &str = "gate store writes recovered";

/// Memory that is full, replicas that are missing, a history of another type: notes are lost and
/// that is logged once; admissions are decided as ever.
#[test]
fn what_cannot_be_written_is_told_once() {
    let world = World::new(&["--ban-after", "100/1h/5m", "-o", "1s"]);
    eventually("there is time left in this hour", || now_s() % 3_600 < 3_570);
    let history = |message: &str| lines_about(&world, message, "history");
    let causes = [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "OOM"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0", "NOREPLICAS"),
        ("SET ip-history nonsense", "DEL ip-history", "WRONGTYPE"),
    ];
    for (round, (spoil, mend, cause)) in causes.into_iter().enumerate() {
        let ip = |n: usize| format!("203.0.113.{}", 100 + 10 * round + n);
        (0..6).for_each(|n| drop(world.redis(&format!("SADD ip-allowed {}", ip(n)))));
        world.redis(spoil);
        let mut first = world.live_soon(&ip(0));
        eventually("it is told", || history(UNWRITTEN).len() == round + 1);
        let line = history(UNWRITTEN).remove(round);
        assert!(line.text().contains(cause), "{line:?}");
        // Each is a note of its own, and forgiven failures can be written with some causes.
        (1..4).for_each(|n| world.wait_in(&ip(n)));
        strike(&world.stage, &[ip(1), ip(2), ip(3)], &world.entrance(PEER));
        world.expect_denied(PEER);
        match world.redis.direct().ask(&["SREM", "ip-allowed", &ip(0)]) {
            Reply::Number(1) => expect_end(&mut first),
            // No write succeeds now.
            _ => first.expect_echo(b"undisturbed"),
        }
        world.redis(mend);
        world.wait_in(&ip(5));
        let seen = format!("HEXISTS ip-history {}", ip(5));
        eventually("the history goes on", || world.redis(&seen) == Reply::Number(1));
        eventually("that is told", || history(WRITTEN).len() == round + 1);
        strike(&world.stage, &[ip(5)], &world.entrance(PEER));
        let count = format!("cache:gitlab:rack::attack:{}:allow2ban:count:", now_s() / 3_600);
        let counted = format!("EXISTS {count}{}", ip(5));
        eventually("strikes go on", || world.redis(&counted) == Reply::Number(1));
        assert_eq!(history(UNWRITTEN).len(), round + 1, "{}", world.gate.program.tail());
    }
    // The history's type does not affect strikes.
    assert_eq!(lines_about(&world, UNWRITTEN, "strikes").len(), 2);
    assert_eq!(lines_about(&world, WRITTEN, "strikes").len(), 2);
    assert_eq!((world.lines(AWAY).len(), world.lines(READ).len()), (0, 1));
}

/// "Nor the history": a peer admitted by an IPv6 network is noted by the first address of its /64,
/// for each of its addresses; one with its own entry as itself.
#[test]
fn a_64_that_a_network_lets_in_is_one_note() {
    let world = World::new(&["-o", "600s"]);
    world.stage.net.own("2001:db8:0:5::/64");
    world.redis(&format!("SADD ip-allowed 2001:db8:0:5::/64 {PEER6}"));
    world.wait_in(PEER6);
    world.wait_in("2001:db8:0:5::1");
    let entrance = world.entrance(PEER6);
    for n in 2..=50 {
        drop(world.stage.net.dial(&format!("2001:db8:0:5::{n:x}"), &entrance));
    }
    // Notes are written in order, and this one is the last.
    world.redis("SADD ip-allowed 2001:db8:0:1::8");
    world.wait_in("2001:db8:0:1::8");
    let seen = |ip: &str| world.redis(&format!("HEXISTS ip-history {ip}")) == Reply::Number(1);
    eventually("the last is noted", || seen("2001:db8:0:1::8"));
    assert!(seen(PEER6) && seen("2001:db8:0:5::"));
    assert_eq!(world.redis("HLEN ip-history"), Reply::Number(3));
}

fn lines_about(world: &World, message: &str, what: &str) -> Vec<Line> {
    world.lines(message).into_iter().filter(|line| line.has("what", what)).collect()
}

/// Makes handshakes that fail, all at once.
pub(crate) fn strike(stage: &Stage, sources: &[String], to: &Addr) {
    let endings = try_to_strike(stage, sources, to);
    assert!(endings.iter().all(|ending| *ending == Ending::Reset), "{endings:?}");
}

/// Does so where the gate may be closed just then; returns the ending of each.
pub(crate) fn try_to_strike(stage: &Stage, sources: &[String], to: &Addr) -> Vec<Ending> {
    let mut wires: Vec<_> = sources.iter().map(|source| stage.net.dial(source, to)).collect();
    // A denied one may have been closed already.
    wires.iter_mut().for_each(|wire| drop(wire.write_all(&[0x55; 2_000])));
    wires.iter_mut().map(|wire| wire.expect_ending()).collect()
}
