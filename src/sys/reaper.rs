//! Reaps ended processes, as process 1 of a container has to.
//!
//! A process that loses its parent becomes a child of process 1, and stays in the process table
//! until process 1 reads its status. In a process with another number nothing happens.

use std::io;
use std::sync::Arc;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Mutex;

use crate::tasks::restarting;

/// Reaps orphans from now on where this is process 1. Call it inside the runtime.
/// The process must have no children that another part of it waits for.
///
/// # Errors
/// When the system refuses a handler.
pub fn start() -> io::Result<()> {
    if std::process::id() != 1 {
        return Ok(());
    }
    let ended = Arc::new(Mutex::new(signal(SignalKind::child())?));
    tokio::spawn(restarting("reaping orphans", move || reap_all(Arc::clone(&ended))));
    Ok(())
}

async fn reap_all(ended: Arc<Mutex<Signal>>) {
    let mut ended = ended.lock().await;
    loop {
        // Also before the first signal: some may have ended already.
        reap();
        if ended.recv().await.is_none() {
            return;
        }
    }
}

/// Reaps all that have ended; one signal may stand for several of them.
fn reap() {
    let any = Pid::from_raw(-1);
    while let Ok(status) = waitpid(any, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}
