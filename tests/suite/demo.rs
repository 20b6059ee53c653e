//! `knockpipe demo` shows what it announces, and leaves nothing behind however it ends.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Instant;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::program::require;
use testkit::tree::read;
use testkit::wait::bounded;
use testkit::{NEVER, Program, binary, eventually, proc};

/// Steps that every run must show, in this order.
const STEPS: [&str; 13] = [
    "key ",
    "target ",
    "decrypt ",
    "encrypt ",
    "a request goes through",
    "a wrong key is refused",
    "a tampered byte is refused",
    "a cut connection is refused",
    "a knock opens a gate",
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
    /// Starts a demo that looks for redis-server in `path`, or in ours.
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

    /// Checks that no process and no file of it is left.
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
    assert!(!shown.iter().any(|line| line.contains('\u{1b}')), "colours in a pipe");
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

/// Gives what a whole demo writes to a terminal of 80 columns.
fn at_a_terminal(variables: &[(&str, &str)]) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    let terminal = openpty(Some(&size), None).unwrap();
    let mut command = Command::new(binary());
    command.arg("demo").env("TMPDIR", scratch.path()).env("TERM", "xterm-256color");
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).stdin(Stdio::null());
    let mut program = Program::spawn("demo", command.stdout(Stdio::from(terminal.slave)));
    // It holds a copy of the terminal's other side.
    drop(command);
    let master = File::from(terminal.master);
    let shown = bounded("the demo ends", move || {
        let mut shown = vec![];
        // Once the other side is closed, reading is an error.
        let _ = { &master }.read_to_end(&mut shown);
        shown
    });
    assert_eq!(program.exit_code(), 0, "{}", program.tail());
    String::from_utf8(shown).unwrap().replace("\r\n", "\n")
}

/// `text` without escape sequences of colours.
fn without_colours(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').unwrap().1)
}

#[test]
fn at_a_terminal_results_are_coloured_and_fit() {
    let shown = at_a_terminal(&[]);
    assert!(shown.contains("\u{1b}[32mok\u{1b}[0m"), "{shown:?}");
    let plain = without_colours(&shown);
    let steps: Vec<&str> = plain.lines().filter(|line| line.starts_with("ok ")).collect();
    assert_eq!(steps.len(), 5, "{plain}");
    for line in plain.lines() {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn no_color_is_honoured_at_a_terminal() {
    let shown = at_a_terminal(&[("NO_COLOR", "1")]);
    assert!(!shown.contains('\u{1b}') && shown.contains("a wrong key is refused"), "{shown:?}");
}

/// `text` with one letter for each number and key id, and one blank between words:
/// what two runs of the demo have in common.
fn without_numbers(text: &str) -> String {
    let is_number = |word: &str| {
        word.parse::<f64>().is_ok()
            || (word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    let mut words: Vec<String> = vec![String::new()];
    for c in text.split_whitespace().collect::<Vec<_>>().join(" ").chars() {
        if c.is_ascii_alphanumeric() || c == '.' {
            words.last_mut().unwrap().push(c);
        } else {
            words.extend([c.to_string(), String::new()]);
        }
    }
    words.iter().map(|word| if is_number(word) { "N" } else { word }).collect()
}

#[test]
fn the_picture_of_the_demo_is_what_the_script_makes_of_it() {
    require("redis-server", "redis-server");
    let output = Command::new("scripts/demo-svg.sh").arg(binary()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (made, kept) = (String::from_utf8(output.stdout).unwrap(), read("docs/demo.svg"));
    let wanted = "run 'scripts/demo-svg.sh target/release/knockpipe >docs/demo.svg'";
    assert_eq!(without_numbers(&kept), without_numbers(&made), "{wanted}");
    assert!(kept.contains("a wrong key is refused") && kept.contains("redis-server"));
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

/// Checks that it fails with one line of reason, since it did not show all.
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
