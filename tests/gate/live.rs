//! Changes reach peers that wait and clients that are connected.

use std::io::Write;
use std::time::{Duration, Instant};

use knockpipe::proto::inbound::Event;
use knockpipe::proto::message::ResetReason;

use super::world::{BAN, OTHER, PEER, SOON, World, expect_end, now_s, refused};
use testkit::admin::Admin;
use testkit::hand::Call;
use testkit::redis::Reply;
use testkit::{Ending, Line, Wire, eventually};

/// Changes of the set, half of them grants.
const CHANGES: usize = 1_000;

/// "SADD lets a waiting peer in within 250 ms; SREM ... close live connections within 1 s": until
/// the first byte is back, and until the end is seen.
#[test]
fn grants_and_removals_are_fast() {
    grants_and_removals(&World::new(&[]), CHANGES);
}

/// Adds `PEER` and removes it again, and prints the time until each took effect. `changes` counts
/// both.
pub(crate) fn grants_and_removals(world: &World, changes: usize) {
    let (mut grants, mut ends) = (vec![], vec![]);
    let mut redis = world.redis.direct();
    for i in 0..changes / 2 {
        // Not each time: with a large set a stranger waits for the store's answer.
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

pub(crate) fn print(what: &str, times: &mut [Duration]) {
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

/// A tunnel that waits for a client keeps no permission that its host has lost, also where sessions
/// are kept or have time to finish.
#[test]
fn warm_tunnels_end_with_the_right_of_their_host() {
    for policy in ["close", "keep", "drain"] {
        let dir = tempfile::tempdir().unwrap();
        let admin = Admin(dir.path().join("admin"));
        let path = admin.0.to_str().unwrap();
        // The end of such a drain is not waited for.
        let policy_args = ["--on-revoke", policy, "--drain", "600s"];
        let world =
            World::new(&[&["--log-level", "debug", "--admin", path], &policy_args[..]].concat());
        world.redis(&format!("SADD ip-allowed {PEER}"));
        let pool = ["--pool", "3", "--log-level", "debug"];
        let host = world.stage.encrypt_with(PEER, &world.entrance(PEER), &pool);
        eventually("three are ready", || host.count("warm tunnel ready") == 3);
        // Ready there means that this end was not yet told so.
        eventually("all three wait here", || admin.tunnel()["unopened"]["now"] == 3);
        let before = world.target.counts().accepts();
        world.redis("DEL ip-allowed");
        let count = || world.gate.program.log().iter().filter(|line| is_unopened(line)).count();
        eventually(&format!("all three have ended: {policy}"), || count() == 3);
        assert_ne!(host.connect().expect_ending(), Ending::Silent);
        assert_eq!(world.target.counts().accepts(), before);
    }
}

/// Returns true for the log line of a tunnel that was revoked before it was opened.
fn is_unopened(line: &Line) -> bool {
    line.is("unopened tunnel ended") && line.has("reason", "revoked")
}

/// The gate is asked again after the handshake: a peer that loses its permission during it gets no
/// session, whatever happens to present sessions.
#[test]
fn a_ban_during_the_handshake_prevents_the_session() {
    for policy in ["close", "keep", "drain"] {
        let world = World::new(&[
            "--on-revoke",
            policy,
            "--drain",
            "600s",
            "--ban-after",
            "100/30d/5m",
            "-o",
            "60s",
        ]);
        world.redis(&format!("SADD ip-allowed {PEER}"));
        let entrance = world.entrance(PEER);
        eventually("it is let in", || !world.stage.net.is_denied(PEER, &entrance));
        let shake = || {
            let wire = world.stage.net.dial(PEER, &entrance);
            Call::new(&world.stage.key).shake_over(wire)
        };
        let (eager, tardy, mut proven) = (shake(), shake(), shake());
        let strikes = strikes(now_s() / (30 * 86_400));
        world.redis(&format!("SET {strikes} 1"));
        proven.confirm();
        eventually("it is forgiven", || world.redis(&format!("GET {strikes}")) == Reply::Nil);
        world.redis(&format!("SET {strikes} 7"));
        world.redis(&format!("SETEX {BAN}:{PEER} 100 1"));
        // It came last, so that those before it are revoked by then.
        assert_eq!(proven.hear(), Event::Reset(ResetReason::Revoked), "{policy}");
        let accepts = world.target.counts().accepts();
        // Nothing proven, nothing said: it is treated as denied peers are.
        assert_eq!(eager.into_wire().expect_ending(), Ending::Clean, "{policy}");
        assert_eq!(tardy.into_wire().expect_ending(), Ending::Clean, "{policy}");
        assert_eq!(world.target.counts().accepts(), accepts);
        assert_eq!(world.redis(&format!("GET {strikes}")), Reply::bulk("7"), "not forgiven");
    }
}

/// "Handshakes that are not finished ... end at once, always": also before they have begun. A first
/// message that comes after the ban or the removal gets no answer, and the connection ends as a new
/// one does.
#[test]
fn handshakes_that_are_not_finished_end_at_once() {
    for (style, expected) in
        [("close", Some(Ending::Clean)), ("reset", Some(Ending::Reset)), ("tarpit", None)]
    {
        let world = World::new(&[
            "--denied",
            style,
            "-o",
            "20s",
            "--on-revoke",
            "keep",
            "--log-level",
            "debug",
        ]);
        for revoke in [format!("SETEX {BAN}:{PEER} 100 1"), "DEL ip-allowed".to_owned()] {
            world.redis(&format!("SADD ip-allowed {PEER} {OTHER}"));
            world.redis(&format!("DEL {BAN}:{PEER}"));
            world.wait_in(PEER);
            let dial = || world.stage.net.dial(PEER, &world.entrance(PEER));
            // The second has said half of its message, the third all of it.
            let call = Call::new(&world.stage.key);
            let (mut silent, mut slow) = (dial(), dial());
            slow.write_all(&call.message()[..100]).unwrap();
            let answered = Call::new(&world.stage.key).shake_over(dial()).into_wire();
            let before = world.gate.count("permit revoked");
            world.redis(&revoke);
            let all_ended = |wires: Vec<Wire>| {
                for mut wire in wires {
                    assert_eq!(Some(wire.expect_ending()), expected, "{style}, {revoke}");
                }
            };
            match expected {
                Some(_) => all_ended(vec![silent, slow, answered]),
                None => {
                    eventually("the one that was answered is over", || {
                        world.gate.count("permit revoked") > before
                    });
                    silent.write_all(Call::new(&world.stage.key).message()).unwrap();
                    slow.write_all(&call.message()[100..]).unwrap();
                    for wire in [&mut silent, &mut slow] {
                        let (bytes, ending) = wire.read_to_ending(Duration::from_millis(500));
                        assert_eq!((bytes.len(), ending), (0, Ending::Silent), "{style}, {revoke}");
                    }
                }
            }
        }
        if expected.is_some() {
            let World { mut gate, peers, .. } = world;
            drop(peers);
            gate.stop();
            // The one that was answered each time, and the others if they were quickly admitted.
            let revoked = refused(&gate, "revoked");
            assert!((2..=6).contains(&revoked), "{style}: {}", gate.program.tail());
        }
    }
}

/// A dialer that waits for a session is treated alike, whatever happens to present sessions.
#[test]
fn a_ban_while_waiting_for_a_session_prevents_it() {
    for policy in ["keep", "drain"] {
        let world = World::new(&["--on-revoke", policy, "--drain", "600s", "-n", "1"]);
        world.redis(&format!("SADD ip-allowed {PEER} {OTHER}"));
        world.wait_in(PEER);
        let mut other = world.live_soon(OTHER);
        let mut waiting = world.connect(PEER);
        waiting.write_all(b"x").unwrap();
        eventually("it waits", || !world.lines("session limit reached").is_empty());
        world.redis(&format!("SETEX {BAN}:{PEER} 100 1"));
        assert_eq!(waiting.expect_ending(), Ending::Clean, "a unix socket has no reset");
        other.expect_echo(b"the one session goes on");
    }
}

/// Returns the key that counts the failures of [`PEER`] in a window.
fn strikes(window: u64) -> String {
    format!("cache:gitlab:rack::attack:{window}:allow2ban:count:{PEER}")
}

/// `--on-revoke keep`: connected clients stay.
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

/// `--on-revoke drain`: connected clients have time to finish.
#[test]
fn drained_connections_have_time() {
    let world = World::new(&["--on-revoke", "drain", "--drain", "3s"]);
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
