//! The stores that `knockpipe gate` asks: their permissions, the choice between them, and those
//! that do not work.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use super::{BANS, Store, complaint, finish, gate, objects};
use testkit::redis::{Redis, Reply, replica_of};
use testkit::{binary, eventually};

#[test]
fn a_password_comes_from_a_file_or_the_environment() {
    let mut store = Store::redis_with(&["--requirepass", "geheim"]);
    store.redis.as_ref().unwrap().direct().ask(&["AUTH", "geheim"]);
    let remedy = ["--gate-credentials FILE", "KNOCKPIPE_GATE_CREDENTIALS"];
    for line in ["list", "allow 203.0.113.7", "history"] {
        store.fails(line, 1, &[&["NOAUTH"], &remedy[..]].concat());
    }
    let file = store.path("pass");
    let write = |mode, text: &str| {
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    };
    let plain = store.flags.clone();
    store.flags.extend(["--gate-credentials".to_owned(), file.display().to_string()]);
    write(0o600, "geheim\n");
    store.good("allow 203.0.113.7");
    write(0o600, "default:geheim");
    store.good("list");
    write(0o600, "falsch");
    let wrong = ["WRONGPASS", "the password there is wrong"];
    let text = store.fails("list", 1, &[&wrong, &remedy[..]].concat());
    assert!(!text.contains("falsch"), "{text}");
    write(0o644, "geheim");
    store.fails("list", 2, &["chmod 600"]);

    let mut command = Command::new(binary());
    command.args(["gate", "list"]).args(&plain).env("KNOCKPIPE_GATE_CREDENTIALS", "geheim");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let answer = finish(command, "");
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert!(answer.out.contains("203.0.113.7"), "{answer:?}");

    let url = plain[1].replace("redis://", "redis://:geheim@");
    let answer = gate(&["list", "--gate", &url], "");
    let text = complaint(&answer, 2, &["'ps'", "--gate-credentials"]);
    assert!(!text.contains("geheim"), "{text}");
}

/// The owner of a file decides its content; root's commands read it too.
#[test]
fn a_gate_file_without_lines_fills_no_memory() {
    let store = Store::file();
    store.good("allow 203.0.113.7");
    let file = store.path("gate");
    let whole = fs::metadata(&file).unwrap().len();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(3 << 30).unwrap();
    let mut command = Command::new("sh");
    // Enough memory for the program, and far less than for the file.
    command.args(["-c", "ulimit -v 2000000; exec \"$0\" gate list \"$@\""]).arg(binary());
    command.args(&store.flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let answer = finish(command, "");
    let parts = [&format!("is damaged at byte {whole}"), "more after it", "restore it from a copy"];
    complaint(&answer, 1, &parts);
    assert_eq!(fs::metadata(&file).unwrap().len(), 3 << 30, "nothing is cut");
}

/// Reported at the start, not by the first connection long after it.
#[test]
#[cfg(feature = "aws-lc")]
fn a_ca_without_certificates_is_a_mistake_of_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for text in ["", "no certificate\n", key, broken] {
        fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        let words = ["list", "--gate", "rediss://127.0.0.1:1", "--gate-ca", path];
        complaint(&gate(&words, ""), 2, &["--gate-ca", path, "certificates"]);
    }
}

#[test]
fn a_replica_leads_to_its_master() {
    let store = Store::redis();
    let master = store.redis.as_ref().unwrap();
    let of = replica_of(master.tcp());
    let of: Vec<&str> = of.iter().map(String::as_str).collect();
    let replica = Redis::start_with(&of);
    eventually("the replica has its copy", || {
        replica.direct().ask(&["INFO", "replication"]).text().contains("master_link_status:up")
    });
    let url = format!("redis://{}", replica.tcp());
    let answer = gate(&["allow", "203.0.113.7", "--gate", &url], "");
    assert_eq!(answer.status, Some(0), "{answer:?}");
    let place = format!("on {} (master of {})", master.tcp(), replica.tcp());
    assert!(answer.out.trim_end().ends_with(&place), "{answer:?}");
    assert_eq!(store.ask("SISMEMBER ip-allowed 203.0.113.7"), Reply::Number(1));
    let answer = gate(&["ban", "203.0.113.8", "--json", "--gate", &url], "");
    let one = &objects(&answer.out)[0];
    assert_eq!(one["server"], master.tcp().to_string());
    assert_eq!(one["asked"], replica.tcp().to_string());

    // A replica without its master cannot be written, and says so.
    let (no_listener, _held) = testkit::address::refusing();
    let no_listener = no_listener.tcp();
    let reply = replica.direct().ask(&[
        "REPLICAOF",
        &no_listener.ip().to_string(),
        &no_listener.port().to_string(),
    ]);
    assert_eq!(reply, Reply::ok());
    let answer = gate(&["ban", "203.0.113.9", "--gate", &url], "");
    complaint(&answer, 1, &[&no_listener.to_string(), "203.0.113.9"]);
}

