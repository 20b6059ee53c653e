//! The end of a process: strangers do not delay it, sessions that are cut are told why, and no
//! count is lost.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use testkit::address::deaf;
use testkit::data::Noise;
use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::proc::{TcpState, tcp_sockets};
use testkit::{
    Addr, End, Ending, Launch, Pair, PairOptions, Target, Wire, any, eventually, keygen,
};

/// Limit of a stop without any session: far less than the deadlines that it must not wait for, and
/// far more than it needs.
const PROMPTLY: Duration = Duration::from_secs(20);

/// Starts a decrypt end that gives strangers ten minutes.
fn patient(key: &Path, drain: &str) -> End {
    let launch = Launch::decrypt(key).source(&any()).args(["-t", "127.0.0.1:1"]);
    let end = launch.args(["-o", "600s", "--drain", drain]).start();
    end.wait_looked();
    end
}

/// A stranger is no session: it neither delays a stop nor makes it an unclean one, with a short
/// drain or a long one.
#[test]
fn a_silent_stranger_does_not_hold_a_stop_up() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    for drain in ["1s", "3600s"] {
        let mut decrypt = patient(&key, drain);
        let baseline = decrypt.fds();
        let mut stranger = decrypt.connect();
        eventually("it is accepted", || decrypt.fds() > baseline);
        let start = Instant::now();
        decrypt.stop();
        println!("--drain {drain} with a stranger: {:.1?}", start.elapsed());
        assert!(start.elapsed() < PROMPTLY, "it took {:.1?}", start.elapsed());
        stranger.expect_ending();
        assert_eq!(decrypt.refused("handshake-failed"), 1, "{}", decrypt.program.tail());
    }
}

/// A second signal ends the process now; a stranger is still no session.
#[test]
fn a_second_signal_with_only_a_stranger_is_a_clean_end_too() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let mut decrypt = patient(&key, "3600s");
    let baseline = decrypt.fds();
    let _stranger = decrypt.connect();
    eventually("it is accepted", || decrypt.fds() > baseline);
    let start = Instant::now();
    decrypt.terminate();
    stopping(&decrypt);
    decrypt.terminate();
    assert_eq!(decrypt.program.exit_code(), 0, "{}", decrypt.program.tail());
    assert!(start.elapsed() < PROMPTLY, "it took {:.1?}", start.elapsed());
    assert_eq!(decrypt.strangers(), 1, "{}", decrypt.program.tail());
}

/// "An exact count": also of those that were not logged before the end, by a drain, by the end of
/// its time, or by a second signal.
#[test]
fn nothing_that_was_counted_is_lost_at_the_end() {
    const STRANGERS: usize = 50;
    let target = Target::hold();
    for (drain, signals) in [("3600s", 1), ("200ms", 1), ("3600s", 2)] {
        let options = PairOptions::default().decrypt(&["-o", "600s", "--drain", drain]);
        let mut pair = Pair::start(options, target.addr());
        let before = target.counts().accepts();
        // Where it is not the strangers' deadline that ends it, a session is cut.
        let session = (drain, signals) != ("3600s", 1);
        let client = session.then(|| pair.connect());
        eventually("the target has it", || {
            target.counts().accepts() - before == u64::from(session)
        });
        let baseline = pair.decrypt.fds();
        let strangers: Vec<Wire> = Noise::new(1)
            .bytes(STRANGERS)
            .iter()
            .map(|byte| {
                let mut wire = pair.decrypt.connect();
                wire.write_all(&[*byte; 300]).unwrap();
                wire
            })
            .collect();
        eventually("all are accepted", || pair.decrypt.fds() == baseline + STRANGERS);
        pair.decrypt.terminate();
        if signals == 2 {
            stopping(&pair.decrypt);
            pair.decrypt.terminate();
        }
        let expected = i32::from(session);
        assert_eq!(pair.decrypt.program.exit_code(), expected, "{}", pair.decrypt.program.tail());
        let counted = pair.decrypt.strangers();
        assert_eq!(counted, STRANGERS as u64, "--drain {drain}, {signals} signals");
        assert_eq!(pair.decrypt.closed().len(), usize::from(session));
        drop((strangers, client));
        pair.encrypt.stop();
    }
}

