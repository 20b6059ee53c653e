//! `--heartbeat` and `--idle-timeout`: sessions that a host on the path keeps open, or that are
//! unused, end; those that are only quiet do not.

use std::cell::OnceCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use knockpipe::proto::inbound::Event;
use knockpipe::proto::message::ResetReason;
use testkit::hand::{Acceptor, Hand};
use testkit::middleman::{Middleman, Toward};
use testkit::{
    Ending, Launch, NEVER, Pair, PairOptions, Program, Target, any, binary, eventually, keygen,
};

/// Both ends with a heartbeat of a second, which is the shortest.
const QUICK: [&str; 2] = ["--heartbeat", "1s"];

/// Longer than three of these may be missed, and less than two of the others.
const LONG: Duration = Duration::from_secs(4);

/// Starts a pair with a host on the path.
fn watched(options: PairOptions, target: &Target) -> (Pair, Middleman) {
    let middle = OnceCell::new();
    let pair = Pair::start_via(options, target.addr(), |far| {
        middle.get_or_init(|| Middleman::start(far)).addr().clone()
    });
    (pair, middle.into_inner().unwrap())
}

/// A host on the path, without the key, forwards the handshake, swallows the rest and answers TCP.
#[test]
fn sessions_with_swallowed_records_end_at_both_ends() {
    let target = Target::echo();
    let options = PairOptions::both(&["--heartbeat", "1s", "-n", "3"]);
    let (pair, middle) = watched(options, &target);
    let mut clients: Vec<_> = (0..3).map(|_| pair.connect()).collect();
    clients.iter_mut().for_each(|client| client.expect_echo(b"before"));
    middle.swallow_from(0);
    for (name, end) in pair.ends() {
        eventually(name, || end.closed().len() == 3);
        assert!(end.closed().iter().all(|line| line.has("reason", "peer-vanished")), "{name}");
        assert_eq!(end.closed()[0].level(), "WARN");
    }
    for client in &mut clients {
        assert_eq!(client.expect_ending(), Ending::Reset);
    }
    target.wait_idle();
    // All slots are free again.
    middle.swallow_nothing();
    let mut clients: Vec<_> = (0..3).map(|_| pair.connect()).collect();
    clients.iter_mut().for_each(|client| client.expect_echo(b"after"));
}

/// The first record counts, too: the dialer waits for the target, and not for ever.
#[test]
fn a_dialer_with_a_swallowed_open_ends_the_session() {
    let target = Target::echo();
    let (pair, middle) = watched(PairOptions::both(&[QUICK[0], QUICK[1], "-o", "1s"]), &target);
    middle.swallow_from(1);
    let mut client = pair.connect();
    assert_eq!(client.expect_ending(), Ending::Reset);
    pair.encrypt.wait_closed("peer-vanished");
    assert_eq!(target.counts().accepts(), 0);
}

