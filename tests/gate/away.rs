//! Redis that stops, dies and comes back: each policy does what it says, and
//! who is connected stays connected.

use std::time::Instant;

use nix::sys::signal::Signal;

use super::world::{BAN, OTHER, PEER, READ, SOON, Stage, ask, entrance, url};
use crate::common::redis::Redis;
use crate::common::target::{Target, echo};
use crate::common::{End, NEVER, Wire, eventually};

/// Banned, and in the allow-set.
const BANNED: &str = "203.0.113.66";

const AWAY: &str = "the gate's store is away";

/// A gate with its policy, and somebody who is in.
struct Guarded {
    policy: &'static str,
    gate: End,
    live: Wire,
    peer: End,
}

impl Guarded {
    fn start(stage: &Stage, redis: &Redis, target: &Target, policy: &'static str) -> Self {
        let args = ["--gate", &url(redis), "--gate-away", policy];
        let gate = stage.decrypt(target.addr(), &args);
        gate.program.wait_line(READ, |line| line.is(READ));
        let peer = stage.encrypt(PEER, &entrance(&gate, PEER));
        let mut live = peer.connect();
        live.expect_echo(b"live");
        Self { policy, gate, live, peer }
    }

    fn count(&self, message: &str) -> usize {
        self.gate.program.log().iter().filter(|line| line.is(message)).count()
    }

    /// Who comes in while Redis is away.
    #[track_caller]
    fn expect_away(&mut self, stage: &Stage, times: usize) {
        eventually("it is noticed", || self.count(AWAY) == times);
        self.live.expect_echo(b"who is in stays in");
        let denied = |source| stage.net.is_denied(source, &entrance(&self.gate, source));
        let (listed, stranger) = match self.policy {
            "closed" => (false, false),
            "open" => (true, true),
            _ => (true, false),
        };
        assert_eq!(!denied(PEER), listed, "{}: one of the allow-set", self.policy);
        assert_eq!(!denied(OTHER), stranger, "{}: a stranger", self.policy);
        assert!(denied(BANNED), "{}: somebody banned", self.policy);
        assert_eq!(self.peer.connect().echoes(b"through", NEVER), listed, "{}", self.policy);
    }

    /// Everything is as before, after the store came back for the `times`th time.
    #[track_caller]
    fn expect_back(&mut self, stage: &Stage, times: usize) {
        eventually("it is read again", || self.count(READ) == times + 1);
        self.live.expect_echo(b"never left");
        self.peer.connect().expect_echo(b"come in");
        for source in [OTHER, BANNED] {
            stage.net.expect_denied(source, &entrance(&self.gate, source));
        }
        assert_eq!(self.count(AWAY), times, "one line each time:\n{}", self.gate.program.tail());
    }
}

#[test]
fn each_policy_does_what_it_says() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let mut redis = stage.redis();
    ask(&mut redis.direct(), &format!("SADD ip-allowed {PEER} {BANNED}"));
    ask(&mut redis.direct(), &format!("SETEX {BAN}:{BANNED} 1000 1"));
    let mut all: Vec<Guarded> = ["closed", "open", "stale:1h"]
        .map(|policy| Guarded::start(&stage, &redis, &target, policy))
        .into();

    redis.signal(Signal::SIGSTOP);
    let began = Instant::now();
    all.iter_mut().for_each(|each| each.expect_away(&stage, 1));
    println!("stopped: noticed and judged after {:?}", began.elapsed());
    redis.signal(Signal::SIGCONT);
    let began = Instant::now();
    all.iter_mut().for_each(|each| each.expect_back(&stage, 1));
    println!("continued: back after {:?}", began.elapsed());
    assert!(began.elapsed() < SOON * 2);

    // What is not saved is removed as by anybody; that is another test.
    ask(&mut redis.direct(), "SAVE");
    redis.kill();
    let began = Instant::now();
    all.iter_mut().for_each(|each| each.expect_away(&stage, 2));
    println!("killed: noticed and judged after {:?}", began.elapsed());
    stage.net.at_gate(|| redis.revive());
    let began = Instant::now();
    all.iter_mut().for_each(|each| each.expect_back(&stage, 2));
    println!("restarted: back after {:?}", began.elapsed());
    assert!(began.elapsed() < SOON * 2);
}

/// A removal while the connection to Redis is gone pushes nothing; it is found afterwards.
#[test]
fn a_removal_that_nobody_announced_is_found() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let mut redis = stage.redis();
    ask(&mut redis.direct(), &format!("SADD ip-allowed {PEER}"));
    let mut guarded = Guarded::start(&stage, &redis, &target, "stale:1h");
    redis.kill();
    eventually("it is noticed", || guarded.count(AWAY) == 1);
    guarded.live.expect_echo(b"who is in stays in");
    // Nothing was saved.
    stage.net.at_gate(|| redis.revive());
    super::world::expect_end(&mut guarded.live);
    stage.net.expect_denied(PEER, &entrance(&guarded.gate, PEER));
}

/// `stale` ends, and one that never saw the store has no last known state.
#[test]
fn what_is_too_stale_is_closed() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let mut redis = stage.redis();
    ask(&mut redis.direct(), &format!("SADD ip-allowed {PEER}"));
    let mut guarded = Guarded::start(&stage, &redis, &target, "stale:3s");
    redis.kill();
    eventually("it is noticed", || guarded.count(AWAY) == 1);
    assert!(!stage.net.is_denied(PEER, &entrance(&guarded.gate, PEER)));
    let closed = "the gate admits nobody on the store's word";
    eventually("it is too old", || guarded.count(closed) == 1);
    stage.net.expect_denied(PEER, &entrance(&guarded.gate, PEER));
    guarded.live.expect_echo(b"who is in stays in");

    for (policy, denied) in [("closed", true), ("stale:1h", true), ("open", false)] {
        let args = ["--gate", &url(&redis), "--gate-away", policy];
        let gate = stage.decrypt(target.addr(), &args);
        gate.program.wait_line(AWAY, |line| line.is(AWAY));
        assert_eq!(stage.net.is_denied(PEER, &entrance(&gate, PEER)), denied, "{policy}");
    }
}
