//! `--on-target-down`: the fate of sessions on a target that fails its checks.

use nix::sys::signal::Signal;
use testkit::redis::{Redis, Reply, Resp};
use testkit::{Pair, PairOptions, eventually};

const DOWN: &str = "target is down";

/// A quick check of both.
const CHECK: [&str; 4] = ["--check", "redis/1s", "-o", "1s"];

fn pair(first: &Redis, second: &Redis, args: &[&str]) -> Pair {
    let second = second.tcp().to_string();
    let options = PairOptions::default().decrypt(&["-t", &second]).decrypt(&CHECK).decrypt(args);
    Pair::start(options, first.tcp())
}

fn pong(client: &mut Resp) {
    assert_eq!(client.ask(&["PING"]), Reply::Simple("PONG".to_owned()));
}

/// A target that hangs: its sessions would hang, too, and their clients come again.
#[test]
fn sessions_on_a_target_that_is_down_are_closed_where_that_is_wanted() {
    let (first, second) = (Redis::start(), Redis::start());
    let pair = pair(&first, &second, &["--on-target-down", "close"]);
    let mut client = Resp::connect(pair.entrance());
    pong(&mut client);
    first.signal(Signal::SIGSTOP);
    let line = pair.decrypt.wait_closed("target-down");
    assert!(line.has("target", &first.name()), "{}", line.text());
    pair.encrypt.wait_closed("target-refused");
    pong(&mut Resp::connect(pair.entrance()));
    first.signal(Signal::SIGCONT);
}

#[test]
fn sessions_on_a_target_that_is_down_are_kept_by_default() {
    let (first, second) = (Redis::start(), Redis::start());
    for args in [&[][..], &["--on-target-down", "keep"]] {
        let pair = pair(&first, &second, args);
        let mut client = Resp::connect(pair.entrance());
        pong(&mut client);
        first.signal(Signal::SIGSTOP);
        eventually("it is down", || pair.decrypt.count(DOWN) == 1);
        first.signal(Signal::SIGCONT);
        pong(&mut client);
        drop(client);
        pair.decrypt.wait_closed("finished");
    }
}

/// Sessions from before a reload are included, as long as the target is there.
#[test]
fn a_reload_forgets_no_session_on_a_target() {
    let (first, second) = (Redis::start(), Redis::start());
    let pair = pair(&first, &second, &["--on-target-down", "close"]);
    let mut client = Resp::connect(pair.entrance());
    pong(&mut client);
    pair.decrypt.program.signal(Signal::SIGHUP);
    pong(&mut client);
    first.signal(Signal::SIGSTOP);
    pair.decrypt.wait_closed("target-down");
    first.signal(Signal::SIGCONT);
}
