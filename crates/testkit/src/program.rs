//! A child process with collected stderr that never outlives its test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::data::Sum;
use crate::log::Line;
use crate::proc::stat_in;
use crate::wait::{NEVER, bounded, eventually, poll};

/// A running program: stderr is collected line by line, the process is killed on drop.
pub struct Program {
    name: String,
    child: Child,
    output: Arc<Output>,
    readers: Vec<JoinHandle<()>>,
}

/// The program's stderr so far.
#[derive(Default)]
struct Output {
    state: Mutex<Written>,
    changed: Condvar,
}

#[derive(Default)]
struct Written {
    lines: Vec<Vec<u8>>,
    ended: bool,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, Written> {
        self.state.lock().expect("no reader panics while it holds the lock")
    }

    fn collect(&self, from: impl Read) {
        let mut from = BufReader::new(from);
        loop {
            let mut line = Vec::new();
            let more = from.read_until(b'\n', &mut line).is_ok_and(|n| n > 0);
            if line.last() == Some(&b'\n') {
                line.pop();
            }
            let mut state = self.lock();
            if more {
                state.lines.push(line);
            } else {
                state.ended = true;
            }
            self.changed.notify_all();
            if !more {
                return;
            }
        }
    }
}

impl Program {
    /// Starts `command` with its stderr collected; panics with the name when it cannot start.
    pub fn spawn(name: &str, command: &mut Command) -> Self {
        // A developer's own settings must not affect a test.
        let given: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
        for (name, _) in std::env::vars_os().filter(|(name, _)| !given.contains(name)) {
            if name.as_encoded_bytes().starts_with(b"KNOCKPIPE_") {
                command.env_remove(name);
            }
        }
        command.stderr(Stdio::piped());
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let stderr = child.stderr.take().expect("stderr is piped");
        let output = Arc::new(Output::default());
        let theirs = Arc::clone(&output);
        let reader = std::thread::spawn(move || theirs.collect(stderr));
        Self { name: name.to_owned(), child, output, readers: vec![reader] }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the child process, for its stdin and stdout where they were piped.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Reads the child's piped stdout to its end.
    #[track_caller]
    pub fn stdout_sum(&mut self) -> Sum {
        let mut stdout = self.child.stdout.take().expect("stdout is piped");
        let what = format!("{} ends its output", self.name);
        bounded(&what, move || Sum::of(&mut stdout).expect("a pipe can be read"))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid fits"));
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
        if signal == Signal::SIGSTOP {
            // Each thread stops by itself.
            eventually("it stands still", || self.is_stopped());
        }
    }

    fn is_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        tasks.flatten().all(|task| stat_in(&task.path()).is_some_and(|stat| stat.state == "T"))
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the child is ours").is_none()
    }

    /// Waits for the end of the process; panics when it does not end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = poll(NEVER, || self.child.try_wait().expect("the child is ours"));
        let Some(status) = status else {
            panic!("{} does not end; its log:\n{}", self.name, self.tail());
        };
        // Its stderr may still have its last lines.
        for reader in self.readers.drain(..) {
            reader.join().expect("the reader does not panic");
        }
        status
    }

    /// Waits for the end and returns the exit code; panics on a death by signal.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        let status = self.wait();
        status.code().unwrap_or_else(|| panic!("{} died: {status}", self.name))
    }

    /// Returns all lines so far, unparsed.
    pub fn raw_lines(&self) -> Vec<Vec<u8>> {
        self.output.lock().lines.clone()
    }

    /// Returns all of stderr so far, as text.
    pub fn stderr(&self) -> String {
        self.raw_lines()
            .iter()
            .fold(String::new(), |all, l| all + &String::from_utf8_lossy(l) + "\n")
    }

    /// Returns all JSON lines so far.
    pub fn log(&self) -> Vec<Line> {
        self.output.lock().lines.iter().filter_map(|raw| Line::parse(raw)).collect()
    }

    /// Counts the lines that contain `piece`; cheap enough for a log of 100,000 lines.
    pub fn count_containing(&self, piece: &[u8]) -> usize {
        let has = |raw: &&Vec<u8>| raw.windows(piece.len()).any(|window| window == piece);
        self.output.lock().lines.iter().filter(has).count()
    }

    /// Waits for a line that `wanted` accepts; panics with the log when none comes.
    #[track_caller]
    pub fn wait_line(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        self.wait_line_within(NEVER, wanted).unwrap_or_else(|| {
            panic!("{} never said '{what}'; its log:\n{}", self.name, self.tail())
        })
    }

    /// Returns the first line that `wanted` accepts, or `None` after `deadline` or at the end of
    /// the program.
    pub fn wait_line_within(
        &self,
        deadline: Duration,
        wanted: impl Fn(&Line) -> bool,
    ) -> Option<Line> {
        let end = Instant::now() + deadline;
        let mut seen = 0;
        let mut state = self.output.lock();
        loop {
            while let Some(raw) = state.lines.get(seen) {
                seen += 1;
                if let Some(line) = Line::parse(raw).filter(|line| wanted(line)) {
                    return Some(line);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self.output.changed.wait_timeout(state, left).expect("no reader panics").0;
        }
    }

    /// Returns the last lines of the log, for a failure message.
    pub fn tail(&self) -> String {
        let lines = self.raw_lines();
        let start = lines.len().saturating_sub(30);
        lines[start..].iter().fold(String::new(), |all, l| {
            all + "    " + &self.name + ": " + &String::from_utf8_lossy(l) + "\n"
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
        // Both fail only when the process is already gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that `program` can be found; panics with the package to install when it cannot.
#[track_caller]
pub fn require(program: &str, package: &str) {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = path.split(':').any(|dir| std::path::Path::new(dir).join(program).is_file());
    assert!(found, "this test needs {program}; install it with: apt-get install {package}");
}

/// Copies a program, or a script, to the place where it is executed. A separate process does so: a
/// file that this process has open for writing may also be open in a child that another test starts
/// at this moment, and then the system refuses to execute it.
#[track_caller]
pub fn install(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("--preserve=mode").args([from, to]).status();
    assert!(copied.expect("cp starts").success(), "cannot copy {}", from.display());
}
