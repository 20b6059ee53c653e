//! Several targets, and several far ends: the first that works is used.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::address::{deaf, deafen, refusing};
use testkit::redis::{Redis, Reply, Resp};
use testkit::{Addr, End, Launch, Line, NEVER, Pair, PairOptions, Target, any, eventually, keygen};

const DOWN: &str = "target is down";
const UP: &str = "target is up again";

/// Starts a pair in front of `targets`, in this order.
fn pair(targets: &[&Addr], decrypt: &[&str]) -> Pair {
    let mut options = PairOptions::default().decrypt(decrypt);
    for target in &targets[1..] {
        options = options.decrypt(&["-t", &target.to_string()]);
    }
    Pair::start(options, targets[0])
}

/// Returns the port of the Redis that a client gets, and the time that it took.
fn answering_target(pair: &Pair) -> (String, Duration) {
    let begin = Instant::now();
    let mut client = Resp::connect(pair.entrance());
    let answer = client.ask(&["CONFIG", "GET", "port"]);
    let Reply::Array(parts) = answer else { panic!("{answer:?}") };
    (parts[1].text(), begin.elapsed())
}

fn port(redis: &Redis) -> String {
    redis.tcp().tcp().port().to_string()
}

fn is_about(line: &Line, message: &str, target: &str) -> bool {
    line.is(message) && line.has("target", target)
}

// === targets ===

/// The first is used as long as it is there; when it is killed, the connection that finds out goes
/// to the second, and so do those that follow; when it is back it is used again. Each change is one
/// line, and `closed` names the one that was used.
#[test]
fn a_target_that_is_killed_is_replaced_and_used_again_when_it_is_back() {
    let (mut first, second) = (Redis::start(), Redis::start());
    let pair = pair(&[first.tcp(), second.tcp()], &[]);
    assert_eq!(answering_target(&pair).0, port(&first));
    assert_eq!(pair.decrypt.count(DOWN), 0);

    first.kill();
    for round in 0..20 {
        assert_eq!(answering_target(&pair).0, port(&second), "round {round}");
    }
    let log = &pair.decrypt.program;
    let line = log.wait_line(DOWN, |line| is_about(line, DOWN, &first.name()));
    assert!(line.has("using", &second.name()), "{}", line.text());
    assert!(line.field("error").unwrap().contains("nothing listens"), "{}", line.text());

    first.revive();
    let line = log.wait_line(UP, |line| is_about(line, UP, &first.name()));
    assert!(line.has("using", &first.name()), "{}", line.text());
    assert_eq!(answering_target(&pair).0, port(&first));
    assert_eq!((pair.decrypt.count(DOWN), pair.decrypt.count(UP)), (1, 1), "{}", log.tail());

    eventually("all sessions have ended", || pair.decrypt.closed().len() == 22);
    let of = |redis: &Redis| {
        let closed = pair.decrypt.closed();
        closed.iter().filter(|line| line.has("target", &redis.name())).count()
    };
    assert_eq!((of(&first), of(&second)), (2, 20));
    pair.stop();
}

/// The connection that tests for the first one's return is not seen by it.
#[test]
fn a_target_that_comes_back_sees_clients_only() {
    let (mut first, second) = (Redis::start(), Redis::start());
    let pair = pair(&[first.tcp(), second.tcp()], &[]);
    first.kill();
    assert_eq!(answering_target(&pair).0, port(&second));
    first.revive();
    let received = |redis: &Redis| -> u64 {
        redis.info("total_connections_received").unwrap().parse().unwrap()
    };
    let before = received(&first);
    pair.decrypt.program.wait_line(UP, |line| is_about(line, UP, &first.name()));
    // The question counts as well.
    assert_eq!(received(&first), before + 1);
}

/// A target that swallows packets costs a part of the deadline and not all of it, and only the
/// connections that come before that is known.
#[test]
fn a_target_that_swallows_packets_does_not_eat_the_deadline() {
    let (hole, _held) = deaf();
    let second = Redis::start();
    let pair = pair(&[&hole, second.tcp()], &["-o", "6s"]);
    let (answered_by, took) = answering_target(&pair);
    assert_eq!(answered_by, port(&second));
    assert!(took >= Duration::from_secs(2), "the first has a head start: {took:?}");
    pair.decrypt.program.wait_line(DOWN, |line| is_about(line, DOWN, &hole.to_string()));
    for _ in 0..5 {
        assert_eq!(answering_target(&pair).0, port(&second));
    }
    assert_eq!(pair.decrypt.count(DOWN), 1);
}

