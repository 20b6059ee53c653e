//! Processes that run a configuration file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::address::Addr;
use crate::end::binary;
use crate::log::Line;
use crate::program::Program;
use crate::wait::eventually;

/// A running `knockpipe run -c FILE`.
pub struct Service {
    pub program: Program,
    file: PathBuf,
    process: String,
}

impl Service {
    /// Writes `text` to `dir/name` and runs it; returns when its tunnels are ready.
    #[track_caller]
    pub fn start(dir: &Path, name: &str, text: &str) -> Self {
        Self::start_with(dir, name, "", text)
    }

    /// Starts with further lines for `[process]`.
    #[track_caller]
    pub fn start_with(dir: &Path, name: &str, process: &str, text: &str) -> Self {
        let process = format!("[process]\nlog-format = \"json\"\n{process}\n");
        let file = dir.join(name);
        fs::write(&file, format!("{process}{text}")).expect("the directory can be written");
        let program = run(&file);
        Self { program, file, process }
    }

    /// Starts one more process with the same file.
    #[track_caller]
    pub fn again(&self) -> Self {
        let file = self.file.clone();
        let process = self.process.clone();
        Self { program: run(&file), file, process }
    }

    /// Returns the address of a tunnel, by the newest line about it.
    #[track_caller]
    pub fn addr(&self, tunnel: &str) -> Addr {
        let log = self.program.log();
        let line = log.iter().rfind(|line| line.is("listening") && line.has("tunnel", tunnel));
        let address = line.and_then(|line| line.field("address"));
        address
            .and_then(|address| Addr::parse(&address))
            .unwrap_or_else(|| panic!("{tunnel} does not listen:\n{}", self.program.tail()))
    }

    /// Replaces the file's text.
    pub fn write(&self, text: &str) {
        let text = format!("{}{text}", self.process);
        fs::write(&self.file, text).expect("the file can be written");
    }

    /// Replaces the file's text and waits for the line `reloaded`; panics when it is refused.
    #[track_caller]
    pub fn reload(&self, text: &str) -> Line {
        self.answer_to(text, "reloaded")
    }

    /// Replaces the file's text and waits for the line `cannot reload`; panics when it is accepted.
    #[track_caller]
    pub fn reload_fails(&self, text: &str) -> Line {
        self.answer_to(text, "cannot reload")
    }

    #[track_caller]
    fn answer_to(&self, text: &str, expected: &str) -> Line {
        self.write(text);
        let line = self.hang_up();
        assert!(line.is(expected), "not '{expected}': {}", line.text());
        line
    }

    /// Sends SIGHUP and returns the line that answers it.
    #[track_caller]
    fn hang_up(&self) -> Line {
        let is_answer = |line: &&Line| line.is("reloaded") || line.is("cannot reload");
        let before = self.program.log().iter().filter(is_answer).count();
        self.program.signal(Signal::SIGHUP);
        eventually("the reload is answered", || {
            self.program.log().iter().filter(is_answer).count() > before
        });
        self.program.log().into_iter().rfind(|line| is_answer(&line)).expect("it was there")
    }

    /// Returns the lines of one tunnel's finished sessions.
    pub fn closed(&self, tunnel: &str) -> Vec<Line> {
        let of = |line: &Line| line.is("closed") && line.has("tunnel", tunnel);
        self.program.log().into_iter().filter(of).collect()
    }

    /// Sends SIGTERM and waits for a clean end.
    #[track_caller]
    pub fn stop(&mut self) {
        self.program.signal(Signal::SIGTERM);
        assert_eq!(self.program.exit_code(), 0, "{}", self.program.tail());
    }
}

#[track_caller]
fn run(file: &Path) -> Program {
    let mut command = Command::new(binary());
    command.arg("run").arg("-c").arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    let program = Program::spawn(&file.display().to_string(), &mut command);
    let tunnels = fs::read_to_string(file).expect("it was written").matches("[tunnels.").count();
    eventually("all tunnels are ready", || {
        program.log().iter().filter(|line| line.is("ready")).count() >= tunnels
    });
    program
}

/// Returns the table of an encrypt end on a port of the system's choice.
pub fn encrypt_table(name: &str, target: &Addr, key: &str, more: &str) -> String {
    format!(
        "[tunnels.{name}]\nmode = \"encrypt\"\nsource = \"127.0.0.1:0\"\ntarget = \"{target}\"\n\
         key = {key}\n{more}\n"
    )
}

/// Returns the table of a decrypt end on a port of the system's choice.
pub fn decrypt_table(name: &str, target: &Addr, key: &str, more: &str) -> String {
    encrypt_table(name, target, key, more).replace("\"encrypt\"", "\"decrypt\"")
}
