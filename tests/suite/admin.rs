//! The admin socket of a real process: permissions, answers, effects, and that no client can block
//! it.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use testkit::admin::{Admin, Metrics, doors, http, metrics_address};
use testkit::end::key_id;
use testkit::file::{Service, decrypt_table};
use testkit::program::{install, require};
use testkit::wait::bounded;
use testkit::{
    Addr, End, Ending, Launch, NEVER, Pair, PairOptions, Program, Target, Wire, any, binary,
    eventually, keygen,
};

/// A pair with an admin socket at both ends.
struct Watched {
    pair: Pair,
    encrypt: Admin,
    decrypt: Admin,
    target: Target,
    _dir: TempDir,
}

impl Watched {
    #[track_caller]
    fn start(decrypt_args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (encrypt, decrypt) = (dir.path().join("encrypt.sock"), dir.path().join("decrypt.sock"));
        let target = Target::echo();
        let mut options = PairOptions::default().decrypt(decrypt_args);
        options.encrypt.extend(doors(&encrypt));
        options.decrypt.extend(doors(&decrypt));
        let pair = Pair::start(options, target.addr());
        Self { pair, encrypt: Admin(encrypt), decrypt: Admin(decrypt), target, _dir: dir }
    }

    /// Connects a client that both ends list.
    #[track_caller]
    fn client(&self, bytes: &[u8]) -> Wire {
        let before = self.encrypt.who(&[]).len();
        let mut client = self.pair.connect();
        client.expect_echo(bytes);
        eventually("both ends list it", || {
            [&self.encrypt, &self.decrypt].iter().all(|end| end.who(&[]).len() == before + 1)
        });
        client
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn who_lists_connections_with_their_bytes() {
    let watched = Watched::start(&[]);
    let mut client = watched.client(&[7; 1000]);
    let peer = client.socket().local_addr().unwrap().as_socket().unwrap().to_string();
    let (near, far) = (&watched.encrypt.who(&[])[0], &watched.decrypt.who(&[])[0]);
    assert_eq!((text(&near["tunnel"]), text(&far["tunnel"])), ("encrypt", "decrypt"));
    assert_eq!((text(&near["peer"]), text(&far["client"])), (peer.as_str(), peer.as_str()));
    assert_eq!(text(&near["target"]), watched.pair.decrypt.addr().to_string());
    assert_eq!(text(&far["target"]), watched.target.addr().to_string());
    assert_eq!(near["key"], far["key"]);
    assert_eq!(near["suite"], far["suite"]);
    for (one, sent, received) in [(near, 1000, 1000), (far, 1000, 1000)] {
        assert_eq!((one["sent"].as_u64(), one["received"].as_u64()), (Some(sent), Some(received)));
    }
    client.expect_echo(&[1; 500]);
    eventually("bytes are counted while it relays", || {
        watched.decrypt.who(&[])[0]["received"] == 1500
    });
    let key = text(&near["key"]).to_owned();
    let table = watched.encrypt.says(0, &["who"]);
    assert!(table.contains(&peer) && table.contains(&key) && table.starts_with("ID "), "{table}");
    assert_eq!(watched.encrypt.who(&["--tunnel", "encrypt", "--peer", "192.0.2.1"]).len(), 0);
    assert_eq!(watched.encrypt.who(&["--tunnel", "encrypt", "--peer", "127.0.0.1"]).len(), 1);
    assert_eq!(watched.encrypt.who(&["--peer", &peer]).len(), 1);
    assert_eq!(watched.encrypt.who(&["--peer", "192.0.2.1"]).len(), 0);
    drop(client);
    eventually("who ended is not listed", || watched.encrypt.who(&[]).is_empty());
    eventually("who ended is not listed there", || watched.decrypt.who(&[]).is_empty());
}

#[test]
fn a_kick_ends_exactly_the_selected_and_tells_the_far_end() {
    let watched = Watched::start(&[]);
    let (mut one, mut other) = (watched.client(b"one"), watched.client(b"other"));
    let peer = one.socket().local_addr().unwrap().as_socket().unwrap().to_string();
    let id = watched.encrypt.who(&["--peer", &peer])[0]["id"].to_string();
    assert_eq!(watched.encrypt.says(0, &["kick", &id]), "1 connection ends\n");
    assert_eq!(one.expect_ending(), Ending::Reset, "it must not look complete");
    let line = watched.pair.encrypt.wait_closed("kicked");
    assert!(line.has("peer", &peer) && line.level() == "INFO", "{line:?}");
    watched.pair.decrypt.wait_closed("peer-shutdown");
    other.expect_echo(b"still here");
    assert_eq!(watched.encrypt.says(3, &["kick", &id]), "no such connection\n");
    drop(other);
    eventually("no session is left", || watched.encrypt.who(&[]).is_empty());
    for unmatched in [["--peer", "192.0.2.1"], ["--tunnel", "encrypt"], ["--key", "00000000"]] {
        watched.encrypt.says(3, &[&["kick"], &unmatched[..]].concat());
    }
}

#[test]
fn a_kick_by_tunnel_address_or_key_ends_all_of_them() {
    let watched = Watched::start(&[]);
    for round in 0..3 {
        let mut clients = [watched.client(b"one"), watched.client(b"two")];
        let key = text(&watched.decrypt.who(&[])[0]["key"]).to_owned();
        let selector = [["--tunnel", "decrypt"], ["--peer", "127.0.0.1"], ["--key", &key]][round];
        let kicked = watched.decrypt.says(0, &[&["kick", "--json"], &selector[..]].concat());
        assert_eq!(kicked, "{\"kicked\":2}\n", "{selector:?}");
        for client in &mut clients {
            assert_eq!(client.expect_ending(), Ending::Reset);
        }
        eventually("all are gone", || {
            watched.decrypt.who(&[]).is_empty() && watched.encrypt.who(&[]).is_empty()
        });
    }
}

#[test]
fn status_tells_limits_counts_and_keys() {
    let watched = Watched::start(&["-n", "5", "-o", "1s"]);
    let client = watched.client(b"hello");
    // A stranger is counted by its reason.
    Wire::connect(watched.pair.decrypt.addr()).unwrap().write_all(&[9; 300]).unwrap();
    watched.pair.decrypt.wait_refused("handshake-failed");
    let status = watched.decrypt.status();
    assert_eq!(text(&status["state"]), "ready");
    assert_eq!(status["pid"], watched.pair.decrypt.pid());
    let limit = status["descriptor_limit"].as_u64().unwrap();
    assert!((1..=limit).contains(&status["descriptors"].as_u64().unwrap()), "{status}");
    let tunnel = &status["tunnels"][0];
    let listener = watched.pair.decrypt.addr().to_string();
    assert_eq!(tunnel["listeners"], serde_json::json!([listener]));
    let target = serde_json::json!({"target": watched.target.addr().to_string(), "in_use": true});
    assert_eq!(tunnel["targets"], serde_json::json!([target]), "a single one is not checked");
    assert_eq!(tunnel["sessions"], serde_json::json!({"now": 1, "most": 1, "limit": 5}));
    assert_eq!(tunnel["refused"]["handshake-failed"], 1);
    assert_eq!((&tunnel["sent"], &tunnel["received"]), (&5.into(), &5.into()));
    let id = key_id(watched.pair.key());
    assert_eq!(text(&tunnel["keys"][0]), id);
    for args in [&["status"][..], &["status", "--tunnel", "decrypt"]] {
        let shown = watched.decrypt.says(0, args);
        assert!(shown.contains("1 now, peak 1, limit 5") && shown.contains(&id), "{shown}");
    }
    drop(client);
    watched.pair.decrypt.wait_closed("finished");
    eventually("the high-water mark stays", || {
        let sessions = watched.decrypt.tunnel()["sessions"].clone();
        sessions == serde_json::json!({"now": 0, "most": 1, "limit": 5})
    });
    assert_eq!(watched.decrypt.tunnel()["closed"]["finished"], 1);
}

#[test]
fn status_watch_shows_it_again_and_again() {
    let watched = Watched::start(&[]);
    let mut command = Command::new(binary());
    command.args(["status", "--json", "--watch", "50ms", "--admin"]).arg(&watched.encrypt.0);
    let mut watching = Program::spawn("status --watch", command.stdout(Stdio::piped()));
    let shown = BufReader::new(watching.child().stdout.take().unwrap());
    let three = || shown.lines().take(3).collect::<Result<Vec<String>, _>>();
    for line in bounded("it shows it three times", three).unwrap() {
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["state"], "ready");
    }
    assert!(watching.is_running(), "{}", watching.stderr());
}

#[test]
fn a_drain_order_does_what_sigterm_does() {
    let mut watched = Watched::start(&[]);
    let mut client = watched.client(b"before");
    let metrics = metrics_address(&watched.pair.encrypt.program);
    assert_eq!(http(&metrics, "GET", "/readyz").status, 200);
    let said = watched.encrypt.says(0, &["drain"]);
    assert!(said.starts_with("draining"), "{said}");
    watched.pair.encrypt.wait_refusing();
    assert_eq!(text(&watched.encrypt.status()["state"]), "draining");
    let not_ready = http(&metrics, "GET", "/readyz");
    assert_eq!((not_ready.status, not_ready.body.contains("draining")), (503, true));
    assert_eq!(http(&metrics, "GET", "/healthz").status, 200);
    assert_eq!(watched.encrypt.says(0, &["drain"]), "draining already\n");
    client.expect_echo(b"live sessions go on");
    client.finish();
    assert_eq!(client.expect_ending(), Ending::Clean);
    assert_eq!(watched.pair.encrypt.program.exit_code(), 0);
    assert!(!watched.encrypt.0.exists(), "the socket is removed");
    let failed = watched.encrypt.run(&["status"]);
    let line = String::from_utf8(failed.stderr).unwrap();
    assert_eq!((failed.status.code(), line.lines().count()), (Some(1), 1), "{line}");
}

#[test]
fn a_reload_order_says_what_came_of_it_and_status_remembers() {
    let watched = Watched::start(&[]);
    let mut client = watched.client(b"before");
    let metrics = metrics_address(&watched.pair.encrypt.program);
    let success = || Metrics::at(&metrics).0.get("knockpipe_reload_success").copied();
    assert_eq!((success(), &watched.encrypt.status()["reload"]), (None, &Value::Null));
    let said = watched.encrypt.says(0, &["reload"]);
    assert_eq!(said, "nothing changed; 1 the same\n");
    assert_eq!((success(), &watched.encrypt.status()["reload"]["ok"]), (Some(1.0), &true.into()));
    std::fs::write(watched.pair.key(), "too short").unwrap();
    let output = watched.encrypt.run(&["reload"]);
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), line.lines().count()), (Some(1), 1), "{line}");
    let reload = watched.encrypt.status()["reload"].clone();
    assert_eq!((success(), &reload["ok"]), (Some(0.0), &false.into()));
    assert!(line.contains(text(&reload["message"])), "{line}: {reload}");
    client.expect_echo(b"nothing was changed");
}

