//! A process that gets commands at its handover socket, as from the units of the package: to read
//! its file again, or to make room for the program that an upgrade brought. The service manager is
//! a socket of the test.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;
use testkit::file::decrypt_table;
use testkit::proc::Background;
use testkit::program::{install, require};
use testkit::wait::bounded;
use testkit::{Addr, End, Launch, Program, Target, Wire, any, binary, eventually, keygen, proc};

use super::systemd::{Manager, hand_over, tcp};

/// A program of its own, a file for it, and its service manager.
struct Stage {
    dir: TempDir,
    target: Target,
    manager: Manager,
}

impl Stage {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        keygen(dir.path(), "key");
        install(&binary(), &dir.path().join("knockpipe"));
        let notify = dir.path().join("notify");
        let manager = Manager::at(&SocketAddr::from_pathname(notify).unwrap());
        let stage = Self { dir, target: Target::echo(), manager };
        stage.write("far", "127.0.0.1:0", "");
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, tunnel: &str, source: &str, more: &str) {
        let table = decrypt_table(tunnel, self.target.addr(), "\"key\"", more);
        let table = table.replace("127.0.0.1:0", source);
        let process = format!("pid-file = {:?}\nlog-format = \"json\"", self.path("pid"));
        fs::write(self.path("far.toml"), format!("[process]\n{process}\n{table}")).unwrap();
    }

    fn launch(&self) -> Launch {
        let launch = Launch::new("run").binary(&self.path("knockpipe"));
        let launch = launch.args(["-c".as_ref(), self.path("far.toml").as_os_str()]);
        launch.args(["--handover".as_ref(), self.path("handover").as_os_str()])
    }

    /// Starts the service, with a watchdog.
    fn start(&self) -> End {
        let mut command = self.launch().command();
        command.env("NOTIFY_SOCKET", self.path("notify")).env("FDSTORE", "1");
        command.env("WATCHDOG_USEC", "2000000");
        let end = End::of(Program::spawn("service", &mut command));
        assert_eq!(self.manager.next()[0], "READY=1");
        end
    }

    /// Replaces the program by another file, as a package does.
    fn upgrade(&self) {
        install(&binary(), &self.path("next"));
        fs::rename(self.path("next"), self.path("knockpipe")).unwrap();
    }

    /// Runs the control process of a service, which gets no messages from a manager.
    fn ask(&self) -> Output {
        let mut command = self.launch().args(["--reload-or-replace"]).command();
        let log = fs::File::create(self.path("log")).unwrap();
        command.stdout(fs::File::create(self.path("said")).unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let status = bounded("it tells what came of it", move || child.wait().unwrap());
        let read = |name| fs::read(self.path(name)).unwrap();
        Output { status, stdout: read("said"), stderr: read("log") }
    }

    /// Returns the process that the pid file names. Dropping it ends it.
    fn successor(&self) -> Background {
        Background::of(&self.path("pid"))
    }

    /// Starts a service with a live session, and replaces its process by another program.
    fn replaced(&self) -> Replaced {
        let old = self.start();
        let encrypt = Launch::encrypt(&self.path("key")).source(&any()).target(old.addr()).start();
        let mut live = encrypt.connect();
        live.expect_echo(b"before");
        self.upgrade();
        says(&self.ask(), 0, "replaced: ");
        Replaced { old, encrypt, live }
    }

    /// Returns the next message that is not the watchdog's.
    fn told(&self) -> Vec<String> {
        loop {
            let lines = self.manager.next();
            if lines != ["WATCHDOG=1"] {
                return lines;
            }
        }
    }
}

/// The remains of a service that was replaced.
struct Replaced {
    old: End,
    encrypt: End,
    live: Wire,
}

/// Returns a perl script with the rights of another user.
fn of_another_user(script: &str, path: &Path) -> Command {
    require("setpriv", "util-linux");
    require("perl", "perl");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.args(["perl", "-MIO::Socket::UNIX", "-e", script]).arg(path);
    command
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

#[track_caller]
fn says(output: &Output, status: i32, part: &str) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(status), "{text}");
    assert!(text.contains(part), "no '{part}' in {text}");
    text
}

