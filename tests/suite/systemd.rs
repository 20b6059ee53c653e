//! Expectations of service managers and containers: messages about the state, sockets that are
//! handed over, and a process 1 that behaves.
//!
//! The manager is a socket of the test; sockets are handed over as systemd does it, by a shell that
//! becomes the program.

use std::fs;
use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use knockpipe::proto::SuiteSet;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, geteuid, mkfifo};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tempfile::TempDir;
use testkit::hand::Call;
use testkit::program::require;
use testkit::wait::bounded;
use testkit::{
    Addr, End, Launch, NEVER, Pair, Program, Target, Wire, any, eventually, keygen, proc,
};

use super::first_messages::is_answered;

/// A directory with a key.
struct Place {
    dir: TempDir,
    key: PathBuf,
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let key = keygen(dir.path(), "key");
        Self { dir, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn decrypt(&self) -> Launch {
        Launch::decrypt(&self.key).args(["-t", "/no/where"])
    }
}

// === messages ===

/// The socket of a service manager.
pub(super) struct Manager(UnixDatagram);

impl Manager {
    pub(super) fn at(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(NEVER)).unwrap();
        Self(socket)
    }

    /// Returns the next message, as lines.
    #[track_caller]
    pub(super) fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let len = self.0.recv(&mut buffer).expect("a message comes");
        str::from_utf8(&buffer[..len]).unwrap().lines().map(str::to_owned).collect()
    }

    /// Returns the next message with a descriptor, as lines, and that.
    #[track_caller]
    fn next_with(&self) -> (Vec<String>, OwnedFd) {
        let mut buffer = [0; 4096];
        let mut data = [IoSliceMut::new(&mut buffer)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(&self.0, &mut data, &mut control, RecvFlags::CMSG_CLOEXEC);
        let len = got.expect("a message comes").bytes;
        let descriptor = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut all) => all.next(),
            _ => None,
        });
        let lines = str::from_utf8(&buffer[..len]).unwrap().lines().map(str::to_owned).collect();
        (lines, descriptor.expect("a descriptor comes along"))
    }

    /// Returns true if every message so far was read.
    fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let silent = self.0.recv(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock);
        self.0.set_nonblocking(false).unwrap();
        silent
    }
}

#[test]
fn the_manager_hears_of_ready_and_of_stopping_by_path_and_by_abstract_name() {
    let place = Place::new();
    let path = place.path("notify");
    let name = format!("knockpipe-test-{}", std::process::id());
    for (address, spelled) in [
        (SocketAddr::from_pathname(&path).unwrap(), path.to_str().unwrap().to_owned()),
        (SocketAddr::from_abstract_name(&name).unwrap(), format!("@{name}")),
    ] {
        let manager = Manager::at(&address);
        let target = Target::echo();
        let launch = Launch::decrypt(&place.key).source(&any()).target(target.addr());
        let mut command = launch.command();
        command.env("NOTIFY_SOCKET", &spelled);
        let program = Program::spawn("decrypt", &mut command);
        assert_eq!(manager.next(), ["READY=1", "STATUS=serving"]);
        // Ready means ready: no waiting from here on.
        let line = program.wait_line("listening", |line| line.is("listening"));
        let decrypt = Addr::parse(&line.field("address").unwrap()).unwrap();
        let encrypt = Launch::encrypt(&place.key).source(&any()).target(&decrypt).start();
        let mut client = encrypt.connect();
        client.expect_echo(b"hello");
        program.signal(Signal::SIGTERM);
        assert_eq!(manager.next(), ["STOPPING=1", "STATUS=draining 1 sessions"]);
        client.expect_echo(b"still here");
        drop(client);
        let mut program = program;
        assert_eq!(program.exit_code(), 0, "{}", program.tail());
        assert!(manager.is_silent(), "no watchdog was asked for");
    }
}