/// Two tunnels of one file: each has its name, and one that is replaced counts on.
#[test]
fn a_tunnel_that_is_replaced_or_removed_stays_listed_as_long_as_it_has_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let (path, target) = (dir.path().join("admin.sock"), Target::echo());
    keygen(dir.path(), "key");
    let text_of = |redis: &str| {
        let table = decrypt_table("redis", target.addr(), "\"key\"", redis);
        format!("admin = {path:?}\n{table}")
    };
    let mysql = decrypt_table("mysql", target.addr(), "\"key\"", "");
    let before = text_of("max-sessions = 7") + &mysql;
    let service = Service::start(dir.path(), "knockpipe.toml", &before);
    let near = |far: &Addr| {
        let key = dir.path().join("key");
        Launch::encrypt(&key).source(&any()).target(far).start()
    };
    let (redis, mysql_end) = (near(&service.addr("redis")), near(&service.addr("mysql")));
    let (mut one, mut other) = (redis.connect(), mysql_end.connect());
    one.expect_echo(b"12345");
    other.expect_echo(b"123");
    let admin = Admin(path.clone());
    assert_eq!((admin.who(&[]).len(), admin.who(&["--tunnel", "mysql"]).len()), (2, 1));
    // One is replaced, the other removed.
    service.write(&text_of("max-sessions = 9"));
    assert_eq!(admin.says(0, &["reload"]), "changed redis (max-sessions); removed mysql\n");
    let tunnel = |name: &str| {
        let status = admin.status();
        let found = status["tunnels"].as_array().unwrap().iter().find(|t| t["name"] == name);
        found.cloned()
    };
    let redis_now = tunnel("redis").unwrap();
    assert_eq!(redis_now["sessions"], serde_json::json!({"now": 1, "most": 1, "limit": 9}));
    assert_eq!((&redis_now["state"], &redis_now["sent"]), (&"serving".into(), &5.into()));
    assert_eq!(tunnel("mysql").unwrap()["state"], "draining");
    assert_eq!(text(&admin.status()["state"]), "ready", "a removed one is no fault");
    one.expect_echo(b"67");
    other.expect_echo(b"still here");
    assert_eq!(admin.says(0, &["kick", "--tunnel", "redis"]), "1 connection ends\n");
    one.expect_ending();
    assert_eq!(tunnel("redis").unwrap()["accepted"], 1);
    eventually("the bytes of both generations add up", || {
        let redis = tunnel("redis").unwrap();
        redis["received"] == 7 && redis["closed"]["kicked"] == 1
    });
    assert_eq!(admin.says(0, &["kick", "--tunnel", "mysql"]), "1 connection ends\n");
    eventually("who has no session left is gone", || tunnel("mysql").is_none());
}

