//! A recorded datagram is sent again: to the same process, to another one with the same store, and
//! after a restart.

use testkit::redis::Redis;
use testkit::{End, eventually};

use crate::world::{OTHER, PEER, PEER6, World, granted, refused, wait_granted};

/// The grant is over before the recording is sent.
const SHORT: &[&str] = &["--knock", "--knock-ttl", "1s"];

fn store(world: &World, kind: &str, redis: &Redis) -> Vec<String> {
    let url = match kind {
        "redis" => format!("redis://{}", redis.tcp()),
        "file" => format!("file:{}", world.dir.path().join("gate").display()),
        _ => return vec![],
    };
    vec!["--gate".to_owned(), url]
}

fn start(world: &World, source: &str, gate: &[String]) -> End {
    let gate: Vec<&str> = gate.iter().map(String::as_str).collect();
    world.decrypt_at(source, world.target.addr(), &[SHORT, &gate].concat())
}

/// Sends a recording from three addresses, and expects that none is admitted.
#[track_caller]
fn expect_no_grant(world: &World, end: &End, recording: &[u8], reason: &str) {
    let grants = granted(end).len();
    for source in [PEER, OTHER, PEER6] {
        world.send_bytes(source, end, recording);
    }
    // The first is logged at once, and the others in a summary.
    eventually("it is refused", || refused(end, reason) > 0);
    for source in [PEER, OTHER, PEER6] {
        // Each connection waits until all datagrams before it were read.
        assert!(world.is_denied(source, end), "{source} got in by a recording");
    }
    assert_eq!(granted(end).len(), grants);
}

#[test]
fn a_recording_opens_nothing_whatever_the_store() {
    let world = World::new();
    let redis = world.redis();
    for kind in ["memory", "redis", "file"] {
        let gate = store(&world, kind, &redis);
        let end = start(&world, "[::]:0", &gate);
        let recording = world.knocking().message();
        world.send_bytes(PEER, &end, &recording);
        wait_granted(&end, 1);
        world.wait_denied(PEER, &end);
        expect_no_grant(&world, &end, &recording, "replayed");
        let port = end.addr().tcp().port();
        let mut end = end;
        end.stop();
        drop(end);
        let end = start(&world, &format!("[::]:{port}"), &gate);
        expect_no_grant(&world, &end, &recording, "clock");
        world.knock(PEER, &end);
        wait_granted(&end, 1);
    }
}

/// The clock does not tell such a recording from a knock that is new: the claim in the store does.
#[test]
fn a_recording_with_a_clock_that_was_ahead_opens_nothing_after_a_restart_with_a_store() {
    let world = World::new();
    let redis = world.redis();
    for kind in ["redis", "file"] {
        let gate = store(&world, kind, &redis);
        let mut end = start(&world, "[::]:0", &gate);
        let recording = world.knocking().message_ahead(60);
        world.send_bytes(PEER, &end, &recording);
        wait_granted(&end, 1);
        world.wait_denied(PEER, &end);
        let port = end.addr().tcp().port();
        end.stop();
        drop(end);
        let end = start(&world, &format!("[::]:{port}"), &gate);
        expect_no_grant(&world, &end, &recording, "replayed");
    }
}

/// Both run when the knock is made, so that the clock does not tell them apart.
#[test]
fn a_recording_opens_nothing_at_another_process_with_the_same_store() {
    let world = World::new();
    let redis = world.redis();
    for kind in ["redis", "file"] {
        let gate = store(&world, kind, &redis);
        let (one, two) = (start(&world, "[::]:0", &gate), start(&world, "[::]:0", &gate));
        let recording = world.knocking().message();
        world.send_bytes(PEER, &one, &recording);
        wait_granted(&one, 1);
        world.wait_denied(PEER, &one);
        expect_no_grant(&world, &two, &recording, "replayed");
    }
}

/// The store has the claims of knocks, so without it none can be judged.
#[test]
fn a_knock_is_refused_while_the_store_is_away_and_granted_after_it() {
    let world = World::new();
    let mut redis = world.redis();
    let gate = store(&world, "redis", &redis);
    let end = start(&world, "[::]:0", &gate);
    redis.kill();
    world.knock(PEER, &end);
    eventually("it is refused", || refused(&end, "store") == 1);
    assert!(world.is_denied(PEER, &end));
    world.net.at_gate(|| redis.revive());
    testkit::wait::poll(testkit::NEVER, || {
        world.knock(PEER, &end);
        (!world.is_denied(PEER, &end)).then_some(())
    })
    .expect("a knock is granted again");
}
