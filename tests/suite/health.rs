//! `--check`: targets are asked whether they work, and do not suffer from it.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, channel};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use testkit::admin::{Admin, Metrics, doors};
use testkit::mariadb::{MariaDb, query};
use testkit::netns::{GATE4, Net};
use testkit::redis::{Redis, Reply};
use testkit::{Addr, End, Kind, Launch, NEVER, Target, Wire, eventually, keygen};

const DOWN: &str = "target is down";
const UP: &str = "target is up again";
const UNWELCOME: &str = "health check login rejected";

/// A decrypt end that checks its targets, without any client.
struct Checked {
    end: End,
    _dir: TempDir,
}

impl Checked {
    fn start(targets: &[&Addr], args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = keygen(dir.path(), "key");
        let launch = targets.iter().fold(Launch::decrypt(&key), |l, target| l.target(target));
        let source = Kind::Tcp4.fresh(dir.path(), "");
        let end = launch.source(&source).args(args).start();
        Self { end, _dir: dir }
    }

    /// Waits for the next line `message`, and returns its error.
    #[track_caller]
    fn error_of(&self, message: &str) -> String {
        let line = self.end.program.wait_line(message, |line| line.is(message));
        line.field("error").unwrap_or_default()
    }

    fn counts(&self) -> [usize; 2] {
        [self.end.count(DOWN), self.end.count(UP)]
    }
}

// === Redis ===

fn pings(redis: &Redis) -> u64 {
    let stats = redis.ask("INFO commandstats").text();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_ping:calls="));
    line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or_default()
}

/// Killed, stopped, or back: one line each, however many checks there were.
#[test]
fn a_redis_that_goes_and_comes_is_told_once() {
    let mut redis = Redis::start();
    let checked = Checked::start(&[redis.tcp()], &["--check", "redis/1s"]);
    eventually("it is asked", || pings(&redis) >= 2);
    assert_eq!(checked.counts(), [0, 0]);
    redis.kill();
    assert!(checked.error_of(DOWN).contains("nothing listens"));
    redis.revive();
    checked.error_of(UP);
    redis.signal(Signal::SIGSTOP);
    eventually("a Redis that hangs is down", || checked.counts() == [2, 1]);
    redis.signal(Signal::SIGCONT);
    eventually("and up when it goes on", || checked.counts() == [2, 2]);
    let asked = pings(&redis);
    eventually("it is asked on", || pings(&redis) >= asked + 3);
    assert_eq!(checked.counts(), [2, 2], "{}", checked.end.program.tail());
    let failed = redis.info("rejected_connections").unwrap();
    assert_eq!(failed, "0");
}

/// Status and metrics report the results of the checks; metrics name a target by its place.
#[test]
fn status_and_metrics_tell_how_each_target_is_doing() {
    let (mut first, second) = (Redis::start(), Redis::start());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin");
    let names = [&first, &second].map(|redis| redis.tcp().to_string());
    let doors = doors(&path);
    let doors: Vec<&str> = doors.iter().map(String::as_str).collect();
    let named = names.each_ref().map(|name| format!("cache={name}"));
    let args = ["--check", "cache=redis/1s", "-t", &named[0], "-t", &named[1]];
    let checked = Checked::start(&[], &[&doors[..], &args].concat());
    let admin = Admin(path);
    let up = || {
        let now = Metrics::of(&checked.end);
        ["0", "1"].map(|n| now.get("target_up", &format!(",service=\"cache\",target=\"{n}\"")))
    };
    let told = || {
        let targets = admin.tunnel()["targets"].clone();
        [0, 1].map(|n| (targets[n]["state"].clone(), targets[n]["in_use"].clone()))
    };
    let works = |in_use: bool| (Value::from("up"), Value::from(in_use));
    eventually("both work", || told() == [works(true), works(false)]);
    assert_eq!(up(), [1.0, 1.0]);
    first.kill();
    let fails = (Value::from("down"), Value::from(false));
    eventually("the first is down", || told() == [fails.clone(), works(true)]);
    assert_eq!(up(), [0.0, 1.0]);
    let target = admin.tunnel()["targets"][0].clone();
    assert_eq!((&target["service"], &target["target"]), (&"cache".into(), &(&*names[0]).into()));
    assert!(target["last_error"].as_str().unwrap().contains("nothing listens"), "{target}");
    let text = admin.says(0, &["status", "--tunnel", "decrypt"]);
    let line = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
    let (one, other) = (line(&named[0]), line(&named[1]));
    assert!(one.contains(" down for ") && one.contains("nothing listens"), "{text}");
    assert!(other.contains(" up for ") && other.ends_with(", in use"), "{text}");
    first.revive();
    eventually("it is used again", || told() == [works(true), works(false)]);
    assert_eq!(up(), [1.0, 1.0]);
}

