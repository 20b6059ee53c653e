//! The disguised knock: one answer for everybody, and an entry for who knows the secret.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;
use testkit::certificates::{Authority, Form};
use testkit::redis::{Redis, Reply};
use testkit::wait::bounded;
use testkit::{Addr, End, Launch, any, eventually};

use super::http::{Answer, ask, exchange, get, latin1};
use super::path;
use super::world::PREFIX;

const SECRET: &str = "https://knock.example/only-we-know";
const REFERER: &str = "Referer: https://knock.example/only-we-know";

/// A running service in disguise.
pub(crate) struct Door {
    end: End,
}

impl Door {
    pub(crate) fn start(redis: &Redis, secret: &Path, args: &[&str]) -> Self {
        let end = Launch::new("knockd")
            .source(&any())
            .args(["--gate", &redis.url(), "--allow-prefix", PREFIX, "--disguise-secret"])
            .args([secret])
            .args(args)
            .start();
        Self { end }
    }

    pub(crate) fn addr(&self) -> &Addr {
        self.end.addr()
    }
}

/// Writes a file with a secret, which only its owner may read.
pub(crate) fn write_secret(file: &Path, secret: &str) {
    fs::write(file, format!("{secret}\n")).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

/// Returns the entries of the store, with the labels of their notes.
pub(crate) fn grants(redis: &Redis) -> BTreeMap<String, Option<String>> {
    let Reply::Array(parts) = redis.ask(&format!("SCAN 0 MATCH {PREFIX}* COUNT 10000")) else {
        panic!("no answer to SCAN")
    };
    let Reply::Array(keys) = &parts[1] else { panic!("no keys: {parts:?}") };
    let entry = |key: &Reply| {
        let key = key.text();
        let note: Value = serde_json::from_str(&redis.ask(&format!("GET {key}")).text()).unwrap();
        let label = note["label"].as_str().map(str::to_owned);
        (key.strip_prefix(PREFIX).unwrap().to_owned(), label)
    };
    keys.iter().map(entry).collect()
}

/// A store, a secret and a door.
struct World {
    redis: Redis,
    door: Door,
    secret: PathBuf,
    _dir: TempDir,
}

impl World {
    fn start(args: &[&str]) -> Self {
        let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
        let secret = dir.path().join("secret");
        write_secret(&secret, SECRET);
        let all: Vec<&str> =
            ["--disguise", "/favico.ico"].into_iter().chain(args.iter().copied()).collect();
        let door = Door::start(&redis, &secret, &all);
        Self { redis, door, secret, _dir: dir }
    }

    fn addr(&self) -> &Addr {
        self.door.addr()
    }

    /// Returns the bytes of an answer without its date, which has to be there.
    #[track_caller]
    fn raw(&self, from: &str, bytes: &[u8]) -> String {
        let got = String::from_utf8(exchange(from, self.addr(), bytes)).unwrap();
        let is_date = |line: &&str| line.starts_with("Date: ");
        assert_eq!(got.split("\r\n").filter(is_date).count(), 1, "{got}");
        got.split("\r\n").filter(|line| !is_date(line)).collect::<Vec<_>>().join("\r\n")
    }
}

const EXPECTED: &str = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: text/html; \
    charset=UTF-8\r\nContent-Length: 25\r\nConnection: close\r\n\r\n500 Internal Server Error";

#[test]
fn everything_gets_the_same_bytes_and_a_right_knock_too() {
    let world = World::start(&[]);
    let knock = format!("GET /favico.ico HTTP/1.1\r\nHost: x\r\n{REFERER}\r\n\r\n");
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(200_000));
    let post = format!("POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n{}", "x".repeat(300_000));
    for bytes in [
        &*knock,
        "GET /favico.ico HTTP/1.1\r\nHost: x\r\nReferer: wrong\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /verify HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n",
        "GET /ready HTTP/1.0\r\n\r\n",
        "POST /knock HTTP/1.1\r\nHost: x\r\nX-Api-Key: x\r\nContent-Length: 2\r\n\r\n{}",
        "OPTIONS /knock HTTP/1.1\r\nHost: x\r\n\r\n",
        "DELETE /favico.ico HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /a b HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/2.0\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\r\nX y: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nzz",
        "CONNECT x:80 HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\r\n\r\n",
        "HELO x\r\n\r\n",
        &long,
        &post,
    ] {
        let shown: String = bytes.chars().take(60).collect();
        assert_eq!(world.raw("127.3.50.1", &latin1(bytes)), EXPECTED, "{shown}");
    }
    let head = world.raw("127.3.50.1", b"HEAD /favico.ico HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(Some(&*head), EXPECTED.strip_suffix("500 Internal Server Error"));
    eventually("the knock is in the store", || grants(&world.redis).contains_key("127.3.50.1"));
    assert_eq!(grants(&world.redis).len(), 1);
}

#[test]
fn over_tls_there_is_no_other_protocol_and_the_same_answer() {
    let dir = TempDir::new().unwrap();
    let (cert, key) = Authority::new(dir.path(), "ca").issue("door", "", Form::Pkcs8);
    let world = World::start(&["--tls-cert", path(&cert), "--tls-key", path(&key)]);
    let request = format!("GET /favico.ico HTTP/1.1\r\nHost: x\r\n{REFERER}\r\n\r\n");
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-alpn", "h2,http/1.1", "-connect"])
        .arg(world.addr().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    client.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    let output = bounded("openssl ends", move || client.wait_with_output().unwrap());
    let got = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = got.split("\r\n").filter(|line| !line.starts_with("Date: ")).collect();
    assert_eq!(lines.join("\r\n"), EXPECTED, "{}", String::from_utf8_lossy(&output.stderr));
    eventually("the knock is in the store", || grants(&world.redis).contains_key("127.0.0.1"));
}

#[test]
fn half_a_request_and_silence_end_like_the_others() {
    let world = World::start(&["-o", "1s"]);
    assert_eq!(world.raw("127.3.51.1", b"GET / HTTP/1.1\r\nHost"), EXPECTED);
    assert_eq!(exchange("127.3.51.1", world.addr(), b""), b"");
}

#[test]
fn two_texts_tell_whether_the_store_has_the_entry() {
    let world = World::start(&["--disguise-body", "no", "--disguise-success", "yes"]);
    let knock = |from| get(from, world.addr(), "/favico.ico", &[REFERER, "Location: Office_01"]);
    assert_eq!(knock("127.3.52.1").body, "yes");
    let entries = grants(&world.redis);
    assert_eq!(entries.get("127.3.52.1"), Some(&Some("Office_01".to_owned())));
    assert_eq!(get("127.3.52.2", world.addr(), "/favico.ico", &[]).body, "no");

    world.redis.signal(Signal::SIGSTOP);
    assert_eq!(knock("127.3.52.3").body, "no", "nothing was opened");
    world.redis.signal(Signal::SIGCONT);
}

#[test]
fn without_two_texts_the_answer_does_not_wait_for_the_store() {
    let world = World::start(&[]);
    world.redis.signal(Signal::SIGSTOP);
    let knock = format!("GET /favico.ico HTTP/1.1\r\n{REFERER}\r\n\r\n");
    assert_eq!(world.raw("127.3.53.1", knock.as_bytes()), EXPECTED);
    world.redis.signal(Signal::SIGCONT);
    eventually("the knock is in the store", || grants(&world.redis).contains_key("127.3.53.1"));
}

#[test]
fn an_entry_ends_and_another_knock_renews_it() {
    let world = World::start(&["--disguise-ttl", "30d", "--disguise-success", "yes"]);
    let ttl = || match world.redis.ask(&format!("TTL {PREFIX}127.3.54.1")) {
        Reply::Number(seconds) => seconds,
        other => panic!("{other:?}"),
    };
    let knock = || get("127.3.54.1", world.addr(), "/favico.ico", &[REFERER]).body;
    assert_eq!(knock(), "yes");
    assert!((30 * 86_400 - 60..=30 * 86_400).contains(&ttl()));
    world.redis.ask(&format!("EXPIRE {PREFIX}127.3.54.1 60"));
    assert_eq!(knock(), "yes");
    assert!(ttl() > 29 * 86_400);
}

#[test]
fn a_source_that_guesses_is_locked_out_and_cannot_tell() {
    let world = World::start(&["--disguise-body", "no", "--disguise-success", "yes"]);
    let knock = |from, secret: &str| get(from, world.addr(), "/favico.ico", &[secret]).body;
    for number in 0..40 {
        assert_eq!(knock("127.3.55.1", &format!("Referer: guess {number}")), "no");
    }
    assert_eq!(knock("127.3.55.1", REFERER), "no");
    assert!(grants(&world.redis).is_empty());
    // Who only asks for other things guesses nothing.
    for _ in 0..40 {
        assert_eq!(get("127.3.55.2", world.addr(), "/", &[]).body, "no");
        assert_eq!(get("127.3.55.2", world.addr(), "/favico.ico", &[]).body, "no");
    }
    assert_eq!(knock("127.3.55.2", REFERER), "yes");
}

#[test]
fn path_headers_status_and_type_are_settings() {
    let world = World::start(&[
        "--disguise-secret-header",
        "X-Trace",
        "--disguise-label-header",
        "X-Span",
        "--disguise-status",
        "404",
        "--disguise-content-type",
        "text/plain",
        "--disguise-success",
        "found",
    ]);
    let plain = get("127.3.56.1", world.addr(), "/favico.ico", &[REFERER]);
    assert_eq!((plain.status, &*plain.body), (404, "404 Not Found"));
    assert_eq!(plain.header("content-type"), ["text/plain"]);
    let lines = [&*format!("X-Trace: {SECRET}"), "X-Span: phone"];
    let knocked = get("127.3.56.1", world.addr(), "/favico.ico", &lines);
    assert_eq!((knocked.status, &*knocked.body), (404, "found"));
    assert_eq!(grants(&world.redis)["127.3.56.1"].as_deref(), Some("phone"));
}

#[test]
fn the_secret_is_nowhere_in_log_and_errors() {
    let mut world = World::start(&["--log-level", "trace", "--disguise-success", "yes"]);
    assert_eq!(get("127.3.57.1", world.addr(), "/favico.ico", &[REFERER]).body, "yes");
    let wrong = format!("Referer: {SECRET}x");
    assert_ne!(get("127.3.57.1", world.addr(), "/favico.ico", &[&wrong]).body, "yes");
    ask("127.3.57.1", world.addr(), "POST", "/favico.ico", &[REFERER]);
    world.door.end.stop();
    let log = world.door.end.program.stderr();
    assert!(log.contains("127.3.57.1"), "{log}");
    assert!(!log.contains("only-we-know"), "{log}");
    assert!(world.secret.exists());
}

#[test]
fn unusable_settings_are_refused_with_a_remedy() {
    let dir = TempDir::new().unwrap();
    let (good, empty) = (dir.path().join("good"), dir.path().join("empty"));
    write_secret(&good, SECRET);
    write_secret(&empty, "");
    let (good, empty) = (good.to_str().unwrap(), empty.to_str().unwrap());
    for (args, remedy) in [
        (&["--disguise", "favico.ico", "--disguise-secret", good][..], "/"),
        (&["--disguise", "/x?y", "--disguise-secret", good], "leave"),
        (&["--disguise", "/x"], "--disguise-secret"),
        (&["--disguise", "/x", "--disguise-secret", empty], "first line"),
        (&["--tokens", empty, "--disguise-secret", good], "--disguise PATH"),
        (&["--disguise", "/x", "--disguise-secret", good, "--disguise-status", "99"], "200 to 599"),
        (&["--disguise", "/x", "--disguise-secret", good, "--disguise-status", "204"], "body"),
        (
            &["--disguise", "/x", "--disguise-secret", good, "--disguise-address-header", "X-A"],
            "--trusted-proxies",
        ),
        (&["--disguise", "/x", "--disguise-secret", good, "--exclude-path", "/x"], "--disguise"),
        (&["--tokens", empty, "--disguise-body", "x"], "--disguise PATH"),
        (&["--tokens", empty, "--disguise", "/x", "--disguise-secret", good], "--tokens"),
    ] {
        let mut program = Launch::new("knockd")
            .source(&any())
            .args(["--gate", "redis://127.0.0.1:1", "--allow-prefix", PREFIX])
            .args(args)
            .text_log()
            .spawn();
        assert_eq!(program.exit_code(), 2, "{args:?}: {}", program.tail());
        let said = program.stderr();
        assert!(said.contains(remedy), "{args:?}: {said}");
        assert!(!said.contains("only-we-know"), "{said}");
    }
}

/// Keeps the parser of answers honest.
#[test]
fn an_answer_is_parsed() {
    let answer = Answer::parse(EXPECTED.as_bytes());
    assert_eq!((answer.status, &*answer.body), (500, "500 Internal Server Error"));
    assert_eq!(answer.header("content-length"), ["25"]);
}
