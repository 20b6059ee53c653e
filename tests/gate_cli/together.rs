//! Changes that belong together are all made or none, whatever happens meanwhile.

use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::thread;

use nix::fcntl::{Flock, FlockArg};

use super::{Store, complaint, finish, gate};
use testkit::binary;
use testkit::redis::Reply;

/// Returns so many lines, each with an address of its own.
fn lines(network: u8, count: usize) -> String {
    (0..count).fold(String::new(), |mut text, n| {
        writeln!(text, "{network}.0.{}.{}", n / 256, n % 256).unwrap();
        text
    })
}

/// Counts the entries of a store.
#[track_caller]
fn count(store: &Store) -> usize {
    store.good("list --unsorted").lines().count()
}

#[test]
fn ten_thousand_entries_go_into_a_file_at_once() {
    let store = Store::file();
    store.good("allow 203.0.113.7 --ttl 1h");
    let before = fs::metadata(store.path("gate")).unwrap().ino();
    let answer = store.run_with("import -", &lines(11, 10_000));
    assert_eq!(answer.status, Some(0), "{answer:?}");
    assert!(answer.out.starts_with("imported 10000, unchanged 0, expired 0"), "{answer:?}");
    assert_eq!(count(&store), 10_001, "and who was there is there");
    let file = fs::metadata(store.path("gate")).unwrap();
    assert_ne!(file.ino(), before, "a new file took its place");
    assert_eq!(file.mode() & 0o777, 0o600);
    assert!(!store.path("gate.new").exists());
    let again = store.run_with("import -", &lines(11, 10_000));
    assert_eq!(again.status, Some(3), "{again:?}");
}

