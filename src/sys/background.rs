//! Goes to the background without `fork`, which is unsafe in a Rust process.
//!
//! The process that the user started runs this same program again as its child and waits. The child
//! does all the work; once it is ready it writes one byte to its standard output, which is a pipe
//! to the parent, leaves the terminal's session, and continues. The parent ends with 0 on that
//! byte, and with the child's own status when the child ended first.
//!
//! So "the command returned" means that ports are bound and the pid file is
//! written, errors appear where the user is looking, and Ctrl-C before that
//! moment stops both. Standard error stays open, as with spiped; the current
//! directory is kept, because paths on the command line may be relative to it.
//!
//! An [`orphan`] goes one step further: a process between the two ends at once, so that
//! it has the first process of the system, or a service manager, for its parent.

use std::env;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::unistd::{Pid, dup2_stdin, dup2_stdout, getpgid, getpgrp, setsid};

/// Variable with the parent's pid for the child, so that a value left over in some environment is
/// not mistaken for ours.
const MARK: &str = "KNOCKPIPE_BACKGROUND_PARENT";

/// Prefix of the pids of the waiting and the intermediate process, for a process that must be a
/// child of neither.
const ORPHAN: &str = "orphan";

/// Prefix of the pid of the waiting process, for the intermediate one.
const BETWEEN: &str = "between";

/// Pause before an orphan checks its parent again.
const ALMOST: Duration = Duration::from_millis(1);

/// Side of the process after [`detach`].
#[derive(Debug)]
pub enum Side {
    /// The process that the user started: it ends with this status.
    Parent(u8),
    /// The process that does the work.
    Child(Readiness),
}

/// The process that waits until everything is bound and written.
#[derive(Debug)]
pub struct Readiness(Waiting);

#[derive(Debug)]
enum Waiting {
    None,
    Parent,
}

/// Cause of a process that did not reach the background.
#[derive(Debug, thiserror::Error)]
pub enum BackgroundError {
    /// The end of process 1 ends its container, and the child with it.
    #[error("process 1 of a container cannot go to the background; add -F")]
    FirstProcess,
    /// The program could not be started again.
    #[error("cannot start in the background: {0}; stay in the foreground with -F")]
    Start(io::Error),
    /// The parent is gone, so the user has stopped us.
    #[error("stopped before it was ready: {0}; start it again")]
    ParentGone(io::Error),
    /// A system call refused.
    #[error("cannot leave the terminal: {0}; stay in the foreground with -F")]
    Leave(io::Error),
}

/// Splits into the waiting parent and the working child; to be called before anything is opened or
/// read. `arguments` are all of the process, its name first.
///
/// # Errors
/// [`BackgroundError`] when the child cannot be started.
pub fn detach(arguments: &[OsString]) -> Result<Side, BackgroundError> {
    if env::var(MARK).is_ok_and(|pid| pid == parent_id().to_string()) {
        return Ok(Side::Child(Readiness(Waiting::Parent)));
    }
    if std::process::id() == 1 {
        return Err(BackgroundError::FirstProcess);
    }
    let child = start_again(arguments).map_err(BackgroundError::Start)?;
    wait(child).map(Side::Parent).map_err(BackgroundError::Start)
}

/// Does the same as [`detach`] in a process that [`orphan`] started; `None` in any other. To be
/// called before anything is opened or read.
///
/// # Errors
/// [`BackgroundError`] when the orphan cannot be started.
pub fn adopted(arguments: &[OsString]) -> Result<Option<Side>, BackgroundError> {
    let Ok(mark) = env::var(MARK) else { return Ok(None) };
    let words: Vec<&str> = mark.split(' ').collect();
    match words[..] {
        // A value left over from elsewhere would name no process of our group.
        [BETWEEN, waiting] if is_of_our_group(waiting) => {
            let mark = format!("{ORPHAN} {waiting} {}", std::process::id());
            let mut command = again(arguments, &mark).map_err(BackgroundError::Start)?;
            command.spawn().map_err(BackgroundError::Start)?;
            Ok(Some(Side::Parent(0)))
        }
        [ORPHAN, waiting, between] if is_of_our_group(waiting) => {
            while parent_id().to_string() == between {
                sleep(ALMOST);
            }
            Ok(Some(Side::Child(Readiness(Waiting::Parent))))
        }
        _ => Ok(None),
    }
}

/// Starts this program again with additional variables, as a child of no process here, and waits
/// until it is ready. A service manager counts a process as its own only if it has no other parent.
/// Returns true if it became ready.
/// # Errors
/// [`BackgroundError`] when it cannot be started.
pub fn orphan(
    arguments: &[OsString],
    with: &[(String, String)],
    without: &[&str],
) -> Result<bool, BackgroundError> {
    let start = || {
        let mut command = again(arguments, &format!("{BETWEEN} {}", std::process::id()))?;
        command.envs(with.iter().map(|(name, value)| (name, value))).stdout(Stdio::piped());
        for name in without {
            command.env_remove(name);
        }
        let mut between = command.spawn()?;
        drop(command);
        let mut pipe = between.stdout.take().expect("it was started with a pipe");
        between.wait()?;
        Ok(pipe.read_exact(&mut [0]).is_ok())
    };
    start().map_err(BackgroundError::Start)
}

fn is_of_our_group(pid: &str) -> bool {
    let group = |pid: i32| getpgid(Some(Pid::from_raw(pid))).ok();
    pid.parse().ok().and_then(group) == Some(getpgrp())
}

impl Readiness {
    /// Makes the signal of a process that stays in the foreground: no parent waits.
    pub fn foreground() -> Self {
        Self(Waiting::None)
    }

    /// Signals that this process is ready. In the background this also leaves the session and
    /// closes standard input and output.
    ///
    /// # Errors
    /// [`BackgroundError`]; then the process must end.
    pub fn report_ready(self) -> Result<(), BackgroundError> {
        match self.0 {
            Waiting::None => Ok(()),
            Waiting::Parent => leave(),
        }
    }
}

/// Runs the same program with the same arguments and standard input.
fn start_again(arguments: &[OsString]) -> io::Result<Child> {
    let mark = std::process::id().to_string();
    again(arguments, &mark)?.stdout(Stdio::piped()).spawn()
}

fn again(arguments: &[OsString], mark: &str) -> io::Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    if let Some((name, rest)) = arguments.split_first() {
        command.arg0(name).args(rest);
    }
    command.env(MARK, mark);
    Ok(command)
}

/// Waits for the status to end with: 0 once the child is ready, its own if it ended.
fn wait(mut child: Child) -> io::Result<u8> {
    let mut pipe = child.stdout.take().expect("the child was started with a pipe");
    if pipe.read_exact(&mut [0]).is_ok() {
        return Ok(0);
    }
    let status = child.wait()?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn leave() -> Result<(), BackgroundError> {
    // Done before the byte: the parent's exit may close the terminal.
    setsid().map_err(|errno| BackgroundError::Leave(errno.into()))?;
    let mut stdout = io::stdout();
    stdout.write_all(&[1]).and_then(|()| stdout.flush()).map_err(BackgroundError::ParentGone)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(BackgroundError::Leave)?;
    dup2_stdin(&null).map_err(|errno| BackgroundError::Leave(errno.into()))?;
    dup2_stdout(&null).map_err(|errno| BackgroundError::Leave(errno.into()))
}
