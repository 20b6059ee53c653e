//! Diagnosis of failures by the ends, and by `knockpipe check`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use testkit::file::{decrypt_table, encrypt_table};
use testkit::redis::Redis;
use testkit::{Addr, End, Launch, Pair, Target, any, binary, keygen};

fn check(args: &[&str], key: &Path) -> (Option<i32>, String, String) {
    let mut command = Command::new(binary());
    let Output { status, stdout, stderr } =
        command.arg("check").args(args).arg("-k").arg(key).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (status.code(), text(&stdout), text(&stderr))
}

/// Returns the log line of the encrypt end about its first client, with this far end.
fn detail_of(key: &Path, far_end: &Addr) -> String {
    let launch = Launch::encrypt(key).source(&any()).target(far_end).args(["-o", "1s"]);
    let encrypt = launch.start();
    let _client = encrypt.connect();
    encrypt.wait_closed("no-answer").field("detail").unwrap()
}

#[test]
fn what_answers_in_place_of_a_decrypt_end_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let greets = |words: &'static [u8]| {
        Target::local(move |mut wire, _| {
            let _ = wire.write_all(words);
            let _ = wire.read_to_ending(testkit::NEVER);
        })
    };
    for (words, expected) in [
        (&b"J\0\0\0\x0a8.0.36\0rest"[..], "it looks like MySQL or MariaDB; point -t"),
        (b"-ERR wrong\x1b[2J\r\n", "it looks like Redis; point -t"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "it looks like HTTP; point -t"),
        (b"\x15\x03\x01\0\x02\x02\x46", "it looks like TLS; point -t"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "it looks like SSH; point -t"),
        (b"220 mail ESMTP\r\n", "it looks like mail or FTP; point -t"),
        (b"", "does not answer; check that"),
    ] {
        let far_end = greets(words);
        let detail = detail_of(&key, far_end.addr());
        assert!(detail.contains(expected), "{detail}");
        assert!(!detail.contains("\x1b") && !detail.contains("2J"), "{detail}");
    }
    let hasty = Target::local(|wire, _| drop(wire));
    let detail = detail_of(&key, hasty.addr());
    assert!(detail.contains("at once, without a byte"), "{detail}");
}

#[test]
fn plain_words_at_a_sealed_port_are_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let target = Target::echo();
    let launch = Launch::decrypt(&key).source(&any()).target(target.addr()).args(["-o", "300ms"]);
    let decrypt: End = launch.start();
    let mut client = decrypt.connect();
    client.write_all(b"*1\r\n$4\r\nPING\r\n").unwrap();
    let line = decrypt.wait_refused("handshake-failed");
    let hint = line.field("hint").unwrap();
    assert!(hint.contains("Redis (1)") && hint.contains("this end should be encrypt"), "{hint}");
}

#[test]
fn check_without_a_file_tells_each_step() {
    let redis = Redis::start();
    let pair = Pair::to(redis.tcp());
    let far_end = pair.decrypt.addr().to_string();
    let (status, out, err) = check(&["-t", &far_end], pair.key());
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    for step in ["name", "connect", "key or gate", "clock", "service", "target", "MTU"] {
        assert!(out.lines().any(|line| line.starts_with(&format!("{step}: ok"))), "{step}: {out}");
    }
    let wrong = keygen(pair.dir(), "wrong");
    for (args, key, step) in [
        (vec!["-t", "no-such-name.invalid:1"], pair.key(), "name: FAIL: "),
        (vec!["-t", &far_end, "-o", "1s"], &wrong, "key or gate: FAIL: "),
        (vec!["-t", &far_end, "--service", "none"], pair.key(), "service: FAIL: no-such-service"),
        (
            vec!["-s", &far_end, "-t", &far_end.replace("127.0.0.1", "127.0.0.9")],
            pair.key(),
            "listen: FAIL: ",
        ),
    ] {
        let (status, out, err) = check(&args, key);
        assert_eq!(status, Some(1), "{out}{err}");
        assert!(out.contains(step), "{step}: {out}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    let redis = redis.tcp().to_string();
    let args = ["-s", "127.0.0.1:0", "-t", &redis, "--check", "redis"];
    let (status, out, _) = check(&args, pair.key());
    assert_eq!(status, Some(0), "{out}");
    assert!(out.contains("listen: ok") && out.contains("check: ok"), "{out}");
    assert_eq!(check(&[], pair.key()).0, Some(2), "a key alone is no tunnel");
}

#[test]
fn tunnels_that_would_dial_themselves_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    for (source, target) in [
        ("0.0.0.0:16379", "127.0.0.1:16379"),
        ("[::]:16379", "localhost:16379"),
        ("127.0.0.1:16379", "0.0.0.0:16379"),
    ] {
        let mut encrypt = Command::new(binary());
        encrypt.args(["encrypt", "-s", source, "-t", target, "-k"]).arg(&key);
        let output = encrypt.output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{err}");
        assert!(err.contains("round for ever") && err.lines().count() == 1, "{err}");
    }
    let addr = |text: &str| Addr::parse(text).unwrap();
    let table = |encrypt_to: &str, decrypt_to: &str| {
        let enc = encrypt_table("enc", &addr(encrypt_to), "\"key\"", "");
        let enc = enc.replace("127.0.0.1:0", "127.0.0.1:16379");
        let dec = decrypt_table("dec", &addr(decrypt_to), "\"key\"", "");
        format!("{enc}{}", dec.replace("127.0.0.1:0", "127.0.0.1:16380"))
    };
    let file = dir.path().join("ring.toml");
    for (target, status) in [("127.0.0.1:16379", 2), ("127.0.0.1:16381", 0)] {
        fs::write(&file, table("127.0.0.1:16380", target)).unwrap();
        let output = Command::new(binary()).arg("check").arg("-c").arg(&file).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{target}: {err}");
    }
}
