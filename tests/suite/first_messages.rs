//! First messages: recordings get no answer and honest dialers do, through changes of clocks,
//! tunnels and processes.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::time::Duration;

use knockpipe::proto::SuiteSet;
use knockpipe::proto::inbound::Event;
use knockpipe::proto::message::ResetReason;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use testkit::clock::FakeClock;
use testkit::file::{Service, decrypt_table};
use testkit::hand::{Acceptor, Call};
use testkit::legit::round_trip;
use testkit::proc;
use testkit::{Addr, End, Ending, Launch, Target, Wire, eventually, keygen};

use super::reload::{KEY, Two};
use super::systemd::hand_over;

/// Shorter than any handshake deadline of these tests.
const QUIET: &[&str] = &["-o", "500ms"];

/// Returns true if a decrypt end answers a first message.
#[track_caller]
pub(super) fn is_answered(to: &Addr, call: &Call) -> bool {
    let mut wire = Wire::connect(to).unwrap();
    // Refused messages are read all the same.
    wire.send(call.message()).unwrap();
    let (answer, _) = wire.read_to_ending(Duration::from_secs(20));
    assert!(answer.is_empty() || answer.len() == call.message().len(), "{}", answer.len());
    !answer.is_empty()
}

/// Starts a decrypt end without a target, by a clock that is `ahead` seconds ahead.
fn by_a_clock(dir: &TempDir, ahead: i64) -> (FakeClock, End) {
    let key = keygen(dir.path(), "key");
    let clock = FakeClock::new(dir.path(), "clock", ahead);
    let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "/no/where"]);
    let launch = launch.args(QUIET).args(["--no-sandbox"]).prelude(&clock.prelude());
    (clock, launch.start())
}

// === clocks that are set ===

/// docs/operating/start.md: "Correcting a wrong clock helps at once".
#[test]
fn setting_a_wrong_clock_right_helps_at_once() {
    let dir = TempDir::new().unwrap();
    let (clock, mut end) = by_a_clock(&dir, 7200);
    let key = dir.path().join("key");
    assert!(!is_answered(end.addr(), &Call::new(&key)), "two hours apart");
    clock.set(0);
    assert!(is_answered(end.addr(), &Call::new(&key)));
    end.stop();
}

#[test]
fn a_clock_that_was_behind_at_the_start_lets_no_recording_of_before_in() {
    let dir = TempDir::new().unwrap();
    let (clock, mut end) = by_a_clock(&dir, -60);
    let recorded = Call::with(&dir.path().join("key"), -30, SuiteSet::BOTH);
    clock.set(0);
    assert!(!is_answered(end.addr(), &recorded));
    assert!(is_answered(end.addr(), &Call::new(&dir.path().join("key"))));
    end.stop();
}

/// The encrypt end's clock is 20 s behind, and the decrypt end has just started.
#[test]
fn a_dialer_with_a_clock_that_is_behind_is_served_right_after_a_start() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let clock = FakeClock::new(dir.path(), "clock", -20);
    let source: Addr = testkit::Kind::Tcp4.fresh(dir.path(), "in");
    let decrypt = Launch::decrypt(&key).source(&source).target(target.addr());
    let mut first = decrypt.start();
    let encrypt = Launch::encrypt(&key).source(&source).target(first.addr());
    let mut encrypt = encrypt.args(["--no-sandbox"]).prelude(&clock.prelude()).start();
    encrypt.connect().expect_echo(b"first");
    first.stop();
    let mut again = Launch::decrypt(&key).source(first.addr()).target(target.addr()).start();
    encrypt.connect().expect_echo(b"again");
    encrypt.stop();
    again.stop();
}

// === a dialer's estimate of the far end's clock ===

/// Difference below which two clocks count as the same, in seconds: a slow machine takes that long
/// between a message and its reading.
const SAME: f64 = 30.0;

/// The far end's clock is ten minutes ahead, and a host between the ends resets one connection.
#[test]
fn a_reset_connection_makes_no_dialer_forget_the_far_ends_clock() {
    let (acceptor, encrypt) = called();
    let learns = encrypt.connect();
    acceptor.hear().answer(600).0.opened();
    drop(learns);
    let reset = encrypt.connect();
    let asked = acceptor.hear();
    assert!((asked.ahead() - 600.0).abs() < SAME, "{}", asked.ahead());
    asked.reset();
    drop(reset);
    let _next = encrypt.connect();
    let asked = acceptor.hear();
    assert!((asked.ahead() - 600.0).abs() < SAME, "{}", asked.ahead());
    // The clock of the far end's host may have been set right since.
    let hedge = acceptor.hear();
    assert!(hedge.ahead().abs() < SAME, "{}", hedge.ahead());
    let (mut hand, _) = hedge.answer(0);
    hand.opened();
    encrypt.terminate();
}

