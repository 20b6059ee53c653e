//! Dependencies of a process on the machine around it: the address it binds, the names it looks up
//! again, the system's log.
//!
//! Names and the log get files of their own in a mount namespace of the process under test, so the
//! machine stays as it is.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::channel;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;
use testkit::admin::metrics_address;
use testkit::machine::{private_mounts, with_syslog};
use testkit::program::install;
use testkit::{
    Addr, End, Launch, NEVER, Pair, PairOptions, Program, Target, Wire, any, binary, eventually,
    keygen,
};

// === -b ===

/// `-b`: the target sees that address, and so does the decrypt end.
#[test]
fn connections_come_from_the_address_that_b_names() {
    let (sender, seen) = channel();
    let target = Target::local(move |mut wire, _| {
        sender.send(wire.peer()).unwrap();
        wire.write_all(b"!").unwrap();
    });
    // An address without a port, as in our spelling, and both with one, as in spiped's.
    for (encrypt, decrypt) in [("127.0.0.4", "127.0.0.5"), ("[127.0.0.4]:0", "127.0.0.5:0")] {
        let options = PairOptions::default().encrypt(&["-b", encrypt]).decrypt(&["-b", decrypt]);
        let pair = Pair::start(options, target.addr());
        let mut client = pair.connect();
        client.expect_bytes(1);
        drop(client);
        let peer = seen.recv_timeout(NEVER).expect("the target was reached");
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 5));
        let line = pair.decrypt.program.wait_line("closed", |line| line.is("closed"));
        let peer: SocketAddr = line.field("peer").unwrap().parse().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::new(127, 0, 0, 4), "{}", line.text());
    }
}

/// One with a port: that very port, also right after its last connection has ended.
#[test]
fn a_bind_port_is_used_again_at_once() {
    let (sender, seen) = channel();
    let target = Target::local(move |mut wire, _| {
        sender.send(wire.peer()).unwrap();
        wire.write_all(b"!").unwrap();
    });
    let bind = SocketAddr::from(([127, 0, 0, 5], testkit::address::free_port()));
    let options = PairOptions::default().decrypt(&["-b", &bind.to_string()]);
    let pair = Pair::start(options, target.addr());
    for round in 0..3 {
        let mut client = pair.connect();
        assert_eq!(client.expect_bytes(1), b"!", "round {round}");
        drop(client);
        assert_eq!(seen.recv_timeout(NEVER).expect("the target was reached"), bind);
        target.wait_idle();
        let finished = || pair.decrypt.closed().len() > round;
        eventually("the session has ended", finished);
    }
}

// === -r ===

/// The name with the address that the tests change.
pub(super) const NAME: &str = "knockpipe.test";

/// A machine that has its names from a file of ours.
pub(super) struct Names {
    dir: TempDir,
}

impl Names {
    pub(super) fn new() -> Self {
        let names = Self { dir: tempfile::tempdir().unwrap() };
        fs::write(names.file("nsswitch.conf"), "hosts: files\n").unwrap();
        names.say(None);
        names
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives the name this address from now on, or none.
    pub(super) fn say(&self, ip: Option<Ipv4Addr>) {
        // Written in place: the mounted file is this one and no successor.
        let line = ip.map(|ip| format!("{ip} {NAME}\n")).unwrap_or_default();
        fs::write(self.file("hosts"), line).unwrap();
    }

    /// Returns a program that runs `knockpipe` with these names.
    fn knockpipe(&self) -> PathBuf {
        self.with(&binary())
    }

    /// Returns a program that runs `program`, which starts it, with these names.
    pub(super) fn with(&self, program: &Path) -> PathBuf {
        let script = self.file("knockpipe");
        let text = format!(
            "#!/bin/sh\n\
             exec {} sh -c 'mount --bind {} /etc/hosts && mount --bind {} /etc/nsswitch.conf \
             && exec {} \"$@\"' knockpipe \"$@\"\n",
            private_mounts().join(" "),
            self.file("hosts").display(),
            self.file("nsswitch.conf").display(),
            program.display(),
        );
        let draft = self.file("draft");
        fs::write(&draft, text).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&draft, mode).unwrap();
        install(&draft, &script);
        script
    }
}

/// Two addresses of this machine, which the name moves between.
pub(super) const ONE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
pub(super) const TWO: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// Starts a target that sends its name, and then echoes.
pub(super) fn says(at: SocketAddr, name: &'static str) -> Target {
    Target::serve(&Addr::Tcp(at), move |mut wire, counts| {
        if wire.write_all(name.as_bytes()).is_ok() {
            testkit::target::echo(wire, counts);
        }
    })
}