#[test]
fn only_the_owner_can_connect_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let (key, target) = (keygen(dir.path(), "key"), Target::echo());
    for umask in ["000", "777"] {
        let path = dir.path().join(format!("admin-{umask}.sock"));
        let launch = Launch::decrypt(&key).source(&any()).target(target.addr());
        let launch = launch.args(["--admin"]).args([&path]);
        let _end = launch.prelude(&format!("umask {umask};")).start();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "umask {umask}");
        Admin(path).status();
    }
}

/// Another user, who is not root and has the program.
struct Stranger(TempDir);

impl Stranger {
    /// Needs root, to run programs as that user.
    #[track_caller]
    fn new() -> Self {
        require("setpriv", "util-linux");
        let dir = tempfile::Builder::new().permissions(mode(0o755)).tempdir().unwrap();
        install(&binary(), &dir.path().join("knockpipe"));
        Self(dir)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "--"]);
        command.arg(self.0.path().join("knockpipe"));
        command
    }

    /// Makes a directory of that user.
    fn directory(&self) -> PathBuf {
        let directory = self.0.path().join("his");
        std::fs::create_dir(&directory).unwrap();
        std::os::unix::fs::chown(&directory, Some(65534), None).unwrap();
        directory
    }

    /// Starts a decrypt end of that user, under a key of theirs, that hands over at `handover`.
    fn decrypt(&self, directory: &Path, handover: &Path) -> Program {
        let key = keygen(directory, "key");
        std::os::unix::fs::chown(&key, Some(65534), None).unwrap();
        let mut command = self.command();
        command.args(["decrypt", "--log-format", "json", "-s", "127.0.0.1:0", "-t", "127.0.0.1:1"]);
        command.arg("-k").arg(key).arg("--handover").arg(handover);
        Program::spawn("his", command.stdin(Stdio::null()).stdout(Stdio::null()))
    }
}

