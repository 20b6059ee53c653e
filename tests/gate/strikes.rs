//! Failed handshakes become bans, where Rack::Attack keeps its own.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use knockpipe::proto::SuiteSet;

use super::world::{BAN, OTHER, PEER, PEER6, World, now_s, number, refused};
use testkit::data::Noise;
use testkit::hand::Call;
use testkit::netns::dial_from;
use testkit::redis::Reply;
use testkit::{Ending, Wire, binary, eventually};

/// Returns Rack::Attack's key of the count for `ip` in the present window of a minute.
fn count_key(ip: &str) -> String {
    format!("cache:gitlab:rack::attack:{}:allow2ban:count:{ip}", now_s() / 60)
}

/// Makes a handshake that fails.
fn fail(world: &World, source: &str) {
    let mut wire = world.stage.net.dial(source, &world.entrance(source));
    // On a loaded machine the deadline can be first; silence until then fails too.
    if wire.write_all(&[0x55; 2_000]).is_ok() {
        assert_eq!(wire.expect_ending(), Ending::Reset);
    }
}

#[test]
fn three_strikes_are_a_ban() {
    let world = World::new(&["--ban-after", "3/60s/5m", "-o", "300ms"]);
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
    // A ban that is deleted as GitLab's tools do it is over.
    world.redis(&format!("DEL {ban}"));
    world.wait_in(PEER);
}

