//! Text from peers and files, on its way to an operator's terminal; and which answers are believed.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::TempDir;
use testkit::admin::Admin;
use testkit::program::{install, require};
use testkit::{Addr, Launch, Program, any, binary, eventually, keygen};

/// Sets a title, clears the screen, begins a line, turns the reading direction.
const BAD: &str = "a\x1b]0;title\x07\x1b[2J\nknockpipe: fine\r\u{9b}31m\u{202e}\u{200b}\u{7f}z";

/// Returns true if a terminal would only print it, as lines.
fn is_plain(text: &str) -> bool {
    let unseen = ['\u{202e}', '\u{200b}', '\u{2028}', '\u{feff}'];
    text.chars().all(|c| c == '\n' || !c.is_control() && !unseen.contains(&c))
}

/// Starts a process that answers every request at `path` with `reply`.
fn liar(path: &Path, reply: Value) {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream: UnixStream = stream.unwrap();
            let mut line = String::new();
            let _ = BufReader::new(stream.try_clone().unwrap()).read_line(&mut line);
            let _ = stream.write_all(format!("{reply}\n").as_bytes());
        }
    });
}

fn level() -> Value {
    json!({"now": 1, "most": 2, "limit": 3})
}

/// Returns answers in which every text is bad.
fn replies() -> [(Value, &'static [&'static str]); 5] {
    let target = json!({
        "service": BAD, "target": BAD, "state": "down", "since_s": 1, "in_use": true,
        "last_error": BAD
    });
    let tunnel = json!({
        "name": BAD, "mode": BAD, "state": BAD, "listeners": [BAD], "targets": [target],
        "keys": [BAD], "sessions": level(), "handshakes": level(), "accepted": 1,
        "closed": {BAD: 1}, "refused": {BAD: 1}, "sent": 1, "received": 1
    });
    let status = json!({"status": {
        "version": BAD, "pid": 1, "uptime_s": 1, "state": BAD, "why": BAD, "descriptors": 1,
        "descriptor_limit": 1, "reload": {"at": 1, "ok": false, "message": BAD},
        "tunnels": [tunnel]
    }});
    let session = json!({
        "id": 1, "tunnel": BAD, "peer": BAD, "client": BAD, "target": BAD, "service": BAD,
        "key": BAD, "suite": BAD, "age_ms": 1, "sent": 1, "received": 1
    });
    [
        (status, &["status"]),
        (json!({"who": {"sessions": [session], "more": 1}}), &["who"]),
        (json!({"done": BAD}), &["reload"]),
        (json!({"done": BAD}), &["drain"]),
        (json!({"error": BAD}), &["kick", "1"]),
    ]
}

#[test]
fn what_a_process_answers_moves_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    for (place, (reply, args)) in replies().into_iter().enumerate() {
        let path = dir.path().join(place.to_string());
        liar(&path, reply);
        let admin = Admin(path);
        for form in [&[][..], &["--json"]] {
            let output = admin.run(&[args, form].concat());
            let (out, err) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr));
            let (out, err) = (out.unwrap(), err.unwrap());
            assert!(is_plain(&out) && is_plain(&err), "{args:?} {form:?}: {out:?} {err:?}");
            let (lines, complaints) = (out.lines().count(), err.lines().count());
            assert!(!out.lines().any(|line| line == "knockpipe: fine"), "{out}");
            assert!(complaints <= 1, "{err}");
            if !form.is_empty() && lines > 0 {
                let said = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
                let said = Value::from_iter(said).to_string();
                assert!(said.contains(&Value::from(BAD).to_string()), "{args:?}: {said}");
            }
        }
    }
}