/// An end that has just started takes messages from before that for recordings.
#[test]
fn a_second_guess_at_an_unknown_clock_is_a_minute_ahead() {
    let (acceptor, encrypt) = called();
    let _client = encrypt.connect();
    let asked = acceptor.hear();
    assert!(asked.ahead().abs() < SAME, "{}", asked.ahead());
    let hedge = acceptor.hear();
    assert!((hedge.ahead() - 60.0).abs() < SAME, "{}", hedge.ahead());
    // The first may be answered after all, and then closes cleanly.
    let (mut hand, _) = hedge.answer(0);
    hand.opened();
    let (mut late, first) = asked.answer(0);
    assert_eq!(first, Event::Confirmed);
    assert_eq!(late.hear(), Event::Reset(ResetReason::Unopened));
    encrypt.terminate();
}

/// Starts an encrypt end, and a far end that only does what the test tells it.
fn called() -> (Acceptor, End) {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let acceptor = Acceptor::start(&key);
    let encrypt = Launch::encrypt(&key).args(["-s", "127.0.0.1:0"]).target(&acceptor.addr());
    (acceptor, encrypt.start())
}

/// Counts the connections that an end has made to `to`.
fn connections(end: &End, to: &Addr) -> usize {
    let is_there = |socket: &&proc::TcpSocket| Addr::Tcp(socket.remote.into()) == *to;
    proc::tcp_sockets(end.pid()).iter().filter(is_there).count()
}

/// An end that knows the far end's clock has waited in the queue for longer than a second when the
/// far end starts: both of its messages are from before.
#[test]
fn a_known_clock_is_no_trouble_where_a_start_takes_long() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sealed = Addr::Tcp(listener.local_addr().unwrap());
    let decrypt = Launch::decrypt(&key).args(["-s", "systemd:sealed"]).target(target.addr());
    let start =
        || End::of(hand_over(&decrypt, "sealed", vec![listener.try_clone().unwrap().into()]));
    let encrypt = Launch::encrypt(&key).args(["-s", "127.0.0.1:0", "-o", "60s"]).target(&sealed);
    let (mut first, mut encrypt) = (start(), encrypt.start());
    encrypt.connect().expect_echo(b"first");
    first.stop();
    let mut client = encrypt.connect();
    client.send(b"early").unwrap();
    eventually("both attempts wait", || connections(&encrypt, &sealed) == 2);
    let mut again = start();
    assert_eq!(client.expect_bytes(5), b"early");
    drop(client);
    encrypt.stop();
    again.stop();
}

/// A far end that is silent at first, and then hangs up on the second attempt, has not answered;
/// and that ends no pool.
#[test]
fn a_second_attempt_that_fails_before_the_first_is_no_answer() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let acceptor = Acceptor::start(&key);
    let encrypt = Launch::encrypt(&key).args(["-s", "127.0.0.1:0", "-o", "1s"]);
    let mut plain = encrypt.clone().target(&acceptor.addr()).start();
    let mut client = plain.connect();
    let first = acceptor.hear();
    acceptor.hear().reset();
    assert_eq!(client.expect_ending(), Ending::Reset);
    let line = plain.wait_closed("no-answer");
    assert!(line.field("detail").is_some(), "{}", line.text());
    drop(first);
    plain.stop();

    let mut pooled = encrypt.target(&acceptor.addr()).args(["--pool", "1"]).start();
    let first = acceptor.hear();
    acceptor.hear().reset();
    pooled.program.wait_line("it is told", |line| line.message().starts_with("pool below"));
    drop(first);
    let mut warm = acceptor.accept_warm();
    let _client = pooled.connect();
    assert!(matches!(warm.hear(), Event::Open(_)), "the pool is alive");
    pooled.stop();
}