/// Health checks, dials that were given up, and the losers of a race of dials come and go without a
/// byte: none of them counts as a failure.
#[test]
fn a_silent_hang_up_is_no_strike() {
    let world = World::new(&["--ban-after", "2/30d/5m", "--log-level", "debug", "-o", "1s"]);
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

/// "`--ban-after` counts every refusal alike", or it would tell a recording from noise:
/// each from an address of its own, and its count.
#[test]
fn every_refusal_counts_alike() {
    let args = ["--ban-after", "100/30d/5m", "-o", "500ms", "--suite", "aes-256-gcm"];
    let world = World::new(&args);
    world.redis("SADD ip-allowed 203.0.113.0/24");
    world.wait_in(PEER);
    let key: &Path = &world.stage.key;
    let message = |ahead, suites| Call::with(key, ahead, suites).message().to_vec();
    let seen = Call::new(key);
    let replayed = seen.message().to_vec();
    // A dialer that gives up after an answer, which takes a right message.
    drop(seen.shake_over(world.stage.net.dial(OTHER, &world.entrance(OTHER))));
    let cases = [
        ("203.0.113.20", "random bytes", Noise::new(3).bytes(256)),
        ("203.0.113.21", "a byte", vec![1]),
        ("203.0.113.22", "silence", vec![]),
        ("203.0.113.23", "a stale message", message(-121, SuiteSet::BOTH)),
        ("203.0.113.24", "an early one", message(3_600, SuiteSet::BOTH)),
        ("203.0.113.25", "a recording", replayed),
        ("203.0.113.26", "no common suite", message(0, SuiteSet::PORTABLE)),
        ("203.0.113.27", "no proof of life", message(0, SuiteSet::BOTH)),
    ];
    let count = |ip: &str| {
        let window = now_s() / (30 * 86_400);
        let key = format!("cache:gitlab:rack::attack:{window}:allow2ban:count:{ip}");
        world.redis(&format!("GET {key}"))
    };
    let held: Vec<Wire> = cases
        .iter()
        .map(|(source, _, bytes)| {
            let mut wire = world.stage.net.dial(source, &world.entrance(source));
            wire.write_all(bytes).unwrap();
            wire
        })
        .collect();
    for (source, what, _) in &cases {
        eventually(&format!("{what} is counted"), || count(source) == Reply::bulk("1"));
    }
    assert_eq!(count(OTHER), Reply::Nil, "it hung up after an answer");
    drop(held);
}

/// "Displaced and silent connections count as strikes": a flood bans its source, long before any
/// deadline.
#[test]
fn a_flood_of_silent_connections_is_banned() {
    // Also by those that have ended their direction, and stay.
    flooded_with(|_| {});
    flooded_with(Wire::finish);
}

fn flooded_with(then: impl Fn(&Wire) + Sync) {
    let world = World::new(&["--ban-after", "5/30d/5m", "-o", "600s", "--max-handshakes", "4"]);
    world.redis(&format!("SADD ip-allowed {PEER} {OTHER}"));
    world.wait_in(PEER);
    let entrance = world.entrance(PEER);
    let dial = || world.stage.net.dial(PEER, &entrance);
    let mut flood: Vec<Wire> = (0..9).map(|_| dial()).inspect(then).collect();
    world.wait_out(PEER);
    // The ban ends those that are left.
    for wire in &mut flood {
        assert_ne!(wire.expect_ending(), Ending::Silent);
    }
    world.wait_in(OTHER);
}

/// Connects from each of `sources`, says something wrong, and leaves.
fn fail_from(world: &World, sources: impl Iterator<Item = String> + Send) {
    let entrance = world.entrance("::1");
    world.stage.net.at_peers(|| {
        let mut open = std::collections::VecDeque::new();
        for source in sources {
            let mut wire = dial_from(&source, &entrance).expect("it is accepted first");
            // A banned one may be gone already.
            let _ = wire.write_all(b"who knocks?");
            open.push_back(wire);
            // Long displaced, or denied.
            if open.len() > 200 {
                open.pop_front();
            }
        }
    });
}

/// "A source in the allow-set cannot write log lines, keys or memory without bound by
/// earning bans from a /64": 2,000 connections from as many addresses are one ban.
#[test]
fn a_64_is_struck_and_banned_as_one() {
    let args = ["--ban-after", "2/30d/5m", "-o", "600s", "--max-handshakes", "16"];
    let world = World::new(&args);
    world.stage.net.own("2001:db8:0:5::/64");
    world.redis(&format!("SADD ip-allowed 2001:db8:0:5::/64 {PEER6}"));
    world.wait_in(PEER6);
    fail_from(&world, (1..=2_000).map(|n| format!("2001:db8:0:5::{n:x}")));
    let ban = format!("{BAN}:2001:db8:0:5::/64");
    eventually("there is a ban", || world.redis(&format!("EXISTS {ban}")) == Reply::Number(1));
    world.wait_out("2001:db8:0:5::abcd");
    eventually("it is told", || world.lines("banned").len() == 1);
    let told = world.lines("banned");
    assert!(told[0].has("address", "2001:db8:0:5::/64") && told[0].has("count", "1"), "{told:?}");
    let keys = world.redis("DBSIZE");
    // The set, the history, the count, the ban.
    assert_eq!(number(&keys), 4, "keys for addresses of one /64");
    assert!(world.gate.program.log().len() < 100, "lines: {}", world.gate.program.log().len());
    world.wait_in(PEER6);

    let url = super::world::url(&world.redis);
    let gate = |args: &[&str]| {
        let output = world.stage.net.at_gate(|| {
            Command::new(binary()).arg("gate").args(args).args(["--gate", &url]).output().unwrap()
        });
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(gate(&["list"]).contains("2001:db8:0:5::/64"));
    assert!(gate(&["why", "2001:db8:0:5::99"]).contains(&ban));
    assert!(gate(&["unban", "2001:db8:0:5::99"]).contains(&ban));
    world.wait_in("2001:db8:0:5::abcd");
}

/// Many /64s of one network: a ban for each, and few lines that add up.
#[test]
fn bans_of_many_sources_are_few_lines_that_add_up() {
    let args = ["--ban-after", "1/30d/5m", "-o", "200ms"];
    let world = World::new(&args);
    world.stage.net.own("2001:db8:5::/48");
    world.redis(&format!("SADD ip-allowed 2001:db8:5::/48 {PEER6}"));
    world.wait_in(PEER6);
    fail_from(&world, (1..=300).map(|n| format!("2001:db8:5:{n:x}::1")));
    let bans = || match world.redis(&format!("SCAN 0 MATCH {BAN}:* COUNT 100000")) {
        Reply::Array(found) => match found.last() {
            Some(Reply::Array(keys)) => keys.len(),
            _ => 0,
        },
        _ => 0,
    };
    eventually("all are banned", || bans() == 300);
    let World { mut gate, peers, .. } = world;
    drop(peers);
    gate.stop();
    let lines: Vec<_> = gate.program.log().into_iter().filter(|line| line.is("banned")).collect();
    let count: u64 = lines.iter().filter_map(|line| line.number("count")).sum();
    assert!(lines.len() < 10, "{} lines", lines.len());
    assert_eq!(count, 300, "{lines:?}");
}
