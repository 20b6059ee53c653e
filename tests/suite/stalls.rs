//! Ends and targets that stall while a client has a warm tunnel: no peer that is alive is given up,
//! and no target is dialled for a client that has gone elsewhere.

use std::cell::OnceCell;
use std::io::Write;
use std::time::Duration;

use nix::sys::signal::Signal;
use testkit::address::deaf;
use testkit::middleman::Middleman;
use testkit::way::Way;
use testkit::{End, Launch, Line, Pair, PairOptions, Target, any, eventually, keygen};

const READY: &str = "warm tunnel ready";
const HEDGED: &str = "warm tunnel was dead; dialing";
const LET_GO: &str = "closing warm tunnels older than a dead one";

const DEBUG: [&str; 2] = ["--log-level", "debug"];

fn ready(encrypt: &End, count: usize) {
    eventually("the pool is full", || encrypt.count(READY) >= count);
}

/// Stops the process while it waits for the far end's heartbeat, which comes after 0.2 s, for
/// longer than it would wait.
fn halt(end: &End, how_long: Duration) {
    std::thread::sleep(Duration::from_millis(60));
    end.program.signal(Signal::SIGSTOP);
    std::thread::sleep(how_long);
    end.program.signal(Signal::SIGCONT);
}

/// "An end that was halted first reads what is there": the heartbeat of a far end that has no
/// session for this client yet.
#[test]
fn what_came_during_a_halt_of_the_encrypt_end_counts() {
    let target = Target::echo();
    let options = PairOptions::both(&DEBUG).decrypt(&["-n", "1"]);
    let pair = Pair::start(options.encrypt(&["--pool", "3", "-o", "2s"]), target.addr());
    ready(&pair.encrypt, 3);
    let mut first = pair.connect();
    first.expect_echo(b"the only session");
    ready(&pair.encrypt, 4);
    let mut speaks = pair.connect();
    speaks.write_all(b"x").unwrap();
    halt(&pair.encrypt, Duration::from_millis(2400));
    let _silent = pair.connect();
    halt(&pair.encrypt, Duration::from_millis(1200));
    first.finish();
    assert_eq!(speaks.expect_bytes(1), b"x", "{}", pair.encrypt.program.tail());
    assert_eq!(pair.encrypt.count(HEDGED), 0, "{}", pair.encrypt.program.tail());
}

/// A far end that only stalls, for longer than an answer may take: nothing is proven before another
/// tunnel works, so the waiting ones are kept.
#[test]
fn a_stall_of_the_far_end_costs_no_warm_tunnel() {
    let target = Target::echo();
    let way = OnceCell::new();
    let options = PairOptions::both(&DEBUG).encrypt(&["--pool", "4", "-o", "20s"]);
    let pair = Pair::start_via(options, target.addr(), |far| {
        way.get_or_init(|| Way::to(far)).addr.clone()
    });
    ready(&pair.encrypt, 4);
    way.get().unwrap().refuse();
    pair.decrypt.program.signal(Signal::SIGSTOP);
    let mut client = pair.connect();
    eventually("it is too late", || pair.encrypt.count(HEDGED) >= 1);
    pair.decrypt.program.signal(Signal::SIGCONT);
    client.expect_echo(b"here I am");
    assert_eq!(pair.encrypt.count(LET_GO), 0, "{}", pair.encrypt.program.tail());
}

/// Its client has another tunnel, so the second target sees one connection, not two; and the log of
/// the decrypt end does not warn of it.
#[test]
fn a_tunnel_that_is_not_used_breaks_off_the_dial() {
    let (echo, (deaf, _held)) = (Target::echo(), deaf());
    let options = PairOptions::both(&["--log-level", "debug", "--heartbeat", "off"]);
    // The second target is tried after a third of this, and the client has gone after a half
    // of its own.
    let decrypt = ["-o", "9s", "-t", &echo.addr().to_string()];
    let options = options.encrypt(&["--pool", "1", "-o", "2s"]).decrypt(&decrypt);
    let pair = Pair::start(options, &deaf);
    ready(&pair.encrypt, 1);
    let mut client = pair.connect();
    let line = pair.decrypt.wait_closed("unopened");
    assert_eq!(line.level(), "INFO", "{}", line.text());
    client.expect_echo(b"the other tunnel");
    assert_eq!(echo.counts().accepts(), 1, "{}", pair.decrypt.program.tail());
}

/// A far end that shakes hands and swallows all that follows is not chosen again where another far
/// end works.
#[test]
fn a_far_end_that_swallows_what_warm_tunnels_say_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let targets = [Target::echo(), Target::echo()];
    let ends = targets.each_ref().map(|target| {
        Launch::decrypt(&key).source(&any()).target(target.addr()).args(DEBUG).start()
    });
    let middle = Middleman::start(ends[0].addr());
    let encrypt = Launch::encrypt(&key).target(middle.addr()).target(ends[1].addr());
    let encrypt = encrypt.source(&any()).args(DEBUG).args(["--pool", "2", "-o", "3s"]).start();
    ready(&encrypt, 2);
    middle.swallow_from(2);
    // It waits for the other end's first word, so nothing of it is risked.
    let mut client = encrypt.connect();
    let name = middle.addr().to_string();
    let is_down = |line: &Line| line.is("target is down") && line.has("target", &name);
    encrypt.program.wait_line("it is down", is_down);
    client.expect_echo(b"where am I?");
    assert_eq!(targets.each_ref().map(|target| target.counts().accepts()), [0, 1]);
}
