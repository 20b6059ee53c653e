//! Keeper of a command: a process between this one and the command that it runs, so that neither
//! outlives the other, whatever ends it.
//!
//! The keeper is this program again, under a name of its own. It shares a socket with the process
//! that runs the command: what it reads there are signals to pass on, the end of the socket is the
//! end of that process (a kill included, which no handler sees), and the one byte that it writes
//! is the command's exit status. As a subreaper it also finds processes that left their parents
//! and their group, so that none is left behind. It needs no signals of its own and blocks them:
//! a service manager sends its own to all processes of a service.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Name under which the program is a keeper.
pub const NAME: &str = "knockpipe-keeper";

/// Byte that starts the command. It is no signal.
pub(super) const START: u8 = 0;

/// Time for what is left of the command to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The same when the process that ran it is gone.
const WITHOUT_PARENT: Duration = Duration::from_secs(5);

/// Pause between two looks at processes that are ending.
const LOOK: Duration = Duration::from_millis(5);

/// Runs as a keeper; `arguments` are its name, the shell and the command. Returns the status to end
/// with, which no process waits for.
pub fn run(arguments: &[OsString]) -> u8 {
    keep(arguments).unwrap_or(1)
}

fn keep(arguments: &[OsString]) -> io::Result<u8> {
    SigSet::all().thread_block()?;
    prctl::set_child_subreaper(true)?;
    let socket: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    let mut socket = UnixStream::from(socket);
    let mut byte = [0];
    if socket.read(&mut byte)? == 0 || byte != [START] {
        // The process ended before it was ready.
        return Ok(0);
    }
    let [_, shell, command] = arguments else { return Ok(2) };
    let status = match start(shell, command) {
        Ok(group) => {
            let heard = socket.try_clone()?;
            thread::Builder::new().spawn(move || pass_on(heard, group))?;
            let status = wait_for(group);
            end_rest(group);
            status
        }
        // As shells do for a command that cannot be run.
        Err(_) => 127,
    };
    socket.write_all(&[status])?;
    Ok(status)
}

/// Starts the command in a group of its own. The standard library gives it no blocked signals.
fn start(shell: &OsString, command: &OsString) -> io::Result<Pid> {
    let child =
        Command::new(shell).arg("-c").arg(command).stdin(Stdio::null()).process_group(0).spawn()?;
    let id = i32::try_from(child.id()).map_err(io::Error::other)?;
    Ok(Pid::from_raw(id))
}

/// Sends to the group what the socket says, and ends the group with the socket.
fn pass_on(mut socket: UnixStream, group: Pid) {
    let mut byte = [0];
    while let Ok(1..) = socket.read(&mut byte) {
        if let Ok(signal) = Signal::try_from(i32::from(byte[0])) {
            let _ = killpg(group, signal);
        }
    }
    let _ = killpg(group, Signal::SIGTERM);
    thread::sleep(WITHOUT_PARENT);
    let _ = killpg(group, Signal::SIGKILL);
}

/// Waits for the end of the command, and returns its exit status.
fn wait_for(command: Pid) -> u8 {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => {
                return u8::try_from(code).unwrap_or(1);
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                return u8::try_from(128 + signal as i32).unwrap_or(1);
            }
            // Another one that lost its parent, or an interruption.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return 1,
        }
    }
}

/// Ends what the command left behind.
fn end_rest(group: Pid) {
    let _ = killpg(group, Signal::SIGTERM);
    let end = Instant::now() + LAST_WORDS;
    while is_one_left() && Instant::now() < end {
        thread::sleep(LOOK);
    }
    let end = Instant::now() + LAST_WORDS;
    while is_one_left() && Instant::now() < end {
        let _ = killpg(group, Signal::SIGKILL);
        for child in children() {
            let _ = kill(child, Signal::SIGKILL);
        }
        thread::sleep(LOOK);
    }
}

/// Returns true if there is a child that has not ended.
fn is_one_left() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Returns all children, those that were adopted among them.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let all = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
    });
    all.map(Pid::from_raw).collect()
}
