//! Redis that answers, and cannot do what it should: logged once, and decisions go on by the
//! policy.

use std::time::Instant;

use super::guarded::{BANNED, Guarded, finish, wait_read};
use super::notes::try_to_strike;
use super::world::{AWAY, BAN, OTHER, PEER, READ, SOON, Stage, entrance, expect_end, now_s};
use testkit::eventually;
use testkit::redis::{Redis, Reply};
use testkit::target::{Target, echo};

/// A restart with much to load: every policy holds until that is done.
#[test]
fn a_server_that_is_loading_is_away() {
    // Slow, until the test ends it.
    let slow = ["--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"];
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let mut redis = stage.net.at_gate(|| Redis::start_with(&slow));
    redis.ask("DEBUG POPULATE 10000 x 100");
    redis.ask(&format!("SADD ip-allowed {PEER} {BANNED}"));
    redis.ask(&format!("SETEX {BAN}:{BANNED} 1000 1"));
    redis.ask("SAVE");
    let mut all: Vec<Guarded> = ["closed", "open", "stale:1h"]
        .map(|policy| Guarded::start(&stage, &redis.url(), &target, policy))
        .into();
    let knockers: Vec<_> = all.iter().flat_map(|each| each.knockers(&stage)).collect();
    redis.kill();
    stage.net.at_gate(|| redis.revive());
    all.iter_mut().for_each(|each| each.expect_away(&stage, 1));
    // One that starts meanwhile says why.
    let newcomer = stage.decrypt(target.addr(), &["--gate", &redis.url()]);
    let away = newcomer.program.wait_line(AWAY, |line| line.is(AWAY));
    assert!(away.field("why").unwrap().contains("LOADING"), "{away:?}");
    let reply = redis.direct().ask(&["PING"]);
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with("LOADING")), "{reply:?}");

    redis.ask("CONFIG SET key-load-delay 0");
    eventually("it is loaded", || redis.direct().ask(&["PING"]) == Reply::Simple("PONG".into()));
    let began = Instant::now();
    wait_read(&all, 1);
    println!("loaded: fresh after {:?}", began.elapsed());
    assert!(began.elapsed() < SOON);
    newcomer.program.wait_line(READ, |line| line.is(READ));
    finish("loading", knockers);
    all.iter_mut().for_each(|each| each.expect_back(&stage, 1));
}

/// A key of another type in place of the set, and a set that is full of nonsense.
#[test]
fn nonsense_is_no_set() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let redis = stage.redis();
    redis.ask(&format!("SADD ip-allowed {PEER} {BANNED}"));
    redis.ask(&format!("SETEX {BAN}:{BANNED} 1000 1"));
    let mut all: Vec<Guarded> = ["closed", "open", "stale:1h"]
        .map(|policy| Guarded::start(&stage, &redis.url(), &target, policy))
        .into();
    let knockers: Vec<_> = all.iter().flat_map(|each| each.knockers(&stage)).collect();
    redis.ask("COPY ip-allowed good");
    redis.ask("SET ip-allowed nonsense");
    all.iter_mut().for_each(|each| each.expect_away(&stage, 1));
    let began = Instant::now();
    redis.ask("RENAME good ip-allowed");
    wait_read(&all, 1);
    println!("nonsense: over after {:?}", began.elapsed());
    assert!(began.elapsed() < SOON);
    // Members, bans and a history that name no address count for nothing.
    redis.ask("SADD ip-allowed hello 999.1.1.1 203.0.113.8:80 0.0.0.0/40 * -");
    redis.ask(&format!("SETEX {BAN}:{PEER}:80 1000 1"));
    redis.ask("HSET ip-history hello world");
    finish("nonsense", knockers);
    all.iter_mut().for_each(|each| each.expect_back(&stage, 1));
}

/// A master that becomes a replica is read on, and its master is written to.
#[test]
fn a_master_becomes_a_replica() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let (first, mut second) = stage.net.at_gate(|| {
        let first = Redis::start();
        let second = first.replica(&[]);
        (first, second)
    });
    first.ask(&format!("SADD ip-allowed {PEER}"));
    let args = ["--ban-after", "3/1h/5m", "-o", "1s", "--gate-failure", "closed"];
    let mut gate = Guarded::with(&stage, &first.url(), &target, &args);
    let knocker = gate.knocker(&stage, BANNED);
    first.wait_for_replica();
    second.ask("REPLICAOF NO ONE");
    first.follow(&second);
    first.wait_copied();

    second.ask(&format!("SADD ip-allowed {OTHER}"));
    let mut live = gate.live_soon(&stage, OTHER);
    let seen = format!("HEXISTS ip-history {OTHER}");
    eventually("the history is its master's", || second.ask(&seen) == Reply::Number(1));
    eventually("there is time left in this hour", || now_s() % 3_600 < 3_570);
    let ban = format!("EXISTS {BAN}:{OTHER}");
    eventually("so is the ban", || {
        try_to_strike(&stage, &[OTHER; 3].map(String::from), &entrance(&gate.gate, OTHER));
        second.ask(&ban) == Reply::Number(1)
    });
    expect_end(&mut live);
    gate.live.expect_echo(b"undisturbed");
    // While it fetched its copy it was out of step, which may have been seen.
    let absences = gate.count(AWAY);
    assert!(absences <= 1, "{}", gate.gate.program.tail());
    gate.expect_told(absences);

    // Without its master it is not a valid store.
    second.kill();
    eventually("it is noticed", || gate.count(AWAY) == absences + 1);
    assert!(!gate.gets_in(&stage, PEER));
    gate.live.expect_echo(b"who is in stays in");
    first.ask("REPLICAOF NO ONE");
    eventually("it is read again", || gate.count(READ) == absences + 2);
    assert!(gate.gets_in(&stage, PEER) && !gate.gets_in(&stage, OTHER));
    first.ask(&format!("DEL {BAN}:{OTHER}"));
    gate.live_soon(&stage, OTHER);
    first.ask(&format!("SADD ip-allowed {LAST}"));
    gate.live_soon(&stage, LAST);
    let seen = format!("HEXISTS ip-history {LAST}");
    eventually("the history is its own again", || first.ask(&seen) == Reply::Number(1));
    gate.expect_told(absences + 1);
    finish("a replica", vec![knocker]);
}

const LAST: &str = "203.0.113.9";