fn mode(mode: u32) -> Permissions {
    Permissions::from_mode(mode)
}

/// Lets every user connect to the unix socket at `path`.
fn open_to_all(path: &Path) {
    std::fs::set_permissions(path.parent().unwrap(), mode(0o755)).unwrap();
    std::fs::set_permissions(path, mode(0o666)).unwrap();
}

#[test]
fn another_user_gets_no_answer_even_where_the_file_lets_them() {
    let watched = Watched::start(&[]);
    let path = &watched.encrypt.0;
    open_to_all(path);
    let stranger = Stranger::new();
    let output = stranger.command().args(["status", "--admin"]).arg(path).output().unwrap();
    let line = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.contains("only root and the user of this process"), "{line}");
    watched.encrypt.status();
}

/// A stranger asks the process, and the mode of the socket permits it.
#[test]
fn another_user_is_given_no_sockets_even_where_the_file_lets_them() {
    let dir = tempfile::tempdir().unwrap();
    let handover = dir.path().join("handover");
    let target = Target::echo();
    let options = PairOptions::default().decrypt(&["--handover", handover.to_str().unwrap()]);
    let pair = Pair::start(options, target.addr());
    open_to_all(&handover);
    let stranger = Stranger::new();
    let mut thief = stranger.decrypt(&stranger.directory(), &handover);
    assert_eq!(thief.exit_code(), 1, "{}", thief.tail());
    assert!(thief.stderr().contains("cannot take sockets over"), "{}", thief.stderr());
    pair.connect().expect_echo(b"still ours");
    pair.stop();
}

/// A stranger listens where the process expects the one that it takes over from.
#[test]
fn sockets_of_another_user_are_not_taken() {
    let stranger = Stranger::new();
    let directory = stranger.directory();
    let handover = directory.join("handover");
    let his = stranger.decrypt(&directory, &handover);
    his.wait_line("ready", |line| line.is("ready"));
    eventually("he offers his sockets", || handover.exists());
    let key = keygen(stranger.0.path(), "key");
    let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1"]);
    let mut ours = launch.args(["--handover"]).args([&handover]).spawn();
    assert_eq!(ours.exit_code(), 1, "{}", ours.tail());
    assert!(ours.stderr().contains("another user's process listens there"), "{}", ours.stderr());
}