#[test]
fn the_same_program_reads_its_file_again_and_reports_the_result_to_the_caller() {
    let stage = Stage::new();
    let text = says(&stage.ask(), 1, "no process listens at");
    assert!(
        text.contains("; one that was started without --handover") && text.lines().count() == 1
    );
    let mut end = stage.start();
    says(&stage.ask(), 0, "reloaded: nothing changed; 1 the same");
    stage.write("far", "127.0.0.1:0", "timeout = '7s'");
    says(&stage.ask(), 0, "reloaded: changed far (timeout)");
    stage.write("far", "127.0.0.1:0", "timeuot = 7");
    let text = says(&stage.ask(), 1, "not reloaded: ");
    assert!(text.contains("did you mean 'timeout'") && text.lines().count() == 1, "{text}");
    end.connect();
    assert_eq!(proc::pid_in(&stage.path("pid")), end.pid());
    end.stop();
}

/// The new process is no child of the one that asked, gets the manager's variables of the one
/// before, and is the main process; that one finishes its sessions, also while all are stopped.
#[test]
fn another_program_takes_the_place_with_the_manager_too() {
    let stage = Stage::new();
    let Replaced { mut old, encrypt, mut live } = stage.replaced();
    let new = stage.successor();
    assert_ne!(new.pid(), old.pid());
    assert_ne!(proc::stat(new.pid()).unwrap().parent, std::process::id());
    let kept = ["FDSTOREREMOVE=1", "FDNAME=first-messages"];
    assert_eq!(stage.told(), kept);
    assert_eq!(stage.told()[0], "FDSTORE=1");
    assert_eq!(stage.told(), [format!("MAINPID={}", new.pid())]);
    assert_eq!(stage.told(), ["READY=1", "STATUS=serving"]);
    assert_eq!(stage.told(), kept);
    assert_eq!(stage.told()[0], "FDSTORE=1");

    encrypt.connect().expect_echo(b"served by the new one");
    // As systemd stops a service: each of its processes.
    old.program.signal(Signal::SIGTERM);
    old.program.wait_line("told", |line| line.message().starts_with("already finishing sessions"));
    live.expect_echo(b"after");
    drop(live);
    assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    // From here on a watchdog message is the new one's.
    while stage.manager.next() != ["WATCHDOG=1"] {}
    while stage.manager.next() != ["WATCHDOG=1"] {}
    new.stop();
    assert_eq!(stage.told()[0], "STOPPING=1");
}

#[test]
fn a_second_signal_ends_one_that_was_replaced() {
    let stage = Stage::new();
    let Replaced { mut old, encrypt: _encrypt, live: _live } = stage.replaced();
    let _new = stage.successor();
    for said in ["already finishing sessions", "second signal"] {
        old.program.signal(Signal::SIGTERM);
        old.program.wait_line(said, |line| line.message().starts_with(said));
    }
    assert_eq!(old.program.exit_code(), 1);
}

#[test]
fn another_program_that_cannot_start_leaves_the_one_that_runs() {
    let stage = Stage::new();
    let mut old = stage.start();
    stage.upgrade();
    stage.write("far", "127.0.0.1:0", "timeuot = 7");
    let text =
        says(&stage.ask(), 1, "did not start in the place of the one that runs, which goes on");
    assert!(text.contains("did you mean 'timeout'"), "{text}");
    stage.write("far", "127.0.0.1:0", "");
    old.connect();
    assert_eq!(proc::pid_in(&stage.path("pid")), old.pid());
    old.stop();
    while stage.told()[0] != "STOPPING=1" {}
}

/// systemd hands its sockets to the first process only; the next ones have them as well, also those
/// that no tunnel uses at that time.
#[test]
fn sockets_of_systemd_go_on_to_the_next_program() {
    let stage = Stage::new();
    let ((redis, socket), (spare, other)) = (tcp(), tcp());
    stage.write("far", "systemd:redis", "");
    let mut old =
        End::of(hand_over(&stage.launch(), "redis:spare", vec![socket.into(), other.into()]));
    stage.upgrade();
    says(&stage.ask(), 0, "replaced: ");
    let _new = stage.successor();
    assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    let serves = |addr: &Addr| {
        let encrypt = Launch::encrypt(&stage.path("key")).source(&any()).target(addr).start();
        encrypt.connect().expect_echo(b"hello");
    };
    serves(&redis);
    for (source, addr) in [("spare", &spare), ("redis", &redis)] {
        stage.write(source, &format!("systemd:{source}"), "");
        says(&stage.ask(), 0, &format!("reloaded: added {source}; removed "));
        serves(addr);
    }
}