/// Returns true if a new client is served by `name`.
pub(super) fn served_by(entrance: &Addr, name: &str) -> bool {
    Wire::connect(entrance).unwrap().expect_bytes(name.len()) == name.as_bytes()
}

/// Moves the name away and back while `end`, which dials it, is in use. The target at address
/// number N sends N.
fn moves(names: &Names, end: &End, entrance: &Addr) {
    let mut early = Wire::connect(entrance).unwrap();
    assert_eq!(early.expect_bytes(1), b"1");
    names.say(Some(TWO));
    eventually("new connections follow the name", || served_by(entrance, "2"));
    early.expect_echo(b"and the old one stays");

    names.say(None);
    let gone = "target no longer resolves";
    end.program.wait_line(gone, |line| line.message().starts_with(gone));
    assert!(served_by(entrance, "2"), "the last good answer is kept");

    names.say(Some(ONE));
    end.program.wait_line("target resolves again", |line| line.is("target resolves again"));
    eventually("and they follow it back", || served_by(entrance, "1"));
    assert_eq!(end.count(gone), 1, "said once:\n{}", end.program.tail());
    early.expect_echo(b"to the end");
}

/// "Target names are resolved again every -r seconds (last good answer kept)", at
/// the decrypt end.
#[test]
fn a_service_that_moves_is_found_again() {
    let one = says(SocketAddr::from((ONE, 0)), "1");
    let port = one.addr().tcp().port();
    let _two = says(SocketAddr::from((TWO, port)), "2");
    let names = Names::new();
    names.say(Some(ONE));
    let key = keygen(names.dir.path(), "key");
    let decrypt = Launch::decrypt(&key)
        .binary(&names.knockpipe())
        .source(&any())
        .args(["-t", &format!("{NAME}:{port}"), "-r", "1s"])
        .start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr()).start();
    moves(&names, &decrypt, encrypt.addr());
}

/// The encrypt end follows a far end that moves.
#[test]
fn a_decrypt_end_that_moves_is_found_again() {
    let names = Names::new();
    names.say(Some(ONE));
    let key = keygen(names.dir.path(), "key");
    let targets = ["1", "2"].map(|name| says(any().tcp(), name));
    let decrypt = |ip: Ipv4Addr, port: u16, target: &Target| {
        let at = Addr::Tcp((ip, port).into());
        Launch::decrypt(&key).source(&at).target(target.addr()).start()
    };
    let one = decrypt(ONE, 0, &targets[0]);
    let port = one.addr().tcp().port();
    let _two = decrypt(TWO, port, &targets[1]);
    let encrypt = Launch::encrypt(&key)
        .binary(&names.knockpipe())
        .source(&any())
        .args(["-t", &format!("{NAME}:{port}"), "-r", "1s"])
        .start();
    moves(&names, &encrypt, encrypt.addr());
}

/// `-D`: an end without an address for its target yet refuses, and serves by itself as soon as the
/// name is there.
#[test]
fn a_name_that_comes_later_is_waited_for() {
    let target = says(any().tcp(), "1");
    let names = Names::new();
    let key = keygen(names.dir.path(), "key");
    let port = target.addr().tcp().port();
    let decrypt = Launch::decrypt(&key)
        .binary(&names.knockpipe())
        .source(&any())
        .args(["-t", &format!("{NAME}:{port}"), "-D"])
        .start();
    let encrypt = Launch::encrypt(&key).source(&any()).target(decrypt.addr()).start();
    encrypt.connect().expect_ending();
    decrypt.wait_closed("target-unresolved");
    names.say(Some(Ipv4Addr::LOCALHOST));
    eventually("the name is found", || {
        let (bytes, _) = encrypt.connect().read_to_ending(std::time::Duration::from_secs(1));
        bytes == b"1"
    });
}

// === -s NAME ===

