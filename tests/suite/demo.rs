//! `knockpipe demo` shows what it announces, and leaves nothing behind however it ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::program::require;
use testkit::wait::bounded;
use testkit::{NEVER, Program, binary, eventually, proc};

/// Steps that every run must show, in this order.
const STEPS: [&str; 12] = [
    "key ",
    "target ",
    "decrypt ",
    "encrypt ",
    "a request goes through",
    "a wrong key is refused",
    "a tampered byte is refused",
    "a cut connection is refused",
    "round trip",
    "throughput",
    "knockpipe decrypt -s",
    "knockpipe encrypt -s",
];

/// A demo in a process group and with a directory for temporary files of its own, so that
/// everything it leaves behind can be found.
struct Demo {
    program: Program,
    lines: Receiver<String>,
    scratch: TempDir,
}

impl Demo {
    /// Starts it. `path` is where it may look for a redis-server; `None` is our own path.
    fn start(path: Option<&str>) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut command = Command::new(binary());
        command.arg("demo").env("TMPDIR", scratch.path()).current_dir(scratch.path());
        if let Some(path) = path {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        let mut program = Program::spawn("demo", &mut command);
        let stdout = BufReader::new(program.child().stdout.take().unwrap());
        let (send, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                // The receiver is gone once a test has seen enough.
                let _ = send.send(line);
            }
        });
        Self { program, lines, scratch }
    }

    /// Returns the lines up to the one that contains `wanted`.
    #[track_caller]
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut shown = Vec::new();
        loop {
            match self.lines.recv_timeout(NEVER) {
                Ok(line) => shown.push(line),
                Err(error) => panic!("no '{wanted}', {error}: {shown:?}\n{}", self.program.tail()),
            }
            if shown.last().is_some_and(|line| line.contains(wanted)) {
                return shown;
            }
        }
    }

    /// Checks that none of its processes lives, and none of its files is left.
    #[track_caller]
    fn leaves_nothing(self) {
        let leader = self.program.pid();
        eventually("no process of the demo is left", || proc::group(leader).is_empty());
        let left: Vec<_> = std::fs::read_dir(self.scratch.path()).unwrap().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if thread::panicking() {
            let leader = Pid::from_raw(i32::try_from(self.program.pid()).unwrap());
            // It fails when no process is left.
            let _ = killpg(leader, Signal::SIGKILL);
        }
    }
}

/// Runs a whole demo; it must show every step with `target` behind the tunnel.
fn shows_everything(path: Option<&str>, target: &str) {
    let start = Instant::now();
    let mut demo = Demo::start(path);
    let code = demo.program.exit_code();
    let shown: Vec<String> = demo.lines.iter().collect();
    println!("a demo with {target} takes {:.1?}:\n{}", start.elapsed(), shown.join("\n"));
    assert_eq!(code, 0, "{}", demo.program.tail());
    let mut rest = shown.iter();
    for step in STEPS {
        assert!(rest.any(|line| line.contains(step)), "'{step}' is not shown, or too late");
    }
    let named = shown.iter().find(|line| line.starts_with("target ")).unwrap();
    assert!(named.contains(target), "{named}");
    assert_eq!(demo.program.stderr(), "", "a demo that went well has no complaint");
    demo.leaves_nothing();
}

/// "Uses `redis-server` as target when one is installed."
#[test]
fn a_demo_with_redis_shows_each_step_and_leaves_nothing() {
    require("redis-server", "redis-server");
    shows_everything(None, "redis-server");
}

/// "... the embedded target otherwise."
#[test]
fn a_demo_without_redis_shows_each_step_and_leaves_nothing() {
    shows_everything(Some(""), "embedded");
}

/// A demo that is stopped takes its redis-server and its directory along, at the
/// very start as well as in the middle of a transfer.
#[test]
fn a_demo_that_is_stopped_leaves_nothing() {
    require("redis-server", "redis-server");
    let has_directory = |scratch: &Path| std::fs::read_dir(scratch).unwrap().next().is_some();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut demo = Demo::start(None);
        eventually("its directory is made", || has_directory(demo.scratch.path()));
        demo.program.signal(signal);
        ends_with_one_complaint(&mut demo);
        demo.leaves_nothing();
        for step in ["a request goes through", "round trip"] {
            let mut demo = Demo::start(None);
            demo.until(step);
            demo.program.signal(signal);
            ends_with_one_complaint(&mut demo);
            demo.leaves_nothing();
        }
    }
}

/// It did not show all, so it did not succeed, and it says why.
#[track_caller]
fn ends_with_one_complaint(demo: &mut Demo) {
    let code = demo.program.exit_code();
    let text = demo.program.stderr();
    assert_eq!(code, 1, "{text}");
    assert_eq!(text.lines().filter(|line| line.starts_with("knockpipe: ")).count(), 1, "{text}");
}

/// A reader of the first lines only (`| head`) does not keep it running.
#[test]
fn a_demo_that_lost_its_reader_leaves_nothing() {
    require("redis-server", "redis-server");
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.arg("demo").env("TMPDIR", scratch.path()).current_dir(scratch.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut program = Program::spawn("demo", &mut command);
    let mut stdout = program.child().stdout.take().unwrap();
    bounded("it shows something", move || stdout.read_exact(&mut [0; 4]).unwrap());
    let _ = program.exit_code();
    let (_, lines) = channel();
    Demo { program, lines, scratch }.leaves_nothing();
}
