//! Work of a process that must not fail: blocking calls, and tasks that never end.
//!
//! ```text
//!   threads     threads for work that blocks; a lack of them is an error or a wait
//!   restarting  tasks that begin again after a panic
//!   runtimes    threads that serve tasks of their own
//! ```
//!
//! tokio's own way for work that blocks panics when the system gives no thread, and
//! a task that panicked is gone. Both are refused here: nothing else in this program
//! calls `spawn_blocking` (`tests/floors.rs`), and no task that is needed for ever is
//! started without [`restarting`].

mod restarting;
mod runtimes;
mod threads;

pub use restarting::{Panicked, begin_again, caught, restarting};
pub use runtimes::start_runtime;
pub use threads::{Undone, blocking, start};