/// A lookup that hangs does not delay a stop.
#[test]
fn a_process_that_looks_a_name_up_can_be_stopped() {
    let names = Names::new();
    let hosts = names.file("hosts");
    fs::remove_file(&hosts).unwrap();
    mkfifo(&hosts, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let key = keygen(names.dir.path(), "key");
    let launch = Launch::decrypt(&key).binary(&names.knockpipe()).args(["-t", "127.0.0.1:1"]);
    let launch = launch.args(["--metrics", ":0", "-s", &format!("{NAME}:0")]);
    let mut decrypt = launch.spawn();
    // Next it opens the pipe with the names, into which nothing is ever written.
    metrics_address(&decrypt);
    decrypt.signal(Signal::SIGTERM);
    assert_eq!(decrypt.exit_code(), 0, "{}", decrypt.tail());
    decrypt.wait_line("stopped", |line| line.is("stopped before it was ready"));
}

/// `-D` with `--handover` and `-p`: a process without an address for its name waits for it, while
/// the process that it takes over from serves, and has the pid file.
#[test]
fn a_successor_waits_for_a_name_to_listen_on() {
    let target = says(any().tcp(), "1");
    let names = Names::new();
    let key = keygen(names.dir.path(), "key");
    let (handover, pid) = (names.file("handover"), names.file("pid"));
    let launch = || {
        let launch = Launch::decrypt(&key).source(&any()).target(target.addr()).args(["-p"]);
        launch.args([&pid]).args(["--handover"]).args([&handover])
    };
    let mut old = launch().start();
    eventually("it offers its sockets", || handover.exists());
    let has_pid_file = |program: &Program| {
        let text = fs::read_to_string(&pid).unwrap_or_default();
        text == format!("{}\n", program.pid())
    };
    let next = launch().binary(&names.knockpipe()).args(["-D", "-s", &format!("{NAME}:0")]);
    let next = next.spawn();
    next.wait_line("waiting", |line| line.is("waiting for DNS"));
    assert!(has_pid_file(&old.program));
    names.say(Some(ONE));
    let next = End::of(next);
    assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    eventually("the pid file is the successor's", || has_pid_file(&next.program));
    assert_eq!(next.addr(), old.addr());
}

// === --syslog ===

/// `--syslog`: the lines go to /dev/log, as `knockpipe[PID]` of the daemon
/// facility, and nothing goes to standard error.
#[test]
fn syslog_receives_the_lines() {
    let target = Target::echo();
    let dir = tempfile::tempdir().unwrap();
    let key = keygen(dir.path(), "key");
    let log = UnixDatagram::bind(dir.path().join("log")).unwrap();
    log.set_read_timeout(Some(NEVER)).unwrap();
    let (sealed, pid_file) = (dir.path().join("sealed"), dir.path().join("pid"));
    let mut command = with_syslog(&dir.path().join("log"));
    command.args(["decrypt", "--syslog", "-s"]).arg(&sealed).arg("-p").arg(&pid_file);
    command.args(["-t", &target.addr().to_string(), "-k"]).arg(&key);
    let mut decrypt = Program::spawn("decrypt", command.stdin(Stdio::null()).stdout(Stdio::null()));

    let ready = datagram_with(&log, " ready ");
    let pid = fs::read_to_string(&pid_file).unwrap();
    let tag = format!("knockpipe[{}]: ", pid.trim_end());
    assert!(ready.contains(&tag), "no {tag} in {ready}");
    assert!(priority(&ready) > DAEMON * 8 + WARNING, "too loud: {ready}");
    assert_eq!(priority(&ready) / 8, DAEMON, "not of the daemon facility: {ready}");
    let sealed = Addr::Unix(sealed);
    let mut encrypt = Launch::encrypt(&key).source(&any()).target(&sealed).start();
    encrypt.connect().expect_echo(b"through the tunnel");
    let closed = datagram_with(&log, " closed ");
    assert!(closed.contains(&tag) && closed.contains("reason=finished"), "{closed}");
    encrypt.stop();

    Wire::connect(&sealed).unwrap().write_all(&[0; 300]).unwrap();
    let refused = datagram_with(&log, " refused ");
    assert_eq!(priority(&refused), DAEMON * 8 + WARNING, "not daemon.warning: {refused}");
    decrypt.signal(Signal::SIGTERM);
    datagram_with(&log, "stopped");
    assert_eq!(decrypt.exit_code(), 0);
    assert_eq!(decrypt.stderr(), "");
}

/// Facility and severity, as syslog(3) numbers them.
const DAEMON: u32 = 3;
const WARNING: u32 = 4;

/// Returns the number in front of a line: facility times 8, and severity; the lower, the louder.
fn priority(line: &str) -> u32 {
    let number = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    number.expect("a line has a priority").0.parse().expect("it is a number")
}

/// Returns the next line of the log with `piece` in it.
#[track_caller]
fn datagram_with(log: &UnixDatagram, piece: &str) -> String {
    let mut bytes = [0; 4096];
    loop {
        let len = log.recv(&mut bytes).unwrap_or_else(|e| panic!("no{piece}in the log: {e}"));
        let line = String::from_utf8_lossy(&bytes[..len]).into_owned();
        if line.contains(piece) {
            return line;
        }
    }
}