/// Quiet is not gone: nothing passes but heartbeats, and the data is not read.
#[test]
fn a_quiet_session_and_a_stopped_reader_live_on() {
    const FLOOD: usize = 16 << 20;
    let target = Target::local(|mut wire, _| {
        let mut first = [0];
        while wire.read_exact(&mut first).is_ok() {
            let answer = if first == *b"f" { vec![7; FLOOD] } else { first.to_vec() };
            if wire.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let (pair, middle) = watched(PairOptions::both(&QUICK), &target);
    middle.record(true);
    let (mut quiet, mut stalled) = (pair.connect(), pair.connect());
    quiet.expect_echo(b"q");
    stalled.write_all(b"f").unwrap();
    let begin = Instant::now();
    eventually("four seconds", || begin.elapsed() > LONG);
    quiet.expect_echo(b"q");
    assert_eq!(stalled.expect_bytes(FLOOD), vec![7; FLOOD]);
    stalled.expect_echo(b"q");
    assert!(pair.ends().iter().all(|(_, end)| end.closed().is_empty()));
    // One record about every 0.6 to 0.95 seconds, in both directions, and no flood, beside
    // the handshake, Open or Opened, and the data.
    let recordings = middle.take_recordings();
    let took = begin.elapsed();
    let most = 5 + usize::try_from(took.as_millis()).unwrap() / 500;
    for toward in Toward::BOTH {
        let frames = (0..2).map(|i| recordings[i].frames(toward).len()).min().unwrap();
        assert!((5..most).contains(&frames), "{frames} frames {toward:?} in {took:?}");
    }
}

/// Nothing comes from an end after its Fin, so nothing is expected: the other direction goes on,
/// with heartbeats.
#[test]
fn a_session_of_which_one_direction_has_ended_lives_on() {
    let target = Target::local(|mut wire, _| {
        let _ = wire.read_to_end(&mut vec![]);
        let begin = Instant::now();
        eventually("four seconds", || begin.elapsed() > LONG);
        let _ = wire.write_all(b"late");
    });
    let pair = Pair::start(PairOptions::both(&QUICK), target.addr());
    let mut client = pair.connect();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.expect_bytes(4), b"late");
    assert_eq!(client.expect_ending(), Ending::Clean);
    pair.encrypt.wait_closed("finished");
    pair.decrypt.wait_closed("finished");
}

/// An acceptor without a free slot says so by heartbeats.
#[test]
fn a_dialer_that_waits_for_a_slot_is_not_given_up_and_does_not_give_up() {
    let target = Target::echo();
    let options = PairOptions::both(&QUICK).decrypt(&["-n", "1"]);
    let pair = Pair::start(options, target.addr());
    // Both are proven before the first of them has the only slot.
    let (mut one, mut two) = (pair.connect(), pair.connect());
    one.write_all(b"?").unwrap();
    two.write_all(b"?").unwrap();
    let begin = Instant::now();
    eventually("four seconds", || begin.elapsed() > LONG);
    assert!(pair.encrypt.closed().iter().all(|line| !line.has("reason", "peer-vanished")));
    one.finish();
    two.finish();
    for mut client in [one, two] {
        client.read_to_ending(NEVER);
    }
    assert!(pair.decrypt.closed().iter().all(|line| !line.has("reason", "peer-vanished")));
}

/// An end that announces no heartbeat, as one of an earlier version, is not waited for. It gets
/// heartbeats, which mean nothing to it.
#[test]
fn an_end_that_announces_no_heartbeat_may_be_silent() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let acceptor = Acceptor::start(&key);
    let launch = Launch::encrypt(&key).source(&any()).target(&acceptor.addr()).args(QUICK);
    let encrypt = launch.start();
    let mut client = encrypt.connect();
    let mut far_end: Hand = acceptor.accept();
    for _ in 0..6 {
        assert_eq!(far_end.hear_data(), b"", "a sign of life");
    }
    // Before Opened it may not say anything else.
    far_end.opened();
    far_end.data(b"still here");
    assert_eq!(client.expect_bytes(10), b"still here");
    assert!(encrypt.closed().is_empty());
}

/// `--heartbeat off` is the behaviour of earlier versions: neither end notices.
#[test]
fn without_a_heartbeat_nothing_is_sent_and_nothing_is_expected() {
    let target = Target::echo();
    for (encrypt, decrypt) in [("off", "1s"), ("1s", "off")] {
        let options = PairOptions::default().encrypt(&["--heartbeat", encrypt]);
        let (pair, middle) = watched(options.decrypt(&["--heartbeat", decrypt]), &target);
        middle.record(true);
        let mut client = pair.connect();
        client.expect_echo(b"before");
        let silent = if encrypt == "off" { Toward::Acceptor } else { Toward::Dialer };
        middle.swallow_from(0);
        let begin = Instant::now();
        eventually("four seconds", || begin.elapsed() > LONG);
        assert!(pair.ends().iter().all(|(_, end)| end.closed().is_empty()));
        let frames = middle.take_recordings()[0].frames(silent).len();
        assert!(frames <= 3, "{frames}: the handshake, Open or Opened, and the data");
    }
}

/// The end with the timeout reports it, and neither heartbeats nor the other direction's Fin count
/// as use.
#[test]
fn an_unused_session_ends_after_its_idle_timeout_and_one_that_is_used_does_not() {
    let target = Target::echo();
    // Longer than a busy machine pauses, or the other session is unused as well.
    let timeout = ["--idle-timeout", "4s"];
    let options = || PairOptions::both(&QUICK);
    thread::scope(|scope| {
        for options in [options().encrypt(&timeout), options().decrypt(&timeout)] {
            scope.spawn(|| one_of_two_is_idle(&Pair::start(options, target.addr())));
        }
    });
}

/// Checks an end that ends sessions which are unused for four seconds.
fn one_of_two_is_idle(pair: &Pair) {
    let (mut used, mut unused) = (pair.connect(), pair.connect());
    let begin = Instant::now();
    unused.expect_echo(b"once");
    eventually("it has ended", || {
        used.expect_echo(b"again");
        !pair.encrypt.closed().is_empty() && !pair.decrypt.closed().is_empty()
    });
    assert!(begin.elapsed() >= Duration::from_millis(3_900), "{:?}", begin.elapsed());
    assert_eq!(unused.expect_ending(), Ending::Reset);
    for (name, end) in pair.ends() {
        let line = end.wait_closed("idle-timeout");
        assert_eq!(line.level(), "INFO", "{name}");
    }
    used.expect_echo(b"still");
}

/// The far end is told: `docs/PROTOCOL.md`, Reset 11 and 12.
#[test]
fn the_far_end_hears_that_a_session_was_idle() {
    let (dir, target) = (tempfile::tempdir().unwrap(), Target::echo());
    let key = keygen(dir.path(), "key");
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr());
    let decrypt = launch.args(["--idle-timeout", "1s", "--heartbeat", "off"]).start();
    let mut guest = Hand::dial(decrypt.addr(), &key);
    guest.open();
    assert_eq!(guest.hear(), Event::Opened);
    assert_eq!(guest.hear(), Event::Reset(ResetReason::Idle));
    decrypt.wait_closed("idle-timeout");
    target.wait_idle();
}