#[test]
fn a_reload_is_told_from_its_beginning_to_its_end() {
    let place = Place::new();
    let path = place.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let mut command = place.decrypt().source(&any()).command();
    let mut end = End::of(Program::spawn("decrypt", command.env("NOTIFY_SOCKET", &path)));
    assert_eq!(manager.next()[0], "READY=1");
    for (there, status) in [(true, "STATUS=serving"), (false, "STATUS=serving, not reloaded")] {
        if !there {
            fs::remove_file(&place.key).unwrap();
        }
        end.program.signal(Signal::SIGHUP);
        let begun = manager.next();
        assert_eq!(begun[0], "RELOADING=1");
        assert!(begun[1].starts_with("MONOTONIC_USEC="), "{begun:?}");
        assert_eq!(manager.next(), ["READY=1", status]);
    }
    end.stop();
}

#[test]
fn a_process_that_stands_still_is_noticed_by_the_watchdog() {
    const PERIOD: Duration = Duration::from_secs(2);
    let place = Place::new();
    let path = place.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let mut command = place.decrypt().source(&any()).command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", PERIOD.as_micros().to_string());
    let start = Instant::now();
    let program = Program::spawn("decrypt", &mut command);
    assert_eq!(manager.next()[0], "READY=1");
    assert_eq!(manager.next(), ["WATCHDOG=1"], "the first comes at once");
    for _ in 0..3 {
        assert_eq!(manager.next(), ["WATCHDOG=1"]);
    }
    assert!(start.elapsed() >= PERIOD / 2 * 3, "each comes after half a period");
    // Returns when every thread is stopped.
    program.signal(Signal::SIGSTOP);
    while !manager.is_silent() {}
    manager.0.set_read_timeout(Some(PERIOD)).unwrap();
    assert!(manager.0.recv(&mut [0; 64]).is_err(), "a message from who stands still");
    manager.0.set_read_timeout(Some(NEVER)).unwrap();
    program.signal(Signal::SIGCONT);
    assert_eq!(manager.next(), ["WATCHDOG=1"]);
}

#[test]
fn a_watchdog_of_another_process_is_none_of_ours() {
    let place = Place::new();
    let path = place.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let mut command = place.decrypt().source(&any()).command();
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "2000").env("WATCHDOG_PID", "1");
    let mut end = End::of(Program::spawn("decrypt", &mut command));
    assert_eq!(manager.next()[0], "READY=1");
    // The first would come at once, and by the end of this the runtime has done more than that.
    drop(end.connect());
    end.wait_refused("handshake-failed");
    end.stop();
    assert_eq!(manager.next()[0], "STOPPING=1");
}

#[test]
fn a_manager_that_is_gone_or_full_delays_nothing() {
    let place = Place::new();
    let path = place.path("notify");
    for gone in [true, false] {
        let manager = (!gone).then(|| Manager::at(&SocketAddr::from_pathname(&path).unwrap()));
        if manager.is_some() {
            let filler = UnixDatagram::unbound().unwrap();
            filler.set_nonblocking(true).unwrap();
            while filler.send_to(b"x", &path).is_ok() {}
        }
        let mut command = place.decrypt().source(&any()).command();
        let mut program = Program::spawn("decrypt", command.env("NOTIFY_SOCKET", &path));
        program.wait_line("cannot tell", |line| line.is("cannot notify service manager"));
        program.signal(Signal::SIGTERM);
        assert_eq!(program.exit_code(), 0, "{}", program.tail());
    }
}

// === sockets that are handed over ===

/// Starts `launch` with one or two sockets under `names`, from descriptor 3 on.
pub(super) fn hand_over(launch: &Launch, names: &str, sockets: Vec<OwnedFd>) -> Program {
    let count = sockets.len();
    let second = if count == 2 { "4>&1" } else { "" };
    let prelude = format!(
        "exec 3<&0 {second} </dev/null >/dev/null;
         export LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={names};"
    );
    let mut sockets = sockets.into_iter().map(Stdio::from);
    let mut command = launch.clone().prelude(&prelude).command();
    command.stdin(sockets.next().unwrap());
    command.stdout(sockets.next().unwrap_or_else(Stdio::null));
    Program::spawn("with sockets", &mut command)
}

pub(super) fn tcp() -> (Addr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (Addr::Tcp(listener.local_addr().unwrap()), listener)
}