/// A session that is still dialling its target when it is cut has a line of its own, and the
/// encrypt end is told why.
#[test]
fn a_session_that_is_cut_while_it_dials_is_told_to_both_ends() {
    let (silent, _held) = deaf();
    for second in [false, true] {
        let drain = if second { "3600s" } else { "300ms" };
        let options = PairOptions::default().decrypt(&["-o", "600s", "--drain", drain]);
        let mut pair = Pair::start(options, &silent);
        let mut client = pair.connect();
        eventually("the target is being dialled", || is_dialling(&pair.decrypt, &silent));
        pair.decrypt.terminate();
        if second {
            stopping(&pair.decrypt);
            pair.decrypt.terminate();
        }
        assert_eq!(pair.decrypt.program.exit_code(), 1, "a session was cut");
        let line = pair.decrypt.wait_closed("shutdown");
        assert!(line.has("target", &silent.to_string()), "{}", line.text());
        assert_eq!(pair.decrypt.closed().len(), 1);
        pair.encrypt.wait_closed("peer-shutdown");
        assert_eq!(client.expect_ending(), Ending::Reset);
        pair.encrypt.stop();
    }
}

/// A client with a far end that is still being dialled is treated alike.
#[test]
fn a_client_that_is_cut_before_the_far_end_answered_has_its_line() {
    let (silent, _held) = deaf();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let launch = Launch::encrypt(&key).source(&any()).target(&silent);
    let mut encrypt = launch.args(["-o", "600s", "--drain", "300ms"]).start();
    let mut client = encrypt.connect();
    eventually("the far end is being dialled", || is_dialling(&encrypt, &silent));
    encrypt.terminate();
    assert_eq!(encrypt.program.exit_code(), 1, "a client was cut");
    encrypt.wait_closed("shutdown");
    assert_eq!(client.expect_ending(), Ending::Reset);
}

/// Waits until the first signal has taken effect. It does not connect to find out, because that
/// would count as a stranger.
#[track_caller]
fn stopping(end: &End) {
    end.program.wait_line("stopping", |line| line.message().starts_with("stopping"));
}

fn is_dialling(end: &End, to: &Addr) -> bool {
    let to = to.tcp();
    tcp_sockets(end.pid())
        .iter()
        .any(|socket| socket.state == TcpState::SynSent && to == socket.remote.into())
}

/// A tunnel that comes back under its name is another one: its end, which is sooner, is not that of
/// the sessions of the tunnel before it.
#[test]
fn a_removed_tunnel_does_not_end_with_the_next_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let target = Target::echo();
    let table = decrypt_table("far", target.addr(), "\"key\"", "");
    let mut far = Service::start(dir.path(), "far.toml", &table);
    let of = |name: &str, more: &str| encrypt_table(name, &far.addr("far"), "\"key\"", more);
    let kept = of("kept", "");
    let mut near =
        Service::start(dir.path(), "near.toml", &format!("{kept}{}", of("a", "drain = '3600s'")));
    let connect = || {
        let mut wire = Wire::connect(&near.addr("a")).unwrap();
        wire.expect_echo(b"before");
        wire
    };
    let mut first = connect();
    assert_eq!(near.reload(&kept).number("removed"), Some(1));
    let back = near.reload(&format!("{kept}{}", of("a", "drain = '200ms'")));
    assert_eq!(back.number("added"), Some(1), "{}", back.text());
    let mut second = connect();
    assert_eq!(near.reload(&kept).number("removed"), Some(1));
    assert_eq!(second.expect_ending(), Ending::Reset);
    first.expect_echo(b"its hour is not over");

    // The status reports what is cut at the end.
    near.program.signal(Signal::SIGTERM);
    near.program.wait_line("stopping", |line| line.message().starts_with("stopping:"));
    near.program.signal(Signal::SIGTERM);
    assert_eq!(first.expect_ending(), Ending::Reset);
    assert_eq!(near.program.exit_code(), 1, "{}", near.program.tail());
    far.stop();
}