/// A Redis that wants a password works; one that has lost its master does not.
#[test]
fn what_redis_answers_is_understood() {
    let locked = Redis::start_with(&["--requirepass", "a-password-for-tests"]);
    let checked = Checked::start(&[locked.tcp()], &["--check", "redis/1s"]);
    let log = |redis: &Redis| redis.direct().ask(&["AUTH", "a-password-for-tests"]);
    assert_eq!(log(&locked), Reply::ok());
    let calls = || {
        let mut client = locked.direct();
        client.ask(&["AUTH", "a-password-for-tests"]);
        let stats = client.ask(&["INFO", "errorstats"]).text();
        let line = stats.lines().find_map(|line| line.strip_prefix("errorstat_NOAUTH:count="));
        line.map_or(0, |count| count.trim().parse::<u64>().unwrap())
    };
    eventually("it is asked thrice without a password", || calls() >= 3);
    assert_eq!(checked.counts(), [0, 0], "{}", checked.end.program.tail());

    let mut master = Redis::start();
    let replica = master.replica(&["--replica-serve-stale-data", "no"]);
    let checked = Checked::start(&[replica.tcp()], &["--check", "redis/1s"]);
    eventually("it is asked", || pings(&replica) >= 1);
    master.kill();
    assert!(checked.error_of(DOWN).contains("MASTERDOWN"), "{}", checked.end.program.tail());
    master.revive();
    checked.error_of(UP);
}

/// Connections are tried regardless of a failed check: it may be wrong.
#[test]
fn a_target_that_is_down_by_its_check_is_still_tried() {
    let echo = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let any = Kind::Tcp4.fresh(dir.path(), "");
    let decrypt = Launch::decrypt(&key).source(&any).target(echo.addr());
    let decrypt = decrypt.args(["--check", "redis/1s"]).start();
    let line = decrypt.program.wait_line(DOWN, |line| line.is(DOWN));
    assert!(line.field("error").unwrap().contains("does not answer as Redis"), "{}", line.text());
    let encrypt = Launch::encrypt(&key).source(&any).target(decrypt.addr()).start();
    encrypt.connect().expect_echo(b"+PONG");
}

// === MySQL ===

/// Returns the counts of a server against its clients.
fn held_against(server: &MariaDb) -> String {
    let names = "'Aborted_connects', 'Aborted_connects_preauth', 'Aborted_clients', \
                 'Access_denied_errors', 'Connection_errors_internal'";
    let sql = format!("SHOW GLOBAL STATUS WHERE Variable_name IN ({names})");
    query(server.addr(), &sql)
}

/// Counts the logins of `user` so far, on a server that keeps such statistics.
fn logins(server: &MariaDb, user: &str) -> u64 {
    let sql = "SELECT COALESCE(SUM(TOTAL_CONNECTIONS), 0) FROM information_schema.USER_STATISTICS";
    query(server.addr(), &format!("{sql} WHERE USER = '{user}'")).parse().unwrap()
}

