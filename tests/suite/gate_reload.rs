//! Gates of configuration files that change, and the connections that they judge afterwards.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::signal::Signal;

use super::reload::{KEY, Two};
use testkit::file::encrypt_table;
use testkit::redis::Redis;
use testkit::{Ending, Wire, eventually};

/// Counts the losses of a store that the encrypt end has logged.
fn absences(two: &Two) -> usize {
    two.encrypt.program.log().iter().filter(|line| line.is("gate store unavailable")).count()
}

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
    let refused = |two: &Two| Wire::connect(&two.entrance()).unwrap().expect_ending();
    eventually("the absence is noticed, and the gate closed", || {
        absences(&two) > 0 && refused(&two) == Ending::Clean
    });
    live.expect_echo(b"yet there");
    redis.signal(Signal::SIGCONT);
    eventually("the store is read again", || {
        Wire::connect(&two.entrance()).unwrap().echoes(b"in", testkit::NEVER)
    });
    live.expect_echo(b"after");
    redis.ask("SREM ip-allowed 127.0.0.1");
    assert_eq!(live.expect_ending(), Ending::Reset);
    two.stop();
}

/// A reload makes a gate forget nothing of a store that is unavailable meanwhile: neither bans,
/// where an absent store opens the gate, nor grants, where what was read counts on.
#[test]
fn a_changed_gate_knows_what_was_read_before_the_store_was_lost() {
    let two = Two::start();
    let mut redis = Redis::start();
    redis.ask("SADD ip-allowed 127.0.0.1");
    redis.ask("SETEX cache:gitlab:rack::attack:allow2ban:ban:127.0.0.2 1000 1");
    let from = |ip: &str| Wire::connect_from(ip.parse().unwrap(), &two.entrance()).unwrap();
    let enters = |ip: &str| from(ip).echoes(b"in", testkit::NEVER);
    for (failure, enters_too) in [("open", true), ("stale:1h", false)] {
        let rules = format!("gate = \"{}\"\ngate-failure = \"{failure}\"", redis.url());
        two.encrypt.reload(&two.near(KEY, &rules));
        eventually("the store is read", || enters("127.0.0.1") && !enters("127.0.0.3"));
        let before = absences(&two);
        redis.kill();
        eventually("the loss is noticed", || absences(&two) > before);
        two.encrypt.reload(&two.near(KEY, &format!("{rules}\ndenied = \"reset\"")));
        assert!(enters("127.0.0.1"), "{failure}: it was allowed");
        assert!(!enters("127.0.0.2"), "{failure}: it was banned");
        assert_eq!(enters("127.0.0.3"), enters_too, "{failure}");
        redis.revive();
        redis.ask("SADD ip-allowed 127.0.0.1");
        redis.ask("SETEX cache:gitlab:rack::attack:allow2ban:ban:127.0.0.2 1000 1");
        two.encrypt.reload(&two.near(KEY, ""));
    }
    two.stop();
}

/// A file store that is lost is no store that was emptied: a reload that would begin with an empty
/// one fails, and nothing changes.
#[test]
fn a_reload_makes_no_lost_file_anew() {
    let two = Two::start();
    let path = two.dir.path().join("gate");
    let store = format!("file:{}", path.display());
    let mut program = std::process::Command::new(testkit::binary());
    let args = ["gate", "allow", "127.0.0.1", "--gate", &store];
    assert!(program.args(args).output().unwrap().status.success());
    let rules = format!("gate = \"{store}\"\ngate-failure = \"stale:1h\"");
    two.encrypt.reload(&two.near(KEY, &rules));
    let mut live = Wire::connect(&two.entrance()).unwrap();
    live.expect_echo(b"in");
    let kept = two.dir.path().join("kept");
    let changed = two.near(KEY, &format!("{rules}\ndenied = \"reset\""));
    std::fs::rename(&path, &kept).unwrap();
    let line = two.encrypt.reload_fails(&changed);
    assert!(line.text().contains("it is gone, although the running gate has read it"), "{line:?}");
    assert!(!path.exists(), "it was made anew");
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).unwrap();
    let line = two.encrypt.reload_fails(&changed);
    assert!(line.text().contains("it is empty, although"), "{line:?}");
    live.expect_echo(b"yet there");
    assert!(Wire::connect(&two.entrance()).unwrap().echoes(b"in", testkit::NEVER));
    std::fs::rename(&kept, &path).unwrap();
    two.encrypt.reload(&changed);
    live.expect_echo(b"still there");
    drop(live);
    two.stop();
}

/// The treatment of revoked sessions is that of the file in force at the moment of revocation, also
/// for sessions that are older than it.
#[test]
fn a_changed_on_revoke_holds_for_present_sessions() {
    let two = Two::start();
    let redis = Redis::start();
    redis.ask("SADD ip-allowed 127.0.0.1");
    let rules = |policy: &str| format!("gate = \"{}\"\non-revoke = \"{policy}\"", redis.url());
    for (before, after) in [("keep", "close"), ("close", "keep")] {
        redis.ask("SADD ip-allowed 127.0.0.1");
        two.encrypt.reload(&two.near(KEY, &rules(before)));
        let mut live = None;
        eventually("it is let in", || {
            let mut wire = Wire::connect(&two.entrance()).unwrap();
            let is_in = wire.echoes(b"in", testkit::NEVER);
            live = is_in.then_some(wire);
            is_in
        });
        let mut live = live.unwrap();
        two.encrypt.reload(&two.near(KEY, &rules(after)));
        redis.ask("SREM ip-allowed 127.0.0.1");
        if after == "close" {
            assert_eq!(live.expect_ending(), Ending::Reset);
        } else {
            eventually("new ones are out", || {
                !Wire::connect(&two.entrance()).unwrap().echoes(b"out?", testkit::NEVER)
            });
            live.expect_echo(b"still there");
        }
    }
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