/// Its part of this deadline would be longer than any wait here.
#[test]
fn a_target_that_is_known_to_be_down_is_not_waited_for() {
    let deadline = format!("{}s", (NEVER * 10).as_secs());
    let (hole, held) = refusing();
    let second = Redis::start();
    let pair = pair(&[&hole, second.tcp()], &["-o", &deadline]);
    assert_eq!(answering_target(&pair).0, port(&second));
    pair.decrypt.program.wait_line(DOWN, |line| is_about(line, DOWN, &hole.to_string()));
    let _held = deafen(held);
    for _ in 0..5 {
        assert_eq!(answering_target(&pair).0, port(&second));
    }
    assert_eq!(pair.decrypt.count(DOWN), 1);
}

/// With a check, a target that is stopped and accepts only by its kernel is replaced too, and used
/// again when it goes on.
#[test]
fn a_target_that_hangs_is_replaced_where_it_is_checked() {
    let (first, second) = (Redis::start(), Redis::start());
    let pair = pair(&[first.tcp(), second.tcp()], &["--check", "redis/1s", "-o", "2s"]);
    assert_eq!(answering_target(&pair).0, port(&first));
    first.signal(Signal::SIGSTOP);
    let log = &pair.decrypt.program;
    let line = log.wait_line(DOWN, |line| is_about(line, DOWN, &first.name()));
    assert!(line.field("error").unwrap().contains("did not answer"), "{}", line.text());
    for _ in 0..5 {
        assert_eq!(answering_target(&pair).0, port(&second));
    }
    first.signal(Signal::SIGCONT);
    log.wait_line(UP, |line| is_about(line, UP, &first.name()));
    assert_eq!(answering_target(&pair).0, port(&first));
}

/// If all are down all are tried, and the line of the connection names each.
#[test]
fn when_all_are_down_all_are_tried() {
    let ((one, _one), (two, held)) = (refusing(), refusing());
    let pair = pair(&[&one, &two], &["-o", "2s"]);
    for round in 1..4 {
        drop(pair.connect().read_to_ending(NEVER));
        eventually("it is told", || pair.decrypt.closed().len() == round);
        let closed = pair.decrypt.closed();
        let line = closed.last().unwrap();
        assert!(line.has("reason", "target-refused"), "{}", line.text());
        let detail = line.field("detail").unwrap();
        assert!(detail.contains(&format!("{one}: ")) && detail.contains(&format!("{two}: ")));
    }
    assert_eq!(pair.decrypt.count(DOWN), 2, "one line for each, whatever follows");
    // No check has told it that this one is back, and it is tried all the same.
    drop(held);
    let target = Target::serve(&two, testkit::target::echo);
    pair.connect().expect_echo(b"back");
    drop(target);
}

/// Each service has its own targets.
#[test]
fn a_service_falls_over_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let ((gone, _held), echo, other) = (refusing(), Target::echo(), Target::echo());
    let decrypt = Launch::decrypt(&key)
        .source(&any())
        .args(["-t", &format!("a={gone}"), "-t", &format!("b={}", other.addr())])
        .args(["-t", &format!("a={}", echo.addr())])
        .start();
    for (service, target) in [("a", &echo), ("b", &other)] {
        let encrypt = encrypt(&key, &[decrypt.addr()], &["--service", service]);
        encrypt.connect().expect_echo(b"hello");
        let line = decrypt
            .program
            .wait_line("closed", |line| line.is("closed") && line.has("service", service));
        assert!(line.has("target", &target.addr().to_string()), "{}", line.text());
    }
    assert_eq!(decrypt.count(DOWN), 1);
}

// === far ends ===

/// Two decrypt ends with one key, each in front of an echo of its own.
struct Two {
    ends: [End; 2],
    targets: [Target; 2],
    key: PathBuf,
    _dir: TempDir,
}

impl Two {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = keygen(dir.path(), "key");
        let targets = [Target::echo(), Target::echo()];
        let end = |i: usize| decrypt(&key, &any(), targets[i].addr());
        Self { ends: [end(0), end(1)], targets, key, _dir: dir }
    }

    fn encrypt(&self, args: &[&str]) -> End {
        encrypt(&self.key, &[self.ends[0].addr(), self.ends[1].addr()], args)
    }

    /// Returns the target that a client of `encrypt` reaches.
    fn reached(&self, encrypt: &End) -> usize {
        let before = self.targets.each_ref().map(|target| target.counts().accepts());
        encrypt.connect().expect_echo(b"where am I?");
        let reached = (0..2).find(|&i| self.targets[i].counts().accepts() > before[i]);
        reached.expect("one of them was reached")
    }
}