/// Starts a server on which checks can be counted.
fn counting(options: &[&str]) -> MariaDb {
    let server = MariaDb::start_with(&[&["--userstat=1"], options].concat());
    query(server.addr(), "CREATE USER 'knockpipe'@'%'");
    server
}

fn kill(server: &MariaDb) {
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap());
    nix::sys::signal::kill(pid, Signal::SIGKILL).unwrap();
}

/// "health check of the target for 24 h-equivalent: MySQL
/// `Aborted_connects` unchanged": 200 checks, of eight services at four ends.
#[test]
fn two_hundred_checks_leave_aborted_connects_alone() {
    let server = counting(&[]);
    let before = held_against(&server);
    let services = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let targets = services.map(|name| format!("{name}={}", server.addr()));
    let flags: Vec<&str> = targets.iter().flat_map(|target| ["-t", target]).collect();
    let args = [&flags[..], &["--check", "mysql/1s"]].concat();
    let ends: Vec<_> = (0..4).map(|_| Checked::start(&[], &args)).collect();
    eventually("200 checks were made", || logins(&server, "knockpipe") >= 200);
    for mut checked in ends {
        checked.end.stop();
        assert_eq!(checked.counts(), [0, 0], "{}", checked.end.program.tail());
        assert_eq!(checked.end.count(UNWELCOME), 0, "{}", checked.end.program.tail());
    }
    assert_eq!(held_against(&server), before);
}

/// Nothing counts towards `max_connect_errors`, after which a server blocks a host: neither a
/// login, nor a test of the port, which it never notices.
#[test]
fn checks_do_not_count_towards_a_blocked_host() {
    let net = Net::make();
    // Counted are hosts that are no loopback.
    let options = ["--bind-address=0.0.0.0", "--performance-schema=on", "--max-connect-errors=3"];
    let (server, redis) = net.at_gate(|| (counting(&options), Redis::start()));
    let services = [
        format!("login={GATE4}:{}", server.addr().tcp().port()),
        format!("look={GATE4}:{}", server.addr().tcp().port()),
        format!("clock={}", redis.tcp()),
    ];
    let flags = services.iter().flat_map(|service| ["-t", service]);
    // The server looks up our name, and has to wait for its error first.
    let checks = ["login=mysql/3s", "look=tcp/1s", "clock=redis/3s"];
    let checks = checks.into_iter().flat_map(|check| ["--check", check]);
    let args: Vec<&str> = flags.chain(checks).chain(["-o", "3s"]).collect();
    let checked = net.at_gate(|| Checked::start(&[], &args));
    eventually("five checks were made", || pings(&redis) >= 6);
    net.at_gate(|| {
        eventually("four logins were made", || logins(&server, "knockpipe") >= 4);
        let counts = "SELECT COUNT(*), SUM(SUM_CONNECT_ERRORS), SUM(COUNT_HANDSHAKE_ERRORS) \
                      FROM performance_schema.host_cache WHERE IP = ";
        assert_eq!(query(server.addr(), &format!("{counts}'{GATE4}'")), "1\t0\t0");
    });
    assert_eq!(checked.counts(), [0, 0], "{}", checked.end.program.tail());
    kill(&server);
    eventually("both are noticed", || checked.counts() == [2, 0]);
    assert_eq!(checked.end.count(UNWELCOME), 0, "{}", checked.end.program.tail());
}