/// A failure of either listener leaves nothing behind.
#[test]
fn a_door_that_cannot_be_opened_leaves_no_file_of_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let (key, path) = (keygen(dir.path(), "key"), dir.path().join("admin.sock"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = taken.local_addr().unwrap().to_string();
    let launch = Launch::decrypt(&key).args(["-s", "127.0.0.1:0", "-t", "127.0.0.1:1"]);
    let mut program = launch.args(["--metrics", &metrics, "--admin"]).args([&path]).spawn();
    assert_eq!(program.exit_code(), 1, "{}", program.tail());
    assert!(program.stderr().contains("is in use") && !path.exists(), "{}", program.stderr());
}

/// Needs root, to become another user.
#[test]
fn the_socket_belongs_to_the_user_that_the_process_becomes() {
    let dir = tempfile::tempdir().unwrap();
    let (key, target) = (keygen(dir.path(), "key"), Target::echo());
    let (path, metrics) = (dir.path().join("admin.sock"), dir.path().join("metrics.sock"));
    let end = Launch::decrypt(&key)
        .source(&any())
        .target(target.addr())
        .args(["-u", "nobody", "--admin"])
        .args([&path])
        .args(["--metrics"])
        .args([&metrics])
        .start();
    let found = std::fs::metadata(&path).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&found), 65534);
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let found = std::fs::metadata(&metrics).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&found), 65534);
    assert_eq!(Admin(path).status()["pid"], end.pid());
}

#[test]
fn a_stale_socket_is_replaced_and_a_living_one_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (key, target) = (keygen(dir.path(), "key"), Target::echo());
    let launch =
        Launch::decrypt(&key).source(&any()).target(target.addr()).args(["--admin"]).args([&path]);
    let end: End = launch.start();
    let mut second = launch.spawn();
    assert_eq!(second.exit_code(), 1);
    assert!(second.stderr().contains("is in use"), "{}", second.stderr());
    assert_eq!(Admin(path).status()["pid"], end.pid());
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() {
    let watched = Watched::start(&[]);
    let _client = watched.client(b"stays");
    for line in [
        "\n",
        "status\n",
        "{\"command\":\"kick\"}\n",
        "{\"command\":\"kick\",\"id\":1,\"tunnel\":\"encrypt\"}\n",
        "{\"command\":\"kick\",\"peer\":\"everybody\"}\n",
        "{\"command\":\"who\",\"tunel\":\"encrypt\"}\n",
    ] {
        let answer = watched.encrypt.raw(line.as_bytes());
        assert!(answer.starts_with("{\"error\":\"") && answer.lines().count() == 1, "{answer}");
    }
    let long = vec![b'x'; 1 << 20];
    let mut wire = Wire::connect(&Addr::Unix(watched.encrypt.0.clone())).unwrap();
    // It is answered long before all of this is sent, and nothing of it is kept.
    wire.write_all(&long).unwrap();
    wire.finish();
    let mut answer = String::new();
    wire.read_to_string(&mut answer).unwrap();
    let is_one = answer.starts_with("{\"error\":\"") && answer.lines().count() == 1;
    assert!(is_one && answer.contains("longer than 4096 bytes; send"), "{answer}");
    assert_eq!(watched.encrypt.who(&[]).len(), 1, "none was kicked");
}

#[test]
fn silent_clients_keep_no_other_out_and_do_not_delay_the_end() {
    let mut watched = Watched::start(&[]);
    let socket = Addr::Unix(watched.encrypt.0.clone());
    let metrics = metrics_address(&watched.pair.encrypt.program);
    let baseline = watched.pair.encrypt.fds();
    let mut held: Vec<Wire> = vec![];
    for addr in [&socket, &metrics] {
        for _ in 0..200 {
            held.push(Wire::connect(addr).unwrap());
        }
    }
    watched.encrypt.status();
    assert_eq!(http(&metrics, "GET", "/healthz").status, 200);
    let most = 16 + 16;
    eventually("the oldest make way", || watched.pair.encrypt.fds() <= baseline + most + 2);
    // The first ones are out, and without an answer.
    held[0].expect_ending();
    watched.pair.encrypt.stop();
}

/// Also when no other client needs the place.
#[test]
fn a_silent_client_that_is_alone_is_ended_too() {
    let watched = Watched::start(&[]);
    let socket = Addr::Unix(watched.encrypt.0.clone());
    let metrics = metrics_address(&watched.pair.encrypt.program);
    let mut silent = [&socket, &metrics].map(|door| Wire::connect(door).unwrap());
    for wire in &mut silent {
        assert_ne!(wire.read_to_ending(NEVER).1, Ending::Silent);
    }
}
