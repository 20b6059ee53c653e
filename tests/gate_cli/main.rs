//! `knockpipe gate` as an operator uses it: against a real redis-server without the command KEYS,
//! and against a file; exit status, text and JSON.

mod ends;
mod in_memory;
mod named;
mod notes;
mod others;
mod stores;
mod together;
mod why;
mod written;

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use testkit::redis::{Redis, Reply};
use testkit::{NEVER, binary};

const BANS: &str = "cache:gitlab:rack::attack:allow2ban:ban:";

/// A store, and the flags that name it.
struct Store {
    dir: TempDir,
    redis: Option<Redis>,
    flags: Vec<String>,
}

/// An answer of a command.
#[derive(Debug)]
struct Answer {
    status: Option<i32>,
    out: String,
    err: String,
}

impl Store {
    fn file() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags =
            vec!["--gate".to_owned(), format!("file:{}", dir.path().join("gate").display())];
        Self { dir, redis: None, flags }
    }

    fn redis() -> Self {
        Self::redis_with(&[])
    }

    fn redis_with(options: &[&str]) -> Self {
        let redis = Redis::start_with(options);
        let flags = vec!["--gate".to_owned(), format!("redis://{}", redis.tcp())];
        Self { dir: tempfile::tempdir().unwrap(), redis: Some(redis), flags }
    }

    fn each() -> [Self; 2] {
        [Self::redis(), Self::file()]
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn server(&self) -> String {
        match &self.redis {
            Some(redis) => redis.tcp().to_string(),
            None => self.path("gate").display().to_string(),
        }
    }

    /// Asks Redis directly; words are split at spaces.
    #[track_caller]
    fn ask(&self, command: &str) -> Reply {
        let words: Vec<&str> = command.split(' ').collect();
        self.redis.as_ref().expect("it is in Redis").direct().ask(&words)
    }

    /// Runs `gate COMMAND` with the flags of the store; words are split at spaces.
    fn run(&self, command: &str) -> Answer {
        self.run_with(command, "")
    }

    fn run_with(&self, command: &str, input: &str) -> Answer {
        let mut words: Vec<&str> = command.split(' ').collect();
        words.extend(self.flags.iter().map(String::as_str));
        gate(&words, input)
    }

    /// Returns the output of a command that succeeds.
    #[track_caller]
    fn good(&self, command: &str) -> String {
        let answer = self.run(command);
        assert_eq!((answer.status, answer.err.as_str()), (Some(0), ""), "{command}: {answer:?}");
        answer.out
    }

    /// Returns it as JSON objects.
    #[track_caller]
    fn json(&self, command: &str) -> Vec<Value> {
        objects(&self.good(&format!("{command} --json")))
    }

    #[track_caller]
    fn unchanged(&self, command: &str) -> Answer {
        let answer = self.run(command);
        assert_eq!(answer.status, Some(3), "{command}: {answer:?}");
        answer
    }

    /// Returns the one line of a failure.
    #[track_caller]
    fn fails(&self, command: &str, status: i32, parts: &[&str]) -> String {
        complaint(&self.run(command), status, parts)
    }
}

fn gate(words: &[&str], input: &str) -> Answer {
    let mut command = Command::new(binary());
    command.arg("gate").args(words).stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).env_remove("KNOCKPIPE_GATE_CREDENTIALS");
    finish(command, input)
}