/// Starts a Redis server that answers everything with an error of its own wording.
fn bad_redis() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let (mut stream, mut piece) = (stream, [0; 4096]);
                let answer = format!("-ERR {}\r\n", BAD.replace(['\n', '\r'], " "));
                while stream.read(&mut piece).is_ok_and(|read| read > 0) {
                    if stream.write_all(answer.repeat(8).as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn what_a_server_says_moves_no_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (key, port) = (keygen(dir.path(), "key"), bad_redis());
    let store = format!("redis://127.0.0.1:{port}");
    for command in [&["list"][..], &["why", "203.0.113.7"], &["allow", "203.0.113.7"]] {
        let mut run = Command::new(binary());
        let output = run.arg("gate").args(command).args(["--gate", &store]).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(is_plain(&text) && text.contains("\\u{1b}"), "{command:?}: {text:?}");
    }
    let admin = dir.path().join("admin.sock");
    for text_log in [true, false] {
        let target = Addr::Tcp(([127, 0, 0, 1], port).into());
        let launch =
            Launch::decrypt(&key).source(&any()).target(&target).args(["--check", "redis"]);
        let launch = launch.args(["--gate", &store, "--admin"]).args([&admin]);
        let launch = if text_log { launch.text_log() } else { launch };
        let program = launch.spawn();
        eventually("what it is told is logged", || {
            let log = program.stderr();
            log.contains("title") && log.contains("store") && log.contains("target")
        });
        let lines = program.raw_lines();
        let log = lines.into_iter().map(|line| String::from_utf8(line).unwrap());
        for line in log {
            assert!(is_plain(&line) && !line.starts_with("knockpipe: fine"), "{line:?}");
        }
        eventually("status tells it too", || {
            Admin(admin.clone()).says(0, &["status"]).contains("title")
        });
        assert!(is_plain(&Admin(admin.clone()).says(0, &["status"])));
    }
}

/// The name of a file in an error.
#[test]
fn what_a_name_holds_moves_no_terminal() {
    let output = Command::new(binary()).args(["key-id", BAD]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(is_plain(&text) && text.lines().count() == 1 && text.contains("\\n"), "{text:?}");
}

// === the process that listens ===

/// A process of another user, which listens where an operator asks. Needs root.
struct Other {
    admin: PathBuf,
    program: Program,
    _dir: TempDir,
}

impl Other {
    fn start() -> Self {
        require("setpriv", "util-linux");
        let open = Permissions::from_mode(0o755);
        let dir = tempfile::Builder::new().permissions(open).tempdir().unwrap();
        install(&binary(), &dir.path().join("knockpipe"));
        let theirs = dir.path().join("theirs");
        std::fs::create_dir(&theirs).unwrap();
        let key = keygen(&theirs, "key");
        for path in [&theirs, &key] {
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
        }
        let admin = theirs.join("admin.sock");
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--clear-groups", "--"])
            .arg(dir.path().join("knockpipe"));
        command.args(["decrypt", "--log-format", "json", "-s", "127.0.0.1:0", "-t", "127.0.0.1:1"]);
        command.arg("-k").arg(key).arg("--admin").arg(&admin);
        let program = Program::spawn("theirs", command.stdin(Stdio::null()).stdout(Stdio::null()));
        program.wait_line("ready", |line| line.is("ready"));
        Self { admin, program, _dir: dir }
    }
}

#[test]
fn an_answer_of_another_users_process_is_not_believed() {
    let other = Other::start();
    let admin = Admin(other.admin.clone());
    for args in [&["status"][..], &["who", "--json"], &["kick", "1"], &["drain"], &["reload"]] {
        let output = admin.run(args);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains("another user (nobody)") && text.contains("--user nobody"), "{text}");
        assert!(output.stdout.is_empty());
    }
    let status = admin.says(0, &["status", "--user", "nobody"]);
    assert!(status.contains(&format!("process {}", other.program.pid())), "{status}");
    let mut named = Command::new(binary());
    named.args(["status", "--admin"]).arg(&other.admin).env("KNOCKPIPE_ADMIN_USER", "nobody");
    assert!(named.output().unwrap().status.success());
    let bad = admin.run(&["status", "--user", "no-such-user"]);
    assert_eq!(bad.status.code(), Some(2), "{}", String::from_utf8_lossy(&bad.stderr));
}

/// Returns a listener with a full queue, which accepts no connection.
fn deaf(path: &Path) -> (Socket, Vec<UnixStream>) {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    socket.listen(0).unwrap();
    let filler = UnixStream::connect(path).unwrap();
    (socket, vec![filler])
}

#[test]
fn a_process_that_does_not_accept_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let (key, path) = (keygen(dir.path(), "key"), dir.path().join("socket"));
    let _deaf = deaf(&path);
    let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1"]);
    let mut taking_over = launch.args(["--handover"]).args([&path]).spawn();
    let mut asking = Command::new(binary());
    asking.args(["status", "--admin"]).arg(&path).stdout(Stdio::null());
    let mut asking = Program::spawn("status", &mut asking);
    for program in [&mut asking, &mut taking_over] {
        assert_eq!(program.exit_code(), 1, "{}", program.tail());
        let text = program.stderr();
        let complaints: Vec<_> = text.lines().filter(|l| l.starts_with("knockpipe: ")).collect();
        assert_eq!(complaints.len(), 1, "{text}");
        assert!(complaints[0].contains("does not accept connections"), "{text}");
    }
    // Nothing distinguishes one with room in its queue from one that answers slowly.
    let quiet = dir.path().join("quiet");
    let _quiet = UnixListener::bind(&quiet).unwrap();
    let output = Admin(quiet).run(&["status"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("does not answer: it says nothing for too long"), "{text}");
}