fn decrypt(key: &Path, at: &Addr, target: &Addr) -> End {
    let args = ["-o", "3s", "--log-level", "debug"];
    Launch::decrypt(key).source(at).target(target).args(args).start()
}

fn encrypt(key: &Path, to: &[&Addr], args: &[&str]) -> End {
    let launch = to.iter().fold(Launch::encrypt(key), |launch, to| launch.target(to));
    launch.source(&any()).args(args).start()
}

#[test]
fn a_far_end_that_is_killed_is_replaced_and_used_again_when_it_is_back() {
    let mut two = Two::start();
    let encrypt = two.encrypt(&["-o", "3s"]);
    assert_eq!(two.reached(&encrypt), 0);
    let first = two.ends[0].addr().clone();
    two.ends[0].program.signal(Signal::SIGKILL);
    two.ends[0].program.wait();
    for _ in 0..5 {
        assert_eq!(two.reached(&encrypt), 1);
    }
    let name = first.to_string();
    encrypt.program.wait_line(DOWN, |line| is_about(line, DOWN, &name));
    two.ends[0] = decrypt(&two.key, &first, two.targets[0].addr());
    encrypt.program.wait_line(UP, |line| is_about(line, UP, &name));
    assert_eq!(two.reached(&encrypt), 0);
    assert_eq!((encrypt.count(DOWN), encrypt.count(UP)), (1, 1), "{}", encrypt.program.tail());
    let second = two.ends[1].addr().to_string();
    eventually("closed names the far end", || {
        let of = |name: &str| encrypt.closed().iter().filter(|l| l.has("target", name)).count();
        (of(&name), of(&second)) == (2, 5)
    });
}

/// A far end that accepts and does not answer the handshake is replaced too.
#[test]
fn a_far_end_that_hangs_is_replaced() {
    let two = Two::start();
    let encrypt = two.encrypt(&["-o", "3s"]);
    assert_eq!(two.reached(&encrypt), 0);
    two.ends[0].program.signal(Signal::SIGSTOP);
    for _ in 0..3 {
        assert_eq!(two.reached(&encrypt), 1);
    }
    let name = two.ends[0].addr().to_string();
    encrypt.program.wait_line(DOWN, |line| is_about(line, DOWN, &name));
    two.ends[0].program.signal(Signal::SIGCONT);
    encrypt.program.wait_line(UP, |line| is_about(line, UP, &name));
    assert_eq!(two.reached(&encrypt), 0);
}

/// The pool is filled from the far end that works.
#[test]
fn a_pool_follows_to_another_far_end() {
    let mut two = Two::start();
    let encrypt = two.encrypt(&["-o", "3s", "--pool", "2", "--log-level", "debug"]);
    let ready = |count: usize| {
        eventually("the pool is full", || encrypt.count("warm tunnel ready") >= count);
    };
    ready(2);
    assert_eq!(two.reached(&encrypt), 0);
    two.ends[0].program.signal(Signal::SIGKILL);
    two.ends[0].program.wait();
    let before = encrypt.count("warm tunnel ready");
    ready(before + 2);
    for _ in 0..4 {
        assert_eq!(two.reached(&encrypt), 1);
    }
}

/// Tunnels that wait at a far end that hangs are not given to clients while another far end works.
#[test]
fn a_pool_gives_out_no_tunnel_to_a_far_end_that_is_down() {
    let two = Two::start();
    let encrypt = two.encrypt(&["-o", "2s", "--pool", "4", "--log-level", "debug"]);
    let ready = |count: usize| {
        eventually("the pool is full", || encrypt.count("warm tunnel ready") >= count);
    };
    ready(4);
    two.ends[0].program.signal(Signal::SIGSTOP);
    // Takes one of them; its replacement finds out.
    let _stuck = encrypt.connect();
    encrypt.program.wait_line(DOWN, |line| line.is(DOWN));
    ready(5);
    let mut clients: Vec<_> = (0..8).map(|_| encrypt.connect()).collect();
    for client in &mut clients {
        client.expect_echo(b"where am I?");
    }
    // The tunnels that were passed over were closed, and not cut off.
    two.ends[0].program.signal(Signal::SIGCONT);
    let ended = |reason: &str| {
        let log = two.ends[0].program.log();
        let is_one = |line: &&Line| line.is("unopened tunnel ended");
        log.iter().filter(is_one).filter(|line| line.has("reason", reason)).count()
    };
    eventually("it hears of them", || ended("unopened") >= 2);
    assert_eq!(ended("truncated"), 0, "{}", two.ends[0].program.tail());
}