/// "Both attempts": a message that a second one has overtaken fails when its deadline comes, and
/// bans no source that has proved since then that it holds the key.
#[test]
fn an_overtaken_attempt_is_no_strike() {
    const CLIENTS: usize = 5;
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sealed = Addr::Tcp(listener.local_addr().unwrap());
    let mut encrypt = Launch::encrypt(&key).args(["-s", "127.0.0.1:0"]).target(&sealed).start();
    let mut clients: Vec<Wire> = (0..CLIENTS).map(|_| encrypt.connect()).collect();
    for client in &mut clients {
        client.send(b"early").unwrap();
    }
    eventually("all have sent their first message", || connections(&encrypt, &sealed) >= CLIENTS);
    let store = format!("file:{}", dir.path().join("gate").display());
    let decrypt = Launch::decrypt(&key).args(["-s", "systemd:sealed", "-o", "2s"]);
    let decrypt = decrypt.args(["--gate", &store, "--internal", "allow"]).target(target.addr());
    let decrypt = decrypt.args(["--ban-after", "3/60s/1h"]);
    let mut decrypt = End::of(hand_over(&decrypt, "sealed", vec![listener.into()]));
    for client in &mut clients {
        assert_eq!(client.expect_bytes(5), b"early");
    }
    let refused =
        || decrypt.program.log().iter().map(|line| line.refused("clock-skew")).sum::<u64>();
    eventually("the first attempts have failed", || refused() > 0);
    encrypt.connect().expect_echo(b"not banned");
    drop(clients);
    encrypt.stop();
    decrypt.stop();
    assert_eq!(decrypt.refused("clock-skew"), CLIENTS as u64, "{}", decrypt.program.tail());
    assert_eq!(decrypt.count("banned"), 0);
}

// === tunnels and processes that take another's place ===

#[test]
fn a_reload_that_renames_a_tunnel_forgets_no_first_message() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let source = testkit::Kind::Unix.fresh(dir.path(), "in");
    let table = |name: &str| {
        let table = decrypt_table(name, target.addr(), KEY, "timeout = '500ms'");
        table.replace("127.0.0.1:0", &source.to_string())
    };
    let mut service = Service::start(dir.path(), "service.toml", &table("before"));
    // By a clock that is ahead, so that it is not from before anything.
    let recorded = Call::with(&key, 30, SuiteSet::BOTH);
    assert!(is_answered(&source, &recorded));
    service.reload(&table("after"));
    assert!(!is_answered(&source, &recorded));
    assert!(is_answered(&source, &Call::new(&key)));
    service.stop();
}

#[test]
fn two_tunnels_of_a_process_with_one_key_answer_a_message_once() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let table = |name| decrypt_table(name, target.addr(), KEY, "timeout = '500ms'");
    let mut service = Service::start(dir.path(), "service.toml", &(table("one") + &table("two")));
    let recorded = Call::new(&key);
    assert!(is_answered(&service.addr("one"), &recorded));
    assert!(!is_answered(&service.addr("two"), &recorded));
    service.stop();
}

/// A process that takes over goes on with the memory of the one before, and the other way round as
/// long as that one has handshakes; and messages sent before it started are no recordings.
#[test]
fn a_handover_forgets_no_first_message_and_refuses_no_fresh_one() {
    let mut two = Two::start();
    let key = two.dir.path().join("key");
    let far = two.decrypt.addr("far");
    // By clocks that are ahead, so that they are not from before anything.
    let ahead = || Call::with(&key, 30, SuiteSet::BOTH);
    let (recorded, crossing, on_its_way) = (ahead(), ahead(), Call::new(&key));
    assert!(is_answered(&far, &recorded));
    let fds = proc::fds(two.decrypt.program.pid());
    let mut slow = Wire::connect(&far).unwrap();
    eventually("it is accepted", || proc::fds(two.decrypt.program.pid()) > fds);
    let next = two.decrypt.again();
    next.program.wait_line("took over", |line| line.message().starts_with("took over"));
    // The process before has a second for those that it accepted.
    slow.send(crossing.message()).unwrap();
    assert_eq!(slow.expect_bytes(1).len(), 1, "the process before answers it");
    assert!(!is_answered(&far, &crossing), "the process before has answered it meanwhile");
    assert!(!is_answered(&far, &recorded), "answered by the process before");
    assert!(is_answered(&far, &on_its_way), "it was sent before this process started");
    let mut before = std::mem::replace(&mut two.decrypt, next);
    assert_eq!(before.program.exit_code(), 0, "{}", before.program.tail());
    round_trip(&two.entrance());
    two.stop();
}

/// The connection that has systemd start a decrypt end comes from before its start.
#[test]
fn the_connection_that_wakes_a_decrypt_end_is_served() {
    let dir = TempDir::new().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sealed = Addr::Tcp(listener.local_addr().unwrap());
    let encrypt = Launch::encrypt(&key).args(["-s", "127.0.0.1:0"]).target(&sealed);
    let mut encrypt = encrypt.start();
    let mut client = encrypt.connect();
    client.send(b"early").unwrap();
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut waiting, PollTimeout::NONE).unwrap();
    let decrypt = Launch::decrypt(&key).args(["-s", "systemd:sealed"]).target(target.addr());
    let mut decrypt = End::of(hand_over(&decrypt, "sealed", vec![listener.into()]));
    assert_eq!(client.expect_bytes(5), b"early");
    drop(client);
    encrypt.stop();
    decrypt.stop();
}
