//! Gates of configuration files that change, and the connections that they judge afterwards.

use nix::sys::signal::Signal;

use super::reload::{KEY, Two};
use testkit::file::encrypt_table;
use testkit::redis::Redis;
use testkit::{Ending, Wire, eventually};

/// A changed gate ends the connections that it would not admit; the others go on.
#[test]
fn a_changed_gate_judges_present_sessions() {
    let two = Two::start();
    two.encrypt.reload(&two.near(KEY, "allow = [\"127.0.0.0/30\"]\ninternal = \"check\""));
    let from = |ip: &str| Wire::connect_from(ip.parse().unwrap(), &two.entrance()).unwrap();
    let (mut first, mut second) = (from("127.0.0.1"), from("127.0.0.2"));
    first.expect_echo(b"first");
    second.expect_echo(b"second");
    two.encrypt.reload(&two.near(KEY, "allow = [\"127.0.0.2\"]\ninternal = \"check\""));
    assert_eq!(first.expect_ending(), Ending::Reset);
    second.expect_echo(b"still there");
    eventually("it is told as revoked", || {
        two.encrypt.closed("near").iter().any(|line| line.has("reason", "revoked"))
    });
    drop(second);
    two.stop();
}

/// docs/operating/gate.md: "An absent store ends none", also where a reload has changed the gate,
/// so that nothing was read by its rules yet.
#[test]
fn an_absent_store_ends_no_present_session_at_a_reload() {
    let two = Two::start();
    let redis = Redis::start();
    redis.ask("SADD ip-allowed 127.0.0.1");
    let rules = format!("gate = \"{}\"\ntimeout = '2s'", redis.url());
    two.encrypt.reload(&two.near(KEY, &rules));
    let mut live = Wire::connect(&two.entrance()).unwrap();
    live.expect_echo(b"before");
    redis.signal(Signal::SIGSTOP);
    two.encrypt.reload(&two.near(KEY, &format!("{rules}\ndeny = [\"192.0.2.0/24\"]")));
    live.expect_echo(b"still there");
    assert_eq!(Wire::connect(&two.entrance()).unwrap().expect_ending(), Ending::Clean, "closed");
    redis.signal(Signal::SIGCONT);
    eventually("the store is read again", || {
        Wire::connect(&two.entrance()).unwrap().echoes(b"in", testkit::NEVER)
    });
    live.expect_echo(b"after");
    redis.ask("SREM ip-allowed 127.0.0.1");
    assert_eq!(live.expect_ending(), Ending::Reset);
    two.stop();
}

/// A gate that moves from one tunnel to another goes on following its store.
#[test]
fn a_gate_that_moves_between_tunnels_stays_awake() {
    let two = Two::start();
    let store = format!("file:{}", two.dir.path().join("gate").display());
    let gate = |command: &[&str]| {
        let mut program = std::process::Command::new(testkit::binary());
        let output = program.arg("gate").args(command).args(["--gate", &store]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    gate(&["allow", "127.0.0.1"]);
    let rules = format!("gate = \"{store}\"\ninternal = \"check\"");
    let other = |more: &str| encrypt_table("other", &two.decrypt.addr("far"), KEY, more);
    two.encrypt.reload(&format!("{}{}", two.near(KEY, &rules), other("")));
    let guarded = |name: &str| Wire::connect(&two.encrypt.addr(name)).unwrap();
    eventually("the gate lets it in", || guarded("near").echoes(b"in", testkit::NEVER));
    let line = two.encrypt.reload(&format!("{}{}", two.near(KEY, ""), other(&rules)));
    assert_eq!(line.number("changed"), Some(2), "{}", line.text());
    let mut live = guarded("other");
    live.expect_echo(b"in");
    gate(&["remove", "127.0.0.1"]);
    assert_eq!(live.expect_ending(), Ending::Reset);
    eventually("it is out", || !guarded("other").echoes(b"out?", testkit::NEVER));
    two.stop();
}

/// The sessions of a tunnel that was replaced are those of the tunnel: they are
/// counted when they are cut, and its gate judges them until they have ended.
#[test]
fn sessions_of_before_a_reload_count_at_the_end() {
    let mut two = Two::start();
    let store = format!("file:{}", two.dir.path().join("gate").display());
    let allow = |command: &str| {
        let mut program = std::process::Command::new(testkit::binary());
        let args = ["gate", command, "127.0.0.1", "--gate", &store];
        assert!(program.args(args).output().unwrap().status.success());
    };
    allow("allow");
    let rules = format!("gate = \"{store}\"\ninternal = \"check\"");
    two.encrypt.reload(&two.near(KEY, &rules));
    eventually("the gate lets it in", || {
        Wire::connect(&two.entrance()).unwrap().echoes(b"in", testkit::NEVER)
    });
    let connect = || {
        let mut wire = Wire::connect(&two.entrance()).unwrap();
        wire.expect_echo(b"before");
        wire
    };
    let (mut revoked, mut cut) = (connect(), connect());
    // Only these are from before the reload; the successor has none.
    for more in ["timeout = '7s'", "timeout = '8s'\ndrain = '3600s'"] {
        let line = two.encrypt.reload(&two.near(KEY, &format!("{rules}\n{more}")));
        assert_eq!(line.number("changed"), Some(1), "{}", line.text());
    }
    let kept = encrypt_table("kept", &two.decrypt.addr("far"), KEY, "");
    two.encrypt.reload(&kept);
    allow("remove");
    assert_eq!(revoked.expect_ending(), Ending::Reset);
    assert_eq!(cut.expect_ending(), Ending::Reset);
    eventually("both are told as revoked", || {
        let closed = two.encrypt.closed("near");
        closed.iter().filter(|line| line.has("reason", "revoked")).count() == 2
    });

    let entrance = two.encrypt.addr("kept");
    let mut last = Wire::connect(&entrance).unwrap();
    last.expect_echo(b"before");
    two.encrypt.reload(&encrypt_table("kept", &two.decrypt.addr("far"), KEY, "drain = '200ms'"));
    two.encrypt.program.signal(Signal::SIGTERM);
    assert_eq!(last.expect_ending(), Ending::Reset);
    assert_eq!(two.encrypt.program.exit_code(), 1, "{}", two.encrypt.program.tail());
    two.decrypt.stop();
}
