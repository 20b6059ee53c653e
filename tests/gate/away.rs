//! Redis that stops, dies and comes back: each policy does what it says, and connected clients stay
//! connected.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::guarded::{BANNED, CLOSED, Guarded, finish, wait_read};
use super::notes::{UNWRITTEN, WRITTEN};
use super::world::{AWAY, BAN, OTHER, PEER, SOON, Stage, ask, entrance, expect_end, url};
use testkit::eventually;
use testkit::redis::Reply;
use testkit::target::{Target, echo};
use testkit::wait::poll;

/// "Redis stopped for 30 s".
const LONG: Duration = Duration::from_secs(30);

#[test]
fn each_policy_does_what_it_says() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let mut redis = stage.redis();
    ask(&mut redis.direct(), &format!("SADD ip-allowed {PEER} {BANNED}"));
    ask(&mut redis.direct(), &format!("SETEX {BAN}:{BANNED} 1000 1"));
    let mut all: Vec<Guarded> = ["closed", "open", "stale:1h"]
        .map(|policy| Guarded::start(&stage, &url(&redis), &target, policy))
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

    // Unsaved members would count as removed; that is another test.
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

/// A removal while the connection to Redis is lost pushes nothing; it is found afterwards.
#[test]
fn an_unannounced_removal_is_found() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let mut redis = stage.redis();
    ask(&mut redis.direct(), &format!("SADD ip-allowed {PEER}"));
    let mut guarded = Guarded::start(&stage, &url(&redis), &target, "stale:1h");
    redis.kill();
    eventually("it is noticed", || guarded.count(AWAY) == 1);
    guarded.live.expect_echo(b"who is in stays in");
    // Nothing was saved.
    stage.net.at_gate(|| redis.revive());
    expect_end(&mut guarded.live);
    stage.net.expect_denied(PEER, &entrance(&guarded.gate, PEER));
}

/// `stale` ends, and a gate that never saw the store has no last known state.
#[test]
fn what_is_too_stale_is_closed() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let mut redis = stage.redis();
    ask(&mut redis.direct(), &format!("SADD ip-allowed {PEER}"));
    let mut guarded = Guarded::start(&stage, &url(&redis), &target, "stale:3s");
    redis.kill();
    eventually("it is noticed", || guarded.count(AWAY) == 1);
    assert!(!stage.net.is_denied(PEER, &entrance(&guarded.gate, PEER)));
    eventually("it is too old", || guarded.count(CLOSED) == 1);
    stage.net.expect_denied(PEER, &entrance(&guarded.gate, PEER));
    guarded.live.expect_echo(b"who is in stays in");

    for (policy, denied) in [("closed", true), ("stale:1h", true), ("open", false)] {
        let args = ["--gate", &url(&redis), "--gate-failure", policy];
        let gate = stage.decrypt(target.addr(), &args);
        gate.program.wait_line(AWAY, |line| line.is(AWAY));
        assert_eq!(stage.net.is_denied(PEER, &entrance(&gate, PEER)), denied, "{policy}");
    }
}

/// "Redis stopped for 30 s (SIGSTOP): each policy does what it says, recovery within
/// 2 s, no connection admitted that the policy forbids".
#[test]
fn half_a_minute_of_silence() {
    let stage = Stage::new();
    let target = Target::serve(&stage.target(), echo);
    let redis = stage.redis();
    redis.ask(&format!("SADD ip-allowed {PEER} {BANNED}"));
    redis.ask(&format!("SETEX {BAN}:{BANNED} 1000 1"));
    let mut all: Vec<Guarded> = ["closed", "open", "stale:1h", "stale:15s"]
        .map(|policy| Guarded::start(&stage, &url(&redis), &target, policy))
        .into();
    let mut late = redis.direct();

    redis.signal(Signal::SIGSTOP);
    let began = Instant::now();
    // These commands wait in its socket, and no process knows of them.
    late.send(&["SREM", "ip-allowed", PEER]);
    late.send(&["SADD", "ip-allowed", OTHER]);
    eventually("all have noticed", || all.iter().all(|each| each.count(AWAY) == 1));
    println!("silence: noticed after {:?}", began.elapsed());
    let knockers: Vec<_> = all.iter().flat_map(|each| each.knockers(&stage)).collect();
    all[..3].iter_mut().for_each(|each| each.expect_away(&stage, 1));
    let (mut visits, mut slowest) = (0, Duration::ZERO);
    while began.elapsed() < LONG || all[2].count(UNWRITTEN) == 0 {
        for each in &mut all {
            slowest = slowest.max(visit(each, &stage));
            visits += 1;
        }
        poll(Duration::from_millis(100), || None::<()>);
        assert!(began.elapsed() < LONG * 3, "no line told that the history cannot be written");
    }
    println!("silence: {visits} visits, the slowest {slowest:?}");
    assert!(slowest < SOON, "a client had to wait for {slowest:?}");
    finish("silence", knockers);
    for each in &mut all {
        each.live.expect_echo(b"half a minute later");
    }

    redis.signal(Signal::SIGCONT);
    let began = Instant::now();
    wait_read(&all, 1);
    println!("silence: over after {:?}", began.elapsed());
    for each in &mut all {
        // What was written meanwhile counts at once.
        expect_end(&mut each.live);
        each.live_soon(&stage, OTHER).expect_echo(b"allowed meanwhile");
        assert!(each.is_denied(&stage, PEER) && each.is_denied(&stage, BANNED));
        each.expect_told(1);
        assert!(each.count(UNWRITTEN) <= 1, "{}", each.gate.program.tail());
    }
    println!("silence: all that was written meanwhile counts after {:?}", began.elapsed());
    assert!(began.elapsed() < SOON * 2);
    assert_eq!(all[3].count(CLOSED), 1);
    eventually("it is written again", || all[2].count(WRITTEN) == 1);
    let seen = format!("HEXISTS ip-history {OTHER}");
    eventually("the history goes on", || redis.ask(&seen) == Reply::Number(1));
}

/// Waits until a peer of the allow-set is admitted, or denied; returns the time that it took.
#[track_caller]
fn visit(each: &mut Guarded, stage: &Stage) -> Duration {
    let was_over = each.count(CLOSED) == 1;
    let began = Instant::now();
    let is_in = each.gets_in(stage, PEER);
    let took = began.elapsed();
    if was_over {
        assert!(!is_in, "{}", each.policy);
    } else if !is_in {
        // Only because it is over by now, which the log may be about to say.
        eventually("the last known state is too old", || each.count(CLOSED) == 1);
    }
    took
}