/// The answer of another process at that path is no environment of ours.
#[test]
fn nothing_else_than_a_handover_socket_is_asked() {
    let stage = Stage::new();
    let path = stage.path("handover");
    let offer = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = offer.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        stream.write_all(b"PROGRAM=other\nLD_PRELOAD=/tmp/x.so\n").unwrap();
    });
    says(&stage.ask(), 1, "another version");
    answer.join().unwrap();
    let mut command = Command::new(binary());
    let output = command.args(["run", "--reload-or-replace"]).output().unwrap();
    says(&output, 2, "--handover");
}

/// The socket gives nothing to other users, also where every user may connect.
#[test]
fn another_user_is_told_nothing_and_reloads_nothing() {
    let stage = Stage::new();
    let mut end = stage.start();
    open_to_all(stage.dir.path());
    open_to_all(&stage.path("handover"));
    stage.write("far", "127.0.0.1:0", "timeout = '7s'");
    for question in ["w", "h"] {
        let script = format!(
            "alarm 60; $SIG{{PIPE}} = 'IGNORE'; $/ = undef; \
             my $there = IO::Socket::UNIX->new(Peer => shift) or die $!; \
             $there->autoflush; print $there '{question}'; print '[', scalar(<$there>) // '', ']'"
        );
        let output = of_another_user(&script, &stage.path("handover")).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "[]", "{output:?}");
    }
    assert_eq!(end.count("reloaded"), 0, "{}", end.program.tail());
    end.stop();
}

/// An answer as another user is not believed, with any content.
#[test]
fn a_process_of_another_user_is_not_asked() {
    let stage = Stage::new();
    let place = stage.path("open");
    fs::create_dir(&place).unwrap();
    open_to_all(stage.dir.path());
    open_to_all(&place);
    let path = place.join("handover");
    let script = "my $offer = IO::Socket::UNIX->new(Local => shift, Listen => 1) or die $!; \
                  alarm 60; $| = 1; print \"ready\\n\"; my $one = $offer->accept; sleep";
    let mut other = of_another_user(script, &path).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let mut command = Command::new(stage.path("knockpipe"));
    command.args(["run", "-c"]).arg(stage.path("far.toml")).arg("--reload-or-replace");
    let output = command.arg("--handover").arg(&path).output().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    says(&output, 1, "it is another user's: ");
}

/// The order of a unit of one's own: started as root, and another user afterwards.
#[test]
fn root_asks_a_process_that_became_the_user_of_the_file() {
    let stage = Stage::new();
    for path in [stage.dir.path().to_owned(), stage.path("key"), stage.path("notify")] {
        chown(path, Some(65534), Some(65534)).unwrap();
    }
    let file = fs::read_to_string(stage.path("far.toml")).unwrap();
    let file = file.replacen("[process]", "[process]\nuser = \"65534:65534\"", 1);
    fs::write(stage.path("far.toml"), file).unwrap();
    let mut end = stage.start();
    says(&stage.ask(), 0, "reloaded: nothing changed; 1 the same");
    end.stop();
}

/// Visitors that say nothing, for as long as they may, delay no other.
#[test]
fn silent_visitors_delay_no_other() {
    let stage = Stage::new();
    let mut old = stage.start();
    let silent: Vec<_> =
        (0..7).map(|_| UnixStream::connect(stage.path("handover")).unwrap()).collect();
    for _ in 0..2 {
        says(&stage.ask(), 0, "reloaded: nothing changed; 1 the same");
    }
    drop(silent);
    old.connect();
    old.stop();
}

/// A client that has come already is answered, and does not wait for a process that ends.
#[test]
fn a_visitor_during_a_drain_is_told_that_it_stops() {
    let stage = Stage::new();
    let mut end = stage.start();
    let encrypt = Launch::encrypt(&stage.path("key")).source(&any()).target(end.addr()).start();
    let mut live = encrypt.connect();
    live.expect_echo(b"before");
    let before = end.fds();
    let mut visitor = UnixStream::connect(stage.path("handover")).unwrap();
    eventually("it is taken in", || end.fds() > before);
    end.program.signal(Signal::SIGTERM);
    end.program.wait_line("it drains", |line| line.message().starts_with("stopping: "));
    visitor.write_all(b"h").unwrap();
    let answer = bounded("it is answered", move || {
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).unwrap();
        answer
    });
    assert!(answer.starts_with("-it is stopping"), "{answer}");
    drop(live);
    assert_eq!(end.program.exit_code(), 0, "{}", end.program.tail());
}
