//! Two flags and a key file: `decrypt --knock`, and a client that knocks.

use std::time::{Duration, Instant};

use testkit::redis::{Reply, Resp};
use testkit::{Addr, Launch};

use crate::world::{OTHER, PEER, PEER6, World, entrance, live_soon, wait_granted};

/// The grant of this many seconds is over well before a test is.
const SHORT: &str = "2s";

/// The store is memory: there is no flag but `--knock`. The target is a real Redis.
#[test]
fn a_knock_opens_redis_for_its_sender_and_for_nobody_else() {
    let world = World::new();
    let redis = world.redis();
    let end = world.decrypt_to(redis.tcp(), &["--knock", "--knock-ttl", SHORT]);
    for source in [PEER, PEER6] {
        assert!(world.is_denied(source, &end), "{source} did not knock");
        let client = world.encrypt(source, &end);
        world.knock(source, &end);
        world.wait_admitted(source, &end);
        let mut session = Resp::over(client.connect());
        assert_eq!(session.ask(&["SET", "knocked", source]), Reply::ok());
        assert_eq!(session.ask(&["GET", "knocked"]), Reply::bulk(source));
        assert!(world.is_denied(OTHER, &end), "{OTHER} did not knock");
        assert!(world.is_denied("2001:db8:0:1::8", &end), "its neighbour did not knock");
        // The grant lasts two seconds, and the session renews it.
        let long = Instant::now() + Duration::from_secs(5);
        while Instant::now() < long {
            assert_eq!(session.ask(&["PING"]), Reply::Simple("PONG".into()));
        }
        assert!(!world.is_denied(source, &end), "a session goes on");
        drop(session);
        let left = Instant::now();
        world.wait_denied(source, &end);
        let out = left.elapsed();
        assert!(out < Duration::from_secs(10), "{source} was out only after {out:?}");
    }
}

/// The time that a connection waits for a grant at least, before it is denied.
const WAIT: Duration = Duration::from_millis(250);

/// The connection comes right behind the knock, before the store can have the grant: it has to wait
/// for it, and need not try again. Where the machine is too slow for that, it has waited.
#[test]
fn a_connection_right_behind_its_knock_waits_for_the_grant() {
    let world = World::new();
    let redis = world.redis();
    for store in [None, Some(format!("redis://{}", redis.tcp()))] {
        let gate: Vec<&str> = store.iter().flat_map(|url| ["--gate", url]).collect();
        let end = world.decrypt(&[&["--knock"], &gate[..]].concat());
        let mut admitted = 0;
        for host in 1..=100 {
            let source = format!("203.0.113.{host}");
            let entrance = entrance(&end, &source);
            let message = world.knocking().message();
            let began = Instant::now();
            let wire = world.net.at_peers(|| {
                testkit::knock::send_from(&source, &entrance, &message).unwrap();
                testkit::netns::dial_from(&source, &entrance).unwrap()
            });
            match testkit::hand::Call::new(&world.key).try_shake_over(wire) {
                Some(mut hand) => {
                    hand.open();
                    hand.opened();
                    admitted += 1;
                }
                None => assert!(began.elapsed() >= WAIT, "{source} was denied without a wait"),
            }
        }
        assert!(admitted > 0, "none was admitted at its first connection");
    }
}

#[test]
fn a_grant_in_redis_is_valid_after_a_restart_and_one_in_memory_is_not() {
    let world = World::new();
    let redis = world.redis();
    let url = format!("redis://{}", redis.tcp());
    let client_of = |end: &testkit::End| world.encrypt(PEER, end);
    for (gate, is_kept) in [(&["--gate", &url][..], true), (&[][..], false)] {
        let args = [&["--knock"], gate].concat();
        let mut end = world.decrypt(&args);
        let port = end.addr().tcp().port();
        let client = client_of(&end);
        world.knock(PEER, &end);
        drop(live_soon(&client));
        end.stop();
        drop(end);
        let end = world.decrypt_at(&format!("[::]:{port}"), world.target.addr(), &args);
        assert_eq!(!world.is_denied(PEER, &end), is_kept, "{gate:?}");
        world.knock(PEER, &end);
        drop(live_soon(&client));
    }
}

#[test]
fn sources_of_each_family_receive_knocks_and_an_address_of_its_own_does_so_alone() {
    let world = World::new();
    let start = |args: &[&str]| {
        let launch = Launch::decrypt(&world.key).target(world.target.addr()).args(args);
        world.net.at_gate(|| launch.start())
    };
    // One port for both: the system picks it for the first.
    let one = start(&["-s", "198.51.100.1:0", "--knock"]);
    let port = one.addr().tcp().port();
    let two = start(&["-s", &format!("[2001:db8:0:2::1]:{port}"), "--knock"]);
    for (source, end) in [(PEER, &one), (PEER6, &two)] {
        world.knock(source, end);
        world.wait_admitted(source, end);
    }
    let three = start(&["-s", "198.51.100.1:0", "--knock", "198.51.100.1:5999"]);
    world.knock(PEER, &three);
    let elsewhere = Addr::Tcp("198.51.100.1:5999".parse().unwrap());
    let message = world.knocking().message();
    let sent = || testkit::knock::send_from(OTHER, &elsewhere, &message);
    world.net.at_peers(sent).unwrap();
    world.wait_admitted(OTHER, &three);
    assert!(world.is_denied(PEER, &three), "its knock went to a port without a socket");
    assert!(wait_granted(&three, 1).has("address", OTHER));
}
