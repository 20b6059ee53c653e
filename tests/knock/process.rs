//! The process around a receiver of knocks: files, reloads, restarts without a gap, what operators
//! see, and mistakes. On loopback, which a gate checks as any other address.

use std::path::Path;
use std::process::Command;

use testkit::admin::{Admin, Metrics, doors};
use testkit::file::{Service, decrypt_table};
use testkit::knock::Knocking;
use testkit::netns::dial_from;
use testkit::wait::poll;
use testkit::{Addr, End, Ending, Launch, NEVER, Target, any, binary, eventually, keygen};

use crate::world::{granted, refused, wait_listening};

const ONE: &str = "127.0.0.7";
const TWO: &str = "127.0.0.8";

/// Returns true if a connection from `source` is denied at once.
fn is_denied(source: &str, to: &Addr) -> bool {
    let mut wire = dial_from(source, to).expect("it listens");
    let (bytes, ending) = wire.read_to_ending(std::time::Duration::from_millis(400));
    assert!(bytes.is_empty());
    ending != Ending::Silent
}

/// Knocks until the source is admitted.
#[track_caller]
fn knock_in(key: &Path, source: &str, to: &Addr) {
    poll(NEVER, || {
        Knocking::new(key).send(source, to);
        (!is_denied(source, to)).then_some(())
    })
    .unwrap_or_else(|| panic!("{source} does not get in"));
}

/// A decrypt end on loopback, and an encrypt end that dials from `ONE`.
struct Local {
    dir: tempfile::TempDir,
    target: Target,
    key: std::path::PathBuf,
}

impl Local {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = keygen(dir.path(), "key");
        Self { dir, target: Target::echo(), key }
    }

    fn decrypt(&self, args: &[&str]) -> End {
        Launch::decrypt(&self.key).source(&any()).target(self.target.addr()).args(args).start()
    }

    fn encrypt(&self, to: &Addr) -> End {
        Launch::encrypt(&self.key).source(&any()).target(to).args(["-b", ONE]).start()
    }

    fn table(&self, name: &str, more: &str) -> String {
        decrypt_table(name, self.target.addr(), "\"key\"", more)
    }
}

#[test]
fn a_file_has_gates_by_the_names_of_its_tunnels() {
    let local = Local::new();
    let text = local.table("redis", "knock = true") + &local.table("mysql", "knock = 'source'");
    let service = Service::start(local.dir.path(), "tunnels.toml", &text);
    let (redis, mysql) = (service.addr("redis"), service.addr("mysql"));
    let named = |gate: &str| Knocking::new(&local.key).gate(gate);
    named("mysql").send(ONE, &redis);
    named("redis").send(TWO, &redis);
    eventually("redis is open for one", || !is_denied(TWO, &redis));
    assert!(is_denied(ONE, &redis), "it asked for another gate");
    assert!(is_denied(TWO, &mysql), "each tunnel has a gate of its own");
    Knocking::new(&local.key).send(ONE, &mysql);
    eventually("the default gate is its own", || !is_denied(ONE, &mysql));
    let mut check = Command::new(binary());
    check.args(["check", "-c"]).arg(local.dir.path().join("tunnels.toml"));
    let shown = check.output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert_eq!(shown.matches("knock = [\"source\"]").count(), 2, "{shown}");
}

/// A reload brings a receiver, changes it, and takes it away. Sessions and grants go on.
#[test]
fn a_reload_brings_a_receiver_and_takes_it_away() {
    let local = Local::new();
    let service = Service::start(local.dir.path(), "tunnels.toml", &local.table("redis", ""));
    let addr = service.addr("redis");
    // On port 0 the socket stays the same as long as the source does.
    let knocking = |more: &str| local.table("redis", &format!("knock = true\n{more}"));
    service.reload(&knocking(""));
    assert!(is_denied(ONE, &addr));
    knock_in(&local.key, ONE, &addr);
    let encrypt = local.encrypt(&addr);
    let mut session = crate::world::live(&encrypt);
    let line = service.reload(&knocking("knock-ttl = '30s'"));
    assert!(line.text().contains("knock-ttl"), "{}", line.text());
    assert!(!is_denied(ONE, &addr), "a grant in memory outlives a change of the settings");
    session.expect_echo(b"after the change");
    knock_in(&local.key, TWO, &addr);
    let line = service.reload_fails(&knocking("knock-ttl = '2h'\nknock-max-ttl = '1h'"));
    assert!(line.text().contains("knock-max-ttl"), "{}", line.text());
    service.reload(&local.table("redis", ""));
    assert!(!is_denied("127.0.0.9", &addr), "without a receiver there is no gate");
    session.expect_echo(b"after the end of it");
}