fn finish(mut command: Command, input: &str) -> Answer {
    let mut child = command.spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = testkit::wait::bounded("the command ends", move || child.wait_with_output());
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[track_caller]
fn complaint(answer: &Answer, status: i32, parts: &[&str]) -> String {
    assert_eq!(answer.status, Some(status), "{answer:?}");
    assert_eq!(answer.err.lines().count(), 1, "{answer:?}");
    assert!(answer.err.starts_with("knockpipe: ") && answer.err.contains("; "), "{answer:?}");
    for part in parts {
        assert!(answer.err.contains(part), "no '{part}' in {answer:?}");
    }
    answer.err.clone()
}

fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Returns the columns of `list`: kind, member, time left; without the note behind them.
fn columns(text: &str) -> Vec<Vec<&str>> {
    let bare = text.lines().map(|line| line.split(" by ").next().unwrap_or_default());
    bare.map(|line| line.split_whitespace().collect()).collect()
}

#[test]
fn allowed_and_removed_entries_are_printed_with_their_place() {
    for store in Store::each() {
        let text = store.good("allow 203.0.113.7 ::ffff:198.51.100.1 203.0.113.77/24");
        for (line, member) in text.lines().zip(["203.0.113.7", "198.51.100.1", "203.0.113.0/24"]) {
            assert!(line.starts_with("allowed ") && line.contains(" for ever "), "{text}");
            assert!(line.contains(&format!(" {member} ")), "{text}");
            assert!(line.ends_with(&store.server()) && line.contains(" key "), "{text}");
        }
        assert_eq!(text.lines().count(), 3);
        let again = store.unchanged("allow 203.0.113.7");
        assert!(again.out.starts_with("unchanged  203.0.113.7 "), "{again:?}");

        let listed = store.good("list");
        let kinds = ["198.51.100.1", "203.0.113.7", "203.0.113.0/24"];
        assert_eq!(columns(&listed), kinds.map(|member| vec!["allowed", member, "for", "ever"]));
        assert_eq!(store.good("list --unsorted").lines().count(), 3);

        let one = &store.json("remove ::ffff:203.0.113.7")[0];
        assert_eq!(one["action"], "remove");
        assert_eq!((&one["subject"], &one["changed"]), (&"203.0.113.7".into(), &true.into()));
        assert!(one["server"].as_str().unwrap().ends_with(&store.server()), "{one}");
        assert!(one["key"].is_string(), "{one}");
        assert!(store.unchanged("remove 203.0.113.7").out.contains("not in the set"));
        // One change among several is a change.
        store.good("remove 203.0.113.7 203.0.113.0/24 198.51.100.1");
        assert_eq!(store.good("list"), "");
    }
}

#[test]
fn a_grant_ends() {
    for store in Store::each() {
        store.good("allow 203.0.113.7 --ttl 12h");
        let [one] = &store.json("list")[..] else { panic!("not one") };
        assert_eq!((&one["kind"], &one["member"]), (&"allowed".into(), &"203.0.113.7".into()));
        assert!((43_000..=43_200).contains(&one["ttl_s"].as_u64().unwrap()), "{one}");
        assert!(one["expires_ms"].is_u64(), "{one}");
    }
    let store = Store::redis();
    store.ask("SADD ip-allowed 203.0.113.1");
    let parts = ["plain set", "ip-allowed", "start the tunnel with the same --allow-prefix"];
    store.fails("allow 203.0.113.7 --ttl 1h", 1, &parts);
    let text = store.good("allow 203.0.113.7 --ttl 1h --allow-prefix may");
    assert!(text.contains("key may:203.0.113.7 ") && !text.contains("ZADD"), "{text}");
    assert_eq!(store.ask("EXISTS may:203.0.113.7"), Reply::Number(1));
    let listed = store.good("list --allow-prefix may:");
    let members: Vec<_> = columns(&listed).iter().map(|line| line[1].to_owned()).collect();
    assert_eq!(members, ["203.0.113.1", "203.0.113.7"]);
}

/// The two ways of adding an address: the line of a login page, and the command.
#[test]
fn the_line_of_a_login_page_goes_with_the_form_of_the_set() {
    let store = Store::redis();
    let text = store.good("allow 203.0.113.7 --ttl 12h");
    assert!(text.trim_end().ends_with("(a sorted set now: other writers must use ZADD)"), "{text}");
    let refused = store.ask("SADD ip-allowed 203.0.113.8");
    assert!(matches!(&refused, Reply::Error(said) if said.starts_with("WRONGTYPE")), "{refused:?}");
    assert_eq!(store.ask("ZADD ip-allowed 4102444800 203.0.113.8"), Reply::Number(1));
    assert!(!store.good("allow 203.0.113.9").contains("ZADD"), "who stays for ever is no news");
    assert!(store.good("why 203.0.113.8").contains("allow-set"));
    let file = Store::file();
    assert!(!file.good("allow 203.0.113.7 --ttl 12h").contains("ZADD"));
}

#[test]
fn bans_are_those_of_gitlab() {
    let store = Store::redis();
    let text = store.good("ban 203.0.113.7 2001:db8::7 --ttl 1h");
    assert!(text.contains(&format!("for 1h          key {BANS}2001:db8::7 on ")), "{text}");
    assert_eq!(store.ask(&format!("GET {BANS}203.0.113.7")), Reply::bulk("1"));
    let Reply::Number(ttl) = store.ask(&format!("TTL {BANS}2001:db8::7")) else { panic!() };
    assert!((3590..=3600).contains(&ttl), "{ttl}");
    store.ask(&format!("SETEX {BANS}198.51.100.9 86400 1"));
    let listed = store.good("list");
    let listed: Vec<_> = columns(&listed).iter().map(|line| line[..2].join(" ")).collect();
    assert_eq!(listed, ["banned 198.51.100.9", "banned 203.0.113.7", "banned 2001:db8::7"]);
    store.good("unban 198.51.100.9");
    store.unchanged("unban 198.51.100.9");
    assert_eq!(store.ask(&format!("EXISTS {BANS}198.51.100.9")), Reply::Number(0));
    let text = store.good("ban 203.0.113.7 --ban-prefix other:ban");
    assert!(text.contains("for 1d") && text.contains("key other:ban:203.0.113.7"), "{text}");
}

#[test]
fn deny_bans_and_removes_and_the_others_do_one_of_both() {
    for store in Store::each() {
        store.good("allow 203.0.113.7 203.0.113.0/24");
        let text = store.good("deny 203.0.113.7");
        let words: Vec<_> = columns(&text).iter().map(|line| line[..2].join(" ")).collect();
        assert_eq!(words, ["banned 203.0.113.7", "removed 203.0.113.7"]);
        assert!(store.good("why 203.0.113.7").starts_with("203.0.113.7 is denied: banned, for "));
        store.good("unban 203.0.113.7");
        let why = store.good("why 203.0.113.7");
        assert!(why.contains("=> allow-set     203.0.113.0/24 in key"), "{why}");
        store.good("ban 203.0.113.8");
        store.good("remove 203.0.113.0/24");
        assert!(store.good("why 203.0.113.8").contains("denied: banned"));
    }
}

#[test]
fn what_is_probably_a_mistake_needs_force() {
    for store in Store::each() {
        for wide in ["0.0.0.0/0", "::/0", "10.0.0.0/15", "2001:db8::/63", "::ffff:10.0.0.0/104"] {
            store.fails(&format!("allow 203.0.113.7 {wide}"), 2, &["--force", "smaller"]);
            assert!(!store.path("gate").exists(), "it was not even opened");
        }
        store.good("allow 203.0.0.0/16 2001:db8::/64");
        store.good("allow 10.0.0.0/15 --force");
        for line in [
            "ban 198.51.100.1 203.0.113.7 --allow 203.0.113.0/24",
            "deny 203.0.113.7 --proxy-from 10.0.0.1,203.0.113.7",
        ] {
            store.fails(line, 2, &["203.0.113.7 is in --", "--force"]);
            assert!(!store.good("list").contains("banned"), "nothing is half done");
            store.good(&format!("{line} --force"));
            store.run("unban 203.0.113.7 198.51.100.1");
        }
        let answer = store.run_with("import -", "203.0.113.9\n0.0.0.0/0\n");
        complaint(&answer, 2, &["line 2 of standard input", "0.0.0.0/0", "--force"]);
        assert!(!store.good("list").contains("203.0.113.9"), "nothing is half done");
        store.fails("ban 203.0.113.0/24", 2, &["only single addresses", "gate remove"]);
        store.fails("unban 203.0.113.0/24", 2, &["only single addresses"]);
    }
}

#[test]
fn idle_addresses_are_reaped() {
    let store = Store::redis();
    store.ask("SADD ip-allowed 203.0.113.1 203.0.113.2 203.0.113.3 203.0.113.0/24");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    store.ask(&format!(
        "HSET ip-history 203.0.113.1 {} 203.0.113.2 {now} junk 5",
        now - 40 * 86_400
    ));
    let answer = store.run("history");
    assert_eq!(answer.status, Some(0));
    assert!(answer.err.contains("1 entries of the history are not an address"), "{answer:?}");
    let lines: Vec<_> = answer.out.lines().collect();
    assert!(lines[0].contains("Z 203.0.113.1 ") && lines[0].ends_with(" 40d ago"), "{answer:?}");
    assert!(lines[1].contains("Z 203.0.113.2 "), "the latest is last");
    assert_eq!(objects(&store.run("history --json").out)[1]["seen"], now);

    let text = store.good("reap --idle 30d --dry-run");
    assert!(text.starts_with("would-reap 203.0.113.1 ") && text.lines().count() == 1, "{text}");
    assert_eq!(store.ask("SCARD ip-allowed"), Reply::Number(4));
    assert_eq!(store.unchanged("reap --idle 50d").out, "");
    let text = store.good("reap --idle 30d");
    assert!(text.starts_with("reaped     203.0.113.1 ") && text.contains("ip-history"), "{text}");
    assert_eq!(store.ask("SISMEMBER ip-allowed 203.0.113.1"), Reply::Number(0));
    assert_eq!(store.ask("HEXISTS ip-history 203.0.113.1"), Reply::Number(0));
    assert_eq!(store.ask("SCARD ip-allowed"), Reply::Number(3), "never seen is not idle");
    store.unchanged("reap --idle 30d");
}

#[test]
fn what_is_exported_can_be_imported_anywhere_and_twice() {
    for (from, to) in [(Store::redis(), Store::file()), (Store::file(), Store::redis())] {
        from.good("allow 203.0.113.0/24 2001:db8::7 --ttl 1h");
        from.good("allow 198.51.100.1");
        from.good("ban 192.0.2.1 --ttl 2h");
        let lines = from.good("export");
        assert_eq!(lines.lines().count(), 4, "{lines}");
        assert!(objects(&lines).iter().all(|line| line["member"].is_string()));
        let answer = to.run_with("import -", &lines);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        assert!(answer.out.starts_with("imported 4, unchanged 0, expired 0, on "), "{answer:?}");
        assert!(answer.out.trim_end().ends_with(&to.server()), "{answer:?}");
        for member in ["203.0.113.0/24", "2001:db8::7", "198.51.100.1", "192.0.2.1"] {
            assert!(to.good("list").contains(member), "{member}");
        }
        let again = to.run_with("import - --json", &lines);
        assert_eq!(again.status, Some(3), "{again:?}");
        let counts = &objects(&again.out)[0];
        assert_eq!((&counts["changed"], &counts["unchanged"]), (&0.into(), &4.into()), "{counts}");
    }
}

/// An empty database takes what a sorted set held, whichever line comes first;
/// a plain set that cannot take it stays as it is.
#[test]
fn a_sorted_set_goes_into_an_empty_database_whatever_comes_first() {
    let from = Store::redis();
    let end = end_in(3_600);
    from.ask(&format!("ZADD ip-allowed {end} 203.0.113.0/24 {end} 2001:db8::7"));
    // So many that several are under way at once.
    let hosts: Vec<String> = (0..200).map(|n| format!("198.51.100.{n}")).collect();
    for host in &hosts {
        from.ask(&format!("ZADD ip-allowed +inf {host}"));
    }
    from.good("ban 192.0.2.1 --ttl 2h");
    let exported = from.good("export");
    let (timed, plain): (Vec<&str>, Vec<&str>) =
        exported.lines().partition(|line| !line.contains("198.51.100."));
    assert_eq!((timed.len(), plain.len()), (3, 200), "{exported}");
    for lines in [[&timed[..], &plain].concat(), [&plain[..], &timed].concat()] {
        let input = lines.join("\n");
        let to = Store::redis();
        let answer = to.run_with("import -", &input);
        assert_eq!(answer.status, Some(0), "{answer:?}");
        assert!(answer.out.starts_with("imported 203, unchanged 0, expired 0, on "), "{answer:?}");
        assert_eq!(to.ask("TYPE ip-allowed"), Reply::Simple("zset".to_owned()));
        assert_eq!(to.ask("ZCARD ip-allowed"), Reply::Number(202));
        assert_eq!(to.ask("ZCOUNT ip-allowed -inf (inf"), Reply::Number(2), "both keep their ends");

        let full = Store::redis();
        full.ask("SADD ip-allowed 192.0.2.99");
        complaint(&full.run_with("import -", &input), 1, &["plain set", "ip-allowed"]);
        assert_eq!(full.ask("DBSIZE"), Reply::Number(1));
        assert_eq!(full.ask("SCARD ip-allowed"), Reply::Number(1), "nothing is half done");
    }
}

/// Returns the unix second that is so many seconds away.
fn end_in(seconds: u64) -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs() + seconds
}

