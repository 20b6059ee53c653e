//! The thread that reads knocks: one for the process, of low priority.
//!
//! Anybody can send datagrams as fast as the network carries them. The work that they cause stays
//! on this thread, so in total it is bounded by one processor, and it gives way to the workers that
//! serve connections.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::setpriority_process;
use tokio::runtime::Handle;

use crate::tasks::start_runtime;

/// Niceness: its share of a processor that others want is a tenth of theirs.
const NICE: i32 = 10;

static THREAD: OnceLock<Handle> = OnceLock::new();

/// Prevents two of them.
static START: Mutex<()> = Mutex::new(());

/// Starts the thread, unless it runs already; it ends with the process.
///
/// # Errors
/// The system gives no more threads, memory or descriptors.
pub fn start() -> io::Result<()> {
    let _one_at_a_time = START.lock().unwrap_or_else(PoisonError::into_inner);
    if THREAD.get().is_none() {
        // Where it is forbidden the thread has the priority of the others.
        let give_way = || {
            let _ = setpriority_process(None, NICE);
        };
        let _ = THREAD.set(start_runtime("knocks".to_owned(), give_way)?);
    }
    Ok(())
}

/// Returns the runtime of the thread.
pub(super) fn runtime() -> &'static Handle {
    THREAD.get().expect("it was started while the service was prepared")
}
