//! Admission by the entries that redis-knocking and Rack::Attack write.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use super::world::{
    BAN, OTHER, PEER, PEER6, READ, Stage, World, ask, entrance, expect_end, now_s, number, url,
};
use testkit::redis::{Redis, Reply, replica_of};
use testkit::target::echo;
use testkit::{Addr, End, Ending, Launch, NEVER, Target, Wire, eventually, wait::poll};

/// Membership in the set decides, also for IPv6, and for IPv4 in other spellings.
#[test]
fn the_set_decides() {
    let world = World::new(&[]);
    for peer in [PEER, PEER6] {
        assert_eq!(world.expect_denied(peer), Ending::Clean);
        world.redis(&format!("SADD ip-allowed {peer}"));
        world.wait_in(peer);
        world.redis(&format!("SREM ip-allowed {peer}"));
        world.wait_out(peer);
    }
    // The listener is one of IPv6, so the kernel shows IPv4 peers as mapped.
    world.redis(&format!("SADD ip-allowed ::ffff:{PEER} {}", PEER6.to_uppercase()));
    world.wait_in(PEER);
    world.wait_in(PEER6);
    world.expect_denied(OTHER);
    world.gate.program.wait_line("closed, with the peer's address", |line| {
        let peer = line.field("peer").unwrap_or_default();
        line.is("closed") && line.has("reason", "finished") && peer.starts_with(PEER)
    });
}

#[test]
fn networks_are_members_too() {
    let world = World::new(&[]);
    world.redis("SADD ip-allowed 203.0.113.0/29 2001:db8:0:1::/64");
    world.wait_in(PEER);
    world.wait_in(PEER6);
    world.expect_denied(OTHER);
    world.expect_denied("2001:db8:0:1:1::9");
    world.redis("SREM ip-allowed 203.0.113.0/29 2001:db8:0:1::/64");
    world.wait_out(PEER);
    world.wait_out(PEER6);
}

