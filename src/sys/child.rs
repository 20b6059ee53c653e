//! A command that lives as long as this process: `--run`.
//!
//! It is started by a keeper ([`super::keeper`]), which is made while the process has no sandbox:
//! the command is not confined by it. The keeper starts it once this process is ready.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};

use super::keeper::{NAME, START};
use super::privileges::User;

/// Variables that are this process's own: a password of the store, and what a service manager
/// told it.
const OWN_VARIABLES: [&str; 9] = [
    "KNOCKPIPE_GATE_CREDENTIALS",
    "KNOCKPIPE_LIGHTHOUSE_CREDENTIALS",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
];

/// Signals that mean nothing to this process and are passed on.
const PASSED_ON: [Signal; 3] = [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGWINCH];

/// Exit status of a command that has none: its keeper was killed, and it with that.
const NO_STATUS: u8 = 1;

/// Command of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Shell that reads it.
    pub shell: &'static str,
    /// Its text.
    pub text: OsString,
}

/// A command that was not started yet.
#[derive(Debug)]
pub struct Keeper(StdStream);

/// A command that runs.
#[derive(Debug)]
pub struct RunningCommand {
    keeper: UnixStream,
    /// Signals that are passed on.
    caught: [Caught; PASSED_ON.len()],
    /// Its exit status, once it has ended.
    status: Option<u8>,
}

/// A signal that is caught from now on.
#[derive(Debug)]
struct Caught {
    number: Signal,
    signals: tokio::signal::unix::Signal,
}

impl Keeper {
    /// Makes the keeper of a command, which `user` will run, if that is another one. Call it before
    /// the sandbox is entered.
    ///
    /// # Errors
    /// When the system gives no process or descriptors.
    pub fn start(command: &CommandLine, user: Option<&User>) -> io::Result<Self> {
        let (ours, keepers) = StdStream::pair()?;
        let mut keeper = Command::new(env::current_exe()?);
        keeper.arg0(NAME).args([OsStr::new(command.shell), &command.text]);
        keeper.stdin(Stdio::from(OwnedFd::from(keepers))).process_group(0);
        for name in OWN_VARIABLES {
            keeper.env_remove(name);
        }
        if let Some(user) = user {
            keeper.gid(user.gid().as_raw());
            if let Some(uid) = user.uid() {
                keeper.uid(uid.as_raw());
            }
        }
        // It ends with the socket, and nothing waits for it by its number.
        let _ = keeper.spawn()?;
        Ok(Self(ours))
    }

    /// Starts the command. Call it inside the runtime.
    ///
    /// # Errors
    /// When the keeper is gone, or the system refuses a handler.
    pub async fn run(self) -> io::Result<RunningCommand> {
        let [one, other, third] = PASSED_ON;
        let caught = [Caught::new(one)?, Caught::new(other)?, Caught::new(third)?];
        self.0.set_nonblocking(true)?;
        let mut keeper = UnixStream::from_std(self.0)?;
        keeper.write_all(&[START]).await?;
        Ok(RunningCommand { keeper, caught, status: None })
    }
}

impl RunningCommand {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if let Ok(number) = u8::try_from(signal as i32) {
            // A keeper that is gone has taken it along.
            let _ = self.keeper.try_write(&[number]);
        }
    }

    /// Waits for its end, and returns its exit status. Signals that mean nothing to this process
    /// are passed on meanwhile. Cancel safe.
    pub async fn ended(&mut self) -> u8 {
        if let Some(status) = self.status {
            return status;
        }
        let status = loop {
            let [one, other, third] = &mut self.caught;
            let passed = tokio::select! {
                status = self.keeper.read_u8() => break status.unwrap_or(NO_STATUS),
                signal = one.next() => signal,
                signal = other.next() => signal,
                signal = third.next() => signal,
            };
            self.signal(passed);
        };
        self.status = Some(status);
        status
    }
}

impl Caught {
    fn new(number: Signal) -> io::Result<Self> {
        let signals = signal(SignalKind::from_raw(number as i32))?;
        Ok(Self { number, signals })
    }

    async fn next(&mut self) -> Signal {
        // It ends with the runtime only.
        let _ = self.signals.recv().await;
        self.number
    }
}