/// `pipe` sends heartbeats, notices the lack of them, and says so.
#[test]
fn pipe_has_a_heartbeat_too() {
    let target = Target::echo();
    let (pair, middle) = watched(PairOptions::both(&QUICK), &target);
    middle.record(true);
    let mut command = Command::new(binary());
    command.args(["pipe", "-t", &middle.addr().to_string(), "-k"]).arg(pair.key()).args(QUICK);
    let mut pipe = Program::spawn("pipe", command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdin = pipe.child().stdin.take().unwrap();
    stdin.write_all(b"hello").unwrap();
    let mut stdout = pipe.child().stdout.take().unwrap();
    stdout.read_exact(&mut [0; 5]).unwrap();
    let begin = Instant::now();
    eventually("four seconds", || begin.elapsed() > LONG);
    assert!(pair.decrypt.closed().is_empty());
    middle.swallow_from(0);
    assert_eq!(pipe.exit_code(), 1);
    assert!(pipe.stderr().contains("peer-vanished"), "{}", pipe.stderr());
    pair.decrypt.wait_closed("peer-vanished");
}

/// One line that names cause and remedy, and status 2.
#[test]
fn times_that_are_none_are_refused() {
    for (args, remedy) in [
        (["--heartbeat", "60"], "write 60s"),
        (["--heartbeat", "2d"], "or off"),
        (["--idle-timeout", "never"], "or off"),
    ] {
        let mut command = Command::new(binary());
        command.args(["encrypt", "-s", "127.0.0.1:0", "-t", "127.0.0.1:1", "-k", "x"]).args(args);
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.lines().count() == 1 && error.contains(args[0]), "{error}");
        assert!(error.contains(remedy), "{error}");
    }
}
