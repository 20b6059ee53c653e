//! `knockpipe check`: it tells that a file can be run, or what does not work yet.

use std::fs;
use std::path::Path;
use std::process::Command;

use testkit::file::{Service, decrypt_table, encrypt_table};
use testkit::redis::Redis;
use testkit::{Addr, Kind, Target, Wire, any, binary, keygen};

const KEY: &str = "\"key\"";

struct Answer {
    status: Option<i32>,
    out: String,
    err: String,
}

fn check(dir: &Path, text: &str, connect: bool) -> Answer {
    let file = dir.join("checked.toml");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(binary());
    command.arg("check").arg("-c").arg(&file).args(connect.then_some("--connect"));
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Answer { status: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) }
}

#[test]
fn each_step_that_fails_is_named() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    keygen(dir.path(), "other");
    let target = Target::echo();
    let redis = Redis::start();
    let closed = Kind::Unix.fresh(dir.path(), "closed");
    let far = decrypt_table("far", target.addr(), KEY, "");
    let lost = decrypt_table("lost", &closed, KEY, "");
    let mut decrypt = Service::start(dir.path(), "far.toml", &format!("{far}{lost}"));
    let (far, lost) = (decrypt.addr("far"), decrypt.addr("lost"));
    let gate = |url: &str| format!("gate = \"{url}\"\ntimeout = '1s'");
    let table = |target: &Addr, key, more| encrypt_table("t", target, key, more);
    for (text, expected) in [
        (table(&far, KEY, ""), "ok (name, connect, key or gate, clock, service, target, MTU)"),
        (table(&far, "\"other\"", "timeout = '1s'"), "FAILED at key or gate: the far end"),
        (table(&lost, KEY, ""), "FAILED at target: target-refused"),
        (table(&far, KEY, "service = \"none\""), "FAILED at service: no-such-service"),
        (table(&closed, KEY, ""), "FAILED at connect"),
        (
            table(&far, KEY, "").replace(&far.to_string(), "no-such-name.invalid:1"),
            "FAILED at name",
        ),
        (decrypt_table("t", target.addr(), KEY, ""), "ok (name, connect)"),
        (decrypt_table("t", redis.tcp(), KEY, "check = \"redis\""), "ok (name, connect, check)"),
        (
            decrypt_table("t", target.addr(), KEY, "check = \"redis\""),
            "FAILED at check: it does not answer as Redis does",
        ),
        (
            decrypt_table("t", redis.tcp(), KEY, "check = \"redis\"\nproxy-to-target = \"v1\""),
            "FAILED at check",
        ),
        (decrypt_table("t", &closed, KEY, ""), "FAILED at connect"),
        (decrypt_table("t", target.addr(), KEY, &gate(&redis.url())), "the gate's store: ok"),
        (
            decrypt_table("t", target.addr(), KEY, &gate(&format!("redis://{}", any()))),
            "the gate's store: FAILED at store",
        ),
    ] {
        let answer = check(dir.path(), &text, true);
        assert!(answer.out.contains(expected), "{text}\n{}\n{}", answer.out, answer.err);
        let is_bad = expected.contains("FAILED");
        assert_eq!(answer.status, Some(i32::from(is_bad)), "{}", answer.err);
        let without = check(dir.path(), &text, false);
        // The check itself finds a name that does not resolve.
        let is_lost = expected == "FAILED at name";
        assert_eq!((without.status, without.err.is_empty()), (Some(i32::from(is_lost)), !is_lost));
    }
    decrypt.stop();
}

/// A connection test, as with a target that is down: the service never notices it.
#[test]
fn a_target_without_a_check_is_only_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let target = Target::echo();
    let answer = check(dir.path(), &decrypt_table("t", target.addr(), KEY, ""), true);
    assert_eq!(answer.status, Some(0), "{}{}", answer.out, answer.err);
    Wire::connect(target.addr()).unwrap().expect_echo(b"the first that it sees");
    assert_eq!(target.counts().accepts(), 1);
}

#[test]
fn names_are_resolved_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let far = Addr::parse("127.0.0.1:9").unwrap();
    let table = encrypt_table("t", &far, KEY, "").replace("127.0.0.1:0", "localhost:0");
    let answer = check(dir.path(), &table, false);
    assert_eq!(answer.status, Some(0), "{}", answer.err);
    let shown = answer.out.lines().find(|line| line.starts_with("# localhost:0 is "));
    assert!(shown.is_some_and(|line| line.contains("127.0.0.1:0")), "{}", answer.out);
}

/// The file that it shows has the same effect beside any other, from any directory of the call.
#[test]
fn what_is_shown_of_a_file_in_another_directory_can_be_run_there() {
    let dir = tempfile::tempdir().unwrap();
    let conf = dir.path().join("conf");
    fs::create_dir(&conf).unwrap();
    keygen(&conf, "key");
    let far = Addr::parse("127.0.0.1:9").unwrap();
    let table = encrypt_table("t", &far, KEY, "gate = \"file:gate\"");
    fs::write(conf.join("k.toml"), table).unwrap();
    let shown = |file: &str| {
        let mut check = Command::new(binary());
        let output = check.args(["check", "-c", file]).current_dir(&dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let first = shown("conf/k.toml");
    fs::write(conf.join("shown.toml"), &first).unwrap();
    assert_eq!(shown("conf/shown.toml"), first);
}

#[test]
fn a_file_that_cannot_be_run_is_status_2_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    keygen(dir.path(), "key");
    let table = encrypt_table("t", &any(), KEY, "timeuot = 1");
    let answer = check(dir.path(), &table, false);
    assert_eq!((answer.status, answer.out.as_str()), (Some(2), ""));
    assert!(answer.err.contains("did you mean 'timeout'") && answer.err.lines().count() == 1);
    let gone = Command::new(binary()).args(["run", "-c", "/nonexistent.toml"]).output().unwrap();
    assert_eq!(gone.status.code(), Some(2));
}
