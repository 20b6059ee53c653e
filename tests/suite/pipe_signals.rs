//! `pipe` that is ended by its caller says so to the far end, and calls itself `pipe` there.

use std::io::Write;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use testkit::redis::{Redis, Reply, Resp};
use testkit::{Pair, Program, Target, binary, eventually};

fn pipe(pair: &Pair) -> Program {
    let mut command = Command::new(binary());
    command.args(["pipe", "-t", &pair.decrypt.addr().to_string(), "-k"]).arg(pair.key());
    Program::spawn("pipe", command.stdin(Stdio::piped()).stdout(Stdio::piped()))
}

/// The signals of ssh to its ProxyCommand, of `timeout` and of a terminal.
#[test]
fn a_signal_is_told_to_the_far_end_and_is_the_exit_status() {
    let target = Target::echo();
    let signals = [(Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGTERM, 143)];
    for (bytes, (signal, status)) in (1..).zip(signals) {
        let pair = Pair::to(target.addr());
        let mut pipe = pipe(&pair);
        pipe.child().stdin.as_mut().unwrap().write_all(b"x").unwrap();
        eventually("it passes", || target.counts().bytes() == bytes);
        pipe.signal(signal);
        assert_eq!(pipe.exit_code(), status, "{signal}");
        assert_eq!(pipe.stderr(), "", "its caller knows");
        let line = pair.decrypt.wait_closed("peer-shutdown");
        assert!(line.has("client", "pipe") && line.level() == "INFO", "{}", line.text());
        target.wait_idle();
    }
}

/// A reader that is full does not keep the far end from learning of the end.
#[test]
fn a_signal_is_passed_on_although_standard_output_is_not_read() {
    let target = Target::local(|mut wire, _| while wire.write_all(&[7; 65536]).is_ok() {});
    let pair = Pair::to(target.addr());
    let mut pipe = pipe(&pair);
    eventually("it waits for its reader", || target.counts().accepts() == 1);
    pipe.signal(Signal::SIGTERM);
    assert_eq!(pipe.exit_code(), 143);
    pair.decrypt.wait_closed("peer-shutdown");
}

/// Closed by its reader, and nothing comes that would show that.
#[test]
fn a_standard_output_without_a_reader_ends_the_session_and_says_so() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let mut pipe = pipe(&pair);
    // Held, because its end would count as one, too.
    let mut stdin = pipe.child().stdin.take().unwrap();
    stdin.write_all(b"x").unwrap();
    eventually("it passes", || target.counts().bytes() > 0);
    drop(pipe.child().stdout.take());
    assert_eq!(pipe.exit_code(), 1);
    drop(stdin);
    pair.decrypt.wait_closed("peer-reset");
    target.wait_idle();
}

/// `--admin` lists it as the log does.
#[test]
fn the_client_of_a_pipe_is_a_pipe() {
    let redis = Redis::start();
    let pair = Pair::to(redis.tcp());
    let mut pipe = pipe(&pair);
    pipe.child().stdin.as_mut().unwrap().write_all(b"PING\r\n").unwrap();
    drop(pipe.child().stdin.take());
    assert_eq!(pipe.exit_code(), 0, "{}", pipe.tail());
    assert!(pair.decrypt.wait_closed("finished").has("client", "pipe"));
    let mut other = Resp::connect(pair.entrance());
    assert_eq!(other.ask(&["PING"]), Reply::Simple("PONG".to_owned()));
    drop(other);
}
