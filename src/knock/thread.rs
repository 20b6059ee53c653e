//! The thread that reads knocks: one for the process, of low priority.
//!
//! Anybody can send datagrams as fast as the network carries them. The work that they cause stays
//! on this thread, so in total it is bounded by one processor, and it gives way to the workers that
//! serve connections.

use std::future::pending;
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use rustix::process::setpriority_process;
use tokio::runtime::{Builder, Handle};

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
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let serve = move || {
            // Where it is forbidden the thread has the priority of the others.
            let _ = setpriority_process(None, NICE);
            runtime.block_on(pending::<()>());
        };
        thread::Builder::new().name("knocks".to_owned()).spawn(serve)?;
        let _ = THREAD.set(handle);
    }
    Ok(())
}

/// Returns the runtime of the thread.
pub(super) fn runtime() -> &'static Handle {
    THREAD.get().expect("it was started while the service was prepared")
}
