//! A process that is asked at its handover socket, as the units of the package do it:
//! to read its file again, or to make room for the program that an upgrade brought.
//! The service manager is a socket of the test.

use crate::common;

use std::fs;
use std::os::unix::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use common::file::decrypt_table;
use common::proc::Background;
use common::program::install;
use common::wait::bounded;
use common::{Addr, End, Launch, Program, Target, any, binary, keygen, proc};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::systemd::{Manager, hand_over, tcp};

/// A program of its own, a file for it, and whoever watches it.
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

    /// The service, with a watchdog.
    fn start(&self) -> End {
        let mut command = self.launch().command();
        command.env("NOTIFY_SOCKET", self.path("notify")).env("FDSTORE", "1");
        command.env("WATCHDOG_USEC", "2000000");
        let end = End::of(Program::spawn("service", &mut command));
        assert_eq!(self.manager.next()[0], "READY=1");
        end
    }

    /// Another file in the place of the program, as a package puts it there.
    fn upgrade(&self) {
        install(&binary(), &self.path("next"));
        fs::rename(self.path("next"), self.path("knockpipe")).unwrap();
    }

    /// The control process of a service, which hears nothing from a manager.
    fn ask(&self) -> Output {
        let mut command = self.launch().args(["--reload-or-replace"]).command();
        let log = fs::File::create(self.path("log")).unwrap();
        command.stdout(fs::File::create(self.path("said")).unwrap()).stderr(log);
        let mut child = command.spawn().unwrap();
        let status = bounded("it tells what came of it", move || child.wait().unwrap());
        let read = |name| fs::read(self.path(name)).unwrap();
        Output { status, stdout: read("said"), stderr: read("log") }
    }

    /// The one whose pid the pid file has. Dropping it ends it.
    fn successor(&self) -> Background {
        Background::of(&self.path("pid"))
    }

    /// The next message that is no sign of life.
    fn told(&self) -> Vec<String> {
        loop {
            let lines = self.manager.next();
            if lines != ["WATCHDOG=1"] {
                return lines;
            }
        }
    }
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
fn the_same_program_reads_its_file_again_and_whoever_asks_hears_what_came_of_it() {
    let stage = Stage::new();
    let text = says(&stage.ask(), 1, "no process listens at");
    assert!(
        text.contains("; one that was started without --handover") && text.lines().count() == 1
    );
    let mut end = stage.start();
    says(&stage.ask(), 0, "reloaded: nothing changed; 1 the same");
    stage.write("far", "127.0.0.1:0", "timeout = 7");
    says(&stage.ask(), 0, "reloaded: changed far (timeout)");
    stage.write("far", "127.0.0.1:0", "timeuot = 7");
    let text = says(&stage.ask(), 1, "not reloaded: ");
    assert!(text.contains("did you mean 'timeout'") && text.lines().count() == 1, "{text}");
    end.connect();
    assert_eq!(proc::pid_in(&stage.path("pid")), end.pid());
    end.stop();
}

/// The new one is no child of whoever asked, hears what the manager told the one before,
/// and is the main process; that one finishes its sessions, also while all are stopped.
#[test]
fn another_program_takes_the_place_with_the_manager_too() {
    let stage = Stage::new();
    let mut old = stage.start();
    let encrypt = Launch::encrypt(&stage.path("key")).source(&any()).target(old.addr()).start();
    let mut live = encrypt.connect();
    live.expect_echo(b"before");
    stage.upgrade();
    says(&stage.ask(), 0, "replaced: ");

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
    old.program.wait_line("told", |line| line.message().starts_with("finishing sessions already"));
    live.expect_echo(b"after");
    drop(live);
    assert_eq!(old.program.exit_code(), 0, "{}", old.program.tail());
    // From here on a sign of life is the new one's.
    while stage.manager.next() != ["WATCHDOG=1"] {}
    while stage.manager.next() != ["WATCHDOG=1"] {}
    new.stop();
    assert_eq!(stage.told()[0], "STOPPING=1");
}

#[test]
fn a_second_signal_ends_one_that_was_replaced() {
    let stage = Stage::new();
    let mut old = stage.start();
    let encrypt = Launch::encrypt(&stage.path("key")).source(&any()).target(old.addr()).start();
    let mut live = encrypt.connect();
    live.expect_echo(b"before");
    stage.upgrade();
    says(&stage.ask(), 0, "replaced: ");
    let _new = stage.successor();
    for said in ["finishing sessions already", "second signal"] {
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

/// systemd hands its sockets to the first process only; the next ones have them as well,
/// also those that no tunnel uses at that time.
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

/// A process of another user at that path is not asked, and what is in its answer is
/// no environment of ours.
#[test]
fn nothing_else_than_a_handover_socket_is_asked() {
    let stage = Stage::new();
    let path = stage.path("handover");
    let offer = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answer = std::thread::spawn(move || {
        use std::io::{Read, Write};
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
