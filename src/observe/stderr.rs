//! Writes a line to standard error without the log: before its start, and after its end.
//!
//! No caller may have to wait for the reader, and the line must appear even if the system gives no
//! thread.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::write;
use tracing::Level;

use super::priority;

/// Time that the end of the process may wait for a reader of its last line.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that fit whenever a descriptor is writable: a pipe is writable once 4,096 bytes fit.
const AT_ONCE: usize = 1024;

/// Writes one line, which must be printable, with the program's name; for a second at most.
pub fn line(level: Level, text: &str) {
    let mark = if priority::is_journal() { priority::mark(level) } else { "" };
    let line = format!("{mark}knockpipe: {text}\n");
    let (done, written) = mpsc::channel();
    let theirs = line.clone();
    let write = move || {
        write_all(theirs.as_bytes());
        // The caller may have stopped waiting.
        let _ = done.send(());
    };
    match thread::Builder::new().spawn(write) {
        Ok(_) => drop(written.recv_timeout(PATIENCE)),
        Err(_) => write_in_time(line.as_bytes(), Instant::now() + PATIENCE),
    }
}

/// Waits for the reader. Does not use the standard library's handle: another thread that waits for
/// a reader may have locked it.
fn write_all(mut rest: &[u8]) {
    while !rest.is_empty() {
        match write(io::stderr(), rest) {
            Ok(length) => rest = &rest[length..],
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => return write_in_time(rest, Instant::now() + PATIENCE),
            // A closed standard error must not turn a failure into a panic.
            Err(_) => return,
        }
    }
}

/// Writes as much as possible at once, and waits only where nothing is accepted.
fn write_in_time(mut rest: &[u8], until: Instant) {
    while !rest.is_empty() {
        let stderr = io::stderr();
        let mut ready = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        let left = until.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        match poll(&mut ready, left) {
            Ok(0) => return,
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        }
        match write(&stderr, &rest[..rest.len().min(AT_ONCE)]) {
            Ok(length) => rest = &rest[length..],
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => return,
        }
    }
}