#[test]
fn clients_that_came_before_the_start_are_served() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let (addr, listener) = tcp();
    let mut early: Vec<Wire> = (0..20).map(|_| Wire::connect(&addr).unwrap()).collect();
    let encrypt = Launch::encrypt(pair.key()).args(["-s", "systemd:redis"]);
    let encrypt = encrypt.target(pair.decrypt.addr());
    let mut end = End::of(hand_over(&encrypt, "redis", vec![listener.into()]));
    assert_eq!(end.addr(), &addr, "the log names the address and not the name");
    for client in &mut early {
        client.expect_echo(b"I was early");
    }
    end.connect().expect_echo(b"I was not");
    drop(early);
    end.stop();
}

/// A restart refuses no client: the manager's copy of the socket goes on listening.
#[test]
fn a_restart_with_a_socket_of_the_managers_refuses_no_client() {
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    let (addr, listener) = tcp();
    let encrypt = Launch::encrypt(pair.key()).args(["-s", "systemd:redis"]);
    let encrypt = encrypt.target(pair.decrypt.addr());
    let start =
        || End::of(hand_over(&encrypt, "redis", vec![listener.try_clone().unwrap().into()]));
    let mut end = start();
    end.connect().expect_echo(b"before");
    end.stop();
    let mut between = Wire::connect(&addr).expect("it listens");
    let _end = start();
    between.expect_echo(b"between");
}

/// The manager keeps the memory of first messages, also for a process after a crash: an answered
/// message gets no second answer, and one sent meanwhile gets one.
#[test]
fn what_the_manager_keeps_makes_a_restart_forget_nothing() {
    let place = Place::new();
    let path = place.path("notify");
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let launch = place.decrypt().source(&any()).args(["-o", "500ms"]);
    let mut command = launch.command();
    command.env("NOTIFY_SOCKET", &path).env("FDSTORE", "1");
    let first = End::of(Program::spawn("decrypt", &mut command));
    assert_eq!(manager.next()[0], "READY=1");
    assert_eq!(manager.next(), ["FDSTOREREMOVE=1", "FDNAME=first-messages"]);
    let (lines, kept) = manager.next_with();
    assert_eq!(lines, ["FDSTORE=1", "FDNAME=first-messages"]);
    // By a clock that is ahead, so that it is not from before anything.
    let recorded = Call::with(&place.key, 30, SuiteSet::BOTH);
    assert!(is_answered(first.addr(), &recorded));
    first.program.signal(Signal::SIGKILL);
    let meanwhile = Call::new(&place.key);
    drop(first);
    let mut again = End::of(hand_over(&launch, "first-messages", vec![kept]));
    assert_eq!(again.count("systemd socket not used"), 0);
    assert!(!is_answered(again.addr(), &recorded));
    assert!(is_answered(again.addr(), &meanwhile));
    again.stop();
}

/// Another content under that name is reported, and the memory begins anew.
#[test]
fn what_is_no_memory_is_not_taken_for_one() {
    let place = Place::new();
    let file = fs::File::create_new(place.path("other")).unwrap();
    let launch = place.decrypt().source(&any());
    let mut end = End::of(hand_over(&launch, "first-messages", vec![file.into()]));
    assert_eq!(end.count("cannot read the predecessor's replay state"), 1);
    assert!(is_answered(end.addr(), &Call::new(&place.key)));
    end.stop();
}

#[test]
fn unix_sockets_keep_their_files_and_one_name_may_have_several() {
    let place = Place::new();
    let (one, two) = (place.path("one"), place.path("two"));
    let sockets = [&one, &two].map(|path| UnixListener::bind(path).unwrap().into());
    let launch = place.decrypt().args(["-s", "systemd:both"]);
    let mut end = End::of(hand_over(&launch, "both:both", sockets.into()));
    assert_eq!(end.addrs(), [Addr::Unix(one.clone()), Addr::Unix(two.clone())]);
    for addr in end.addrs() {
        Wire::connect(addr).unwrap();
    }
    end.stop();
    assert!(one.exists() && two.exists(), "they are the manager's");
}