/// The limit of a file's size kills the process in the middle of its writing, or, where it ignores
/// the signal, is an error as a full disk is.
#[test]
fn an_import_that_is_cut_off_has_changed_nothing() {
    for (trap, status) in [("", None), ("trap '' XFSZ; ", Some(1))] {
        let store = Store::file();
        store.good("allow 203.0.113.7 203.0.113.8");
        let before = fs::read(store.path("gate")).unwrap();
        let script = format!("{trap}ulimit -f 100; exec \"$0\" gate import - \"$@\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(binary()).args(&store.flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let answer = finish(command, &lines(11, 10_000));
        assert_eq!(answer.status, status, "{answer:?}");
        if status.is_some() {
            complaint(&answer, 1, &["gate file", "nothing was changed"]);
            assert!(!store.path("gate.new").exists(), "the disk is as full as before");
        }
        assert_eq!(fs::read(store.path("gate")).unwrap(), before);
        // The remains of a killed writer are no obstacle.
        let answer = store.run_with("import -", &lines(11, 10_000));
        assert_eq!(answer.status, Some(0), "{answer:?}");
        assert_eq!(count(&store), 10_002);
        assert!(!store.path("gate.new").exists());
    }
}

#[test]
fn several_imports_at_once_are_all_made() {
    let store = Store::file();
    let files: Vec<String> = (20..24)
        .map(|network| {
            let file = store.path(&network.to_string());
            fs::write(&file, lines(network, 2_000)).unwrap();
            format!("import {}", file.display())
        })
        .collect();
    thread::scope(|scope| {
        for import in &files {
            scope.spawn(|| store.good(import));
        }
    });
    assert_eq!(count(&store), 8_000);
}

#[test]
fn a_file_that_another_holds_is_told_once_and_nothing_is_done() {
    let store = Store::file();
    store.good("allow 203.0.113.7");
    let file = File::open(store.path("gate")).unwrap();
    let held = Flock::lock(file, FlockArg::LockExclusive).unwrap();
    let answer = store.run_with("import -", &lines(11, 100));
    complaint(&answer, 1, &["another process holds its lock", "fuser"]);
    drop(held);
    assert_eq!(count(&store), 1);
}

/// The second of these could not be made where the file is full, or the disk.
#[test]
fn changes_of_one_command_are_made_together() {
    let store = Store::file();
    let members: Vec<String> = (0..200).map(|n| format!("203.0.{n}.0/24")).collect();
    let members = members.join(" ");
    store.good(&format!("allow {members}"));
    let before = fs::read(store.path("gate")).unwrap();
    for change in ["remove", "allow --ttl 1h"] {
        let script = "trap '' XFSZ; ulimit -f 4; exec \"$0\" gate \"$@\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(binary()).args(change.split(' '));
        // Twice as much as there is room for.
        command.args(members.split(' ').take(100)).args(&store.flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let answer = finish(command, "");
        complaint(&answer, 1, &["nothing was changed"]);
        assert_eq!(answer.out, "", "nothing is told as done");
        assert_eq!(fs::read(store.path("gate")).unwrap(), before, "{change}");
    }
}

#[test]
fn changes_in_redis_are_one_transaction() {
    let store = Store::redis();
    let calls = |command: &str| {
        let stats = store.ask("INFO commandstats").text();
        let line = format!("cmdstat_{command}:calls=");
        let found = stats.lines().find_map(|text| text.strip_prefix(&line)?.split(',').next());
        found.map_or(0, |calls| calls.parse::<usize>().unwrap())
    };
    for (done, (change, lines)) in [
        ("allow 203.0.113.1 203.0.113.2 203.0.113.0/24", 3),
        ("deny 203.0.113.1 203.0.113.2", 4),
        ("unban 203.0.113.1 203.0.113.2", 2),
        ("allow 203.0.113.1 203.0.113.2", 2),
        ("remove 203.0.113.1 203.0.113.2 203.0.113.0/24", 3),
    ]
    .into_iter()
    .enumerate()
    {
        let text = store.good(change);
        assert_eq!(text.lines().count(), lines, "{text}");
        assert!(!text.contains("unchanged"), "{text}");
        assert_eq!(calls("exec"), done + 1, "{change}");
    }
    assert_eq!(store.ask("EXISTS ip-allowed"), Reply::Number(0));
    let before = calls("exec");
    let answer = store.run_with("import -", &lines(11, 10_000));
    assert!(answer.out.starts_with("imported 10000, "), "{answer:?}");
    assert_eq!(calls("exec"), before + 1, "all or nothing");
    // A member in another spelling is found, and reported with the others.
    store.ask("SADD ip-allowed 2001:DB8:0:0::7");
    let text = store.good("remove 2001:db8::7 11.0.0.1");
    assert!(!text.contains("unchanged"), "{text}");
    // None of them where one cannot be made: the set is plain.
    let answer = store.run_with("import - --ttl 1h", "203.0.113.7\n198.51.100.0/24\n");
    complaint(&answer, 1, &["plain set"]);
    assert_eq!(store.ask("SCARD ip-allowed"), Reply::Number(9_999));
}

/// A user that may ban and not remove does neither by a command that is both.
#[test]
fn a_transaction_that_redis_refuses_does_nothing() {
    let store = Store::redis();
    store.good("allow 203.0.113.7");
    store.ask("ACL SETUSER default -srem");
    complaint(&store.run("deny 203.0.113.7 203.0.113.8"), 1, &["ip-allowed"]);
    let listed = store.good("list");
    assert!(listed.contains("allowed  203.0.113.7") && !listed.contains("banned"), "{listed}");
}

#[test]
fn an_import_of_nothing_says_so() {
    for store in Store::each() {
        store.good("allow 203.0.113.7");
        for nothing in ["", "\u{feff}", "# only a comment\r\n\r\n"] {
            let answer = store.run_with("import -", nothing);
            assert_eq!(answer.status, Some(3), "{answer:?}");
            assert!(answer.err.contains("no entries in standard input; write"), "{answer:?}");
        }
    }
    assert_eq!(gate(&["import", "-"], "").status, Some(2));
}
