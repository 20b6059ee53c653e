//! The life of a grant: as long as it is used, and until an operator takes it back.

use std::time::{Duration, Instant};

use testkit::redis::Redis;
use testkit::servers::Sentinels;
use testkit::wait::poll;
use testkit::{End, NEVER, eventually};

use crate::world::{OTHER, PEER, World, gets_through, live, live_soon, refused, wait_granted};

fn text(output: &std::process::Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Waits for the end of a live connection.
#[track_caller]
fn expect_end(wire: &mut testkit::Wire) {
    let (_, ending) = wire.read_to_ending(NEVER);
    assert_ne!(ending, testkit::Ending::Silent, "the connection does not end");
}

/// The store is a file, whose notes `gate why` shows.
#[test]
fn a_grant_lives_with_its_session_and_an_operator_ends_both() {
    let world = World::new();
    let file = format!("file:{}", world.dir.path().join("gate").display());
    let end = world.decrypt(&["--knock", "--knock-ttl", "2s", "--gate", &file]);
    let client = world.encrypt(PEER, &end);
    world.send(PEER, &end, &world.knocking().label("laptop"));
    let mut session = live(&client);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        session.expect_echo(b"still here");
    }
    let why = text(&world.gate(&["why", PEER, "--gate", &file]));
    assert!(why.contains(&world.who()) && why.contains("laptop"), "{why}");
    let removed = world.gate(&["remove", PEER, "--gate", &file]);
    assert!(removed.status.success(), "{}", text(&removed));
    expect_end(&mut session);
    assert!(world.is_denied(PEER, &end), "renewal must not bring a grant back");
    assert!(!gets_through(&client));
    world.knock(PEER, &end);
    let mut session = live_soon(&client);
    session.expect_echo(b"again");
    drop(session);
    let left = Instant::now();
    world.wait_denied(PEER, &end);
    assert!(left.elapsed() < Duration::from_secs(10), "{:?}", left.elapsed());
}

/// A stranger behind the same address connects and says nothing: that is no use of the grant.
#[test]
fn a_connection_without_the_key_renews_nothing() {
    let world = World::new();
    let end = world.decrypt(&["--knock", "--knock-ttl", "2s", "--timeout", "1m"]);
    world.knock(PEER, &end);
    wait_granted(&end, 1);
    let mut stranger = world.net.dial(PEER, &crate::world::entrance(&end, PEER));
    let (bytes, ending) = stranger.read_to_ending(NEVER);
    assert!(bytes.is_empty() && ending != testkit::Ending::Silent, "it held the port open");
    assert!(world.is_denied(PEER, &end));
}

/// A knock must not make what an operator allowed shorter.
#[test]
fn an_entry_of_an_operator_stays_as_it_is() {
    let world = World::new();
    let redis = world.redis();
    let url = format!("redis://{}", redis.tcp());
    redis.ask(&format!("ZADD ip-allowed inf {PEER}"));
    let end = world.decrypt(&["--knock", "--knock-ttl", "1s", "--gate", &url]);
    world.wait_admitted(PEER, &end);
    let admin = || redis.ask(&format!("ZSCORE ip-allowed {PEER}")).text();
    assert_eq!(admin(), "inf");
    world.knock(PEER, &end);
    world.knock(OTHER, &end);
    wait_granted(&end, 1);
    world.wait_denied(OTHER, &end);
    assert_eq!(admin(), "inf");
    assert!(!world.is_denied(PEER, &end));
}

/// Members of a plain set cannot end, so a knock is refused, and the log has the remedy.
#[test]
fn a_plain_set_takes_no_knock_and_one_with_a_prefix_does() {
    let world = World::new();
    let redis = world.redis();
    let url = format!("redis://{}", redis.tcp());
    redis.ask("SADD ip-allowed 192.0.2.99");
    let end = world.decrypt(&["--knock", "--gate", &url]);
    world.knock(PEER, &end);
    eventually("it is refused", || refused(&end, "store") == 1);
    let line = end.program.wait_line("knock refused", |line| line.is("knock refused"));
    assert!(line.text().contains("--allow-prefix"), "{}", line.text());
    assert!(world.is_denied(PEER, &end));
    let prefixed = ["--knock", "--knock-ttl", "2s", "--gate", &url, "--allow-prefix", "knocked:"];
    let end = world.decrypt(&prefixed);
    let client = world.encrypt(PEER, &end);
    world.knock(PEER, &end);
    let mut session = live(&client);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        session.expect_echo(b"renewed");
    }
}

/// Without the right to renew a session ends with its grant, and the log says why.
#[test]
fn a_renewal_that_fails_is_logged_once_and_counted() {
    let world = World::new();
    let redis = world.redis();
    let url = format!("redis://{}", redis.tcp());
    let socket = world.dir.path().join("admin.sock");
    let admin = ["--admin", socket.to_str().unwrap()];
    let end =
        world.decrypt(&[&["--knock", "--knock-ttl", "8s", "--gate", &url], &admin[..]].concat());
    let client = world.encrypt(PEER, &end);
    world.knock(PEER, &end);
    let mut session = live(&client);
    redis.ask("ACL SETUSER default -eval");
    let line = end.program.wait_line("it is logged", |line| line.is("grant in use not renewed"));
    assert!(line.text().contains("NOPERM") && line.text().contains(PEER), "{}", line.text());
    expect_end(&mut session);
    let results = testkit::admin::Admin(socket).tunnel()["knocks"]["results"].clone();
    assert!(results["renewal-failed"].as_u64() > Some(1), "{results}");
    let lines = end.program.log();
    assert_eq!(lines.iter().filter(|line| line.is("grant in use not renewed")).count(), 1);
}

/// The grant is made at the first master and renewed at the second.
#[test]
fn a_grant_outlives_the_master_of_its_store() {
    let world = World::new();
    let (mut first, second, sentinels) = world.net.at_gate(|| {
        let first = Redis::start();
        let second = first.replica(&[]);
        let sentinels = Sentinels::watching(&first);
        (first, second, sentinels)
    });
    let url = sentinels.url();
    let end: End = world.decrypt(&["--knock", "--knock-ttl", "20s", "--gate", &url]);
    let client = world.encrypt(PEER, &end);
    world.knock(PEER, &end);
    let mut session = live(&client);
    first.wait_for_replica();
    first.kill();
    let granted = Instant::now();
    while granted.elapsed() < Duration::from_secs(30) {
        session.expect_echo(b"renewed at the new master");
    }
    assert!(matches!(
        second.ask(&format!("ZSCORE ip-allowed {PEER}")),
        testkit::redis::Reply::Bulk(_)
    ));
    poll(NEVER, || {
        world.knock(OTHER, &end);
        (!world.is_denied(OTHER, &end)).then_some(())
    })
    .expect("a knock is granted at the new master");
}