/// Many changes are under way at once over one connection, so that there is no moment without a
/// question; the sizes of their answers do not add up all the same.
#[test]
fn a_large_list_is_imported_whole() {
    let store = Store::redis();
    let lines: String =
        (0..300_000_u32).map(|n| format!("{}\n", Ipv4Addr::from_bits((10 << 24) + n))).collect();
    let answer = store.run_with("import - --ttl 1h", &lines);
    assert!(
        answer.out.starts_with("imported 300000, unchanged 0"),
        "{} {}",
        answer.out,
        answer.err
    );
    assert_eq!(store.ask("ZCARD ip-allowed"), Reply::Number(300_000));
}

#[test]
fn imports_of_plain_lines_and_of_bad_ones() {
    for store in Store::each() {
        let list = store.path("office.txt");
        fs::write(&list, "# the office\n203.0.113.7 # Ada\n\n 2001:db8::/64#v6\n  #\n").unwrap();
        let line = format!("import {}", list.display());
        assert!(store.good(&line).starts_with("imported 2, unchanged 0"));
        assert!(store.unchanged(&line).out.starts_with("imported 0, unchanged 2"));
        let past = r#"{"kind":"allowed","member":"203.0.113.99","expires_ms":1000}"#;
        let answer = store.run_with("import -", past);
        assert_eq!(answer.status, Some(3), "{answer:?}");
        assert!(answer.out.contains("expired 1"), "{answer:?}");
        let cases = [
            ("203.0.113.8\nexample.org\n", "line 2 of standard input", "not an address"),
            ("{\"kind\":\"allowed\"}", "line 1", "\"member\" is not text"),
            ("{\"kind\":\"x\",\"member\":\"203.0.113.8\"}", "line 1", "\"kind\""),
            ("{\"kind\":\"allowed\",", "line 1", "no JSON"),
            ("{\"kind\":\"banned\",\"member\":\"203.0.113.0/24\"}", "line 1", "single addresses"),
            (
                "{\"kind\":\"allowed\",\"member\":\"203.0.113.8\",\"expires_ms\":-1}",
                "line 1",
                "unix",
            ),
        ];
        for (input, one, other) in cases {
            complaint(&store.run_with("import -", input), 2, &[one, other, "nothing was imported"]);
        }
        assert!(!store.good("list").contains("203.0.113.8"), "nothing is half done");
        store.fails("import /no/where", 2, &["cannot read /no/where"]);
    }
}

