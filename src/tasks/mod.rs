//! Work of a process that must not fail: blocking calls, and tasks that never end.
//!
//! ```text
//!   threads   threads for work that blocks; a lack of them is an error or a wait
//!   lasting   tasks that are restarted after a panic
//! ```
//!
//! tokio's own function for blocking work panics when the system gives no thread, and a task that
//! panicked is gone. Both are avoided: no other part of this program calls `spawn_blocking`
//! (`tests/floors.rs`), and no task that must never end is started without [`lasting`].

mod lasting;
mod threads;

pub use lasting::{Panicked, begin_again, caught, lasting};
pub use threads::{Undone, blocking, start};
