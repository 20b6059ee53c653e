//! Threads with a runtime of their own: tasks that are spawned there stay there.

use std::future::pending;
use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};

/// Starts a thread with a runtime, which ends with the process. It does `first` before any task.
///
/// # Errors
/// The system gives no more threads, memory or descriptors.
pub fn start_runtime(name: String, first: impl FnOnce() + Send + 'static) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let serve = move || {
        first();
        runtime.block_on(pending::<()>());
    };
    thread::Builder::new().name(name).spawn(serve)?;
    Ok(handle)
}