#[test]
fn abstract_sockets_and_sockets_beside_own_ones_are_served() {
    let place = Place::new();
    let name = format!("knockpipe-handed-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixListener::bind_addr(&address).unwrap();
    let own = place.path("own");
    let launch = place.decrypt().args(["-s", "systemd:one", "-s"]).args([&own]);
    let program = hand_over(&launch, "one", vec![socket.into()]);
    program.wait_line("ready", |line| line.is("ready"));
    let listening = program.log().into_iter().filter(|line| line.is("listening"));
    let addresses: Vec<_> = listening.map(|line| line.field("address").unwrap()).collect();
    assert_eq!(addresses, [format!("@{name}"), own.display().to_string()]);
    std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
    Wire::connect(&Addr::Unix(own)).unwrap();
}

#[test]
fn what_is_not_as_it_should_be_is_told() {
    let place = Place::new();
    let launch = |source: &str| place.decrypt().args(["-s", source]);
    let fails = |mut program: Program, part: &str| {
        assert_eq!(program.exit_code(), 1);
        let lines = program.raw_lines();
        let text = String::from_utf8(lines.concat()).unwrap();
        assert!(text.contains(part) && text.contains("; "), "{text}");
    };
    fails(launch("systemd:redis").spawn(), "hands no sockets to this process");
    let other = launch("systemd:redis");
    fails(hand_over(&other, "mysql:web", vec![tcp().1.into(), tcp().1.into()]), "mysql, web");
    let datagram = UnixDatagram::unbound().unwrap();
    fails(hand_over(&other, "redis", vec![datagram.into()]), "not a stream socket that listens");
    let unbound = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    fails(hand_over(&other, "redis", vec![unbound.into()]), "not a stream socket that listens");
    // Descriptors for another process are not ours, whatever else is true.
    let anothers = launch("systemd:redis").prelude("export LISTEN_FDS=1 LISTEN_PID=1;").spawn();
    fails(anothers, "hands no sockets to this process");
    let no_process = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_FDNAMES=redis;";
    let mut command = launch("systemd:redis").prelude(no_process).command();
    let socket = OwnedFd::from(tcp().1);
    command.env_remove("LISTEN_PID").stdin(socket);
    fails(Program::spawn("no process", &mut command), "hands no sockets to this process");
    let mut target = Launch::decrypt(&place.key).source(&any()).args(["-t", "systemd:a"]).spawn();
    assert_eq!(target.exit_code(), 2);
    assert!(target.tail().contains("only a source can be one"), "{}", target.tail());
}

#[test]
fn an_unused_socket_is_reported() {
    let place = Place::new();
    let launch = place.decrypt().args(["-s", "systemd:one"]);
    let sockets = vec![tcp().1.into(), tcp().1.into()];
    let end = End::of(hand_over(&launch, "one:spare", sockets));
    let line = end.program.wait_line("not used", |line| line.is("systemd socket not used"));
    assert_eq!(line.field("names").as_deref(), Some("spare"), "{}", line.text());
}

// === process 1 ===

/// Returns the children of a process, zombies too.
fn children(parent: u32) -> Vec<u32> {
    proc::those(|stat| stat.parent == parent)
}

/// In a process namespace of its own, where it is process 1: an orphan that ends is gone, and
/// SIGTERM drains, although process 1 is not ended by it.
#[test]
fn process_1_of_a_container_reaps_orphans_and_drains() {
    require("unshare", "util-linux");
    assert!(geteuid().is_root(), "this test makes a process namespace; run it with sudo");
    let place = Place::new();
    let fifo = place.path("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let target = Target::echo();
    let pair = Pair::to(target.addr());
    // The shell that starts it ends at once, and leaves it to process 1.
    let orphan = format!("(cat {} &);", fifo.display());
    let inner = Launch::encrypt(pair.key()).source(&any()).target(pair.decrypt.addr());
    let inner = inner.prelude(&orphan).command();
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut end = End::of(Program::spawn("unshare", &mut command));

    let [first] = children(end.pid())[..] else { panic!("unshare has one child") };
    assert_eq!(children(first).len(), 1, "the orphan is a child of process 1");
    // Opening waits for the reader, and dropping ends it.
    bounded("the orphan reads", move || drop(fs::File::options().write(true).open(fifo).unwrap()));
    eventually("the orphan ends and is reaped", || children(first).is_empty());

    let mut client = end.connect();
    client.expect_echo(b"hello");
    kill(Pid::from_raw(first.cast_signed()), Signal::SIGTERM).unwrap();
    end.program.wait_line("stopping", |line| line.is("stopping: no new connections"));
    client.expect_echo(b"still here");
    drop(client);
    assert_eq!(end.program.exit_code(), 0, "{}", end.program.tail());
}
