//! Treatment of denied peers: they get nothing, and cost little.

use std::io::Read;
use std::time::{Duration, Instant};

use super::world::{OTHER, PEER, World, refused};
use testkit::netns::dial_from;
use testkit::{Addr, Ending, Launch, eventually, proc};

/// Denied connections of the long run.
const TRIES: u32 = 10_000;

/// Denied by close, reset or silence: never a byte, and nothing for the target.
#[test]
fn each_style_shows_nothing() {
    for (style, expected) in
        [("close", Ending::Clean), ("reset", Ending::Reset), ("tarpit", Ending::Reset)]
    {
        let world = World::new(&["--denied", style, "-o", "1s"]);
        let began = Instant::now();
        assert_eq!(world.expect_denied(PEER), expected, "{style}");
        let held = began.elapsed() >= Duration::from_millis(900);
        assert_eq!(held, style == "tarpit", "{style} after {:?}", began.elapsed());
        // The key gets a denied peer no further.
        assert!(!world.gets_in(OTHER), "{style}");
        assert_eq!(world.target.counts().accepts(), 0, "{style}");
        let World { mut gate, .. } = world;
        gate.stop();
        assert!(refused(&gate, "gate-denied") >= 2, "{}", gate.program.tail());
    }
}

/// "A denied peer costs under 50 microseconds of CPU, sees 0 bytes, and the target sees nothing:
/// 10,000 tries". The time is for a person to read: the build under test is not the build that is
/// measured.
#[test]
fn ten_thousand_strangers_cost_little() {
    let world = World::new(&[]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    let mut live = world.live_soon(PEER);
    let entrance = world.entrance(PEER);
    let (cpu, began) = (proc::cpu(world.gate.pid()), Instant::now());
    world.stage.net.at_peers(|| {
        for i in 0..TRIES {
            let source = format!("203.0.113.{}", 100 + i % 100);
            let mut wire = dial_from(&source, &entrance).expect("a denied peer is accepted first");
            assert_eq!(wire.read(&mut [0; 16]).expect("it is closed, not reset"), 0);
        }
    });
    let (cpu, wall) = (proc::cpu(world.gate.pid()) - cpu, began.elapsed());
    println!("{TRIES} denied: {:?} of CPU each, {:?} on the clock", cpu / TRIES, wall / TRIES);
    live.expect_echo(b"undisturbed");
    assert_eq!(world.target.counts().accepts(), 1);
    let World { mut gate, .. } = world;
    drop(live);
    gate.stop();
    assert_eq!(refused(&gate, "gate-denied"), u64::from(TRIES));
}

/// The encrypt end takes the same flags, for its clients.
#[test]
fn an_encrypt_end_has_a_gate_too() {
    let world = World::new(&["--allow", "0.0.0.0/0"]);
    let gate = format!("redis://{}", world.redis.tcp());
    // The gate's machine stands for that of the clients' end.
    let launch = Launch::encrypt(&world.stage.key)
        .source(&Addr::Tcp("0.0.0.0:0".parse().unwrap()))
        .target(&Addr::Tcp(([127, 0, 0, 1], world.gate.addr().tcp().port()).into()))
        .args(["--gate", &gate, "--set", "clients"]);
    let end = world.stage.net.at_gate(|| launch.start());
    let entrance = super::world::entrance(&end, PEER);
    assert_eq!(world.stage.net.expect_denied(PEER, &entrance), Ending::Clean);
    world.redis(&format!("SADD clients {PEER}"));
    let net = &world.stage.net;
    eventually("the client is let in", || {
        net.dial(PEER, &entrance).echoes(b"may I?", Duration::from_secs(5))
    });
    let mut live = net.dial(PEER, &entrance);
    live.expect_echo(b"live");
    world.redis("DEL clients");
    super::world::expect_end(&mut live);
    net.expect_denied(PEER, &entrance);
}

/// A peer that is denied and not held takes no slot of handshakes.
#[test]
fn a_peer_that_is_denied_at_once_displaces_none() {
    let world = World::new(&["-o", "600s", "--max-handshakes", "4"]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    world.wait_in(PEER);
    let entrance = world.entrance(PEER);
    let mut silent: Vec<_> = (0..4).map(|_| world.stage.net.dial(PEER, &entrance)).collect();
    for _ in 0..50 {
        assert_eq!(world.expect_denied(OTHER), Ending::Clean);
    }
    for wire in &mut silent {
        assert_eq!(wire.read_to_ending(Duration::from_millis(20)).1, Ending::Silent);
    }
}