/// An account that does not exist: the server works, that is reported once with the remedy, and the
/// login is not tried each time, which the server would count.
#[test]
fn a_check_without_an_account_is_told_once_and_not_repeated() {
    let (server, redis) = (MariaDb::start(), Redis::start());
    let (mysql, clock) = (format!("a={}", server.addr()), format!("b={}", redis.tcp()));
    let refusals = || -> u64 {
        let answer = query(server.addr(), "SHOW GLOBAL STATUS LIKE 'Aborted_connects'");
        answer.split('\t').nth(1).unwrap().parse().unwrap()
    };
    let before = refusals();
    let args = ["-t", &mysql, "-t", &clock, "--check", "a=mysql:ghost/1s", "--check", "b=redis/1s"];
    let checked = Checked::start(&[], &args);
    let line = checked.end.program.wait_line(UNWELCOME, |line| line.is(UNWELCOME));
    assert!(line.field("error").unwrap().contains("Access denied"), "{}", line.text());
    assert!(line.field("detail").unwrap().contains("CREATE USER 'ghost'@"), "{}", line.text());
    eventually("six checks were made", || pings(&redis) >= 6);
    assert_eq!(refusals(), before + 1);
    assert_eq!(checked.counts(), [0, 0]);
    assert_eq!(checked.end.count(UNWELCOME), 1);
    kill(&server);
    assert!(checked.error_of(DOWN).contains("nothing listens"));
}

/// An error in place of the greeting is down, with the server's words.
#[test]
fn a_full_server_is_down_with_its_own_words() {
    let server = counting(&["--max-connections=10", "--thread-cache-size=0"]);
    let checked = Checked::start(&[server.addr()], &["--check", "mysql/1s"]);
    // Each gets a greeting and holds a place until the server's timeout.
    let mut held: Vec<Wire> = vec![];
    eventually("it is full", || {
        while held.len() < 40 {
            held.push(Wire::connect(server.addr()).unwrap());
        }
        held.retain_mut(|wire| {
            wire.read_to_ending(std::time::Duration::from_millis(1)).1 == testkit::Ending::Silent
        });
        checked.end.count(DOWN) > 0
    });
    assert!(checked.error_of(DOWN).contains("Too many connections"));
    drop(held);
    checked.error_of(UP);
}

// === PROXY protocol ===

/// Starts a target that speaks as Redis behind a PROXY header; returns the headers that it got.
fn behind_header(
    length: impl Fn(&[u8]) -> bool + Send + Sync + 'static,
) -> (Target, Receiver<Vec<u8>>) {
    let (sender, headers) = channel();
    let target = Target::local(move |mut wire, _| {
        let (mut header, mut byte) = (vec![], [0]);
        while !length(&header) {
            if wire.read(&mut byte).unwrap_or(0) == 0 {
                return;
            }
            header.push(byte[0]);
        }
        let mut ping = [0; 14];
        if wire.read_exact(&mut ping).is_ok() && &ping == b"*1\r\n$4\r\nPING\r\n" {
            let _ = wire.write_all(b"+PONG\r\n");
            let _ = sender.send(header);
        }
    });
    (target, headers)
}

/// A target that expects a header gets one that announces no client.
#[test]
fn a_check_announces_no_client() {
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    for (version, header) in [("v1", b"PROXY UNKNOWN\r\n".to_vec()), ("v2", v2)] {
        let length = header.len();
        let (target, headers) = behind_header(move |heard| heard.len() == length);
        let args = ["--check", "redis/1s", "--proxy-to-target", version];
        let checked = Checked::start(&[target.addr()], &args);
        for _ in 0..3 {
            assert_eq!(headers.recv_timeout(NEVER).expect("it is checked"), header, "{version}");
        }
        assert_eq!(checked.counts(), [0, 0], "{}", checked.end.program.tail());
    }
}

/// A real server that knows such headers works as well.
#[test]
fn mariadb_behind_headers_is_checked_without_a_trace() {
    let server = counting(&["--proxy-protocol-networks=127.0.0.1"]);
    let before = held_against(&server);
    for version in ["v1", "v2"] {
        let begun = logins(&server, "knockpipe");
        let args = ["--check", "mysql/1s", "--proxy-to-target", version];
        let mut checked = Checked::start(&[server.addr()], &args);
        eventually("it is checked", || logins(&server, "knockpipe") >= begun + 3);
        checked.end.stop();
        assert_eq!(checked.counts(), [0, 0], "{}", checked.end.program.tail());
        assert_eq!(checked.end.count(UNWELCOME), 0, "{}", checked.end.program.tail());
    }
    assert_eq!(held_against(&server), before);
}