/// No knock is lost while another process takes over: the kernel keeps it until it is read.
#[test]
fn a_restart_without_a_gap_loses_no_knock() {
    let local = Local::new();
    let gate = format!("gate = 'file:{}'", local.dir.path().join("gate").display());
    let handover = format!("handover = {:?}", local.dir.path().join("handover"));
    let text = local.table("redis", &format!("knock = true\n{gate}"));
    let mut service = Service::start_with(local.dir.path(), "tunnels.toml", &handover, &text);
    let addr = service.addr("redis");
    for round in 0..4 {
        let before = format!("127.0.1.{}", 2 * round + 1);
        let during = format!("127.0.1.{}", 2 * round + 2);
        Knocking::new(&local.key).send(&before, &addr);
        eventually("it is in", || !is_denied(&before, &addr));
        let next = service.again();
        Knocking::new(&local.key).send(&during, &addr);
        next.program.wait_line("took over", |line| line.message().starts_with("took over"));
        assert_eq!(next.addr("redis"), addr);
        eventually("a knock in between is not lost", || !is_denied(&during, &addr));
        assert!(!is_denied(&before, &addr));
        let mut old = std::mem::replace(&mut service, next);
        assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    }
}

/// Beside a socket of systemd's the process binds its own.
#[test]
fn a_socket_of_systemds_has_one_for_knocks_beside_it() {
    let local = Local::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = Addr::Tcp(listener.local_addr().unwrap());
    let prelude = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=redis;";
    let launch = Launch::decrypt(&local.key).args(["-s", "systemd:redis", "--knock"]);
    let mut command = launch.target(local.target.addr()).prelude(prelude).command();
    command.stdin(std::os::fd::OwnedFd::from(listener));
    let end = End::of(testkit::Program::spawn("with a socket", &mut command));
    assert!(wait_listening(&end).has("address", &addr.to_string()));
    assert!(is_denied(ONE, &addr));
    knock_in(&local.key, ONE, &addr);
}

#[test]
fn operators_see_addresses_results_and_who_was_let_in() {
    let local = Local::new();
    let socket = local.dir.path().join("admin.sock");
    let doors = doors(&socket);
    let doors: Vec<&str> = doors.iter().map(String::as_str).collect();
    let end = local.decrypt(&[&["--knock"], &doors[..]].concat());
    let admin = Admin(socket);
    let knocking = Knocking::new(&local.key).label("Anna\u{202e}'s laptop");
    knocking.send(ONE, end.addr());
    eventually("it is granted", || granted(&end).len() == 1);
    let replayed = Knocking::new(&local.key).gate("else").message();
    for _ in 0..3 {
        testkit::knock::send_from(ONE, end.addr(), &replayed).unwrap();
        testkit::knock::send_from(ONE, end.addr(), b"noise").unwrap();
    }
    let results = || admin.tunnel()["knocks"]["results"].clone();
    eventually("all are counted", || results()["stranger"] == 3 && results()["replayed"] == 2);
    assert_eq!((&results()["granted"], &results()["gate"]), (&1.into(), &1.into()));
    let told = admin.says(0, &["status"]);
    let line = told.lines().find(|line| line.trim_start().starts_with("knocks")).unwrap();
    assert!(line.contains(&format!("at {}", end.addr())) && line.contains("granted=1"), "{line}");
    let metrics = Metrics::of(&end);
    assert!((metrics.get("knocks_total", ",result=\"stranger\"") - 3.0).abs() < 0.1);
    assert!((metrics.get("knock_listeners", "") - 1.0).abs() < 0.1);
    let why = admin.says(0, &["gate", "why", ONE]);
    assert!(why.contains("allowed"), "{why}");
    assert_eq!(refused(&end, "gate"), 1, "the first is logged at once");
    // Each end logs what it has not logged yet.
    let mut end = end;
    end.stop();
    assert_eq!(refused(&end, "replayed"), 2);
    let secret = std::fs::read_to_string(&local.key).unwrap();
    let secret = secret.lines().last().unwrap();
    assert!(!end.program.stderr().contains(secret));
}

#[test]
fn mistakes_are_one_line_and_status_2() {
    let local = Local::new();
    let key = local.key.to_str().unwrap();
    let path = local.dir.path().join("a.sock");
    let unix = path.to_str().unwrap();
    for (args, expected) in [
        (&["-s", "127.0.0.1:0", "--knock-ttl", "5s"][..], "add --knock"),
        (&["-s", unix, "--knock"], "write --knock HOST:PORT"),
        (&["-s", "127.0.0.1:0", "--knock", "--knock-key", "00112233"], "none of the keys"),
        (&["-s", "127.0.0.1:0", "--knock=/run/a"], "not an address for datagrams"),
        (&["-s", "127.0.0.1:0", "--knock", "--knock-networks", "0/0"], "prefix lengths"),
        (&["-s", "127.0.0.1:0", "--knock", "--knock-gate", "a b"], "a b"),
    ] {
        let all = [&["decrypt", "-k", key, "-t", "127.0.0.1:1"], args].concat();
        let output = Command::new(binary()).args(&all).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(expected) && said.trim_end().lines().count() == 1, "{said}");
    }
}

/// The port for datagrams is taken by another program.
#[test]
fn a_port_that_is_taken_is_told_and_nothing_starts() {
    let local = Local::new();
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let launch = Launch::decrypt(&local.key).args(["-s", &taken, "--knock"]);
    let mut program = launch.target(local.target.addr()).spawn();
    assert_eq!(program.exit_code(), 1);
    assert!(program.stderr().contains(&format!("{taken} (UDP) is in use")), "{}", program.stderr());
}