/// A copy that has not come yet looks like an empty set.
#[test]
fn a_replica_without_a_copy_does_not_answer_for_its_master() {
    let store = Store::redis();
    let master = store.redis.as_ref().unwrap();
    // For so long it makes no copy.
    assert_eq!(store.ask("CONFIG SET repl-diskless-sync-delay 3600"), Reply::ok());
    store.ask("SADD ip-allowed 203.0.113.7");
    let of = replica_of(master.tcp());
    let of: Vec<&str> = of.iter().map(String::as_str).collect();
    let replica = Redis::start_with(&of);
    let copy = replica.direct().ask(&["SISMEMBER", "ip-allowed", "203.0.113.7"]);
    assert_eq!(copy, Reply::Number(0), "its copy is empty");
    let url = format!("redis://{}", replica.tcp());
    let place = format!("on {} (master of {})", master.tcp(), replica.tcp());
    let answer = gate(&["remove", "203.0.113.7", "--gate", &url], "");
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert!(answer.out.trim_end().ends_with(&place), "{answer:?}");
    assert_eq!(store.ask("SISMEMBER ip-allowed 203.0.113.7"), Reply::Number(0));
    // "No change" is the master's answer, too.
    let answer = gate(&["remove", "203.0.113.7", "--gate", &url], "");
    assert_eq!(answer.status, Some(3), "{answer:?}");
    assert!(answer.out.contains(&place), "{answer:?}");
}

#[test]
fn the_database_is_named() {
    let mut store = Store::redis();
    store.flags[1] += "/3";
    let text = store.good("allow 203.0.113.7");
    assert!(text.trim_end().ends_with(&format!("on {} db 3", store.server())), "{text}");
    assert_eq!(store.json("ban 203.0.113.7")[0]["db"], 3);
    store.flags[1] = format!("unix://{}?db=3", store.redis.as_ref().unwrap().unix());
    assert!(store.good("list").contains("allowed  203.0.113.7"));
}

#[test]
fn a_store_that_does_not_work() {
    let store = Store::redis();
    store.ask("SET ip-allowed x");
    for line in ["allow 203.0.113.7", "remove 203.0.113.7", "list", "why 203.0.113.7"] {
        let answer = store.run(line);
        complaint(&answer, 1, &["ip-allowed", "--set", &store.server()]);
    }
    store.good("ban 203.0.113.7");
    store.ask("DEL ip-allowed");
    store.ask("SET ip-history x");
    for line in ["history", "reap --idle 1d", "why 203.0.113.7"] {
        let text = store.fails(line, 1, &["WRONGTYPE", "\"ip-history\"", "--history"]);
        assert!(!text.contains("--set") && !text.contains("--ban-prefix"), "{text}");
    }
    store.ask("DEL ip-history");
    store.ask("SADD ip-allowed junk 203.0.113.1");
    store.ask(&format!("SET {BANS}user-7 1"));
    let answer = store.run("list");
    assert_eq!(answer.status, Some(0));
    assert_eq!(answer.out.lines().count(), 2, "{answer:?}");
    assert!(answer.err.contains("1 entries of the set") && answer.err.contains("1 bans"));

    let (addr, _held) = testkit::address::refusing();
    let url = format!("redis://{addr}");
    for line in ["allow 203.0.113.7", "list", "history", "unban 203.0.113.7", "reap --idle 1d"] {
        let words: Vec<&str> = line.split(' ').chain(["--gate", &url]).collect();
        complaint(&gate(&words, ""), 1, &[&addr.to_string(), "can be reached"]);
    }
    let file = Store::file();
    for line in ["list", "remove 203.0.113.7", "unban 203.0.113.7", "why 203.0.113.7", "export"] {
        file.fails(line, 1, &["there is no gate file", "check the path"]);
        assert!(!file.path("gate").exists(), "a mistyped path makes no file");
    }
    fs::write(file.path("gate"), "something else").unwrap();
    fs::set_permissions(file.path("gate"), Permissions::from_mode(0o600)).unwrap();
    complaint(&file.run("list"), 1, &["gate file"]);
}