/// The pipe has no writer; the device, and a line of standard input, have no end.
#[test]
fn an_import_neither_waits_for_a_pipe_nor_fills_memory() {
    let store = Store::file();
    let pipe = store.path("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let line = format!("import {}", pipe.display());
    store.fails(&line, 2, &["cannot read", "it is a pipe", "give -"]);
    store.fails("import /dev/zero", 2, &["cannot read /dev/zero", "it is a device"]);
    let zeros = store.path("zeros");
    fs::File::create(&zeros).unwrap().set_len(3 << 30).unwrap();
    let line = format!("import {}", zeros.display());
    store.fails(&line, 2, &["line 1 of", "longer than 24576 bytes"]);
    let long = format!("203.0.113.7\n#{}\n", "x".repeat(25_000));
    complaint(&store.run_with("import -", &long), 2, &["line 2 of standard input", "longer"]);
    assert!(!store.path("gate").exists(), "nothing is half done");
}

/// A wrong file is easily named, and an error has many readers.
#[test]
fn nothing_of_a_file_that_is_imported_by_mistake_is_shown() {
    let store = Store::file();
    let key = store.path("redis.key");
    let made = Command::new(binary()).arg("keygen").arg(&key).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let ours = fs::read_to_string(&key).unwrap();
    let secret = ours.split(' ').nth(1).unwrap().trim();
    let member = r#"{"kind":"allowed","member":"geheim"}"#;
    for text in [&ours, secret, member, "geheim", "root:ge.heim", "some words geheim"] {
        let said = complaint(&store.run_with("import -", text), 2, &["line 1 of standard input"]);
        let end = "this is not an address or network, such as 203.0.113.7; correct it, nothing was imported";
        assert!(said.trim_end().ends_with(&format!("line 1 of standard input: {end}")), "{said}");
    }
    let said = complaint(&store.run_with("import -", "{\"geheim"), 2, &["no JSON"]);
    assert!(!said.contains("geheim"), "{said}");
    store.fails(
        &format!("import {}", key.display()),
        2,
        &["line 1 of", "redis.key", "not an address"],
    );
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let store = Store::file();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(binary());
    command.args(["gate", "allow", "203.0.113.7"]).args(&store.flags).stdout(writer);
    assert_eq!(command.output().unwrap().status.code(), Some(0));
    assert!(store.good("list").contains("203.0.113.7"));
}

#[test]
fn a_hundred_thousand_entries_are_listed_once_and_in_order() {
    let store = Store::redis();
    let script = "for i=1,100000 do redis.call('sadd','ip-allowed',\
                  '203.'..math.floor(i/65536)..'.'..math.floor(i/256)%256 ..'.'..i%256) end";
    let mut client = store.redis.as_ref().unwrap().direct();
    client.read_limit(NEVER);
    client.ask(&["EVAL", script, "0"]);
    let sorted = store.good("list");
    let members: Vec<std::net::IpAddr> =
        sorted.lines().map(|l| l.split_whitespace().nth(1).unwrap().parse().unwrap()).collect();
    assert_eq!(members.len(), 100_000);
    assert!(members.windows(2).all(|pair| pair[0] < pair[1]), "in order, none twice");
    assert_eq!(store.good("export --unsorted").lines().count(), 100_000);
}
