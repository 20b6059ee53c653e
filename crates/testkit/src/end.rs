//! Starts the program under test as a user does.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::address::Addr;
use crate::log::Line;
use crate::proc;
use crate::program::Program;
use crate::wait::{NEVER, eventually_within};
use crate::wire::Wire;

/// Returns the path of the program under test: the one that Cargo names when it runs a test
/// program, or else the one beside a test program that was started directly (DIR/deps/TEST and
/// DIR/knockpipe).
#[track_caller]
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("CARGO_BIN_EXE_knockpipe") {
        return PathBuf::from(path);
    }
    let test = std::env::current_exe().expect("a running program has a path");
    let mut beside = test.ancestors().skip(1).take(2).map(|dir| dir.join("knockpipe"));
    beside.find(|path| path.is_file()).unwrap_or_else(|| {
        panic!("no knockpipe beside {}; build it with: cargo build", test.display())
    })
}

/// Makes a key file `dir/name` with `knockpipe keygen`.
#[track_caller]
pub fn keygen(dir: &Path, name: &str) -> PathBuf {
    let file = dir.join(name);
    let output = Command::new(binary()).arg("keygen").arg(&file).output().expect("it starts");
    assert!(output.status.success(), "keygen: {}", String::from_utf8_lossy(&output.stderr));
    file
}

/// Returns the output of `knockpipe key-id` for a key file.
#[track_caller]
pub fn key_id(file: &Path) -> String {
    let output = Command::new(binary()).arg("key-id").arg(file).output().expect("it starts");
    assert!(output.status.success(), "key-id: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

/// The command line with which an end is started.
#[derive(Clone)]
pub struct Launch {
    binary: PathBuf,
    mode: &'static str,
    args: Vec<OsString>,
    prelude: String,
    format: &'static str,
}

impl Launch {
    pub fn encrypt(key: &Path) -> Self {
        Self::new("encrypt").args(["-k"]).args([key])
    }

    pub fn decrypt(key: &Path) -> Self {
        Self::new("decrypt").args(["-k"]).args([key])
    }

    /// Starts without a key; give it with [`Launch::args`].
    pub fn new(mode: &'static str) -> Self {
        Self { binary: binary(), mode, args: Vec::new(), prelude: String::new(), format: "json" }
    }

    pub fn source(self, addr: &Addr) -> Self {
        self.args(["-s", &addr.to_string()])
    }

    pub fn target(self, addr: &Addr) -> Self {
        self.args(["-t", &addr.to_string()])
    }

    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Uses another build of the program.
    pub fn binary(mut self, binary: &Path) -> Self {
        self.binary = binary.to_owned();
        self
    }

    /// Limits open files, soft and hard.
    pub fn nofile(self, limit: u32) -> Self {
        self.prelude(&format!("ulimit -n {limit};"))
    }

    /// Adds commands that a shell executes before it becomes the program.
    pub fn prelude(mut self, shell: &str) -> Self {
        self.prelude += shell;
        self
    }

    /// Logs as text. Only for tests of the text: everything else that reads the log needs JSON.
    pub fn text_log(mut self) -> Self {
        self.format = "text";
        self
    }

    /// Returns the command line, without input and output.
    pub fn command(&self) -> Command {
        let mut command = if self.prelude.is_empty() {
            Command::new(&self.binary)
        } else {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{} exec \"$0\" \"$@\"", self.prelude)]);
            shell.arg(&self.binary);
            shell
        };
        command.arg(self.mode);
        if self.mode != "run" {
            // With `run` the file sets it.
            command.args(["--log-format", self.format]);
        }
        command.args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Starts without waiting for anything.
    pub fn spawn(&self) -> Program {
        Program::spawn(self.mode, &mut self.command())
    }

    /// Starts, and waits until the end says that it is ready.
    #[track_caller]
    pub fn start(&self) -> End {
        End::of(self.spawn())
    }
}

/// An end that listens.
pub struct End {
    pub program: Program,
    addresses: Vec<Addr>,
}

impl End {
    /// Waits until `program` says that it is ready.
    #[track_caller]
    pub fn of(program: Program) -> Self {
        program.wait_line("ready", |line| line.is("ready"));
        let addresses: Vec<Addr> = program
            .log()
            .iter()
            .filter(|line| line.is("listening"))
            .filter_map(|line| Addr::parse(&line.field("address")?))
            .collect();
        assert!(!addresses.is_empty(), "ready without a listening line:\n{}", program.tail());
        Self { program, addresses }
    }

    /// Returns the first address that it listens on.
    pub fn addr(&self) -> &Addr {
        &self.addresses[0]
    }

    pub fn addrs(&self) -> &[Addr] {
        &self.addresses
    }

    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    #[track_caller]
    pub fn connect(&self) -> Wire {
        Wire::connect(self.addr()).unwrap_or_else(|e| panic!("cannot reach {}: {e}", self.addr()))
    }

    /// Returns the log lines of finished sessions.
    pub fn closed(&self) -> Vec<Line> {
        self.program.log().into_iter().filter(|line| line.is("closed")).collect()
    }

    /// Waits for a `closed` line with this reason.
    #[track_caller]
    pub fn wait_closed(&self, reason: &str) -> Line {
        let what = format!("closed reason={reason}");
        self.program.wait_line(&what, |line| line.is("closed") && line.has("reason", reason))
    }

    /// Counts the connections that ended before their peer was authenticated, by the log.
    pub fn strangers(&self) -> u64 {
        self.program.log().iter().map(Line::strangers).sum()
    }

    /// Counts those of them that ended for `reason`.
    pub fn refused(&self, reason: &str) -> u64 {
        self.program.log().iter().map(|line| line.refused(reason)).sum()
    }

    /// Waits for a line that counts a connection refused for `reason`.
    #[track_caller]
    pub fn wait_refused(&self, reason: &str) -> Line {
        let what = format!("refused reasons={reason}");
        self.program.wait_line(&what, |line| line.refused(reason) > 0)
    }

    /// Counts the lines with this message, among those that were logged so far.
    pub fn count(&self, message: &str) -> usize {
        self.program.log().iter().filter(|line| line.message().starts_with(message)).count()
    }

    /// Waits until an end has checked a target that does not listen, as it does once at the
    /// start: from then on the number of its descriptors is constant.
    #[track_caller]
    pub fn wait_looked(&self) {
        let what = "target unreachable at start";
        self.program.wait_line(what, |line| line.message().starts_with(what));
    }

    /// Counts the open descriptors.
    pub fn fds(&self) -> usize {
        proc::fds(self.pid())
    }

    /// Waits until no more than `baseline` descriptors are open.
    #[track_caller]
    pub fn wait_fds(&self, baseline: usize) {
        let what = format!("descriptors of {} return to {baseline}", self.pid());
        eventually_within(NEVER, &what, || self.fds() <= baseline);
    }

    pub fn terminate(&self) {
        self.program.signal(Signal::SIGTERM);
    }

    /// Waits until connections are refused.
    #[track_caller]
    pub fn wait_refusing(&self) {
        for addr in &self.addresses {
            eventually_within(NEVER, "the listener is closed", || Wire::connect(addr).is_err());
        }
    }

    /// Sends SIGTERM and waits for a clean end; panics on any other exit code than 0.
    #[track_caller]
    pub fn stop(&mut self) {
        self.terminate();
        let code = self.program.exit_code();
        assert_eq!(code, 0, "a drained end exits 0; its log:\n{}", self.program.tail());
    }
}