/// Flags name the set, the history and the prefix of bans. The default names count for nothing
/// then.
#[test]
fn the_names_of_keys_are_the_operators() {
    let world = World::new(&[
        "--set",
        "app:in",
        "--history",
        "app:seen",
        "--ban-prefix",
        "app:ban",
        "--allow-prefix",
        "app:ok",
    ]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    world.redis(&format!("SADD app:in {OTHER}"));
    world.redis(&format!("SETEX {BAN}:{OTHER} 100 1"));
    world.wait_in(OTHER);
    world.expect_denied(PEER);
    eventually("the history is written", || {
        world.redis("HEXISTS app:seen 203.0.113.8") == Reply::Number(1)
    });
    assert_eq!(world.redis("EXISTS ip-history"), Reply::Number(0));
    world.redis(&format!("SETEX app:ban:{OTHER} 100 1"));
    world.wait_out(OTHER);
    // A key with an end lets in until then.
    world.redis(&format!("SET app:ok:{PEER} anything EX 2"));
    world.wait_in(PEER);
    world.wait_out(PEER);
    world.redis(&format!("SET app:ok:{PEER6} anything"));
    world.wait_in(PEER6);
}

/// The history has an address's last connection in unix seconds, written at most once in ten
/// seconds.
#[test]
fn history_is_written_once_in_ten_seconds() {
    let world = World::new(&["--internal", "allow"]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    world.wait_in(PEER);
    let seen = poll(NEVER, || match world.redis(&format!("HGET ip-history {PEER}")) {
        Reply::Nil => None,
        seen => Some(number(&seen)),
    });
    let seen = seen.expect("the history is written");
    assert!(now_s().abs_diff(u64::try_from(seen).unwrap()) <= 5, "{seen} is not now");
    let began = Instant::now();
    eventually("the history is written again", || {
        assert!(world.gets_in(PEER));
        writes(&world) > 1
    });
    let after = began.elapsed();
    assert!(after > Duration::from_secs(8), "again after {after:?}");
    assert_eq!(writes(&world), 2);
    assert_ne!(number(&world.redis(&format!("HGET ip-history {PEER}"))), seen);
    // The history has no internal address.
    assert!(world.gets_in("10.1.2.3"));
    assert_eq!(world.redis("HLEN ip-history"), Reply::Number(1));
}

/// HSET commands that Redis has executed.
fn writes(world: &World) -> u64 {
    let stats = world.redis("INFO commandstats").text();
    let calls = stats.split("cmdstat_hset:calls=").nth(1).and_then(|rest| rest.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// "With `--gate`, the decrypt end serves only addresses that the Redis set `ip-allowed` names": no
/// private address and no loopback either, by an empty set or while the store is down.
#[test]
fn the_decrypt_end_serves_only_addresses_that_the_set_names() {
    // An admitted connection is waited for, for an hour.
    let world = World::new(&["-o", "3600s"]);
    let all = ["10.1.2.3", "172.16.0.1", "192.168.7.7", "fd00:77::7", PEER];
    let denied = |gate: &End, sources: &[&str]| {
        for source in sources {
            world.stage.net.expect_denied(source, &entrance(gate, source));
        }
        let local = Addr::Tcp(([127, 0, 0, 1], gate.addr().tcp().port()).into());
        world.stage.net.at_gate(|| Wire::connect(&local).unwrap().expect_ending());
    };
    denied(&world.gate, &all);
    assert_eq!(world.target.counts().accepts(), 0);
    world.redis("SADD ip-allowed 10.1.2.3");
    world.wait_in("10.1.2.3");
    denied(&world.gate, &all[1..]);
    // Nothing listens there.
    for policy in ["closed", "stale:5m"] {
        let flags = ["--gate", "redis://127.0.0.1:1", "--gate-failure", policy, "-o", "3600s"];
        denied(&world.stage.decrypt(world.target.addr(), &flags), &all);
    }
}

/// With `--internal allow` internal addresses are admitted without any Redis, and only those.
#[test]
fn internal_addresses_need_no_redis() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let internal = ["10.1.2.3", "172.16.0.1", "172.31.255.1", "192.168.7.7", "fd00:77::7"];
    // Nothing listens there.
    let redis = ["--gate", "redis://127.0.0.1:1", "--internal", "allow"];
    let gate = stage.decrypt(target.addr(), &redis);
    for source in internal {
        let encrypt = stage.encrypt(source, &entrance(&gate, source));
        encrypt.connect().expect_echo(b"internal");
    }
    for source in ["172.32.0.1", "100.64.0.1", "169.254.1.1", PEER, PEER6] {
        stage.net.expect_denied(source, &entrance(&gate, source));
    }
    let told = |line: &testkit::Line| line.message().starts_with("internal address admitted");
    assert_eq!(gate.program.log().iter().filter(|line| told(line)).count(), 1);
    // The machine itself.
    let local = Addr::Tcp(([127, 0, 0, 1], gate.addr().tcp().port()).into());
    let launch = Launch::encrypt(&stage.key)
        .source(&Addr::Unix(stage.dir.path().join("local.sock")))
        .target(&local);
    let encrypt = stage.net.at_gate(|| launch.start());
    encrypt.connect().expect_echo(b"local");

    let check = ["--gate", "redis://127.0.0.1:1", "--internal", "check"];
    let checked = stage.decrypt(target.addr(), &check);
    for source in internal {
        stage.net.expect_denied(source, &entrance(&checked, source));
    }
}

/// A sorted set is an allow-set in which each member has an end.
#[test]
fn a_sorted_set_lets_in_until_the_score() {
    let world = World::new(&[]);
    let soon = now_s() + 3;
    world.redis(&format!("ZADD ip-allowed {soon} {PEER} {} {OTHER}", now_s() + 1_000));
    let mut live = world.live_soon(PEER);
    world.wait_in(OTHER);
    expect_end(&mut live);
    assert!(now_s() >= soon, "it ended before its time");
    world.wait_out(PEER);
    world.redis(&format!("ZADD ip-allowed {} {OTHER}", now_s() - 1));
    world.wait_out(OTHER);
}

/// A key bans, with any value, until its end.
#[test]
fn a_ban_refuses_until_it_ends() {
    let world =
        World::new(&["--allow", "203.0.113.9", "--deny", "203.0.113.66/31", "--internal", "allow"]);
    world.redis(&format!("SADD ip-allowed {PEER} {PEER6} 203.0.113.66"));
    world.wait_in(PEER);
    world.wait_in(PEER6);
    world.redis(&format!("SETEX {BAN}:{PEER} 86400 1"));
    world.redis(&format!("SET {BAN}:{PEER6} 0"));
    world.wait_out(PEER);
    world.wait_out(PEER6);
    world.redis(&format!("DEL {BAN}:{PEER6}"));
    world.wait_in(PEER6);
    let began = Instant::now();
    world.redis(&format!("SETEX {BAN}:{PEER} 2 1"));
    world.wait_in(PEER);
    let after = began.elapsed();
    assert!(after > Duration::from_millis(1_500), "let in again after {after:?}");
    // Internal addresses can be banned too.
    assert!(world.gets_in("10.1.2.3"));
    world.redis(&format!("SETEX {BAN}:10.1.2.3 100 1"));
    world.wait_out("10.1.2.3");
    // The operator's own flags take precedence over the store.
    world.redis(&format!("SETEX {BAN}:203.0.113.9 100 1"));
    world.wait_in("203.0.113.9");
    world.expect_denied("203.0.113.66");
    world.expect_denied("203.0.113.67");
}

/// A key of another type in place of the set (WRONGTYPE) makes the store unusable.
#[test]
fn a_key_of_the_wrong_type_is_a_store_away() {
    let world = World::new(&[]);
    world.redis(&format!("SADD ip-allowed {PEER}"));
    let mut live = world.live_soon(PEER);
    world.redis("SET ip-allowed nonsense");
    let away = world.gate.program.wait_line("away", |line| line.is("gate store unavailable"));
    let why = away.field("why").unwrap_or_default();
    assert!(why.contains("WRONGTYPE") || why.contains("ip-allowed"), "{why}");
    world.wait_out(PEER);
    live.expect_echo(b"still here");
    world.redis("DEL ip-allowed");
    world.redis(&format!("SADD ip-allowed {PEER}"));
    world.wait_in(PEER);
    eventually("the log tells that it is back", || world.lines(READ).len() == 2);
    assert_eq!(world.lines("gate store unavailable").len(), 1);
}

#[test]
fn garbage_members_count_for_nothing() {
    let world = World::new(&[]);
    world.redis("SADD ip-allowed hello 203.0.113.7:80 [::1] 999.1.1.1 0x7f.1 1.2.3.4/40 * -");
    world.redis(&format!("SETEX {BAN}:nobody 100 1"));
    world.redis(&format!("SADD ip-allowed {OTHER}"));
    world.wait_in(OTHER);
    world.expect_denied(PEER);
    assert_eq!(world.lines("gate store unavailable").len(), 0);
}

/// A lost connection is made again, with the password: the gate is without its store for a moment
/// only.
#[test]
fn a_password_is_said_again_after_a_cut() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let redis = stage.net.at_gate(|| Redis::start_with(&["--requirepass", "open sesame"]));
    let mut direct = redis.direct();
    direct.ask(&["AUTH", "open sesame"]);
    ask(&mut direct, &format!("SADD ip-allowed {PEER}"));
    let file = stage.dir.path().join("credentials");
    std::fs::write(&file, "open sesame\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let args = ["--gate", &url(&redis), "--gate-credentials", file.to_str().unwrap()];
    let gate = stage.decrypt(target.addr(), &args);
    let end = stage.encrypt(PEER, &entrance(&gate, PEER));
    let gets_in = || end.connect().echoes(b"may I?", NEVER);
    eventually("the peer is let in", gets_in);
    let mut live = end.connect();
    live.expect_echo(b"live");
    let read = || gate.program.log().iter().filter(|line| line.is(READ)).count();
    for cut in ["CLIENT KILL TYPE normal", "CLIENT KILL TYPE pubsub"] {
        ask(&mut direct, &format!("{cut} SKIPME yes"));
    }
    eventually("it is read again", || read() >= 2);
    live.expect_echo(b"never left");
    assert!(gets_in());
    ask(&mut direct, &format!("SREM ip-allowed {PEER}"));
    expect_end(&mut live);
}

/// A replica is read for admissions, and writes go to its master.
#[test]
fn a_replica_decides_and_its_master_is_written_to() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let primary = stage.redis();
    let of = replica_of(primary.tcp());
    let of: Vec<&str> = of.iter().map(String::as_str).collect();
    let replica = stage.net.at_gate(|| Redis::start_with(&of));
    ask(&mut primary.direct(), &format!("SADD ip-allowed {PEER}"));
    let gate = stage.decrypt(target.addr(), &["--gate", &url(&replica)]);
    let end = stage.encrypt(PEER, &entrance(&gate, PEER));
    eventually("the peer is let in", || end.connect().echoes(b"may I?", NEVER));
    let history = format!("HEXISTS ip-history {PEER}");
    eventually("the history is written", || {
        ask(&mut primary.direct(), &history) == Reply::Number(1)
    });
    let mut live = end.connect();
    live.expect_echo(b"live");
    ask(&mut primary.direct(), "DEL ip-allowed");
    expect_end(&mut live);
}
